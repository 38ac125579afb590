"""A set of pictures that is ready for training: each (C, side, side) uint8, with label and captions if it has them.

    pictures:  0 … n − 1   what may be loaded            Store    loads, fits, remembers
    rows:      0 … N − 1   what this set shows of them   Source   a selection, with labels, texts and a report

Files are decoded once when a set is opened, so that a bad one is known before the first step; what fits into BUDGET
bytes stays in memory, the rest is decoded again when it is asked for. Drawn and embedded sets are made when asked
for.

The fingerprint is SHA-256 over the settings (side, channels, background, split) and, row by row, over the content's
own hash, the label and the captions: two sets with one fingerprint give the same batches.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sfumato.core.errors import DataError, ImageError

BUDGET = 2 * 2**30
Load = Callable[[int], np.ndarray]  # picture i as (C, side, side) uint8
Text = Callable[[int, int], str]  # picture i, choice → one of its captions


class Store:
    """Picture i, from memory if it was loaded before and the whole set fits into `budget` bytes."""

    def __init__(self, count: int, shape: tuple[int, int, int], load: Load, budget: int = BUDGET):
        self.count, self.shape, self._load = count, shape, load
        fits = count * int(np.prod(shape)) <= budget
        self._pixels = np.empty((count, *shape), np.uint8) if fits else None
        self._known = np.zeros(count, bool)
        self._lock = threading.Lock()

    def __getitem__(self, i: int) -> np.ndarray:
        if self._pixels is None:
            return self._load(i)
        if not self._known[i]:
            pixels = self._load(i)
            with self._lock:
                self._pixels[i] = pixels
                self._known[i] = True
        return self._pixels[i]

    def gather(self, rows: np.ndarray) -> np.ndarray:
        if self._pixels is None or not self._known[rows].all():
            return np.stack([self[i] for i in rows])
        return self._pixels[rows]

    def check(self, without: Container[int] = ()) -> dict[int, ImageError]:
        """Loads every other picture once, in threads (Pillow decodes without Python's lock); returns what failed."""
        failed: dict[int, ImageError] = {}

        def visit(i: int) -> None:
            try:
                self[i]
            except ImageError as error:
                failed[i] = error

        with warnings.catch_warnings(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            warnings.simplefilter("ignore")  # Pillow's doubts about metadata; the pixels are checked by decode
            for _ in pool.map(visit, (i for i in range(self.count) if i not in without)):
                pass
        return failed


class Source:
    """N pictures in a fixed order; indices count its rows. `subset` keeps pictures, labels and captions together."""

    def __init__(
        self,
        name: str,
        store: Store,
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
        self.channels, self.side = store.shape[0], store.shape[-1]
        self._store, self._rows = store, np.asarray(rows, np.int64).reshape(-1)
        self._identity, self._label_ids, self._text = identity, label_ids, text
        self.origin: Any = None  # what was asked of open_data, where it came from there
        self.files = files  # name → hash of each picture of the whole set; None where they are no files
        if not len(self._rows):
            raise DataError(f"{name} has no pictures.")
        self.report = self._count(report or {})

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"Source({self.name!r}, {len(self)} × {self.channels}×{self.side}×{self.side})"

    @property
    def has_text(self) -> bool:
        return self._text is not None

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(json.dumps([self._identity, self.channels, self.side, self.labels]).encode())
        digest.update(self._rows.astype("<i8").tobytes())
        return digest.hexdigest()

    def image(self, i: int) -> Tensor:
        """(C, side, side) uint8."""
        return torch.from_numpy(self._store[int(self._rows[i])].copy())

    def label(self, i: int) -> int:
        if self._label_ids is None:
            raise DataError(
                f"{self.name} has no labels. Put the pictures into one folder per class, or add metadata.jsonl."
            )
        return int(self._label_ids[self._rows[i]])

    def text(self, i: int, choice: int = 0) -> str:
        """Caption `choice` of picture i, counted round; 0 is the plain one. Training passes the epoch."""
        if self._text is None:
            raise DataError(
                f"{self.name} has no captions. Put a.txt beside a.jpg, or add metadata.jsonl with file_name and text."
            )
        return self._text(int(self._rows[i]), choice)

    def item(self, i: int) -> dict[str, Any]:
        return {key: value[0] for key, value in self.batch([i]).items()}

    def batch(self, indices: Iterable[int], choice: int | Sequence[int] = 0) -> dict[str, Any]:
        """{"image" (B, C, side, side) float32 in [−1, 1], "index" (B,), and "label" (B,), "text" where known}."""
        index = [int(i) for i in indices]
        rows = self._rows[index]
        pixels = torch.from_numpy(np.ascontiguousarray(self._store.gather(rows)))
        return {"image": pixels.float().div_(127.5).sub_(1), **self.facts(index, choice)}

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
        """The plain caption of every picture, in order; nothing where there are none."""
        return (self.text(i) for i in range(len(self) if self.has_text else 0))

    def subset(self, indices: Iterable[int]) -> Source:
        """The pictures with these indices, in this order; labels keep their numbers."""
        rows = self._rows[[range(len(self))[int(i)] for i in indices]]
        part = Source(
            self.name,
            self._store,
            rows,
            identity=self._identity,
            label_ids=self._label_ids,
            labels=self.labels,
            text=self._text,
            report={**self.report, "of": self.report.get("of", len(self))},
            files=self.files,
        )
        part.origin = self.origin
        return part

    def _count(self, report: dict[str, Any]) -> dict[str, Any]:
        """The counts that hold for these rows, over those that the opener wrote."""
        counted = {"images": len(self), "labels": {}, "captions": len(self) if self.has_text else 0}
        if self._label_ids is not None and self.labels is not None:
            tally = Counter(self._label_ids[self._rows].tolist())
            counted["labels"] = {name: tally[k] for k, name in enumerate(self.labels)}
        if self.has_text and "captions" in report:
            counted["captions"] = min(report["captions"], len(self))
        rest: dict[str, Any] = {"sizes": {}, "modes": {}, "skipped": [], "warnings": []}
        return {"name": self.name, **rest, **report, **counted, "side": self.side, "channels": self.channels}
