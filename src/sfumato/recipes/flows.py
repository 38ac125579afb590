"""Recipes whose prior is a normalising flow: glow over pixels, latent-glow over an autoencoder's latents."""

from __future__ import annotations

from typing import Literal

from sfumato.codecs.pixels import Pixels
from sfumato.priors.flow import Flow
from sfumato.recipes import networks
from sfumato.recipes.frame import Frame
from sfumato.recipes.given import given
from sfumato.recipes.latents import over
from sfumato.recipes.sizes import GLOW, planner
from sfumato.recipes.table import add
from sfumato.systems import System


@add("glow", planner("flow"))
def glow(frame: Frame, coupling: Literal["affine", "additive", "spline"] = "affine") -> System:
    """Glow: an invertible network takes pixels to Gaussian noise, with an exact density (arXiv:1807.03039).

    "spline" bends each value by a rational-quadratic spline instead of a scale and a shift (arXiv:1906.04032).
    """
    space = frame.grid(paper=32)
    conditioner, doors = given(frame)
    prior = Flow(space, networks.glow(GLOW[frame.size], space, doors, coupling))
    return System(Pixels(space, "dequantised"), prior, conditioner)


@add("latent-glow", planner("flow"))
def latent_glow(frame: Frame, codec: str = "vae") -> System:
    """Glow over the latents of an autoencoder instead of over pixels (arXiv:1807.03039, after arXiv:1611.02731)."""
    return over("flow", codec, frame)
