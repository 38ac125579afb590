"""Causal attention that looks at a part of the past: DALL·E's rows, columns and neighbourhoods.

Steps lie in lines of W. Step i looks at step i − d, d ≥ 0, where

    row            d ≤ W                                      the line so far, as much of the one before
    column         d mod W = 0                                what stands straight above
    convolution    d = a W + b,  0 ≤ a ≤ r,  |b| ≤ r          the causal part of a (2r + 1)² neighbourhood

Rows wrap at the end of a line. A prefix (words) is seen by all steps and sees itself causally, or, of its first
`whole` positions, fully.

`mask` writes this down as one square, for any attention. `attend` computes the same with less: rows and neighbourhoods
in blocks of one line that look at the few lines before them, columns with lines and places exchanged.

In raster order W is the width of the plane, in column order its height: d counts steps.
Shapes: q, k, v (B, heads, P + n, d). Source: Ramesh et al. 2021, arXiv:2102.12092, appendix B.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.core.errors import Misfit
from sfumato.nn.parts.attention import causal_mask

Name = Literal["row", "column", "convolution"]


@dataclass(frozen=True)
class Pattern:
    name: Name
    line: int  # W
    kernel: int = 11  # 2r + 1, of the convolution

    def __post_init__(self) -> None:
        if self.name not in get_args(Name):
            raise Misfit(f"A sparse attention is {', '.join(get_args(Name))}, or None for all; not {self.name!r}.")
        if self.kernel % 2 == 0:
            raise Misfit(f"A neighbourhood has its step in the middle, so its side is odd, not {self.kernel}.")

    @property
    def reach(self) -> int | None:
        """The farthest step back; None: to the beginning."""
        r = self.kernel // 2
        return {"row": self.line, "column": None, "convolution": r * self.line + r}[self.name]

    def sees(self, back: Tensor) -> Tensor:
        """Whether a step looks so many steps back; bool, elementwise."""
        if self.name == "row":
            return (back >= 0) & (back <= self.line)
        if self.name == "column":
            return (back >= 0) & (back % self.line == 0)
        r = self.kernel // 2
        return (back >= 0) & (back <= r * self.line + r) & ((back + r) % self.line <= 2 * r)

    def past(self, i: int, prefix: int, device: torch.device) -> Tensor:
        """The places among P + i + 1 keys that step i looks at, ascending."""
        steps = torch.arange(i + 1, device=device)
        seen = steps[self.sees(i - steps)]
        return torch.cat([torch.arange(prefix, device=device), prefix + seen])

    def mask(
        self,
        n: int,
        prefix: int = 0,
        valid: Tensor | None = None,
        device: torch.device | None = None,
        whole: int = 0,
    ) -> Tensor:
        """(B or 1, 1, P + n, P + n), True where a query may look; `valid` (B, P + n) is False at words that are
        none."""
        valid = torch.ones(1, prefix + n, dtype=torch.bool, device=device) if valid is None else valid
        i = torch.arange(n, device=valid.device)
        square = torch.ones(prefix + n, prefix + n, dtype=torch.bool, device=valid.device)
        square[prefix:, prefix:] = self.sees(i[:, None] - i)
        return causal_mask(prefix + n, valid, whole) & square


def patterns_of(names: Sequence[str | None], depth: int, line: int | None, kernel: int) -> list[Pattern | None]:
    """One for each layer; Misfit where their number is another, or where there are no lines."""
    if len(names) != depth:
        raise Misfit(f"{len(names)} patterns are named for {depth} layers; name one for each, None for full attention.")
    if line is None and any(names):
        raise Misfit("Rows and columns need a layout in the plane, and this latent has none. Leave the patterns out.")
    return [None if name is None else Pattern(name, line or 1, kernel) for name in names]  # type: ignore[arg-type]


def dalle(depth: int) -> list[Name]:
    """DALL·E's layers: row, column, row, row, repeated, and a neighbourhood last."""
    found: list[Name] = ["column" if i % 4 == 1 else "row" for i in range(depth - 1)]
    return [*found, "convolution"]


