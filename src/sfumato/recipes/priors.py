"""Priors by name, over whatever latent they are given: the second half of CODEC+PRIOR, and of recipes over latents.

A `Choice` builds one prior for a space, at a size, for a condition's open doors. The published recipes are rows too.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from sfumato.core.contracts import Codec, Prior
from sfumato.core.errors import Misfit, UsageError
from sfumato.core.registry import Registry
from sfumato.core.space import Grid, Sequence, Space, Tokens, rows
from sfumato.likelihoods import Categorical, DiscretisedLogisticMixture, Mixture, Normal
from sfumato.priors.autoregressive import Autoregressive
from sfumato.priors.diffusion import Diffusion, Rectified, cosine, scaled_linear
from sfumato.priors.flow import Flow
from sfumato.priors.hierarchical import Hierarchical
from sfumato.priors.masked import Masked
from sfumato.recipes.adversarial import game
from sfumato.recipes.given import Doors
from sfumato.recipes.networks import causal, glow, ladder, masked, unet, vector_net
from sfumato.recipes.networks import dit as dit_net
from sfumato.recipes.sizes import DEEP_VAE, DIT, GLOW, HEAD, LATENT_UNET, MASKED, TOKEN_GPT, VDVAE, Rungs, Size, Trunk

Order = Literal["raster", "column", "snake", "halton", "random", "any"]  # priors.orders, and all of them
Attention = Literal["full", "sparse"]
VectorHead = Literal["mixture", "diffusion"]
Build = Callable[[Space, Size, Doors], Prior]
NOISE = 0.3  # its largest deviation where a chain reads vectors, of unit variance: 0.1 to 0.3 in docs/studies/ar_noise


@dataclass(frozen=True)
class Choice:
    """spaces: the kinds of latent that it models. plan: the row of sizes.STEPS by which it is trained. attended:
    whether labels go to its cross-attention instead of to the modulating vector. values: what is built instead over
    8-bit values on a grid, of which a prior must say probabilities and no density."""

    build: Build
    spaces: tuple[type, ...]
    plan: str
    attended: bool = False
    values: Build | None = None

    @property
    def summary(self) -> str:
        """The first sentence of what the builder says of itself, and of what it models."""
        kinds = " or ".join(kind.__name__ for kind in self.spaces)
        return f"{(inspect.getdoc(self.build) or '').split(' (arXiv')[0]} [{kinds}]"

    @property
    def source(self) -> str:
        return (inspect.getdoc(self.build) or "").rpartition("(")[2].rstrip(").")


PRIORS: Registry[Choice] = Registry("prior")
YIELD = {Grid: "dae, vae", Tokens: "vqvae, dvae, fsq, vqgan"}  # the codecs that are usual for a kind of latent


def prior_over(
    name: str,
    codec: Codec,
    size: Size,
    doors: Doors,
    only: tuple[type, ...] | None = None,
    recipe: str = "",
    made: Build | None = None,
) -> Prior:
    """The prior over the codec's latents; Misfit, with those that would do, where it does not model their kind. A
    recipe may be for `only` some of the kinds that its prior models, and have it `made` in a way of its own."""
    choice = PRIORS[name]
    spaces = choice.spaces if only is None else only
    if isinstance(codec.space, spaces):
        usual = choice.values if codec.of_values and choice.values is not None else choice.build
        return (made or usual)(codec.space, size, doors)
    accepted = " or ".join(kind.__name__ for kind in spaces)
    fitting = ", ".join(other for other, c in PRIORS.items() if isinstance(codec.space, c.spaces))
    raise Misfit(
        f"{recipe or name!r} models {accepted}, but {type(codec).__name__} yields {codec.space}. "
        f"Choose a prior for that kind of latent ({fitting}), or a codec for this one "
        f"(--codec {' or '.join(YIELD[kind] for kind in spaces if kind in YIELD)})."
    )


def _unet_diffusion(space: Space, size: Size, doors: Doors, eight_bit: bool = False) -> Prior:
    """A U-Net that takes noise away, level by level (arXiv:2112.10752)."""
    assert isinstance(space, Grid)
    net = unet(LATENT_UNET[size], space.channels, space.channels, doors)
    return Diffusion(space, net, path=scaled_linear(), target="v", levels=1000, steps=25, eight_bit=eight_bit)


def _dit_diffusion(space: Space, size: Size, doors: Doors, eight_bit: bool = False) -> Prior:
    """A transformer that takes noise away, on straight paths (arXiv:2212.09748)."""
    assert isinstance(space, Grid)
    patch = 2 if size in ("m", "paper") and space.height % 2 == space.width % 2 == 0 else 1
    net = dit_net(DIT[size], space, space.channels, doors, patch)
    path = Rectified(logit_normal=(0.0, 1.0))
    return Diffusion(space, net, path=path, target="velocity", steps=25, solver="heun", eight_bit=eight_bit)


def chain(
    space: Space,
    dims: Trunk,
    doors: Doors,
    order: Order = "raster",
    attention: Attention = "full",
    head: Diffusion | None = None,
) -> Autoregressive:
    """A causal transformer and its head: for tokens their logits, for vectors a mixture of Gaussians, or the diffusion
    that is given, told as many features as the transformer is wide."""
    line = rows(space)
    options: dict[str, Any] = sparse(line, order, dims.depth) if attention == "sparse" else {}
    if isinstance(line, Tokens):
        net = causal(dims, line, doors, orders=order == "any", **options)
        return Autoregressive(space, net, Categorical(line.vocab), order=order)
    mixture = Mixture()
    features = (mixture.channels(line.width) if head is None else dims.width) + line.varying
    net = causal(dims, line, doors, features, orders=order == "any", **options)
    return Autoregressive(space, net, head or mixture, order=order, corrupt=NOISE, repeats=4)


def sparse(line: Tokens | Sequence, order: Order, depth: int) -> dict[str, Any]:
    """DALL·E's attention, as options of the net: every fourth layer looks along columns, the last at a neighbourhood,
    the others along rows (arXiv:2102.12092, appendix B)."""
    if line.layout is None or order not in ("raster", "column"):
        raise UsageError(
            f"Sparse attention looks along the lines of a plane, which {line} in the order {order!r} does not offer. "
            "Take --attention full, or a latent with rows and columns in the order raster or column."
        )
    patterns = [("row", "column", "row", "row")[i % 4] for i in range(depth)]
    return {"patterns": [*patterns[:-1], "convolution"], "line": line.layout[1 if order == "raster" else 0]}


def autoregressive(
    space: Space,
    size: Size,
    doors: Doors,
    order: Order = "raster",
    attention: Attention = "full",
    head: VectorHead = "mixture",
) -> Prior:
    """One position after another, by a causal transformer (arXiv:2012.09841)."""
    line, dims = rows(space), TOKEN_GPT[size]
    own = None if isinstance(line, Tokens) or head == "mixture" else token_diffusion(size, line, dims.width)
    return chain(space, dims, doors, order, attention, own)


def _masked(space: Space, size: Size, doors: Doors) -> Prior:
    """Positions filled in a few at a time, by a transformer that sees them all (arXiv:2202.04200)."""
    line, dropout = rows(space), 0.1 if size == "paper" else 0.0
    if isinstance(line, Tokens):
        net = masked(MASKED[size], line, doors, dropout=dropout)
        return Masked(space, net, Categorical(line.vocab), smoothing=0.1, steps=8)
    width = MASKED[size].width
    net = masked(MASKED[size], line, doors, features=width, dropout=dropout)
    masking = "mar" if size == "paper" else "cosine"  # MAR never hides less than 0.7, but an edit may hide little
    steps = max(line.length // 4, 8)  # 64 of 256, as in MAR's own default
    return Masked(space, net, token_diffusion(size, line, width), masking=masking, steps=steps, repeats=4)


def token_diffusion(size: Size, line: Sequence, features: int) -> Diffusion:
    """MAR's head: a diffusion of one position, given the features that a net has for it."""
    net = vector_net(HEAD[size], line, features, line.width)
    return Diffusion(Sequence(1, line.width), net, path=cosine(), target="v", levels=1000, steps=25, points=16)


