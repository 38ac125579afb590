"""Paths said by γ = −log SNR, and a schedule for each component: Generation with Unified Diffusion (arXiv:2410.02667).

    α² = sigmoid(−γ),  σ² = sigmoid(γ),  α̇ = −½ α σ² γ̇,  σ̇ = ½ σ α² γ̇,  u = (t − t₀) / (1 − t₀),  t₀ = 1e-4

    path         γ_i(t)
    LogLinear    g₀ + (g₁ − g₀) u                                                the same for all components
    Learned      g₀ + (g₁ − g₀) m(u),  m monotone and learned (VDM, arXiv:2107.00630)
    Staggered    max(clip(b_i − d_i + u Δ,  b_i,  b_i + g₁ − g₀), floor),   Δ = g₁ − g₀ + max_i d_i    (clip: an option)

In Staggered b_i = g₀ + log Σ_i, so that log SNR_i = log Σ_i − γ_i ends at −g₀ and −g₁ for all (or b_i = g₀ where sizes
are left alone). d_i ≥ 0 is how much later component i is noised, hence how much earlier it is drawn:

    d_i = a (log Σ_i − log Σ_min) + (g₁ − g₀) (1 − s) / s · (1 − place_i)

by size, large components first (a = 1 / softness: with a = 1 and no clip all γ_i are equal, which is plain diffusion;
a = 0 draws all at once; a → ∞ one after another), and by place, 0 first and 1 last, where s in (0, 1] is the share of
the time in which one place is active (s = 1: all at once). The floor is noise that no 8-bit picture shows; time in
which all components would wait there is left out.

Noise ends where the data's own spread says, p(z_1) = N(0, α² Σ + σ²) (`matched`), or at N(0, 1). At t = 0 is data.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.core.errors import UsageError
from sfumato.core.noise import Noise
from sfumato.priors.diffusion.path import Level, Path, level

FIRST = 1e-4  # t₀: so near data that a uniform grid of times does not see it
ENOUGH = 50_000  # latents to measure variances on


def time_of(u: Any) -> Any:
    """t, of a number or a tensor; at u = 0 it is t₀."""
    return FIRST + (1 - FIRST) * u


class ByGamma(Path):
    """What these paths share: from (γ, γ̇) to a level."""

    ends = (FIRST, 1.0)
    spread: float | Tensor = 1.0

    def told(self, t: Tensor, z: Tensor) -> Tensor:
        """γ, entry by entry, where components have own schedules: all that visit a state are told the same of it."""
        return t if self.scalar else level(self, t, z).gamma.expand_as(z)

    @abstractmethod
    def rate(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """(γ, dγ/du), which broadcast against a latent where u is (B, 1, …)."""

    def __call__(self, t: Tensor) -> Level:
        gamma, slope = self.rate(((t - FIRST) / (1 - FIRST)).clamp(min=0))
        slope = slope / (1 - FIRST)
        alpha, sigma = torch.sigmoid(-gamma).sqrt(), torch.sigmoid(gamma).sqrt()
        data = t < FIRST / 2
        alpha = torch.where(data, torch.ones_like(alpha), alpha)
        sigma = torch.where(data, torch.zeros_like(sigma), sigma)
        d_alpha, d_sigma = -alpha * sigma.square() * slope / 2, sigma * alpha.square() * slope / 2
        return Level(alpha, sigma, d_alpha, d_sigma, self.spread)


class LogLinear(ByGamma):
    """γ falls evenly from noise to data. `spread` is the data's standard deviation."""

    def __init__(self, low: float = -13.3, high: float = 5.0, spread: float = 1.0):
        self.low, self.high, self.spread = low, high, spread

    def rate(self, u: Tensor) -> tuple[Tensor, Tensor]:
        return self.low + (self.high - self.low) * u, torch.full_like(u, self.high - self.low)

    def time(self, gamma: Tensor) -> Tensor:
        return time_of((gamma - self.low) / (self.high - self.low))


