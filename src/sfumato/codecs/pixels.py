"""Pixels as they are: four ways to read an image as a latent, none of them learned.

    mode          z                                   in space          w of log p(x) ≥ log p(z) + w
    raw           x                                   Grid(C, H, W)     0, an equality of densities on [−1, 1]
    values        x = k / 127.5 − 1                   Grid(C, H, W)     0, the prior's own P(k) of 8-bit values
    dequantised   2 (k + u) / 256 − 1, u ~ U[0, 1)    Grid(C, H, W)     −D log 128, for P(k): nats of 8-bit data
    tokens        ⌊k L / 256⌋                         Tokens(C H W, L)  −D log(256 / L), an equality for P(k)

k = round((x + 1) · 127.5) is the 8-bit value, D = C · H · W.

Dequantised: v = k + u has the density p(v) = p(z) / 128, and P(k) = ∫₀¹ p(k + u) du, so by Jensen's inequality
log P(k) ≥ E_u log p(k + u) = E_u log p(z) − log 128 a dimension. A uniform p(z) = ½ gives −log 256, 8 bits. `encode`
takes u = ½. (Theis et al. 2016, arXiv:1511.01844.)

Tokens: raster order, a pixel's channels side by side. With L < 256 letters a letter stands for 256 / L values that
are held to be equally likely; this is a coarser model, but of the same 8-bit data, and its nats compare with others'.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from sfumato.core.contracts import Codec
from sfumato.core.noise import Noise
from sfumato.core.space import Grid, Space, Tokens, size
from sfumato.likelihoods import from_levels, to_levels

Mode = Literal["raw", "values", "dequantised", "tokens"]


class Pixels(Codec):
    data: Grid

    def __init__(self, data: Grid, mode: Mode = "raw", levels: int = 256):
        super().__init__()
        if mode not in get_args(Mode):
            raise ValueError(f"Pixels are one of {', '.join(get_args(Mode))}, not {mode!r}.")
        if levels < 2 or 256 % levels:
            raise ValueError(f"The number of levels must divide 256, and {levels} does not.")
        if levels != 256 and mode != "tokens":
            raise ValueError("Only tokens have levels.")
        self.data, self.mode, self.levels = data, mode, levels
        self.exact = levels == 256
        self.discrete = mode != "raw"
        # averaging over u is a bound; the others are equalities
        self.kind = "bound" if mode == "dequantised" else "exact"
        row = data.width * data.channels
        self.space: Space = Tokens(size(data), levels, (data.height, row)) if mode == "tokens" else data

    def encode(self, x: Tensor) -> Tensor:
        if self.mode in ("raw", "values"):
            return x
        k = to_levels(x)
        if self.mode == "dequantised":
            return (k + 0.5).to(x) / 128 - 1
        return (k * self.levels // 256).movedim(1, -1).flatten(1)

    def decode(self, z: Tensor) -> Tensor:
        if self.mode in ("raw", "values"):
            return z
        if self.mode == "dequantised":
            return from_levels(((z + 1) * 128).floor().clamp(0, 255)).to(z)
        shape = (self.data.height, self.data.width, self.data.channels)
        share = 256 // self.levels
        middle = z.unflatten(1, shape).movedim(-1, 1).float() * share + (share - 1) / 2
        return middle / 127.5 - 1

    def lift(self, x: Tensor, noise: Noise | None = None) -> tuple[Tensor, Tensor]:
        each = {"raw": 0.0, "values": 0.0, "dequantised": -math.log(128), "tokens": -math.log(256 / self.levels)}[
            self.mode
        ]
        w = x.new_full((len(x),), each * size(self.data))
        if self.mode != "dequantised":
            return self.encode(x), w
        noise = Noise.ambient(len(x), x.device) if noise is None else noise
        # k + u near 256 has steps of 2⁻¹⁶: a u above this would round up to the next value
        u = noise.uniform(*x.shape[1:]).clamp(max=1 - 2.0**-15)
        return (to_levels(x) + u).to(x) / 128 - 1, w

    def latent(self, x: Tensor, noise: Noise) -> Tensor:
        """Dequantised: with a fresh u each time, or a density would learn to sit on 256 points."""
        return self.lift(x, noise)[0] if self.mode == "dequantised" else self.encode(x)

    def blend(self, a: Tensor, b: Tensor, weight: float) -> Tensor:
        if self.mode != "tokens":
            return torch.lerp(a, b, weight)
        return torch.lerp(a.double(), b.double(), weight).round().long()
