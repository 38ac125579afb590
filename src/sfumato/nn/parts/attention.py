"""Attention: softmax(q kᵀ / √d) v, in several heads.

A mask is bool and True where a query may look. A (B, T) mask speaks of keys. A query that may look nowhere gets zero,
not NaN: a caption of no words says nothing.
Source: arXiv:1706.03762.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.core.errors import Misfit
from sfumato.nn.parts.embed import Rotation, rotate
from sfumato.nn.parts.layers import RMSNorm, group_norm, zero

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]  # (q, k, v), each (B, heads, T, d) → (B, heads, T, d)


class Cache:
    """Keys and values of all positions so far, (B, heads, capacity, d). The memory for the whole length is taken once,
    when the first keys show their dtype and device; after that a position costs a copy of itself."""

    def __init__(self, capacity: int):
        self.capacity, self.length = capacity, 0
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Stores (B, heads, n, d) and returns views of everything stored."""
        b, h, n, d = keys.shape
        if self._keys is None or self._values is None:
            self._keys = keys.new_empty(b, h, self.capacity, d)
            self._values = values.new_empty(b, h, self.capacity, d)
        stop = self.length + n
        if stop > self.capacity:
            raise Misfit(f"The cache holds {self.capacity} positions; {stop} were asked of it.")
        self._keys[:, :, self.length : stop] = keys
        self._values[:, :, self.length : stop] = values
        self.length = stop
        return self._keys[:, :, :stop], self._values[:, :, :stop]


def heads_of(x: Tensor, heads: int) -> Tensor:
    """(B, T, heads · d) → (B, heads, T, d)."""
    return x.view(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


def causal_mask(length: int, valid: Tensor, whole: int = 0) -> Tensor:
    """(B, 1, T, T) for T = length: nobody looks ahead, nor at a position that is not valid (B, T); all see themselves,
    so that no row of the softmax is empty. The first `whole` positions look at one another, ahead too."""
    square = torch.ones(length, length, dtype=torch.bool, device=valid.device).tril()
    square[:whole, :whole] = True
    return (square & valid[:, None, None, :]) | torch.eye(length, dtype=torch.bool, device=valid.device)


class Attention(nn.Module):
    """Of a sequence to itself, or, built with `context`, to another: (B, T, D) → (B, T, D).

    `qk_norm` normalises queries and keys per head (arXiv:2302.05442): without it the logits of large nets grow until
    the softmax is one-hot."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        context: int | None = None,
        bias: bool = True,
        qk_norm: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__()
        if width % heads:
            raise Misfit(f"A width of {width} does not split into {heads} heads.")
        self.heads, self.dropout = heads, dropout
        if context is None:
            self.qkv = nn.Linear(width, 3 * width, bias=bias)
        else:
            self.q = nn.Linear(width, width, bias=bias)
            self.kv = nn.Linear(context, 2 * width, bias=bias)
        self.cross = context is not None
        self.q_norm = RMSNorm(width // heads) if qk_norm else nn.Identity()
        self.k_norm = RMSNorm(width // heads) if qk_norm else nn.Identity()
        self.out = nn.Linear(width, width)

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        causal: bool = False,
        rotation: Rotation | None = None,
        cache: Cache | None = None,
        attend: Attend | None = None,
    ) -> Tensor:
        """`mask` is (B, keys) or anything that broadcasts to (B, heads, queries, keys). `causal` goes without a mask
        (see causal_mask) and without a past; with a cache, x continues what is stored. `attend` is another attention
        (nn.sparse), which then knows its own mask."""
        if self.cross:
            q, (k, v) = self.q(x), self.kv(context).chunk(2, dim=-1)
        else:
            q, k, v = self.qkv(x).chunk(3, dim=-1)
        q, k, v = heads_of(q, self.heads), heads_of(k, self.heads), heads_of(v, self.heads)
        q, k = self.q_norm(q), self.k_norm(k)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        if cache is not None:
            k, v = cache.append(k, v)
        if attend is not None:
            return self.out(attend(q, k, v).transpose(1, 2).flatten(2))
        if cache is not None and mask is None and q.shape[2] == 1 and q.device.type == "cpu":
            # a row of scores per head: two plain products take two thirds of the fused kernel's time
            y = (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(-1) @ v
            return self.out(y.transpose(1, 2).flatten(2))
        anything = None
        if mask is not None and mask.ndim == 2:
            anything = mask.any(dim=1)
            mask = (mask | ~anything[:, None])[:, None, None, :]
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal)
        if anything is not None:
            y = y.masked_fill(~anything[:, None, None, None], 0.0)
        return self.out(y.transpose(1, 2).flatten(2))


class GridAttention(nn.Module):
    """x + attention over all pixels of the group-normalised x: (B, C, H, W) → the same. The last layer starts at zero.

    `head` is the number of channels per head; None: one head over all of them, as in DDPM and taming."""

    def __init__(self, channels: int, head: int | None = None, groups: int | None = None, eps: float = 1e-6):
        super().__init__()
        self.norm = group_norm(channels, groups, eps)
        self.attention = Attention(channels, 1 if head is None else max(channels // head, 1))
        zero(self.attention.out)

    def forward(self, x: Tensor) -> Tensor:
        y = self.attention(self.norm(x).flatten(2).transpose(1, 2))
        return x + y.transpose(1, 2).reshape(x.shape)
