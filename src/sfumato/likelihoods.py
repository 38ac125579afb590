"""Likelihoods: features → distribution. The decoder's p(x|z), and the head of a sequence prior.

    name              log p                                               values    features for c channels
    normal            −(x − μ)² / 2σ² − log σ − ½ log 2π                  density   c, or 2c with a σ per element
    laplace           −|x − μ| / b − log 2b                               density   c, or 2c
    logit-laplace     −|logit v − μ| / b − log 2b v(1 − v) + log dv/dx    density   2c
    mixture           log Σ π_k N(x; μ_k, diag σ_k²)                      density   K (1 + 2c)
    logistic-mixture  log Σ π_k Π_c [F(x + ½ − m_kc) − F(x − ½ − m_kc)]   8-bit     K (1 + 2c + c (c − 1) / 2)
    levels            log softmax(features)[x]                            8-bit     256 c
    bernoulli         log σ(±features)                                    −1 or 1   c
    categorical       log softmax(features)[z]                            tokens    K

A likelihood is a module: `channels(c)` says how many features it wants for c data channels, and calling it on features
(channels at `dim`) gives a distribution with

    log_prob(x)     nats, elementwise; summed over all but the batch it is log p of an image. The mixtures couple the
                    channels, so there `dim` is summed already
    mean            what to show: the mean, or for tokens the mode
    sample(noise)   a draw, row i from row i of the noise
    cooled(T)       of normals, Laplaces and mixtures: the same with every scale T times as large (arXiv:2312.02116)

A density is over x in [−1, 1]; a discrete log-probability is of the 8-bit value k = round((x + 1) · 127.5).
A scale never falls below a floor, by s² ← s² + floor², so that no region of constant colour has infinite density and
the gradient never stops.

Sources: discretised logistics Salimans et al. 2017, arXiv:1701.05517; logit-Laplace Ramesh et al. 2021,
arXiv:2102.12092; learned σ Rybkin et al. 2021, arXiv:2006.13202.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.core.noise import Noise
from sfumato.core.registry import Registry

HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)
STEP = 1 / 127.5  # the distance of two 8-bit values in [−1, 1]
SWIFT = (
    10.0  # a learned global log-scale is 10 θ: Adam moves θ by the rate a step, and the errors fall faster than that
)


class Distribution(Protocol):
    def log_prob(self, x: Tensor) -> Tensor: ...

    @property
    def mean(self) -> Tensor: ...

    def sample(self, noise: Noise) -> Tensor: ...


class Likelihood(nn.Module, ABC):
    """Laws: exp log_prob sums or integrates to one; `log_prob(sample(noise))` is finite."""

    discrete: bool = False  # whether log_prob is of 8-bit or categorical values, not a density on [−1, 1]

    @abstractmethod
    def channels(self, c: int) -> int: ...

    @abstractmethod
    def forward(self, features: Tensor, dim: int = 1) -> Distribution: ...


LIKELIHOODS: Registry[type[Likelihood]] = Registry("likelihood")


def _full(x: Tensor) -> Tensor:
    """Densities are computed in float32 at least: bf16 has three digits, a likelihood's tails need more."""
    return x if x.dtype == torch.float64 else x.float()


def _floored(log_scale: Tensor, floor: float) -> Tensor:
    """½ log(exp(2 log_scale) + floor²)."""
    return torch.logaddexp(2 * log_scale, log_scale.new_tensor(2 * math.log(floor))) / 2


def _cooled(log_scale: Tensor, temperature: float) -> Tensor:
    return log_scale + (math.log(temperature) if temperature > 0 else -math.inf)


def _draw(kind: str, noise: Noise, like: Tensor) -> Tensor:
    return getattr(noise, kind)(*like.shape[1:]).to(like)


def _laplace(noise: Noise, like: Tensor) -> Tensor:
    """Standard Laplace, by the inverse of its distribution function; u is kept off ±½, so the draw is finite."""
    u = (_draw("uniform", noise, like) - 0.5).clamp(min=-0.5 + 2.0**-25)
    return -u.sign() * torch.log1p(-2 * u.abs())


# ── densities ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class NormalOf:
    mean: Tensor
    log_scale: Tensor

    def log_prob(self, x: Tensor) -> Tensor:
        return -((x - self.mean) * (-self.log_scale).exp()).square() / 2 - self.log_scale - HALF_LOG_TAU

    def sample(self, noise: Noise) -> Tensor:
        return self.mean + self.log_scale.exp() * _draw("normal", noise, self.mean)

    def cooled(self, temperature: float) -> NormalOf:
        return replace(self, log_scale=_cooled(self.log_scale, temperature))


