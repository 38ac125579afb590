"""Size, few pictures, and depth: what an autoregressive prior gains, what it learns by heart, where it knows most.

Tokens of MNIST (token_common: 7 × 7 of 512), no labels. Nets of three sizes learn 30,000 pictures; the middle one
learns 500 as well, plain, with dropout 0.2, and with a tenth of the tokens that it reads replaced by others. 3,000
steps of 16 each: 1.6 times through the many, 96 times through the few. Nats a token of 2,000 test pictures, in pairs.

Rules, set before the training:
    size        every larger net has fewer nats, by 4 standard errors                    (arXiv:2001.08361)
    gap         of the few, those learned from cost less than those never seen, by 4 standard errors; the many's gap is
                less than a tenth of that
    dropout     on the few, the nats of the unseen are lower with dropout than plain, 4 standard errors
    corrupt     and so are they with corrupted input                                     (arXiv:2012.09841, pkeep)
    probe       of the largest net, 8 layers, the label is most readable neither at the embedding nor at the last layer
    grows       its accuracy at the best layer rises with every size                     (image GPT, Chen et al. 2020)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from ar_sampling import nats, probes
from common import Memory, canvas, learn, write
from token_common import material, tokens, vqvae

from sfumato.likelihoods import Categorical
from sfumato.priors.autoregressive import Autoregressive
from sfumato.recipes.given import Doors
from sfumato.recipes.networks import causal
from sfumato.recipes.plan import Plan
from sfumato.recipes.sizes import Trunk
from sfumato.systems import System

SIZES = {"32 × 2": Trunk(32, 2, 2), "96 × 4": Trunk(96, 4, 4), "192 × 8": Trunk(192, 8, 6)}  # width × depth
MIDDLE, STEPS, FEW = "96 × 4", 3_000, 500
SMALL: dict[str, tuple[float, float]] = {"plain": (0.0, 0.0), "dropout": (0.2, 0.0), "corrupt": (0.0, 0.1)}
PLAN = Plan(steps=STEPS, rate=1e-3, betas=(0.9, 0.95), ema=0.995)


def trained(dims: Trunk, most: int, dropout: float = 0.0, corrupt: float = 0.0, say: str = "") -> System:
    torch.manual_seed(0)
    codec = vqvae().codec
    net = causal(dims, codec.space, Doors(), dropout=dropout)  # type: ignore[arg-type]
    prior = Autoregressive(codec.space, net, Categorical(codec.space.vocab), corrupt=corrupt)  # type: ignore[attr-defined]
    system = System(codec, prior)
    learn(system, Memory({"latent": tokens("train")[:most]}, 16), PLAN, say=say)
    return system.eval()


def apart(a: torch.Tensor, b: torch.Tensor) -> tuple[float, float]:
    """Mean of a − b and its standard error, in pairs where there are as many of one as of the other."""
    if len(a) == len(b):
        return float((a - b).mean()), float((a - b).std()) / math.sqrt(len(a))
    return float(a.mean() - b.mean()), math.sqrt(float(a.var()) / len(a) + float(b.var()) / len(b))


@dataclass
class Runs:
    """By the net's name: nats of pictures never seen and of those learned from, accuracy by layer, parameters."""

    costs: dict[str, torch.Tensor] = field(default_factory=dict)
    seen: dict[str, torch.Tensor] = field(default_factory=dict)
    layers: dict[str, list[float]] = field(default_factory=dict)
    weights: dict[str, int] = field(default_factory=dict)


def run() -> Runs:
    """Trains every net, and asks what it costs and knows."""
    runs = Runs()
    for name, dims in SIZES.items():
        system = trained(dims, len(tokens("train")), say=name)
        runs.costs[name], runs.layers[name] = nats(system), probes(system)
        runs.weights[name] = sum(p.numel() for p in system.prior.net.parameters())  # type: ignore[union-attr]
        if name == MIDDLE:
            runs.seen["many"] = nats(system, 500, "train")
    for name, (dropout, corrupt) in SMALL.items():
        system = trained(SIZES[MIDDLE], FEW, dropout, corrupt, say=f"of {FEW}, {name}")
        runs.costs[name], runs.seen[name] = nats(system), nats(system, FEW, "train")
    return runs


def drawn(runs: Runs) -> Any:
    figure, axes = canvas(3, 1)
    axes[0, 0].semilogx([runs.weights[n] for n in SIZES], [float(runs.costs[n].mean()) for n in SIZES], "o-")
    axes[0, 0].set(xlabel="parameters", ylabel="nats a token, unseen", title="A larger net, the same steps")
    names = [*SMALL, "many"]
    unseen = [float(runs.costs[MIDDLE if n == "many" else n].mean()) for n in names]
    axes[0, 1].bar([i - 0.2 for i in range(4)], [float(runs.seen[n].mean()) for n in names], 0.4, label="learned from")
    axes[0, 1].bar([i + 0.2 for i in range(4)], unseen, 0.4, label="never seen")
    axes[0, 1].set_xticks(range(4), [*(f"{FEW}, {n}" for n in SMALL), "30,000"], rotation=15)
    axes[0, 1].set(title="Learned by heart")
    axes[0, 1].legend()
    for name, row in runs.layers.items():
        axes[0, 2].plot([i / (len(row) - 1) for i in range(len(row))], row, "o-", label=name)
    axes[0, 2].set(xlabel="part of the depth", ylabel="accuracy of a linear probe", title="Where the label is readable")
    axes[0, 2].legend()
    return figure


def main() -> None:
    torch.set_num_threads(1)
    runs = run()
    costs, seen, layers = runs.costs, runs.seen, runs.layers
    larger = [apart(costs[a], costs[b]) for a, b in pairwise(SIZES)]
    gap, wide = apart(costs["plain"], seen["plain"]), apart(costs[MIDDLE], seen["many"])
    helped = {name: apart(costs["plain"], costs[name]) for name in ("dropout", "corrupt")}
    best = {name: max(row) for name, row in layers.items()}
    deepest = layers["192 × 8"]
    clear = lambda found: found[0] > 4 * found[1]
    holds = {
        "size": all(map(clear, larger)),
        "gap": clear(gap) and wide[0] < gap[0] / 10,
        "dropout": clear(helped["dropout"]),
        "corrupt": clear(helped["corrupt"]),
        "probe": 0 < deepest.index(max(deepest)) < len(deepest) - 1,
        "grows": all(best[a] < best[b] for a, b in pairwise(SIZES)),
    }
    mean = lambda rows: {name: round(float(row.mean()), 4) for name, row in rows.items()}
    figures = {
        "nats_a_token": {"unseen": mean(costs), "learned_from": mean(seen)},
        "differences_and_standard_errors": {
            "by_size": larger,
            "gap_of_the_few": gap,
            "gap_of_the_many": wide,
            **helped,
        },
        "probe_accuracy_by_layer": layers,
        "parameters": runs.weights,
        "labels": len(material("train")["label"]),
        "steps": STEPS,
        "few": FEW,
    }
    write(
        "ar_size",
        "Larger nets pay less a token and know the label better, in the middle of their depth; few pictures are "
        "learned by heart, less so with dropout or corrupted input",
        "arXiv:2001.08361, arXiv:2012.09841, image GPT (Chen et al. 2020)",
        holds,
        figures,
        drawn(runs),
    )


if __name__ == "__main__":
    main()
