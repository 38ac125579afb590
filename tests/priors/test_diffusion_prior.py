"""The Diffusion prior as a whole: losses, guidance, known parts, inversion, rows, and a net trained from nothing."""

import itertools
import math

import pytest
import torch
from prior_oracles import NATIVE, PATHS, Gaussian, plain
from torch import nn

from sfumato.core.condition import Condition
from sfumato.core.errors import Misfit, UnknownName, UsageError
from sfumato.core.noise import Noise
from sfumato.core.space import Grid, Sequence
from sfumato.priors.diffusion import Diffusion, Rectified, linear
from sfumato.priors.diffusion.diffusion import clamped
from sfumato.priors.diffusion.path import level
from sfumato.priors.diffusion.target import combine

SPACE = Grid(1, 2, 2)
NONE = Condition.none


class Shifted(nn.Module):
    """x ~ N(condition.vector, 0.5²) in each entry: an exact conditional denoiser."""

    def __init__(self, path, target, std=0.5):
        super().__init__()
        self.path, self.target, self.std, self.rows = path, target, std, []

    def forward(self, z, t, condition):
        self.rows.append(len(z))
        at, mean = level(self.path, t, z), condition.vector.reshape(-1, 1, 1, 1)
        z = z * at.std if self.path.scaled else z
        gain = at.alpha * self.std**2 / (at.alpha**2 * self.std**2 + at.sigma**2)
        x = mean + gain * (z - at.alpha * mean)
        return combine(self.target, at, x, (z - at.alpha * x) / at.sigma)


def shifted(name="linear", **options):
    return Diffusion(SPACE, Shifted(PATHS[name], NATIVE[name]), PATHS[name], NATIVE[name], **options)


CONDITION, NULL = Condition(3, vector=torch.tensor([[0.4], [-1.0], [2.0]])), Condition(3, vector=torch.zeros(3, 1))
SEEDS = [5, 6, 7]


@pytest.mark.parametrize("name", list(PATHS))
@pytest.mark.parametrize("solver", ["ddim", "ddpm", "heun", "dpm++2m"])
def test_rows_depend_on_their_seed_alone(name, solver):
    """Bit for bit; the oracle is elementwise, so other batch shapes do not matter either."""
    prior = shifted(name, solver=solver, steps=7)
    whole = prior.sample(CONDITION, Noise.each(SEEDS), null=NULL, guidance=1.7)
    for i, seed in enumerate(SEEDS):
        alone = prior.sample(CONDITION[i : i + 1], Noise.each([seed]), null=NULL[:1], guidance=1.7)
        assert torch.equal(whole[i : i + 1], alone)
    assert not torch.equal(whole[0], prior.sample(CONDITION, Noise.each([8, 6, 7]), null=NULL, guidance=1.7)[0])


def test_guidance_one_is_unguided_zero_is_null_and_else_one_call():
    prior = shifted(steps=9, solver="ddim")
    draw = lambda c, **options: prior.sample(c, Noise.each(SEEDS), **options)
    plain_, null = draw(CONDITION), draw(NULL)
    assert torch.equal(draw(CONDITION, null=NULL, guidance=1.0), plain_)
    assert torch.equal(draw(CONDITION, null=NULL, guidance=0.0), null)
    prior.net.rows.clear()
    draw(CONDITION, null=NULL, guidance=4.0)
    assert prior.net.rows == [6] * 9
    prior.net.rows.clear()
    draw(CONDITION, null=NULL, guidance=4.0, interval=(0.3, 0.6))
    assert sorted(set(prior.net.rows)) == [3, 6]
    with pytest.raises(UsageError, match="null"):
        draw(CONDITION, guidance=2.0)


