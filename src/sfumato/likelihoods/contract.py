"""What a likelihood promises; the room's own page (likelihoods/__init__.py) has the table of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

from torch import Tensor, nn

from sfumato.core.noise import Noise
from sfumato.core.registry import Registry


class Distribution(Protocol):
    def log_prob(self, x: Tensor) -> Tensor: ...

    @property
    def mean(self) -> Tensor: ...

    def sample(self, noise: Noise) -> Tensor: ...


class Likelihood(nn.Module, ABC):
    """Laws: exp log_prob sums or integrates to one; `log_prob(sample(noise))` is finite."""

    discrete: bool = False  # whether log_prob is of 8-bit or categorical values, not a density on [−1, 1]

    @abstractmethod
    def channels(self, c: int) -> int: ...

    @abstractmethod
    def forward(self, features: Tensor, dim: int = 1) -> Distribution: ...


LIKELIHOODS: Registry[type[Likelihood]] = Registry("likelihood")
