"""Probabilities of letters, with no notion of nearness: tokens, 8-bit levels, black and white."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.core.noise import Noise
from sfumato.likelihoods.contract import LIKELIHOODS, Distribution, Likelihood
from sfumato.likelihoods.numbers import draw, from_levels, full, to_levels


@dataclass(frozen=True)
class CategoricalOf:
    """logits (…, K): the alphabet comes last."""

    logits: Tensor

    def log_prob(self, x: Tensor) -> Tensor:
        return self.logits.log_softmax(-1).gather(-1, x.unsqueeze(-1)).squeeze(-1)

    @property
    def mean(self) -> Tensor:
        """The mode: tokens have no mean."""
        return self.logits.argmax(-1)

    def sample(self, noise: Noise) -> Tensor:
        return (self.logits + draw("gumbel", noise, self.logits)).argmax(-1)


@LIKELIHOODS.add("categorical")
class Categorical(Likelihood):
    """One of K tokens: features (B, N, K) with dim −1, z (B, N)."""

    discrete = True

    def __init__(self, vocab: int):
        super().__init__()
        self.vocab = vocab

    def channels(self, c: int = 1) -> int:
        return c * self.vocab

    def forward(self, features: Tensor, dim: int = 1) -> CategoricalOf:
        return CategoricalOf(full(features).movedim(dim, -1))


@dataclass(frozen=True)
class LevelsOf:
    """logits (…, L) with x's own dimensions before L."""

    logits: Tensor

    def log_prob(self, x: Tensor) -> Tensor:
        return CategoricalOf(self.logits).log_prob(to_levels(x, self.logits.shape[-1]))

    @property
    def mean(self) -> Tensor:
        levels = self.logits.shape[-1]
        values = from_levels(torch.arange(levels, device=self.logits.device), levels).to(self.logits)
        return (self.logits.softmax(-1) * values).sum(-1)

    def sample(self, noise: Noise) -> Tensor:
        return from_levels(CategoricalOf(self.logits).sample(noise), self.logits.shape[-1]).to(self.logits)


@LIKELIHOODS.add("levels")
class Levels(Likelihood):
    """Each channel one of 256 values, with no notion of nearness: features (B, c · 256, H, W), channel-major."""

    discrete = True

    def __init__(self, levels: int = 256):
        super().__init__()
        self.levels = levels

    def channels(self, c: int) -> int:
        return c * self.levels

    def forward(self, features: Tensor, dim: int = 1) -> Distribution:
        dim = dim % features.ndim
        return LevelsOf(full(features).unflatten(dim, (-1, self.levels)).movedim(dim + 1, -1))


@dataclass(frozen=True)
class BernoulliOf:
    logits: Tensor

    def log_prob(self, x: Tensor) -> Tensor:
        return F.logsigmoid(torch.where(x > 0, self.logits, -self.logits))

    @property
    def mean(self) -> Tensor:
        return 2 * self.logits.sigmoid() - 1

    def sample(self, noise: Noise) -> Tensor:
        return torch.where(draw("uniform", noise, self.logits) < self.logits.sigmoid(), 1.0, -1.0).to(self.logits)


@LIKELIHOODS.add("bernoulli")
class Bernoulli(Likelihood):
    """Binary pictures: x = 1 with probability σ(features), else −1. Other values count by their sign."""

    discrete = True

    def channels(self, c: int) -> int:
        return c

    def forward(self, features: Tensor, dim: int = 1) -> Distribution:
        return BernoulliOf(full(features))
