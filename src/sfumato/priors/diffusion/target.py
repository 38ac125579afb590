"""What a denoising network predicts, how to read any prediction, and how errors are weighed.

Every target in use is one linear combination of the clean latent x and the noise ε,

    p = a x + b ε,        and  z_t = α x + σ ε  is another.

Two equations, two unknowns: whatever the network predicts, the same 2×2 system gives back x and ε.

    name       a             b            reference
    noise      0             1            Ho et al. 2020, arXiv:2006.11239
    data       1             0            Ramesh et al. 2022, arXiv:2204.06125
    v         −σ             α            Salimans & Ho 2022, arXiv:2202.00512
    velocity   α̇             σ̇            Lipman et al. 2022, arXiv:2210.02747
    edm        σ / (d s)    −α d / s      Karras et al. 2022, arXiv:2206.00364: d = spread of x, s = √(α² d² + σ²)

At a given z an error in p is an error in x, and one in ε:  Δx = −σ Δp / det,  Δε = α Δp / det,  det = α b − σ a.
So a weighting is one function w of the level, and the loss is  (w / det²) |Δp|² = (w / σ²) |Δx|² = (w / α²) |Δε|².

    name        w                 is then
    simple      det²              |Δp|² of the target in use
    noise       α²                |Δε|²
    v           α² + σ²           (SNR + 1) |Δx|²
    truncated   max(α², σ²)       max(SNR, 1) |Δx|²                 arXiv:2202.00512
    min-snr     min(α², 5 σ²)     min(SNR, 5) |Δx|²                 Hang et al. 2023, arXiv:2303.09556
    edm         α² + σ² / d²      (σ² + d²) / (σ d)² |Δx|², α = 1   arXiv:2206.00364
    vlb         α² γ̇ / 2          the bound's integrand, in nats    Kingma et al. 2021, arXiv:2107.00630
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sfumato.core.registry import Registry
from sfumato.priors.diffusion.path import Level

Row = tuple[Tensor, Tensor]

TARGETS: Registry[Callable[[Level], Row]] = Registry("target")
WEIGHTINGS: Registry[Callable[[Level, Tensor], Tensor]] = Registry("weighting")

TARGETS.add("noise")(lambda at: (torch.zeros_like(at.alpha), torch.ones_like(at.alpha)))
TARGETS.add("data")(lambda at: (torch.ones_like(at.alpha), torch.zeros_like(at.alpha)))
TARGETS.add("v")(lambda at: (-at.sigma, at.alpha))
TARGETS.add("velocity")(lambda at: (at.d_alpha, at.d_sigma))
TARGETS.add("edm")(lambda at: (at.sigma / (at.spread * at.std), -at.alpha * at.spread / at.std))

WEIGHTINGS.add("simple")(lambda at, det: det.square())
WEIGHTINGS.add("noise")(lambda at, det: at.alpha.square())
WEIGHTINGS.add("v")(lambda at, det: at.alpha.square() + at.sigma.square())
WEIGHTINGS.add("truncated")(lambda at, det: torch.maximum(at.alpha.square(), at.sigma.square()))
WEIGHTINGS.add("min-snr")(lambda at, det: torch.minimum(at.alpha.square(), 5 * at.sigma.square()))
WEIGHTINGS.add("edm")(lambda at, det: at.alpha.square() + at.sigma.square() / at.spread**2)
WEIGHTINGS.add("vlb")(lambda at, det: at.alpha.square() * at.d_gamma / 2)


def determinant(target: str, level: Level) -> Tensor:
    """α b − σ a: zero where z and p say the same thing, so that x cannot be told."""
    a, b = TARGETS[target](level)
    return level.alpha * b - level.sigma * a


def combine(target: str, level: Level, x: Tensor, eps: Tensor) -> Tensor:
    """p = a x + b ε: what the network should have said."""
    a, b = TARGETS[target](level)
    return a * x + b * eps


def split(target: str, level: Level, z: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """Solves z = α x + σ ε and p = a x + b ε for (x, ε), both with the shape of z."""
    a, b = TARGETS[target](level)
    det = level.alpha * b - level.sigma * a
    return (b * z - level.sigma * p) / det, (level.alpha * p - a * z) / det


def weigh(weighting: str, target: str, level: Level, error: Tensor) -> Tensor:
    """(w / det²) Δp², elementwise, of the error Δp in the target."""
    det = determinant(target, level)
    return WEIGHTINGS[weighting](level, det) / det.square() * error.square()