class Staggered(ByGamma, nn.Module):
    """See above. `group` (the latent's shape, int64) says which components' variances are pooled, `place` (the same
    shape, in [0, 1]) in what order they are drawn; None: no order by place.

    size        a, by which the order by size is sharpened; 0: none
    softness    s, of the order by place
    between     what of the two, (low, high), training draws for each picture anew: s where there is a place, else 1 / a
    begun       the share of pictures that training sees with a part, up to a random place, finished and held (Held): so
                a net learns to go on beside what is there, which no softness but the sharpest would show it
    sized       whether Σ_i enters b_i
    """

    scalar = False
    variance: Tensor
    group: Tensor
    place: Tensor | None

    def __init__(
        self,
        group: Tensor,
        place: Tensor | None = None,
        *,
        size: float = 0.0,
        softness: float = 1.0,
        between: tuple[float, float] | None = None,
        begun: float = 0.0,
        low: float = -7.0,
        high: float = 5.0,
        floor: float = -13.3,
        sized: bool = True,
        clip: bool = True,
        matched: bool = True,
    ):
        nn.Module.__init__(self)
        if not 0 < softness <= 1 or size < 0:
            raise UsageError(f"A softness lies in (0, 1] and a size order is not negative; not {softness} and {size}.")
        self.low, self.high, self.size, self.softness, self.between = low, high, size, softness, between
        self.floor, self.sized, self.clip, self.matched = floor, sized, clip, matched
        self.begun = begun
        self.register_buffer("group", group.clone())
        self.register_buffer("variance", torch.ones(group.shape))
        self.register_buffer("place", None if place is None else place.to(torch.float32).clone())
        self.vary: Tensor | None = None  # (B, 1, …): a softness for each picture of a batch

    # ---- the schedule ----

    @property
    def gap(self) -> float:
        return self.high - self.low

    def delay(self, like: Tensor) -> Tensor:
        """d, in the latent's shape, or for each picture of a batch."""
        log_variance = self.variance.to(like).log()
        by_size = log_variance - log_variance.min()
        soft = self.vary
        if self.place is None:
            return by_size * (self.size if soft is None else 1 / soft.to(like))
        soft = torch.as_tensor(self.softness) if soft is None else soft
        soft = soft.to(like)
        return self.size * by_size + self.gap * (1 - soft) / soft * (1 - self.place.to(like))

    def _lines(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(γ at u = 0 before any clipping, dγ/du while it moves, the b that its clips hang on)."""
        base = self.low + self.variance.to(like).log() if self.sized else torch.full_like(self.variance, self.low)
        delay = self.delay(like)
        over = tuple(range(-self.variance.ndim, 0))
        start, slope = base.to(like) - delay, self.gap + delay.amax(over, keepdim=True)
        idle = (self.floor - start.amax(over, keepdim=True)).clamp(min=0)
        return start + idle, slope - idle, base.to(like)

    def rate(self, u: Tensor) -> tuple[Tensor, Tensor]:
        start, slope, base = self._lines(u)
        gamma = start + u * slope
        low, high = base.clamp(min=self.floor), (base + self.gap).clamp(min=self.floor)
        if not self.clip:
            low, high = torch.full_like(base, self.floor), torch.full_like(base, torch.inf)
        moving = (gamma >= low) & (gamma <= high)
        return gamma.clamp(min=low, max=high), torch.where(moving, slope, torch.zeros_like(slope))

    def until(self, like: Tensor) -> Tensor:
        """The u at which each component has become noise and moves no more, in the shape of γ; 1 where none stops."""
        start, slope, base = self._lines(like)
        if not self.clip:
            return torch.ones_like(start)
        return (((base + self.gap).clamp(min=self.floor) - start) / slope).clamp(0, 1)

    @property
    def spread(self) -> Tensor:  # type: ignore[override]
        """One for all components: a net that answers in pictures would have to learn a filter for one each."""
        return self.variance.mean().sqrt()

    @property
    def terminal(self) -> float | Tensor:  # type: ignore[override]
        if not self.matched:
            return 1.0
        end = self(torch.ones((1,) * self.variance.ndim, device=self.variance.device))
        return (end.alpha.square() * self.variance + end.sigma.square()).sqrt()

    # ---- other schedules over the same components ----

    def at(self, softness: float) -> Staggered:
        """The same order, softer or sharper: s where there is a place, else 1 / a."""
        if softness <= 0 or (self.place is not None and softness > 1):
            raise UsageError(f"A softness is positive, and at most 1 for an order by place; not {softness}.")
        other = copy.copy(self)
        other.softness, other.size = (softness, self.size) if self.place is not None else (1.0, 1 / softness)
        return other

    def drawn(self, noise: Noise, like: Tensor) -> ByGamma:
        """A schedule for each picture of a training batch, where training is over a range or beside finished parts."""
        ones, other = [1] * self.variance.ndim, self
        if self.between is not None:
            low, high = self.between
            other = copy.copy(self)
            other.vary = (low + (high - low) * noise.uniform()).to(like).reshape(-1, *ones)
        if not self.begun or self.place is None:
            return other
        chance, edge = noise.uniform(2).to(like).unbind(1)
        edge = torch.where(chance < self.begun, edge, -1.0)
        return Held(other, self.place.to(like) < edge.reshape(-1, *ones))

    @torch.no_grad()
    def fit(self, latents: Iterable[Tensor]) -> None:
        """Σ: the components' mean squares, pooled over groups. Basis and codec have taken the mean away."""
        total, count = torch.zeros_like(self.variance, dtype=torch.float64), 0
        for z in latents:
            total, count = total + z.double().square().sum(0), count + len(z)
            if count >= ENOUGH:
                break
        member = self.group.flatten()
        sums = torch.zeros(int(member.max()) + 1, dtype=torch.float64, device=total.device)
        size = sums.index_add(0, member, torch.ones_like(total.flatten())) * count
        pooled = (sums.index_add(0, member, total.flatten()) / size)[member].reshape(total.shape)
        self.variance.copy_(pooled.clamp(min=1e-8))


class Held(ByGamma):
    """A path whose components under `mask` (the latent's shape, or one for each picture) stay at the level that they
    have at t₀: what is known takes part, as nearly clean as a finished component (GUD's soft conditioning).

    Time in which nothing but the held would move is left out: u runs up to `last` of each picture, where its rest has
    become noise.
    """

    scalar = False

    def __init__(self, path: Staggered, mask: Tensor):
        self.path, self.mask = path, mask
        self.spread, self.terminal = path.spread, path.terminal
        until = path.until(torch.zeros((), device=mask.device))
        free = torch.where(mask, torch.zeros_like(until), until)
        last = free.amax(tuple(range(-path.variance.ndim, 0)), keepdim=free.ndim > path.variance.ndim)
        self.last = torch.where(last > 0, last, torch.ones_like(last))

    def rate(self, u: Tensor) -> tuple[Tensor, Tensor]:
        last = self.last.to(u)
        gamma, slope = self.path.rate(u * last)
        still, _ = self.path.rate(torch.zeros_like(u))
        gamma = torch.where(self.mask, still, gamma)
        return gamma, torch.where(self.mask, torch.zeros_like(gamma), last * slope.expand_as(gamma))


class Learned(ByGamma, nn.Module):
    """m(u) = (n(u) − n(0)) / (n(1) − n(0)),  n(u) = w₁ u + Σ_j v_j sigmoid(w_j u + c_j) with positive w, v.

    The ends g₀, g₁ follow the bound's own gradient. The bound does not depend on what lies between them, but the
    variance of its estimate does, and d E[L²] = E[2 L dL]. So a gradient that reaches m is multiplied by 2 L, the
    picture's own cost, which `weigh` is told; of the bound itself that gradient is zero on average.
    """

    def __init__(self, low: float = -13.3, high: float = 5.0, spread: float = 1.0, hidden: int = 64):
        nn.Module.__init__(self)
        self.ends_of_gamma = nn.Parameter(torch.tensor([low, high]))
        self.linear = nn.Parameter(torch.tensor(0.5413))  # softplus of it is 1
        self.inner = nn.Parameter(torch.linspace(-1.0, 1.0, hidden))
        self.offset = nn.Parameter(torch.linspace(4.0, -4.0, hidden))
        self.outer = nn.Parameter(torch.full((hidden,), -6.0))
        self.spread = spread
        self.cost: Tensor | None = None  # (B, 1, …), set by `weigh` before the backward pass

    def told(self, t: Tensor, z: Tensor) -> Tensor:
        """m, so that the net knows the noise level whatever the schedule has become."""
        low, high = self.ends_of_gamma
        return (level(self, t, z).gamma.reshape(len(z)) - low) / (high - low)

    def weigh(self, cost: Tensor) -> None:
        self.cost = cost.detach()

    def _shape(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """n and its derivative."""
        w = F.softplus(self.inner) * 4
        v, straight = F.softplus(self.outer), F.softplus(self.linear)
        s = torch.sigmoid(u[..., None] * w + self.offset)
        return straight * u + (v * s).sum(-1), straight + (v * w * s * (1 - s)).sum(-1)

    def rate(self, u: Tensor) -> tuple[Tensor, Tensor]:
        dtype = u.dtype
        n, slope = self._shape(u.to(self.linear.dtype))
        ends, _ = self._shape(torch.tensor([0.0, 1.0], device=u.device, dtype=self.linear.dtype))
        whole = ends[1] - ends[0]
        m, d_m = (n - ends[0]) / whole, slope / whole
        for tensor in (m, d_m):
            if tensor.requires_grad and u.ndim > 1 and u.numel() > 1:
                tensor.register_hook(self._amplify)
        low, high = self.ends_of_gamma
        return (low + (high - low) * m).to(dtype), ((high - low) * d_m).to(dtype)

    def _amplify(self, gradient: Tensor) -> Tensor:
        if self.cost is None:
            return gradient
        return gradient * 2 * self.cost.reshape(-1, *[1] * (gradient.ndim - 1))
