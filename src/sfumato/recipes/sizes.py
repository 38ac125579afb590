"""The one dial: what `size` means for every kind of network, and how long each is trained.

    xs      tests, seconds           s     a laptop, minutes
    m       one GPU                  paper the published model; tests check its parameter count

A "paper" row names its source; the others were chosen so that a step costs what the line above says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from sfumato.core.errors import UsageError
from sfumato.recipes.plan import Plan

Size = Literal["xs", "s", "m", "paper"]


@dataclass(frozen=True)
class Trunk:
    """A transformer."""

    width: int
    depth: int
    heads: int


@dataclass(frozen=True)
class Small:
    """A few layers of perceptron."""

    width: int
    depth: int


@dataclass(frozen=True)
class Pyramid:
    """A convolutional encoder and its decoder. `patch` pixels a side enter as one, which is what a CPU can afford."""

    width: int
    blocks: int
    patch: int
    attention: bool


@dataclass(frozen=True)
class Unet:
    width: int
    mults: tuple[int, ...]
    blocks: int
    attention: tuple[bool, ...]  # per level, from fine to coarse
    head: int | None = None
    dropout: float = 0.0
    patch: int = 1


@dataclass(frozen=True)
class Game:
    """A generator and its critic, which mirrors it. `widths` from fine to coarse, the first at a side of `side`; finer
    grids take the first, coarser ones the last. Each position of the finest grid is `patch` pixels a side. `full`: the
    generator's first layer draws every position of the coarsest grid by itself, which narrow ones need."""

    widths: tuple[int, ...]
    side: int
    blocks: int
    patch: int
    full: bool

    def ladder(self, side: int) -> tuple[int, ...]:
        """The widths of a grid of this side and of its halves."""
        finer = round(math.log2(side / self.side))
        return (self.widths[0],) * finer + self.widths if finer > 0 else self.widths[-finer:] or self.widths[-1:]


PYRAMID: dict[Size, Pyramid] = {
    "xs": Pyramid(16, 1, 2, False),
    "s": Pyramid(32, 1, 2, False),
    "m": Pyramid(96, 2, 2, True),
    "paper": Pyramid(128, 2, 1, True),  # taming-transformers and latent-diffusion configs: ch 128, 2 blocks
}

# Channel multipliers by factor, from fine to coarse; those of factor 8 and 16 are kl-f8's and vqgan-f16's.
MULTS = {1: (1,), 2: (1, 2), 4: (1, 2, 4), 8: (1, 2, 4, 4), 16: (1, 1, 2, 2, 4), 32: (1, 1, 2, 2, 4, 4)}

PIXEL_UNET: dict[Size, Unet] = {
    "xs": Unet(32, (1, 2), 1, (False, True)),
    "s": Unet(32, (1, 2, 2), 1, (False, False, True), patch=2),  # three times the steps: docs/results/unet-patch.json
    "m": Unet(128, (1, 2, 2), 2, (False, True, True), head=64),
    "paper": Unet(128, (1, 2, 2, 2), 2, (False, True, False, False), dropout=0.1),  # Ho et al. 2020, CIFAR-10: 35.7 M
}

LATENT_UNET: dict[Size, Unet] = {
    "xs": Unet(32, (1, 2), 1, (False, True)),
    "s": Unet(64, (1, 2), 1, (False, True), head=32),
    "m": Unet(192, (1, 2, 3), 2, (True, True, True), head=32),
    "paper": Unet(192, (1, 2, 3, 5), 2, (False, True, True, True), head=32),  # latent-diffusion cin256-v2: 400 M
}

DIT: dict[Size, Trunk] = {
    "xs": Trunk(64, 2, 4),
    "s": Trunk(128, 6, 4),
    "m": Trunk(768, 12, 12),  # DiT-B
    "paper": Trunk(1152, 28, 16),  # DiT-XL, arXiv:2212.09748
}

IMAGE_GPT: dict[str, Trunk] = {  # Chen et al. 2020, section 3, at 32 × 32 positions of 512 colours
    "S": Trunk(512, 24, 8),  # 76 M
    "M": Trunk(1024, 36, 8),  # 455 M
    "L": Trunk(1536, 48, 16),  # 1.36 B
}

PIXEL_GPT: dict[Size, Trunk] = {
    "xs": Trunk(64, 2, 4),
    "s": Trunk(128, 4, 4),
    "m": Trunk(512, 12, 8),
    "paper": IMAGE_GPT["S"],
}

