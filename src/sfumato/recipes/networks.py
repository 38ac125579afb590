"""From a size and the open doors to a network: the few sentences that every recipe of a kind shares."""

from __future__ import annotations

from typing import Any

from sfumato.core.space import Grid, Sequence, Tokens
from sfumato.nn.causal import CausalNet
from sfumato.nn.dit import DiT
from sfumato.nn.masked import MaskedNet
from sfumato.nn.unet import UNet
from sfumato.nn.vector import VectorNet
from sfumato.recipes.given import Doors
from sfumato.recipes.sizes import Small, Trunk, Unet


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


def vector_net(dims: Small, space: Sequence, features: int, out: int) -> VectorNet:
    """A denoiser of one position of the space, told its features."""
    return VectorNet(Sequence(1, space.width), out, width=dims.width, depth=dims.depth, vector=features)


def _features(space: Tokens | Sequence, features: int | None) -> int:
    if isinstance(space, Tokens):
        return space.vocab
    assert features is not None
    return features
