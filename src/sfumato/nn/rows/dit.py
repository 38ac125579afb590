"""DiT: a transformer over patches as a denoiser (Peebles & Xie 2023, arXiv:2212.09748).

    x = patches(z) W + place,   c = e(t) + W_c condition.vector,   x ← blocks modulated by c,   out = unpatch(x W′)

Blocks are the identity and W′ is zero at the start, so that a new net answers zero. condition.sequence is attended to
in every block (arXiv:2310.00426 shows that this suffices for text), condition.grid is concatenated to z.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sfumato.core.condition import Condition
from sfumato.core.space import Grid, check
from sfumato.nn.parts.doors import check_doors
from sfumato.nn.parts.embed import Kind, Positions, TimeEmbedding, patchify, unpatchify
from sfumato.nn.parts.layers import zero
from sfumato.nn.rows.transformer import Activation, Norm, Transformer


class DiT(nn.Module):
    """z (B, C, H, W), t (B,) in [0, 1] → (B, out_channels, H, W). `grid` counts the channels of condition.grid."""

    def __init__(
        self,
        space: Grid,
        out_channels: int,
        *,
        patch: int = 2,
        width: int,
        depth: int,
        heads: int,
        vector: int | None = None,
        context: int | None = None,
        grid: int | None = None,
        positions: Kind = "sincos",
        norm: Norm = "layer",
        activation: Activation = "gelu_new",
        qk_norm: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.space, self.patch = space, patch
        self.vector_width, self.context_width, self.grid_channels = vector, context, grid
        self.layout = (space.height // patch, space.width // patch)
        self.enter = nn.Linear((space.channels + (grid or 0)) * patch**2, width)
        self.positions = Positions(positions, self.layout[0] * self.layout[1], width, width // heads, self.layout)
        self.time = TimeEmbedding(width)
        self.vector = None if vector is None else nn.Linear(vector, width)
        self.trunk = Transformer(
            width,
            depth,
            heads,
            norm=norm,
            activation=activation,
            vector=width,
            context=context,
            qk_norm=qk_norm,
            dropout=dropout,
            eps=1e-6,
        )
        self.exit = zero(nn.Linear(width, out_channels * patch**2))
        nn.init.xavier_uniform_(self.enter.weight)
        nn.init.zeros_(self.enter.bias)

    def forward(self, z: Tensor, t: Tensor, condition: Condition) -> Tensor:
        check(self.space, z)
        check_doors("DiT", condition, vector=self.vector_width, sequence=self.context_width, grid=self.grid_channels)
        if condition.grid is not None and self.grid_channels is not None:
            z = torch.cat([z, condition.grid], dim=1)
        x = self.enter(patchify(z, self.patch)).to(self.enter.weight.dtype)  # the residual stream keeps its bits
        n = x.shape[1]
        added = self.positions.added(0, n, x.device)
        if added is not None:
            x = x + added.to(x.dtype)
        c = self.time(t)
        if self.vector is not None:
            c = c + self.vector(condition.vector)
        rotation = self.positions.rotation(0, n, x.device)
        x = self.trunk(x, vector=c, rotation=rotation, context=condition.sequence, context_mask=condition.mask)
        return unpatchify(self.exit(x), self.patch, self.layout)
