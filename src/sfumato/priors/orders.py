"""In which order positions are visited: a permutation π of 0 … N − 1, π_i being the position that comes at step i.

    raster     row by row                      snake     row by row, every other one backwards
    column     column by column                halton    each next one far from those before
    random     drawn once, the same for all

Halton's points have for coordinates the digits of i = 1, 2, … mirrored at the point, in base 2 for the row and in base
3 for the column; a cell's place in the order is that of the first point in it. Every stretch of the sequence lies
evenly over the plane, so positions filled in together know little of one another (Besnier et al. 2025,
arXiv:2503.17076).

Shapes: π (N,) int64. Without a layout the positions are one row.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sfumato.core.errors import Misfit
from sfumato.core.noise import derive
from sfumato.core.registry import Registry
from sfumato.core.space import Sequence, Tokens

Order = Callable[[int, int], Tensor]  # (H, W) → π

ORDERS: Registry[Order] = Registry("order")


def order_of(name: str, space: Tokens | Sequence) -> Tensor:
    """π by its name; Misfit where it asks for rows and columns that the space does not have."""
    found = ORDERS[name]
    if space.layout is None and name in ("column", "snake"):
        raise Misfit(f"The order {name!r} needs rows and columns; {space} has no layout. Choose raster or random.")
    height, width = (1, space.length) if space.layout is None else space.layout
    with torch.device("cpu"):  # also where a system is laid out on the meta device: an order is known, not learned
        return found(height, width)


@ORDERS.add("raster")
def raster(height: int, width: int) -> Tensor:
    return torch.arange(height * width)


@ORDERS.add("column")
def column(height: int, width: int) -> Tensor:
    return torch.arange(height * width).reshape(height, width).T.flatten()


@ORDERS.add("snake")
def snake(height: int, width: int) -> Tensor:
    cells = torch.arange(height * width).reshape(height, width)
    cells[1::2] = cells[1::2].flip(1)
    return cells.flatten()


@ORDERS.add("random")
def random(height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(derive("order", height, width))
    return torch.randperm(height * width, generator=generator)


@ORDERS.add("halton")
def halton(height: int, width: int) -> Tensor:
    seen: dict[int, None] = {}
    i = 1
    while len(seen) < height * width:
        row = int(mirrored(i, 2) * height) if height > 1 else 0
        seen.setdefault(row * width + int(mirrored(i, 3 if height > 1 else 2) * width))
        i += 1
    return torch.tensor(list(seen))


def mirrored(i: int, base: int) -> float:
    """The digits of i behind the point, last one first: 6 = 110 in base 2 becomes 0.011 = 3/8."""
    value, unit = 0.0, 1.0
    while i:
        i, digit = divmod(i, base)
        unit /= base
        value += digit * unit
    return value
