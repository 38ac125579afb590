"""Recipes whose prior is a normalising flow: glow over pixels, latent-glow over an autoencoder's latents."""

from __future__ import annotations

from typing import Literal

from sfumato.codecs.pixels import Pixels
from sfumato.core.space import Grid
from sfumato.priors.flow import Flow
from sfumato.recipes import networks
from sfumato.recipes.given import given
from sfumato.recipes.latents import over
from sfumato.recipes.sizes import GLOW, Size, planner, side_for
from sfumato.recipes.table import add
from sfumato.systems import System


@add("glow", planner("flow"))
def glow(
    size: Size = "s",
    side: int | None = None,
    channels: int = 3,
    classes: int = 0,
    text: bool = False,
    coupling: Literal["affine", "additive", "spline"] = "affine",
) -> System:
    """Glow: an invertible network takes pixels to Gaussian noise, with an exact density (arXiv:1807.03039).

    "spline" bends each value by a rational-quadratic spline instead of a scale and a shift (arXiv:1906.04032).
    """
    space = Grid(channels, *[side_for(size, side, paper=32)] * 2)
    conditioner, doors = given(size, classes, text)
    prior = Flow(space, networks.glow(GLOW[size], space, doors, coupling))
    return System(Pixels(space, "dequantised"), prior, conditioner)


@add("latent-glow", planner("flow"))
def latent_glow(
    size: Size = "s",
    side: int | None = None,
    channels: int = 3,
    classes: int = 0,
    text: bool = False,
    codec: str = "vae",
) -> System:
    """Glow over the latents of an autoencoder instead of over pixels (arXiv:1807.03039, after arXiv:1611.02731)."""
    return over("flow", codec, size, side, channels, classes, text)
