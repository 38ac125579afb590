"""Solvers against closed-form flows, exact-score mixtures, and the schedulers of diffusers on the same oracle."""

import itertools
import math
from functools import partial

import pytest
import torch
from prior_oracles import NATIVE, PATHS, Mixture, plain

from sfumato.core.condition import Condition
from sfumato.core.noise import Noise
from sfumato.core.space import Sequence
from sfumato.priors.diffusion import Diffusion
from sfumato.priors.diffusion.path import EDM, Rectified, linear
from sfumato.priors.diffusion.solvers import State, configure, ddim, ddpm, dpm2m, euler, heun, solve, times

MEAN, STD = 1.5, 0.5


def oracle(path, target):
    return Diffusion(Sequence(1, 1), plain(path, target, 1, MEAN, STD), path, target)


def no_noise(z):
    return lambda: torch.zeros_like(z)


def flow(path, z, t, s):
    """The closed form of the probability flow of N(1.5, 0.5²): standardised values stay."""
    at, to = path(t), path(s)
    spread = [(level.alpha**2 * STD**2 + level.sigma**2).sqrt() for level in (at, to)]
    return to.alpha * MEAN + spread[1] / spread[0] * (z - at.alpha * MEAN)


def error(path, target, step, steps, grid):
    prior = oracle(path, target)
    z = path.terminal * torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None, None]
    start, end = torch.tensor([0.9, 0.25], dtype=torch.float64)
    if grid == "logsnr":
        gamma = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        at = path.time(path(start).gamma + gamma * (path(end).gamma - path(start).gamma))
    else:
        at = torch.linspace(0.9, 0.25, steps + 1, dtype=torch.float64)
    *_, last = solve(step, path, prior.denoiser(Condition.none(9)), z, at, no_noise(z))
    return (last.z - flow(path, z, at[0], at[-1])).abs().mean()


@pytest.mark.parametrize("name", list(PATHS))
@pytest.mark.parametrize(("step", "order"), [(ddim, 1), (euler, 1), (heun, 2), (dpm2m, 2)])
def test_solver_converges_at_its_order(name, step, order):
    """Twice the steps, 2^order less error, against the closed-form flow of x ~ N(1.5, 0.5²)."""
    grid = "logsnr" if step is dpm2m else "uniform"  # its first step, of first order, must not dominate
    rate = torch.log2(
        error(PATHS[name], NATIVE[name], step, 64, grid) / error(PATHS[name], NATIVE[name], step, 128, grid)
    )
    assert abs(float(rate) - order) < 0.25


def affine(step, path, prior, z_std, at):
    """The standard deviation that a stochastic linear sampler ends with: each step is z' = a z + b + c n, and a and c
    are read off probes."""
    denoise, variance = prior.denoiser(Condition.none(2)), z_std**2
    for t, s in itertools.pairwise(at):
        z = torch.tensor([0.0, 1.0], dtype=torch.float64)[:, None, None]
        now, later = State(z, t.expand(2)), s.expand(2)
        still = step(path, denoise, now, later, no_noise(z)).z[:, 0, 0]
        moved = step(path, denoise, now, later, lambda z=z: torch.ones_like(z)).z[:, 0, 0]
        variance = (still[1] - still[0]) ** 2 * variance + (moved[0] - still[0]) ** 2
    return variance**0.5


@pytest.mark.parametrize("name", ["linear", "cosine", "rectified"])
@pytest.mark.parametrize("step", [partial(ddim, eta=1.0), ddpm, partial(ddpm, variance="large")])
def test_ancestral_sampling_converges_to_the_standard_deviation_of_the_data(name, step):
    """Exactly, without sampling noise: the error halves with twice the steps, and is under 2 % at 400 log-SNR-even
    steps; DDPM's two variances bracket the truth."""
    path = PATHS[name]
    prior = oracle(path, NATIVE[name])
    stds = [affine(step, path, prior, path.terminal, times(path, n, "logsnr")) for n in (200, 400)]
    gaps = [abs(float(std) - STD) for std in stds]
    assert gaps[1] < 0.01
    assert 0.75 < math.log2(gaps[0] / gaps[1]) < 1.25
    assert (stds[1] > STD) == (getattr(step, "keywords", {}).get("variance") == "large")


