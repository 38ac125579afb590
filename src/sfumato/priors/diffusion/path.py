"""Paths from data to noise.

    z_t = α(t) x + σ(t) ε,   ε ~ N(0, I),   t ∈ [0, 1]:  t = 0 is data (α = 1, σ = 0),  t = 1 is noise

    path          α                 σ              source
    tabulated     √ᾱ(t)             √(1 − ᾱ(t))    DDPM, Ho et al. 2020, arXiv:2006.11239
    EDM           1                 σ_max t^ρ      Karras et al. 2022, arXiv:2206.00364
    rectified     1 − t             t              Liu 2022, arXiv:2209.03003; Lipman 2022, arXiv:2210.02747
    by γ          √sigmoid(−γ(t))   √sigmoid(γ(t)) Kingma et al. 2021, arXiv:2107.00630; gamma.py, also per component

A path is a function of t, entry by entry, and a level's numbers broadcast against the latent: t is shaped (B, 1, …, 1),
and a path with an own schedule for each component (GUD, arXiv:2410.02667) returns levels of shape (B, …). Derivatives
with respect to t are written out. γ = log σ²/α² = −log SNR is the knob on which all scalar paths look alike.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sfumato.core.contracts import Known
from sfumato.core.errors import Misfit
from sfumato.core.noise import Noise
from sfumato.core.tensors import against


@dataclass(frozen=True)
class Level:
    """Where a path is at time t. `spread` is the standard deviation of x that preconditioning reckons with, one for all
    entries or one for each."""

    alpha: Tensor
    sigma: Tensor
    d_alpha: Tensor
    d_sigma: Tensor
    spread: float | Tensor = 1.0

    @property
    def gamma(self) -> Tensor:
        return 2 * (self.sigma.log() - self.alpha.log())

    @property
    def d_gamma(self) -> Tensor:
        return 2 * (self.d_sigma / self.sigma - self.d_alpha / self.alpha)

    @property
    def std(self) -> Tensor:
        """Of z, where x has standard deviation `spread`."""
        return (self.alpha.square() * self.spread**2 + self.sigma.square()).sqrt()


class Path(ABC):
    """t → Level, and what belongs to a path beside its formula.

    ends      between these times log SNR is finite; likelihoods integrate over them, and training draws from them
    top       where sampling starts
    terminal  the standard deviation of p(z_top) = N(0, terminal²)
    grid      the time grid (solvers.times) that suits it
    scaled    whether the network sees z / level.std (unit variance) instead of z
    scalar    whether all components share one schedule
    """

    ends: tuple[float, float]
    top: float = 1.0
    terminal: float | Tensor = 1.0
    grid: str = "uniform"
    scaled: bool = False
    scalar: bool = True

    @abstractmethod
    def __call__(self, t: Tensor) -> Level: ...

    def told(self, t: Tensor, z: Tensor) -> Tensor:
        """What the network is told about the noise in z at times t (B,)."""
        return t

    def drawn(self, noise: Noise, z: Tensor) -> Path:
        """The path for a batch z in training; another for each picture where training is over a range of paths."""
        return self

    def draw(self, u: Tensor) -> Tensor:
        """Training times of uniform numbers u in [0, 1): evenly between the ends."""
        low, high = self.ends
        return low + (high - low) * u

    def time(self, gamma: Tensor) -> Tensor:
        """The t at which the path has that γ: by bisection, since γ grows with t."""
        if not self.scalar:
            raise Misfit(
                f"{type(self).__name__} has a schedule for each component, so no one time has a given log SNR."
            )
        weights = next(self.parameters(), None) if isinstance(self, nn.Module) else None  # a learned path's
        wanted = gamma.to("cpu" if weights is None else weights.device, torch.float64)
        low, high = torch.zeros_like(wanted), torch.ones_like(wanted)
        for _ in range(52):  # one bit of a float64 each
            middle = (low + high) / 2
            below = self(middle).gamma < wanted
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return ((low + high) / 2).to(gamma)


def level(path: Path, t: Tensor, z: Tensor) -> Level:
    """The path's level at times t (B,), ready to broadcast against z (B, …)."""
    return path(against(t, z))


def begun(path: Path, t: Tensor, eps: Tensor, known: Known | None) -> Tensor:
    """The latent where a path begins, at t (): noise of its terminal size, and what is known at its level there."""
    z = torch.as_tensor(path.terminal).to(eps) * eps
    if known is None:
        return z
    value, mask = known
    first = level(path, t.expand(len(eps)), eps)
    return torch.where(mask, first.alpha * value + first.sigma * eps, z)


