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

import os
import threading
import warnings
from collections.abc import Callable, Container, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sfumato.core.errors import ImageError
from sfumato.data.facts import Facts

BUDGET = 2 * 2**30
Load = Callable[[int], np.ndarray]  # picture i as (C, side, side) uint8


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


class Source(Facts):
    """N pictures in a fixed order; indices count its rows. `subset` keeps pictures, labels and captions together."""

    noun = "pictures"
    unlabelled = "Put the pictures into one folder per class, or add metadata.jsonl."
    unsaid = "Put a.txt beside a.jpg, or add metadata.jsonl with file_name and text."

    def __init__(self, name: str, store: Store, rows: Sequence[int] | np.ndarray, **facts: Any):
        self.channels, self.side, self._store = store.shape[0], store.shape[-1], store
        super().__init__(name, rows, **facts)

    def __repr__(self) -> str:
        return f"Source({self.name!r}, {len(self)} × {self.channels}×{self.side}×{self.side})"

    @property
    def entries(self) -> tuple[str, ...]:
        return "image", *super().entries

    def image(self, i: int) -> Tensor:
        """(C, side, side) uint8."""
        return torch.from_numpy(self._store[int(self._rows[i])].copy())

    def batch(self, indices: Iterable[int], choice: int | Sequence[int] = 0) -> dict[str, Any]:
        """{"image" (B, C, side, side) float32 in [−1, 1], "index" (B,), and "label" (B,), "text" where known}."""
        index = [int(i) for i in indices]
        rows = self._rows[index]
        pixels = torch.from_numpy(np.ascontiguousarray(self._store.gather(rows)))
        return {"image": pixels.float().div_(127.5).sub_(1), **self.facts(index, choice)}

    def _of(self, rows: np.ndarray, **facts: Any) -> Source:
        return Source(self.name, self._store, rows, **facts)

    def _count(self, report: dict[str, Any]) -> dict[str, Any]:
        return {**super()._count(report), "images": len(self)}