def test_no_noise_in_the_last_step():
    """The last step gives x̂ itself, whatever is drawn."""
    prior = oracle(linear(), "noise")
    z, t = torch.randn(4, 1, 1, dtype=torch.float64), torch.full((4,), 0.01, dtype=torch.float64)
    denoise = prior.denoiser(Condition.none(4))
    for step in (partial(ddim, eta=1.0), ddpm, partial(ddpm, variance="large")):
        after = step(
            prior.path, denoise, State(z, t), torch.zeros(4, dtype=torch.float64), lambda: torch.full_like(z, 9)
        )
        torch.testing.assert_close(after.z, denoise(z, t).x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "solver", "steps"),
    [
        ("linear", "ddim", 150),
        ("linear", "ddpm", 250),
        ("cosine", "dpm++2m", 40),
        ("edm", "heun", 60),
        ("rectified", "euler", 200),
        ("rectified", "heun", 50),
    ],
)
def test_samplers_reproduce_a_mixture(name, solver, steps):
    """Weights, means and covariances of three Gaussians in the plane within 4 standard errors of 4000 draws; draws go
    to the likeliest component, and they are at least 5 σ apart."""
    path, n = PATHS[name], 4000
    grid = "uniform" if solver == "euler" else "logsnr" if name != "edm" else "karras"
    prior = Diffusion(Sequence(1, 2), Mixture(path, NATIVE[name]), path, NATIVE[name])
    x = prior.sample(Condition.none(n), Noise.shared(1, n), solver=solver, steps=steps, grid=grid)
    x = x[:, 0].double()
    w, m, s = Mixture.weights, Mixture.means, Mixture.stds
    gap = (x[:, None] - m).square().sum(-1)
    member = (w.log() - 2 * s.log() - gap / (2 * s**2)).argmax(1)
    for k in range(3):
        own, p = x[member == k], float(w[k])
        assert abs(len(own) / n - p) < 4 * math.sqrt(p * (1 - p) / n)
        assert bool(((own.mean(0) - m[k]).abs() < 4 * s[k] / math.sqrt(len(own))).all())
        covariance = torch.cov(own.T)
        assert bool(((covariance.diag() - s[k] ** 2).abs() < 4 * s[k] ** 2 * math.sqrt(2 / len(own))).all())
        assert abs(float(covariance[0, 1])) < 4 * float(s[k]) ** 2 / math.sqrt(len(own))


# ---- the schedulers of diffusers, on the same network ----

PLANE = Sequence(1, 2)


def noise_oracle(path):
    net = Mixture(path, "noise")
    return lambda z, index: net(z, torch.full((len(z),), (int(index) + 1) / 1000, dtype=z.dtype), None)


def scheduled(scheduler, z, steps, predict, **options):
    scheduler.set_timesteps(steps)
    for index in scheduler.timesteps:
        z = scheduler.step(predict(z, index), index, z, **options).prev_sample
    return z


def ours(path, solver, steps, z, target="noise", draws=None, **options):
    prior = Diffusion(PLANE, Mixture(path, target), path, target, levels=1000)
    at = times(path, steps, "uniform", 1000)
    step = configure(solver, **options)
    *_, last = solve(step, path, prior.denoiser(Condition.none(len(z))), z, at, draws or no_noise(z))
    return last.z


