"""Hierarchical VAEs: vdvae on pixels, deep-vae over the latents of an autoencoder.

recipe     codec             ladder       p(x | z)                        layers' σ    also
vdvae      Pixels (values)   bottleneck   discretised logistic mixture    log-sigma    –
deep-vae   dae (a dial)      expansion    Normal, with a zeroth layer     softplus     rate schedule, spectral term
"""

from __future__ import annotations

from sfumato.codecs.pixels import Pixels
from sfumato.recipes.frame import Frame
from sfumato.recipes.given import given
from sfumato.recipes.latents import over
from sfumato.recipes.priors import pixel_ladder
from sfumato.recipes.sizes import VDVAE, VDVAE_PUBLISHED, planner
from sfumato.recipes.table import add
from sfumato.systems import System


@add("vdvae", planner("hierarchical"))
def vdvae(frame: Frame) -> System:
    """A very deep VAE: pixels from latents on a ladder of resolutions, in one pass (arXiv:2011.10650)."""
    space = frame.grid(paper=32)
    conditioner, doors = given(frame)
    dims = VDVAE_PUBLISHED["imagenet64"] if frame.size == "paper" and space.height >= 64 else VDVAE[frame.size]
    return System(Pixels(space, "values"), pixel_ladder(dims, space, doors), conditioner)


@add("deep-vae", planner("hierarchical"))
def deep_vae(frame: Frame, codec: str = "dae") -> System:
    """A deep VAE over latents, whose Gaussian layers are guided towards the condition (arXiv:2303.13714)."""
    return over("hierarchical", codec, frame.published(), "deep-vae")
