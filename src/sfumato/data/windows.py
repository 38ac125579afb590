"""Long text → windows of at most `most` characters, cut at white space.

hard     where a window holds no white space it ends between two characters, never before one that joins the one
         before it: a mark, a joiner, a variation selector, a tone of skin, a vowel or a tail of Hangul
law      the windows joined, by a space where they were cut at one, are the cleaned text
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

from sfumato.data.captions import clean

BLOCK = 2**16  # characters that are gathered before they are cut
_JOINS = {"\u200d", *map(chr, range(0x1F3FB, 0x1F400)), *map(chr, range(0x1160, 0x1200))}


def cuts(text: str, most: int, last: bool = True) -> Iterator[tuple[int, int]]:
    """The windows as (start, end) in `text`; without `last` an end that fits into one is left, for more may come."""
    start = len(text) - len(text.lstrip())
    while start < len(text):
        head, fits = _head(text, start, most)
        if fits:
            if last:
                yield start, len(text)
            return
        kept = head.rstrip()
        if len(kept) == len(head):
            *before, _ = head.rsplit(None, 1)
            kept = before[0] if before else head[: _hard(head, most)]
        yield start, start + len(kept)
        start += len(kept)
        while start < len(text) and text[start].isspace():
            start += 1


def _head(text: str, start: int, most: int) -> tuple[str, bool]:
    """What begins there and has most + 1 characters, a run of white space counted as one; or the rest, which fits."""
    end = start + most + 1
    while True:
        head = text[start:end]
        lacking = most + 1 - len(" ".join(head.split())) - head[-1].isspace()
        if lacking <= 0 or end >= len(text):
            return head, lacking > 0
        end += lacking


def _hard(head: str, most: int) -> int:
    """Where to cut a text without white space: at `most`, or before what belongs together there."""
    end = most
    while end > most // 2 and _joined(head, end):
        end -= 1
    return end if end > most // 2 else most


def _joined(text: str, end: int) -> bool:
    """Whether the character at `end` belongs to the one before it."""
    return text[end] in _JOINS or text[end - 1] == "\u200d" or unicodedata.category(text[end])[0] == "M"


class Cutter:
    """Text goes in piece by piece, with the byte that it began at in a file of UTF-8; rows come out."""

    def __init__(self, most: int):
        self.most, self.at, self.length = most, 0, 0
        self._parts: list[str] = []

    @property
    def full(self) -> bool:
        return self.length >= BLOCK + 2 * self.most

    def add(self, text: str, at: int) -> None:
        if not text:
            return
        if not self._parts:
            self.at = at
        self._parts.append(text)
        self.length += len(text)

    def cut(self, last: bool) -> Iterator[tuple[int, int, str]]:
        """(first byte, bytes, cleaned text) of each window; one empty one where there is but white space."""
        text, self._parts, self.length = "".join(self._parts), [], 0
        if last and len(text) <= self.most:  # as most rows are
            cleaned, too_long = clean(text, self.most)
            if not too_long:  # Unicode's composed form is longer in a few scripts
                yield self.at, len(text.encode()), cleaned
                return
        done, at = 0, self.at
        for start, end in self._fitting(text, last):
            at += len(text[done:start].encode())
            size = len(text[start:end].encode())
            yield at, size, clean(text[start:end], self.most)[0]
            at, done = at + size, end
        if not last:
            rest = text[done:].lstrip()
            self.add(rest, at + len(text[done : len(text) - len(rest)].encode()))

    def _fitting(self, text: str, last: bool) -> Iterator[tuple[int, int]]:
        """Windows that are short enough when they are cleaned, too."""
        for start, end in cuts(text, self.most, last):
            room = self.most
            while clean(text[start:end], self.most)[1]:
                room = max(room // 2, 1)
                first, size = next(cuts(text[start:end], room))
                yield start + first, start + size
                start += size
                if room == 1:
                    break
            if start < end:
                yield start, end
