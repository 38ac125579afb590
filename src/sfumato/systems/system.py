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
from torch.nn import functional as F

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
from sfumato.core.space import Grid, Tokens, check, size
from sfumato.systems import shown
from sfumato.systems.extend import extend
from sfumato.systems.inputs import as_rows, check_batch, check_images, check_mask, check_seeds, take
from sfumato.systems.options import check_options, check_scale

Watch = Callable[[int, int], None]  # called with (images done, images in all)


class System(nn.Module):
    """codec: Codec; prior: Prior over codec.space or None (a codec alone); conditioner: Conditioner or None.

    Raises Misfit at construction when the prior does not model the kind of latent that the codec yields.
    """

    def __init__(self, codec: Codec, prior: Prior | None = None, conditioner: Conditioner | None = None):
        super().__init__()
        _refuse_misfits(codec, prior, conditioner)
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
        """The prior's terms on the latents of batch["image"] (or on batch["latent"]), given the rest of the batch."""
        prior = self._prior()
        z, rows = batch.get("latent"), batch.get("image", batch.get("latent"))
        assert isinstance(rows, Tensor), "a batch has images or latents"
        noise = Noise.ambient(len(rows), rows.device) if noise is None else noise
        if z is None:
            with torch.no_grad():
                z = self.codec.latent(batch["image"], noise)
        condition = self._heard(batch, len(z), noise)
        if prior.hears_all and self.conditioner is not None:
            condition = replace(condition, full=self._heard(batch, len(z)))
        return prior.loss(z, condition, noise, progress, player)

    def players(self) -> list[list[nn.Parameter]]:
        ours, *others = [[]] if self.prior is None else self.prior.players()
        return [[*ours, *([] if self.conditioner is None else self.conditioner.parameters())], *others]

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
                x = batch.get("image")
                z = batch["latent"] if x is None else self.codec.latent(x, Noise.ambient(len(x), x.device))
                yield z, self._heard(batch, len(z))

        return passed

    def train(self, mode: bool = True) -> System:
        super().train(mode)
        self.codec.eval()  # frozen while a prior learns; its own stage calls codec.train() itself
        return self

    # ---- use ----

    @property
    def device(self) -> torch.device:
        return next((t.device for t in (*self.parameters(), *self.buffers())), torch.device("cpu"))

    @torch.no_grad()
    def encode(self, images: Tensor, batch: int = 64) -> Tensor:
        """(n, C, H, W) in [−1, 1] → latents in codec.space."""
        return self._by_parts(self.codec.encode, check_images(images, self._pictures), batch)

    @torch.no_grad()
    def decode(self, z: Tensor, batch: int = 64) -> Tensor:
        """Latents → (n, C, H, W), clamped to [−1, 1]."""
        return self._by_parts(lambda part: self.codec.decode(part).clamp(-1, 1), self._checked(z), batch)

    def reconstruct(self, images: Tensor, batch: int = 64) -> Tensor:
        return self.decode(self.encode(images, batch), batch)

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
    ) -> Tensor:
        """(n, C, H, W) in [−1, 1]; image i is a function of seeds[i] and row i of `given`, for one `batch` size.

        `given` maps the conditioner's keys to n values each, or to one for all; a label is a number or, where the
        system knows its classes, a name. guidance: p = u + s (c − u); 1 is unguided, 0 unconditional. `known` =
        (latents, mask) holds parts of the latent fixed. Options are the prior's
        own (steps, temperature, top_k, …); an unknown one raises UsageError with the nearest.
        """
        prior, seeds = self._prior(), check_seeds(n, seeds)
        check_options(prior, options)
        images = []
        for rows, noise, condition, null in self.rows(seeds, batch, given, guidance):
            held = None if known is None else (known[0][rows].to(self.device), known[1][rows].to(self.device))
            z = prior.sample(condition, noise, null=null, guidance=guidance, known=held, **options)
            images.append(self.codec.decode(z).clamp(-1, 1))
            if watch is not None:
                watch(min(batch * len(images), n), n)
        return torch.cat(images)[:n]

    def rows(
        self, seeds: Sequence[int], batch: int, given: Given | None = None, guidance: float = 1.0
    ) -> Iterator[tuple[list[int], Noise, Condition, Condition | None]]:
        """What a prior needs to draw an image for each seed, batch by batch: (which rows, their noise, their condition,
        the null condition if there is a conditioner). Priors leave the null alone where nothing is guided. The last
        batch is filled up with its last row: rows of one shape do not sway each other."""
        check_scale(self._prior(), guidance)
        if guidance != 1.0 and self.conditioner is None:
            raise UsageError("Guidance needs a condition, and this system was built without one.")
        check_batch(batch)
        n = len(seeds)
        given = self._said(given, n)
        for start in range(0, n, batch):
            rows = [min(i, n - 1) for i in range(start, start + batch)]
            noise = Noise.each([seeds[i] for i in rows], self.device)
            condition, null = self._condition({key: take(value, rows) for key, value in given.items()}, batch)
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
        images: Tensor,
        given: Given | None = None,
        seeds: Iterable[int] | None = None,
        batch: int = 64,
        **options: Any,
    ) -> Tensor:
        """(n,) nats: of 8-bit values where codec.discrete, else a density on [−1, 1]. See log_prob_kind. Options are
        the prior's own, such as a diffusion's `estimate`."""
        prior, n = self._prior(), len(check_images(images, self._pictures))
        if self.codec.of_values and not prior.discrete:
            raise Misfit(
                f"The latents are 8-bit values, and {type(prior).__name__} has a density, which is no probability of "
                "them. Take the codec `dequantised`, whose likelihood bounds that of the values."
            )
        seeds, given = check_seeds(n, seeds), self._said(given, n)
        nats = []
        for start in range(0, n, batch):
            rows = list(range(start, min(start + batch, n)))
            noise = Noise.each([seeds[i] for i in rows], self.device)
            condition, _ = self._condition({key: take(value, rows) for key, value in given.items()}, len(rows))
            z, weight = self.codec.lift(images[rows].to(self.device), noise)
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
        dims = size(self.codec.data)
        if self.codec.discrete:
            return -self.log_prob(images, given, seeds, batch, **options) / (dims * math.log(2))
        levels = ((check_images(images, self._pictures) + 1) * 127.5).round()
        seeds = check_seeds(len(images), seeds)
        u = Noise.each([derive(seed, "dequantise") for seed in seeds], images.device).uniform(*images.shape[1:])
        nats = self.log_prob((levels + u - 0.5) / 127.5 - 1, given, seeds, batch, **options)
        return -nats / (dims * math.log(2)) + math.log2(127.5)

    def edit(self, images: Tensor, mask: Tensor, given: Given | None = None, **options: Any) -> Tensor:
        """Repaints where mask (n or 1, 1, H, W) is true; every other pixel is returned as it came.

        What of the latent depends on no pixel that is to change is held.
        """
        n = len(check_images(images, self._pictures))
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

    @torch.no_grad()
    def interpolate(
        self, a: Tensor, b: Tensor, frames: int = 8, given: Given | None = None, *, seed: int = 0, **options: Any
    ) -> Tensor:
        """(frames, C, H, W) from image a to image b, each (C, H, W). Frame i draws with seed + i, where it draws.

        Where the prior can be inverted (diffusion, flow), both images go to noise along the deterministic flow and the
        path between is a great circle there (DDIM, arXiv:2010.02502); otherwise the codec blends the two latents.
        """
        if frames < 2:
            raise UsageError(f"An interpolation has at least its two ends as frames, not {frames}.")
        check_seeds(frames, range(seed, seed + frames))
        ends = self.encode(torch.stack([a, b]).to(self.device))
        weights = torch.linspace(0, 1, frames).tolist()
        if self.prior is None or not hasattr(self.prior, "invert"):
            return self.decode(torch.cat([self.codec.blend(ends[:1], ends[1:], w) for w in weights]))
        check_options(self.prior, options)
        given = self._said(given, frames)
        two, _ = self._condition({key: take(value, [0, frames - 1]) for key, value in given.items()}, 2)
        noise_a, noise_b = self.prior.invert(ends, two).unbind(0)  # type: ignore[operator]
        start = torch.stack([slerp(noise_a, noise_b, w) for w in weights])
        condition, _ = self._condition(given, frames)
        z = self.prior.sample(condition, Noise.each(range(seed, seed + frames), self.device), start=start, **options)
        return self.decode(z)

    # ---- the seams ----

    def _prior(self) -> Prior:
        if self.prior is None:
            raise Misfit(
                f"This system is a {type(self.codec).__name__} alone: it encodes and decodes, but has no prior. "
                "Train one over its latents, for instance `sfumato train ldm DATA --from codec=RUN`."
            )
        return self.prior

    def _condition(self, given: Given, rows: int) -> tuple[Condition, Condition | None]:
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

    def _by_parts(self, function: Callable[[Tensor], Tensor], x: Tensor, batch: int) -> Tensor:
        return torch.cat([function(part.to(self.device)) for part in x.split(batch)])

    @property
    def _pictures(self) -> Grid:
        assert isinstance(self.codec.data, Grid)  # looked at in __init__
        return self.codec.data

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

    def _said(self, given: Given | None, n: int) -> dict[str, Any]:
        """`given` as n rows. A system without a condition listens to nothing, and says so."""
        if self.conditioner is None:
            if given:
                raise UsageError(
                    f"The system was built without a condition, so it cannot listen to {next(iter(given))!r}."
                )
            return {}
        return as_rows(given, n, self.classes)


