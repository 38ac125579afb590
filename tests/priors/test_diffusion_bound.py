"""Likelihoods against analytic entropies. Tolerances of 1e-3 bits per dimension are the project's own (E2)."""

import math

import pytest
import torch
from prior_oracles import NATIVE, PATHS, Corners, Gaussian, PerComponent, plain

from sfumato.core.condition import Condition
from sfumato.core.noise import Noise
from sfumato.core.space import Grid, Sequence
from sfumato.priors.diffusion import Diffusion, bound
from sfumato.priors.diffusion.path import linear

SPACE = Grid(1, 2, 2)
MEAN, STD = 0.3, 0.5
ENTROPY = (1 + math.log(2 * math.pi * STD**2)) / 2  # nats per entry


def textbook(steps):
    """The discrete bound of N(m, s²) with the exact denoiser, term by term, by the formulas of Ho et al. in floats."""
    scale, bar, bars = 1000 / steps, 1.0, [1.0]
    betas = [1e-4 * scale + k / (steps - 1) * (0.02 - 1e-4) * scale for k in range(steps)]
    for beta in betas:
        bar *= 1 - beta
        bars.append(bar)
    total = (bars[-1] * (MEAN**2 + STD**2) - bars[-1]) / 2 - math.log(1 - bars[-1]) / 2
    for k in range(2, steps + 1):
        mse = STD**2 * (1 - bars[k]) / (bars[k] * STD**2 + 1 - bars[k])
        small = (1 - bars[k - 1]) / (1 - bars[k]) * betas[k - 1]
        total += (math.sqrt(bars[k - 1]) * betas[k - 1] / (1 - bars[k])) ** 2 * mse / (2 * small)
    mse = STD**2 * (1 - bars[1]) / (bars[1] * STD**2 + 1 - bars[1])
    variance = (1 - bars[1]) / bars[1]
    return total + math.log(2 * math.pi * variance) / 2 + mse / (2 * variance)


@pytest.mark.parametrize("target", ["noise", "data", "v", "velocity", "edm"])
def test_discrete_bound_is_the_sum_of_closed_form_divergences(target):
    """The cost is quadratic in (x, ε), so its mean over four corners is its expectation: 1e-8 nats, and that for every
    target, since one oracle says the same thing in each."""
    steps, noise = 100, Corners(1)
    path = linear(steps)
    prior = Diffusion(SPACE, plain(path, target, 4, MEAN, STD), path, target, levels=steps, estimate="steps")
    x = noise.data(MEAN, STD, *SPACE.shape)
    found = -float(prior.log_prob(x, Condition.none(4), noise).mean()) / 4
    assert abs(found - textbook(steps)) < 1e-8
    assert found > ENTROPY  # a bound lies on its side


def test_discrete_bound_tightens_with_more_steps():
    gaps = [textbook(steps) - ENTROPY for steps in (50, 200, 1000)]
    assert gaps[0] > gaps[1] > gaps[2] > 0


@pytest.mark.parametrize("name", list(PATHS))
def test_continuous_bound_is_the_entropy(name):
    """16 · 4 corner rows with 512 stratified points: the sampling error is about 3e-4 bits; the gap of the bound itself
    (decoder, terminal divergence) is positive and far below 1e-3."""
    path, noise = PATHS[name], Corners(16)
    net = plain(path, NATIVE[name], 4, MEAN, STD)
    prior = Diffusion(SPACE, net, path, NATIVE[name], points=512)
    assert prior.kind == "bound"
    x = noise.data(MEAN, STD, *SPACE.shape)
    found = -float(prior.log_prob(x, Condition.none(64), noise).mean()) / 4
    assert -1e-3 < (found - ENTROPY) / math.log(2) < 1e-3


@pytest.mark.parametrize("name", list(PATHS))
def test_flow_is_the_density(name):
    """Correlated entries, exact trace. The flow of a Gaussian is affine, so what the model generates is a Gaussian too:
    N(0, terminal²) carried down, row by row within the solver's error of 1e-4 nats; and it is the data's up to the ends
    of the path: E2's 1e-3 bits per dimension, in expectation."""
    path = PATHS[name]
    factor = torch.tensor([[0.5, 0.0, 0.0], [0.3, 0.4, 0.0], [-0.2, 0.3, 0.6]], dtype=torch.float64)
    net = Gaussian(path, NATIVE[name], torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64), factor)
    generator = torch.Generator().manual_seed(0)
    x = (net.mean + torch.randn(8, 3, generator=generator, dtype=torch.float64) @ factor.T)[:, None]
    prior = Diffusion(Sequence(1, 3), net, path, NATIVE[name], estimate="flow")
    assert prior.kind == "exact"
    found = bound.flow_log_prob(path, prior.denoiser(Condition.none(8)), x, Noise.ambient(8), 96, "exact")
    low, high = (path(torch.tensor(end, dtype=torch.float64)) for end in path.ends)
    values, basis = torch.linalg.eigh(net.covariance)
    shrink = ((low.alpha**2 * values + low.sigma**2) / (high.alpha**2 * values + high.sigma**2)).sqrt()
    carried = basis @ (shrink / low.alpha * path.terminal).diag() @ basis.T
    mean = net.mean - basis @ ((shrink * high.alpha / low.alpha) * (basis.T @ net.mean))
    model = torch.distributions.MultivariateNormal(mean, carried @ carried.T)
    torch.testing.assert_close(found, model.log_prob(x[:, 0]), rtol=0, atol=1e-4)
    data = torch.distributions.MultivariateNormal(net.mean, net.covariance)
    assert float(torch.distributions.kl_divergence(data, model)) / (3 * math.log(2)) < 1e-3