TOKEN_GPT: dict[Size, Trunk] = {
    "xs": Trunk(64, 2, 4),
    "s": Trunk(128, 4, 4),
    "m": Trunk(768, 12, 12),
    "paper": Trunk(1024, 24, 16),  # taming-transformers, ImageNet-256 and others
}

READER: dict[Size, Trunk] = {  # of captions
    "xs": Trunk(64, 1, 4),
    "s": Trunk(128, 1, 4),
    "m": Trunk(512, 6, 8),
    "paper": Trunk(512, 16, 8),  # GLIDE's text encoder, arXiv:2112.10741, 128 words less
}

WORDS: dict[Size, tuple[int, int]] = {"xs": (512, 16), "s": (2048, 32), "m": (8192, 64), "paper": (16384, 64)}
SIDE: dict[Size, int] = {"xs": 16, "s": 32, "m": 64, "paper": 256}


def side_for(size: Size, side: int | None, factor: int = 1, paper: int | None = None) -> int:
    """The picture's side: what is asked for, or the size's own; UsageError when the factor does not divide it."""
    if side is None:
        side = paper if paper is not None and size == "paper" else SIDE[size]
    if side % factor:
        near = max(round(side / factor), 1) * factor
        raise UsageError(
            f"A side of {side} is no multiple of {factor}, which the networks divide by. Try --side {near}."
        )
    return side


STEPS: dict[str, dict[Size, Plan]] = {
    "codec": {
        "xs": Plan(steps=200, batch=16, rate=2e-3, ema=0.98),
        "s": Plan(steps=6_000, batch=16, rate=3e-3, ema=0.995),  # small steps, many: the best of a CPU's minute
        "m": Plan(steps=50_000, batch=64, rate=3e-4, ema=0.999),
        "paper": Plan(steps=250_000, batch=96, rate=1e-4, betas=(0.5, 0.9), ema=0.999),
    },
    "diffusion": {
        "xs": Plan(steps=300, batch=16, rate=2e-3, ema=0.98),
        "s": Plan(steps=12_000, batch=32, rate=2e-3, ema=0.999, betas=(0.9, 0.99)),
        "m": Plan(steps=100_000, batch=128, rate=2e-4, ema=0.9995),
        "paper": Plan(
            steps=800_000, batch=128, rate=2e-4, ema=0.9999, betas=(0.9, 0.999), warmup=5_000 / 800_000, floor=1
        ),
    },
    "autoregressive": {
        "xs": Plan(steps=300, batch=16, rate=2e-3, betas=(0.9, 0.95), ema=0.98),
        "s": Plan(steps=8_000, batch=16, rate=3e-3, betas=(0.9, 0.95), decay=0.01, ema=0.995),
        "m": Plan(steps=100_000, batch=128, rate=3e-4, betas=(0.9, 0.95), decay=0.05, ema=0.999),
        "paper": Plan(steps=1_000_000, batch=128, rate=1e-3, betas=(0.9, 0.95), decay=0.01, ema=0.999),
    },
}


MASKED: dict[Size, Trunk] = {
    "xs": Trunk(64, 2, 4),
    "s": Trunk(128, 4, 4),  # TOKEN_GPT's, so that the two can be compared
    "m": Trunk(768, 12, 12),
    "paper": Trunk(768, 24, 16),  # MaskGIT's configuration, and MAR-B's (12 + 12 blocks)
}

HEAD: dict[Size, Small] = {  # of one position, MAR's
    "xs": Small(64, 1),
    "s": Small(128, 3),
    "m": Small(1024, 3),
    "paper": Small(1024, 6),  # MAR-B, arXiv:2406.11838 and its repository
}

STEPS["masked"] = {
    "xs": Plan(steps=300, batch=16, rate=2e-3, betas=(0.9, 0.96), ema=0.98),
    "s": Plan(steps=8_000, batch=16, rate=3e-3, betas=(0.9, 0.96), decay=0.01, ema=0.995),
    "m": Plan(steps=100_000, batch=128, rate=3e-4, betas=(0.9, 0.96), decay=0.045, ema=0.999),
    "paper": Plan(steps=2_000_000, batch=256, rate=1e-4, betas=(0.9, 0.96), decay=0.045, warmup=5_000 / 2_000_000),
}

