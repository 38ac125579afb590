"""From one picture to another, in as many steps as one likes.

Where the prior can be inverted (diffusion, flow), both images go to noise along the deterministic flow and the path
between is a great circle there (DDIM, arXiv:2010.02502); otherwise the codec blends the two latents.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sfumato.core.contracts import Given
from sfumato.core.errors import UsageError
from sfumato.core.noise import Noise
from sfumato.systems.inputs import check_seeds, take
from sfumato.systems.options import check_options
from sfumato.systems.whole import Whole


@torch.no_grad()
def interpolate(
    system: Whole, a: Tensor, b: Tensor, frames: int, given: Given | None, *, seed: int, **options: Any
) -> Tensor:
    """(frames, C, H, W) from image a to image b, each (C, H, W). Frame i draws with seed + i, where it draws."""
    if frames < 2:
        raise UsageError(f"An interpolation has at least its two ends as frames, not {frames}.")
    check_seeds(frames, range(seed, seed + frames))
    ends = system.encode(torch.stack([a, b]).to(system.device))
    weights = torch.linspace(0, 1, frames).tolist()
    if system.prior is None or not hasattr(system.prior, "invert"):
        return system.decode(torch.cat([system.codec.blend(ends[:1], ends[1:], w) for w in weights]))
    check_options(system.prior, options)
    given = system.said(given, frames)
    two, _ = system.condition({key: take(value, [0, frames - 1]) for key, value in given.items()}, 2)
    noise_a, noise_b = system.prior.invert(ends, two).unbind(0)  # type: ignore[operator]
    start = torch.stack([slerp(noise_a, noise_b, w) for w in weights])
    condition, _ = system.condition(given, frames)
    z = system.prior.sample(condition, Noise.each(range(seed, seed + frames), system.device), start=start, **options)
    return system.decode(z)


def slerp(a: Tensor, b: Tensor, weight: float) -> Tensor:
    """The great circle between two Gaussian draws, which keeps their norm; weight 0 gives a, 1 gives b."""
    cosine = F.cosine_similarity(a.flatten(), b.flatten(), dim=0).clamp(-1, 1)
    angle = torch.arccos(cosine)
    if angle < 1e-4 or angle > math.pi - 1e-4:  # (anti)parallel: no circle, or no one circle, runs through both
        return torch.lerp(a, b, weight)
    return (torch.sin((1 - weight) * angle) * a + torch.sin(weight * angle) * b) / torch.sin(angle)
