"""Small tensor sentences that every room says: per-image sums and means, a (B,) against a latent, more digits."""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def per_image(x: Tensor) -> Tensor:
    """Sum over everything but the batch: (B, …) → (B,)."""
    return x.flatten(1).sum(1) if x.ndim > 1 else x


def mean_per_image(x: Tensor) -> Tensor:
    """Mean over everything but the batch: (B, …) → (B,)."""
    return x.flatten(1).mean(1) if x.ndim > 1 else x


def against(value: Tensor, like: Tensor) -> Tensor:
    """A (B,) with trailing ones, so that it broadcasts against `like` (B, …)."""
    return value.reshape(value.shape + (1,) * (like.ndim - value.ndim))


def over_processes(x: Tensor) -> Tensor:
    """The sum over all processes, in place."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(x)
    return x


def pick(keep: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Row i of a where keep[i], else of b; exact copies, no arithmetic."""
    return torch.where(against(keep, a), a, b)


def wide(x: Tensor) -> Tensor:
    """In float64, where the device has it."""
    return x if x.device.type == "mps" else x.double()
