"""Paths against the papers' discrete chains, and their written-out derivatives against autodiff."""

import math

import pytest
import torch
from prior_oracles import PATHS, PerComponent

from sfumato.core.errors import Misfit
from sfumato.core.noise import Noise
from sfumato.priors.diffusion.path import EDM, Rectified, cosine, linear, scaled_linear
from sfumato.priors.diffusion.solvers import times


def chain(name, steps=1000):
    """ᾱ_1 … ᾱ_T by the recursions of the papers, in plain Python floats."""
    bar, product = [], 1.0
    for k in range(1, steps + 1):
        if name == "linear":
            beta = 1e-4 + (k - 1) / (steps - 1) * (0.02 - 1e-4)
        elif name == "scaled-linear":
            beta = (0.00085**0.5 + (k - 1) / (steps - 1) * (0.012**0.5 - 0.00085**0.5)) ** 2
        else:
            f = [math.cos((t / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for t in (k - 1, k)]
            beta = min(1 - f[1] / f[0], 0.999)
        product *= 1 - beta
        bar.append(product)
    return torch.tensor(bar, dtype=torch.float64)


@pytest.mark.parametrize("name", ["linear", "scaled-linear", "cosine"])
def test_every_step_of_the_chain_is_met(name):
    """1e-11: float64 rounding of a product of 1000 factors. In float32 the time k/T itself is off by 6e-5 of a step of
    at most 7 in log ᾱ (the cosine's last; else 1.4), so 1e-3 relative there is ample, and 1e-4 elsewhere."""
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    expected = chain(name)
    torch.testing.assert_close(PATHS[name](t).alpha.square(), expected, rtol=1e-11, atol=0)
    single = PATHS[name](t.float())
    torch.testing.assert_close(single.alpha.double().square()[:-5], expected[:-5], rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(single.sigma.double().square(), 1 - expected, rtol=1e-4, atol=1e-7)


def test_chains_equal_the_schedulers_of_diffusers():
    """2e-5: theirs is a product in float32."""
    diffusers = pytest.importorskip("diffusers")
    for name, path in [("linear", linear()), ("squaredcos_cap_v2", cosine())]:
        theirs = diffusers.DDPMScheduler(beta_schedule=name).alphas_cumprod.double()
        ours = path(torch.arange(1, 1001, dtype=torch.float64) / 1000).alpha.square()
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=1e-8)
    theirs = diffusers.DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.0015, beta_end=0.0195).alphas_cumprod
    ours = scaled_linear(0.0015, 0.0195)(torch.arange(1, 1001, dtype=torch.float64) / 1000).alpha.square()
    torch.testing.assert_close(ours, theirs.double(), rtol=2e-5, atol=1e-8)


@pytest.mark.parametrize("name", [*PATHS, "per-component"])
def test_derivatives_are_those_of_autodiff(name):
    """1e-9 in float64: two ways to the same closed form."""
    path = PATHS.get(name) or PerComponent(torch.tensor([-9.0, -5.0, -7.0]), torch.tensor([5.0, 3.0, 9.0]))
    t = torch.linspace(0.0105, 0.9895, 41, dtype=torch.float64)[:, None].requires_grad_()
    at = path(t)
    for value, rate in [(at.alpha, at.d_alpha), (at.sigma, at.d_sigma)]:
        for column in range(value.shape[1]):
            if not value.requires_grad:  # EDM's α = 1
                assert not bool(rate.any())
                continue
            (found,) = torch.autograd.grad(value[:, column].sum(), t, retain_graph=True)
            torch.testing.assert_close(found[:, 0], rate[:, column].detach(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", list(PATHS))
def test_time_inverts_gamma_and_noise_grows(name):
    path = PATHS[name]
    t = torch.linspace(*path.ends, 97, dtype=torch.float64)
    gamma = path(t).gamma
    assert bool((gamma.diff() > 0).all())
    assert bool((path(t).d_gamma > 0).all())
    torch.testing.assert_close(path.time(gamma), t, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", list(PATHS))
def test_data_at_zero_exactly(name):
    """No tolerance: what is put back at time 0 must be what was known."""
    at = PATHS[name](torch.zeros(2))
    assert torch.equal(at.alpha, torch.ones(2))
    assert torch.equal(at.sigma, torch.zeros(2))


@pytest.mark.parametrize("name", ["linear", "scaled-linear", "cosine"])
def test_tabulated_paths_preserve_variance(name):
    at = PATHS[name](torch.linspace(0, 1, 501, dtype=torch.float64))
    torch.testing.assert_close(at.alpha.square() + at.sigma.square(), torch.ones(501, dtype=torch.float64))


def test_edm_grid_is_the_papers():
    """σ_i = (σ_max^{1/7} + i/(n−1) (σ_min^{1/7} − σ_max^{1/7}))^7, then 0."""
    n, low, high = 18, 0.002, 80.0
    i = torch.arange(n, dtype=torch.float64) / (n - 1)
    expected = (high ** (1 / 7) + i * (low ** (1 / 7) - high ** (1 / 7))) ** 7
    sigma = EDM()(times(EDM(), n)).sigma
    torch.testing.assert_close(sigma[:-1], expected, rtol=1e-9, atol=0)
    assert float(sigma[-1]) == 0


def test_edm_training_levels_are_lognormal():
    """Of 2¹⁶ evenly spread u: mean and standard deviation of log σ to 1e-3 (the tails beyond u = 2⁻¹⁷ are cut)."""
    u = (torch.arange(2**16, dtype=torch.float64) + 0.5) / 2**16
    log_sigma = EDM()(EDM().draw(u)).sigma.log()
    assert abs(float(log_sigma.mean()) + 1.2) < 1e-3
    assert abs(float(log_sigma.std()) - 1.2) < 1e-3


def test_logit_normal_times():
    u = (torch.arange(2**14, dtype=torch.float64) + 0.5) / 2**14
    logits = Rectified(logit_normal=(0.5, 2.0)).draw(u).logit()
    assert abs(float(logits.mean()) - 0.5) < 1e-3
    assert abs(float(logits.std()) - 2.0) < 2e-3


@pytest.mark.parametrize("name", list(PATHS))
@pytest.mark.parametrize("grid", ["uniform", "quadratic", "karras", "logsnr"])
def test_time_grids_fall_from_the_top_to_data(name, grid):
    path = PATHS[name]
    t = times(path, 10, grid)
    assert len(t) == 11
    assert float(t[-1]) == 0
    assert bool((t.diff() < 0).all())
    if grid == "logsnr":
        torch.testing.assert_close(
            path(t[:-1]).gamma.diff().std(), torch.zeros((), dtype=torch.float64), atol=1e-6, rtol=0
        )


def test_respaced_times_are_times_of_training():
    t = times(linear(), 7, levels=1000) * 1000
    assert torch.equal(t, t.round())
    assert torch.equal(times(linear(), 1000, levels=1000) * 1000, torch.arange(1000, -1, -1, dtype=torch.float64))
    assert len(times(linear(), 50, "quadratic", levels=20)) <= 21


def test_a_path_per_component_has_no_inverse():
    with pytest.raises(Misfit, match="each component"):
        PerComponent(torch.zeros(3), torch.ones(3)).time(torch.zeros(1))


def test_spread_times_are_even_over_the_batch_and_free_of_world_size():
    """Two processes of 8 rows hold the halves of one of 16; sorted, neighbours are 1/16 apart."""
    whole = Noise.shared(3, 16).spread()
    parts = [Noise.shared(3, 8, start, 16).spread() for start in (0, 8)]
    assert torch.equal(whole, torch.cat(parts))
    torch.testing.assert_close(whole.sort().values.diff(), torch.full((15,), 1 / 16), rtol=0, atol=1e-6)
    assert bool(((whole >= 0) & (whole < 1)).all())
    assert torch.equal(Noise.each([5, 6]).spread()[1:], Noise.each([6]).spread())


def test_a_broken_chain_is_refused():
    with pytest.raises(ValueError, match="between 0 and 1"):
        type(linear())(torch.tensor([0.1, 1.0]))
