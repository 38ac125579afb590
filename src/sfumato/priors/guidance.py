"""Guidance: the conditional prediction, pushed away from the unconditional one.

    p = u + s (c − u)        s = 0 unconditional,  s = 1 conditional (unguided),  s > 1 sharper

c and u come from one network in one call, whose batch holds every row twice: with its condition, and with the null.
It serves whatever enters a sampler linearly: noise, velocity, clean latent, score (all are affine in each other at
a given z, so guiding one is guiding all), logits, the features of a likelihood. Some papers write w = s − 1.

Sources: Ho & Salimans 2022, arXiv:2207.12598; on an interval of noise levels Kynkäänniemi et al. 2024,
arXiv:2404.07724; rescaled Lin et al. 2023, arXiv:2305.08891.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sfumato.core.condition import Condition, stack
from sfumato.core.errors import UsageError
from sfumato.core.tensors import against

Predict = Callable[..., Tensor]  # (*tensors of B rows, condition) -> (B, …)
Mix = Callable[[Tensor, Tensor, float], Tensor]  # (c, u, s) -> p


def linear(c: Tensor, u: Tensor, scale: float) -> Tensor:
    """u + s (c − u)."""
    return u + scale * (c - u)


def rescaled(share: float) -> Mix:
    """The guided prediction, brought back to the standard deviation that c has in each image; `share` φ of it, and
    1 − φ of the prediction as it is. Large scales then do not saturate the image."""

    def mix(c: Tensor, u: Tensor, scale: float) -> Tensor:
        p = linear(c, u, scale)
        ratio = c.flatten(1).std(1) / p.flatten(1).std(1).clamp(min=1e-12)
        return p * against(share * ratio + 1 - share, p)

    return mix


def first_half(mix: Mix, dim: int) -> Mix:
    """Guides the first half of the channels; the second half (a learned variance) stays the conditional one."""

    def mixed(c: Tensor, u: Tensor, scale: float) -> Tensor:
        (c, rest), (u, _) = c.chunk(2, dim), u.chunk(2, dim)
        return torch.cat([mix(c, u, scale), rest], dim)

    return mixed


def pair(
    predict: Predict, condition: Condition, null: Condition | None, scale: float
) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """`predict` with its condition filled in: (c, u). Where the scale is 0 or 1 one of the two is not needed and not
    made; the other is returned, beside None. A None among the tensors stays None. u is computed at the same tensors,
    or at those handed in as `beside`."""
    if scale != 1 and null is None:
        raise UsageError(f"Guidance {scale} needs the null condition to guide away from; pass `null`, or guidance 1.")
    if scale == 1 or null is None:
        return lambda *at, beside=None: (predict(*at, condition), None)
    if scale == 0:
        return lambda *at, beside=None: (predict(*(at if beside is None else beside), null), None)
    both = stack([condition, null])

    def pairs(*at: Tensor | None, beside: tuple[Tensor | None, ...] | None = None) -> tuple[Tensor, Tensor]:
        twice = [
            None if a is None or b is None else torch.cat([a, b]) for a, b in zip(at, at if beside is None else beside)
        ]
        c, u = predict(*twice, both).chunk(2)
        return c, u

    return pairs


def guide(
    predict: Predict, condition: Condition, null: Condition | None, scale: float, mix: Mix = linear
) -> Callable[..., Tensor]:
    """`predict`, guided by `scale` s; s = 1 is the unguided function bit for bit, s = 0 the unconditional one."""
    pairs = pair(predict, condition, null, scale)

    def guided(*at: Tensor | None) -> Tensor:
        c, u = pairs(*at)
        return c if u is None else mix(c, u, scale)

    return guided


def during(
    inside: Callable[[Tensor, Tensor], Tensor],
    outside: Callable[[Tensor, Tensor], Tensor],
    interval: tuple[float, float],
) -> Callable[[Tensor, Tensor], Tensor]:
    """(z, t) → inside(z, t) while low ≤ t ≤ high, else outside(z, t). All rows are at one time, as in sampling."""
    low, high = interval

    def chosen(z: Tensor, t: Tensor) -> Tensor:
        return inside(z, t) if low <= float(t[0]) <= high else outside(z, t)

    return chosen


# ---- of Gaussians ----


class Moments(NamedTuple):
    """A diagonal Gaussian."""

    mean: Tensor
    log_var: Tensor


def apart(c: Moments, u: Moments, mean: float, variance: float, most: float | None = None) -> Moments:
    """Mean and variance are pushed away from the unconditional ones, each by a scale of its own (Luhman & Luhman 2023,
    arXiv:2303.13714; the paper's m and v are the scales minus one, so that 1 is unguided here as everywhere):

        μ = μ_c + (mean − 1)(μ_c − μ_u),    log σ² = log σ_c² + (variance − 1)(log σ_c² − log σ_u²)

    Where the condition made c surer than u, the variance shrinks further; where it made it less sure, it grows, which
    `most` bounds: |log σ_c² − log σ_u²| counts as at most that much."""
    ratio = c.log_var - u.log_var
    if most is not None:
        ratio = ratio.clamp(-most, most)
    return Moments(c.mean + (mean - 1) * (c.mean - u.mean), c.log_var + (variance - 1) * ratio)


def product(c: Moments, u: Moments, scale: float, floor: float = 0.1) -> Moments:
    """The density p_c^s / p_u^(s − 1), normalised: again a Gaussian. With w = s − 1 and r = σ_c² / σ_u²,

        κ = 1 + w (1 − r),    σ² = σ_c² / κ,    μ = μ_c + (w r / κ)(μ_c − μ_u)

    Between u and c (0 ≤ s ≤ 1) that always exists. For w > 0 and r > 1 + 1/w nothing can be normalised (κ ≤ 0), and
    shortly before that it flies apart; so each entry has its own w, the largest up to s − 1 that leaves κ ≥ floor."""
    r = (c.log_var - u.log_var).exp()
    w = torch.full_like(r, scale - 1)
    if not 0 <= scale <= 1:
        bound = (1 - floor) / (1 - r).abs().clamp(min=torch.finfo(r.dtype).tiny)
        w = torch.where(1 + w * (1 - r) < floor, w.sign() * torch.minimum(w.abs(), bound), w)
    kappa = 1 + w * (1 - r)
    return Moments(c.mean + w * r / kappa * (c.mean - u.mean), c.log_var - kappa.log())
