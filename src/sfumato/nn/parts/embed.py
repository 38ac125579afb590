"""Numbers and places as vectors.

    sinusoid       e_i(t) = sin(ω_i t), e_{i+n}(t) = cos(ω_i t),   ω_i = P^(−i / (n − shift)),  i = 0 … n − 1
    rotary         (q_i, q_{i+n}) turned by ω_i · position, so that q · k depends on the difference of positions alone
    rotary, 2-D    half of the pairs turn with the row, half with the column

Sources: arXiv:1706.03762 (sinusoid), arXiv:2104.09864 (rotary), arXiv:2010.11929 (patches),
arXiv:2212.09748 (2-D sinusoid).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from sfumato.core.errors import Misfit

Kind = Literal["learned", "axial", "sincos", "rotary", "rotary2", "none"]
Rotation = tuple[Tensor, Tensor]  # cosine and sine, each (T, d/2)


def frequencies(n: int, *, period: float = 10_000.0, shift: float = 0.0, device: torch.device | None = None) -> Tensor:
    """ω_0 … ω_{n−1}, float32."""
    steps = torch.arange(n, dtype=torch.float32, device=device)
    return torch.exp(-math.log(period) * steps / max(n - shift, 1.0))


def sinusoid(
    t: Tensor, width: int, *, cosine_first: bool = True, shift: float = 0.0, period: float = 10_000.0
) -> Tensor:
    """(…,) → (…, width). guided-diffusion, LDM and DiT: cosine first, shift 0. DDPM: sine first, shift 1.

    An odd width ends in a zero."""
    angles = t.float().unsqueeze(-1) * frequencies(width // 2, period=period, shift=shift, device=t.device)
    halves = (angles.cos(), angles.sin()) if cosine_first else (angles.sin(), angles.cos())
    return nn.functional.pad(torch.cat(halves, dim=-1), (0, width % 2))


class TimeEmbedding(nn.Module):
    """t ∈ [0, 1] → (B, width): a sinusoid of 1000 t, then two layers. 1000 is DDPM's number of steps, and published
    weights count in it."""

    def __init__(self, width: int, frequency: int = 256, *, cosine_first: bool = True, shift: float = 0.0):
        super().__init__()
        self.frequency, self.cosine_first, self.shift = frequency, cosine_first, shift
        self.inner = nn.Linear(frequency, width)
        self.outer = nn.Linear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        e = sinusoid(1000 * t, self.frequency, cosine_first=self.cosine_first, shift=self.shift)
        return self.outer(nn.functional.silu(self.inner(e.to(self.inner.weight.dtype))))


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turns the pairs (x_i, x_{i+d/2}) of (B, heads, T, d); computed in float32, returned in x's dtype."""
    cos, sin = rotation
    a, b = x.float().chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).to(x.dtype)


class Positions(nn.Module):
    """Where each of `length` positions lies, told in one of six ways.

        learned   a vector per position                     axial     a vector per row + one per column
        sincos    fixed: half row, half column (1-D: index) none      nothing
        rotary    turns queries and keys by the index       rotary2   … by row and column

    Positions before 0 are a prefix: rotary counts them backwards, the others say nothing of them. `head` is the width
    of one head. Fixed tables are computed where they are used: they follow the device and never enter a checkpoint.
    """

    def __init__(
        self, kind: Kind, length: int, width: int, head: int, layout: tuple[int, int] | None = None, std: float = 0.02
    ):
        super().__init__()
        if kind in ("axial", "rotary2") and layout is None:
            raise Misfit(
                f"Positions {kind!r} need rows and columns; this latent has no layout. Choose 'learned' or 'rotary'."
            )
        pairs = {"rotary": 2, "rotary2": 4}.get(kind, 1)
        if head % pairs:
            raise Misfit(f"Positions {kind!r} need heads whose width is a multiple of {pairs}, not {head}.")
        self.kind, self.length, self.width, self.head, self.layout = kind, length, width, head, layout
        if kind == "learned":
            self.table = nn.Parameter(std * torch.randn(length, width))
        elif kind == "axial" and layout is not None:
            self.rows = nn.Parameter(std * torch.randn(layout[0], width))
            self.columns = nn.Parameter(std * torch.randn(layout[1], width))
        elif kind not in ("sincos", "rotary", "rotary2", "none"):
            raise Misfit(f"Positions are learned, axial, sincos, rotary, rotary2 or none; not {kind!r}.")

    def _cells(self, device: torch.device | None, start: int = 0, stop: int | None = None) -> tuple[Tensor, Tensor]:
        assert self.layout is not None
        index = torch.arange(start, self.length if stop is None else stop, device=device)
        return index.div(self.layout[1], rounding_mode="floor"), index.remainder(self.layout[1])

    def added(self, start: int, stop: int, device: torch.device | None = None) -> Tensor | None:
        """What to add to the inputs at positions start … stop − 1, (stop − start, width); None for nothing."""
        if stop > self.length and self.kind in ("learned", "axial", "sincos"):
            raise Misfit(f"This net has {self.length} positions; {stop} were asked of it.")
        if self.kind == "learned":
            return self.table[start:stop]
        if self.kind == "axial":
            row, column = self._cells(self.rows.device, start, stop)
            return self.rows[row] + self.columns[column]
        if self.kind == "sincos":
            if self.layout is None:
                return sinusoid(torch.arange(start, stop, device=device), self.width)
            row, column = self._cells(device, start, stop)
            half = self.width // 2
            return torch.cat([sinusoid(row, half), sinusoid(column, self.width - half)], dim=-1)
        return None

    def rotation(self, start: int, stop: int, device: torch.device | None = None) -> Rotation | None:
        """The turn of positions start … stop − 1; None for nothing."""
        if self.kind == "rotary":
            index = torch.arange(start, stop, dtype=torch.float32, device=device)
            angles = index[:, None] * frequencies(self.head // 2, device=device)
        elif self.kind == "rotary2":
            row, column = self._cells(device, max(start, 0), stop)
            omega = frequencies(self.head // 4, period=100.0, device=device)  # sides are tens, not thousands
            angles = torch.cat([row[:, None] * omega, column[:, None] * omega], dim=-1)
            angles = nn.functional.pad(angles, (0, 0, max(-start, 0), 0))  # a prefix lies nowhere in the plane
        else:
            return None
        return angles.cos(), angles.sin()


def patchify(x: Tensor, patch: int) -> Tensor:
    """(B, C, H, W) → (B, H/p · W/p, C · p · p), raster order, channel first within a patch."""
    b, c, h, w = x.shape
    if h % patch or w % patch:
        raise Misfit(f"A grid of {h}×{w} does not split into patches of {patch}×{patch}.")
    x = x.reshape(b, c, h // patch, patch, w // patch, patch)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(b, (h // patch) * (w // patch), c * patch * patch)


def unpatchify(x: Tensor, patch: int, layout: tuple[int, int]) -> Tensor:
    """The inverse of patchify; `layout` counts patches."""
    b, _, d = x.shape
    h, w, c = *layout, d // patch**2
    x = x.reshape(b, h, w, c, patch, patch).permute(0, 3, 1, 4, 2, 5)
    return x.reshape(b, c, h * patch, w * patch)
