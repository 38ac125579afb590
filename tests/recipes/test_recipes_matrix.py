"""The matrix: every codec under every prior. A pair that fits learns, draws, is scored and comes back from disk; one
that does not is refused with advice."""

import inspect
import itertools
import warnings

import pytest
import torch

from sfumato import System, recipes
from sfumato.core.errors import Misfit
from sfumato.core.noise import Noise
from sfumato.core.space import Grid
from sfumato.data import open_data
from sfumato.metrics import evaluate
from sfumato.recipes.frame import Frame
from sfumato.recipes.latents import LEARNED, PIXELS, codec_of
from sfumato.recipes.plan import Plan
from sfumato.recipes.priors import PRIORS
from sfumato.train.fit import fit

CODECS = (*LEARNED, *PIXELS)
PAIRS = list(itertools.product(CODECS, PRIORS))
PLAN = Plan(steps=3, batch=8, rate=1e-3)


def side(codec):
    return 8 if codec in PIXELS else 16  # pixels are many positions; a codec's latents are 4 × 4


def built(codec, prior):
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.filterwarnings("ignore", message="No perceptual term")
        torch.manual_seed(0)
        return recipes.build(f"{codec}+{prior}", size="xs", side=side(codec), channels=1, classes=10)


@pytest.fixture(scope="module")
def spaces():
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.filterwarnings("ignore", message="No perceptual term")
        return {codec: codec_of(codec, Frame("xs", side(codec), 1)).space for codec in CODECS}


class Digits:
    """Batch k of the embedded digits at a side."""

    def __init__(self, side):
        self.source = open_data("digits", side=side, channels=1)

    def at(self, k):
        return self.source.batch(range(8 * k, 8 * k + 8))

    def once(self):
        return [self.at(k) for k in range(2)]


def learn(objective, data):
    """Prepare, a few steps, finish; every player's loss is finite and its weights move."""
    objective.prepare(data.once)
    before = [[p.detach().clone() for p in player] for player in objective.players()]
    steps = list(fit(objective, data, PLAN))
    assert len(steps) == PLAN.steps
    assert not any(step.skipped for step in steps)
    moved = [any(not torch.equal(p, q) for p, q in zip(*both)) for both in zip(objective.players(), before)]
    assert moved[0]  # a critic may sit the first steps out
    objective.eval()
    objective.finish(data.once)


@pytest.mark.parametrize(("codec", "prior"), PAIRS)
def test_a_pair_fits_or_is_refused(codec, prior, spaces, tmp_path):
    fits = isinstance(spaces[codec], PRIORS[prior].spaces)
    if not fits:
        with pytest.raises(Misfit, match=r"models .*, but .* yields .*Choose a prior for that kind of latent \("):
            built(codec, prior)
        return
    system, data = built(codec, prior), Digits(side(codec))
    for name, objective in system.stages().items():
        assert name in ("codec", "prior")
        learn(objective, data)
    system.eval()
    options = few(system)
    labels = {"label": [3, 7]}
    drawn = system.sample(2, labels, seeds=[1, 2], batch=2, **options)
    assert drawn.shape == (2, 1, side(codec), side(codec))
    assert bool(torch.isfinite(drawn).all())
    assert bool((drawn.abs() <= 1).all())
    metrics = ["fd"] + ["bits"] * system.has_log_prob
    if codec == "values":  # probabilities of values, or none
        assert system.has_log_prob == (prior in ("diffusion", "dit", "hierarchical"))
    found = evaluate(system, data.source, metrics, n=4, features="random", batch=2, options=options)
    assert all(torch.isfinite(torch.tensor(value)) for value in found["scores"].values())
    assert len(found["scores"]) == len(metrics)
    system.save_pretrained(tmp_path / "saved")
    again = System.from_pretrained(tmp_path / "saved")
    assert torch.equal(again.sample(2, labels, seeds=[1, 2], batch=2, **options), drawn)


def few(system):
    """Two steps, where a sampler has steps."""
    return {"steps": 2} if "steps" in inspect.signature(system.prior.sample).parameters else {}


def test_the_matrix_has_both_kinds(spaces):
    """Otherwise the test above would test nothing: some pairs fit and some do not, and every prior has a codec."""
    fits = {pair: isinstance(spaces[pair[0]], PRIORS[pair[1]].spaces) for pair in PAIRS}
    assert 0 < sum(fits.values()) < len(PAIRS)
    for prior in PRIORS:
        assert any(fits[codec, prior] for codec in CODECS)
    assert {type(space) for space in spaces.values()} >= {Grid}


def test_a_guided_pair_is_unguided_at_one_bit_for_bit(spaces):
    """Every prior that can be guided: at scale 1 the null condition changes nothing, whichever way it guides."""
    for prior in PRIORS:
        codec = next(c for c in CODECS if isinstance(spaces[c], PRIORS[prior].spaces))
        system = built(codec, prior).eval()
        options = few(system)
        condition, null = system.conditioner({"label": [1, 2]}), system.conditioner.null(2)
        drawn = [
            system.prior.sample(condition, Noise.each([1, 2]), null=at, guidance=1.0, **options) for at in (None, null)
        ]
        assert torch.equal(*drawn), prior
