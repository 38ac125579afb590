"""The small parts of convolutional networks.

    residual block    y = S x + W₂ · φ(n₂(W₁ · φ(n₁(x)) + a(e)))          e: an embedding of time and condition
    with a scale      y = S x + W₂ · φ((1 + s(e)) n₂(W₁ · φ(n₁(x))) + b(e))

φ is SiLU, n a group normalisation, S the identity or a 1×1 convolution, W₂ zero at the start, so that a new block is S.
Sources: arXiv:2006.11239 (DDPM), arXiv:2105.05233 (ADM, the scale), arXiv:2012.09841 (taming, the asymmetric padding).

    inverted block    y = x + W₃ · φ(W₂ ∗ φ(W₁ x))          φ(h) = leaky(h + b)

W₁ widens a position by `expansion`, W₂ is a 3×3 convolution within groups of channels, W₃ narrows it again and is zero
at the start. There is no normalisation: with gain g for φ and L blocks in a row, Var W = g² L^(−1/2) / inputs keeps the
variance of a sum of L blocks near that of x (fix-up, arXiv:1901.09321, as in arXiv:2501.05441).
"""

from __future__ import annotations

import math
from typing import Literal, TypeVar

import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.core.errors import Misfit

M = TypeVar("M", bound=nn.Module)
Padding = Literal["both", "right"]
Layout = tuple[int, int]
LEAK = 0.2  # of leaky units, DCGAN's (arXiv:1511.06434)
LEAKY_GAIN = math.sqrt(2 / (1 + LEAK**2))  # He et al. 2015, arXiv:1502.01852


def zero(module: M) -> M:
    """The module with all its parameters at zero."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def group_norm(channels: int, groups: int | None = None, eps: float = 1e-6) -> nn.GroupNorm:
    """Group normalisation for any width: the most groups up to 32 that divide it and hold four channels each.

    Every published width (128 and more) gets its 32 groups. Narrow nets get fewer: a group of one channel on a 1×1 grid
    would be normalised to zero, and nothing would pass.
    """
    if groups is None:
        groups = max((g for g in range(1, 33) if channels % g == 0 and channels // g >= 4), default=1)
    if channels % groups:
        raise Misfit(f"{channels} channels do not split into {groups} groups. Leave groups=None to have them chosen.")
    return nn.GroupNorm(groups, channels, eps)


class RMSNorm(nn.RMSNorm):
    """x / √(mean x² + ε) · g, in the precision of g: under autocast x has fewer bits, which its squares would lose."""

    def __init__(self, width: int, eps: float = 1e-6):
        super().__init__(width, eps)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype)).to(x.dtype)


class ResBlock(nn.Module):
    """(B, C, H, W), embedding (B, E) → (B, C′, H, W). `embedding` is E, or None for a block without one."""

    def __init__(
        self,
        channels: int,
        out_channels: int,
        embedding: int | None = None,
        *,
        scaled: bool = False,
        dropout: float = 0.0,
        groups: int | None = None,
        eps: float = 1e-6,
    ):
        super().__init__()
        self.scaled = scaled
        self.norm1 = group_norm(channels, groups, eps)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.embed = None if embedding is None else nn.Linear(embedding, out_channels * (2 if scaled else 1))
        self.norm2 = group_norm(out_channels, groups, eps)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zero(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.skip = nn.Identity() if channels == out_channels else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        if self.embed is None or embedding is None:
            h = self.norm2(h)
        elif self.scaled:
            scale, shift = self.embed(F.silu(embedding))[:, :, None, None].chunk(2, dim=1)
            h = self.norm2(h) * (1 + scale) + shift
        else:
            h = self.norm2(h + self.embed(F.silu(embedding))[:, :, None, None])
        return self.skip(x) + self.conv2(self.dropout(F.silu(h)))


class Down(nn.Module):
    """Half the side by a 3×3 convolution of stride 2: (B, C, H, W) → (B, C, H/2, W/2).

    "both" pads every edge, as guided-diffusion does. "right" pads right and bottom only, as TensorFlow's SAME does for
    even sides; weights published for DDPM and taming expect it, and shift the picture by half a pixel without it.
    """

    def __init__(self, channels: int, padding: Padding = "both"):
        super().__init__()
        self.right = padding == "right"
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=0 if self.right else 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.right else x)


class Up(nn.Module):
    """Twice the side: every pixel doubled, then a 3×3 convolution (no checkerboard). (B, C, H, W) → (B, C, 2H, 2W)."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def halved(layout: Layout, most: int) -> list[Layout]:
    """Layouts from fine to coarse, each half of the one before (rounded up), until neither side is above `most`.

    An odd side of 7 or less is left as it is: 28 → 14 → 7 doubles back exactly, 4 → 7 would not."""
    found = [layout]
    while max(layout) > most and not (max(layout) <= 7 and any(n % 2 for n in layout)):
        layout = (-(-layout[0] // 2), -(-layout[1] // 2))
        found.append(layout)
    return found


def drawn(module: M, gain: float) -> M:
    """A linear map or convolution with weights N(0, gain² / inputs) and no bias (He et al. 2015, arXiv:1502.01852)."""
    weight, bias = module.weight, module.bias
    nn.init.normal_(weight, std=gain / math.sqrt(weight[0].numel()))  # type: ignore[arg-type, index]
    if bias is not None:
        nn.init.zeros_(bias)  # type: ignore[arg-type]
    return module


class Inverted(nn.Module):
    """(B, C, H, W) → the same. `group` channels see each other in the 3×3 convolution; `blocks` L are in a row."""

    def __init__(self, channels: int, *, expansion: int = 2, group: int = 16, blocks: int = 1):
        super().__init__()
        inner = channels * expansion
        if inner % group:
            raise Misfit(f"{inner} channels do not split into groups of {group}. Choose another width or group.")
        gain = LEAKY_GAIN * blocks**-0.25
        self.widen = drawn(nn.Conv2d(channels, inner, 1), gain)
        self.mix = drawn(nn.Conv2d(inner, inner, 3, padding=1, groups=inner // group), gain)
        self.narrow = zero(nn.Conv2d(inner, channels, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        h = F.leaky_relu(self.mix(F.leaky_relu(self.widen(x), LEAK)), LEAK)
        return x + self.narrow(h)
