"""Several conditions at once: vectors and grids stand side by side, sequences one after the other.

In training they are dropped together, so that the null condition of guidance means "nothing at all is given". A part
whose keys are not given is null by itself: a cascade's second system may get a picture and no caption.
"""

from __future__ import annotations

import torch
from torch import nn

from sfumato.core.condition import Condition, choose
from sfumato.core.contracts import Batches, Conditioner, Given
from sfumato.core.errors import Misfit
from sfumato.core.noise import Noise


class Several(Conditioner):
    """The union of its parts' doors. Sequences must have one width."""

    def __init__(self, *parts: Conditioner, drop: float = 0.1):
        super().__init__()
        if not parts:
            raise Misfit("Several needs at least one conditioner; for none, leave the system's conditioner out.")
        self.parts = torch.nn.ModuleList(parts)
        self.drop = drop
        self.keys = tuple(key for part in parts for key in part.keys)
        self.made = {key: entry for part in parts for key, entry in part.made.items()}

    def forward(self, given: Given, noise: Noise | None = None) -> Condition:
        rows = next(len(value) for value in given.values() if value is not None)
        parts = self._all()
        condition = _join([part(given) if part.hears(given) else part.null(rows) for part in parts])
        if noise is None:
            return condition
        return choose(noise.uniform() >= self.drop, condition, self.null(condition.rows))

    def null(self, rows: int) -> Condition:
        return _join([part.null(rows) for part in self._all()])

    def prepare(self, batches: Batches) -> None:
        for part in self._all():
            part.prepare(batches)

    def learns(self) -> list[nn.Parameter]:
        return list({id(parameter): parameter for part in self._all() for parameter in part.learns()}.values())

    def _all(self) -> list[Conditioner]:
        return list(self.parts)  # type: ignore[arg-type]  # a ModuleList has forgotten the kind of its modules


def _join(conditions: list[Condition]) -> Condition:
    def together(name: str, dim: int):
        doors = [door for c in conditions if (door := getattr(c, name)) is not None]
        return torch.cat(doors, dim) if doors else None

    return Condition(
        conditions[0].rows,
        vector=together("vector", 1),
        sequence=together("sequence", 1),
        mask=together("mask", 1),
        grid=together("grid", 1),
    )
