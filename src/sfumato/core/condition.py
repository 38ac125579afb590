"""What a prior is told: three doors, any of which may be shut.

    vector     (B, D)         modulates           a label, a pooled caption, an embedding
    sequence   (B, T, D)      attended, prefixed  the words of a caption; `mask` (B, T) is True where a word is
    grid       (B, C, H, W)   concatenated        a low resolution, a picture with a hole

Rows are images. An unconditional prior gets Condition.none(B), whose doors are all shut.

In training some rows are dropped, so that guidance can be learned. A prior that must also hear what was dropped (the
posterior of a hierarchical VAE) says so by `hears_all`, and finds it in `full`: the same rows with nothing dropped.
Everywhere else, where nothing was dropped or nobody asked, it is None.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from sfumato.core.errors import Misfit
from sfumato.core.tensors import pick


@dataclass(frozen=True)
class Condition:
    rows: int
    vector: Tensor | None = None
    sequence: Tensor | None = None
    mask: Tensor | None = None
    grid: Tensor | None = None
    full: Condition | None = None

    @classmethod
    def none(cls, rows: int) -> Condition:
        return cls(rows)

    def __post_init__(self) -> None:
        for name in DOORS:
            door = getattr(self, name)
            if door is not None and len(door) != self.rows:
                raise Misfit(f"The condition has {self.rows} rows, but its {name} has {len(door)}.")

    def map(self, function: Callable[[Tensor], Tensor], rows: int | None = None) -> Condition:
        """The condition with `function` applied to every open door."""
        doors = {name: door if door is None else function(door) for name in DOORS for door in [getattr(self, name)]}
        full = None if self.full is None else self.full.map(function, rows)
        return Condition(self.rows if rows is None else rows, **doors, full=full)

    def to(self, device: torch.device | str) -> Condition:
        return self.map(lambda door: door.to(device))

    def repeat(self, n: int) -> Condition:
        """Each row n times, neighbours together."""
        return self.map(lambda door: door.repeat_interleave(n, 0), self.rows * n)

    def __getitem__(self, rows: slice) -> Condition:
        return self.map(lambda door: door[rows], len(range(*rows.indices(self.rows))))


DOORS = tuple(f.name for f in fields(Condition) if f.name not in ("rows", "full"))


def _same_doors(conditions: Sequence[Condition]) -> None:
    opened = [{name for name in DOORS if getattr(c, name) is not None} for c in conditions]
    if any(doors != opened[0] for doors in opened):
        raise Misfit(f"Conditions with other doors cannot stand in one batch: {[sorted(d) for d in opened]}.")


def stack(conditions: Sequence[Condition]) -> Condition:
    """One batch of several, one below the other; all must open the same doors."""
    _same_doors(conditions)
    first, rows = conditions[0], sum(c.rows for c in conditions)
    doors: dict[str, Any] = {
        name: torch.cat([getattr(c, name) for c in conditions]) for name in DOORS if getattr(first, name) is not None
    }
    return Condition(rows, **doors)


def choose(keep: Tensor, given: Condition, null: Condition) -> Condition:
    """Row i of `given` where keep[i], else of `null`: dropping a condition so that guidance can be learned."""
    _same_doors([given, null])
    doors: dict[str, Any] = {
        name: pick(keep, door, getattr(null, name)) for name in DOORS if (door := getattr(given, name)) is not None
    }
    return Condition(given.rows, **doors)
