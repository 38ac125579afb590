"""What a latent is: a space is the shape of one item and what its numbers mean.

    Grid(C, H, W)       continuous, laid out in the plane          float  (B, C, H, W)
    Sequence(N, D)      continuous, in a row                       float  (B, N, D)
    Tokens(N, K)        discrete, in a row, each one of K          int64  (B, N), 0 ≤ z < K

A Sequence or Tokens that came from a picture has a `layout` (H, W) with H · W = N, in raster order. Whoever goes
position by position reads a Grid as the Sequence(H · W, C) of its cells: `rows`, `to_rows`, `from_rows`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.core.errors import Misfit


def _positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} must be at least 1, not {number}.")


def _laid_out(layout: tuple[int, int] | None, length: int) -> None:
    if layout is not None and layout[0] * layout[1] != length:
        raise ValueError(f"The layout {layout} holds {layout[0] * layout[1]} positions, not {length}.")


@dataclass(frozen=True)
class Grid:
    channels: int
    height: int
    width: int

    def __post_init__(self) -> None:
        _positive(channels=self.channels, height=self.height, width=self.width)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.channels, self.height, self.width)

    @property
    def layout(self) -> tuple[int, int] | None:
        return (self.height, self.width)


@dataclass(frozen=True)
class Sequence:
    length: int
    width: int
    layout: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        _positive(length=self.length, width=self.width)
        _laid_out(self.layout, self.length)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.length, self.width)


@dataclass(frozen=True)
class Tokens:
    length: int
    vocab: int
    layout: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        _positive(length=self.length, vocab=self.vocab)
        _laid_out(self.layout, self.length)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.length,)


Space = Grid | Sequence | Tokens


def size(space: Space) -> int:
    """The number of entries of one item."""
    return torch.Size(space.shape).numel()


def rows(space: Space) -> Sequence | Tokens:
    """The space, position by position: a Grid as the sequence of its cells in raster order."""
    if isinstance(space, Grid):
        return Sequence(space.height * space.width, space.channels, (space.height, space.width))
    return space


def to_rows(space: Space, z: Tensor) -> Tensor:
    """A latent of `space`, or a mask of its shape, as one of rows(space): (B, C, H, W) → (B, H · W, C)."""
    return z.flatten(2).transpose(1, 2) if isinstance(space, Grid) else z


def from_rows(space: Space, z: Tensor) -> Tensor:
    """The inverse of to_rows; contiguous."""
    if not isinstance(space, Grid):
        return z
    return z.transpose(1, 2).reshape(-1, space.channels, space.height, space.width)


def check(space: Space, z: Tensor) -> Tensor:
    """Returns z, or raises Misfit when z is not a batch of that space (shape and dtype; values are not read)."""
    if tuple(z.shape[1:]) != space.shape:
        raise Misfit(
            f"Expected a batch of {space}, shape (B, {', '.join(map(str, space.shape))}), got {tuple(z.shape)}."
        )
    if isinstance(space, Tokens) == z.is_floating_point():
        raise Misfit(f"{space} holds {'integers' if isinstance(space, Tokens) else 'floats'}, got {z.dtype}.")
    return z
