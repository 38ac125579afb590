"""Every target is one row of the same 2×2 system; every weighting one function of the level."""

import pytest
import torch
from prior_oracles import NATIVE, PATHS

from sfumato.priors.diffusion.path import EDM, level
from sfumato.priors.diffusion.target import TARGETS, WEIGHTINGS, combine, split, weigh


def sample(path, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, eps = torch.randn(2, 9, 2, 3, 3, generator=generator, dtype=torch.float64)
    t = torch.linspace(path.ends[0], min(path.ends[1], 0.98), 9, dtype=torch.float64)
    at = level(path, t, x)
    return x, eps, at, at.alpha * x + at.sigma * eps


@pytest.mark.parametrize("name", list(PATHS))
@pytest.mark.parametrize("target", list(TARGETS))
def test_split_undoes_combine(name, target):
    """Float64; the system's condition number is up to σ/α = 1e4·, so 1e-8."""
    x, eps, at, z = sample(PATHS[name])
    found = split(target, at, z, combine(target, at, x, eps))
    torch.testing.assert_close(found[0], x, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found[1], eps, rtol=1e-8, atol=1e-8)


def test_v_by_the_papers_formulas():
    """x = α z − σ v and ε = σ z + α v where α² + σ² = 1."""
    x, eps, at, z = sample(PATHS["cosine"])
    v = at.alpha * eps - at.sigma * x
    torch.testing.assert_close(combine("v", at, x, eps), v)
    found = split("v", at, z, v)
    torch.testing.assert_close(found[0], at.alpha * z - at.sigma * v)
    torch.testing.assert_close(found[1], at.sigma * z + at.alpha * v)


def test_edm_by_the_papers_preconditioning():
    """D = c_skip z + c_out F; and F has unit variance for data of standard deviation 0.5."""
    _, _, at, z = sample(EDM())
    sigma, d = at.sigma, 0.5
    skip, out = d**2 / (sigma**2 + d**2), sigma * d / (sigma**2 + d**2).sqrt()
    f = torch.randn(z.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(split("edm", at, z, f)[0], skip * z + out * f, rtol=1e-9, atol=1e-9)
    a, b = TARGETS["edm"](at)
    torch.testing.assert_close(a.square() * d**2 + b.square(), torch.ones_like(a))
    torch.testing.assert_close(at.std, (sigma**2 + d**2).sqrt())


@pytest.mark.parametrize("target", ["noise", "data", "v", "velocity", "edm"])
@pytest.mark.parametrize("weighting", [name for name in WEIGHTINGS if name != "simple"])
def test_a_weighting_does_not_depend_on_the_target(target, weighting):
    """The same wrong x̂, said in any target, costs the same: w / σ² · (x̂ − x)²."""
    for name, path in PATHS.items():
        x, eps, at, z = sample(path)
        wrong = x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        said = combine(target, at, wrong, (z - at.alpha * wrong) / at.sigma)
        cost = weigh(weighting, target, at, said - combine(target, at, x, eps))
        snr = at.alpha.square() / at.sigma.square()
        d_gamma = at.d_gamma
        expected = {
            "noise": snr,
            "v": snr + 1,
            "truncated": snr.clamp(min=1),
            "min-snr": snr.clamp(max=5),
            "edm": snr + 1 / at.spread**2,
            "vlb": snr * d_gamma / 2,
        }[weighting]
        torch.testing.assert_close(cost, expected * (wrong - x).square(), rtol=1e-7, atol=1e-10, msg=f"{name} {target}")


def test_simple_is_the_squared_error_of_the_native_target():
    for name, path in PATHS.items():
        _, _, at, _ = sample(path)
        error = torch.randn(9, 2, 3, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        torch.testing.assert_close(weigh("simple", NATIVE[name], at, error), error.square())


def test_edm_loss_is_simple_in_its_own_target():
    """λ(σ) c_out² = 1: the paper's weight cancels its preconditioning."""
    _, _, at, _ = sample(EDM())
    error = torch.ones(9, 2, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(weigh("edm", "edm", at, error), error)
