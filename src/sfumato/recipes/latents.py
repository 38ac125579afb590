"""Recipes over a learned latent space: ldm, dit, vq-ar. Their codec is named by a dial.

The dial `codec` is the name of an autoencoder's recipe, which is then built with the same size, side and channels; or
JSON {"name": …, "dials": …}, as recipe.json keeps it when the codec came from another run (`--from codec=RUN`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sfumato.core.contracts import Codec
from sfumato.core.errors import Misfit, UsageError
from sfumato.core.space import Grid, Tokens
from sfumato.likelihoods import Categorical
from sfumato.priors.autoregressive import Autoregressive
from sfumato.priors.diffusion import Diffusion, Rectified, scaled_linear
from sfumato.recipes.given import given
from sfumato.recipes.networks import causal, unet
from sfumato.recipes.networks import dit as dit_net
from sfumato.recipes.sizes import DIT, LATENT_UNET, TOKEN_GPT, Size, planner
from sfumato.recipes.table import add, build
from sfumato.systems import System

# How a codec serves a second stage when only its name is given: 32 × 32 pixels become 8 × 8 positions, except where a
# published model says otherwise.
SERVES: dict[str, dict[str, Any]] = {
    "ae": {"factor": 4, "depth": 8},
    "dae": {"factor": 4, "depth": 8},
    "vae": {"factor": 4, "depth": 8, "beta": 1e-3},
}
PAPER: dict[str, dict[str, Any]] = {
    "ldm": {"factor": 4, "depth": 3},  # latent-diffusion cin256-v2: f = 4, three channels
    "dit": {"factor": 8, "depth": 4},  # DiT's Stable Diffusion autoencoder
}


def codec_of(spec: str, size: Size, side: int | None, channels: int, paper: str | None = None) -> Codec:
    """The codec that the dial names. Raises UsageError when it is no autoencoder's recipe."""
    if spec.lstrip().startswith("{"):
        try:
            written = json.loads(spec)
            name, dials = written["name"], dict(written["dials"])
        except (ValueError, KeyError, TypeError):
            raise UsageError('--codec takes a name, or JSON {"name": …, "dials": {…}}.') from None
        # what is written down wins, but a picture's shape asked for beside it must agree
        asked = {"side": side, "channels": channels}
        for key, value in asked.items():
            if value is not None and dials.get(key) not in (None, value):
                raise UsageError(f"The codec was trained with --{key} {dials[key]}, but {value} is asked for here.")
    else:
        name = spec
        dials = {"size": size, "side": side, "channels": channels}
        dials |= _serving(spec, size, paper)
    system = build(name, **dials)
    if not isinstance(system, System) or not system.codec.learned:
        raise UsageError(f"{name!r} does not learn a codec. Take ae, dae, vae, vqvae, dvae, fsq or vqgan.")
    return system.codec


def codec_spec(recipe: Mapping[str, Any]) -> str:
    """What the dial `codec` must say to build the codec of another run, whose recipe is {"name": …, "dials": …}."""
    dials = dict(recipe["dials"])
    if "codec" not in dials:
        return json.dumps({"name": recipe["name"], "dials": dials})
    spec = dials["codec"]
    if spec.lstrip().startswith("{"):
        return spec
    shared = {key: dials[key] for key in ("size", "side", "channels")}
    return json.dumps({"name": spec, "dials": shared | _serving(spec, dials["size"], recipe["name"])})


def _serving(name: str, size: Size, recipe: str | None) -> dict[str, Any]:
    if size == "paper" and recipe in PAPER and name in SERVES:
        return PAPER[recipe]
    return SERVES.get(name, {})


def _grid(codec: Codec, recipe: str) -> Grid:
    if not isinstance(codec.space, Grid):
        raise Misfit(
            f"{recipe} models continuous latents, and this codec yields {codec.space}. Take --codec dae or vae for it, "
            "or the recipe vq-ar for tokens."
        )
    return codec.space


def _published(size: Size, classes: int | None, text: bool) -> int:
    """Unasked, the published sizes are ImageNet's with its thousand classes; the others are unconditional."""
    if classes is None:
        return 1000 if size == "paper" and not text else 0
    return classes


@add("ldm", planner("diffusion"))
def ldm(
    size: Size = "s",
    side: int | None = None,
    channels: int = 3,
    classes: int | None = None,
    text: bool = False,
    codec: str = "dae",
) -> System:
    """Latent diffusion: an autoencoder makes pictures small, a U-Net denoises there (arXiv:2112.10752)."""
    first = codec_of(codec, size, side, channels, "ldm")
    space = _grid(first, "ldm")
    conditioner, doors = given(size, _published(size, classes, text), text, attended=True)
    net = unet(LATENT_UNET[size], space.channels, space.channels, doors)
    return System(first, Diffusion(space, net, path=scaled_linear(), target="v", levels=1000, steps=25), conditioner)


@add("dit", planner("diffusion"))
def dit(
    size: Size = "s",
    side: int | None = None,
    channels: int = 3,
    classes: int | None = None,
    text: bool = False,
    codec: str = "dae",
) -> System:
    """A diffusion transformer over latents, on straight paths (arXiv:2212.09748, arXiv:2401.08740)."""
    first = codec_of(codec, size, side, channels, "dit")
    space = _grid(first, "dit")
    conditioner, doors = given(size, _published(size, classes, text), text)
    patch = 2 if size in ("m", "paper") else 1
    net = dit_net(DIT[size], space, space.channels, doors, patch)
    path = Rectified(logit_normal=(0.0, 1.0))
    return System(first, Diffusion(space, net, path=path, target="velocity", steps=25, solver="heun"), conditioner)


@add("vq-ar", planner("autoregressive"))
def vq_ar(
    size: Size = "s",
    side: int | None = None,
    channels: int = 3,
    classes: int = 0,
    text: bool = False,
    codec: str = "vqvae",
) -> System:
    """The tokens of a quantising autoencoder one after another, by a causal transformer (arXiv:2012.09841)."""
    first = codec_of(codec, size, side, channels)
    if not isinstance(first.space, Tokens):
        raise Misfit(
            f"vq-ar models tokens, and this codec yields {first.space}. Take --codec vqvae, vqgan, dvae or fsq."
        )
    conditioner, doors = given(size, classes, text)
    net = causal(TOKEN_GPT[size], first.space, doors)
    prior = Autoregressive(first.space, net, Categorical(first.space.vocab))
    return System(first, prior, conditioner)
