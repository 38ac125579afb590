"""The one transformer. Blocks are pre-norm:

    x ← x + g₁ · attention(m₁(n(x)))        to the sequence itself
    x ← x + attention(n(x), context)        to another, where there is one
    x ← x + g₂ · mlp(m₂(n(x)))

Without modulation g = 1 and m is the identity. With it (adaLN-zero, arXiv:2212.09748) m(y) = (1 + s) y + b, and s, b, g
are linear in SiLU(vector) with all weights zero at the start: a new block is then the identity.
Sources: arXiv:1706.03762, GPT-2 (pre-norm, initialisation), arXiv:2002.05202 (gated units),
arXiv:1910.07467 (RMS norm).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.core.errors import Misfit
from sfumato.nn.parts.attention import Attend, Attention, Cache
from sfumato.nn.parts.embed import Rotation
from sfumato.nn.parts.layers import RMSNorm, zero

Norm = Literal["layer", "rms"]
Activation = Literal["gelu", "gelu_new", "quick", "swiglu", "geglu"]


def _tanh_gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


PLAIN: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "gelu_new": _tanh_gelu, "quick": _quick_gelu}
GATED: dict[str, Callable[[Tensor], Tensor]] = {"swiglu": F.silu, "geglu": F.gelu}


class Mlp(nn.Module):
    """φ(x W₁) W₂, or gated φ(x W₁) ⊙ (x V) W₂. A swiglu is ⅔ as wide, so that it costs what the plain one does; a geglu
    keeps the full width, as latent diffusion's does."""

    def __init__(self, width: int, activation: Activation = "gelu", expand: float = 4.0, bias: bool = True):
        super().__init__()
        if activation not in PLAIN and activation not in GATED:
            raise Misfit(f"The activation is one of {', '.join([*PLAIN, *GATED])}; not {activation!r}.")
        self.gated = activation in GATED
        self.activation = activation
        hidden = int(expand * width)
        if activation == "swiglu":
            hidden = math.ceil(hidden * 2 / 3 / 8) * 8
        self.inner = nn.Linear(width, hidden * (2 if self.gated else 1), bias=bias)
        self.out = nn.Linear(hidden, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.gated:
            value, gate = self.inner(x).chunk(2, dim=-1)
            return self.out(value * GATED[self.activation](gate))
        return self.out(PLAIN[self.activation](self.inner(x)))


def make_norm(kind: Norm, width: int, eps: float, affine: bool = True) -> nn.Module:
    if kind == "layer":
        return nn.LayerNorm(width, eps, elementwise_affine=affine)
    if kind == "rms":
        return RMSNorm(width, eps) if affine else nn.RMSNorm(width, eps, elementwise_affine=False)
    raise Misfit(f"The norm is 'layer' or 'rms'; not {kind!r}.")


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale[:, None]) + shift[:, None]


