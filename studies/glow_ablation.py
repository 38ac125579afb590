"""What Glow's parts are worth, at equal steps: how channels are mixed, what a coupling does, who knows the split half.

    python studies/glow_ablation.py --data PATH        a folder with train/ and test/, as CIFAR-10's PNG files come

Five flows on CIFAR-10 at 16 × 16 pixels (colour, 8 bits), two levels of eight steps, width 48; two seeds each; bits per
dimension of 1,000 test pictures, dequantised with the same noise for all. (A run on emoji, six steps a level and 900
steps of training, had affine before additive by 0.47 bits, and could not order the rest: lu 4.65, shuffle and reverse
4.60 and 4.61, fixed 4.66. Emoji are few, and flat; the claims are of natural pictures.)

    lu         invertible 1×1 convolutions, affine couplings, learned priors of split and top: the published one
    shuffle    a fixed random permutation of the channels in place of the convolution
    reverse    the order of the channels turned round, as in RealNVP
    additive   couplings that shift, and do not scale
    fixed      N(0, I) for what is split off, and at the top

holds, decided before training: the claim is true of the mean over seeds and of each seed by itself.
    mixing     lu < shuffle < reverse        coupling   lu < additive        prior   lu < fixed
"""

from __future__ import annotations

import argparse
import itertools
from typing import Any

import torch
from common import Memory, canvas, learn, pictures, write

from sfumato.codecs.pixels import Pixels
from sfumato.core.space import Grid
from sfumato.nn.pictures.glow import Glow
from sfumato.priors.flow import Flow
from sfumato.recipes.plan import Plan
from sfumato.systems import System

SPACE = Grid(3, 16, 16)
VARIANTS: dict[str, dict[str, Any]] = {
    "lu": {},
    "shuffle": {"mixing": "shuffle"},
    "reverse": {"mixing": "reverse"},
    "additive": {"coupling": "additive"},
    "fixed": {"learned": False},
}
SEEDS = (0, 1)
STEPS, TESTED = 1_800, 1_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../data/cifar10")
    data = parser.parse_args().data
    torch.set_num_threads(1)
    train, test = pictures(f"{data}/train", 16, 3)["image"], pictures(f"{data}/test", 16, 3)["image"]
    test = test[torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[:TESTED]]
    bits: dict[str, list[float]] = {name: [] for name in VARIANTS}
    curves: dict[str, list[tuple[int, float]]] = {}
    for seed in SEEDS:
        for name, parts in VARIANTS.items():
            torch.manual_seed(seed)
            flow = Flow(SPACE, Glow(SPACE, **{"levels": 2, "steps": 8, "width": 48, **parts}))
            system = System(Pixels(SPACE, "dequantised"), flow)
            plan = Plan(steps=STEPS, rate=2e-3, ema=0.99)
            found = learn(system, Memory({"image": train}, 32, seed), plan, seed=seed, say=f"{name}, seed {seed}")
            curves.setdefault(name, found["curve"])
            bits[name].append(float(system.bits_per_dim(test).mean()))
    figure, axes = canvas(columns=2)
    for name, curve in curves.items():
        smooth = [
            sum(v for _, v in curve[max(0, i - 9) : i + 1]) / len(curve[max(0, i - 9) : i + 1])
            for i in range(len(curve))
        ]
        axes[0][0].plot([k for k, _ in curve][10:], smooth[10:], label=name)
    axes[0][0].set_xlabel("step")
    axes[0][0].set_title("training loss, nats a dimension (seed 0)")
    axes[0][0].legend()
    for i, values in enumerate(bits.values()):
        axes[0][1].bar(i, sum(values) / len(values))
        axes[0][1].scatter([i] * len(values), values, color="black", s=9, zorder=3)
    low, high = min(map(min, bits.values())), max(map(max, bits.values()))
    axes[0][1].set_ylim(low - 0.3 * (high - low), high + 0.1 * (high - low))
    axes[0][1].set_xticks(range(len(bits)), list(bits))
    axes[0][1].set_title("bits per dimension of test pictures")

    def ordered(*names: str) -> bool:
        means = [sum(bits[n]) for n in names]
        rows = [means, *([bits[n][s] for n in names] for s in range(len(SEEDS)))]
        return all(all(a < b for a, b in itertools.pairwise(row)) for row in rows)

    write(
        "glow_ablation",
        "In nats: 1×1 convolution < shuffle < reverse; affine < additive; learned split prior < fixed",
        "arXiv:1807.03039, figure 3",
        {
            "mixing": ordered("lu", "shuffle", "reverse"),
            "coupling": ordered("lu", "additive"),
            "prior": ordered("lu", "fixed"),
        },
        {"bits_per_dim": bits, "data": "CIFAR-10, 16×16", "steps": STEPS, "train": len(train), "test": len(test)},
        figure,
    )


if __name__ == "__main__":
    main()
