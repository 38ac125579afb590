"""Networks that read a whole thing at once: words, or the patches of a picture.

    TokenNet   x = E[tokens] + place,           h = transformer(x)    every position sees every other, or those before
    PatchNet   x = (class, patches W) + place,  h = transformer(x)    ViT, arXiv:2010.11929
    Pooled     logits = h_class W  or  mean over the patches of h, W  a classifier

They serve as text encoders, as the towers of CLIP (arXiv:2103.00020: the text tower is causal, units are `quick`) and
as classifiers' trunks.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from sfumato.core.errors import Misfit
from sfumato.core.space import Grid, Tokens
from sfumato.nn.parts.attention import causal_mask
from sfumato.nn.parts.embed import Kind, Positions, patchify
from sfumato.nn.parts.layers import zero
from sfumato.nn.rows.transformer import Activation, Norm, Transformer


class TokenNet(nn.Module):
    """tokens (B, T) int64, T ≤ N, mask (B, T) True where a word is → (B, T, features).

    Masked positions influence no other. `features` None leaves the width as it is."""

    def __init__(
        self,
        space: Tokens,
        features: int | None = None,
        *,
        width: int,
        depth: int,
        heads: int,
        causal: bool = False,
        positions: Kind = "learned",
        norm: Norm = "layer",
        activation: Activation = "gelu",
        expand: float = 4.0,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.space, self.causal = space, causal
        self.features = width if features is None else features
        self.embed = nn.Embedding(space.vocab, width)
        nn.init.normal_(self.embed.weight, std=0.02)
        self.positions = Positions(positions, space.length, width, width // heads, space.layout, std=0.01)
        self.trunk = Transformer(width, depth, heads, norm=norm, activation=activation, expand=expand, dropout=dropout)
        self.head = nn.Identity() if features is None else nn.Linear(width, features)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        n = tokens.shape[1]
        x = self.embed(tokens)
        added = self.positions.added(0, n, x.device)
        if added is not None:
            x = x + added
        if self.causal and mask is not None:
            mask = causal_mask(n, mask.bool())
        causal = self.causal and mask is None
        rotation = self.positions.rotation(0, n, x.device)
        return self.head(self.trunk(x, mask=mask, causal=causal, rotation=rotation))


class PatchNet(nn.Module):
    """x (B, C, H, W) → (B, 1 + N, width): the state of the class token, then those of the N patches in raster order."""

    def __init__(
        self,
        space: Grid,
        *,
        patch: int,
        width: int,
        depth: int,
        heads: int,
        norm: Norm = "layer",
        activation: Activation = "gelu",
        expand: float = 4.0,
        dropout: float = 0.0,
        eps: float = 1e-5,
    ):
        super().__init__()
        if space.height % patch or space.width % patch:
            raise Misfit(f"Pictures of {space.height}×{space.width} are not cut into patches of {patch}×{patch}.")
        self.space, self.patch, self.features = space, patch, width
        self.patches = (space.height // patch) * (space.width // patch)
        self.enter = nn.Linear(space.channels * patch**2, width)
        self.token = nn.Parameter(0.02 * torch.randn(width))
        self.positions = Positions("learned", 1 + self.patches, width, width // heads)
        options: dict[str, Any] = {"norm": norm, "activation": activation, "expand": expand, "dropout": dropout}
        self.trunk = Transformer(width, depth, heads, eps=eps, **options)

    def forward(self, x: Tensor, *, layers: int | None = None) -> Tensor:
        """`layers` stops after so many blocks: the states that a linear probe reads."""
        if tuple(x.shape[1:]) != self.space.shape:
            raise Misfit(f"This net reads pictures of shape {self.space.shape}, not {tuple(x.shape[1:])}.")
        h = self.enter(patchify(x, self.patch))
        h = torch.cat([self.token.expand(len(h), 1, -1), h], dim=1)
        return self.trunk(h + self.positions.table, layers=layers)


Pool = Literal["token", "mean"]


class Pooled(nn.Module):
    """(B, C, H, W) → logits (B, K), linear in the state of the class token, or in the mean of the patches' states.

    The weights of the last layer start at zero, as ViT's do: every class is equally likely, and the loss is log K.
    Of no classes, the states themselves are handed out."""

    label_rows = ("head.weight", "head.bias")  # a row for each class, see train/tuning.py

    def __init__(self, trunk: PatchNet, classes: int, pool: Pool = "token"):
        super().__init__()
        self.trunk, self.pool = trunk, pool
        self.head = zero(nn.Linear(trunk.features, classes)) if classes else nn.Identity()

    def embed(self, x: Tensor) -> Tensor:
        """(B, width)."""
        h = self.trunk(x)
        return h[:, 0] if self.pool == "token" else h[:, 1:].mean(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embed(x))
