"""The convolutional encoder and decoder of autoencoders, as VQGAN (arXiv:2012.09841) and latent diffusion
(arXiv:2112.10752) have them.

    encoder   conv · levels of `blocks` residual blocks, each followed by half the side · middle · n, φ, conv
    decoder   conv · middle · levels of `blocks` + 1 residual blocks, each followed by twice the side · n, φ, conv
    middle    residual block, attention, residual block

A pyramid of m levels has the factor f = p 2^(m − 1), where p × p pixels enter as the channels of one (`patch`).
Published models have p = 1; p = 2 costs a quarter at the finest level, where a CPU spends most of its time. What lies
between encoder and decoder (1×1 convolutions, a bottleneck) belongs to the codec.
"""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.core.errors import Misfit
from sfumato.nn.parts.attention import GridAttention
from sfumato.nn.parts.layers import Down, ResBlock, Up, group_norm


class Floor(nn.Module):
    """Residual blocks, each followed by attention where there is one, and a change of size."""

    def __init__(self, widths: list[int], attention: list[bool], resample: nn.Module | None, groups: int | None):
        super().__init__()
        self.blocks = nn.ModuleList(ResBlock(a, b, groups=groups) for a, b in pairwise(widths))
        self.attentions = nn.ModuleList(GridAttention(b, None, groups) for a, b in zip(attention, widths[1:]) if a)
        self.resample = resample

    def forward(self, h: Tensor) -> Tensor:
        for i, block in enumerate(self.blocks):
            h = block(h)
            if i < len(self.attentions):
                h = self.attentions[i](h)
        return h if self.resample is None else self.resample(h)


def _levels(mults: tuple[int, ...], attention: tuple[bool, ...] | None) -> tuple[bool, ...]:
    attention = (False,) * len(mults) if attention is None else attention
    if len(attention) != len(mults):
        raise Misfit(f"{len(mults)} levels need as many answers to 'attention here?', not {len(attention)}.")
    return attention


class Encoder(nn.Module):
    """x (B, in_channels, H, W) → h (B, out_channels, H/f, W/f). `attention` is per level, from fine to coarse."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int,
        mults: tuple[int, ...],
        blocks: int = 2,
        attention: tuple[bool, ...] | None = None,
        middle_attention: bool = True,
        groups: int | None = None,
        patch: int = 1,
    ):
        super().__init__()
        self.factor, self.patch = patch * 2 ** (len(mults) - 1), patch
        self.in_channels, self.out_channels = in_channels, out_channels
        self.enter = nn.Conv2d(in_channels * patch**2, width, 3, padding=1)
        self.levels = nn.ModuleList()
        channels = width
        for i, (mult, attend) in enumerate(zip(mults, _levels(mults, attention))):
            out = width * mult
            resample = None if i == len(mults) - 1 else Down(out, "right")
            self.levels.append(Floor([channels] + [out] * blocks, [attend] * blocks, resample, groups))
            channels = out
        self.middle = Floor([channels] * 3, [middle_attention, False], None, groups)
        self.norm = group_norm(channels, groups)
        self.exit = nn.Conv2d(channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-2] % self.factor or x.shape[-1] % self.factor:
            raise Misfit(f"This encoder makes {self.factor} pixels one; sides of {tuple(x.shape[-2:])} do not divide.")
        h = self.enter(F.pixel_unshuffle(x, self.patch))
        for level in self.levels:
            h = level(h)
        return self.exit(F.silu(self.norm(self.middle(h))))


class Decoder(nn.Module):
    """z (B, in_channels, h, w) → features (B, out_channels, f h, f w). `mults` and `attention` are those of the
    encoder, from fine to coarse; `last` is the final convolution, whose gradient weighs VQGAN's adversarial term."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int,
        mults: tuple[int, ...],
        blocks: int = 2,
        attention: tuple[bool, ...] | None = None,
        middle_attention: bool = True,
        groups: int | None = None,
        patch: int = 1,
    ):
        super().__init__()
        self.factor, self.patch = patch * 2 ** (len(mults) - 1), patch
        self.in_channels, self.out_channels = in_channels, out_channels
        channels = width * mults[-1]
        self.enter = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.middle = Floor([channels] * 3, [middle_attention, False], None, groups)
        self.levels = nn.ModuleList()
        for i, (mult, attend) in reversed(list(enumerate(zip(mults, _levels(mults, attention))))):
            out = width * mult
            resample = None if i == 0 else Up(out)
            self.levels.append(Floor([channels] + [out] * (blocks + 1), [attend] * (blocks + 1), resample, groups))
            channels = out
        self.norm = group_norm(channels, groups)
        self.exit = nn.Conv2d(channels, out_channels * patch**2, 3, padding=1)

    @property
    def last(self) -> Tensor:
        return self.exit.weight

    def forward(self, z: Tensor) -> Tensor:
        h = self.middle(self.enter(z))
        for level in self.levels:
            h = level(h)
        return F.pixel_shuffle(self.exit(F.silu(self.norm(h))), self.patch)
