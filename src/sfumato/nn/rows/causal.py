"""An autoregressive network: h_i is a function of z_0 … z_{i−1} and the condition, nothing else.

    positions   −P … −1           0              1     …   N − 1
    reads       condition words   start          z_0   …   z_{N−2}
    gives       –                 h_0            h_1   …   h_{N−1}

start = a learned vector + a projection of condition.vector. Each position looks at itself and at what lies before it;
words may look at all words (`prefix`). Because h_i is what predicts z_i, position i of a picture means the pixel that
is to come.

With an order π, z stands in that order (z_i is the entry at position π_i), and step i is told the place of π_i. One
that learns many orders (`orders`) is told as well where the entry that it reads came from, π_{i−1} (arXiv:2404.09562).
A layer may look at a part of the past only: `patterns` (nn.sparse). What is known of the beginning is read in one pass,
`resume`.
Source: image GPT (Chen et al. 2020, the learned start), GPT-2; the prefix in full attention arXiv:1905.03197.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Row
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.core.condition import Condition
from sfumato.core.errors import Misfit
from sfumato.core.space import Sequence, Tokens
from sfumato.nn.parts.attention import Attend, Cache, causal_mask
from sfumato.nn.parts.doors import check_doors
from sfumato.nn.parts.embed import Kind, Positions, Rotation
from sfumato.nn.parts.packed import packed, packed_product
from sfumato.nn.parts.sparse import attend, attend_at, patterns_of
from sfumato.nn.rows.transformer import Activation, Norm, Transformer

Prefix = Literal["causal", "full"]


@dataclass
class State:
    """What generating one position after another remembers. `position` counts the steps done."""

    first: Tensor  # (B, 1, D): what stands at step 0
    caches: list[Cache]
    trunk: Callable[..., Tensor]  # the net's own, or a copy of it that is faster step by step (nn.packed)
    head: Callable[[Tensor], Tensor]
    places: Tensor | None  # (N, D) or (B, N, D): what to add at each step
    rotation: Rotation | None  # of steps 0 … N − 1
    valid: Tensor | None  # (B, P + N), True where a key may be looked at; None: everywhere
    prefix: int = 0
    position: int = 0


class CausalNet(nn.Module):
    """z (B, n) int64 or (B, n, D) float, n ≤ N → h (B, n, features). An order is (N,), or (B, N) with one for each row.

    `features` is what the likelihood asks for: its logits or parameters. `tied` reads them off the token embedding.
    `vector` and `context` are the widths of condition.vector and condition.sequence; None: the net has no such door.
    `patterns` names a sparse attention for each layer, None where it looks everywhere; `line` is how many steps make a
    line of it, by default the layout's width, and `kernel` the side of a neighbourhood. The first `lead` entries of z
    (a caption, before its picture) lie in no line: every step looks at those before it, whatever its layer's pattern.
    `prefix`: whether the words of the condition look at those before them, or at all words.
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
        orders: bool = False,
        patterns: Row[str | None] | None = None,
        line: int | None = None,
        kernel: int = 11,
        lead: int = 0,
        prefix: Prefix = "causal",
    ):
        super().__init__()
        _refuse_misfits(space, features, tied, lead, prefix, context)
        self.space, self.features, self.vector_width, self.context_width = space, features, vector, context
        if isinstance(space, Tokens):
            self.embed: nn.Module = nn.Embedding(space.vocab, width)
        else:
            self.embed = nn.Linear(space.width, width)
        self.start_vector = nn.Parameter(0.02 * torch.randn(width))
        self.vector = None if vector is None else nn.Linear(vector, width, bias=False)
        self.context = None if context is None else nn.Linear(context, width)
        self.positions = Positions(positions, space.length, width, width // heads, space.layout, std=0.01)
        self.origins = Positions("learned", space.length, width, width // heads, std=0.01) if orders else None
        line = space.layout[1] if line is None and space.layout is not None else line
        self.patterns = patterns_of(patterns or [None] * depth, depth, line, kernel)
        self.lead = lead + 1 if lead else 0  # in steps: z_i is read at step i + 1
        self.prefix = prefix
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
        self._initialise()

    def _initialise(self) -> None:
        if isinstance(self.embed, nn.Embedding):
            nn.init.normal_(self.embed.weight, std=0.02)
        if self.head is None:
            return
        # small, not zero: the parts of a mixture must differ, or they would stay alike for ever
        nn.init.normal_(self.head.weight, std=0.02)
        if self.head.bias is not None:
            nn.init.zeros_(self.head.bias)

    def forward(
        self, z: Tensor, condition: Condition, *, order: Tensor | None = None, layers: int | None = None
    ) -> Tensor:
        """h (B, n, features); with `layers`, the states (B, n, width) after so many blocks instead, for a probe."""
        first, prefix = self._open(condition)
        x, length = self._joined(first, prefix, z[:, :-1], order)
        mask, looks = self._looks(length, z.shape[1], condition.mask, x.device)
        rotation = self._rotation(z.shape[1], order, length, x.device)
        h = self.trunk(self.dropout(x), mask=mask, causal=mask is None, rotation=rotation, attend=looks, layers=layers)[
            :, length:
        ]
        return h if layers is not None else self._read(h)

    def read(self, z: Tensor) -> Tensor:
        """Plain continuation without a start vector or a condition, as GPT-2 is published: h_i sees z_0 … z_i and
        predicts what follows them. (B, n) → (B, n, features)."""
        x = self._embed(z)
        added = self.positions.added(0, z.shape[1], x.device)
        x = x if added is None else x + added
        rotation = self.positions.rotation(0, z.shape[1], x.device)
        return self._read(self.trunk(self.dropout(x), causal=True, rotation=rotation))

    @torch.no_grad()
    def start(self, condition: Condition, order: Tensor | None = None) -> State:
        """Reads the condition; `step` then goes position by position."""
        first, prefix = self._open(condition)
        length = 0 if prefix is None else prefix.shape[1]
        caches = [Cache(length + self.space.length) for _ in range(self.trunk.depth)]
        if prefix is not None:
            valid = None if condition.mask is None else condition.mask.bool()
            if valid is None and self.prefix == "full":
                valid = torch.ones(1, length, dtype=torch.bool, device=prefix.device)
            mask = None if valid is None else causal_mask(length, valid, self._whole(length))
            rotation = self.positions.rotation(-length, 0, prefix.device)
            self.trunk(self.dropout(prefix), mask=mask, causal=mask is None, rotation=rotation, caches=caches)
        return self._state(first, length, caches, condition, order)

    @torch.no_grad()
    def resume(self, condition: Condition, z: Tensor, order: Tensor | None = None) -> State:
        """`start`, and then the steps 0 … n that read z (B, n) or (B, n, D), all in one pass: step n + 1 is the next.
        z stands in the order, as in a call."""
        first, prefix = self._open(condition)
        x, length = self._joined(first, prefix, z, order)
        n = z.shape[1] + 1
        caches = [Cache(length + self.space.length) for _ in range(self.trunk.depth)]
        mask, looks = self._looks(length, n, condition.mask, x.device)
        rotation = self._rotation(n, order, length, x.device)
        self.trunk(self.dropout(x), mask=mask, causal=mask is None, rotation=rotation, caches=caches, attend=looks)
        state = self._state(first, length, caches, condition, order)
        state.position = n
        return state

    def _state(
        self, first: Tensor, length: int, caches: list[Cache], condition: Condition, order: Tensor | None
    ) -> State:
        n, rows = self.space.length, condition.rows
        valid = None
        if length and condition.mask is not None:
            valid = F.pad(condition.mask.bool(), (0, n), value=True)
        rotation = self._rotation(n, order, 0, first.device)
        tied = packed_product(self.embed.weight, rows) if self.head is None else None  # type: ignore[arg-type]
        head = tied or (self._read if self.head is None else packed(self.head, rows))
        places = self._places(n, order)
        return State(first, caches, packed(self.trunk, rows), head, places, rotation, valid, length)

    @torch.no_grad()
    def step(self, state: State, last: Tensor | None) -> Tensor:
        """h (B, features) of step i = state.position; `last` is z_{i−1}, (B,) or (B, D), and None for i = 0."""
        i = state.position
        if (last is None) != (i == 0):
            raise ValueError(f"Position {i} {'has nothing' if i == 0 else 'needs the value'} before it.")
        if i >= self.space.length:
            raise Misfit(f"{self.space} has no position {i}.")
        x = state.first if last is None else self._embed(last[:, None])
        x = x if state.places is None else x + state.places[..., i : i + 1, :]
        turn = None if state.rotation is None else tuple(part[..., i : i + 1, :] for part in state.rotation)
        mask = None if state.valid is None else state.valid[:, : state.prefix + i + 1]
        later, before = i - self.lead, state.prefix + self.lead
        past = {p: p.past(later, before, x.device) for p in set(self.patterns) if p is not None and later >= 0}
        looks: list[Attend | None] = [partial(attend_at, past[p], mask) if p in past else None for p in self.patterns]
        h = state.trunk(self.dropout(x), mask=mask, rotation=turn, caches=state.caches, attend=looks)
        state.position += 1
        return state.head(h)[:, 0]

    def _open(self, condition: Condition) -> tuple[Tensor, Tensor | None]:
        """The start (B, 1, D) and the prefix (B, P, D)."""
        check_doors("causal net", condition, vector=self.vector_width, sequence=self.context_width)
        first = self.start_vector.expand(condition.rows, 1, -1)
        if self.vector is not None:
            first = first + self.vector(condition.vector)[:, None].to(first.dtype)
        return first, None if self.context is None else self.context(condition.sequence).to(first.dtype)

    def _joined(self, first: Tensor, prefix: Tensor | None, z: Tensor, order: Tensor | None) -> tuple[Tensor, int]:
        """(what stands at −P … n, P) where z (B, n) is read at steps 1 … n."""
        x = torch.cat([first, self._embed(z)], dim=1)
        places = self._places(z.shape[1] + 1, order)
        x = x if places is None else x + places
        return (x, 0) if prefix is None else (torch.cat([prefix, x], dim=1), prefix.shape[1])

    def _whole(self, length: int) -> int:
        return length if self.prefix == "full" else 0

    def _looks(
        self, length: int, n: int, shown: Tensor | None, device: torch.device
    ) -> tuple[Tensor | None, list[Attend | None]]:
        """The mask of the layers that look everywhere (None: plainly causal), and the attention of the others, for a
        prefix, of which `shown` (B, P) are words, and steps 0 … n − 1."""
        valid = F.pad(shown.bool(), (0, n), value=True) if length and shown is not None else None
        whole, before, mask = self._whole(length), length + self.lead, None
        if None in self.patterns and (valid is not None or whole):
            all_of = torch.ones(1, length + n, dtype=torch.bool, device=device) if valid is None else valid
            mask = causal_mask(length + n, all_of, whole)
        sparse = partial(attend, prefix=before, valid=valid, whole=whole)
        return mask, [None if p is None else partial(sparse, p) for p in self.patterns]

    def _embed(self, z: Tensor) -> Tensor:
        """In the weights' precision under autocast too, so that what is summed up block by block keeps its bits."""
        return self.embed(z).to(self.start_vector.dtype)

    def _places(self, n: int, order: Tensor | None) -> Tensor | None:
        """What is added at steps 0 … n − 1: the place of the entry to come and, for many orders, of the one that is
        read, (n, D) or (B, n, D)."""
        device = self.start_vector.device
        if order is None:
            order, added = torch.arange(n, device=device), self.positions.added(0, n, device)
        else:
            added = self.positions.added(0, self.space.length, device)
            added = None if added is None else added[order[..., :n]]
        if self.origins is None:
            return added
        came = F.pad(self.origins.table[order[..., : n - 1]], (0, 0, 1, 0))
        return came if added is None else added + came

    def _rotation(self, n: int, order: Tensor | None, prefix: int, device: torch.device) -> Rotation | None:
        """Of a prefix and of steps 0 … n − 1."""
        if order is None:
            return self.positions.rotation(-prefix, n, device)
        found = self.positions.rotation(-prefix, self.space.length, device)
        if found is None:
            return None
        before = torch.arange(prefix, device=device).expand(*order.shape[:-1], prefix)
        index = torch.cat([before, prefix + order[..., :n]], dim=-1)
        cos, sin = (part[index] if index.ndim == 1 else part[index][:, None] for part in found)
        return cos, sin

    def _read(self, h: Tensor) -> Tensor:
        if self.head is not None:
            return self.head(h)
        assert isinstance(self.embed, nn.Embedding)
        return F.linear(h, self.embed.weight)


def _refuse_misfits(
    space: Tokens | Sequence, features: int, tied: bool, lead: int, prefix: Prefix, context: int | None
) -> None:
    if tied and not (isinstance(space, Tokens) and features == space.vocab):
        raise Misfit(
            f"A tied head gives one logit per token of the alphabet, which {space} with {features} features lacks. "
            "Build it with tied=False."
        )
    if not 0 <= lead < space.length:
        raise Misfit(f"From 0 to {space.length - 1} entries of {space} may lead, not {lead}.")
    if prefix not in get_args(Prefix):
        raise Misfit(f"The words of a prefix look at those before them, 'causal', or at all, 'full'; not {prefix!r}.")
    if prefix == "full" and context is None:
        raise Misfit("A net without a context has no prefix that could look at itself. Leave prefix='causal'.")
