"""The Fréchet distance between two Gaussians that are fitted to features (Heusel et al. 2017, arXiv:1706.08500).

    d² = |μ₁ − μ₂|² + tr C₁ + tr C₂ − 2 tr (C₁ C₂)^{1/2}

The product C₁ C₂ is not symmetric, and the general matrix square root of it is slow and drifts into complex numbers.
With C₁ = L Lᵀ its eigenvalues are those of the symmetric Lᵀ C₂ L, so

    tr (C₁ C₂)^{1/2} = Σᵢ √λᵢ(Lᵀ C₂ L)                            Cholesky and eigvalsh, where both are definite
                     = Σᵢ σᵢ(L₁ᵀ L₂) = ‖L₁ᵀ L₂‖_*,  Cᵢ = Lᵢ Lᵢᵀ   for any factors: the fallback

An error η in λ is η / 2√λ in √λ, so near-singular covariances lose half the digits in the first line and none in the
second. The first line carries a bound of that loss and gives way when the bound is not small. Everything is real,
float64; shapes: features (N, D), μ (D,), C (D, D) with N − 1 in the denominator.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPS = torch.finfo(torch.float64).eps
LOSS = 1e-9  # of tr C₁ + tr C₂: three digits below the 1e-6 that we promise
BACKWARD = 8.0  # eigvalsh and the two products before it err by a few ε |A|; measured below 3 at 2048 dims


class Moments:
    """Mean and covariance of features that come in chunks; merged by the rule of Chan, Golub and LeVeque (1983):

    n = n₁ + n₂,  δ = μ₂ − μ₁,  μ = μ₁ + δ n₂/n,  S = S₁ + S₂ + δ δᵀ n₁ n₂/n      S: scatter, (D, D)
    """

    def __init__(self, dims: int, device: torch.device | str = "cpu"):
        self.count = 0
        self.mean = torch.zeros(dims, dtype=torch.float64, device=device)
        self.scatter = torch.zeros(dims, dims, dtype=torch.float64, device=device)

    @classmethod
    def of(cls, features: Tensor, chunk: int = 4096) -> Moments:
        """Of (N, D) at once, converted to float64 chunk by chunk."""
        moments = cls(features.shape[1], features.device)
        for part in features.split(chunk):
            moments.add(part)
        return moments

    def add(self, features: Tensor) -> Moments:
        if len(features):
            x = features.to(self.mean.device, torch.float64)
            mean = x.mean(0)
            centred = x - mean
            self._merge(len(x), mean, centred.T @ centred)
        return self

    def merge(self, other: Moments) -> Moments:
        if other.count:
            self._merge(other.count, other.mean.to(self.mean.device), other.scatter.to(self.mean.device))
        return self

    def _merge(self, count: int, mean: Tensor, scatter: Tensor) -> None:
        total = self.count + count
        delta = mean - self.mean
        self.scatter += scatter
        self.scatter += torch.outer(delta, delta) * (self.count * count / total)
        self.mean = self.mean + delta * (count / total)
        self.count = total

    @property
    def covariance(self) -> Tensor:
        if self.count < 2:
            raise ValueError(f"A covariance needs at least 2 pictures, there are {self.count}.")
        return self.scatter / (self.count - 1)


def _factor(covariance: Tensor) -> Tensor:
    """L (D, R) with C = L Lᵀ up to rounding, of full column rank."""
    values, vectors = torch.linalg.eigh(covariance)
    keep = values > len(values) * EPS * values[-1].clamp_min(0)
    return vectors[:, keep] * values[keep].sqrt()


def _root_trace_by_factors(c1: Tensor, c2: Tensor) -> float:
    l1, l2 = _factor(c1), _factor(c2)
    return float(torch.linalg.svdvals(l1.T @ l2).sum()) if l1.numel() and l2.numel() else 0.0


def root_trace(c1: Tensor, c2: Tensor) -> float:
    """tr (C₁ C₂)^{1/2} of two symmetric positive semi-definite matrices, float64."""
    lower, failed = torch.linalg.cholesky_ex(c1)
    if not int(failed):
        values = torch.linalg.eigvalsh(lower.T @ c2 @ lower).clamp_min(0)
        error = BACKWARD * EPS * values[-1]
        loss = torch.minimum(error / (2 * values.sqrt()), error.sqrt()).sum()
        if float(loss) <= LOSS * float(c1.trace() + c2.trace()):
            return float(values.sqrt().sum())
    return _root_trace_by_factors(c1, c2)


def distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> float:
    """d² of the formula above, ≥ 0."""
    mean1, cov1, mean2, cov2 = (x.to(mean1.device, torch.float64) for x in (mean1, cov1, mean2, cov2))
    if mean1.shape != mean2.shape:
        raise ValueError(f"Features of {len(mean1)} and of {len(mean2)} dimensions have no distance.")
    for x in (mean1, cov1, mean2, cov2):
        if not bool(x.isfinite().all()):
            raise ValueError("A mean or a covariance of features is not finite: some picture was not.")
    offset = float((mean1 - mean2).square().sum() + cov1.trace() + cov2.trace())
    return max(0.0, offset - 2 * root_trace(cov1, cov2))  # rounding may leave −1e-13 where the two are equal


def frechet_distance(a: Moments | Tensor, b: Moments | Tensor) -> float:
    """Fréchet distance d² between two sets, as features (N, D) or as their moments."""
    a, b = (x if isinstance(x, Moments) else Moments.of(x) for x in (a, b))
    return distance(a.mean, a.covariance, b.mean, b.covariance)


def thousands(count: int) -> str:
    """10000 → "10k", 2500 → "2500"."""
    return f"{count // 1000}k" if count and count % 1000 == 0 else str(count)


def score_name(stem: str, features: str, count: int, published: bool = True) -> str:
    """("fd", "mobilenetv2", 10000) → "fd-mobilenetv2@10k". Only the published Inception weights make fd the FID and kd
    the KID: ("fd", "inception", 50000) → "fid@50k"."""
    classic = {"fd": "fid", "rfd": "rfid", "kd": "kid"}
    if features == "inception" and published and stem in classic:
        return f"{classic[stem]}@{thousands(count)}"
    return f"{stem}-{features}@{thousands(count)}"
