"""Autoregression over tokens: how to draw, what a label is worth, and where the net knows most.

Claims: very few candidates (a small top-k) cost diversity, all of them cost fidelity, so that the Fréchet distance is
U-shaped in k (Esser et al. 2021, arXiv:2012.09841); features of a generative net are most linearly readable in the
middle of its depth (Chen et al. 2020, image GPT); given a label the tokens cost less than without.

Rules, set before the training:
    few         recall at k = 1 and at k = 5 below that of all 512, temperature 1
    u_shape     at temperature 1 the least FD lies at a k that is neither the smallest nor all
    warm        with all tokens, FD at temperature 1.3 above that at 1
    probe       the best layer of the unconditional net is neither the embedding nor the last
    guided      all tokens, temperature 1: the judge reads the label asked for more often at guidance 2 than at 1, by 4
                standard errors of a share of 600
    label       nats a token on the test set: given the label < without, each by a net trained for it, 4 standard errors
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from common import canvas, show, write
from token_common import draw, material, prior, score, tokens

from sfumato.core.condition import Condition
from sfumato.core.noise import Noise
from sfumato.metrics.probe import linear_probe

TOP = (1, 5, 20, 60, 150, 512)
TEMPERATURES = (0.7, 1.0, 1.3)
SCALES = (0.0, 1.0, 1.5, 2.0, 3.0)
N, PROBED = 600, (3_000, 1_500)


@torch.no_grad()
def nats(system, n: int = 2000, split: str = "test") -> torch.Tensor:
    """(n,) nats a token on the test set, or on another split."""
    z, parts = tokens(split)[:n], []
    for start in range(0, n, 250):
        rows = slice(start, start + 250)
        given = {"label": material(split)["label"][rows]}
        heard = Condition.none(250) if system.conditioner is None else system.conditioner(given)
        parts.append(-system.prior.log_prob(z[rows], heard, Noise.shared(0, 250)) / z.shape[1])
    return torch.cat(parts)


@torch.no_grad()
def probes(system) -> list[float]:
    """Accuracy on the label by layer, of the mean over positions of the normalised states; layer 0 is the embedding."""
    net, found = system.prior.net, []
    for layer in range(net.trunk.depth + 1):
        states = []
        for split, n in zip(("train", "test"), PROBED):
            parts = [net(z, Condition.none(len(z)), layers=layer) for z in tokens(split)[:n].split(250)]
            states.append(F.layer_norm(torch.cat(parts), (net.trunk.width,)).mean(1))
        label = [material(split)["label"][:n] for split, n in zip(("train", "test"), PROBED)]
        found.append(round(linear_probe(states[0], label[0], states[1], label[1]), 4))
    return found


def sampled(system) -> tuple[dict[str, dict[str, float]], dict[int, torch.Tensor]]:
    """({"temperature top-k": scores}, {top-k: pictures at temperature 1})."""
    grid, pictures = {}, {}
    for temperature in TEMPERATURES:
        for k in TOP:
            if k == 1 and temperature != 1:
                continue  # one candidate is the likeliest, at any temperature
            images = draw(system, N, top_k=k, temperature=temperature)
            grid[f"{temperature} {k}"] = score(images)
            if temperature == 1:
                pictures[k] = images[:20]
    return grid, pictures


def drawn(grid, guided, by_layer: list[float], pictures: dict[int, torch.Tensor]):
    at = lambda k, name, temperature=1.0: grid[f"{temperature} {k}"][name]
    figure, axes = canvas(5, 1)
    for temperature in TEMPERATURES:
        own = [k for k in TOP if f"{temperature} {k}" in grid]
        axes[0, 0].loglog(own, [at(k, "fd", temperature) for k in own], "o-", label=f"temperature {temperature:g}")
    axes[0, 0].set(xlabel="top-k", ylabel="Fréchet distance", title="Neither too few nor all")
    axes[0, 0].legend()
    for name in ("precision", "recall", "accuracy"):
        axes[0, 1].semilogx(TOP, [at(k, name) for k in TOP], "o-", label=name)
    axes[0, 1].set(xlabel="top-k, temperature 1", title="Diversity and fidelity")
    axes[0, 1].legend()
    axes[0, 2].plot(range(len(by_layer)), by_layer, "o-")
    axes[0, 2].set(xlabel="layer", ylabel="accuracy of a linear probe", title="Where the label is readable")
    for name in ("precision", "recall", "accuracy"):
        axes[0, 3].plot(SCALES, [guided[scale][name] for scale in SCALES], "o-", label=name)
    axes[0, 3].set(xlabel="guidance, all tokens", title="Guidance by the label")
    axes[0, 3].legend()
    show(axes[0, 4], torch.cat([pictures[k][:10] for k in TOP]), 10, "top-k 1, 5, 20, 60, 150, 512")
    return figure


def main() -> None:
    torch.set_num_threads(1)
    labelled, learned = prior("vq-ar")
    plain, learned_plain = prior("vq-ar", classes=0)
    grid, pictures = sampled(labelled)
    guided = {scale: score(draw(labelled, N, guidance=scale)) for scale in SCALES}
    right = [guided[scale]["accuracy"] for scale in (1.0, 2.0)]
    given, alone = nats(labelled), nats(plain)
    gap, error = float((alone - given).mean()), float((alone - given).std()) / math.sqrt(len(given))
    by_layer = probes(plain)
    at = lambda k, name, temperature=1.0: grid[f"{temperature} {k}"][name]
    least = min(TOP, key=lambda k: at(k, "fd"))
    holds = {
        "few": max(at(1, "recall"), at(5, "recall")) < at(512, "recall"),
        "u_shape": least not in (TOP[0], TOP[-1]),
        "warm": at(512, "fd", 1.3) > at(512, "fd"),
        "probe": 0 < by_layer.index(max(by_layer)) < len(by_layer) - 1,
        "guided": right[1] - right[0] > 4 * math.sqrt(sum(p * (1 - p) for p in right) / N),
        "label": gap > 4 * error,
    }
    figures = {
        "by_temperature_and_top_k": grid,
        "by_guidance": guided,
        "probe_accuracy_by_layer": by_layer,
        "nats_a_token": {"given_the_label": round(float(given.mean()), 4), "without": round(float(alone.mean()), 4)},
        "difference_and_its_standard_error": [round(gap, 4), round(error, 5)],
        "training_cpu_seconds": {"vq-ar": learned, "unconditional": learned_plain},
        "pictures_scored": N,
    }
    write(
        "ar_sampling",
        "Sampling tokens has a best number of candidates; middle layers know the label best; labels help, and guide",
        "arXiv:2012.09841, image GPT (Chen et al. 2020)",
        holds,
        figures,
        drawn(grid, guided, by_layer, pictures),
    )


if __name__ == "__main__":
    main()
