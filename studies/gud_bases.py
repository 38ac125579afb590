"""Which basis, and how soft an order, costs the fewest bits? (GUD, arXiv:2410.02667: its CIFAR-10 part in small.)

    python studies/gud_bases.py --data PATH        a folder with train/ and test/, as CIFAR-10's PNG files come

16×16 luminance, one U-Net of 1.3 M parameters for every row, the same steps, batch, rate and seed. Bits per
dimension of 8-bit data by the continuous bound and by the probability flow (Hutchinson's trace), uniformly
dequantised, on test pictures. The paper's 3.17 for Haar + columns is on 32×32 colour, and is not measured here.

Holds:  `u_shape`     over a in {0, 0.5, 1, 1.5, 3} of PCA the bound is lowest at 0.5, 1 or 1.5, and both ends cost more
        `flow_below`  the flow's figure is not above the bound's by more than 0.02 for any row: a bound has a side
        `near`        all five bases at their plain softness lie within 0.15 bits of one another (near-standard is
                      near-optimal, the paper's conclusion for Fourier)
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace

import torch
from common import COLOURS, Memory, canvas, learn, pictures, show, write

from sfumato.core.condition import Condition
from sfumato.core.noise import Noise, derive
from sfumato.core.space import size
from sfumato.priors.diffusion import bound
from sfumato.recipes import build, plan

ROWS = {
    "pixel": ("gud-pixel", {}),
    "pca, a = 0": ("gud-pca", {"softness": "1e6"}),
    "pca, a = 0.5": ("gud-pca", {"softness": "2"}),
    "pca, a = 1": ("gud-pca", {"softness": "1"}),
    "pca, a = 1.5": ("gud-pca", {"softness": "0.6667"}),
    "pca, a = 3": ("gud-pca", {"softness": "0.3333"}),
    "fourier": ("gud-fourier", {}),
    "haar": ("gud-wavelet", {}),
    "haar + columns": ("gud-wavelet-columns", {}),
    "columns": ("gud-columns", {"softness": "0.5"}),
}
SIDE, STEPS, BATCH = 16, 1_000, 32
TESTED, FLOWED = 256, 64


def bits(system, images, estimate: str) -> tuple[float, float]:
    """Mean and standard error of bits/dim by the bound (64 points) or the flow (32 Runge–Kutta steps)."""
    prior = system.prior
    if estimate == "bound":
        found = system.bits_per_dim(images)
    else:
        levels = ((images + 1) * 127.5).round()
        u = Noise.each([derive(i, "dequantise") for i in range(len(images))]).uniform(*images.shape[1:])
        z, w = system.codec.lift((levels + u - 0.5) / 127.5 - 1)
        denoise = prior.denoiser(Condition.none(len(z)))
        nats = bound.flow_log_prob(prior.path, denoise, z, Noise.each(range(len(z))), 32) + w
        found = -nats / (size(system.codec.data) * math.log(2)) + math.log2(127.5)
    return float(found.mean()), float(found.std()) / len(found) ** 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../data/cifar10")
    data = parser.parse_args().data
    train = pictures(f"{data}/train", SIDE, 1, "train")
    test = pictures(f"{data}/test", SIDE, 1, "train")["image"]
    test = test[torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[:TESTED]]
    rows, drawn = {}, {}
    for name, (recipe, dials) in ROWS.items():
        torch.manual_seed(0)
        system = build(recipe, side=SIDE, channels=1, **dials)
        how = replace(plan(recipe, "prior", "s"), steps=STEPS)
        took = learn(
            system.stages()["prior"], Memory({"image": train["image"]}, BATCH), how, say=name, precision="bf16"
        )
        upper, flowed = bits(system, test, "bound"), bits(system, test[:FLOWED], "flow")
        same = bits(system, test[:FLOWED], "bound")
        rows[name] = {
            "bits_bound": round(upper[0], 4),
            "bits_bound_error": round(upper[1], 4),
            "bits_flow_64": round(flowed[0], 4),
            "bits_bound_64": round(same[0], 4),
            "cpu_seconds": took["cpu_seconds"],
        }
        drawn[name] = system.sample(16, seeds=range(16), batch=16)
        print(name, rows[name], flush=True)
    draw(rows, drawn)


def draw(rows, drawn) -> None:
    a = {0: "pca, a = 0", 0.5: "pca, a = 0.5", 1: "pca, a = 1", 1.5: "pca, a = 1.5", 3: "pca, a = 3"}
    curve = [rows[name]["bits_bound"] for name in a.values()]
    plain = [rows[n]["bits_bound"] for n in ("pixel", "pca, a = 1", "fourier", "haar", "haar + columns")]
    holds = {
        "u_shape": min(curve[1:4]) < min(curve[0], curve[4]),
        "flow_below": all(r["bits_flow_64"] < r["bits_bound_64"] + 0.02 for r in rows.values()),
        "near": max(plain) - min(plain) < 0.15,
    }
    figure, axes = canvas(2 + len(drawn) // 2, 2, width=2.6, height=2.6)
    grid = axes[0, 0].get_gridspec()
    for row in axes[:, :2]:
        for axis in row:
            axis.remove()
    left, below = figure.add_subplot(grid[0, :2]), figure.add_subplot(grid[1, :2])
    left.plot(list(a), curve, "o-", label="bound")
    left.plot(list(a), [rows[name]["bits_flow_64"] for name in a.values()], "s--", label="flow, 64 pictures")
    left.set(xlabel="a = 1 / softness", ylabel="bits / dimension", title="PCA: order by variance")
    left.legend()
    below.barh(list(rows), [r["bits_bound"] for r in rows.values()], color=COLOURS[0])
    below.set(xlim=(min(r["bits_bound"] for r in rows.values()) - 0.2, None), title="bound, bits / dimension")
    for axis, (name, images) in zip(axes[:, 2:].flatten(), drawn.items()):
        show(axis, images, 4, name)
    write(
        "gud_bases",
        "Bits per dimension over bases and softness: a U-shape about plain diffusion, and bases that differ little.",
        "arXiv:2410.02667",
        holds,
        {"rows": rows, "data": "CIFAR-10, 16×16 luminance", "steps": STEPS, "batch": BATCH, "test_pictures": TESTED},
        figure,
    )


if __name__ == "__main__":
    main()
