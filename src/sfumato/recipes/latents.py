"""Recipes over a latent space: ldm, dit, vq-ar, latent-ar, latent-gan, and any other pair, CODEC+PRIOR. Their codec is
named by a dial.

The dial `codec` is the name of an autoencoder's recipe, which is then built with the same size, side and channels; a
way to read pixels (codecs/pixels.py); or JSON {"name": …, "dials": …}, as recipe.json keeps it when the codec came from
another run (`--from codec=RUN`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

from sfumato.codecs.pixels import Mode, Pixels
from sfumato.codecs.words import Words
from sfumato.core.contracts import Codec
from sfumato.core.errors import UsageError
from sfumato.core.space import Grid, Tokens
from sfumato.recipes.frame import PICTURES, Frame
from sfumato.recipes.given import given
from sfumato.recipes.priors import (
    PRIORS,
    Attention,
    Build,
    Order,
    VectorHead,
    adversarial,
    autoregressive,
    prior_over,
)
from sfumato.recipes.sizes import WORDS, Size, planner
from sfumato.recipes.table import RECIPES, Recipe, add, build
from sfumato.systems import System

LEARNED = ("ae", "dae", "vae", "vqvae", "dvae", "fsq", "vqgan", "vq-reg")
PIXELS: dict[str, Mode] = {"pixels": "raw", "values": "values", "dequantised": "dequantised", "tokens": "tokens"}
TEXTS = "words"  # the codec that reads texts
READINGS = {  # of pixels, as `sfumato list codecs` tells them
    "pixels": "pixels as numbers in [−1, 1]",
    "values": "pixels as 8-bit values on a grid, of which some priors say probabilities",
    "dequantised": "pixels with a little noise, so that 8-bit values have a density",
    "tokens": "each channel of each pixel as one of 256 tokens, in a row",
    "words": "texts as tokens, pieces of words that are learned from the texts",
}

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
    "deep-vae": {"factor": 8, "depth": 4},  # latent-vae's imagenet256_kl8, the same autoencoder
    "mar": {"factor": 16, "depth": 16},  # MAR's KL-16
    "maskgit": {"factor": 16, "codes": 1024, "depth": 256},  # MaskGIT's configuration: 16 × 16 tokens
    "vq-ar": {"factor": 16, "codes": 1024, "depth": 256},  # taming-transformers' f16
}
QUANTISED = ("vqvae", "vqgan")  # the autoencoders whose dials the last two name


def codec_of(spec: str, frame: Frame, paper: str | None = None) -> Codec:
    """The codec that the dial names. Raises UsageError when it is no autoencoder's recipe."""
    if spec.lstrip().startswith("{"):
        try:
            written = json.loads(spec)
            name, dials = written["name"], dict(written["dials"])
        except (ValueError, KeyError, TypeError):
            raise UsageError('--codec takes a name, or JSON {"name": …, "dials": {…}}.') from None
        # what is written down wins, but a picture's shape asked for beside it must agree
        asked = {"side": frame.side, "channels": frame.channels}
        for key, value in asked.items():
            if value is not None and dials.get(key) not in (None, value):
                raise UsageError(f"The codec was trained with --{key} {dials[key]}, but {value} is asked for here.")
    elif spec in PIXELS:
        return Pixels(frame.grid(), PIXELS[spec])
    else:
        name = spec
        dials = {key: getattr(frame, key) for key in PICTURES} | _serving(spec, frame.size, paper)
    system = build(name, **dials)
    if not isinstance(system, System) or not system.codec.learned:
        raise UsageError(f"{name!r} does not learn a codec. Take {', '.join(LEARNED)}, or {', '.join(PIXELS)}.")
    return system.codec


def codec_spec(recipe: Mapping[str, Any]) -> str:
    """What the dial `codec` must say to build the codec of another run, whose recipe is {"name": …, "dials": …}."""
    dials = dict(recipe["dials"])
    if "codec" not in dials:
        return json.dumps({"name": recipe["name"], "dials": dials})
    spec = dials["codec"]
    if spec.lstrip().startswith("{"):
        return spec
    shared = {key: dials[key] for key in PICTURES}
    return json.dumps({"name": spec, "dials": shared | _serving(spec, dials["size"], recipe["name"])})


def _serving(name: str, size: Size, recipe: str | None) -> dict[str, Any]:
    fits = name in (QUANTISED if recipe in ("maskgit", "vq-ar") else SERVES)
    if size == "paper" and recipe in PAPER and fits:
        return PAPER[recipe]
    return SERVES.get(name, {})


