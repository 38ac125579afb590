"""A denoiser of single vectors: MAR's head over one position, told its features (Li et al. 2024, arXiv:2406.11838), or
an embedding, told its condition.

    x = W z,   c = e(t) + W_c condition.vector,   x ← x + g · W₂ φ(W₁ m(n(x)))  per block,   out = W′ m′(n(x))

n is a layer norm, φ is SiLU, and m(y) = (1 + s) y + b; s, b, g are linear in φ(c) with all weights zero at the start,
as those of W′ are: a new block is the identity, and a new net answers zero.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.core.condition import Condition
from sfumato.core.space import Sequence, check
from sfumato.nn.parts.doors import check_doors
from sfumato.nn.parts.embed import TimeEmbedding
from sfumato.nn.parts.layers import zero


class _Block(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.inner, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.modulation = zero(nn.Linear(width, 3 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale, gate = self.modulation(c).chunk(3, dim=-1)
        return x + gate * self.out(F.silu(self.inner(self.norm(x) * (1 + scale) + shift)))


class VectorNet(nn.Module):
    """z (M, 1, D), t (M,) in [0, 1], condition.vector (M, vector) → (M, 1, out); `vector` None: it has no such door."""

    def __init__(self, space: Sequence, out: int, *, width: int, depth: int, vector: int | None = None):
        super().__init__()
        self.space, self.vector_width = space, vector
        self.enter = nn.Linear(space.width, width)
        self.time = TimeEmbedding(width)
        self.vector = None if vector is None else nn.Linear(vector, width)
        self.blocks = nn.ModuleList(_Block(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation = zero(nn.Linear(width, 2 * width))
        self.exit = zero(nn.Linear(width, out))

    def forward(self, z: Tensor, t: Tensor, condition: Condition) -> Tensor:
        check(self.space, z)
        check_doors("vector net", condition, vector=self.vector_width)
        c = self.time(t)
        c = F.silu(c if self.vector is None else c + self.vector(condition.vector))
        x = self.enter(z[:, 0])
        for block in self.blocks:
            x = block(x, c)
        shift, scale = self.modulation(c).chunk(2, dim=-1)
        return self.exit(self.norm(x) * (1 + scale) + shift)[:, None]
