"""A set of texts that is ready for training, with labels where its rows have them.

files        .txt, .jsonl, .csv, .tsv, .parquet (corpus.py)
captions     of a set of pictures (`photos/:captions`, `emoji:food+captions`): each picture that has one is a row, and
             further captions are its other choices. Pictures in files are not opened
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from sfumato.core.errors import DataError
from sfumato.data.facts import Facts


class NoTexts(DataError):
    """A file, or a set, in which there is no row at all."""


class Texts(Facts):
    """N texts in a fixed order; indices count its rows. A report's "characters" are those of the whole set."""

    noun, channels, side = "texts", 0, 0
    unlabelled = "Add a column label to its table."
    unsaid = ""

    def __repr__(self) -> str:
        return f"Texts({self.name!r}, {len(self)})"

    def batch(self, indices: Iterable[int], choice: int | Sequence[int] = 0) -> dict[str, Any]:
        """{"text" list of B, "index" (B,), and "label" (B,) where known}."""
        return self.facts([int(i) for i in indices], choice)

    def _of(self, rows: np.ndarray, **facts: Any) -> Texts:
        return Texts(self.name, rows, **facts)

    def _count(self, report: dict[str, Any]) -> dict[str, Any]:
        return {**super()._count(report), "texts": len(self)}


class Tally:
    """What is counted of texts as they pass."""

    def __init__(self) -> None:
        self.total = self.longest = self.count = self.empty = 0
        self.hashes = array("q")  # 8 bytes a row, until they are counted

    def add(self, text: str) -> None:
        self.count += 1
        self.total += len(text)
        self.longest = max(self.longest, len(text))
        self.hashes.append(hash(text))

    def report(self, name: str) -> tuple[dict[str, Any], list[str]]:
        """(facts, warnings)."""
        if not self.count:
            raise NoTexts(f"{name} has no texts: {self.empty} rows, all of them empty.")
        same, self.hashes = copies(self.hashes), array("q")
        mean = round(self.total / self.count, 1)
        facts = {"characters": {"total": self.total, "mean": mean, "longest": self.longest}, "empty": self.empty}
        return facts, [f"{same:,} of {self.count:,} texts are copies of others, word for word."] if same else []


def captions_of(source: Facts) -> Texts:
    """What a set says of its pictures, none of which is drawn."""
    if not source.has_text:
        raise DataError(f"{source.name} has no captions, so there are no texts in it. {source.unsaid}")
    tally, rows = Tally(), []
    for i, text in enumerate(source.captions()):
        if text:
            tally.add(text)
            rows.append(i)
    tally.empty = len(source) - len(rows)
    facts, warnings = tally.report(source.name)
    labels = source.labels if "label" in source.entries else None
    report: dict[str, Any] = {key: source.report[key] for key in ("skipped", "bad", "parts") if key in source.report}
    return Texts(
        f"{source.name}:captions",
        rows,
        identity=hashlib.sha256(f"captions/{source.fingerprint}".encode()).hexdigest(),
        label_ids=np.array([source.label(i) for i in range(len(source))], np.int32) if labels else None,
        labels=labels,
        text=source.text,
        report={**report, **facts, "warnings": [*source.report["warnings"], *warnings]},
        files=source.files,
    )


def copies(hashes: array) -> int:
    """How many numbers of an array occurred before; sorts it where it lies."""
    values = np.frombuffer(hashes, np.int64)
    values.sort()
    return int((values[1:] == values[:-1]).sum())
