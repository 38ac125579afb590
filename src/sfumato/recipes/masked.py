"""Recipes whose prior fills in what is hidden: maskgit over tokens, mar over continuous latents."""

from __future__ import annotations

from sfumato.core.space import Grid, Tokens
from sfumato.recipes.latents import over, published_classes
from sfumato.recipes.sizes import Size, planner
from sfumato.recipes.table import add
from sfumato.systems import System


@add("maskgit", planner("masked"))
def maskgit(
    size: Size = "s",
    side: int | None = None,
    channels: int = 3,
    classes: int | None = None,
    text: bool = False,
    codec: str = "vqvae",
) -> System:
    """The tokens of a quantising autoencoder, filled in a few steps, the surest ones first (arXiv:2202.04200)."""
    classes = published_classes(size, classes, text)
    return over("masked", codec, size, side, channels, classes, text, "maskgit", only=(Tokens,))


@add("mar", planner("mar"))
def mar(
    size: Size = "s",
    side: int | None = None,
    channels: int = 3,
    classes: int | None = None,
    text: bool = False,
    codec: str = "vae",
) -> System:
    """Continuous latents, filled in in random order, each drawn by a small diffusion of its own (arXiv:2406.11838)."""
    classes = published_classes(size, classes, text)
    return over("masked", codec, size, side, channels, classes, text, "mar", only=(Grid,))
