"""The Fréchet distance at the FID's 2048 dimensions: ours beside the two formulas in use, on the same moments.

    sqrtm     scipy.linalg.sqrtm of the product of covariances, as pytorch-fid computes it
    eigvals   the sum of roots of the eigenvalues of that product, as torchmetrics computes it

One thread; the three alternate, and the ratios are medians over rounds. Prints one JSON line.

    python benchmarks/frechet.py [dims] [rounds]
"""

import json
import statistics
import sys
import time

import numpy as np
import scipy
import scipy.linalg
import torch

from sfumato.metrics.frechet import Moments, distance


def features(rows: int, dims: int, seed: int) -> torch.Tensor:
    """Correlated, with a spectrum that falls as i⁻¹, like those of trained networks."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, dims, generator=g, dtype=torch.float64) / torch.arange(1, dims + 1) ** 0.5
    return x @ torch.linalg.qr(torch.randn(dims, dims, generator=g, dtype=torch.float64))[0] + 0.05 * seed


def by_sqrtm(m1, c1, m2, c2) -> float:
    root = scipy.linalg.sqrtm((c1 @ c2).numpy())
    return float((m1 - m2).square().sum() + c1.trace() + c2.trace()) - 2 * float(np.trace(root).real)


def by_eigvals(m1, c1, m2, c2) -> float:
    roots = torch.linalg.eigvals(c1 @ c2).sqrt().real.sum()
    return float((m1 - m2).square().sum() + c1.trace() + c2.trace() - 2 * roots)


def main(dims: int = 2048, rounds: int = 3) -> None:
    torch.set_num_threads(1)
    a, b = (Moments.of(features(2 * dims + 100, dims, seed)) for seed in (1, 2))
    moments = (a.mean, a.covariance, b.mean, b.covariance)
    jobs = {"ours": distance, "sqrtm": by_sqrtm, "eigvals": by_eigvals}
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    values = {}
    for _ in range(rounds):
        for name, job in jobs.items():
            begun = time.process_time()
            values[name] = job(*moments)
            seconds[name].append(time.process_time() - begun)
    ratio = {
        peer: statistics.median(p / o for p, o in zip(seconds[peer], seconds["ours"])) for peer in ("sqrtm", "eigvals")
    }
    print(
        json.dumps(
            {
                "job": "frechet",
                "dims": dims,
                "rounds": rounds,
                "cpu_seconds": {name: round(statistics.median(s), 3) for name, s in seconds.items()},
                "times_faster_than": {name: round(r, 2) for name, r in ratio.items()},
                "relative_difference": {n: abs(values[n] - values["ours"]) / values["ours"] for n in ratio},
                "versions": {"torch": torch.__version__, "scipy": scipy.__version__},
            }
        )
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
