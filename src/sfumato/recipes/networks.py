"""From a size and the open doors to a network: the few sentences that every recipe of a kind shares."""

from __future__ import annotations

from typing import Any

from sfumato.core.space import Grid, Sequence, Tokens
from sfumato.nn.pictures.coupling import Coupling
from sfumato.nn.pictures.glow import Glow
from sfumato.nn.pictures.ladder import Ladder, Level, resolutions
from sfumato.nn.pictures.unet import UNet
from sfumato.nn.rows.causal import CausalNet
from sfumato.nn.rows.dit import DiT
from sfumato.nn.rows.masked import MaskedNet
from sfumato.nn.rows.vector import VectorNet
from sfumato.recipes.given import Doors
from sfumato.recipes.sizes import Coupled, Rungs, Small, Trunk, Unet


def unet(dims: Unet, channels: int, out: int, doors: Doors, grid: int | None = None) -> UNet:
    return UNet(
        channels,
        out,
        width=dims.width,
        mults=dims.mults,
        blocks=dims.blocks,
        attention=dims.attention,
        head=dims.head,
        dropout=dims.dropout,
        patch=dims.patch,
        vector=doors.vector,
        context=doors.context,
        grid=grid,
    )


def dit(dims: Trunk, space: Grid, out: int, doors: Doors, patch: int) -> DiT:
    return DiT(
        space,
        out,
        patch=patch,
        width=dims.width,
        depth=dims.depth,
        heads=dims.heads,
        vector=doors.vector,
        context=doors.context,
    )


def causal(
    dims: Trunk,
    space: Tokens | Sequence,
    doors: Doors,
    features: int | None = None,
    dropout: float = 0.0,
    **options: Any,
) -> CausalNet:
    """`features` are what the head asks for; of tokens their logits. Options are the net's: orders, patterns, …"""
    return CausalNet(
        space,
        _features(space, features),
        width=dims.width,
        depth=dims.depth,
        heads=dims.heads,
        vector=doors.vector,
        context=doors.context,
        dropout=dropout,
        **options,
    )


def masked(
    dims: Trunk, space: Tokens | Sequence, doors: Doors, features: int | None = None, dropout: float = 0.0
) -> MaskedNet:
    return MaskedNet(
        space,
        _features(space, features),
        width=dims.width,
        depth=dims.depth,
        heads=dims.heads,
        vector=doors.vector,
        context=doors.context,
        dropout=dropout,
    )


def ladder(dims: Rungs, space: Grid, out: int, doors: Doors) -> Ladder:
    """Down to one cell from whatever side the space has; where it has more resolutions than `dims` has numbers, the
    last number serves for the rest."""
    sides = resolutions(space.height, space.width)
    at = lambda numbers, i: numbers[min(i, len(numbers) - 1)] if numbers else 0
    levels = tuple(
        Level(side, at(dims.rungs, i), at(dims.blocks, i), at(dims.ratio, i), at(dims.attention, i), dims.heads)
        for i, side in enumerate(sides)
    )
    return Ladder(
        levels,
        space.channels,
        out,
        style=dims.style,
        width=dims.width,
        other=dims.other,
        z=dims.z,
        vector=doors.vector,
        context=doors.context,
    )


def glow(dims: Coupled, space: Grid, doors: Doors, coupling: Coupling = "affine") -> Glow:
    return Glow(space, levels=dims.levels, steps=dims.steps, width=dims.width, coupling=coupling, vector=doors.vector)


def vector_net(dims: Small, space: Sequence, features: int, out: int) -> VectorNet:
    """A denoiser of one position of the space, told its features."""
    return VectorNet(Sequence(1, space.width), out, width=dims.width, depth=dims.depth, vector=features)


def _features(space: Tokens | Sequence, features: int | None) -> int:
    if isinstance(space, Tokens):
        return space.vocab
    assert features is not None
    return features
