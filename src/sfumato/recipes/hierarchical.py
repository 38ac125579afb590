"""Hierarchical VAEs: vdvae on pixels, deep-vae over the latents of an autoencoder.

recipe     codec             ladder       p(x | z)                        layers' σ    also
vdvae      Pixels (values)   bottleneck   discretised logistic mixture    log-sigma    –
deep-vae   dae (a dial)      expansion    Normal, with a zeroth layer     softplus     rate schedule, spectral term
"""

from __future__ import annotations

from sfumato.codecs.pixels import Pixels
from sfumato.core.space import Grid
from sfumato.recipes.given import given
from sfumato.recipes.latents import over, published_classes
from sfumato.recipes.priors import pixel_ladder
from sfumato.recipes.sizes import VDVAE, VDVAE_PUBLISHED, Size, planner, side_for
from sfumato.recipes.table import add
from sfumato.systems import System


@add("vdvae", planner("hierarchical"))
def vdvae(size: Size = "s", side: int | None = None, channels: int = 3, classes: int = 0, text: bool = False) -> System:
    """A very deep VAE: pixels from latents on a ladder of resolutions, in one pass (arXiv:2011.10650)."""
    space = Grid(channels, *[side_for(size, side, paper=32)] * 2)
    conditioner, doors = given(size, classes, text)
    dims = VDVAE_PUBLISHED["imagenet64"] if size == "paper" and space.height >= 64 else VDVAE[size]
    return System(Pixels(space, "values"), pixel_ladder(dims, space, doors), conditioner)


@add("deep-vae", planner("hierarchical"))
def deep_vae(
    size: Size = "s",
    side: int | None = None,
    channels: int = 3,
    classes: int | None = None,
    text: bool = False,
    codec: str = "dae",
) -> System:
    """A deep VAE over latents, whose Gaussian layers are guided towards the condition (arXiv:2303.13714)."""
    return over("hierarchical", codec, size, side, channels, published_classes(size, classes, text), text, "deep-vae")
