"""Every image generator of the literature as a composition of a latent space, a prior over it and a condition."""

from sfumato.version import VERSION as __version__

__all__ = ["__version__"]