# A step costs twice a masked prior's over tokens. The paper's is that of MAR's repository: 800 epochs of 2048 at 8e-4,
# 100 of them to warm up, and no decay of the rate.
STEPS["mar"] = STEPS["masked"] | {
    "s": replace(STEPS["masked"]["s"], steps=4_000, rate=2e-3),
    "paper": Plan(
        steps=500_000, batch=2048, rate=8e-4, betas=(0.9, 0.95), decay=0.02, warmup=0.125, floor=1, ema=0.9999
    ),
}

# dVAE: the relaxed one-hot is noise at first, and a high rate learns the noise.
STEPS["relaxed"] = STEPS["codec"] | {"s": replace(STEPS["codec"]["s"], rate=1e-3)}


@dataclass(frozen=True)
class Coupled:
    """A multi-scale flow: levels, steps of flow in each, width of the networks in its couplings."""

    levels: int
    steps: int
    width: int


GLOW: dict[Size, Coupled] = {
    "xs": Coupled(2, 2, 16),
    "s": Coupled(3, 8, 64),
    "m": Coupled(3, 16, 256),
    "paper": Coupled(3, 32, 512),  # Kingma & Dhariwal 2018, table 4: CIFAR-10
}

# Latents are not kept: a density learns from draws of q(z|x), since the means of a VAE's idle channels are all but
# equal, and a density can pile up on them without limit.
STEPS["flow"] = {
    "xs": Plan(steps=300, batch=16, rate=2e-3, ema=0.98, cache=False),
    "s": Plan(steps=8_000, batch=32, rate=4e-3, ema=0.998, cache=False),
    "m": Plan(steps=100_000, batch=64, rate=1e-3, ema=0.9995, cache=False),
    # 1800 epochs of 50,000 in batches of 8 x 64, warm-up in the first ten, a constant rate (the paper's appendix C)
    "paper": Plan(
        steps=176_000, batch=512, rate=1e-3, betas=(0.9, 0.999), warmup=10 / 1800, floor=1, ema=0.999, cache=False
    ),
}


def planner(kind: str, codec: str = "codec"):
    """(stage, size) → Plan: stages called "codec" (or ending so) follow the codec's plan, all others that of `kind`."""

    def plan(stage: str, size: Size) -> Plan:
        return STEPS[codec if stage.split(".")[-1] == "codec" else kind][size]

    return plan


@dataclass(frozen=True)
class Rungs:
    """A ladder (nn/pictures/ladder.py). Per resolution, from one cell up: `rungs`, `blocks`, `ratio`, `attention`."""

    width: int
    rungs: tuple[int, ...]
    blocks: tuple[int, ...]
    ratio: tuple[float, ...] = (0.25,)
    attention: tuple[int, ...] = ()
    heads: int = 1
    style: Literal["bottleneck", "expansion"] = "bottleneck"
    other: int | None = None  # the width going up
    z: int = 16


# openai/vdvae, hps.py; a block that shrinks the grid is one of its resolution's blocks. Counts: README and table 3 of
# arXiv:2011.10650.
VDVAE_PUBLISHED: dict[str, Rungs] = {
    "cifar10": Rungs(384, (1, 3, 6, 11, 22), (3, 4, 7, 7, 12)),  # 39 M
    "imagenet32": Rungs(512, (2, 5, 10, 20, 41), (6, 7, 9, 10, 16)),  # 119 M
    "imagenet64": Rungs(512, (2, 4, 8, 16, 32, 13), (5, 8, 9, 10, 21, 12)),  # 125 M
}
VDVAE: dict[Size, Rungs] = {
    "xs": Rungs(32, (1, 1, 1, 1), (1, 1, 1, 1), z=8),
    "s": Rungs(64, (2, 3, 4, 2, 1), (1, 1, 2, 1, 1), (0.5,), z=8),
    "m": Rungs(256, (2, 4, 6, 8, 8, 4), (2, 2, 3, 3, 3, 2)),
    "paper": VDVAE_PUBLISHED["cifar10"],
}

