"""Diffusion: a path to noise, what the network predicts, how to walk back, and how likely a latent is."""

from sfumato.priors.diffusion.diffusion import Diffusion
from sfumato.priors.diffusion.gamma import Held, Learned, LogLinear, Staggered
from sfumato.priors.diffusion.path import EDM, Path, Rectified, Tabulated, cosine, linear, scaled_linear

__all__ = [
    "EDM",
    "Diffusion",
    "Held",
    "Learned",
    "LogLinear",
    "Path",
    "Rectified",
    "Staggered",
    "Tabulated",
    "cosine",
    "linear",
    "scaled_linear",
]