def start(seed=0, n=64):
    return torch.randn(n, 1, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


CHAIN = {"num_train_timesteps": 1000, "beta_schedule": "linear", "timestep_spacing": "trailing"}


@pytest.mark.parametrize("steps", [10, 50])
def test_ddim_equals_diffusers(steps):
    """1e-4: their ᾱ is a float32 product."""
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DDIMScheduler(**CHAIN, clip_sample=False, set_alpha_to_one=True)
    expected = scheduled(theirs, start(), steps, noise_oracle(linear()), eta=0.0)
    torch.testing.assert_close(ours(linear(), "ddim", steps, start()), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("variance", "name", "steps"),
    [("small", "fixed_small", 1000), ("small", "fixed_small", 50), ("large", "fixed_large", 50)],
)
def test_ddpm_equals_diffusers(variance, name, steps):
    """The same draws, in full and respaced; 1e-4 as above. Theirs puts the large variance's noise even on the respaced
    last step (t = 19, not 0); ours never does, so the large one is compared before it."""
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DDPMScheduler(**CHAIN, variance_type=name, clip_sample=False)
    z, path = start(n=4), linear()
    hers, mine = (torch.Generator().manual_seed(5) for _ in range(2))
    prior = Diffusion(PLANE, Mixture(path, "noise"), path, "noise", levels=1000)
    draw = lambda: torch.randn(z.shape, generator=mine, dtype=z.dtype)
    walk = solve(
        configure("ddpm", variance=variance), path, prior.denoiser(Condition.none(4)), z, times(path, steps), draw
    )
    theirs.set_timesteps(steps)
    predict, expected, compared = noise_oracle(path), z, 0
    for index, found in zip(theirs.timesteps, walk):
        expected = theirs.step(predict(expected, index), index, expected, generator=hers).prev_sample
        if variance == "small" or float(found.t[0]) > 0:
            torch.testing.assert_close(found.z, expected, rtol=1e-4, atol=1e-4)
            compared += 1
    assert compared == steps - (variance == "large")


@pytest.mark.parametrize("steps", [10, 25])
def test_dpm_solver_equals_diffusers(steps):
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DPMSolverMultistepScheduler(
        **CHAIN, algorithm_type="dpmsolver++", solver_order=2, final_sigmas_type="zero", lower_order_final=True
    )
    # theirs sums up ᾱ in float32, where 1 − ᾱ = 1e-4 keeps three digits; which three depends on the processor
    theirs.alphas_cumprod = (1 - theirs.betas.double()).cumprod(0)
    expected = scheduled(theirs, start(), steps, noise_oracle(linear()))
    torch.testing.assert_close(ours(linear(), "dpm++2m", steps, start()), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("steps", [10, 25])
def test_the_stochastic_dpm_solver_equals_diffusers(steps):
    """The same draws; ᾱ in float64 as above, tolerance as above."""
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DPMSolverMultistepScheduler(
        **CHAIN, algorithm_type="sde-dpmsolver++", solver_order=2, final_sigmas_type="zero", lower_order_final=True
    )
    theirs.alphas_cumprod = (1 - theirs.betas.double()).cumprod(0)
    z, path = start(n=8), linear()
    prior = Diffusion(PLANE, Mixture(path, "noise"), path, "noise", levels=1000)
    hers, mine = (torch.Generator().manual_seed(5) for _ in range(2))
    draw = lambda generator: torch.randn(z.shape, generator=generator, dtype=z.dtype)
    walk = solve(
        configure("sde-dpm++2m"),
        path,
        prior.denoiser(Condition.none(8)),
        z,
        times(path, steps, levels=1000),
        lambda: draw(mine),
    )
    theirs.set_timesteps(steps)
    predict, expected = noise_oracle(path), z
    for index, found in zip(theirs.timesteps, walk, strict=True):
        expected = theirs.step(predict(expected, index), index, expected, variance_noise=draw(hers)).prev_sample
        torch.testing.assert_close(found.z, expected.to(found.z), rtol=1e-4, atol=1e-4)


def test_from_a_given_start_the_own_solver_adds_no_noise():
    """So that what lies between two pictures is a function of where one starts."""
    path = linear()
    prior = Diffusion(PLANE, Mixture(path, "noise"), path, "noise", levels=1000, solver="sde-dpm++2m", steps=12)
    draw = lambda seed, **options: prior.sample(Condition.none(64), Noise.shared(seed, 64), **options)
    assert torch.equal(draw(0, start=start()), draw(1, start=start()))
    assert torch.equal(draw(0, start=start()), draw(1, start=start(), solver="dpm++2m"))
    assert not torch.equal(draw(0, start=start(), solver="sde-dpm++2m"), draw(0, start=start()))
    assert not torch.equal(draw(0), draw(1))


def test_learned_variance_equals_diffusers():
    """One step with the second half of the channels at 0.3: log-variances blended at (0.3 + 1) / 2."""
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DDPMScheduler(**CHAIN, variance_type="learned_range", clip_sample=False)
    theirs.set_timesteps(1000)
    z, path = start(), linear()
    eps, draws = start(1), start(2)
    both = torch.cat([eps, torch.full_like(eps, 0.3)], 1)
    variance = theirs._get_variance(500, predicted_variance=both[:, 1:])  # a log-variance, for this type
    theirs.config.variance_type = "fixed_small"
    mean = diffusers.DDPMScheduler(**CHAIN, variance_type="fixed_small", clip_sample=False)
    mean.set_timesteps(1000)
    at = path(torch.tensor(0.501, dtype=torch.float64))
    x = (z - at.sigma * eps) / at.alpha
    before, beta = mean.alphas_cumprod[499].double(), mean.betas[500].double()
    bar = mean.alphas_cumprod[500].double()
    expected = (before.sqrt() * beta / (1 - bar) * x + (1 - beta).sqrt() * (1 - before) / (1 - bar) * z) + (
        variance / 2
    ).exp() * draws

    prior = Diffusion(PLANE, torch.nn.Identity(), path, "noise", levels=1000, learned_variance=True)
    found = prior.read(
        z, torch.full((64,), 0.501, dtype=torch.float64), torch.cat([eps, torch.full_like(eps, 0.3)], -1)
    )
    now = State(z, torch.full((64,), 0.501, dtype=torch.float64))
    after = ddpm(path, lambda z, t: found, now, torch.full((64,), 0.5, dtype=torch.float64), lambda: draws)
    torch.testing.assert_close(after.z, expected, rtol=1e-4, atol=1e-4)


def test_rectified_euler_equals_diffusers():
    """Flow matching: their σ is our t."""
    diffusers = pytest.importorskip("diffusers")
    theirs, steps = diffusers.FlowMatchEulerDiscreteScheduler(), 20
    theirs.set_timesteps(sigmas=[1 - i / steps for i in range(steps)])
    net, z = Mixture(Rectified(), "velocity"), start()
    expected = z
    for index in theirs.timesteps:
        velocity = net(expected, (index / 1000).double().expand(64), None)
        expected = theirs.step(velocity, index, expected).prev_sample
    prior = Diffusion(PLANE, net, Rectified(), "velocity")
    found = prior.sample(Condition.none(64), Noise.ambient(64), start=z, steps=steps, solver="euler")
    torch.testing.assert_close(found, expected.to(found), rtol=1e-4, atol=1e-4)
    same = prior.sample(Condition.none(64), Noise.ambient(64), start=z, steps=steps, solver="ddim")
    torch.testing.assert_close(found, same)  # on straight lines Euler in t is DDIM


def test_edm_equals_diffusers():
    """Preconditioning, σ-grid and Euler step. Their σ are float32, and z starts at 80: 1e-3."""
    diffusers = pytest.importorskip("diffusers")
    theirs, steps, path = diffusers.EDMEulerScheduler(sigma_data=0.5), 18, EDM()
    theirs.set_timesteps(steps)
    net, z = Mixture(path, "edm"), start()
    expected = path.terminal * z
    for sigma, index in zip(theirs.sigmas[:-1], theirs.timesteps):
        t = path.time(2 * sigma.double().log()).expand(64)
        said = net(theirs.scale_model_input(expected, index), t, None)
        expected = theirs.step(said, index, expected).prev_sample
    prior = Diffusion(PLANE, net, path, "edm")
    found = prior.sample(Condition.none(64), Noise.ambient(64), start=z, steps=steps, solver="ddim")
    torch.testing.assert_close(found, expected.to(found), rtol=1e-3, atol=1e-3)


def test_heun_is_the_papers_on_edm():
    """Karras et al., algorithm 1 without churn, written out."""
    path, steps = EDM(), 12
    net, z = Mixture(path, "data"), start()
    sigmas = path(times(path, steps)).sigma
    y = path.terminal * z

    def slope(y, sigma):
        t = path.time(2 * sigma.log()).expand(len(y))
        return (y - net(y / (sigma**2 + 0.25).sqrt(), t, None)) / sigma

    for here, there in itertools.pairwise(sigmas):
        d = slope(y, here)
        ahead = y + (there - here) * d
        y = ahead if there == 0 else y + (there - here) * (d + slope(ahead, there)) / 2
    prior = Diffusion(PLANE, net, path, "data")
    found = prior.sample(Condition.none(64), Noise.ambient(64), start=z, steps=steps, solver="heun")
    torch.testing.assert_close(found, y, rtol=1e-8, atol=1e-8)