def attend(
    pattern: Pattern,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    prefix: int = 0,
    valid: Tensor | None = None,
    whole: int = 0,
) -> Tensor:
    """softmax(q kᵀ / √d) v under pattern.mask(n, prefix, valid, whole=whole), by blocks."""
    prefix = min(prefix, q.shape[2])  # of which only a beginning may stand here
    n, line = q.shape[2] - prefix, pattern.line
    words = k[:, :, :prefix], v[:, :, :prefix]
    pad = -n % line
    found = []
    if prefix:
        seen = q.new_ones(1, prefix, dtype=torch.bool) if valid is None else valid[:, :prefix]
        mask = causal_mask(prefix, seen, whole)
        found.append(F.scaled_dot_product_attention(q[:, :, :prefix], *words, attn_mask=mask))
    if n:
        later = [F.pad(x[:, :, prefix:], (0, 0, 0, pad)) for x in (q, k, v)]
        blocks, shown = _columns if pattern.reach is None else _windows, None if valid is None else valid[:, :prefix]
        found.append(blocks(pattern, later[0], later[1], later[2], words, shown)[:, :, :n])
    return torch.cat(found, dim=2) if len(found) > 1 else found[0]


def attend_at(places: Tensor, valid: Tensor | None, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One query, (B, heads, 1, d), that looks at these places of all the keys."""
    mask = None if valid is None else valid[:, None, None, places]
    return F.scaled_dot_product_attention(q, k.index_select(2, places), v.index_select(2, places), attn_mask=mask)


def _windows(pattern: Pattern, q: Tensor, k: Tensor, v: Tensor, words: tuple[Tensor, Tensor], valid: Tensor | None):
    """A block of queries is one line; it looks at its own line and those before it that the pattern reaches."""
    b, heads, n, d = q.shape
    line, lines = pattern.line, n // pattern.line
    before = -(-(pattern.reach or 0) // line)
    size = (before + 1) * line
    k, v = (
        F.pad(x, (0, 0, before * line, 0)).unfold(2, size, line).transpose(-1, -2).reshape(b, heads * lines, size, d)
        for x in (k, v)
    )
    place, key = torch.arange(line, device=q.device), torch.arange(size, device=q.device) - before * line
    inside = torch.arange(lines, device=q.device)[:, None, None] * line + key >= 0
    seen = pattern.sees(place[:, None] - key) & inside  # (lines, line, size)
    return _blocks(q.reshape(b, heads * lines, line, d), k, v, seen, words, valid, heads).reshape(b, heads, n, d)


def _columns(pattern: Pattern, q: Tensor, k: Tensor, v: Tensor, words: tuple[Tensor, Tensor], valid: Tensor | None):
    """Places of a line become the blocks, in each of which the lines follow one another."""
    b, heads, n, d = q.shape
    line, lines = pattern.line, n // pattern.line
    q, k, v = (
        x.reshape(b, heads, lines, line, d).transpose(2, 3).reshape(b, heads * line, lines, d) for x in (q, k, v)
    )
    seen = torch.ones(lines, lines, dtype=torch.bool, device=q.device).tril().expand(line, -1, -1)
    y = _blocks(q, k, v, seen, words, valid, heads)
    return y.reshape(b, heads, line, lines, d).transpose(2, 3).reshape(b, heads, n, d)


def _blocks(
    q: Tensor, k: Tensor, v: Tensor, seen: Tensor, words: tuple[Tensor, Tensor], valid: Tensor | None, heads: int
) -> Tensor:
    """Attention within blocks, q (B, heads · m, L, d) and seen (m, L, S), each of which sees the valid words too."""
    m, length, _ = seen.shape
    p = words[0].shape[2]
    if p:
        k, v = (torch.cat([w.repeat_interleave(m, 1), x], dim=2) for w, x in zip(words, (k, v)))
        shown = seen.new_ones(1, p) if valid is None else valid
        shown = shown[:, None, None, :].expand(-1, m, length, -1)
        seen = torch.cat([shown, seen.expand(len(shown), -1, -1, -1)], dim=-1)
    mask = seen.reshape(-1, m, length, k.shape[2]).repeat(1, heads, 1, 1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
