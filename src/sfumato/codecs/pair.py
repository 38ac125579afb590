"""A text and a picture in one line of tokens, of two alphabets and a padding (DALL·E, arXiv:2102.12092).

    positions   0 … T − 1             T … T + N − 1
    letters     0 … V − 1, V + i      V + T … V + T + K − 1      z = (w_0 … w_{n−1}, V + n, …, V + T − 1, V + T + m)

w are the words, V + i the padding of position i, m the picture's tokens. With `first` = "image" the halves change
places, and a padding letter still means a place in the text. `letters` says which of them may stand where: a prior that
is not told so spends probability on the others, and what it draws may not decode.

What is given is held: a prior that goes from first to last sees the first half while it draws the second, so the first
is what can be given, and no more: p(first | second) is not drawn by holding the second. With `either` both can be, for
priors that see what is known wherever it lies: those that learned any order, and masked ones.

Guidance needs something that stands for nothing. It is the last letter, ∅ = V + T + K, in all of a half. It may stand
nowhere, so that it is read and never drawn, and no probability is lost to it. In training it takes the place of the
first half with probability `drop` (with `either`, of each half, never of both), and always of a text without words: a
picture that nobody described teaches pictures alone.

    log p(text, image) ≥ E[log p(z) + w_text + w_image]

log p(z) counts the padding letters too, as the prior says them: a text's length is a part of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sfumato.core.contracts import Batches, Codec, Entry, Given, Known
from sfumato.core.errors import Misfit
from sfumato.core.noise import Noise
from sfumato.core.space import Grid, Tokens
from sfumato.core.tensors import pick

NAMES = {"text": "text", "image": "picture"}


class Pair(Codec):
    """x = (B texts, images (B, C, H, W)) ↔ z (B, T + N). `words` reads texts and `pictures` images, both as Tokens;
    padding is known where words has a `mask`."""

    reads = ("text", "image")
    space: Tokens
    data: Grid

    def __init__(
        self, words: Codec, pictures: Codec, *, first: Entry = "text", either: bool = False, drop: float = 0.1
    ):
        super().__init__()
        text, image = _space(words, "text"), _space(pictures, "image")
        if first not in self.reads:
            raise Misfit(f"What stands first is 'text' or 'image', not {first!r}.")
        if not 0 <= drop < (0.5 if either else 1):
            raise Misfit(f"A half is dropped with a probability from 0 to below {'½' if either else '1'}, not {drop}.")
        assert isinstance(pictures.data, Grid)
        self.words, self.pictures, self.data = words, pictures, pictures.data
        self.first, self.either, self.drop = first, either, drop
        self.holds = self.reads if either else (first,)
        self.padding, self.picture = text.vocab, text.vocab + text.length  # the first letter of each kind
        self.nothing = self.picture + image.vocab
        self.space = Tokens(text.length + image.length, self.nothing + 1)
        self.exact, self.discrete = words.exact and pictures.exact, pictures.discrete
        self.learned = pictures.learned
        self.kind = None if words.kind is None or pictures.kind is None else "bound"

    # ---- the line ----

    @property
    def halves(self) -> dict[str, range]:
        """The positions of each half."""
        t, n = self.words.space.shape[0], self.space.length
        if self.first == "text":
            return {"text": range(t), "image": range(t, n)}
        return {"image": range(n - t), "text": range(n - t, n)}

    @property
    def letters(self) -> Tensor:
        """(T + N, letters) bool: which may stand at each position."""
        with torch.device("cpu"):  # also where a system is laid out on the meta device: it is known, not learned
            letter, half = torch.arange(self.space.vocab), self.halves["text"]
            place = torch.arange(self.space.length)[:, None] - half.start
            written = (letter < self.padding) | (letter == self.padding + place)
            painted = (letter >= self.picture) & (letter < self.nothing)
            return torch.where((place >= 0) & (place < len(half)), written, painted)

    def _joined(self, text: Tensor, image: Tensor) -> Tensor:
        return torch.cat([text, image] if self.first == "text" else [image, text], 1)

    def _half(self, z: Tensor, name: str) -> Tensor:
        return z[:, self.halves[name].start : self.halves[name].stop]

    def _written(self, texts: Sequence[str | None]) -> Tensor:
        """(B, T): the text's half."""
        z = self.words.encode(["" if text is None else text for text in texts])  # type: ignore[arg-type]
        mask: Any = getattr(self.words, "mask", None)
        if mask is None:
            return z
        return torch.where(mask(z), z, self.padding + torch.arange(z.shape[1], device=z.device))

    def _painted(self, cells: Tensor) -> Tensor:
        """(B, N): the picture's half, of its tokens."""
        return cells + self.picture

    def _said(self, half: Tensor, unsaid: Tensor) -> Tensor:
        """A half, or ∅ in the rows (B,) where nothing is said."""
        return pick(unsaid, torch.full_like(half, self.nothing), half)

    # ---- the codec ----

    def encode(self, x: tuple[Sequence[str], Tensor]) -> Tensor:  # type: ignore[override]
        texts, images = x
        cells = self.pictures.encode(images)
        return self._joined(self._written(texts).to(cells.device), self._painted(cells))

    def decode(self, z: Tensor) -> tuple[Any, Tensor]:  # type: ignore[override]
        text, image = self._half(z, "text"), self._half(z, "image") - self.picture
        strange = (text >= self.picture) & (text < self.nothing)
        if bool(strange.any()) or bool(((image < 0) | (image >= self.nothing - self.picture)).any()):
            raise Misfit(
                "A letter of one half stands in the other, where it means nothing. Build the prior with the letters "
                "that may stand at each position, letters=codec.letters."
            )
        marks: Any = getattr(self.words, "marks", (0,))  # of padding first
        return self.words.decode(torch.where(text < self.padding, text, marks[0])), self.pictures.decode(image)

    def latent(self, x: tuple[Sequence[str], Tensor], noise: Noise) -> Tensor:  # type: ignore[override]
        """Some halves dropped, so that guidance is learned."""
        texts, images = x
        cells = self.pictures.latent(images, noise)
        unsaid = {"text": _wordless(texts, cells.device), "image": cells.new_zeros(len(cells), dtype=torch.bool)}
        if self.drop:
            u, other = noise.uniform(), "image" if self.first == "text" else "text"
            unsaid[self.first] = unsaid[self.first] | (u < self.drop)
            unsaid[other] = unsaid[other] | (u >= 1 - self.drop) if self.either else unsaid[other]
        text = self._said(self._written(texts).to(cells.device), unsaid["text"])
        return self._joined(text, self._said(self._painted(cells), unsaid["image"]))

    def lift(self, x: tuple[Sequence[str], Tensor], noise: Noise | None = None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        texts, images = x
        _, spelt = self.words.lift(texts, noise)  # type: ignore[arg-type]
        cells, seen = self.pictures.lift(images, noise)
        return self._joined(self._written(texts).to(cells.device), self._painted(cells)), spelt.to(seen) + seen

    def hold(self, given: Given, rows: int) -> Known:
        """The halves of what is given, a text without words being nothing; of nothing, all that may be given as ∅."""
        found: dict[str, Tensor] = {}
        for name in NAMES:
            if given.get(name) is None:
                continue
            self._refuse(name)
            value = given[name]
            half = self._written(value) if name == "text" else self._painted(self.pictures.encode(value))
            found[name] = self._said(half, _wordless(value, half.device)) if name == "text" else half
        device = next((x.device for x in (*found.values(), *self.parameters(), *self.buffers())), torch.device("cpu"))
        z = torch.full((rows, self.space.length), self.nothing, device=device)
        mask = torch.zeros_like(z, dtype=torch.bool)
        if not found and not self.drop:
            raise Misfit(
                "This pair was built with drop=0: nothing was ever dropped, so there is nothing to guide away from. "
                "Draw with guidance 1, or train with some dropped."
            )
        for name, half in found.items():
            self._half(z, name).copy_(half)
        for name in found or self.holds:
            self._half(mask, name).fill_(True)
        return z, mask

    def _refuse(self, name: str) -> None:
        if name not in self.holds:
            one, other = NAMES[name], NAMES[self.first]
            raise Misfit(
                f"The {other} stands first in this pair, and is drawn before the {one} is seen: a given {one} would "
                f"not be heard. Train a pair with the {one} first (first={name!r}); or one with either=True under a "
                "prior that sees what is known wherever it lies (order='any', or masked)."
            )

    # ---- its own stage, and what comes before a prior's ----

    @property
    def stage(self) -> Codec:
        """What of it learns: the pictures'."""
        return self.pictures.stage

    def prepare(self, batches: Batches) -> None:
        self.words.prepare(batches)
        self.pictures.prepare(batches)

    def adapt(self, batches: Batches) -> None:
        self.words.adapt(batches)
        self.pictures.adapt(batches)


def _space(codec: Codec, reads: Entry) -> Tokens:
    """The codec's alphabet, or Misfit where it is none of such data."""
    if codec.reads != reads or not isinstance(codec.space, Tokens):
        raise Misfit(
            f"A pair's {NAMES[reads]}s are read as Tokens, and {type(codec).__name__} yields {codec.space} of "
            f"{codec.reads!r}. Choose a codec with an alphabet."
        )
    return codec.space


def _wordless(texts: Sequence[str | None], device: torch.device) -> Tensor:
    """(B,) bool: which texts say nothing."""
    return torch.tensor([not text for text in texts], dtype=torch.bool, device=device)
