"""What a latent is: a space is the shape of one item and what its numbers mean.

    Grid(C, H, W)       continuous, laid out in the plane          float  (B, C, H, W)
    Sequence(N, D)      continuous, in a row                       float  (B, N, D)
    Tokens(N, K)        discrete, in a row, each one of K          int64  (B, N), 0 ≤ z < K

A Sequence may be `varying`: of n vectors, 0 ≤ n ≤ N, another number in each item. It is carried as (B, N, D + 1)
floats, whose last entry is 1 where there is a vector and 0 where there is none; those that are there come first, and
what is not there is zeros: `pack`, `presence`, `unpack`.

A Sequence or Tokens that came from a picture has a `layout` (H, W) with H · W = N, in raster order. Whoever goes
position by position reads a Grid as the Sequence(H · W, C) of its cells: `rows`, `to_rows`, `from_rows`.
"""

from __future__ import annotations

from collections.abc import Iterable
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
    varying: bool = False

    def __post_init__(self) -> None:
        _positive(length=self.length, width=self.width)
        _laid_out(self.layout, self.length)
        if self.varying and self.layout is not None:
            raise ValueError(f"A sequence of varying length fills no layout, and this one has {self.layout}.")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what is carried."""
        return (self.length, self.width + self.varying)


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
    """Returns z, or raises Misfit when z is not a batch of that space (shape and dtype; values are read only for what
    is there of a varying length)."""
    if tuple(z.shape[1:]) != space.shape:
        raise Misfit(
            f"Expected a batch of {space}, shape (B, {', '.join(map(str, space.shape))}), got {tuple(z.shape)}."
        )
    if isinstance(space, Tokens) == z.is_floating_point():
        raise Misfit(f"{space} holds {'integers' if isinstance(space, Tokens) else 'floats'}, got {z.dtype}.")
    if varies(space):
        _check_presence(space, z)
    return z


# ---- of varying length ----


def varies(space: Space) -> bool:
    return isinstance(space, Sequence) and space.varying


def carried(space: Space) -> Space:
    """The space of what is carried, as numbers that mean nothing further: of a varying one Sequence(N, D + 1)."""
    return Sequence(space.length, space.width + 1) if isinstance(space, Sequence) and space.varying else space


def presence(z: Tensor) -> Tensor:
    """Which vectors are there, (B, N) bool."""
    return z[..., -1] > 0.5


def pack(space: Sequence, items: Iterable[Tensor]) -> Tensor:
    """Items of n_i vectors, (n_i, D) each → (B, N, D + 1)."""
    found = list(items)
    z = torch.zeros(len(found), *space.shape) if not found else found[0].new_zeros(len(found), *space.shape)
    for row, item in zip(z, found):
        if item.ndim != 2 or item.shape[1] != space.width or len(item) > space.length:
            raise Misfit(f"An item of {space} is (n, {space.width}), n ≤ {space.length}, not {tuple(item.shape)}.")
        row[: len(item), :-1], row[: len(item), -1] = item, 1
    return z


def unpack(z: Tensor) -> list[Tensor]:
    """The inverse of `pack`."""
    return [row[there, :-1] for row, there in zip(z, presence(z))]


def _check_presence(space: Space, z: Tensor) -> None:
    said = z[..., -1]
    if bool(((said != 0) & (said != 1)).any()):
        raise Misfit(f"The last entry of {space} is 1 where there is a vector and 0 where there is none, nothing else.")
    if bool((said[:, 1:] > said[:, :-1]).any()):
        raise Misfit(f"The vectors of {space} that are there come first, and here some come after one that is not.")
    if bool(((z[..., :-1] != 0).any(-1) & (said == 0)).any()):
        raise Misfit(f"What is not there of {space} is zeros, and here it holds something.")