def _hierarchical(space: Space, size: Size, doors: Doors) -> Prior:
    """A deep VAE: stochastic layers from coarse to fine, drawn in one pass (arXiv:2303.13714)."""
    assert isinstance(space, Grid)
    likelihood = Normal("element")
    net = ladder(DEEP_VAE[size], space, likelihood.channels(space.channels), doors)
    # σ, λ, the reach and (for its 48 layers) the schedule's 1000 are the paper's; fewer layers want a flatter schedule
    spread = 1000 if size == "paper" else 100
    return Hierarchical(space, net, likelihood, sigma=0.07, spread=spread, spectral=0.1, reach=4)


def pixel_ladder(dims: Rungs, space: Grid, doors: Doors, components: int = 10) -> Hierarchical:
    """VDVAE's prior over 8-bit values, at any of its published sizes (sizes.VDVAE_PUBLISHED)."""
    likelihood = DiscretisedLogisticMixture(components)
    net = ladder(dims, space, likelihood.channels(space.channels), doors)
    return Hierarchical(space, net, likelihood, parametrisation="log-sigma", draw=True)


def _hierarchical_values(space: Space, size: Size, doors: Doors) -> Prior:
    assert isinstance(space, Grid)
    return pixel_ladder(VDVAE[size], space, doors)


def _flow(space: Space, size: Size, doors: Doors) -> Prior:
    """Glow: an invertible network, with an exact density (arXiv:1807.03039)."""
    assert isinstance(space, Grid)
    return Flow(space, glow(GLOW[size], space, doors))


def adversarial(space: Space, size: Size, doors: Doors, augment: bool = False) -> Prior:
    """A generator against a critic, drawn in one pass (arXiv:2501.05441)."""
    assert isinstance(space, Grid)
    return game("modern", size, space, doors, pictures=False, augment=augment)


_unet_values, _dit_values = (partial(build, eight_bit=True) for build in (_unet_diffusion, _dit_diffusion))
PRIORS.add("diffusion")(Choice(_unet_diffusion, (Grid,), "diffusion", attended=True, values=_unet_values))
PRIORS.add("dit")(Choice(_dit_diffusion, (Grid,), "diffusion", values=_dit_values))
PRIORS.add("hierarchical")(Choice(_hierarchical, (Grid,), "hierarchical", values=_hierarchical_values))
PRIORS.add("flow")(Choice(_flow, (Grid,), "flow"))
PRIORS.add("autoregressive")(Choice(autoregressive, (Tokens, Grid), "autoregressive"))
PRIORS.add("masked")(Choice(_masked, (Tokens, Grid), "masked"))
PRIORS.add("gan")(Choice(adversarial, (Grid,), "adversarial"))