@dataclass(frozen=True)
class LaplaceOf:
    mean: Tensor
    log_scale: Tensor

    def log_prob(self, x: Tensor) -> Tensor:
        return -(x - self.mean).abs() * (-self.log_scale).exp() - self.log_scale - math.log(2)

    def sample(self, noise: Noise) -> Tensor:
        return self.mean + self.log_scale.exp() * _laplace(noise, self.mean)

    def cooled(self, temperature: float) -> LaplaceOf:
        return replace(self, log_scale=_cooled(self.log_scale, temperature))


Scale = float | Literal["global", "element"]


class _LocationScale(Likelihood):
    """A centre from the features, and a scale that is a number, one learned number ("global") or from the features too
    ("element")."""

    of: type[NormalOf] | type[LaplaceOf]

    def __init__(self, scale: Scale = "global", floor: float = STEP):
        super().__init__()
        if isinstance(scale, str) and scale not in ("global", "element"):
            raise ValueError(f'The scale is a positive number, "global" or "element", not {scale!r}.')
        if not isinstance(scale, str) and scale <= 0:
            raise ValueError(f"The scale must be positive, not {scale}.")
        self.scale, self.floor = scale, floor
        self.log_scale = nn.Parameter(torch.zeros(())) if scale == "global" else None

    def channels(self, c: int) -> int:
        return 2 * c if self.scale == "element" else c

    def forward(self, features: Tensor, dim: int = 1) -> Distribution:
        features = _full(features)
        if isinstance(self.scale, float | int):
            return self.of(features, features.new_tensor(math.log(self.scale)).expand_as(features))
        if self.log_scale is not None:
            log_scale = _floored(SWIFT * self.log_scale, self.floor)
            return self.of(features, log_scale.to(features).expand_as(features))
        mean, log_scale = features.chunk(2, dim)
        return self.of(mean, _floored(log_scale, self.floor))


@LIKELIHOODS.add("normal")
class Normal(_LocationScale):
    of = NormalOf


@LIKELIHOODS.add("laplace")
class Laplace(_LocationScale):
    """With scale 1 its nats are the mean absolute error and a constant: VQGAN's pixel term."""

    of = LaplaceOf


@dataclass(frozen=True)
class LogitLaplaceOf:
    centre: Tensor
    log_scale: Tensor
    margin: float

    def _squeeze(self, x: Tensor) -> Tensor:
        return (1 - 2 * self.margin) * (x + 1) / 2 + self.margin

    def _show(self, logit: Tensor) -> Tensor:
        v = (logit.sigmoid() - self.margin) / (1 - 2 * self.margin)
        return (2 * v - 1).clamp(-1, 1)

    def log_prob(self, x: Tensor) -> Tensor:
        v = self._squeeze(x)
        distance = (v.logit() - self.centre).abs() * (-self.log_scale).exp()
        volume = math.log((1 - 2 * self.margin) / 2)  # dv/dx
        return volume - distance - self.log_scale - math.log(2) - v.log() - torch.log1p(-v)

    @property
    def mean(self) -> Tensor:
        return self._show(self.centre)

    def sample(self, noise: Noise) -> Tensor:
        return self._show(self.centre + self.log_scale.exp() * _laplace(noise, self.centre))


@LIKELIHOODS.add("logit-laplace")
class LogitLaplace(Likelihood):
    """dVAE's: v = (1 − 2ε)(x + 1)/2 + ε has a Laplace-distributed logit, so that no mass is far outside the colours.

    It integrates to one over v in (0, 1), which is x in ±1/(1 − 2ε), and is finite at x = ±1. What is shown is the
    median, clamped to [−1, 1]; the paper shows the same.
    """

    def __init__(self, margin: float = 0.1, floor: float = 0.01):
        super().__init__()
        self.margin, self.floor = margin, floor

    def channels(self, c: int) -> int:
        return 2 * c

    def forward(self, features: Tensor, dim: int = 1) -> Distribution:
        centre, log_scale = _full(features).chunk(2, dim)
        return LogitLaplaceOf(centre, _floored(log_scale, self.floor), self.margin)


