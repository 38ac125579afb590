"""The two priors with nothing to learn."""

import math

import pytest
import torch

from sfumato.core.condition import Condition
from sfumato.core.errors import Misfit
from sfumato.core.noise import Noise
from sfumato.core.space import Grid, Sequence, Tokens
from sfumato.priors.normal import Normal, Uniform

NONE = Condition.none(3)


@pytest.mark.parametrize("space", [Grid(2, 3, 4), Sequence(5, 2)])
def test_normal_is_scipys(space):
    stats = pytest.importorskip("scipy.stats")
    prior, noise = Normal(space), Noise.each([1, 2, 3])
    z = prior.sample(NONE, noise, temperature=1.3)
    assert z.shape == (3, *space.shape)
    expected = stats.norm.logpdf(z.double().numpy()).reshape(3, -1).sum(1)
    torch.testing.assert_close(prior.log_prob(z.double(), NONE, noise), torch.from_numpy(expected))
    assert prior.loss(z, NONE, noise) == {}
    torch.testing.assert_close(prior.sample(NONE, Noise.each([1, 2, 3])) * 1.3, z)


def test_uniform_over_tokens():
    """Chi-square of 6000 draws from 5 tokens: below 23.5 in 99.99 % of cases (4 degrees of freedom); fixed seed."""
    prior = Uniform(Tokens(2000, 5))
    z = prior.sample(NONE, Noise.each([1, 2, 3]))
    counts = torch.bincount(z.flatten(), minlength=5).double()
    assert float(((counts - 1200).square() / 1200).sum()) < 23.5
    torch.testing.assert_close(prior.log_prob(z, NONE, Noise.ambient(3)), torch.full((3,), -2000 * math.log(5)))


@pytest.mark.parametrize("prior", [Normal(Grid(1, 2, 2)), Uniform(Tokens(4, 9))])
def test_known_parts_and_rows(prior):
    free = prior.sample(NONE, Noise.each([4, 5, 6]))
    assert torch.equal(free[1:2], prior.sample(Condition.none(1), Noise.each([5])))
    mask = torch.zeros(3, *prior.space.shape, dtype=torch.bool)
    mask[:, :1] = True
    value = torch.ones_like(free)
    kept = prior.sample(NONE, Noise.each([4, 5, 6]), known=(value, mask))
    assert torch.equal(kept, torch.where(mask, value, free))


def test_a_latent_of_another_space_is_refused():
    with pytest.raises(Misfit, match="Expected a batch"):
        Normal(Grid(1, 2, 2)).log_prob(torch.zeros(3, 1, 2, 3), NONE, Noise.ambient(3))