DEEP_VAE: dict[Size, Rungs] = {
    "xs": Rungs(32, (1, 1, 1), (1, 1, 1), (2,), style="expansion", z=8),
    "s": Rungs(48, (2, 3, 4), (1, 2, 2), (2,), (0, 1, 1), 4, style="expansion"),
    "m": Rungs(128, (3, 3, 4, 4), (2, 2, 3, 3), (4,), (0, 1, 2, 2), 8, style="expansion"),
    # latent-vae-jax, config/imagenet256_kl8.py; heads 4 at the finest resolution there, here 8 throughout: 387 M
    "paper": Rungs(256, (8, 8, 10, 12, 10), (3, 3, 4, 5, 4), (12, 10, 8, 6, 4), (0, 0, 4, 4, 4), 8, "expansion", 384),
}

STEPS["hierarchical"] = {
    "xs": Plan(steps=300, batch=16, rate=2e-3, betas=(0.9, 0.9), ema=0.98),
    "s": Plan(steps=5_000, batch=32, rate=2e-3, betas=(0.9, 0.99), ema=0.998),
    "m": Plan(steps=100_000, batch=128, rate=3e-4, betas=(0.9, 0.9), ema=0.9995, clip=200),
    # latent-vae-jax: 100 steps of warm-up, then flat; moments as VDVAE's, whose gradients are clipped at 200
    "paper": Plan(
        steps=800_000, batch=128, rate=3e-4, betas=(0.9, 0.9), ema=0.9999, warmup=100 / 800_000, floor=1, clip=200
    ),
}

GAME: dict[Size, Game] = {
    "xs": Game((16, 32), 8, 1, 2, True),
    "s": Game((16, 64, 128), 16, 2, 2, True),
    "m": Game((96, 192, 384), 32, 2, 1, True),
    "paper": Game(
        (96, 192, 384, 768), 256, 2, 1, False
    ),  # R3GAN, arXiv:2501.05441: FFHQ-256, 23 M each; CIFAR-10 is its end
}
# of the generator and the critic; the last are those of CIFAR-10
SNGAN: dict[Size, tuple[int, int]] = {"xs": (16, 16), "s": (32, 32), "m": (256, 128), "paper": (256, 128)}
DCGAN: dict[Size, int] = {"xs": 16, "s": 32, "m": 64, "paper": 64}

STEPS["adversarial"] = {
    "xs": Plan(steps=300, batch=16, rate=1e-3, betas=(0.0, 0.99), ema=0.98, clip=0.0),
    "s": Plan(steps=12_000, batch=32, rate=5e-4, betas=(0.0, 0.99), ema=0.999, clip=0.0, floor=0.1),
    "m": Plan(steps=100_000, batch=64, rate=2e-4, betas=(0.0, 0.99), ema=0.9995, clip=0.0, floor=0.25),
    # R3GAN on CIFAR-10: 2e-4 down to 5e-5, batch 512
    "paper": Plan(steps=200_000, batch=256, rate=2e-4, betas=(0.0, 0.99), ema=0.9999, clip=0.0, warmup=0.0, floor=0.25),
}

VIT_PUBLISHED: dict[str, Trunk] = {  # arXiv:2010.11929, table 1; the first two arXiv:2012.12877, table 1
    "Ti": Trunk(192, 12, 3),
    "S": Trunk(384, 12, 6),
    "B": Trunk(768, 12, 12),  # 86.6 M at 224 pixels in patches of 16
    "L": Trunk(1024, 24, 16),  # 304 M
    "H": Trunk(1280, 32, 16),  # 632 M, in patches of 14
}
VIT: dict[Size, Trunk] = {
    "xs": Trunk(64, 2, 4),
    "s": Trunk(96, 4, 4),
    "m": VIT_PUBLISHED["S"],
    "paper": VIT_PUBLISHED["B"],
}

ACROSS: dict[Size, int] = {"xs": 4, "s": 4, "m": 8, "paper": 14}  # patches a side

STEPS["classifier"] = {
    "xs": Plan(steps=300, batch=32, rate=2e-3, ema=0.98),
    "s": Plan(steps=13_000, batch=64, rate=2e-3, betas=(0.9, 0.99), decay=0.05, warmup=0.1, floor=0.0, ema=0.998),
    "m": Plan(steps=100_000, batch=512, rate=1e-3, betas=(0.9, 0.999), decay=0.05, warmup=0.05, floor=0.0, ema=0.9998),
    # table 3: ImageNet alone, 300 epochs of 1,281,167 in batches of 4096, 10,000 steps of warm-up
    "paper": Plan(
        steps=93_835, batch=4096, rate=3e-3, betas=(0.9, 0.999), decay=0.3, warmup=10_000 / 93_835, floor=0.0, ema=0.0
    ),
}
