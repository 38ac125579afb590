"""Densities around a centre, with a width: Normal, Laplace, and dVAE's Laplace of logits."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from sfumato.core.noise import Noise
from sfumato.likelihoods.contract import LIKELIHOODS, Distribution, Likelihood
from sfumato.likelihoods.numbers import HALF_LOG_TAU, STEP, cooled, draw, floored, full, laplace

SWIFT = (
    10.0  # a learned global log-scale is 10 θ: Adam moves θ by the rate a step, and the errors fall faster than that
)


@dataclass(frozen=True)
class NormalOf:
    mean: Tensor
    log_scale: Tensor

    def log_prob(self, x: Tensor) -> Tensor:
        return -((x - self.mean) * (-self.log_scale).exp()).square() / 2 - self.log_scale - HALF_LOG_TAU

    def sample(self, noise: Noise) -> Tensor:
        return self.mean + self.log_scale.exp() * draw("normal", noise, self.mean)

    def cooled(self, temperature: float) -> NormalOf:
        return replace(self, log_scale=cooled(self.log_scale, temperature))


@dataclass(frozen=True)
class LaplaceOf:
    mean: Tensor
    log_scale: Tensor

    def log_prob(self, x: Tensor) -> Tensor:
        return -(x - self.mean).abs() * (-self.log_scale).exp() - self.log_scale - math.log(2)

    def sample(self, noise: Noise) -> Tensor:
        return self.mean + self.log_scale.exp() * laplace(noise, self.mean)

    def cooled(self, temperature: float) -> LaplaceOf:
        return replace(self, log_scale=cooled(self.log_scale, temperature))


Scale = float | Literal["global", "element"]


class LocationScale(Likelihood):
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
        features = full(features)
        if isinstance(self.scale, float | int):
            return self.of(features, features.new_tensor(math.log(self.scale)).expand_as(features))
        if self.log_scale is not None:
            log_scale = floored(SWIFT * self.log_scale, self.floor)
            return self.of(features, log_scale.to(features).expand_as(features))
        mean, log_scale = features.chunk(2, dim)
        return self.of(mean, floored(log_scale, self.floor))


@LIKELIHOODS.add("normal")
class Normal(LocationScale):
    of = NormalOf


@LIKELIHOODS.add("laplace")
class Laplace(LocationScale):
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
        return self._show(self.centre + self.log_scale.exp() * laplace(noise, self.centre))


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
        centre, log_scale = full(features).chunk(2, dim)
        return LogitLaplaceOf(centre, floored(log_scale, self.floor), self.margin)
