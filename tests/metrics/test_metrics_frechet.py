"""The Fréchet distance against scipy, closed forms and exact factors; moments against one pass over everything.

E9: equal to scipy's on the same features to 1e-6 in float64, and never complex.
"""

import math

import numpy as np
import pytest
import scipy.linalg
import torch

import sfumato.metrics.frechet as module
from sfumato.metrics.frechet import Moments, distance, frechet_distance, root_trace, score_name, thousands


def draw(rows, dims, seed, mix=True):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, dims, generator=g, dtype=torch.float64)
    return x @ torch.randn(dims, dims, generator=g, dtype=torch.float64) + 0.3 * seed if mix else x


def by_scipy(a, b):
    """The formula as it stands, with numpy's moments and scipy's general matrix square root."""
    a, b = a.numpy(), b.numpy()
    ca, cb = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    root = scipy.linalg.sqrtm(ca @ cb)
    return float(np.square(a.mean(0) - b.mean(0)).sum() + np.trace(ca) + np.trace(cb) - 2 * np.trace(root).real)


def by_factors(a, b):
    """tr (C₁C₂)^{1/2} = ‖X₁ X₂ᵀ‖_* / √((n₁−1)(n₂−1)) of centred features: exact to rounding at any rank."""
    xa, xb = a - a.mean(0), b - b.mean(0)
    root = torch.linalg.svdvals(xa @ xb.T).sum() / math.sqrt((len(a) - 1) * (len(b) - 1))
    traces = xa.square().sum() / (len(a) - 1) + xb.square().sum() / (len(b) - 1)
    return float((a.mean(0) - b.mean(0)).square().sum() + traces - 2 * root)


@pytest.mark.parametrize("dims", [1, 2, 16, 96])
def test_equals_scipy_at_full_rank(dims):
    a, b = draw(3 * dims + 5, dims, 1), draw(4 * dims + 7, dims, 2)
    assert frechet_distance(a, b) == pytest.approx(by_scipy(a, b), rel=1e-6)


@pytest.mark.parametrize(("n", "m"), [(20, 300), (300, 20), (20, 25), (2, 2)])
def test_singular_covariances_equal_the_exact_factors_and_scipy(n, m):
    """Fewer pictures than dimensions. The factors are exact; scipy's own error there is √ε of the largest eigenvalue,
    a few 1e-8 of the traces, hence 1e-6."""
    a, b = draw(n, 40, 1), draw(m, 40, 2)
    found = frechet_distance(a, b)
    assert found == pytest.approx(by_factors(a, b), rel=1e-10)
    assert isinstance(found, float)
    assert found == pytest.approx(by_scipy(a, b), rel=1e-6)


def test_a_dead_feature_and_two_equal_ones_are_no_trouble():
    a, b = draw(100, 12, 1), draw(100, 12, 2)
    for x in (a, b):
        x[:, 3] = 0.7
        x[:, 5] = x[:, 4]
    assert frechet_distance(a, b) == pytest.approx(by_factors(a, b), rel=1e-10)


def test_nearly_singular_keeps_its_digits():
    """Eigenvalues from 1 to 1e-14, where √λ of the plain formula is lost; commuting covariances have the closed form
    Σ √(λᵢ κᵢ). 1e-9 of the traces is the loss the module allows itself."""
    values = torch.logspace(0, -14, 60, dtype=torch.float64)
    q = torch.linalg.qr(draw(60, 60, 3))[0]
    c1, c2 = (q * values) @ q.T, (q * values.flip(0)) @ q.T
    assert abs(root_trace(c1, c2) - float((values * values.flip(0)).sqrt().sum())) < 1e-9 * 2 * float(values.sum())


def test_the_fallback_is_taken_only_where_it_is_needed(monkeypatch):
    def called(*args):
        raise AssertionError("fallback")

    monkeypatch.setattr(module, "_root_trace_by_factors", called)
    frechet_distance(draw(400, 30, 1), draw(400, 30, 2))
    with pytest.raises(AssertionError, match="fallback"):
        frechet_distance(draw(10, 30, 1), draw(10, 30, 2))


def test_both_ways_agree():
    c1, c2 = Moments.of(draw(400, 50, 1)).covariance, Moments.of(draw(400, 50, 2)).covariance
    assert root_trace(c1, c2) == pytest.approx(module._root_trace_by_factors(c1, c2), rel=1e-12)


@pytest.mark.parametrize("rows", [5, 500])
def test_a_set_and_itself_are_at_zero(rows):
    """Traces are about 40² here, so 1e-9 is a relative 1e-12."""
    x = draw(rows, 40, 1)
    assert 0 <= frechet_distance(x, x) < 1e-9


def test_is_symmetric():
    a, b = draw(60, 40, 1), draw(30, 40, 2)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-10)


def test_diagonal_gaussians_have_the_closed_form():
    """d² = |μ₁ − μ₂|² + Σ (s₁ − s₂)²."""
    m1, m2, s1, s2 = (draw(1, 25, seed, mix=False)[0] for seed in range(4))
    found = distance(m1, s1.square().diag(), m2, s2.square().diag())
    assert found == pytest.approx(float((m1 - m2).square().sum() + (s1.abs() - s2.abs()).square().sum()), rel=1e-10)


@pytest.mark.parametrize("cuts", [[], [1], [499], [100, 101, 350]])
def test_moments_do_not_depend_on_the_chunks(cuts):
    """A large common offset is where a sum of squares would lose its digits; 1e-10 of the largest entry."""
    x = draw(500, 8, 1) + 1e4
    parts = list(x.tensor_split(cuts))
    forward, backward = Moments(8), Moments(8)
    for part in parts:
        forward.add(part)
    for part in reversed(parts):
        backward.merge(Moments(8).add(part))
    for found in (forward, backward):
        assert found.count == 500
        torch.testing.assert_close(found.mean, x.mean(0), rtol=1e-12, atol=0)
        torch.testing.assert_close(found.covariance, x.T.cov(), rtol=1e-10, atol=1e-10 * float(x.T.cov().max()))


def test_float32_features_are_summed_in_float64():
    x = draw(300, 6, 1).float()
    torch.testing.assert_close(Moments.of(x, chunk=7).covariance, x.double().T.cov(), rtol=1e-10, atol=1e-10)


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        frechet_distance(draw(1, 3, 1), draw(5, 3, 2))
    with pytest.raises(ValueError, match="no distance"):
        frechet_distance(draw(5, 3, 1), draw(5, 4, 2))
    spoilt = draw(5, 3, 1)
    spoilt[2, 1] = math.nan
    with pytest.raises(ValueError, match="not finite"):
        frechet_distance(spoilt, draw(5, 3, 2))


def test_names():
    assert [thousands(n) for n in (10_000, 2_500, 1_000, 999, 50_000)] == ["10k", "2500", "1k", "999", "50k"]
    assert score_name("fd", "mobilenetv2", 10_000) == "fd-mobilenetv2@10k"
    assert score_name("fd", "inception", 50_000) == "fid@50k"
    assert score_name("kd", "inception", 2_500) == "kid@2500"
    assert score_name("fd", "inception", 50_000, published=False) == "fd-inception@50k"
    assert score_name("precision", "inception", 1_000) == "precision-inception@1k"
