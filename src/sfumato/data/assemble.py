"""Candidates → a Source: decode all, count what failed and why, number the labels, clean the captions, report.

With b bad among n = good + b files the set is refused when b > allow_bad · n, or when nothing is good.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sfumato.core.classes import natural
from sfumato.core.errors import DataError, ImageError
from sfumato.data.captions import clean
from sfumato.data.decode import MAX_BYTES, animated, background_color, header, picture
from sfumato.data.doubts import Seen, doubts
from sfumato.data.fit import fit, natural_side
from sfumato.data.source import Source, Store

LARGE = 64 * 2**20  # bytes of a file, beyond which files are read one at a time
Failures = list[tuple[str, str]]  # (file, reason)


@dataclass(frozen=True)
class Look:
    """How pictures are to look, and how many may fail."""

    side: int | None = None
    channels: int = 3
    background: str | tuple[int, ...] = "white"
    allow_bad: float = 0.05
    words: bool = False  # only what is said of them is asked for, and no picture is opened


@dataclass(frozen=True)
class Candidate:
    """A picture that may join a set. `problem` says why it will not."""

    file: str
    read: Callable[[int], bytes]
    label: str | None = None
    texts: tuple[str, ...] = ()
    problem: str | None = None


def assemble(
    name: str,
    candidates: Sequence[Candidate],
    bad: Failures,
    other: Failures,
    look: Look,
    warnings: Sequence[str] = (),
    settings: Sequence[Any] = (),
    label_names: list[str] | None = None,
) -> Source:
    """`bad` counts against allow_bad, `other` is only listed. `label_names` fixes the numbers of labels."""
    warnings, failed = list(warnings), {i: c.problem for i, c in enumerate(candidates) if c.problem is not None}
    labelled = sum(c.label is not None for c in candidates)
    use_labels = label_names is not None or len({c.label for c in candidates if c.label is not None}) > 1
    if use_labels and labelled < len(candidates):
        missing = len(candidates) - labelled
        warnings.append(f"{missing} of {len(candidates)} pictures have no label, so the set is used without labels.")
        use_labels = False
    texts, cut = _clean_all(candidates)
    if look.words:
        store, seen = _unseen(texts, look)
    else:
        side = look.side if look.side is not None else _ask_side(candidates, failed)
        store, seen = _store(candidates, failed, look, side)
        failed |= {i: error.reason for i, error in store.check(failed).items()}
    failures = [*bad, *((candidates[i].file, reason) for i, reason in sorted(failed.items()))]
    rows = [i for i in range(len(candidates)) if i not in failed]
    _refuse(name, len(rows), failures, other, look.allow_bad)
    names = label_names if label_names is not None else sorted({c.label for c in candidates if c.label}, key=natural)
    number = {label: k for k, label in enumerate(names)}
    if not look.words:
        warnings += doubts(candidates, {i: seen[i] for i in rows}, store.shape[-1], look.background)
    with_text = sum(bool(texts[i]) for i in rows)
    if 0 < with_text < len(rows):
        warnings.append(f"{len(rows) - with_text} of {len(rows)} pictures have no caption; theirs is empty.")
    if cut:
        warnings.append(f"{cut} captions were longer than allowed and were cut.")
    digest = hashlib.sha256(json.dumps([background_color(look.background), *settings]).encode())
    for i in rows:
        digest.update(json.dumps([seen[i].digest, candidates[i].label if use_labels else None, texts[i]]).encode())
    return Source(
        name,
        store,
        rows,
        identity=digest.hexdigest(),
        label_ids=np.array([number.get(c.label or "", -1) for c in candidates]) if use_labels else None,
        labels=names if use_labels else None,
        text=(lambda i, choice: texts[i][choice % len(texts[i])] if texts[i] else "") if with_text else None,
        report={
            "captions": with_text,
            "sizes": _most({i: f"{seen[i].width}x{seen[i].height}" for i in rows}),
            "modes": _most({i: seen[i].mode for i in rows}),
            "bad": len(failures),
            "skipped": [{"file": file, "reason": reason} for file, reason in (*failures, *other)],
            "warnings": warnings,
        },
        files={candidates[i].file: seen[i].digest[:16] for i in rows},
    )


def _ask_side(candidates: Sequence[Candidate], failed: dict[int, str]) -> int:
    sizes = []
    for i, candidate in enumerate(candidates):
        if i not in failed:
            try:
                sizes.append(header(candidate.read(MAX_BYTES), candidate.file)[1])
            except ImageError as error:
                failed[i] = error.reason
    return natural_side(sizes) if sizes else 32  # with no picture the set is refused all the same


def _store(
    candidates: Sequence[Candidate], failed: dict[int, str], look: Look, side: int
) -> tuple[Store, dict[int, Seen]]:
    """The store, and what was seen of each loaded picture."""
    seen: dict[int, Seen] = {}
    large = threading.Lock()

    def load(i: int) -> np.ndarray:
        try:
            data = candidates[i].read(LARGE)
        except ImageError as error:
            if error.reason != "too large":
                raise
        else:
            return look_at(i, data)
        with large:
            return look_at(i, candidates[i].read(MAX_BYTES))

    def look_at(i: int, data: bytes) -> np.ndarray:
        image, mode = picture(data, candidates[i].file, look.channels, look.background)
        pixels = fit(image, side)
        digest = hashlib.sha256(data).hexdigest()
        low, high = int(pixels.min()), int(pixels.max())
        seen[i] = Seen(digest, image.width, image.height, mode, low, high, animated(data))
        return pixels

    return Store(len(candidates), (look.channels, side, side), load), seen


def _unseen(texts: Sequence[list[str]], look: Look) -> tuple[Store, dict[int, Seen]]:
    """In place of the pictures what is said of them: nothing is opened, and nothing can be shown."""

    def load(i: int) -> np.ndarray:
        raise AssertionError("only what is said of the pictures was asked for")

    digests = [hashlib.sha256(json.dumps(said).encode()).hexdigest() for said in texts]
    store = Store(len(texts), (look.channels, 1, 1), load, budget=0)
    return store, {i: Seen(digest, 1, 1, "", 0, 0, False) for i, digest in enumerate(digests)}


def _refuse(name: str, good: int, failures: Failures, other: Failures, allow_bad: float) -> None:
    if not good:
        counts = _reasons([*failures, *other])
        raise DataError(f"{name}: found {len(failures) + len(other)} files, 0 usable{': ' + counts if counts else ''}.")
    refuse_bad(name, good, failures, allow_bad)


def refuse_bad(
    name: str,
    good: int,
    failures: Failures,
    allow_bad: float,
    reasons: Mapping[str, int] | None = None,
    noun: str = "files",
) -> None:
    """DataError where too many files are bad; `reasons` counts more of them than are named."""
    bad = sum(reasons.values()) if reasons is not None else len(failures)
    total = good + bad
    if bad > allow_bad * total + 1e-9:
        first = "; ".join(f"{file} ({reason})" for file, reason in failures[:5])
        raise DataError(
            f"{name}: {bad} of {total} {noun} cannot be used ({bad / total:.0%}, at most {allow_bad:.0%} are skipped): "
            f"{_reasons(failures, reasons)}. The first: {first}. Repair or remove them."
        )


def _reasons(failures: Failures, counted: Mapping[str, int] | None = None) -> str:
    reasons = Counter(reason for _, reason in failures) if counted is None else Counter(counted)
    return ", ".join(f"{n} {reason}" for reason, n in reasons.most_common())


def _clean_all(candidates: Sequence[Candidate]) -> tuple[list[list[str]], int]:
    made, cut = [], 0
    for candidate in candidates:
        cleaned = [clean(text) for text in candidate.texts]
        cut += sum(was_cut for _, was_cut in cleaned)
        made.append([text for text, _ in cleaned if text])
    return made, cut


def _most(values: dict[int, str], limit: int = 20) -> dict[str, int]:
    return dict(Counter(values.values()).most_common(limit))
