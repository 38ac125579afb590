"""The noise in the choice of what to keep, and guidance that grows: diversity against fidelity.

Claims: without noise (τ = 0) what is surest is kept, and the pictures are alike and smooth; τ = 4.5 is good; much noise
is a random order, more diverse and less faithful (Chang et al. 2022, arXiv:2202.04200). Guidance that grows linearly
over the steps costs less diversity than the same guidance throughout (Chang et al. 2023, arXiv:2301.00704).

Rules, set before the training, at 8 steps:
    alike        recall and spread at τ = 0 below those at 4.5
    unfaithful   precision at τ = 50 below that at 4.5
    between      FD at the best τ of those between 0 and 50 below both ends'
    ramp         at guidance 3 and 5, recall with the ramp ≥ recall without it, for both
Spread is the mean distance of two pictures of one label in the judge's features, 1 for the training pictures'.
"""

from __future__ import annotations

import torch
from common import canvas, show, write
from token_common import CLASSES, draw, features, labels, material, prior, score

NOISE = (0.0, 1.0, 4.5, 10.0, 20.0, 50.0)
SCALES = (1.0, 2.0, 3.0, 5.0)
N = 600


def spread(found: torch.Tensor, label: torch.Tensor) -> float:
    within = [torch.pdist(found[label == k]).mean() for k in range(CLASSES)]
    return float(torch.stack(within).mean())


def main() -> None:
    torch.set_num_threads(1)
    masked, learned = prior("maskgit")
    train = material("train")
    unit = spread(features(train["image"][:2000]), train["label"][:2000])
    pictures = {}

    def measured(**options) -> dict[str, float]:
        images = draw(masked, N, steps=8, **options)
        pictures[tuple(options.values())] = images[:20]
        return score(images) | {"spread": round(spread(features(images), labels(N)) / unit, 4)}

    noise = {tau: measured(choice_temperature=tau) for tau in NOISE}
    ramps = {
        kind: {s: measured(guidance=s, ramp=kind) if s != 1 else noise[4.5] for s in SCALES}
        for kind in ("constant", "linear")
    }
    best = min(noise[tau]["fd"] for tau in NOISE[1:-1])
    holds = {
        "alike": noise[0.0]["recall"] < noise[4.5]["recall"] and noise[0.0]["spread"] < noise[4.5]["spread"],
        "unfaithful": noise[50.0]["precision"] < noise[4.5]["precision"],
        "between": best < min(noise[0.0]["fd"], noise[50.0]["fd"]),
        "ramp": all(ramps["linear"][s]["recall"] >= ramps["constant"][s]["recall"] for s in (3.0, 5.0)),
    }
    figures = {
        "by_choice_temperature": noise,
        "by_guidance_and_ramp": ramps,
        "training_cpu_seconds": learned,
        "pictures_scored": N,
    }
    figure, axes = canvas(4, 1)
    place = range(len(NOISE))
    for name in ("precision", "recall", "accuracy", "spread"):
        axes[0, 0].plot(place, [noise[tau][name] for tau in NOISE], "o-", label=name)
    axes[0, 0].set(xticks=list(place), xticklabels=[f"{t:g}" for t in NOISE], xlabel="τ", title="Noise in the choice")
    axes[0, 0].legend()
    axes[0, 1].plot(place, [noise[tau]["fd"] for tau in NOISE], "o-")
    axes[0, 1].set(xticks=list(place), xticklabels=[f"{t:g}" for t in NOISE], xlabel="τ", ylabel="Fréchet distance")
    for kind, rows in ramps.items():
        axes[0, 2].plot([rows[s]["recall"] for s in SCALES], [rows[s]["accuracy"] for s in SCALES], "o-", label=kind)
        for s in SCALES:
            axes[0, 2].annotate(f"{s:g}", (rows[s]["recall"], rows[s]["accuracy"]))
    axes[0, 2].set(xlabel="recall", ylabel="read as the label asked for", title="Guidance, by its scale")
    axes[0, 2].legend()
    show(axes[0, 3], torch.cat([pictures[(tau,)] for tau in (0.0, 4.5, 50.0)]), 10, "τ = 0, 4.5, 50 (two rows each)")
    write(
        "maskgit_noise",
        "Noise in the choice of what to keep buys diversity and costs fidelity; so does less guidance at the start",
        "arXiv:2202.04200, arXiv:2301.00704",
        holds,
        figures,
        figure,
    )


if __name__ == "__main__":
    main()