def over(
    prior: str,
    codec: str,
    frame: Frame,
    recipe: str | None = None,
    only: tuple[type, ...] | None = None,
    made: Build | None = None,
) -> System:
    """The named prior over the named codec's latents, given labels, captions, both or neither. `recipe` is the one
    whose published codec stands in at size "paper", `only` the kinds of latent that it is for, and `made` builds its
    prior with dials of its own."""
    first = codec_of(codec, frame, recipe)
    conditioner, doors = given(frame, attended=PRIORS[prior].attended)
    return System(first, prior_over(prior, first, frame.size, doors, only, recipe or "", made), conditioner)


@add("ldm", planner("diffusion"))
def ldm(frame: Frame, codec: str = "dae") -> System:
    """Latent diffusion: an autoencoder makes pictures small, a U-Net denoises there (arXiv:2112.10752)."""
    return over("diffusion", codec, frame.published(), "ldm")


@add("dit", planner("diffusion"))
def dit(frame: Frame, codec: str = "dae") -> System:
    """A diffusion transformer over latents, on straight paths (arXiv:2212.09748, arXiv:2401.08740)."""
    return over("dit", codec, frame.published(), "dit")


@add("vq-ar", planner("autoregressive"))
def vq_ar(frame: Frame, codec: str = "vqvae", order: Order = "raster", attention: Attention = "full") -> System:
    """The tokens of a quantising autoencoder one after another, by a causal transformer (arXiv:2012.09841).

    Trained in the order "any", it fills a hole having seen all that is around it, at some cost to each single order
    (arXiv:2404.09562). "sparse" attention is DALL·E's, along rows and columns (arXiv:2102.12092).
    """
    made = partial(autoregressive, order=order, attention=attention)
    return over("autoregressive", codec, frame, "vq-ar", (Tokens,), made)


@add("latent-ar", planner("autoregressive"))
def latent_ar(frame: Frame, codec: str = "vae", order: Order = "raster", head: VectorHead = "mixture") -> System:
    """Continuous latents one position after another, each a mixture of Gaussians (arXiv:2312.02116).

    The head "diffusion" draws each by a small diffusion instead, as MAR does, but causally (arXiv:2406.11838): it bends
    to any density, costs its steps at every position, and gives a bound where the mixture's likelihood is exact.
    """
    made = partial(autoregressive, order=order, head=head)
    return over("autoregressive", codec, frame, "latent-ar", (Grid,), made)


@add("latent-gan", planner("adversarial"))
def latent_gan(frame: Frame, codec: str = "dae", augment: bool = False) -> System:
    """An autoencoder makes pictures small, a generator draws there in one pass (arXiv:2501.05441, arXiv:2112.10752).

    With `augment` the critic sees latents moved and cut out, as small sets want it (arXiv:2006.10738).
    """
    return over("gan", codec, frame, made=partial(adversarial, augment=augment))


def words(frame: Frame, context: int | None = None) -> Words:
    """Texts as tokens, at most `context` of them, whose alphabet is learned from the texts."""
    vocab, length = WORDS[frame.size]
    return Words(vocab, length if context is None else context)


def composed(name: str) -> Recipe | None:
    """CODEC+PRIOR as a recipe, for the pairs that have no name of their own; None where there is no such codec."""
    codec_name, plus, prior = name.partition("+")
    if not plus or codec_name not in (*PIXELS, *LEARNED, TEXTS):
        return None
    PRIORS[prior]  # raises with the nearest
    if codec_name == TEXTS:

        def text(frame: Frame, context: int | None = None) -> System:
            codec = words(frame, context)
            conditioner, doors = given(frame, attended=PRIORS[prior].attended)
            return System(codec, prior_over(prior, codec, frame.size, doors), conditioner)

        text.__doc__ = f"Texts, as tokens under the prior {prior!r}."
        return Recipe(name, text, planner(PRIORS[prior].plan), ("size", "classes"))

    def pair(frame: Frame, codec: str = codec_name) -> System:
        return over(prior, codec, frame)

    pair.__doc__ = f"The latents of {codec_name!r} under the prior {prior!r}."
    relaxed = "relaxed" if codec_name == "dvae" else "codec"
    return Recipe(name, pair, planner(PRIORS[prior].plan, codec=relaxed))


RECIPES.otherwise = composed