class Block(nn.Module):
    """(B, T, D) → (B, T, D). `vector` and `context` are the widths of what modulates and what is attended to."""

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        norm: Norm = "layer",
        activation: Activation = "gelu",
        expand: float = 4.0,
        vector: int | None = None,
        context: int | None = None,
        qkv_bias: bool = True,
        qk_norm: bool = False,
        dropout: float = 0.0,
        eps: float = 1e-5,
    ):
        super().__init__()
        affine = vector is None
        self.norm1 = make_norm(norm, width, eps, affine)
        self.attention = Attention(width, heads, bias=qkv_bias, qk_norm=qk_norm, dropout=dropout)
        self.norm_cross = None if context is None else make_norm(norm, width, eps)
        self.cross = (
            None if context is None else Attention(width, heads, context=context, bias=qkv_bias, qk_norm=qk_norm)
        )
        self.norm2 = make_norm(norm, width, eps, affine)
        self.mlp = Mlp(width, activation, expand)
        self.modulation = None if vector is None else nn.Linear(vector, 6 * width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        *,
        mask: Tensor | None = None,
        causal: bool = False,
        rotation: Rotation | None = None,
        cache: Cache | None = None,
        vector: Tensor | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        attend: Attend | None = None,
    ) -> Tensor:
        if self.modulation is None:
            h = self.attention(self.norm1(x), mask=mask, causal=causal, rotation=rotation, cache=cache, attend=attend)
            x = x + self.dropout(h)
            x = self._look_across(x, context, context_mask)
            return x + self.dropout(self.mlp(self.norm2(x)))
        assert vector is not None
        b1, s1, g1, b2, s2, g2 = self.modulation(F.silu(vector)).chunk(6, dim=-1)
        h = modulate(self.norm1(x), b1, s1)
        h = self.attention(h, mask=mask, causal=causal, rotation=rotation, cache=cache, attend=attend)
        x = x + g1[:, None] * self.dropout(h)
        x = self._look_across(x, context, context_mask)
        return x + g2[:, None] * self.dropout(self.mlp(modulate(self.norm2(x), b2, s2)))

    def _look_across(self, x: Tensor, context: Tensor | None, mask: Tensor | None) -> Tensor:
        if self.cross is None or self.norm_cross is None:
            return x
        return x + self.dropout(self.cross(self.norm_cross(x), context, mask=mask))


class Transformer(nn.Module):
    """`depth` blocks and a last norm: (B, T, D) → (B, T, D). What stands in the rows, and where, is for its
    callers to say.

    Weights start as GPT-2's: N(0, 0.02²), those that write into the residual stream smaller by √(2 depth); a
    cross-attention beside a modulation starts at zero, since it has no gate that would.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        *,
        norm: Norm = "layer",
        activation: Activation = "gelu",
        expand: float = 4.0,
        vector: int | None = None,
        context: int | None = None,
        qkv_bias: bool = True,
        qk_norm: bool = False,
        dropout: float = 0.0,
        eps: float = 1e-5,
        final: bool = True,
    ):
        super().__init__()
        self.width, self.depth, self.heads = width, depth, heads
        self.blocks = nn.ModuleList(
            Block(
                width,
                heads,
                norm=norm,
                activation=activation,
                expand=expand,
                vector=vector,
                context=context,
                qkv_bias=qkv_bias,
                qk_norm=qk_norm,
                dropout=dropout,
                eps=eps,
            )
            for _ in range(depth)
        )
        self.norm = make_norm(norm, width, eps, affine=vector is None) if final else nn.Identity()
        self.modulation = nn.Linear(vector, 2 * width) if final and vector is not None else None
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for block in self.blocks:
            assert isinstance(block, Block)
            attentions = [block.attention] if block.cross is None else [block.attention, block.cross]
            for layer in [*(a.out for a in attentions), block.mlp.out]:
                nn.init.normal_(layer.weight, std=0.02 / math.sqrt(2 * max(self.depth, 1)))
            if block.modulation is not None:
                zero(block.modulation)
                if block.cross is not None:
                    zero(block.cross.out)
        if self.modulation is not None:
            zero(self.modulation)

    def forward(
        self,
        x: Tensor,
        *,
        mask: Tensor | None = None,
        causal: bool = False,
        rotation: Rotation | None = None,
        caches: Sequence[Cache] | None = None,
        vector: Tensor | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        attend: Sequence[Attend | None] | None = None,
        layers: int | None = None,
    ) -> Tensor:
        """`layers` stops after so many blocks and skips the last norm: the states that a linear probe reads. `attend`
        has an attention for each block that is not to look everywhere, and None for the others."""
        for i, block in enumerate(self.blocks[:layers]):
            x = block(
                x,
                mask=mask,
                causal=causal,
                rotation=rotation,
                cache=None if caches is None else caches[i],
                vector=vector,
                context=context,
                context_mask=context_mask,
                attend=None if attend is None else attend[i],
            )
        if layers is not None:
            return x
        x = self.norm(x)
        if self.modulation is None or vector is None:
            return x
        return modulate(x, *self.modulation(F.silu(vector)).chunk(2, dim=-1))
