"""Everything that the next step of a training depends on.

    weights and buffers · their average · the optimisers' moments · step, salt, elapsed · what was skipped of late

All randomness is a function of (seed, step) and the data of (seed, salt, step), so no generator has a state to keep.
A state is saved between steps only, where nothing is half accumulated.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from sfumato.core.contracts import Objective
from sfumato.core.errors import WeightsError
from sfumato.recipes.plan import Plan
from sfumato.train.average import Average
from sfumato.train.optim import adamw, load_moments, moments
from sfumato.train.parallel import accelerator_for, spread
from sfumato.train.shards import fill, whole

WINDOW = 64  # gradient norms that the median is taken over


class State:
    """`module` is what is saved besides the objective: a system whose other stages' weights must not be lost."""

    def __init__(
        self,
        objective: Objective,
        plan: Plan,
        *,
        module: nn.Module | None = None,
        accelerator: Accelerator | None = None,
        shard: bool = False,
    ):
        self.accelerator = accelerator_for() if accelerator is None else accelerator
        self.objective, self.plan, self.sharded = objective, plan, shard
        if module is not None and not shard:
            module.to(self.accelerator.device)
        self._freeze_all_but_players(True)
        self.turn = spread(objective, self.accelerator, shard)
        self.module: nn.Module = objective if module is None else module  # type: ignore[assignment]
        self.players = objective.players()  # again: sharding puts new parameters in the old ones' place
        self.optimizers = [adamw(player, plan) for player in self.players]
        self.average = Average([p for player in self.players for p in player], plan.ema)
        self.step = 0  # steps done, and the number of the next batch
        self.salt = 0  # which order the data come in; a rollback takes the next
        self.elapsed = 0.0  # seconds
        self.bad = 0  # non-finite steps in a row
        self.norms = [deque[float](maxlen=WINDOW) for _ in self.players]

    def _freeze_all_but_players(self, on: bool) -> None:
        """Parameters of no player learn nothing and need no gradient; `close` gives them theirs back."""
        if on:
            ours = {id(p) for player in self.objective.players() for p in player}
            everything = list(self.objective.parameters())  # type: ignore[attr-defined]
            self._frozen = [p for p in everything if id(p) not in ours and p.requires_grad]
        for p in self._frozen:
            p.requires_grad_(not on)

    def close(self) -> None:
        """Gives back what the training had taken: gradients, and the frozen parameters' flags."""
        for player in self.players:
            for p in player:
                p.requires_grad_(True)
                p.grad = None
        self._freeze_all_but_players(False)
        self.accelerator.free_memory()

    # ---- what is saved ----

    def _holders(self) -> dict[str, Tensor]:
        """Every parameter and buffer that a state_dict has, live; of shared ones the first name."""
        found: dict[str, Tensor] = {}
        seen: set[int] = set()
        for prefix, module in (("", self.module), ("objective.", self.objective)):
            for name, value in module.state_dict(keep_vars=True).items():  # type: ignore[union-attr]
                if isinstance(value, Tensor) and id(value) not in seen:
                    seen.add(id(value))
                    found[prefix + name] = value
        return found

    def _names(self) -> dict[Tensor, str]:
        return {value: name for name, value in self._holders().items()}

    def tensors(self) -> dict[str, Tensor]:
        """Flat names; where parameters are sharded every process must ask at the same time."""
        names = self._names()
        flat = {f"weights/{name}": value for name, value in self._holders().items()}
        flat |= {f"average/{names[p]}": v for p, v in zip(self.average.parameters, self.average.values)}
        for player, optimizer in enumerate(self.optimizers):
            flat |= {f"optimizer{player}/{name}": v for name, v in moments(optimizer, names).items()}
        return {name: whole(value.detach()) for name, value in flat.items()}

    def record(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "salt": self.salt,
            "elapsed": self.elapsed,
            "bad": self.bad,
            "norms": [list(norms) for norms in self.norms],
            "averaged": self.average.count,
        }

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
        """Restores what `tensors` and `record` gave; WeightsError when they are of another model."""
        holders, names = self._holders(), self._names()
        wanted = {f"weights/{n}": t for n, t in holders.items()}
        wanted |= {f"average/{names[p]}": p for p in self.average.parameters}
        for name, value in wanted.items():
            if name not in tensors or tensors[name].shape != value.shape:
                raise WeightsError(f"The checkpoint is of another model: {name} is missing or has another shape.")
        for name, value in holders.items():
            fill(value, tensors[f"weights/{name}"])
        averages = [tensors[f"average/{names[p]}"] for p in self.average.parameters]
        self.average.load(averages, record["averaged"])
        for player, optimizer in enumerate(self.optimizers):
            prefix = f"optimizer{player}/"
            own = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
            load_moments(optimizer, names, own)
        self.step, self.salt, self.bad = record["step"], record["salt"], record["bad"]
        self.elapsed = record["elapsed"]
        self.norms = [deque(norms, maxlen=WINDOW) for norms in record["norms"]]