@dataclass(frozen=True)
class MixtureOf:
    """logits (…, K), means and log_scales (…, K, c); `dim` is where x has its channels."""

    logits: Tensor
    means: Tensor
    log_scales: Tensor
    dim: int

    def log_prob(self, x: Tensor) -> Tensor:
        parts = NormalOf(self.means, self.log_scales).log_prob(x.movedim(self.dim, -1).unsqueeze(-2)).sum(-1)
        return torch.logsumexp(self.logits.log_softmax(-1) + parts, -1)

    @property
    def mean(self) -> Tensor:
        return (self.logits.softmax(-1).unsqueeze(-1) * self.means).sum(-2).movedim(-1, self.dim)

    def sample(self, noise: Noise) -> Tensor:
        k = (self.logits + _draw("gumbel", noise, self.logits)).argmax(-1)
        k = k[..., None, None].expand(*k.shape, 1, self.means.shape[-1])
        chosen = NormalOf(self.means.gather(-2, k).squeeze(-2), self.log_scales.gather(-2, k).squeeze(-2))
        return chosen.sample(noise).movedim(-1, self.dim)

    def cooled(self, temperature: float) -> MixtureOf:
        return replace(self, log_scales=_cooled(self.log_scales, temperature))


@LIKELIHOODS.add("mixture")
class Mixture(Likelihood):
    """K diagonal Gaussians over the c channels together: a head for sequences of continuous latents."""

    def __init__(self, components: int = 8, floor: float = 1e-3):
        super().__init__()
        self.components, self.floor = components, floor

    def channels(self, c: int) -> int:
        return self.components * (1 + 2 * c)

    def forward(self, features: Tensor, dim: int = 1) -> Distribution:
        h = _full(features).movedim(dim, -1)
        logits, rest = h[..., : self.components], h[..., self.components :]
        means, log_scales = rest.unflatten(-1, (self.components, -1)).chunk(2, -1)
        return MixtureOf(logits, means, _floored(log_scales, self.floor), dim)


# ── discrete values ──────────────────────────────────────────────────────────────────────────────────────────────────


def to_levels(x: Tensor, levels: int = 256) -> Tensor:
    """[−1, 1] → 0 … levels − 1, the nearest of the evenly spaced values."""
    return ((x + 1) * ((levels - 1) / 2)).round().long().clamp(0, levels - 1)


def from_levels(k: Tensor, levels: int = 256, dtype: torch.dtype = torch.float32) -> Tensor:
    return k.to(dtype) / ((levels - 1) / 2) - 1


def _log_difference(upper: Tensor, lower: Tensor, width: Tensor) -> Tensor:
    """log(σ(upper) − σ(lower)), width = upper − lower, by σ(a) − σ(b) = σ(a) σ(−b) (1 − e^(b − a))."""
    return F.logsigmoid(upper) + F.logsigmoid(-lower) + torch.log(-torch.expm1(-width))


@dataclass(frozen=True)
class LogisticMixtureOf:
    """logits (…, K); means, log_scales (…, K, c); coefficients (…, K, c (c − 1) / 2): how far each channel follows the
    channels before it."""

    logits: Tensor
    means: Tensor
    log_scales: Tensor
    coefficients: Tensor
    dim: int

    def _centre(self, c: int, before: Tensor) -> Tensor:
        """m_kc plus what the channels before it say; before (…, K or 1, c)."""
        first = c * (c - 1) // 2
        return self.means[..., c] + (self.coefficients[..., first : first + c] * before).sum(-1)

    def log_prob(self, x: Tensor) -> Tensor:
        x = from_levels(to_levels(x), dtype=self.means.dtype).movedim(self.dim, -1).unsqueeze(-2)
        total = self.logits.log_softmax(-1)
        for c in range(self.means.shape[-1]):
            gap, precision = x[..., c] - self._centre(c, x[..., :c]), (-self.log_scales[..., c]).exp()
            upper, lower = (gap + STEP / 2) * precision, (gap - STEP / 2) * precision
            inside = _log_difference(upper, lower, STEP * precision)
            # the darkest and the brightest value own the tails: so the 256 probabilities sum to one
            tails = torch.where(x[..., c] < -1 + STEP / 2, F.logsigmoid(upper), F.logsigmoid(-lower))
            total = total + torch.where(x[..., c].abs() > 1 - STEP / 2, tails, inside)
        return torch.logsumexp(total, -1)

    @property
    def mean(self) -> Tensor:
        """The mean of the means, each channel following the means of those before it; in [−1, 1]."""
        found: list[Tensor] = []
        for c in range(self.means.shape[-1]):
            before = torch.stack(found, -1) if found else self.means[..., :0]
            found.append(self._centre(c, before).clamp(-1, 1))
        return (self.logits.softmax(-1).unsqueeze(-1) * torch.stack(found, -1)).sum(-2).movedim(-1, self.dim)

    def sample(self, noise: Noise) -> Tensor:
        k = (self.logits + _draw("gumbel", noise, self.logits)).argmax(-1, keepdim=True)
        x = self.means.new_zeros((*self.logits.shape[:-1], 0))
        for c in range(self.means.shape[-1]):
            centre = self._centre(c, x.unsqueeze(-2)).gather(-1, k).squeeze(-1)
            u = _draw("uniform", noise, centre).clamp(2.0**-24, 1 - 2.0**-24)
            drawn = centre + self.log_scales[..., c].gather(-1, k).squeeze(-1).exp() * u.logit()
            # the next channel follows the 8-bit value, as it does in log_prob
            x = torch.cat([x, from_levels(to_levels(drawn), dtype=x.dtype).unsqueeze(-1)], -1)
        return x.movedim(-1, self.dim)


