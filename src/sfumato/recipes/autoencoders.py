"""Recipes that learn a latent space: one autoencoder, with another bottleneck each time.

recipe   bottleneck            likelihood              prior until one is trained
ae       Open                  Laplace                 –
dae      Open + noise          Laplace                 –
vae      Gaussian              Normal, learned σ       Normal
vqvae    Codebook              Normal, learned σ       Uniform
dvae     Gumbel                LogitLaplace            Uniform
fsq      Finite                Normal, learned σ       Uniform
vqgan    Codebook + critic     Laplace + perceptual    Uniform
vq-reg   Codebook, unlooked    Laplace                 –
"""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from sfumato.codecs.autoencoder import AutoEncoder, Start
from sfumato.codecs.bottlenecks import Bottleneck, Finite, Gaussian, Gumbel, Open
from sfumato.codecs.codebook import Codebook
from sfumato.core.errors import UsageError
from sfumato.core.space import Grid
from sfumato.likelihoods import Laplace, Likelihood, LogitLaplace, Normal
from sfumato.losses import perceptual
from sfumato.nn.pictures.pyramid import Decoder, Encoder
from sfumato.nn.players.critic import Critic
from sfumato.priors.normal import Normal as NormalPrior
from sfumato.priors.normal import Uniform
from sfumato.recipes.dials import MOST_CODES
from sfumato.recipes.frame import PICTURES, Frame
from sfumato.recipes.sizes import MULTS, PYRAMID, planner
from sfumato.recipes.table import add, shown
from sfumato.systems import System


def autoencoder(
    frame: Frame,
    factor: int,
    bottleneck: Bottleneck,
    likelihood: Likelihood,
    width: int | None = None,
    **parts: Any,
) -> AutoEncoder:
    """A pyramid around a bottleneck. `width` is what encoder and decoder exchange with it: the latent's by default."""
    if factor not in MULTS:
        raise UsageError(f"A factor of {factor} is not known; take one of {', '.join(map(str, MULTS))}.")
    data, dims, channels = frame.grid(factor), PYRAMID[frame.size], frame.channels
    side = data.height
    patch = min(dims.patch, factor)
    mults = MULTS[factor // patch]
    attention = tuple(dims.attention and side // (patch * 2**i) == 16 for i in range(len(mults)))
    width = bottleneck.width if width is None else width
    shape: dict[str, Any] = {
        "width": dims.width,
        "mults": mults,
        "blocks": dims.blocks,
        "attention": attention,
        "middle_attention": dims.attention,
        "patch": patch,
    }
    inward = bottleneck.inputs if width == bottleneck.width else width
    return AutoEncoder(
        Encoder(channels, inward, **shape),
        Decoder(width, likelihood.channels(channels), **shape),
        bottleneck,
        likelihood,
        data,
        layout=(side // factor, side // factor),
        channels=(inward, width),
        last=_last,
        **parts,
    )


def _last(decoder: nn.Module) -> nn.Parameter:
    assert isinstance(decoder, Decoder)
    return decoder.last  # type: ignore[return-value]  # a property of a Module counts as a Tensor


@add("ae", planner("codec"), PICTURES)
def ae(frame: Frame, factor: int = 4, depth: int = 4) -> System:
    """A plain autoencoder: the latent is whatever reconstructs best (Hinton & Salakhutdinov 2006)."""
    return System(autoencoder(frame, factor, Open(depth), Laplace()))


@add("dae", planner("codec"), PICTURES)
def dae(frame: Frame, factor: int = 4, depth: int = 4, noise: float = 0.1) -> System:
    """A deterministic autoencoder whose latents bear a little noise, made for a second stage (arXiv:2112.10752, §3.1).

    `noise` is in deviations of the latents: a prior that errs by as much still decodes well.
    """
    return System(autoencoder(frame, factor, Open(depth, noise), Laplace()))


@add("vae", planner("codec"), PICTURES)
def vae(frame: Frame, factor: int = 8, depth: int = 16, beta: float = 1.0) -> System:
    """A variational autoencoder: latents near N(0, I), and a bound on log p(x) (arXiv:1312.6114)."""
    codec = autoencoder(frame, factor, Gaussian(depth, beta), Normal())
    assert isinstance(codec.space, Grid)
    return System(codec, NormalPrior(codec.space))


@add("vqvae", planner("codec"), PICTURES)
def vqvae(frame: Frame, factor: int = 4, codes: int = 512, depth: int = 32) -> System:
    """A vector-quantised autoencoder: each position is one of `codes` learned vectors (arXiv:1711.00937)."""
    return _with_uniform(autoencoder(frame, factor, Codebook(codes, depth), Normal()))


@add("vq-reg", planner("codec"), PICTURES)
def vq_reg(frame: Frame, factor: int = 4, codes: int = 1024, depth: int = 4) -> System:
    """An autoencoder that quantises as it decodes: its latent is what stands before the lookup (arXiv:2112.10752).

    A prior over it models continuous numbers, each of which is decoded as its nearest code.
    """
    return System(autoencoder(frame, factor, Codebook(codes, depth, features=True), Laplace()))


@add("dvae", planner("codec", codec="relaxed"), PICTURES)
def dvae(frame: Frame, factor: int = 4, codes: int = 512, beta: float = 6.6) -> System:
    """DALL·E's discrete autoencoder: relaxed categoricals, logit-Laplace pixels (arXiv:2102.12092)."""
    # The paper's 6.6 weighs a position that stands for 192 data dimensions; per dimension the cost stays what it was.
    bottleneck = Gumbel(codes, 128, beta=beta * frame.channels * factor**2 / 192)
    return _with_uniform(autoencoder(frame, factor, bottleneck, LogitLaplace(floor=0.3), width=128))


@add("fsq", planner("codec"), PICTURES)
def fsq(frame: Frame, factor: int = 4, levels: str = "8,5,5,5") -> System:
    """Finite scalar quantisation: a few channels, each rounded to a few levels; no codebook (arXiv:2309.15505)."""
    try:
        numbers = tuple(int(level) for level in levels.split(","))
        fits = min(numbers) >= 2 and len(numbers) <= 64 and math.prod(numbers) <= MOST_CODES
    except ValueError:
        fits = False
    if not fits:
        raise UsageError(
            f"--levels takes numbers of at least 2 with commas between, such as 8,5,5,5, whose product is at most "
            f"{MOST_CODES:,}, not {shown(levels)}."
        )
    return _with_uniform(autoencoder(frame, factor, Finite(numbers), Normal()))


@add("vqgan", planner("codec"), PICTURES)
def vqgan(frame: Frame, factor: int | None = None, codes: int = 1024, depth: int | None = None) -> System:
    """A VQ-VAE that a critic and a perceptual distance keep sharp (arXiv:2012.09841).

    Without LPIPS weights at hand (package stlpips-pytorch, or a path) it trains without the perceptual term and warns.
    """
    paper = frame.size == "paper"
    factor = (16 if paper else 4) if factor is None else factor
    depth = (256 if paper else 32) if depth is None else depth
    narrow = frame.size in ("xs", "s")
    critic = Critic(frame.channels, width=32 if narrow else 64, layers=2 if frame.side_by() < 64 else 3)
    codec = autoencoder(
        frame,
        factor,
        Codebook(codes, depth),
        Laplace(),
        critic=critic,
        perceptual=perceptual(),
        start=Start(),
    )
    return _with_uniform(codec)


def _with_uniform(codec: AutoEncoder) -> System:
    return System(codec, Uniform(codec.space))  # type: ignore[arg-type]
