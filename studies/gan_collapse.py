"""Do generators forget modes, and does a penalty on the critic's slope bring them back?

A ring of 8 Gaussians (radius 1, σ = 0.05) and a grid of 5 × 5 (side 2, σ = 0.03), wider ones than VEEGAN's
(arXiv:1705.07761), so that half a minute is enough.
Networks of three hidden layers of 128, both players at the same rate 10⁻³, one step each, 4000 steps of 256 points.

    plain        non-saturating loss, no penalty                 Goodfellow et al. 2014, arXiv:1406.2661
    r1           the same with R1, γ = 0.1                       Mescheder et al. 2018, arXiv:1801.04406
    pairs        relativistic loss, no penalty                   Jolicoeur-Martineau 2018, arXiv:1807.00734
    r3           relativistic loss with R1 and R2, γ = 0.1       Huang et al. 2024, arXiv:2501.05441

A sample is good within 3 σ of a mode; a mode is found when it has a fifth of its fair share of 2000 samples as good
ones. γ was chosen on a seed that is not reported. Samples are of the weights in play, twenty times in a training, and
at its end of the averaged ones.

It holds, over the last quarter of the training, mean over seeds, if
    collapse   on the ring, plain finds at least one mode in eight less than r1
    cure       on the ring, r1 and r3 find all 8 with the averaged weights, in every seed
    grid       on the grid, r3 finds at least as many modes as r1 and at least five more than plain
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from common import COLOURS, Memory, canvas, learn, write
from torch import Tensor, nn

from sfumato.codecs.pixels import Pixels
from sfumato.core.condition import Condition
from sfumato.core.noise import Noise, derive
from sfumato.core.space import Grid
from sfumato.priors.adversarial import Adversarial
from sfumato.recipes.plan import Plan
from sfumato.systems import System

SPACE = Grid(2, 1, 1)
SEEDS, STEPS, BATCH, WIDTH, GAMMA = (0, 1, 2), 4000, 256, 128, 0.1
PLAN = Plan(steps=STEPS, rate=1e-3, betas=(0.0, 0.99), ema=0.995, clip=0.0, floor=0.1)
METHODS = {
    "plain": {"loss": "non-saturating"},
    "r1": {"loss": "non-saturating", "r1": GAMMA},
    "pairs": {"loss": "relativistic"},
    "r3": {"loss": "relativistic", "r1": GAMMA, "r2": GAMMA},
}


class Points(nn.Module):
    """Three hidden layers: noise (B, 16) → (B, 2, 1, 1), or as a critic (B, 2, 1, 1) → (B,)."""

    noise = 16

    def __init__(self, critic: bool):
        super().__init__()
        sizes = [2 if critic else self.noise, WIDTH, WIDTH, WIDTH]
        layers = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.LeakyReLU(0.2))]
        self.body, self.critic = nn.Sequential(*layers, nn.Linear(WIDTH, 1 if critic else 2)), critic

    def forward(self, x: Tensor, condition: Condition) -> Tensor:
        y = self.body(x.flatten(1))
        return y[:, 0] if self.critic else y[:, :, None, None]


def ring() -> tuple[Tensor, float]:
    angle = torch.arange(8) * (2 * math.pi / 8)
    return torch.stack([angle.cos(), angle.sin()], 1), 0.05


def grid() -> tuple[Tensor, float]:
    line = torch.linspace(-1, 1, 5)
    return torch.cartesian_prod(line, line), 0.03


def found(points: Tensor, modes: Tensor, sigma: float) -> tuple[int, float]:
    """How many modes are found, and the part of good samples."""
    near = torch.cdist(points, modes).min(1)
    good = near.values < 3 * sigma
    counts = torch.bincount(near.indices[good], minlength=len(modes))
    return int((counts >= len(points) / len(modes) / 5).sum()), float(good.float().mean())


def run(modes: Tensor, sigma: float, options: dict, seed: int) -> dict:
    torch.manual_seed(derive(seed, "start"))
    noise = Noise.shared(derive(seed, "data"), 20_000)
    rows = modes[noise.integers(len(modes))] + sigma * noise.normal(2)
    prior = Adversarial(SPACE, Points(False), Points(True), **options)
    system = System(Pixels(SPACE), prior)
    curve: list[tuple[int, int, float]] = []

    def draw() -> Tensor:
        return prior.sample(Condition.none(2000), Noise.shared(derive(seed, "draw"), 2000)).flatten(1)

    def watch(step) -> None:
        if step.step % (STEPS // 20) == 0:
            curve.append((step.step, *found(draw(), modes, sigma)))

    learn(system, Memory({"image": rows[:, :, None, None]}, BATCH, seed), PLAN, seed=seed, watch=watch)
    last = [number for step, number, _ in curve if step > 0.75 * STEPS]
    points = draw()
    number, good = found(points, modes, sigma)
    return {
        "curve": curve,
        "late": sum(last) / len(last),
        "drops": sum(b < a for (_, a, _), (_, b, _) in pairwise(curve)),
        "averaged": number,
        "good": round(good, 3),
        "points": points,
    }


def main() -> None:
    sets = {"ring": ring(), "grid": grid()}
    runs = {
        name: {method: [run(*data, options, seed) for seed in SEEDS] for method, options in METHODS.items()}
        for name, data in sets.items()
    }
    figure, axes = canvas(len(METHODS), 2 * len(sets), height=2.6)
    for row, (name, (modes, _)) in enumerate(sets.items()):
        for column, method in enumerate(METHODS):
            axis, below = axes[2 * row][column], axes[2 * row + 1][column]
            first = runs[name][method][0]
            axis.scatter(*modes.T, s=60, facecolors="none", edgecolors="#bbbbbb")
            axis.scatter(*first["points"].T, s=1, color=COLOURS[column], alpha=0.3)
            axis.set(xlim=(-1.6, 1.6), ylim=(-1.6, 1.6), title=f"{method}: {first['averaged']} of {len(modes)}")
            for one in runs[name][method]:
                below.plot([s for s, _, _ in one["curve"]], [n for _, n, _ in one["curve"]], color=COLOURS[column])
            below.set(ylim=(-0.5, len(modes) + 0.5), xlabel="step", ylabel="modes in play")
    mean = lambda name, method, what: sum(one[what] for one in runs[name][method]) / len(SEEDS)
    late = {name: {method: round(mean(name, method, "late"), 2) for method in METHODS} for name in sets}
    holds = {
        "collapse": late["ring"]["plain"] <= late["ring"]["r1"] - 1,
        "cure": all(one["averaged"] == 8 for method in ("r1", "r3") for one in runs["ring"][method]),
        "grid": late["grid"]["r3"] >= max(late["grid"]["r1"], late["grid"]["plain"] + 5),
    }
    for table in runs.values():
        for tries in table.values():
            for one in tries:
                del one["points"]
    write(
        "gan_collapse",
        "Without a penalty on the critic's slope a generator loses modes; with R1, or R1 and R2 on pairs, it has all.",
        "arXiv:1801.04406, arXiv:2501.05441",
        holds,
        {"late": late, "runs": runs},
        figure,
    )


if __name__ == "__main__":
    main()
