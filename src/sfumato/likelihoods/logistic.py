"""Probabilities of 8-bit colours by mixtures of logistic bumps (arXiv:1701.05517)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.core.noise import Noise
from sfumato.likelihoods.contract import LIKELIHOODS, Distribution, Likelihood
from sfumato.likelihoods.numbers import STEP, draw, floored, from_levels, full, to_levels


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
        k = (self.logits + draw("gumbel", noise, self.logits)).argmax(-1, keepdim=True)
        x = self.means.new_zeros((*self.logits.shape[:-1], 0))
        for c in range(self.means.shape[-1]):
            centre = self._centre(c, x.unsqueeze(-2)).gather(-1, k).squeeze(-1)
            u = draw("uniform", noise, centre).clamp(2.0**-24, 1 - 2.0**-24)
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
        h, k = full(features).movedim(dim, -1), self.components
        rest = h[..., k:].unflatten(-1, (k, -1))
        c = next(c for c in range(1, rest.shape[-1] + 1) if 2 * c + c * (c - 1) // 2 >= rest.shape[-1])
        means, log_scales, coefficients = rest.split([c, c, c * (c - 1) // 2], -1)
        return LogisticMixtureOf(h[..., :k], means, floored(log_scales, self.floor), coefficients.tanh(), dim)