def slerp(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """The great circle between two Gaussian draws, which keeps their norm; weight 0 gives a, 1 gives b."""
    cosine = F.cosine_similarity(a.flatten(), b.flatten(), dim=0).clamp(-1, 1)
    angle = torch.arccos(cosine)
    if angle < 1e-4 or angle > math.pi - 1e-4:  # (anti)parallel: no circle, or no one circle, runs through both
        return torch.lerp(a, b, weight)
    return (torch.sin((1 - weight) * angle) * a + torch.sin(weight * angle) * b) / torch.sin(angle)


def _refuse_misfits(codec: Codec, prior: Prior | None, conditioner: Conditioner | None) -> None:
    if prior is None:
        if conditioner is not None:
            raise Misfit("A condition without a prior has nobody to listen to it. Hand a prior in, or no conditioner.")
        return
    if not isinstance(codec.space, prior.spaces):
        accepted = " or ".join(kind.__name__ for kind in prior.spaces)
        raise Misfit(
            f"{type(prior).__name__} models {accepted}, but {type(codec).__name__} yields {codec.space}. "
            "Choose a prior for that kind of latent, or a codec with another bottleneck."
        )
    if codec.space != prior.space:
        raise Misfit(
            f"{type(prior).__name__} was built for {prior.space}, but {type(codec).__name__} yields {codec.space}. "
            "Build the prior with space=codec.space."
        )
    if not isinstance(codec.data, Grid):
        raise Misfit(f"A system's data are images, a Grid, not {codec.data}.")
