"""How many tokens change when a picture is disturbed a little (DiGIT, Zhu et al. 2024, arXiv:2410.12490, table 1).

    x̃ = x + σ ε,   σ² = mean x² / 10^(SNR / 10)                   of each picture
    change = the part of positions whose token differs,           cosine between the codes before and after, averaged

The paper gives the ratios without a unit; we read them as decibels. Shapes: images (B, C, H, W), tokens (B, N).
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from sfumato.core.noise import Noise


def disturb(images: Tensor, decibels: float, noise: Noise) -> Tensor:
    """Gaussian noise at a signal-to-noise ratio; not clamped, or the ratio would be another."""
    power = images.square().mean((1, 2, 3), keepdim=True)
    return images + (power / 10 ** (decibels / 10)).sqrt() * noise.normal(*images.shape[1:]).to(images.device)


def token_change(encode: Callable[[Tensor], Tensor], images: Tensor, decibels: float, noise: Noise) -> float:
    """The part of positions whose token is another one after the disturbance."""
    return float((encode(images) != encode(disturb(images, decibels, noise))).double().mean())


def code_cosine(
    encode: Callable[[Tensor], Tensor], codes: Tensor, images: Tensor, decibels: float, noise: Noise
) -> float:
    """Mean cosine between the code vectors (K, D) at each position, before and after."""
    before, after = codes[encode(images)], codes[encode(disturb(images, decibels, noise))]
    return float(F.cosine_similarity(before, after, dim=-1).mean())
