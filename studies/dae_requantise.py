"""A second stage over what stands before a lookup: do its samples decode better through the nearest code?

MNIST, 28 × 28; a `vq-reg` (7 × 7 vectors of 4 numbers, 1,024 codes) and a diffusion over its latents, given labels, of
size s both. The same latents are decoded twice: as they are, and as the codec does, by the nearest code. Judge and
distances are those of token_common. The quantised variants of latent diffusion and of the deep latent VAE do it.

Rules, set before the training:
    nearer     the Fréchet distance of 1,000 samples is lower by the nearest code, and so it is in at least 9 of 10
               groups of 100 (a sign test: p = 0.011)                                    (arXiv:2112.10752)
    off        latents of pictures never seen, with noise of 0.3 deviations: more dB by the nearest code than without
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from common import Memory, canvas, learn, show, write
from dae_latents import psnr
from token_common import CLASSES, SIDE, labels, material, score
from torch import Tensor

from sfumato import recipes
from sfumato.core.noise import Noise

STEPS, BATCH, N, GROUPS = {"codec": 2_500, "prior": 3_000}, {"codec": 16, "prior": 32}, 1_000, 10
ERRORS = (0.0, 0.1, 0.3, 0.6)


@torch.no_grad()
def decoded(codec: Any, z: Tensor, lookup: bool) -> Tensor:
    """Without the lookup: the decoder on the latents themselves."""
    if lookup:
        parts = [codec.decode(part) for part in z.split(100)]
    else:
        parts = [codec.likelihood(codec.decoder(codec.after(codec._in(part)))).mean for part in z.split(100)]
    return torch.cat(parts).clamp(-1, 1)


def main() -> None:
    torch.set_num_threads(1)
    train, test = material("train"), material("test")["image"]
    torch.manual_seed(0)
    system: Any = recipes.build("vq-reg+diffusion", size="s", side=SIDE, channels=1, classes=CLASSES)
    codec = system.codec
    how = replace(recipes.plan("vq-reg", "codec", "s"), steps=STEPS["codec"])
    learn(codec, Memory({"image": train["image"]}, BATCH["codec"]), how, say="vq-reg")
    with torch.no_grad():
        z = torch.cat([codec.encode(part) for part in train["image"].split(256)])
        unseen = torch.cat([codec.encode(part) for part in test.split(256)])
    how = replace(recipes.plan("vq-reg+diffusion", "prior", "s"), steps=STEPS["prior"])
    learn(system, Memory({"latent": z, "label": train["label"]}, BATCH["prior"]), how, say="diffusion")
    system.eval()
    drawn = []
    for i in range(0, N, 100):
        condition = system.conditioner({"label": labels(N)[i : i + 100]})
        drawn.append(system.prior.sample(condition, Noise.each(range(i, i + 100))))
    ways = {name: decoded(codec, torch.cat(drawn), lookup) for name, lookup in (("by code", True), ("as it is", False))}
    scores = {name: score(images) for name, images in ways.items()}
    groups = {name: [score(part)["fd"] for part in images.split(N // GROUPS)] for name, images in ways.items()}
    wins = sum(a < b for a, b in zip(groups["by code"], groups["as it is"]))
    eps = Noise.shared(0, len(unseen)).normal(*unseen.shape[1:])
    off = {
        name: {error: round(psnr(decoded(codec, unseen + error * eps, lookup), test), 3) for error in ERRORS}
        for name, lookup in (("by code", True), ("as it is", False))
    }
    figure, axes = canvas(3, 1)
    for axis, (name, images) in zip(axes[0], ways.items()):
        show(axis, images[:40], 10, f"{name}: FD {scores[name]['fd']:.3f}")
    for name, row in off.items():
        axes[0, 2].plot(ERRORS, list(row.values()), "o-", label=name)
    axes[0, 2].set(
        xlabel="noise in the latents of pictures, deviations", ylabel="PSNR, dB", title="Latents that are off"
    )
    axes[0, 2].legend()
    write(
        "dae_requantise",
        "What a prior draws before a lookup decodes better through the nearest code than as it is",
        "arXiv:2112.10752",
        {
            "nearer": scores["by code"]["fd"] < scores["as it is"]["fd"] and wins >= 9,
            "off": off["by code"][0.3] > off["as it is"][0.3],
        },
        {"scores": scores, "groups": groups, "groups_won": wins, "psnr": off, "steps": STEPS},
        figure,
    )


if __name__ == "__main__":
    main()
