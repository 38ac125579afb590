"""How near a reconstruction is to its picture.

    PSNR = 10 log₁₀(L² / mean (x − y)²)                                              dB, L = 2 on [−1, 1]
    SSIM = mean of (2 μx μy + C₁)(2 σxy + C₂) / (μx² + μy² + C₁)(σx² + σy² + C₂)     Wang et al. 2004

SSIM's moments are under a Gaussian window (11 × 11, σ = 1.5, summing to 1), for each channel, at every place where the
whole window lies in the picture; C₁ = (0.01 L)², C₂ = (0.03 L)². A picture smaller than the window gets the largest odd
window that fits. LPIPS (arXiv:1801.03924) is the distance of `sfumato.losses`, measured in trained features.
Shapes: (B, C, H, W) twice → (B,).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

RANGE = 2.0  # from −1 to 1
CEILING = 100.0  # dB; what an exact copy counts as where PSNRs are averaged, since its own is infinite


def eight_bit(images: Tensor) -> Tensor:
    """What a PNG of the pictures would hold, back in [−1, 1]. Scores are of pictures that can be saved."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


def _same(x: Tensor, y: Tensor) -> None:
    if x.shape != y.shape or x.ndim != 4:
        raise ValueError(
            f"Two batches of pictures of one shape are compared, got {tuple(x.shape)} and {tuple(y.shape)}."
        )


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """(B,) in dB; infinite for a copy."""
    _same(x, y)
    return 10 * torch.log10(RANGE**2 / (x.double() - y.double()).square().mean((1, 2, 3)))


def window(side: int, sigma: float = 1.5, size: int = 11) -> Tensor:
    """A Gaussian of odd length ≤ min(size, side), summing to 1, float64."""
    size = min(size, side - (side + 1) % 2)
    at = torch.arange(size, dtype=torch.float64) - size // 2
    weights = torch.exp(-at.square() / (2 * sigma**2))
    return weights / weights.sum()


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """(B,), 1 for a copy."""
    _same(x, y)
    channels, side = x.shape[1], min(x.shape[-2:])
    g = window(side).to(x.device)
    across, down = g.view(1, 1, 1, -1).expand(channels, -1, -1, -1), g.view(1, 1, -1, 1).expand(channels, -1, -1, -1)

    def blur(image: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(image, across, groups=channels), down, groups=channels)

    x, y = x.double(), y.double()
    mx, my = blur(x), blur(y)
    vx, vy, cov = blur(x * x) - mx * mx, blur(y * y) - my * my, blur(x * y) - mx * my
    c1, c2 = (0.01 * RANGE) ** 2, (0.03 * RANGE) ** 2
    found = (2 * mx * my + c1) * (2 * cov + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    return found.mean((1, 2, 3))
