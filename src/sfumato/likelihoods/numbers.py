"""The small sentences of likelihoods: scales with a floor, draws row by row, 8-bit values and back."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sfumato.core.noise import Noise

HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)
STEP = 1 / 127.5  # the distance of two 8-bit values in [−1, 1]


def full(x: Tensor) -> Tensor:
    """Densities are computed in float32 at least: bf16 has three digits, a likelihood's tails need more."""
    return x if x.dtype == torch.float64 else x.float()


def floored(log_scale: Tensor, floor: float) -> Tensor:
    """½ log(exp(2 log_scale) + floor²)."""
    return torch.logaddexp(2 * log_scale, log_scale.new_tensor(2 * math.log(floor))) / 2


def cooled(log_scale: Tensor, temperature: float) -> Tensor:
    return log_scale + (math.log(temperature) if temperature > 0 else -math.inf)


def draw(kind: str, noise: Noise, like: Tensor) -> Tensor:
    return getattr(noise, kind)(*like.shape[1:]).to(like)


def laplace(noise: Noise, like: Tensor) -> Tensor:
    """Standard Laplace, by the inverse of its distribution function; u is kept off ±½, so the draw is finite."""
    u = (draw("uniform", noise, like) - 0.5).clamp(min=-0.5 + 2.0**-25)
    return -u.sign() * torch.log1p(-2 * u.abs())


def to_levels(x: Tensor, levels: int = 256) -> Tensor:
    """[−1, 1] → 0 … levels − 1, the nearest of the evenly spaced values."""
    return ((x + 1) * ((levels - 1) / 2)).round().long().clamp(0, levels - 1)


def from_levels(k: Tensor, levels: int = 256, dtype: torch.dtype = torch.float32) -> Tensor:
    return k.to(dtype) / ((levels - 1) / 2) - 1
