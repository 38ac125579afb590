"""Dials and options that make no sense are answered in a sentence, whatever they are: 2,000 random ones.

What is drawn at random here was, one by one, somebody's slip: a number of another kind, an infinity, a word where a
number stands, a list, a path, a text of thousands of letters, a whole number that no float holds.
"""

import inspect
import random
import warnings

import pytest
import torch

from sfumato import recipes
from sfumato.core.errors import SfumatoError
from sfumato.systems.options import GIVEN

NUMBERS = [0, -1, 1, 2, 3, 7, 33, 64, 4095, 4097, 10**12, 2**64, -(10**12), 10**400, 0.5, 1.5, 1e-9, 1e308]
ODD = [float("inf"), float("nan"), True, False, None, [], {}, (1,), b"x", [1, 2], (0.2, 0.8), {"a": 1}, object()]
WORDS = [
    "",
    "a",
    "none",
    "0",
    "-1",
    "1e5",
    "1e400",
    "nan",
    "inf",
    "8,5,5,5",
    "0,0",
    ",",
    "2," * 30 + "2",
    "true",
    "yes",
]
WORDS += ["0.5-2", "2-0.5", "-", "1-", "nan-1", "1-inf", "raster", "\0", "é", "١", "²", "3.0", "../../etc/passwd"]
WORDS += ["ddpm", "vqvae", "dae", '{"name": "vae", "dials": {}}', '{"name": "ldm"}', "{", "[]", "{}", "[" * 3000]
WORDS += ['{"name": "vae", "dials": {"side": 0}}', '{"name": "vae", "dials": {"channels": 1e99}}', "x" * 5000]
VALUES = [*NUMBERS, *ODD, *WORDS]
SEEDS = range(20)
CASES = 50  # a seed, of each kind


def answered(error, name, turned):
    """In a sentence, none of them endless."""
    assert str(error).strip(), (name, turned)
    assert len(str(error)) < 1000, (name, turned)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_no_dial_is_an_error_that_was_not_foreseen(seed):
    draw = random.Random(seed)
    for _ in range(CASES):
        name = draw.choice(list(recipes.RECIPES))
        known = list(recipes.RECIPES[name].dials)
        turned = {
            dial: draw.choice(VALUES) for dial in draw.sample(known, min(len(known), draw.choice([1, 1, 1, 2, 3])))
        }
        if "size" in known and "size" not in turned:
            turned["size"] = "xs"
        try:
            with warnings.catch_warnings(), torch.device("meta"):
                warnings.simplefilter("ignore")
                recipes.build(name, **turned)
        except SfumatoError as error:
            answered(error, name, turned)


PRIORS = ["rectified-flow", "gud-columns", "vq-ar", "maskgit", "latent-ar", "mar", "deep-vae", "glow", "gan", "ddpm"]


@pytest.fixture(scope="module")
def drawers():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return [recipes.build(name, size="xs", side=16, channels=1, classes=2).eval() for name in PRIORS]


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_no_option_is_an_error_that_was_not_foreseen(seed, drawers):
    """What passes draws a picture without NaN in it."""
    draw = random.Random(seed)
    for _ in range(CASES):
        system = draw.choice(drawers)
        own = [name for name in inspect.signature(system.prior.sample).parameters if name not in GIVEN]
        names = [*own, "guidance", "seeds", "batch", "n", "given", "unknown"]
        asked = {name: draw.choice(VALUES) for name in draw.sample(names, draw.choice([1, 1, 2]))}
        large = [value for value in asked.values() if isinstance(value, int) and 64 < value < 10**6]
        if large:  # possible, and a matter of patience
            continue
        if "steps" in own and "steps" not in asked:
            asked["steps"] = 2
        if "head_steps" in own and "head_steps" not in asked and system.prior.kind == "bound":
            asked["head_steps"] = 2
        try:
            images = system.sample(**{"n": 1, **asked})
        except SfumatoError as error:
            answered(error, type(system.prior).__name__, asked)
        else:
            assert images.isfinite().all(), (type(system.prior).__name__, asked)


def test_a_dial_is_refused_before_anything_is_built():
    """A sample of the above, for every run of the tests: each answer names the dial and what would do."""
    for dials, words in [
        ({"channels": 0}, "--channels takes from 1 to 16, not 0"),
        ({"side": 10**12}, "--side takes from 1 to 4,096, not 1000000000000"),
        ({"side": 0}, "--side takes from 1 to 4,096, not 0"),
        ({"classes": -1}, "--classes takes from 0 to 1,000,000, not -1"),
    ]:
        with pytest.raises(SfumatoError, match=words):
            recipes.build("ddpm", **dials)
    for name, dials, words in [
        ("vae", {"beta": float("nan")}, "--beta takes from 0 to 1,000,000, not nan"),
        ("vae", {"beta": "inf"}, "--beta takes from 0 to 1,000,000, not 'inf'"),
        ("vae", {"depth": -1}, "--depth takes from 1 to 4,096, not -1"),
        ("vqvae", {"codes": -1}, "--codes takes from 2 to 1,048,576, not -1"),
        ("vqvae", {"factor": 3}, "--factor takes one of 1, 2, 4, 8, 16, 32, not 3"),
        ("pixel-ar", {"levels": 100}, "--levels takes one of 2, 4, 8, 16, 32, 64, 128, 256, not 100"),
        ("fsq", {"levels": "2" + ",2" * 40}, "whose product is at most 1,048,576"),
        ("gud-pca", {"softness": "nan"}, "--softness takes a number from 0.001 to 1000"),
    ]:
        with pytest.raises(SfumatoError, match=words):
            recipes.build(name, size="xs", **dials)


def test_every_dial_of_ours_explains_itself():
    for name, recipe in recipes.RECIPES.items():
        for dial in recipe.dials.values():
            assert len(dial.help) > 15, (name, dial.name)
            assert "recipe's own" not in dial.help, (name, dial.name)
