"""A network that fills in: h_i is a function of the entries that are shown and the condition.

    x_i = E(z_i) + place_i where shown, a learned vector + place_i where hidden
    h = transformer(condition.sequence, condition.vector, x)

What a hidden entry holds cannot matter: it is replaced before anything is computed from it.
Sources: BERT (arXiv:1810.04805), MaskGIT (arXiv:2202.04200), MAR for continuous entries (arXiv:2406.11838).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.core.condition import Condition
from sfumato.core.space import Sequence, Tokens
from sfumato.nn.parts.doors import check_doors
from sfumato.nn.parts.embed import Kind, Positions
from sfumato.nn.rows.transformer import Activation, Norm, Transformer


class MaskedNet(nn.Module):
    """z (B, N) int64 or (B, N, D) float, hidden (B, N) bool → h (B, N, features).

    condition.vector and condition.sequence stand before the entries and are attended to."""

    def __init__(
        self,
        space: Tokens | Sequence,
        features: int,
        *,
        width: int,
        depth: int,
        heads: int,
        vector: int | None = None,
        context: int | None = None,
        positions: Kind = "learned",
        norm: Norm = "layer",
        activation: Activation = "gelu",
        expand: float = 4.0,
        qk_norm: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.space, self.features, self.vector_width, self.context_width = space, features, vector, context
        if isinstance(space, Tokens):
            self.embed: nn.Module = nn.Embedding(space.vocab, width)
            nn.init.normal_(self.embed.weight, std=0.02)
        else:
            self.embed = nn.Linear(space.width, width)
        self.hole = nn.Parameter(0.02 * torch.randn(width))
        self.vector = None if vector is None else nn.Linear(vector, width)
        self.context = None if context is None else nn.Linear(context, width)
        self.positions = Positions(positions, space.length, width, width // heads, space.layout)
        self.dropout = nn.Dropout(dropout)
        self.trunk = Transformer(
            width, depth, heads, norm=norm, activation=activation, expand=expand, qk_norm=qk_norm, dropout=dropout
        )
        self.head = nn.Linear(width, features)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, z: Tensor, hidden: Tensor, condition: Condition, *, layers: int | None = None) -> Tensor:
        """With `layers`, the states (B, N, width) after so many blocks instead, for a probe."""
        check_doors("masked net", condition, vector=self.vector_width, sequence=self.context_width)
        n = hidden.shape[1]
        if isinstance(self.space, Tokens):
            z = z.masked_fill(hidden, 0)  # so that a hidden entry may hold anything, an id beyond the alphabet too
        else:
            z = z.masked_fill(hidden[..., None], 0.0)
        x = torch.where(hidden[..., None], self.hole, self.embed(z))
        added = self.positions.added(0, n, x.device)
        if added is not None:
            x = x + added
        before = []
        if self.context is not None:
            before.append(self.context(condition.sequence))
        if self.vector is not None:
            before.append(self.vector(condition.vector)[:, None])
        x = torch.cat([*before, x], dim=1)
        length = x.shape[1] - n
        mask = None
        if self.context is not None and condition.mask is not None:
            mask = F.pad(condition.mask.bool(), (0, x.shape[1] - condition.mask.shape[1]), value=True)
        rotation = self.positions.rotation(-length, n, x.device)
        h = self.trunk(self.dropout(x), mask=mask, rotation=rotation, layers=layers)[:, length:]
        return h if layers is not None else self.head(h)
