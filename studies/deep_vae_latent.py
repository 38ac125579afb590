"""A deep VAE over latents against one on pixels, at equal processor time (arXiv:2303.13714's core claim).

Both draw MNIST by class. The latent one gets BUDGET seconds for its autoencoder and its prior together, the pixel one
all of them for itself. Each is what its recipe builds at size s, with the recipe's plan; the number of steps is the
budget over what a step was found to cost. `holds`, written before the training:

    fd          the latent model has the lower Fréchet distance, both unguided
    fd_guided   and so it has where each is at its better guidance of 1 and 2
    accuracy    and the higher accuracy, unguided
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from common import Memory, canvas, cpu_seconds, learn, show, write
from deep_vae_common import CLASSES, SIDE, Set, autoencoder, digits, latents, score

from sfumato import recipes
from sfumato.conditioners import Labels
from sfumato.core.noise import Noise
from sfumato.recipes.given import Doors
from sfumato.recipes.priors import prior_over
from sfumato.recipes.sizes import READER
from sfumato.systems import System

BUDGET = 200.0


def cost(system: System, data: Memory) -> float:
    """Processor seconds of a step, in a copy that is thrown away."""
    optimiser, begun = torch.optim.AdamW(system.players()[0]), 0.0
    for step in range(8):
        begun = cpu_seconds() if step == 3 else begun
        loss = sum(system.loss(data.at(step), noise=Noise.shared(step, data.batch)).values())
        optimiser.zero_grad()
        loss.backward()  # type: ignore[union-attr]
        optimiser.step()
    return (cpu_seconds() - begun) / 5


def fit(build: Any, rows: dict[str, Any], recipe: str, seconds: float) -> tuple[System, dict[str, Any]]:
    plan = recipes.plan(recipe, "prior", "s")
    memory = Memory(rows, plan.batch)
    steps = int(seconds / cost(build(), memory))
    found = learn(system := build(), memory, replace(plan, steps=steps), say=recipe)
    return system, {"steps": steps, "cpu_seconds": found["cpu_seconds"]}


def over_latents(data: Set) -> tuple[System, dict[str, Any]]:
    codec, spent = autoencoder(data)

    def build() -> System:
        torch.manual_seed(0)
        width = READER["s"].width
        return System(codec, prior_over("hierarchical", codec, "s", Doors(vector=width)), Labels(CLASSES, width))

    system, found = fit(build, latents(codec, data.train), "deep-vae", BUDGET - spent)
    return system, {**found, "codec_seconds": spent}


def on_pixels(data: Set) -> tuple[System, dict[str, Any]]:
    def build() -> System:
        torch.manual_seed(0)
        system = recipes.build("vdvae", size="s", side=SIDE, channels=1, classes=CLASSES)
        assert isinstance(system, System)
        return system

    return fit(build, data.train, "vdvae", BUDGET)


def main() -> None:
    data, found, pictures = digits(), {}, []
    for name, train in (("latents", over_latents), ("pixels", on_pixels)):
        system, about = train(data)
        count = sum(p.numel() for p in system.parameters())
        scores = {f"guidance {s:g}": score(system, data, guidance=s) for s in (1.0, 2.0)}
        found[name] = {**about, "parameters": count, **scores}
        pictures.append(system.sample(60, {"label": torch.arange(60) % CLASSES}, batch=60))
    plain = {name: row["guidance 1"] for name, row in found.items()}
    best = {name: min(row[f"guidance {s:g}"]["fd"] for s in (1.0, 2.0)) for name, row in found.items()}
    holds = {
        "fd": plain["latents"]["fd"] < plain["pixels"]["fd"],
        "fd_guided": best["latents"] < best["pixels"],
        "accuracy": plain["latents"]["accuracy"] > plain["pixels"]["accuracy"],
    }
    figure, axes = canvas(3)
    names = list(found)
    for i, scale in enumerate(("guidance 1", "guidance 2")):
        axes[0][0].bar([j + 0.35 * i for j in range(2)], [found[n][scale]["fd"] for n in names], 0.35, label=scale)
    axes[0][0].set_xticks([0.175, 1.175], names)
    axes[0][0].set_title("Fréchet distance")
    axes[0][0].legend()
    for axis, name, images in zip(axes[0][1:], names, pictures):
        show(axis, images, 10, f"{name}, unguided")
    write(
        "deep_vae_latent",
        "At equal processor time a deep VAE over latents draws better than one on pixels",
        "arXiv:2303.13714",
        holds,
        found,
        figure,
    )


if __name__ == "__main__":
    main()
