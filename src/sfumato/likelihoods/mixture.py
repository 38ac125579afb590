"""Several Gaussians at once: the density of a continuous position."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sfumato.core.noise import Noise
from sfumato.likelihoods.centred import NormalOf
from sfumato.likelihoods.contract import LIKELIHOODS, Distribution, Likelihood
from sfumato.likelihoods.numbers import cooled, draw, floored, full


@dataclass(frozen=True)
class MixtureOf:
    """logits (…, K), means and log_scales (…, K, c); `dim` is where x has its channels."""

    logits: Tensor
    means: Tensor
    log_scales: Tensor
    dim: int

    def log_prob(self, x: Tensor) -> Tensor:
        parts = NormalOf(self.means, self.log_scales).log_prob(x.movedim(self.dim, -1).unsqueeze(-2)).sum(-1)
        return torch.logsumexp(self.logits.log_softmax(-1) + parts, -1)

    @property
    def mean(self) -> Tensor:
        return (self.logits.softmax(-1).unsqueeze(-1) * self.means).sum(-2).movedim(-1, self.dim)

    def sample(self, noise: Noise) -> Tensor:
        k = (self.logits + draw("gumbel", noise, self.logits)).argmax(-1)
        k = k[..., None, None].expand(*k.shape, 1, self.means.shape[-1])
        chosen = NormalOf(self.means.gather(-2, k).squeeze(-2), self.log_scales.gather(-2, k).squeeze(-2))
        return chosen.sample(noise).movedim(-1, self.dim)

    def cooled(self, temperature: float) -> MixtureOf:
        return replace(self, log_scales=cooled(self.log_scales, temperature))


@LIKELIHOODS.add("mixture")
class Mixture(Likelihood):
    """K diagonal Gaussians over the c channels together: a head for sequences of continuous latents."""

    def __init__(self, components: int = 8, floor: float = 1e-3):
        super().__init__()
        self.components, self.floor = components, floor

    def channels(self, c: int) -> int:
        return self.components * (1 + 2 * c)

    def forward(self, features: Tensor, dim: int = 1) -> Distribution:
        h = full(features).movedim(dim, -1)
        logits, rest = h[..., : self.components], h[..., self.components :]
        means, log_scales = rest.unflatten(-1, (self.components, -1)).chunk(2, -1)
        return MixtureOf(logits, means, floored(log_scales, self.floor), dim)
