"""An autoregressive network: h_i is a function of z_0 … z_{i−1} and the condition, nothing else.

    positions   −P … −1           0              1     …   N − 1
    reads       condition words   start          z_0   …   z_{N−2}
    gives       –                 h_0            h_1   …   h_{N−1}

start = a learned vector + a projection of condition.vector. Each position looks at itself and at what lies before it.
Because h_i is what predicts z_i, position i of a picture means the pixel that is to come.
Source: image GPT (Chen et al. 2020, the learned start), GPT-2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.core.condition import Condition
from sfumato.core.errors import Misfit
from sfumato.core.space import Sequence, Tokens
from sfumato.nn.attention import Cache, causal_mask
from sfumato.nn.doors import check_doors
from sfumato.nn.embed import Kind, Positions, Rotation
from sfumato.nn.transformer import Activation, Norm, Transformer


@dataclass
class State:
    """What generating one position after another remembers. `position` is the one to come."""

    first: Tensor  # (B, 1, D): what stands at position 0
    caches: list[Cache]
    rotation: Rotation | None  # of positions 0 … N − 1
    valid: Tensor | None  # (B, P + N), True where a key may be looked at; None: everywhere
    prefix: int = 0
    position: int = 0


class CausalNet(nn.Module):
    """z (B, n) int64 or (B, n, D) float, n ≤ N → h (B, n, features).

    `features` is what the likelihood asks for: its logits or parameters. `tied` reads them off the token embedding.
    `vector` and `context` are the widths of condition.vector and condition.sequence; None: the net has no such door.
    """

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
        tied: bool = False,
        head_bias: bool = True,
        eps: float = 1e-5,
    ):
        super().__init__()
        self.space, self.features, self.vector_width, self.context_width = space, features, vector, context
        if isinstance(space, Tokens):
            self.embed: nn.Module = nn.Embedding(space.vocab, width)
        else:
            self.embed = nn.Linear(space.width, width)
        if tied and not (isinstance(space, Tokens) and features == space.vocab):
            raise Misfit(
                f"A tied head gives one logit per token of the alphabet, which {space} with {features} features lacks. "
                "Build it with tied=False."
            )
        self.start_vector = nn.Parameter(0.02 * torch.randn(width))
        self.vector = None if vector is None else nn.Linear(vector, width, bias=False)
        self.context = None if context is None else nn.Linear(context, width)
        self.positions = Positions(positions, space.length, width, width // heads, space.layout, std=0.01)
        self.dropout = nn.Dropout(dropout)
        self.trunk = Transformer(
            width,
            depth,
            heads,
            norm=norm,
            activation=activation,
            expand=expand,
            qk_norm=qk_norm,
            dropout=dropout,
            eps=eps,
        )
        self.head = None if tied else nn.Linear(width, features, bias=head_bias)
        if isinstance(self.embed, nn.Embedding):
            nn.init.normal_(self.embed.weight, std=0.02)
        if (
            self.head is not None
        ):  # small, not zero: the parts of a mixture must differ, or they would stay alike for ever
            nn.init.normal_(self.head.weight, std=0.02)
            if self.head.bias is not None:
                nn.init.zeros_(self.head.bias)

    def forward(self, z: Tensor, condition: Condition, *, layers: int | None = None) -> Tensor:
        """h (B, n, features); with `layers`, the states (B, n, width) after so many blocks instead, for a probe."""
        first, prefix = self._open(condition)
        n = z.shape[1]
        x = self._place(torch.cat([first, self._embed(z[:, : n - 1])], dim=1), 0)
        length, mask = 0, None
        if prefix is not None:
            x, length = torch.cat([prefix, x], dim=1), prefix.shape[1]
            if condition.mask is not None:
                mask = causal_mask(length + n, F.pad(condition.mask.bool(), (0, n), value=True))
        rotation = self.positions.rotation(-length, n, x.device)
        h = self.trunk(self.dropout(x), mask=mask, causal=mask is None, rotation=rotation, layers=layers)[:, length:]
        return h if layers is not None else self._read(h)

    def read(self, z: Tensor) -> Tensor:
        """Plain continuation without a start vector or a condition, as GPT-2 is published: h_i sees z_0 … z_i and
        predicts what follows them. (B, n) → (B, n, features)."""
        x = self._place(self._embed(z), 0)
        rotation = self.positions.rotation(0, z.shape[1], x.device)
        return self._read(self.trunk(self.dropout(x), causal=True, rotation=rotation))

    @torch.no_grad()
    def start(self, condition: Condition) -> State:
        """Reads the condition; `step` then goes position by position."""
        first, prefix = self._open(condition)
        length = 0 if prefix is None else prefix.shape[1]
        n = self.space.length
        caches = [Cache(length + n) for _ in range(self.trunk.depth)]
        valid = None
        if prefix is not None:
            if condition.mask is not None:
                valid = F.pad(condition.mask.bool(), (0, n), value=True)
            mask = None if valid is None else causal_mask(length, valid[:, :length])
            rotation = self.positions.rotation(-length, 0, prefix.device)
            self.trunk(self.dropout(prefix), mask=mask, causal=mask is None, rotation=rotation, caches=caches)
        return State(first, caches, self.positions.rotation(0, n, first.device), valid, length)

    @torch.no_grad()
    def step(self, state: State, last: Tensor | None) -> Tensor:
        """h (B, features) of position i = state.position; `last` is z_{i−1}, (B,) or (B, D), and None for i = 0."""
        i = state.position
        if (last is None) != (i == 0):
            raise ValueError(f"Position {i} {'has nothing' if i == 0 else 'needs the value'} before it.")
        if i >= self.space.length:
            raise Misfit(f"{self.space} has no position {i}.")
        x = state.first if last is None else self._embed(last[:, None])
        x = self._place(x, i)
        turn = None if state.rotation is None else (state.rotation[0][i : i + 1], state.rotation[1][i : i + 1])
        mask = None if state.valid is None else state.valid[:, : state.prefix + i + 1]
        h = self.trunk(self.dropout(x), mask=mask, rotation=turn, caches=state.caches)
        state.position += 1
        return self._read(h)[:, 0]

    def _open(self, condition: Condition) -> tuple[Tensor, Tensor | None]:
        """The start (B, 1, D) and the prefix (B, P, D)."""
        check_doors("causal net", condition, vector=self.vector_width, sequence=self.context_width)
        first = self.start_vector.expand(condition.rows, 1, -1)
        if self.vector is not None:
            first = first + self.vector(condition.vector)[:, None].to(first.dtype)
        return first, None if self.context is None else self.context(condition.sequence).to(first.dtype)

    def _embed(self, z: Tensor) -> Tensor:
        """In the weights' precision under autocast too, so that what is summed up block by block keeps its bits."""
        return self.embed(z).to(self.start_vector.dtype)

    def _place(self, x: Tensor, start: int) -> Tensor:
        added = self.positions.added(start, start + x.shape[1], x.device)
        return x if added is None else x + added

    def _read(self, h: Tensor) -> Tensor:
        if self.head is not None:
            return self.head(h)
        assert isinstance(self.embed, nn.Embedding)
        return F.linear(h, self.embed.weight)
