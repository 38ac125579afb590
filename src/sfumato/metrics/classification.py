"""How well labels are told: confusion, and whether a probability means what it says.

    confusion      M[i, j] = pictures of class i that were called j;  a row adds up to the size of its class
    top-1          tr M / Σ M
    calibration    ECE = Σ_b (n_b / n) |right_b − sure_b|,  bins of equal width of the probability of what was called

A classifier that says 0.8 ought to be right in 8 of 10 such cases. Source: Guo et al. 2017, arXiv:1706.04599, with
their 15 bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BINS = 15


@dataclass(frozen=True)
class Told:
    """p (n, K) of n pictures, and their labels (n,)."""

    p: Tensor
    labels: Tensor

    @property
    def called(self) -> Tensor:
        return self.p.argmax(1)

    @property
    def right(self) -> Tensor:
        return self.called == self.labels


def confusion(told: Told) -> Tensor:
    """(K, K) int64: of which class, called what."""
    k = told.p.shape[1]
    return torch.bincount(told.labels * k + told.called, minlength=k * k).view(k, k)


@dataclass(frozen=True)
class Reliability:
    """Of each bin: how many pictures, the part that is right, the mean probability of what was called; 0 where none."""

    count: Tensor
    right: Tensor
    sure: Tensor

    @property
    def error(self) -> float:
        """ECE."""
        part = self.count / self.count.sum()
        return float((part * (self.right - self.sure).abs()).sum())


def reliability(told: Told, bins: int = BINS) -> Reliability:
    sure = told.p.double().amax(1)
    place = (sure * bins).ceil().long().clamp(1, bins) - 1  # (k / bins, (k + 1) / bins]
    total = lambda values: torch.zeros(bins, dtype=torch.float64).index_add_(0, place, values)
    count = total(torch.ones_like(sure))
    some = count.clamp_min(1)
    return Reliability(count, total(told.right.double()) / some, total(sure) / some)
