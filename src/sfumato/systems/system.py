"""A system is codec ∘ prior ∘ conditioner = p(x | y).

    x ──codec.encode──▶ z      z ~ prior( · | c)      c = conditioner(y)      z ──codec.decode──▶ x

    log p(x | y) ≥ E[log p(z | c) + w],  (z, w) = codec.lift(x)          exact where codec and prior are

Its stages are trained one by one: "codec" where the codec learns, "prior" where the prior does, the codec being frozen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.core.condition import Condition
from sfumato.core.contracts import (
    Batch,
    Batches,
    Codec,
    Conditioner,
    Given,
    Kind,
    Known,
    Latents,
    Objective,
    Prior,
    Terms,
)
from sfumato.core.errors import Misfit, UsageError
from sfumato.core.noise import Noise, derive
from sfumato.core.registry import nearest
from sfumato.core.space import Space, Tokens, check, size
from sfumato.systems import matter, shown
from sfumato.systems.between import interpolate
from sfumato.systems.extend import extend
from sfumato.systems.inputs import as_rows, check_batch, check_images, check_mask, check_seeds, keys_of, take
from sfumato.systems.misfits import refuse_misfits
from sfumato.systems.options import check_options, check_scale
from sfumato.systems.whole import Watch


class System(nn.Module):
    """codec: Codec; prior: Prior over codec.space or None (a codec alone); conditioner: Conditioner or None.

    Raises Misfit at construction when the prior does not model the kind of latent that the codec yields.
    """

    def __init__(self, codec: Codec, prior: Prior | None = None, conditioner: Conditioner | None = None):
        super().__init__()
        refuse_misfits(codec, prior, conditioner)
        self.codec, self.prior, self.conditioner = codec, prior, conditioner
        self.recipe: dict[str, Any] = {}  # name and dials, set by recipes.build
        self.classes: list[str] = []  # what the labels are called, by their numbers; empty where nobody said

    def __repr__(self) -> str:
        return shown.line(self)

    def _repr_html_(self) -> str:
        return shown.table(self)

    # ---- training: the objective of the stage "prior" ----

    def stages(self) -> dict[str, Objective]:
        """What there is to train, in order. An empty prior stage (Normal has no parameters) is left out."""
        found: dict[str, Objective] = {}
        if self.codec.learned:
            found["codec"] = self.codec.stage
        if self.prior is not None and any(True for _ in self.prior.parameters()):
            found["prior"] = self
        return found

    def loss(self, batch: Batch, player: int = 0, noise: Noise | None = None, progress: float = 1.0) -> Terms:
        """The prior's terms on the latents of what the codec reads (or on batch["latent"]), given the rest."""
        prior, z = self._prior(), batch.get("latent")
        x = self.codec.take(batch) if z is None else z
        noise = Noise.ambient(matter.count(x), self.device) if noise is None else noise
        if z is None:
            with torch.no_grad():
                z = self.codec.latent(x, noise)
        condition = self._heard(batch, len(z), noise)
        if prior.hears_all and self.conditioner is not None:
            condition = replace(condition, full=self._heard(batch, len(z)))
        return prior.loss(z, condition, noise, progress, player)

    def players(self) -> list[list[nn.Parameter]]:
        ours, *others = [[]] if self.prior is None else self.prior.players()
        told = [] if self.conditioner is None else self.conditioner.learns()
        return [list({id(parameter): parameter for parameter in (*ours, *told)}.values()), *others]

    def prepare(self, batches: Batches) -> None:
        self.codec.adapt(batches)
        if self.conditioner is not None:
            self.conditioner.prepare(batches)
        if self.prior is not None:
            self.prior.prepare(self._latents(batches))

    def settle(self, noise: Noise | None = None) -> None:
        self._prior().settle(noise)

    def forget(self) -> None:
        self._prior().forget()

    def finish(self, batches: Batches) -> None:
        self._prior().finish(self._latents(batches))

    def diagnostics(self) -> dict[str, float]:
        return self._prior().diagnostics()

    def _heard(self, batch: Batch, rows: int, noise: Noise | None = None) -> Condition:
        """The condition of a batch of the data; with noise, some of it dropped."""
        return Condition.none(rows) if self.conditioner is None else self.conditioner(batch, noise)

    def _latents(self, batches: Batches) -> Latents:
        """The data as the prior sees them; whoever does not iterate does not pay for the encoding."""

        @torch.no_grad()
        def passed() -> Iterator[tuple[Tensor, Condition]]:
            for batch in batches():
                z = batch.get("latent")
                if z is None:
                    x = self.codec.take(batch)
                    z = self.codec.latent(x, Noise.ambient(matter.count(x), self.device))
                yield z, self._heard(batch, len(z))

        return passed

    def train(self, mode: bool = True) -> System:
        super().train(mode)
        self.codec.eval()  # frozen while a prior learns; its own stage calls codec.train() itself
        return self

    # ---- use ----

    @property
    def data(self) -> Space:
        return self.codec.data

    @property
    def entries(self) -> tuple[str, ...]:
        """What it reads and draws."""
        return matter.entries(self.codec)

    @property
    def hears(self) -> tuple[str, ...]:
        """What may be given when it draws: the condition's entries, and those that fix a part of the latent."""
        return (*self.codec.holds, *(() if self.conditioner is None else self.conditioner.keys))

    @property
    def learns(self) -> tuple[str, ...]:
        """What of a batch its training takes."""
        return matter.wanted(self.codec, self.conditioner)

    @property
    def lacks(self) -> tuple[str, ...]:
        """What it cannot do, though a System can: see systems/abilities.py."""
        draws, decodes = self.prior is not None, self.codec.decodes
        has = {"draws": draws, "decodes": decodes, "reconstructs": decodes, "scores": self.has_log_prob}
        return tuple(name for name, there in has.items() if not there)

    @property
    def device(self) -> torch.device:
        return next((t.device for t in (*self.parameters(), *self.buffers())), torch.device("cpu"))

    @torch.no_grad()
    def encode(self, x: Any, batch: int = 64) -> Tensor:
        """What the codec reads (images (n, C, H, W) in [−1, 1]; texts, n strings) → latents in codec.space."""
        return self._by_parts(self.codec.encode, matter.checked(x, self.codec), batch)

    @torch.no_grad()
    def decode(self, z: Tensor, batch: int = 64) -> Any:
        """Latents → what the codec reads; images clamped to [−1, 1]."""
        return self._by_parts(lambda part: matter.shown(self.codec.decode(part)), self._checked(z), batch)

    def reconstruct(self, x: Any, batch: int = 64) -> Any:
        return self.decode(self.encode(x, batch), batch)

    @torch.no_grad()
    def sample(
        self,
        n: int = 1,
        given: Given | None = None,
        *,
        guidance: float = 1.0,
        seeds: Iterable[int] | None = None,
        batch: int = 8,
        known: Known | None = None,
        watch: Watch | None = None,
        **options: Any,
    ) -> Any:
        """What the codec reads: images (n, C, H, W) in [−1, 1], or n texts; of a codec that does not decode the
        latents, (n, 1, D) of an embedding. Row i is a function of seeds[i] and of row i of `given`, for one `batch`
        size.

        `given` maps the conditioner's keys to n values each, or to one for all; a label is a number or, where the
        system knows its classes, a name. Of a codec that reads two entries one may be given too, and the other is
        drawn; of none both are. guidance: p = u + s (c − u); 1 is unguided, 0 unconditional. `known` = (latents, mask)
        holds parts of the latent fixed. Options are the prior's own (steps, temperature, top_k, …); an unknown one
        raises UsageError with the nearest.
        """
        prior, seeds = self._prior(), check_seeds(n, seeds)
        check_options(prior, options)
        fixed = [key for key in keys_of(given) if key in self.codec.holds]
        if fixed and known is not None:
            raise UsageError(
                f"Parts of the latent are known, so {fixed[0]!r}, which fixes a part of it, cannot be given."
            )
        found = []
        for rows, noise, condition, null in self.rows(seeds, batch, given, guidance):
            more: dict[str, Any] = {}
            if known is not None:
                more["known"] = (known[0][rows].to(self.device), known[1][rows].to(self.device))
            elif fixed:
                more = self._held(given or {}, n, rows, guidance)
            z = prior.sample(condition, noise, null=null, guidance=guidance, **more, **options)
            found.append(matter.drawn(z, self.codec, fixed))
            if watch is not None:
                watch(min(batch * len(found), n), n)
        return matter.of_rows(matter.joined(found), list(range(n)))

    def rows(
        self, seeds: Sequence[int], batch: int, given: Given | None = None, guidance: float = 1.0
    ) -> Iterator[tuple[list[int], Noise, Condition, Condition | None]]:
        """What a prior needs to draw an image for each seed, batch by batch: (which rows, their noise, their condition,
        the null condition if there is a conditioner). Priors leave the null alone where nothing is guided. The last
        batch is filled up with its last row: rows of one shape do not sway each other."""
        check_scale(self._prior(), guidance)
        if guidance != 1.0 and self.conditioner is None and not self.codec.holds:
            raise UsageError("Guidance needs a condition, and this system was built without one.")
        check_batch(batch)
        n = len(seeds)
        given = {key: value for key, value in self.said(given, n).items() if key not in self.codec.holds}
        for start in range(0, n, batch):
            rows = [min(i, n - 1) for i in range(start, start + batch)]
            noise = Noise.each([seeds[i] for i in rows], self.device)
            condition, null = self.condition({key: take(value, rows) for key, value in given.items()}, batch)
            yield rows, noise, condition, null

    @property
    def log_prob_kind(self) -> Kind:
        return "exact" if self.codec.kind == "exact" and self._prior().kind == "exact" else "bound"

    @property
    def has_log_prob(self) -> bool:
        """Whether codec and prior have likelihoods, and of the same thing."""
        prior = self.prior
        if prior is None or prior.kind is None or self.codec.kind is None:
            return False
        return prior.discrete or not self.codec.of_values

    @torch.no_grad()
    def log_prob(
        self,
        x: Any,
        given: Given | None = None,
        seeds: Iterable[int] | None = None,
        batch: int = 64,
        **options: Any,
    ) -> Tensor:
        """(n,) nats of what the codec reads: of 8-bit values or texts where codec.discrete, else a density on [−1, 1].
        See log_prob_kind. Options are the prior's own, such as a diffusion's `estimate`."""
        prior, x = self._prior(), matter.checked(x, self.codec)
        n = matter.count(x)
        if self.codec.of_values and not prior.discrete:
            raise Misfit(
                f"The latents are 8-bit values, and {type(prior).__name__} has a density, which is no probability of "
                "them. Take the codec `dequantised`, whose likelihood bounds that of the values."
            )
        seeds, given = check_seeds(n, seeds), self.said(given, n)
        nats = []
        for start in range(0, n, batch):
            rows = list(range(start, min(start + batch, n)))
            noise = Noise.each([seeds[i] for i in rows], self.device)
            condition, _ = self.condition({key: take(value, rows) for key, value in given.items()}, len(rows))
            z, weight = self.codec.lift(matter.moved(matter.of_rows(x, rows), self.device), noise)
            nats.append(prior.log_prob(z, condition, noise, **options) + weight)
        return torch.cat(nats)

    def bits_per_dim(
        self,
        images: Tensor,
        given: Given | None = None,
        seeds: Iterable[int] | None = None,
        batch: int = 64,
        **options: Any,
    ) -> Tensor:
        """(n,) bits a dimension of 8-bit data, k = round(127.5 (x + 1)).

        A density is evaluated on uniformly dequantised values, x + (u − ½) / 127.5 with bins of 1 / 127.5, which bounds
        the discrete probability (Theis et al. 2016, arXiv:1511.01844): bits = −log₂ p(x) / D + log₂ 127.5.
        """
        dims = size(matter.pictures_of(self.codec))
        if self.codec.discrete:
            return -self.log_prob(images, given, seeds, batch, **options) / (dims * math.log(2))
        levels = ((check_images(images, matter.pictures_of(self.codec)) + 1) * 127.5).round()
        seeds = check_seeds(len(images), seeds)
        u = Noise.each([derive(seed, "dequantise") for seed in seeds], images.device).uniform(*images.shape[1:])
        nats = self.log_prob((levels + u - 0.5) / 127.5 - 1, given, seeds, batch, **options)
        return -nats / (dims * math.log(2)) + math.log2(127.5)

    def edit(self, images: Tensor, mask: Tensor, given: Given | None = None, **options: Any) -> Tensor:
        """Repaints where mask (n or 1, 1, H, W) is true; every other pixel is returned as it came.

        What of the latent depends on no pixel that is to change is held.
        """
        n = len(check_images(images, matter.pictures_of(self.codec)))
        hole = check_mask(mask, images)
        free = self.codec.reach(hole.to(self.device))
        z = self.encode(images)
        painted = self.sample(n, given, known=(z, ~free), **options).to(images.device)
        return torch.where(hole, painted, images)

    def extend(self, images: Tensor, right: int, given: Given | None = None, **options: Any) -> Tensor:
        """Grows pictures (n, C, H, any width) by `right` pixels to the right; see systems/extend.py."""
        return extend(self, images, right, given, **options)

    def upscale(self, images: Tensor, given: Given | None = None, **options: Any) -> Tensor:
        """(n, C, H/f, W/f) → (n, C, H, W) with these area averages, up to the cut at ±1; f is one of codec.factors. The
        coarse part of the latent is known, the details are drawn."""
        return self.sample(len(images), given, known=self.codec.magnify(images.to(self.device)), **options)

    def interpolate(
        self, a: Tensor, b: Tensor, frames: int = 8, given: Given | None = None, *, seed: int = 0, **options: Any
    ) -> Tensor:
        """(frames, C, H, W) from image a to image b, each (C, H, W); see systems/between.py."""
        return interpolate(self, a, b, frames, given, seed=seed, **options)

    # ---- the seams ----

    def _prior(self) -> Prior:
        if self.prior is None:
            raise Misfit(
                f"This system is a {type(self.codec).__name__} alone, which has no prior. "
                "Train one over its latents, for instance `sfumato train ldm DATA --from codec=RUN`."
            )
        return self.prior

    def condition(self, given: Given, rows: int) -> tuple[Condition, Condition | None]:
        """The condition, and the null condition to guide away from. Nothing given is the null condition."""
        if self.conditioner is None:
            return Condition.none(rows), None
        unknown = [key for key in given if key not in (*self.conditioner.keys, "mask")]
        if unknown:
            raise UsageError(
                f"The system is not conditioned on {unknown[0]!r}. {nearest(unknown[0], self.conditioner.keys)}"
            )
        null = self.conditioner.null(rows)
        return self.conditioner(given) if given else null, null

    def _by_parts(self, function: Callable[[Any], Any], x: Any, batch: int) -> Any:
        return matter.joined(function(matter.moved(part, self.device)) for part in matter.parts(x, batch))

    def _held(self, given: Given, n: int, rows: list[int], guidance: float) -> dict[str, Any]:
        """What the prior's sampler is told of the entries that are given, and of what unguided rows hold instead."""
        said = self.said(given, n)
        fixed: dict[str, Any] = {key: take(said[key], rows) for key in said if key in self.codec.holds}
        found = {"known": self.codec.hold(fixed, len(rows))}
        return found if guidance == 1.0 else found | {"null_known": self.codec.hold({}, len(rows))}

    def _checked(self, z: Tensor) -> Tensor:
        """A latent that can be decoded: of the space, finite, and tokens of its alphabet."""
        z = check(self.codec.space, z)
        if isinstance(self.codec.space, Tokens):
            if z.numel() and not 0 <= int(z.min()) <= int(z.max()) < self.codec.space.vocab:
                raise Misfit(
                    f"{self.codec.space} has tokens 0 … {self.codec.space.vocab - 1}, and these run to {z.max()}."
                )
        elif not torch.isfinite(z).all():
            raise Misfit("The latents hold NaN or infinite values.")
        return z

    def said(self, given: Given | None, n: int) -> dict[str, Any]:
        """`given` as n rows. A system without a condition listens to nothing, and says so."""
        if self.conditioner is None:
            deaf = [key for key in keys_of(given) if key not in self.codec.holds]
            if deaf and isinstance(self.codec.reads, tuple) and deaf[0] in self.codec.reads:
                self.codec.hold(as_rows({deaf[0]: (given or {})[deaf[0]]}, n), n)  # raises, and says why it holds none
            if deaf:
                raise UsageError(f"The system was built without a condition, so it cannot listen to {deaf[0]!r}.")
        return as_rows(given, n, self.classes)
