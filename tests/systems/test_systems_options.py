"""Options of a sampler are looked at before anything is drawn."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from sfumato import recipes
from sfumato.core.errors import UsageError
from sfumato.systems import options_of
from sfumato.systems.options import check_options, fits


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (float, [1, 0.5, np.float32(2), torch.tensor(1.0)], ["1", True, None, [1.0]]),
        (int, [3, np.int64(3)], [3.0, "3", False]),
        (int | None, [None, 3], [2.5, "x"]),
        (str | None, ["ddim", None], [3, ["ddim"]]),
        (bool, [True], [1, "true"]),
        (Literal["apart", "product"], ["apart"], ["together", None]),
        (tuple[float, float] | None, [None, (0.2, 0.8), [0.2, 0.8]], [5, (0.2,), (0.2, "x"), "ab"]),
        (float | Sequence[float], [1.5, [1, 2.0], ()], ["12", [1, "2"]]),
        (tuple[int, ...], [(), (1, 2, 3)], [(1, 2.5)]),
        (Any, [object()], []),
        (Tensor | None, [torch.zeros(2), None], [5, "a word, as the command line could say it"]),
    ],
)
def test_a_value_is_of_the_annotated_kind(kind, good, bad):
    assert all(fits(value, kind) for value in good)
    assert not any(fits(value, kind) for value in bad)


@pytest.fixture(scope="module")
def diffusion():
    return recipes.build("ddpm", size="xs", side=8, channels=1)


def test_a_diffusions_options_are_those_of_its_trajectory(diffusion):
    assert {"steps", "solver", "interval", "rescale", "softness"} <= set(options_of(diffusion.prior))


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        ({"interval": 5}, r"interval takes tuple\[float, float\] \| None, not 5"),
        ({"steps": "abc"}, r"steps takes int \| None, not 'abc'"),
        ({"rescale": "x"}, "rescale takes float, not 'x'"),
        ({"eta": None}, "eta takes float, not None"),
        ({"variance": "huge"}, "variance takes 'small' or 'large', not 'huge'"),
        ({"intervall": (0.1, 0.2)}, "Did you mean 'interval'"),
        ({"start": 5}, "start takes"),
        ({"steps": 0}, "steps takes a finite number from 1 to 100000, not 0"),
        ({"steps": 10**400}, "steps takes a finite number from 1"),
        ({"eta": float("nan")}, "eta takes a finite number from 0 to 1, not nan"),
        ({"interval": (0.2, float("inf"))}, "interval takes a finite number from 0 to 1, not inf"),
        ({"guidance": float("nan")}, "guidance takes .*, not nan"),
        ({"guidance": 10**400}, "guidance takes"),
    ],
)
def test_what_does_not_fit_is_a_usage_error(diffusion, options, answer):
    with pytest.raises(UsageError, match=answer):
        diffusion.sample(1, **options)


def test_every_prior_takes_its_own_defaults():
    """The check never refuses what a sampler would do unasked: the annotations and the defaults agree."""
    import inspect

    from sfumato.recipes.priors import PRIORS

    for codec, prior in {"dae": set(PRIORS), "vqvae": {"autoregressive", "masked"}}.items():
        for name in prior:
            made = recipes.build(f"{codec}+{name}", size="xs", side=16).prior
            parameters = inspect.signature(made.sample).parameters
            check_options(made, {option: parameters[option].default for option in options_of(made)})
