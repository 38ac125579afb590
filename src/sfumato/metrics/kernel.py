"""The kernel distance, KID when in Inception features (Bińkowski et al. 2018, arXiv:1801.01401).

    k(x, y) = (x·y / D + 1)³
    MMD² = Σ_{i≠j} k(xᵢ, xⱼ) / m(m−1)  +  Σ_{i≠j} k(yᵢ, yⱼ) / n(n−1)  −  2 Σᵢⱼ k(xᵢ, yⱼ) / mn

Unbiased: its mean is 0 where the distributions agree, whatever the number of pictures, and it may be negative. (The
Fréchet distance is biased upwards below about ten thousand.) As in the paper it is the mean over random subsets, whose
spread gives the standard error. Shapes: features (N, D).
"""

from __future__ import annotations

import torch
from torch import Tensor

from sfumato.core.noise import Noise, derive


def mmd(x: Tensor, y: Tensor) -> float:
    """Unbiased MMD² of the cubic kernel between (m, D) and (n, D), in float64."""
    if min(len(x), len(y)) < 2:
        raise ValueError(f"The kernel distance needs at least 2 pictures a side, got {len(x)} and {len(y)}.")
    x, y = x.to(torch.float64), y.to(x.device, torch.float64)

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(a: Tensor) -> Tensor:
        k = kernel(a, a)
        return (k.sum() - k.diagonal().sum()) / (len(a) * (len(a) - 1))

    return float(within(x) + within(y) - 2 * kernel(x, y).mean())


def _subset(rows: int, size: int, *path: int | str) -> Tensor:
    """`size` of `rows` without replacement."""
    return Noise.each([derive(*path)]).uniform(rows)[0].argsort()[:size]


def kernel_distance(x: Tensor, y: Tensor, subsets: int = 100, size: int = 1000, seed: int = 0) -> tuple[float, float]:
    """(mean, standard error) of MMD² over `subsets` pairs of `size` rows (fewer, where there are fewer)."""
    size = min(size, len(x), len(y))
    draws = torch.tensor(
        [
            mmd(x[_subset(len(x), size, seed, "kernel-x", i)], y[_subset(len(y), size, seed, "kernel-y", i)])
            for i in range(subsets)
        ],
        dtype=torch.float64,
    )
    spread = float(draws.std()) if subsets > 1 else 0.0
    return float(draws.mean()), spread / subsets**0.5
