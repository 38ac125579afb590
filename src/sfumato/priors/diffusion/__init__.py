"""Diffusion: a path to noise, what the network predicts, how to walk back, and how likely a latent is."""

from sfumato.priors.diffusion.diffusion import Diffusion
from sfumato.priors.diffusion.path import EDM, Path, Rectified, Tabulated, cosine, linear, scaled_linear

__all__ = ["EDM", "Diffusion", "Path", "Rectified", "Tabulated", "cosine", "linear", "scaled_linear"]
