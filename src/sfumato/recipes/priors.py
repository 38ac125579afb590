"""Priors by name, over whatever latent they are given: the second half of CODEC+PRIOR, and of recipes over latents.

A `Choice` builds one prior for a space, at a size, for a condition's open doors. The published recipes are rows too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sfumato.core.contracts import Codec, Prior
from sfumato.core.errors import Misfit
from sfumato.core.registry import Registry
from sfumato.core.space import Grid, Space, Tokens
from sfumato.likelihoods import Categorical
from sfumato.priors.autoregressive import Autoregressive
from sfumato.priors.diffusion import Diffusion, Rectified, scaled_linear
from sfumato.recipes.adversarial import game
from sfumato.recipes.given import Doors
from sfumato.recipes.networks import causal, unet
from sfumato.recipes.networks import dit as dit_net
from sfumato.recipes.sizes import DIT, LATENT_UNET, TOKEN_GPT, Size


@dataclass(frozen=True)
class Choice:
    """spaces: the kinds of latent that it models. plan: the row of sizes.STEPS by which it is trained. attended:
    whether labels go to its cross-attention instead of to the modulating vector."""

    build: Callable[[Space, Size, Doors], Prior]
    spaces: tuple[type, ...]
    plan: str
    attended: bool = False


PRIORS: Registry[Choice] = Registry("prior")
YIELD = {Grid: "dae, vae", Tokens: "vqvae, dvae, fsq, vqgan"}  # the codecs that are usual for a kind of latent


def prior_over(name: str, codec: Codec, size: Size, doors: Doors) -> Prior:
    """The prior over the codec's latents; Misfit, with those that would do, where it does not model their kind."""
    choice = PRIORS[name]
    if isinstance(codec.space, choice.spaces):
        return choice.build(codec.space, size, doors)
    accepted = " or ".join(kind.__name__ for kind in choice.spaces)
    fitting = ", ".join(other for other, c in PRIORS.items() if isinstance(codec.space, c.spaces))
    raise Misfit(
        f"{name!r} models {accepted}, but {type(codec).__name__} yields {codec.space}. "
        f"Choose a prior for that kind of latent ({fitting}), or a codec for this one "
        f"(--codec {' or '.join(YIELD[kind] for kind in choice.spaces if kind in YIELD)})."
    )


def _unet_diffusion(space: Space, size: Size, doors: Doors) -> Prior:
    assert isinstance(space, Grid)
    net = unet(LATENT_UNET[size], space.channels, space.channels, doors)
    return Diffusion(space, net, path=scaled_linear(), target="v", levels=1000, steps=25)


def _dit_diffusion(space: Space, size: Size, doors: Doors) -> Prior:
    assert isinstance(space, Grid)
    patch = 2 if size in ("m", "paper") and space.height % 2 == space.width % 2 == 0 else 1
    net = dit_net(DIT[size], space, space.channels, doors, patch)
    path = Rectified(logit_normal=(0.0, 1.0))
    return Diffusion(space, net, path=path, target="velocity", steps=25, solver="heun")


def _autoregressive(space: Space, size: Size, doors: Doors) -> Prior:
    assert isinstance(space, Tokens)
    return Autoregressive(space, causal(TOKEN_GPT[size], space, doors), Categorical(space.vocab))


def _gan(space: Space, size: Size, doors: Doors) -> Prior:
    assert isinstance(space, Grid)
    return game("modern", size, space, doors, pictures=False)


PRIORS.add("diffusion")(Choice(_unet_diffusion, (Grid,), "diffusion", attended=True))
PRIORS.add("dit")(Choice(_dit_diffusion, (Grid,), "diffusion"))
PRIORS.add("autoregressive")(Choice(_autoregressive, (Tokens,), "autoregressive"))
PRIORS.add("gan")(Choice(_gan, (Grid,), "adversarial"))