@pytest.mark.parametrize("trace", ["rademacher", "normal"])
def test_hutchinson_is_unbiased(trace):
    """Within 4 standard errors of the exact trace, over 1024 probes of the same picture."""
    path, n = PATHS["rectified"], 1024
    factor = torch.tensor([[0.5, 0.0, 0.0], [0.3, 0.4, 0.0], [-0.2, 0.3, 0.6]], dtype=torch.float64)
    net = Gaussian(path, "velocity", torch.zeros(3, dtype=torch.float64), factor)
    prior = Diffusion(Sequence(1, 3), net, path, "velocity", estimate="flow")
    x = torch.tensor([0.4, -0.3, 0.2], dtype=torch.float64).expand(n, 1, 3)
    denoise = prior.denoiser(Condition.none(n))
    exact = bound.flow_log_prob(path, denoise, x[:1], Noise.ambient(1), 8, "exact")
    found = bound.flow_log_prob(path, denoise, x, Noise.shared(0, n), 8, trace)
    assert float(found.std()) > 1e-3  # or the test would test nothing
    assert abs(float(found.mean() - exact)) < 4 * float(found.std()) / math.sqrt(n)


@pytest.mark.parametrize("estimate", ["bound", "flow"])
def test_a_path_per_component_has_the_same_likelihood(estimate):
    """GUD's bound: the sum of γ̇_i runs over the components. Entries of standard deviation 0.3, 0.5, 1 each with an own
    schedule; the residual noise at t = 0 is (σ/α)² = e^−11 or less."""
    path = PerComponent(
        torch.tensor([-13.0, -11.0, -12.0], dtype=torch.float64), torch.tensor([8.0, 12.0, 9.0], dtype=torch.float64)
    )
    std = torch.tensor([0.3, 0.5, 1.0], dtype=torch.float64)
    net = Gaussian(path, "noise", torch.zeros(3, dtype=torch.float64), std.diag())
    prior = Diffusion(Sequence(1, 3), net, path, estimate=estimate, points=256 if estimate == "bound" else 64)
    noise = Corners(32)
    x = noise.data(0.0, 1.0, 1, 3) * std
    if estimate == "bound":
        found = -float(prior.log_prob(x, Condition.none(128), noise).mean())
        assert -1e-3 < (found - net.entropy()) / (3 * math.log(2)) < 1e-3
    else:
        found = prior.log_prob(x[:4], Condition.none(4), Corners(1))
        torch.testing.assert_close(found, net.log_prob(x[:4]), rtol=0, atol=3e-3 * math.log(2))


class EightBit(torch.nn.Module):
    """The exact denoiser of independent, evenly distributed 8-bit values, as noise."""

    def __init__(self, path):
        super().__init__()
        self.path = path
        self.values = torch.arange(256, dtype=torch.float64) / 127.5 - 1

    def forward(self, z, t, condition):
        at = self.path(t.reshape(-1, 1, 1))
        weights = (
            -(z[..., None] - at.alpha[..., None] * self.values).square() / (2 * at.sigma[..., None] ** 2)
        ).softmax(-1)
        x = (weights * self.values).sum(-1)
        return (z - at.alpha * x) / at.sigma


def test_uniform_eight_bit_noise_costs_eight_bits():
    """A bound, so not below 8 but for the sampling error (4 standard errors); the decoder, a Gaussian of σ = 0.01 about
    x̂ cut at bins of 0.008, wastes a few thousandths."""
    path, n = linear(), 128
    prior = Diffusion(Sequence(1, 16), EightBit(path), path, points=64, eight_bit=True)
    k = Noise.shared(1, n).integers(256, 1, 16)
    bits = -prior.log_prob(k.double() / 127.5 - 1, Condition.none(n), Noise.shared(2, n)) / (16 * math.log(2))
    slack = 4 * float(bits.std()) / math.sqrt(n)
    assert 8 - slack < float(bits.mean()) < 8.02 + slack


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_decoder_masses_sum_to_one(dtype):
    """Over the 256 values, for means inside and beyond the range; also far in the tails the logarithm is finite."""
    x = torch.arange(256, dtype=dtype) / 127.5 - 1
    for mean, std in [(0.0, 0.01), (0.2, 0.5), (1.4, 0.1), (-1.0, 0.004)]:
        cost = bound.decode_cost(x, torch.full_like(x, mean), torch.full_like(x, 2 * math.log(std)), True)
        assert bool(torch.isfinite(cost).all())
        assert abs(float((-cost).exp().sum()) - 1) < 1e-5


def test_learned_variance_costs_the_divergence_of_two_gaussians():
    """step_cost against torch.distributions, with the variance away from the posterior's."""
    path = linear(50)
    x, eps = torch.randn(2, 7, 1, 3, dtype=torch.float64)
    t, s = torch.full((7,), 0.5, dtype=torch.float64), torch.full((7,), 0.48, dtype=torch.float64)
    at, to = path(t[:, None, None]), path(s[:, None, None])
    z = at.alpha * x + at.sigma * eps
    guess, blend = x + 0.1, torch.full_like(x, 0.7)
    prediction = bound.Prediction(guess, (z - at.alpha * guess) / at.sigma, blend)
    beta = 1 - at.alpha**2 / to.alpha**2
    small = to.sigma**2 / at.sigma**2 * beta
    mean = lambda x: (to.alpha * beta * x + (1 - beta).sqrt() * to.sigma**2 * z) / at.sigma**2
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(
        normal(mean(x), small.sqrt()), normal(mean(guess), (beta**0.7 * small**0.3).sqrt())
    )
    torch.testing.assert_close(bound.step_cost(path, prediction, x, t, s), expected, rtol=1e-8, atol=1e-10)