class Tabulated(Path):
    """A discrete chain β_1 … β_T made continuous: ᾱ(k/T) = Π_{i ≤ k} (1 − β_i) exactly, for every k.

    Between the knots ℓ = log ᾱ is a cubic with harmonic-mean slopes (Fritsch & Butland 1984), hence monotone with a
    continuous derivative: α = e^{ℓ/2}, σ = √(1 − e^ℓ), α̇ = α ℓ̇ / 2, σ̇ = −α² ℓ̇ / 2σ. Working on ℓ keeps σ precise near
    t = 0.
    """

    def __init__(self, betas: Tensor, faintest: float = 10.2):
        """`faintest` is the γ at which sampling starts at the latest (DDPM's linear chain ends at 10.1): a chain that
        goes on to almost nothing (cosine) would multiply the error of a predicted noise by 1/α."""
        betas = betas.to("cpu", torch.float64)
        if betas.ndim != 1 or len(betas) < 2 or not bool(((betas > 0) & (betas < 1)).all()):
            raise ValueError("A chain needs at least two β, each between 0 and 1.")
        rise = torch.log1p(-betas)
        slope = torch.cat([rise[:1], 2 * rise[:-1] * rise[1:] / (rise[:-1] + rise[1:]), rise[-1:]])
        knots = torch.cat([torch.zeros(1, dtype=torch.float64, device="cpu"), rise.cumsum(0)])
        left, right = slope[:-1], slope[1:]
        # ℓ(k + u) = knot + u (c₁ + u (c₂ + u c₃)) for the piece from k to k + 1.
        pieces = torch.stack([knots[:-1], left, 3 * rise - 2 * left - right, left + right - 2 * rise])
        self.steps = len(betas)
        self._tables = {(torch.device("cpu"), torch.float64): pieces}
        gamma = torch.log(torch.expm1(-knots[1:]))
        last = max(2, int((gamma <= faintest).sum()))
        self.top = last / self.steps
        self.ends = (1 / self.steps, self.top)

    def _pieces(self, like: Tensor) -> Tensor:
        key = (like.device, like.dtype)
        if key not in self._tables:
            self._tables[key] = self._tables[torch.device("cpu"), torch.float64].to(like)
        return self._tables[key]

    def __call__(self, t: Tensor) -> Level:
        at = t * self.steps
        k = at.detach().long().clamp(0, self.steps - 1)
        u = at - k
        knot, c1, c2, c3 = self._pieces(t)[:, k]
        ell = knot + u * (c1 + u * (c2 + u * c3))
        d_ell = self.steps * (c1 + u * (2 * c2 + u * 3 * c3))
        alpha, sigma = (ell / 2).exp(), (-torch.expm1(ell)).sqrt()
        return Level(alpha, sigma, alpha * d_ell / 2, -alpha.square() * d_ell / (2 * sigma))


def linear(steps: int = 1000) -> Tabulated:
    """DDPM: β from 1e-4 to 0.02 over 1000 steps, and by 1000 / T as much in each of T steps."""
    scale = 1000 / steps
    return Tabulated(torch.linspace(1e-4 * scale, 0.02 * scale, steps, dtype=torch.float64, device="cpu"))


def scaled_linear(low: float = 0.00085, high: float = 0.012, steps: int = 1000) -> Tabulated:
    """Latent diffusion (arXiv:2112.10752), which calls it "linear": √β is linear. 0.0015 to 0.0195 for its ImageNet
    models, 0.00085 to 0.012 for the one given text."""
    return Tabulated(torch.linspace(low**0.5, high**0.5, steps, dtype=torch.float64, device="cpu").square())


def cosine(steps: int = 1000, offset: float = 0.008) -> Tabulated:
    """Nichol & Dhariwal 2021, arXiv:2102.09672: ᾱ = cos²(π/2 · (t + s)/(1 + s)), up to its value at 0; β ≤ 0.999, which
    only binds in the last step and keeps α(1) off zero."""
    t = torch.arange(steps + 1, dtype=torch.float64, device="cpu") / steps
    bar = torch.cos((t + offset) / (1 + offset) * math.pi / 2).square()
    return Tabulated((1 - bar[1:] / bar[:-1]).clamp(max=0.999))


class EDM(Path):
    """α = 1, σ = σ_max t^ρ. Even steps in t are then the ρ-grid of the paper; σ_min sits at t = (σ_min/σ_max)^{1/ρ}.
    Training draws log σ ~ N(mean, std²). The network sees z / √(σ² + spread²) and t; with target "edm" it predicts a
    quantity of unit variance at every level, so that it stays ignorant of the noise's size."""

    terminal: float
    grid = "karras"
    scaled = True

    def __init__(
        self,
        low: float = 0.002,
        high: float = 80.0,
        rho: float = 7.0,
        spread: float = 0.5,
        mean: float = -1.2,
        std: float = 1.2,
    ):
        self.high, self.rho, self.spread, self.mean, self.std = high, rho, spread, mean, std
        self.ends = ((low / high) ** (1 / rho), 1.0)
        self.terminal = high

    def __call__(self, t: Tensor) -> Level:
        sigma = self.high * t**self.rho
        return Level(
            torch.ones_like(t), sigma, torch.zeros_like(t), self.high * self.rho * t ** (self.rho - 1), self.spread
        )

    def draw(self, u: Tensor) -> Tensor:
        normal = torch.special.ndtri(u.clamp(2.0**-25, 1 - 2.0**-24))
        return self.time(2 * (self.mean + self.std * normal)).clamp(max=1.0)

    def time(self, gamma: Tensor) -> Tensor:
        return ((gamma / 2 - math.log(self.high)) / self.rho).exp()


class Rectified(Path):
    """α = 1 − t, σ = t: straight lines, velocity ε − x. Training times are even, or with `logit_normal` (mean, std)
    t = sigmoid(N(mean, std²)), which favours the middle (Esser et al. 2024, arXiv:2403.03206)."""

    ends = (1e-3, 1 - 1e-3)

    def __init__(self, logit_normal: tuple[float, float] | None = None):
        self.logit_normal = logit_normal

    def __call__(self, t: Tensor) -> Level:
        return Level(1 - t, t, -torch.ones_like(t), torch.ones_like(t))

    def draw(self, u: Tensor) -> Tensor:
        if self.logit_normal is None:
            return super().draw(u)
        mean, std = self.logit_normal
        return torch.sigmoid(mean + std * torch.special.ndtri(u.clamp(2.0**-25, 1 - 2.0**-24)))

    def time(self, gamma: Tensor) -> Tensor:
        return torch.sigmoid(gamma / 2)
