"""The nearest training picture of a sample: whether a model draws, or remembers.

    d(x, y) = ‖φ(x) − φ(y)‖ / √D        φ features of a network with published weights, else the pixels in [−1, 1]

A network's features cost time, so they are used for sets of up to FEATURES pictures on a CPU (any number on a GPU) and
where published weights are at hand; the page says which it was. Beside the distance stands the median distance between
two pictures of the set, without which it means nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sfumato.data import Set
from sfumato.metrics import extractor
from sfumato.metrics.evaluation import draw_rows

FEATURES = 500
MOST = 20_000  # training pictures that are looked at
PAIRS = 256  # for the usual distance
BATCH = 64
OTHERS = 2  # neighbours beside the nearest
LOOKED = 16  # nearest pictures among which they are looked for: a set may hold one picture many times


@dataclass(frozen=True)
class Found:
    rows: list[int]  # of the source, one a sample
    distances: list[float]
    others: list[list[int]]  # of each sample, the next nearest that look different from one another
    usual: float  # the median distance between two different training pictures
    how: str  # a sentence for the reader


def nearest(images: Tensor, source: Set, device: Any = "cpu", features: bool | None = None) -> Found:
    """The training picture nearest to each of the images (n, C, H, W). `features`: None decides by the rule above."""
    rows = sorted(draw_rows(len(source), min(MOST, len(source)), 0, "neighbours"))
    look, name = _look(len(rows), device, features)
    asked = look(images)
    near = torch.empty(len(images), 0)  # distances of the nearest so far, ascending, and where they are
    places = torch.empty(len(images), 0, dtype=torch.long)
    few: list[Tensor] = []
    for start in range(0, len(rows), BATCH):
        part = look(source.batch(rows[start : start + BATCH])["image"])
        few += [part] if start < PAIRS else []
        distance = torch.cdist(asked, part, compute_mode="donot_use_mm_for_euclid_dist")
        here = torch.arange(start, start + len(part)).expand(len(images), -1)
        near, order = torch.cat([near, distance], 1).sort(dim=1, stable=True)
        places = torch.cat([places, here], 1).gather(1, order)[:, :LOOKED]
        near = near[:, :LOOKED]
    among = torch.pdist(torch.cat(few)[:PAIRS]) if len(rows) > 1 else torch.zeros(1)
    scale = asked.shape[1] ** 0.5
    seen = f"all {len(rows):,} training pictures" if len(rows) == len(source) else f"{len(rows):,} of {len(source):,}"
    found = [[rows[i] for i in line] for line in places.tolist()]
    return Found(
        [line[0] for line in found],
        (near[:, 0] / scale).tolist(),
        [_different(line, source) for line in found],
        float(among.median() / scale),
        f"The distance is the root mean square difference of {name}; {seen} were compared.",
    )


def _different(rows: list[int], source: Set) -> list[int]:
    """Of rows in the order of their distance, those after the first that show another picture than all before."""
    pictures = source.batch(rows)["image"]
    kept = [0]
    for i in range(1, len(rows)):
        if len(kept) <= OTHERS and all(not torch.equal(pictures[i], pictures[k]) for k in kept):
            kept.append(i)
    return [rows[i] for i in kept[1:]]


def _look(count: int, device: Any, features: bool | None) -> tuple[Callable[[Tensor], Tensor], str]:
    """(pictures → vectors, its name)."""
    quick = count <= FEATURES or torch.device(device).type != "cpu"
    if features is None:
        features = quick
    network = extractor("auto").to(device) if features else None
    if network is None or not network.published:
        return lambda images: images.float().flatten(1).cpu(), "the pixels, which run from −1 to 1"
    return lambda images: network(images.to(device)).float().cpu(), f"the features of {network.name}"
