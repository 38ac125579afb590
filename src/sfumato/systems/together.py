"""Objectives that are trained together and may share parameters: two directions of one network, hidden words beside
the next sentence, a codec beside the prior over its latents.

    loss = Σ_part w_part · loss_part(batch),      ∇ at a shared parameter is the sum of the parts'

Player 0 is all their first players, a shared parameter once; every further player of a part (a critic) is one more.
Each part draws from a stream of its own, so that none moves the others' numbers.
Source: one network, both directions, Zhang et al. 2021, arXiv:2112.15283.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import nn

from sfumato.core.contracts import Batch, Batches, Codec, Objective, Terms
from sfumato.core.errors import UsageError
from sfumato.core.noise import Noise
from sfumato.core.registry import nearest


class Together(nn.Module):
    """`weights` are those of parts by name, 1 where none is given. Terms and diagnostics are called part.term."""

    def __init__(self, weights: Mapping[str, float] | None = None, **parts: Objective):
        super().__init__()
        if not parts:
            raise UsageError(
                "What is trained together are one or more objectives by name: Together(first=…, second=…)."
            )
        for name, weight in (weights or {}).items():
            if name not in parts:
                raise UsageError(f"No part is called {name!r}. {nearest(name, list(parts))}")
            if not (math.isfinite(weight) and weight >= 0):
                raise UsageError(f"The weight of {name!r} is a finite number from 0 on, not {weight}.")
        self.parts = parts
        self.weights = {name: float((weights or {}).get(name, 1.0)) for name in parts}
        self.objectives = nn.ModuleDict({name: part for name, part in parts.items() if isinstance(part, nn.Module)})

    def loss(self, batch: Batch, player: int = 0, noise: Noise | None = None, progress: float = 1.0) -> Terms:
        turns = [(name, 0) for name in self.parts] if player == 0 else [self._others()[player - 1]]
        found: Terms = {}
        for name, theirs in turns:
            own = None if noise is None else noise.stream(name)
            terms = self.parts[name].loss(batch, theirs, own, progress)
            found |= {f"{name}.{term}": self.weights[name] * value for term, value in terms.items()}
        return found

    def players(self) -> list[list[nn.Parameter]]:
        theirs = {name: part.players() for name, part in self.parts.items()}
        first = [parameter for players in theirs.values() for parameter in players[0]]
        seen: set[int] = set()
        return [_new(player, seen) for player in (first, *(theirs[name][k] for name, k in self._others()))]

    def _others(self) -> list[tuple[str, int]]:
        """The players after the first: (part, which of its players)."""
        return [(name, k) for name, part in self.parts.items() for k in range(1, len(part.players()))]

    def prepare(self, batches: Batches) -> None:
        for part in self.parts.values():
            part.prepare(batches)

    def settle(self, noise: Noise | None = None) -> None:
        for name, part in self.parts.items():
            part.settle(None if noise is None else noise.stream(name))

    def forget(self) -> None:
        for part in self.parts.values():
            part.forget()

    def finish(self, batches: Batches) -> None:
        for part in self.parts.values():
            part.finish(batches)

    def diagnostics(self) -> dict[str, float]:
        return {f"{name}.{key}": x for name, part in self.parts.items() for key, x in part.diagnostics().items()}

    def train(self, mode: bool = True) -> Together:
        """A codec that is a part learns, also where it stands frozen in a system beside it."""
        super().train(mode)
        for part in self.parts.values():
            if isinstance(part, Codec):
                part.train(mode)
        return self


def _new(parameters: list[nn.Parameter], seen: set[int]) -> list[nn.Parameter]:
    """Those that were not seen before, each once."""
    found = []
    for parameter in parameters:
        if id(parameter) not in seen:
            seen.add(id(parameter))
            found.append(parameter)
    return found