@LIKELIHOODS.add("logistic-mixture")
class DiscretisedLogisticMixture(Likelihood):
    """8-bit colours as K logistic bumps, each bump's channels following one another linearly."""

    discrete = True

    def __init__(self, components: int = 10, floor: float = math.exp(-7)):
        super().__init__()
        self.components, self.floor = components, floor

    def channels(self, c: int) -> int:
        return self.components * (1 + 2 * c + c * (c - 1) // 2)

    def forward(self, features: Tensor, dim: int = 1) -> Distribution:
        h, k = _full(features).movedim(dim, -1), self.components
        rest = h[..., k:].unflatten(-1, (k, -1))
        c = next(c for c in range(1, rest.shape[-1] + 1) if 2 * c + c * (c - 1) // 2 >= rest.shape[-1])
        means, log_scales, coefficients = rest.split([c, c, c * (c - 1) // 2], -1)
        return LogisticMixtureOf(h[..., :k], means, _floored(log_scales, self.floor), coefficients.tanh(), dim)


@dataclass(frozen=True)
class CategoricalOf:
    """logits (…, K): the alphabet comes last."""

    logits: Tensor

    def log_prob(self, x: Tensor) -> Tensor:
        return self.logits.log_softmax(-1).gather(-1, x.unsqueeze(-1)).squeeze(-1)

    @property
    def mean(self) -> Tensor:
        """The mode: tokens have no mean."""
        return self.logits.argmax(-1)

    def sample(self, noise: Noise) -> Tensor:
        return (self.logits + _draw("gumbel", noise, self.logits)).argmax(-1)


@LIKELIHOODS.add("categorical")
class Categorical(Likelihood):
    """One of K tokens: features (B, N, K) with dim −1, z (B, N)."""

    discrete = True

    def __init__(self, vocab: int):
        super().__init__()
        self.vocab = vocab

    def channels(self, c: int = 1) -> int:
        return c * self.vocab

    def forward(self, features: Tensor, dim: int = 1) -> CategoricalOf:
        return CategoricalOf(_full(features).movedim(dim, -1))


@dataclass(frozen=True)
class LevelsOf:
    """logits (…, L) with x's own dimensions before L."""

    logits: Tensor

    def log_prob(self, x: Tensor) -> Tensor:
        return CategoricalOf(self.logits).log_prob(to_levels(x, self.logits.shape[-1]))

    @property
    def mean(self) -> Tensor:
        levels = self.logits.shape[-1]
        values = from_levels(torch.arange(levels, device=self.logits.device), levels).to(self.logits)
        return (self.logits.softmax(-1) * values).sum(-1)

    def sample(self, noise: Noise) -> Tensor:
        return from_levels(CategoricalOf(self.logits).sample(noise), self.logits.shape[-1]).to(self.logits)


@LIKELIHOODS.add("levels")
class Levels(Likelihood):
    """Each channel one of 256 values, with no notion of nearness: features (B, c · 256, H, W), channel-major."""

    discrete = True

    def __init__(self, levels: int = 256):
        super().__init__()
        self.levels = levels

    def channels(self, c: int) -> int:
        return c * self.levels

    def forward(self, features: Tensor, dim: int = 1) -> Distribution:
        dim = dim % features.ndim
        return LevelsOf(_full(features).unflatten(dim, (-1, self.levels)).movedim(dim + 1, -1))


@dataclass(frozen=True)
class BernoulliOf:
    logits: Tensor

    def log_prob(self, x: Tensor) -> Tensor:
        return F.logsigmoid(torch.where(x > 0, self.logits, -self.logits))

    @property
    def mean(self) -> Tensor:
        return 2 * self.logits.sigmoid() - 1

    def sample(self, noise: Noise) -> Tensor:
        return torch.where(_draw("uniform", noise, self.logits) < self.logits.sigmoid(), 1.0, -1.0).to(self.logits)


@LIKELIHOODS.add("bernoulli")
class Bernoulli(Likelihood):
    """Binary pictures: x = 1 with probability σ(features), else −1. Other values count by their sign."""

    discrete = True

    def channels(self, c: int) -> int:
        return c

    def forward(self, features: Tensor, dim: int = 1) -> Distribution:
        return BernoulliOf(_full(features))
