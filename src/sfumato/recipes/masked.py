"""Recipes whose prior fills in what is hidden: maskgit over tokens, mar over continuous latents."""

from __future__ import annotations

from sfumato.core.space import Grid, Tokens
from sfumato.recipes.frame import Frame
from sfumato.recipes.latents import over
from sfumato.recipes.sizes import planner
from sfumato.recipes.table import add
from sfumato.systems import System


@add("maskgit", planner("masked"))
def maskgit(frame: Frame, codec: str = "vqvae") -> System:
    """The tokens of a quantising autoencoder, filled in a few steps, the surest ones first (arXiv:2202.04200)."""
    return over("masked", codec, frame.published(), "maskgit", only=(Tokens,))


@add("mar", planner("mar"))
def mar(frame: Frame, codec: str = "vae") -> System:
    """Continuous latents, filled in in random order, each drawn by a small diffusion of its own (arXiv:2406.11838)."""
    return over("masked", codec, frame.published(), "mar", only=(Grid,))
