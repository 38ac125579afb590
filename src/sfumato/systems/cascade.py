"""A cascade is systems in a row: p(x | y) = ∫ p(x | e, y) p(e | y) de, and of all that is drawn

    p(x₁, …, x_n | y) = Π_i p(x_i | those of x₁ … x_{i−1} that i hears, y).

What is drawn is handed on by key: a system that hears the name of an earlier one is given what that one drew, as its
`sample` returns it (pictures, texts, vectors (n, N, D), tokens), and "picture" is the picture drawn last that is not
handed on by its name. What it makes of it, the conditioner knows: it encodes pictures itself where it wants tokens.

In training each sees the same data, images at its own resolution, and its conditioner makes of them what it will be
handed (`Conditioner.made`). So the stages are independent of one another and may be trained in any order, on any
machine. A part that several systems share is one module: trained once, under the first of its names, and stored once.

Sources: a picture, then larger ones, Ho et al. 2021, arXiv:2106.15282; a vector, then a picture of it, Ramesh et al.
2022, arXiv:2204.06125; stable tokens, then a picture's own, Zhu et al. 2024, arXiv:2410.12490.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from sfumato.core.contracts import Batch, Batches, Given, Objective, Terms
from sfumato.core.errors import Misfit, UsageError
from sfumato.core.noise import Noise, derive
from sfumato.core.registry import nearest
from sfumato.core.space import Grid, Space
from sfumato.systems import shown
from sfumato.systems.inputs import check_seeds, keys_of
from sfumato.systems.options import of_each
from sfumato.systems.system import System, Watch


class Cascade(nn.Module):
    """Cascade(small=System, large=System, …): named systems, from the first drawn to the last."""

    def __init__(self, **systems: System):
        super().__init__()
        if len(systems) < 2:
            raise Misfit("A cascade is at least two systems; one alone is a System.")
        self.handed = handed_on(systems)
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
        """What its systems hear, but for what they hand on."""
        return tuple(dict.fromkeys(key for name, _ in self.named() for key in self._asked(name)))

    def _asked(self, name: str) -> list[str]:
        """What a system hears from outside."""
        return [key for key in self.systems[name].hears if key not in self.handed[name]]  # type: ignore[union-attr]

    @property
    def learns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(key for _, system in self.named() for key in system.learns))

    @property
    def space(self) -> Space:
        return self.last.codec.space

    def stages(self) -> dict[str, Objective]:
        """{"small.prior": …, "large.prior": …}: each system's stages, seen at its own resolution; a shared one once."""
        found: dict[int, tuple[str, Objective]] = {}
        for name, system in self.named():
            layout = system.data.shape[-2:] if isinstance(system.data, Grid) else None
            for stage, objective in system.stages().items():
                found.setdefault(id(objective), (f"{name}.{stage}", AtItsOwnSize(objective, layout)))
        return dict(found.values())

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
    ) -> Any:
        """As System.sample, what the last one draws; system i draws with seeds derived from the image's seed and its
        own name. An option is for all systems that have it, or as "large.steps" for one; so is guidance, of those that
        hear anything."""
        drawn = self.sample_each(n, given, guidance=guidance, seeds=seeds, batch=batch, watch=watch, **options)
        return drawn[self.named()[-1][0]]

    def sample_each(
        self,
        n: int = 1,
        given: Given | None = None,
        *,
        guidance: float = 1.0,
        seeds: Iterable[int] | None = None,
        batch: int = 8,
        watch: Watch | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """What every system drew, by its name; see `sample`."""
        roots = check_seeds(n, seeds)
        if wrong := next((key for key in keys_of(given) if key not in self.hears), None):
            advice = nearest(wrong, self.hears) if self.hears else ""
            raise UsageError(f"The cascade is not conditioned on {wrong!r}. {advice}")
        told = of_each({name: system.prior for name, system in self.named()}, options)
        drawn: dict[str, Any] = {}
        for place, (name, system) in enumerate(self.named()):
            own = [derive(seed, name) for seed in roots] if place else roots
            said = {key: value for key, value in (given or {}).items() if key in self._asked(name)}
            said |= {key: drawn[earlier] for key, earlier in self.handed[name].items()}
            scale = {"guidance": guidance if system.hears else 1.0} | told[name]
            drawn[name] = system.sample(n, said, seeds=own, batch=batch, watch=watch, **scale)
        return drawn


def handed_on(systems: Mapping[str, System]) -> dict[str, dict[str, str]]:
    """{system: {key that it hears: the earlier system whose draw it is}}. Misfit for a later one that hears no earlier
    one, and for an earlier one that nobody hears."""
    names, found = list(systems), {}
    for place, (name, system) in enumerate(systems.items()):
        earlier, hears = names[:place], system.hears
        found[name] = {key: key for key in hears if key in earlier}
        pictures = [other for other in earlier if _draws_pictures(systems[other]) and other not in hears]
        if "picture" in hears and "picture" not in earlier and pictures:
            found[name]["picture"] = pictures[-1]
        if place and not found[name]:
            raise Misfit(
                f"{name!r} stands later in a cascade, so it must be conditioned on a picture, or on what an earlier "
                f"system draws, by its name ({', '.join(earlier)}). Give it Picture, or a conditioner with such a key."
            )
    heard = {earlier for keys in found.values() for earlier in keys.values()}
    if lost := next((name for name in names[:-1] if name not in heard), None):
        raise Misfit(
            f"Nothing that stands after {lost!r} in the cascade hears what it draws. Give a later system a conditioner "
            f"with the key {lost!r}, or leave {lost!r} out."
        )
    for name in heard:
        if len(systems[name].entries) > 1:
            raise Misfit(f"{name!r} draws {' and '.join(systems[name].entries)} at once; only one thing is handed on.")
    return found


def _draws_pictures(system: System) -> bool:
    return "image" in system.entries and system.codec.decodes


class AtItsOwnSize(nn.Module):
    """An objective that sees images area-averaged to its own resolution, if it has one; else the one that it wraps."""

    def __init__(self, objective: Objective, layout: tuple[int, ...] | None):
        super().__init__()
        self.objective, self.layout = objective, layout

    def _view(self, batch: Batch) -> Batch:
        image = batch.get("image")
        if image is None or self.layout is None or tuple(image.shape[-2:]) == self.layout:
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
