"""A cascade is systems in a row: p(x | y) = ∫ p(x | e, y) p(e | y) de.

Each later system takes the picture that the one before drew as its condition "picture" (Ho et al. 2021,
arXiv:2106.15282). In training each sees the same images at its own resolution and spoils them itself, so the stages
are independent of one another and may be trained in any order, on any machine.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.core.contracts import Batch, Batches, Given, Objective, Terms
from sfumato.core.errors import Misfit, UsageError
from sfumato.core.noise import Noise, derive
from sfumato.core.registry import nearest
from sfumato.core.space import Space
from sfumato.systems import shown
from sfumato.systems.inputs import check_seeds
from sfumato.systems.system import System, Watch


class Cascade(nn.Module):
    """Cascade(small=System, large=System, …): named systems, from the first drawn to the last."""

    def __init__(self, **systems: System):
        super().__init__()
        if len(systems) < 2:
            raise Misfit("A cascade is at least two systems; one alone is a System.")
        for name, system in list(systems.items())[1:]:
            if "picture" not in system.hears:
                raise Misfit(
                    f"{name!r} stands later in a cascade, so it must be conditioned on a picture. Give it Picture."
                )
        self.systems = nn.ModuleDict(systems)
        self.recipe: dict[str, Any] = {}

    @property
    def classes(self) -> list[str]:
        """What the labels are called, by their numbers; its systems share the names."""
        return self.last.classes

    @classes.setter
    def classes(self, names: list[str]) -> None:
        for _, system in self.named():
            system.classes = names

    def __repr__(self) -> str:
        return shown.line(self)

    def _repr_html_(self) -> str:
        return shown.table(self)

    def named(self) -> list[tuple[str, System]]:
        return list(self.systems.items())  # type: ignore[arg-type]

    @property
    def last(self) -> System:
        return self.named()[-1][1]

    @property
    def data(self) -> Space:
        return self.last.data

    @property
    def entries(self) -> tuple[str, ...]:
        return self.last.entries

    @property
    def hears(self) -> tuple[str, ...]:
        """What its systems hear, but for the picture, which they hand on."""
        return tuple(dict.fromkeys(key for _, system in self.named() for key in system.hears if key != "picture"))

    @property
    def learns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(key for _, system in self.named() for key in system.learns))

    @property
    def space(self) -> Space:
        return self.last.codec.space

    def stages(self) -> dict[str, Objective]:
        """{"small.prior": …, "large.prior": …}: each system's stages, seen at its own resolution."""
        return {
            f"{name}.{stage}": AtItsOwnSize(objective, system.codec.data.shape[-2:])
            for name, system in self.named()
            for stage, objective in system.stages().items()
        }

    def sample(
        self,
        n: int = 1,
        given: Given | None = None,
        *,
        guidance: float = 1.0,
        seeds: Iterable[int] | None = None,
        batch: int = 8,
        watch: Watch | None = None,
        **options: Any,
    ) -> Tensor:
        """As System.sample; system i draws with seeds derived from the image's seed and its own name."""
        roots = check_seeds(n, seeds)
        if wrong := next((key for key in given or {} if key not in self.hears), None):
            advice = nearest(wrong, self.hears) if self.hears else ""
            raise UsageError(f"The cascade is not conditioned on {wrong!r}. {advice}")
        image: Tensor | None = None
        for place, (name, system) in enumerate(self.named()):
            own = [derive(seed, name) for seed in roots] if place else roots
            said = {key: value for key, value in (given or {}).items() if key in system.hears}
            if image is not None:
                said["picture"] = image
            image = system.sample(n, said, guidance=guidance, seeds=own, batch=batch, watch=watch, **options)
        assert image is not None
        return image


class AtItsOwnSize(nn.Module):
    """An objective that sees images area-averaged to its own resolution, and is otherwise the one that it wraps."""

    def __init__(self, objective: Objective, layout: tuple[int, ...]):
        super().__init__()
        self.objective, self.layout = objective, tuple(layout)

    def _view(self, batch: Batch) -> Batch:
        image = batch.get("image")
        if image is None or tuple(image.shape[-2:]) == self.layout:
            return batch
        return {**batch, "image": F.interpolate(image, self.layout, mode="area")}

    def loss(self, batch: Batch, player: int = 0, noise: Noise | None = None, progress: float = 1.0) -> Terms:
        return self.objective.loss(self._view(batch), player, noise, progress)

    def prepare(self, batches: Batches) -> None:
        self.objective.prepare(lambda: (self._view(batch) for batch in batches()))

    def finish(self, batches: Batches) -> None:
        self.objective.finish(lambda: (self._view(batch) for batch in batches()))

    def players(self) -> list[list[torch.nn.Parameter]]:
        return self.objective.players()

    def settle(self, noise: Noise | None = None) -> None:
        self.objective.settle(noise)

    def forget(self) -> None:
        self.objective.forget()

    def diagnostics(self) -> dict[str, float]:
        return self.objective.diagnostics()
