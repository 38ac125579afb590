"""Recipes whose latent is the picture itself: ddpm, edm, rectified-flow, pixel-ar, and a cascade of two ddpms."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from sfumato.codecs.pixels import Pixels
from sfumato.conditioners import Picture, Several
from sfumato.priors.diffusion import EDM, Diffusion, Rectified, cosine, linear
from sfumato.recipes.frame import Frame
from sfumato.recipes.given import given
from sfumato.recipes.networks import unet
from sfumato.recipes.priors import Attention, Order, chain
from sfumato.recipes.sizes import PIXEL_GPT, PIXEL_UNET, Size, planner
from sfumato.recipes.table import add
from sfumato.systems import Cascade, System


def _halvings(size: Size) -> int:
    return 2 ** (len(PIXEL_UNET[size].mults) - 1)  # what else divides no side, a net meets with a margin


@add("ddpm", planner("diffusion"))
def ddpm(frame: Frame, schedule: Literal["linear", "cosine", "learned"] = "linear") -> System:
    """Denoising diffusion on pixels: a U-Net learns to tell the noise of 1000 levels (arXiv:2006.11239).

    "cosine" is the schedule and "learned" the cosine schedule with a learned variance of improved DDPM
    (arXiv:2102.09672).
    """
    space = frame.grid(_halvings(frame.size), paper=32)
    conditioner, doors = given(frame)
    learned = schedule == "learned"
    prior = Diffusion(
        space,
        unet(PIXEL_UNET[frame.size], frame.channels, frame.channels * (1 + learned), doors),
        path=linear() if schedule == "linear" else cosine(),
        target="noise",
        levels=1000,
        learned_variance=learned,
        clamp="static",
        solver="sde-dpm++2m",  # at 8 steps as near as DDIM at 50, and nearer than ancestral at 8: studies/few_steps.py
        estimate="steps",
        eight_bit=True,
    )
    return System(Pixels(space, "values"), prior, conditioner)


@add("edm", planner("diffusion"))
def edm(frame: Frame) -> System:
    """Diffusion with noise added to unscaled pixels, and a network conditioned to unit variance (arXiv:2206.00364)."""
    space = frame.grid(_halvings(frame.size), paper=32)
    conditioner, doors = given(frame)
    net = unet(PIXEL_UNET[frame.size], frame.channels, frame.channels, doors)
    prior = Diffusion(space, net, path=EDM(), target="edm", weighting="edm", steps=18, solver="heun")
    return System(Pixels(space), prior, conditioner)


@add("rectified-flow", planner("diffusion"))
def rectified_flow(frame: Frame) -> System:
    """Straight lines between noise and pixels, whose velocity a U-Net learns (arXiv:2209.03003, arXiv:2210.02747)."""
    space = frame.grid(_halvings(frame.size), paper=32)
    conditioner, doors = given(frame)
    net = unet(PIXEL_UNET[frame.size], frame.channels, frame.channels, doors)
    path = Rectified(logit_normal=(0.0, 1.0))  # times near the middle teach most, arXiv:2403.03206
    prior = Diffusion(space, net, path=path, target="velocity", steps=25, solver="heun")
    return System(Pixels(space), prior, conditioner)


@add("pixel-ar", planner("autoregressive"))
def pixel_ar(frame: Frame, levels: int = 256, order: Order = "raster", attention: Attention = "full") -> System:
    """Image GPT: the values of the pixels one after another, by a causal transformer (Chen et al. 2020).

    Fewer `levels` are coarser colours: quicker to learn, and no longer a likelihood of the 8-bit picture. Trained in
    the order "any", it fills a hole having seen all that is around it (arXiv:2404.09562). "sparse" attention looks
    along rows and columns, and costs less where pictures are large (arXiv:1904.10509, arXiv:2102.12092).
    """
    codec = Pixels(frame.grid(paper=32), "tokens", levels=levels)
    conditioner, doors = given(frame)
    return System(codec, chain(codec.space, PIXEL_GPT[frame.size], doors, order, attention), conditioner)


@add("cascade", planner("diffusion"))
def cascade(frame: Frame, factor: int = 2) -> Cascade:
    """A small picture by one diffusion model, then a larger one by another that sees it (arXiv:2106.15282)."""
    space = frame.grid(_halvings(frame.size) * factor, paper=64)
    small = ddpm(replace(frame, side=space.height // factor), "cosine")
    picture = Picture(frame.channels, (space.height, space.width), "low", factor)
    said, doors = given(frame)
    net = unet(PIXEL_UNET[frame.size], frame.channels, frame.channels, doors, grid=picture.channels)
    prior = Diffusion(space, net, path=cosine(), target="v", levels=1000, clamp="static")
    conditioner = picture if said is None else Several(picture, said)
    return Cascade(small=small, large=System(Pixels(space), prior, conditioner))
