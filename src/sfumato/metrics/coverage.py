"""How much of the real set is reached, and how much of what is generated is real: neighbourhoods in feature space.

With r(x) the distance from x to its k-th nearest neighbour within its own set, B(x) the closed ball of that radius,
X the N real and Y the M generated features:

    precision  the part of Y that lies in some B(x)             Kynkäänniemi et al. 2019, arXiv:1904.06991  (k = 3)
    recall     the part of X that lies in some B(y)
    density    Σ_y #{x: y ∈ B(x)} / k M                          Naeem et al. 2020, arXiv:2002.09797  (k = 5)
    coverage   the part of X whose B(x) holds some y

Distances are computed in blocks of rows, so memory grows with the larger set alone, and in float64, since |a|² + |b|² −
2 a·b cancels. Shapes: features (N, D).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


def _squares(a: Tensor, b: Tensor, chunk: int) -> Iterator[tuple[slice, Tensor]]:
    """Blocks of rows of |aᵢ − bⱼ|², (rows, len(b))."""
    b = b.to(a.device, torch.float64)
    origin = b.mean(0)
    b = b - origin  # a smaller norm, a smaller rounding error
    norms = b.square().sum(1)
    for start in range(0, len(a), chunk):
        rows = slice(start, min(start + chunk, len(a)))
        part = a[rows].to(torch.float64) - origin
        yield rows, torch.addmm(norms, part, b.T, alpha=-2).add_(part.square().sum(1, keepdim=True)).clamp_min_(0)


def nearest(features: Tensor, reference: Tensor, k: int = 1, chunk: int = 1024) -> tuple[Tensor, Tensor]:
    """The k nearest rows of `reference` for each of `features`: (distances, indices), each (N, k), nearest first.

    The winners' distances are computed again from their differences, so that a copy has distance 0 and not 1e-7.
    """
    _enough(len(reference), k)
    found = []
    for _, block in _squares(features, reference, chunk):
        found.append(block.topk(k, largest=False).indices)
    indices = torch.cat(found) if found else torch.zeros(0, k, dtype=torch.long)
    pairs = reference.to(features.device)[indices].to(torch.float64) - features.to(torch.float64)[:, None]
    distances, order = pairs.norm(dim=2).sort(dim=1, stable=True)
    return distances, indices.gather(1, order)


def radii(features: Tensor, k: int, chunk: int = 1024) -> Tensor:
    """Squared distance to the k-th nearest other row: (N,) float64."""
    _enough(len(features) - 1, k)
    found = []
    for rows, block in _squares(features, features, chunk):
        block[torch.arange(len(block)), torch.arange(rows.start, rows.stop)] = torch.inf  # not oneself
        found.append(block.kthvalue(k).values)
    return torch.cat(found)


def _enough(rows: int, k: int) -> None:
    if rows < k:
        raise ValueError(f"There are {max(rows, 0)} neighbours to choose from, and {k} are asked for.")


@dataclass(frozen=True)
class Coverage:
    precision: float
    recall: float
    density: float
    coverage: float


def neighbourhoods(real: Tensor, generated: Tensor, k: int = 3, k_density: int = 5, chunk: int = 1024) -> Coverage:
    """All four of the table above. Precision and recall with k neighbours, density and coverage with k_density."""
    reach, reach_d = radii(real, k, chunk), radii(real, k_density, chunk)
    own = radii(generated, k, chunk)
    in_real = torch.zeros(len(generated), dtype=torch.bool, device=real.device)
    recalled, covered, inside = 0, 0, 0
    for rows, block in _squares(real, generated, chunk):
        in_real |= (block <= reach[rows, None]).any(0)
        recalled += int((block <= own).any(1).sum())
        hits = block <= reach_d[rows, None]
        inside += int(hits.sum())
        covered += int(hits.any(1).sum())
    n, m = len(real), len(generated)
    return Coverage(float(in_real.double().mean()), recalled / n, inside / (k_density * m), covered / n)
