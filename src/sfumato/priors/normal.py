"""Priors with nothing to learn.

    Normal     p(z) = N(0, I)      over Grid or Sequence      log p(z) = −½ Σ (z² + log 2π)
    Uniform    p(z) = K^−N         over Tokens                log p(z) = −N log K

The first is what a VAE is trained against; the second is what a discrete bottleneck assumes until a prior is learned.
With either, a codec alone can be sampled and has a likelihood. Both ignore the condition, so guidance changes nothing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sfumato.core.condition import Condition
from sfumato.core.contracts import Kind, Known, Prior, Terms
from sfumato.core.noise import Noise
from sfumato.core.space import Grid, Sequence, Tokens, check
from sfumato.core.tensors import per_image


class Normal(Prior):
    spaces = (Grid, Sequence)
    kind: Kind | None = "exact"

    def __init__(self, space: Grid | Sequence):
        super().__init__()
        self.space = space

    def loss(self, z: Tensor, condition: Condition, noise: Noise, progress: float = 1.0, player: int = 0) -> Terms:
        """No terms: nothing to learn."""
        return {}

    def sample(  # type: ignore[override]  # options are named, so that a wrong one is answered with the nearest
        self,
        condition: Condition,
        noise: Noise,
        *,
        null: Condition | None = None,
        guidance: float = 1.0,
        known: Known | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """z = temperature · ε; `known` entries are kept (the entries are independent, so this is exact)."""
        return _kept(known, temperature * noise.normal(*self.space.shape))

    def log_prob(self, z: Tensor, condition: Condition, noise: Noise) -> Tensor:
        return -per_image(check(self.space, z).square() + math.log(2 * math.pi)) / 2


class Uniform(Prior):
    spaces = (Tokens,)
    kind: Kind | None = "exact"
    space: Tokens

    def __init__(self, space: Tokens):
        super().__init__()
        self.space = space

    def loss(self, z: Tensor, condition: Condition, noise: Noise, progress: float = 1.0, player: int = 0) -> Terms:
        """No terms: nothing to learn."""
        return {}

    def sample(  # type: ignore[override]  # options are named, so that a wrong one is answered with the nearest
        self,
        condition: Condition,
        noise: Noise,
        *,
        null: Condition | None = None,
        guidance: float = 1.0,
        known: Known | None = None,
    ) -> Tensor:
        """Every token drawn evenly; `known` ones are kept."""
        return _kept(known, noise.integers(self.space.vocab, *self.space.shape))

    def log_prob(self, z: Tensor, condition: Condition, noise: Noise) -> Tensor:
        check(self.space, z)
        return torch.full((len(z),), -self.space.length * math.log(self.space.vocab), device=z.device)


def _kept(known: Known | None, z: Tensor) -> Tensor:
    return z if known is None else torch.where(known[1], known[0], z)