@pytest.mark.parametrize("name", list(PATHS))
def test_guided_gaussians_in_closed_form(name):
    """c ~ N(m, s²) and u ~ N(0, s²) have scores linear in the mean, so guidance at scale g is exactly N(g m, s²): the
    same flow as that of the condition g m. Float32 over 30 steps: 1e-4 of values up to 6."""
    prior = shifted(name, steps=30, solver="heun")
    guided = prior.sample(CONDITION, Noise.each(SEEDS), null=NULL, guidance=3.0)
    direct = prior.sample(Condition(3, vector=3 * CONDITION.vector), Noise.each(SEEDS))
    torch.testing.assert_close(guided, direct, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("solver", ["ddim", "ddpm", "heun", "dpm++2m", "euler"])
@pytest.mark.parametrize("name", ["linear", "edm", "rectified"])
def test_known_parts_are_untouched(name, solver):
    prior = shifted(name, steps=6, solver=solver)
    mask = torch.tensor([[True, False], [True, False]]).expand(3, 1, 2, 2)
    value = torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    free = prior.sample(CONDITION, Noise.each(SEEDS))
    z = prior.sample(CONDITION, Noise.each(SEEDS), known=(value, mask))
    assert torch.equal(z[mask], value[mask])
    if solver != "ddpm":  # the entries of this oracle are independent, and these solvers draw nothing for the others
        torch.testing.assert_close(z[~mask], free[~mask])


def test_known_parts_inform_the_rest():
    """Two entries with correlation 0.95; the first is known to be 1.5. Rounds bring the second to its posterior, mean
    1.425 and deviation 0.31, within 0.1; a single round is biased towards the prior, but less than half way."""
    path, n = PATHS["linear"], 1000
    factor = torch.linalg.cholesky(torch.tensor([[1.0, 0.95], [0.95, 1.0]], dtype=torch.float64))
    prior = Diffusion(Sequence(1, 2), Gaussian(path, "noise", torch.zeros(2), factor), path, solver="ddpm")
    value = torch.tensor([1.5, 0.0]).expand(n, 1, 2)
    mask = torch.tensor([True, False]).expand(n, 1, 2)
    z = [prior.sample(NONE(n), Noise.shared(0, n), known=(value, mask), steps=50, rounds=r)[..., 1] for r in (1, 10)]
    assert 0.5 * 1.425 < float(z[0].mean()) < float(z[1].mean())
    assert abs(float(z[1].mean()) - 1.425) < 0.1
    assert abs(float(z[1].std()) - (1 - 0.95**2) ** 0.5) < 0.1


@pytest.mark.parametrize("name", list(PATHS))
def test_inversion_comes_back(name):
    """Heun up and down: second order, so 4 times the steps leave at most an eighth; DDIM at least halves."""
    prior = shifted(name)
    z = CONDITION.vector[:, :, None, None] + 0.5 * torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    z, condition = z.double(), CONDITION.map(torch.Tensor.double)
    gaps = {}
    for solver, steps in itertools.product(("ddim", "heun"), (25, 100)):
        options = {"steps": steps, "solver": solver, "grid": "logsnr"}
        start = prior.invert(z, condition, **options)
        assert start.shape == z.shape
        gaps[solver, steps] = float((prior.sample(condition, Noise.ambient(3), start=start, **options) - z).abs().max())
    assert gaps["ddim", 100] < gaps["ddim", 25] / 2
    assert gaps["heun", 100] < max(gaps["heun", 25] / 8, 2e-3)  # the step onto data, of σ(t₀), has no second order


def test_trajectory_shows_the_way():
    prior = shifted(steps=5)
    states = list(prior.trajectory(CONDITION, Noise.each(SEEDS)))
    assert len(states) == 5
    assert [round(float(s.t[0]), 6) for s in states] == [0.8, 0.6, 0.4, 0.2, 0.0]
    assert all(s.x.shape == (3, 1, 2, 2) for s in states)
    assert torch.equal(states[-1].z, prior.sample(CONDITION, Noise.each(SEEDS)))


def test_the_net_sees_times_of_its_training():
    net = plain(linear(), "noise")
    prior = Diffusion(SPACE, net, linear(), levels=1000, steps=7)
    prior.sample(NONE(2), Noise.each([1, 2]))
    seen = torch.tensor([t for _, t in net.calls]) * 1000
    torch.testing.assert_close(seen, seen.round(), rtol=0, atol=1e-3)
    net.calls.clear()
    z = torch.randn(64, 1, 2, 2)
    prior.loss(z, NONE(64), Noise.shared(0, 64))
    t = prior.draw_times(Noise.shared(0, 4000)) * 1000
    torch.testing.assert_close(t, t.round(), rtol=0, atol=1e-3)
    assert (round(float(t.min())), round(float(t.max()))) == (1, 1000)


def test_clamping():
    x = torch.linspace(-4, 4, 2001).reshape(1, 1, 1, -1)
    assert float(clamped(x, "static").abs().max()) == 1
    dynamic = clamped(x, "dynamic")
    torch.testing.assert_close(dynamic[..., 1000 - 500 : 1000 + 500], x[..., 500:1500] / 3.98, rtol=1e-3, atol=1e-6)
    assert float(dynamic.abs().max()) <= 1
    assert torch.equal(clamped(x / 5, "dynamic"), x / 5)
    prior = shifted(clamp="static", solver="ddim", steps=10)
    assert float(prior.sample(CONDITION, Noise.each(SEEDS)).abs().max()) <= 1
    found = prior.denoiser(CONDITION)(torch.full((3, 1, 2, 2), 2.0), torch.full((3,), 0.3))
    at = level(linear(), torch.full((3,), 0.3), found.x)
    torch.testing.assert_close(at.alpha * found.x + at.sigma * found.eps, torch.full((3, 1, 2, 2), 2.0))


@pytest.mark.parametrize("name", list(PATHS))
def test_the_loss_of_the_exact_net_is_the_conditional_variance(name):
    """E|ε − E[ε|z]|² = α² s² / (α² s² + σ²), and the same weighed by "noise" in any target; 4 standard errors."""
    path, n = PATHS[name], 4000
    prior = Diffusion(SPACE, plain(path, NATIVE[name], 4, 0.0, 0.5), path, NATIVE[name], "noise")
    z = 0.5 * torch.randn(n, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    loss = prior.loss(z, NONE(n), Noise.shared(0, n))
    at = path(prior.draw_times(Noise.shared(0, n)))
    expected = (at.alpha**2 / 4 / (at.alpha**2 / 4 + at.sigma**2)).mean()
    assert abs(float(loss["denoise"] - expected)) < 4 * math.sqrt(2 / (4 * n))


class TwoHalves(nn.Module):
    def __init__(self):
        super().__init__()
        self.mean, self.spread = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)

    def forward(self, z, t, condition):
        return torch.cat([self.mean(z), self.spread(z)], 1)


def test_the_variance_term_does_not_reach_the_mean():
    prior = Diffusion(SPACE, TwoHalves(), linear(), levels=1000, learned_variance=True, estimate="steps")
    terms = prior.loss(torch.randn(8, 1, 2, 2), NONE(8), Noise.shared(0, 8))
    assert set(terms) == {"denoise", "variance"}
    for term, reached, spared in [
        ("denoise", prior.net.mean, prior.net.spread),
        ("variance", prior.net.spread, prior.net.mean),
    ]:
        grads = torch.autograd.grad(terms[term], [reached.weight, spared.weight], retain_graph=True, allow_unused=True)
        assert float(grads[0].abs().sum()) > 0
        assert grads[1] is None or float(grads[1].abs().sum()) == 0
    z = prior.sample(NONE(2), Noise.each([1, 2]), steps=4, solver="ddpm")
    assert z.shape == (2, 1, 2, 2)
    assert bool(torch.isfinite(z).all())


def test_the_same_numbers_for_one_process_and_two():
    """Training noise for rows 4 … 8 of a batch of 8 is that of a second process with 4 rows: the losses average."""
    prior = shifted("cosine")
    z, condition = torch.randn(8, 1, 2, 2), Condition(8, vector=torch.randn(8, 1))
    whole = prior.loss(z, condition, Noise.shared(1, 8))["denoise"]
    parts = [prior.loss(z[i : i + 4], condition[i : i + 4], Noise.shared(1, 4, i, 8))["denoise"] for i in (0, 4)]
    torch.testing.assert_close(whole, sum(parts) / 2)


def test_what_does_not_fit_is_refused():
    with pytest.raises(Misfit, match="velocity"):
        Diffusion(SPACE, nn.Identity(), Rectified(), "noise")
    with pytest.raises(Misfit, match="levels"):
        Diffusion(SPACE, nn.Identity(), linear(), learned_variance=True)
    with pytest.raises(UnknownName, match="velocity"):
        Diffusion(SPACE, nn.Identity(), linear(), "velocty")
    with pytest.raises(Misfit, match="Expected a batch"):
        shifted().loss(torch.zeros(3, 1, 2, 3), CONDITION, Noise.ambient(3))


class Linear(nn.Module):
    """p = W(t) z + b(t): a linear denoiser, its coefficients from a small function of time."""

    def __init__(self, d):
        super().__init__()
        self.d = d
        self.of_time = nn.Sequential(
            nn.Linear(9, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, d * d + d)
        )

    def forward(self, z, t, condition):
        waves = [f(math.pi * k * t / 2) for k in (1, 2, 4, 8) for f in (torch.sin, torch.cos)]
        h = self.of_time(torch.stack([t, *waves], 1))
        w, b = h[:, : self.d**2].reshape(-1, self.d, self.d), h[:, self.d**2 :]
        return (torch.einsum("bij,bj->bi", w, z.flatten(1)) + b).reshape(z.shape)


class Cube(Noise):
    """x and ε run over all corners of a cube, so that a cost quadratic in them has its exact mean over the rows."""

    signs = torch.tensor(list(itertools.product([1.0, -1.0], repeat=6))).repeat(4, 1)

    def __init__(self):
        super().__init__(256, torch.Generator().manual_seed(0), torch.device("cpu"), slice(None), 256)

    def normal(self, *shape):
        return self.signs[:, 3:].reshape(-1, *shape)


def test_a_linear_net_learns_the_entropy():
    """From random weights on correlated Gaussian data: the expected bound ends within 0.03 bits per entry of the
    entropy, and on its side of it (256 rows of 256 stratified times: the sampling error is below 2e-3)."""
    torch.manual_seed(0)
    factor = torch.tensor([[0.9, 0.0, 0.0], [0.5, 0.6, 0.0], [-0.3, 0.4, 0.7]])
    mean = torch.tensor([0.5, -0.3, 0.2])
    prior = Diffusion(Sequence(1, 3), Linear(3), PATHS["cosine"], "v", points=256)
    optimiser = torch.optim.Adam(prior.parameters(), 1e-2)
    steps = 600
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for step in range(steps):
        z = (mean + torch.randn(128, 3) @ factor.T)[:, None]
        optimiser.zero_grad()
        sum(prior.loss(z, NONE(128), Noise.shared(step, 128)).values()).backward()
        optimiser.step()
        rate.step()
    x = (mean + Cube.signs[:, :3] @ factor.T)[:, None]
    entropy = torch.distributions.MultivariateNormal(mean, factor @ factor.T).entropy()
    with torch.no_grad():
        found = -prior.log_prob(x, NONE(256), Cube()).mean()
    assert -2e-3 < float(found - entropy) / (3 * math.log(2)) < 0.03
