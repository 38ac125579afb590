"""What is known of N rows in a fixed order, be they pictures (source.py) or texts (texts.py): labels, words, a report.

    rows:      0 … N − 1   what this set shows          of         0 … n − 1   what was opened

The fingerprint is SHA-256 over the identity of what was opened, the shape and the labels, and the rows in their order.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Self

import numpy as np
import torch

from sfumato.core.errors import DataError

Text = Callable[[int, int], str]  # row i of what was opened, choice → one of its texts


class Facts(ABC):
    """The contract of a set: `batch`, and all of it that needs no pictures. Indices count its rows."""

    noun: str
    unlabelled: str  # what would give it labels
    unsaid: str  # and texts
    channels: int
    side: int

    def __init__(
        self,
        name: str,
        rows: Sequence[int] | np.ndarray,
        *,
        identity: str,
        label_ids: np.ndarray | None = None,
        labels: list[str] | None = None,
        text: Text | None = None,
        report: dict[str, Any] | None = None,
        files: dict[str, str] | None = None,
    ):
        self.name, self.labels = name, labels
        short = isinstance(rows, np.ndarray) and rows.dtype == np.int32  # 4 bytes a row less
        self._rows = np.asarray(rows, np.int32 if short else np.int64).reshape(-1)
        self._identity, self._label_ids, self._text = identity, label_ids, text
        self.origin: Any = None  # what was asked of open_data, where it came from there
        self.files = files  # name → hash of each file of the whole set; None where there are none
        if not len(self._rows):
            raise DataError(f"{name} has no {self.noun}.")
        self.report = self._count(report or {})

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def has_text(self) -> bool:
        return self._text is not None

    @property
    def entries(self) -> tuple[str, ...]:
        """What a batch has, beside "index"."""
        return ("label",) * (self._label_ids is not None) + ("text",) * self.has_text

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(json.dumps([self._identity, self.channels, self.side, self.labels]).encode())
        digest.update(self._rows.astype("<i8").tobytes())
        return digest.hexdigest()

    def label(self, i: int) -> int:
        if self._label_ids is None:
            raise DataError(f"{self.name} has no labels. {self.unlabelled}")
        return int(self._label_ids[self._rows[i]])

    def text(self, i: int, choice: int = 0) -> str:
        """Text `choice` of row i, counted round; 0 is the plain one. Training passes the epoch."""
        if self._text is None:
            raise DataError(f"{self.name} has no captions. {self.unsaid}")
        return self._text(int(self._rows[i]), choice)

    def item(self, i: int) -> dict[str, Any]:
        return {key: value[0] for key, value in self.batch([i]).items()}

    @abstractmethod
    def batch(self, indices: Iterable[int], choice: int | Sequence[int] = 0) -> dict[str, Any]:
        """{"index" (B,) int64, and each of `entries`}."""

    def facts(self, index: Sequence[int], choice: int | Sequence[int] = 0) -> dict[str, Any]:
        """A batch without its pictures."""
        batch: dict[str, Any] = {"index": torch.tensor(index, dtype=torch.int64)}
        if self._label_ids is not None:
            batch["label"] = torch.from_numpy(self._label_ids[self._rows[index]].astype(np.int64))
        if self._text is not None:
            choices = [choice] * len(index) if isinstance(choice, int) else choice
            batch["text"] = [self.text(i, c) for i, c in zip(index, choices, strict=True)]
        return batch

    def captions(self) -> Iterator[str]:
        """The plain text of every row, in order; nothing where there are none."""
        return (self.text(i) for i in range(len(self) if self.has_text else 0))

    def subset(self, indices: Iterable[int]) -> Self:
        """The rows with these indices, in this order; labels keep their numbers."""
        index = indices if isinstance(indices, np.ndarray) else np.fromiter(map(int, indices), np.int64)
        if index.size and not -len(self) <= int(index.min()) <= int(index.max()) < len(self):
            raise IndexError(
                f"{self.name} has {len(self)} rows, and of these {index.min()} to {index.max()} are asked."
            )
        part = self._of(
            self._rows[index],
            identity=self._identity,
            label_ids=self._label_ids,
            labels=self.labels,
            text=self._text,
            report={**self.report, "of": self.report.get("of", len(self))},
            files=self.files,
        )
        part.origin = self.origin
        return part

    @abstractmethod
    def _of(self, rows: np.ndarray, **facts: Any) -> Any:
        """Another selection of what was opened."""

    def _count(self, report: dict[str, Any]) -> dict[str, Any]:
        """The counts that hold for these rows, over those that the opener wrote."""
        counted = {"images": 0, "labels": {}, "captions": len(self) if self.has_text else 0}
        if self._label_ids is not None and self.labels is not None:
            numbers, times = np.unique(self._label_ids[self._rows], return_counts=True)
            tally = Counter(dict(zip(numbers.tolist(), times.tolist())))
            counted["labels"] = {name: tally[k] for k, name in enumerate(self.labels)}
        if self.has_text and "captions" in report:
            counted["captions"] = min(report["captions"], len(self))
        rest: dict[str, Any] = {"sizes": {}, "modes": {}, "skipped": [], "warnings": []}
        return {"name": self.name, **rest, **report, **counted, "side": self.side, "channels": self.channels}
