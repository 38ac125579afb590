"""Paths said by γ: schedules for each component (GUD), held components, learned schedules."""

import itertools
import math

import pytest
import torch
from prior_oracles import Corners
from torch import nn

from sfumato.core.condition import Condition
from sfumato.core.errors import UsageError
from sfumato.core.noise import Noise
from sfumato.core.space import Grid, Sequence
from sfumato.priors.diffusion import Diffusion, Held, Learned, LogLinear, Staggered, bound
from sfumato.priors.diffusion.gamma import FIRST
from sfumato.priors.diffusion.path import level
from sfumato.priors.diffusion.solvers import times

NONE = Condition.none
D = 6
VARIANCE = torch.tensor([4.0, 1.0, 0.5, 0.2, 0.05, 0.01], dtype=torch.float64)


class Told(nn.Module):
    """The exact denoiser of x ~ N(0, C) that is told γ instead of a time, and says the noise."""

    def __init__(self, covariance):
        super().__init__()
        self.covariance = covariance

    def forward(self, z, gamma, condition):
        flat, gamma = z.double().flatten(1), gamma.double().expand_as(z).flatten(1)
        alpha, sigma = torch.sigmoid(-gamma).sqrt(), torch.sigmoid(gamma).sqrt()
        c = self.covariance.double()
        cov_z = alpha[:, :, None] * c * alpha[:, None, :] + torch.diag_embed(sigma.square())
        x = torch.einsum("ij,bj,bj->bi", c, alpha, torch.linalg.solve(cov_z, flat[..., None])[..., 0])
        return ((flat - alpha * x) / sigma).reshape(z.shape).to(z.dtype)


class AtTime(nn.Module):
    """The same for a scalar path, which tells the time."""

    def __init__(self, path, covariance):
        super().__init__()
        self.path, self.told = path, Told(covariance)

    def forward(self, z, t, condition):
        return self.told(z, level(self.path, t, z).gamma, condition)


def staggered(variance=VARIANCE, place=None, **options):
    """A path over components of known variances, in a row."""
    path = Staggered(torch.arange(len(variance))[:, None], None if place is None else place[:, None], **options)
    path.variance.copy_(variance[:, None])
    return path.double()


def rates(path, n=4001):
    """u (n,), γ (n, D), γ̇ (n, D)."""
    u = torch.linspace(0, 1, n, dtype=torch.float64)
    gamma, slope = path.rate(u[:, None, None])
    return u, gamma.expand(n, -1, 1)[..., 0], slope.expand(n, -1, 1)[..., 0]


class AtShare(nn.Module):
    """The same for a learned path, which tells where γ lies between its ends."""

    def __init__(self, path, covariance):
        super().__init__()
        self.path, self.told = path, Told(covariance)

    def forward(self, z, share, condition):
        low, high = self.path.ends_of_gamma
        return self.told(z, (low + (high - low) * share)[:, None, None], condition)


SCHEDULES = {
    "at once": {},
    "a = 1": {"size": 1.0, "clip": False},
    "a = 2": {"size": 2.0, "clip": False},
    "a = 0.5, clipped": {"size": 0.5},
    "unsized": {"sized": False, "low": -11.0},
    "by place": {"place": torch.linspace(0, 1, D), "softness": 0.4, "low": -9.0},
    "by place and size": {"place": torch.linspace(1, 0, D), "softness": 0.6, "size": 1.0},
}


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_levels_follow_gamma_and_derivatives_are_autodiffs(name):
    path = staggered(**SCHEDULES[name])
    t = torch.tensor([0.02, 0.31, 0.5, 0.77, 0.99], dtype=torch.float64)[:, None, None].requires_grad_()
    at = path(t)
    torch.testing.assert_close(at.alpha.square() + at.sigma.square(), torch.ones_like(at.alpha))
    for value, slope in ((at.alpha, at.d_alpha), (at.sigma, at.d_sigma), (at.gamma, at.d_gamma)):
        for i in range(D):
            (found,) = torch.autograd.grad(value[:, i].sum(), t, retain_graph=True)
            torch.testing.assert_close(found[:, 0], slope[:, i], rtol=1e-6, atol=1e-9)
    data = path(torch.zeros(1, 1, 1, dtype=torch.float64))
    assert bool((data.alpha == 1).all())
    assert bool((data.sigma == 0).all())


def test_the_ends_are_where_the_formula_says():
    """log SNR = log Σ − γ: −g₀ at the start for who is drawn last, cleaner for others; −g₁ at the end for who is noised
    last, noisier for others. GUD 2a, with sizes and a = 2."""
    path = staggered(size=2.0, clip=False, floor=-math.inf)
    _, gamma, slope = rates(path, 2)
    snr = VARIANCE.log() - gamma
    torch.testing.assert_close(snr[0], 7.0 + 2 * (VARIANCE / VARIANCE[-1]).log(), rtol=0, atol=1e-5)
    torch.testing.assert_close(snr[1], -5.0 - 2 * (VARIANCE[0] / VARIANCE).log(), rtol=0, atol=1e-5)
    torch.testing.assert_close(slope[0], (12 + 2 * math.log(400)) * torch.ones(D).double(), rtol=0, atol=1e-5)


def test_one_softness_of_the_order_by_size_is_plain_diffusion():
    """a = 1: γ is the same for all components, whatever their sizes (direction test 2 of GUD)."""
    _, gamma, _ = rates(staggered(size=1.0, clip=False, floor=-math.inf))
    torch.testing.assert_close(gamma, gamma[:, :1].expand_as(gamma), rtol=0, atol=1e-6)


def test_equal_schedules_are_plain_diffusion_bit_for_bit():
    """E7: loss, samples and bound of a path per component whose schedules agree are those of the scalar path.

    64 rows fill the vectors of any processor. The tail of a row of numbers goes through another routine, which rounds
    otherwise: with 8 rows the two differed in the last bit where vectors hold 8 numbers.
    """
    rows = 64
    covariance = torch.eye(D, dtype=torch.float64) * 0.3 + 0.2
    plain = LogLinear(-11.0, 5.0)
    path = staggered(torch.ones(D).double(), sized=False, low=-11.0, matched=False)
    space = Sequence(D, 1)
    mine, other = Diffusion(space, Told(covariance), path), Diffusion(space, AtTime(plain, covariance), plain)
    z = torch.randn(rows, D, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a, b = (prior.loss(z, NONE(rows), Noise.shared(3, rows))["denoise"] for prior in (mine, other))
    assert torch.equal(a, b)
    for solver in ("ddim", "ddpm", "heun", "dpm++2m"):
        a, b = (p.sample(NONE(rows), Noise.each(range(rows)), steps=9, solver=solver) for p in (mine, other))
        assert torch.equal(a, b), solver
    with pytest.raises(UsageError, match="all share one"):
        other.sample(NONE(1), Noise.each([0]), softness=0.5)


def test_the_discrete_bound_of_equal_schedules_tends_to_the_continuous_one():
    """DDPM's own bound over T levels of the same path: the difference falls like 1 / T. Corners make the cost exact."""
    path = staggered(torch.ones(D).double() * 0.25, size=1.0, clip=False, floor=-math.inf)
    prior = Diffusion(Sequence(D, 1), Told(torch.eye(D, dtype=torch.float64) * 0.25), path, points=2048)
    noise = Corners(4)
    x = noise.data(0.0, 0.5, D, 1)
    denoise = prior.denoiser(NONE(len(x)))
    limit = float(bound.continuous(path, denoise, x, noise, 2048).mean())
    # from T levels on the path's own range, the last of which meets data at t₀
    gaps = []
    for levels in (50, 100, 200):
        grown = [FIRST + (1 - FIRST) * k / levels for k in range(levels + 1)]
        one = x.new_ones(len(x))
        cost = bound.terminal_cost(path, x, one).flatten(1).sum(1)
        for s, t in itertools.pairwise(grown):
            z, _ = bound._noisy(path, x, one * t, noise)
            cost = cost + bound.step_cost(path, denoise(z, one * t), x, one * t, one * s).flatten(1).sum(1)
        z, _ = bound._noisy(path, x, one * FIRST, noise)
        cost = cost + bound.step_cost(path, denoise(z, one * FIRST), x, one * FIRST, one * 0).flatten(1).sum(1)
        gaps.append(limit + float(cost.mean()))
    assert gaps[0] > gaps[1] > gaps[2] > 0  # a coarser chain costs more nats
    assert 1.7 < gaps[0] / gaps[1] < 2.3
    assert 1.7 < gaps[1] / gaps[2] < 2.3


@pytest.mark.parametrize("size", [0.0, 1.0, 20.0])
def test_sharpness_goes_from_all_at_once_to_one_after_another(size):
    """Direction test 3: at a = 0 all cross SNR 1 together; for large a in the order of their variances, and the
    stretches in which |log SNR| < 3 do not meet: neighbours are at least log 2 apart, and 20 log 2 > 6."""
    a = size
    path = staggered(size=a, clip=False, floor=-math.inf)
    u, gamma, _ = rates(path)
    snr = VARIANCE.log() - gamma
    crossing = torch.stack([u[(snr[:, i] > 0).sum() - 1] for i in range(D)])
    if a == 0:
        assert float(crossing.max() - crossing.min()) < 1e-3
        return
    assert bool((crossing[:-1] > crossing[1:]).all())  # large ones stay longest: noised last, drawn first
    if a > 8:
        active = [u[(snr[:, i].abs() < 3)] for i in range(D)]
        assert all(float(later.max()) < float(earlier.min()) for earlier, later in itertools.pairwise(active))


@pytest.mark.parametrize("softness", [0.3, 1 / D])
def test_places_are_drawn_in_their_order_and_share_the_time(softness):
    """Each is active for the share s of the time; place 0 is noised last, hence drawn first; outside they wait. At
    s = 1/D one is active at a time: an autoregressive chain (E7)."""
    path = staggered(torch.ones(D).double(), torch.linspace(0, 1, D), softness=softness, sized=False, low=-9.0)
    u, gamma, slope = rates(path)
    moving = slope > 0
    torch.testing.assert_close(moving.double().mean(0), torch.full((D,), softness).double(), rtol=0, atol=2e-3)
    first = torch.stack([u[moving[:, i]].min() for i in range(D)])
    assert bool((first[:-1] > first[1:]).all())
    torch.testing.assert_close(first, (1 - softness) * (1 - torch.linspace(0, 1, D).double()), rtol=0, atol=2e-3)
    if softness < 0.2:
        assert float((moving.sum(1) == 1).double().mean()) > 0.99
    assert float(gamma.min()) == -9.0
    assert float(gamma.max()) == 5.0


def test_left_to_right_means_left_to_right():
    """Direction test 5: columns of a grid, half way back: the left is finished, the right is noise; by the decoded
    state itself, not by the schedule's own numbers."""
    from sfumato.codecs.orthogonal import Identity, Wavelet
    from sfumato.recipes.gud import _by_place

    space = Grid(1, 8, 16)
    for basis in (Identity(space), Wavelet(space, 1)):
        path = _by_place(basis, "columns", "0.3").double()
        prior = Diffusion(space, Told(torch.eye(128, dtype=torch.float64)), path, solver="ddim", steps=200)
        walk = prior.trajectory(NONE(64), Noise.each(range(64)), start=None)
        half = next(state for state in walk if float(state.t[0]) <= 0.5)
        picture, clean = basis.back(half.z.double()), basis.back(half.x.double())
        error = (picture - clean).square().mean((0, 1, 2))  # how much of a column is still noise
        assert float(error[:4].max()) < 1e-3
        assert float(error[-4:].min()) > 0.5


def test_orders_by_place_are_by_column_row_and_block():
    from sfumato.codecs.orthogonal import Identity
    from sfumato.recipes.gud import place_of

    basis = Identity(Grid(1, 4, 4))
    lines = torch.linspace(0, 1, 4)
    torch.testing.assert_close(place_of(basis, "columns")[0], lines.expand(4, 4))
    torch.testing.assert_close(place_of(basis, "rows")[0], lines[:, None].expand(4, 4))
    blocks = torch.tensor([[0, 1], [2, 3]]).repeat_interleave(2, 0).repeat_interleave(2, 1) / 3
    torch.testing.assert_close(place_of(basis, "blocks")[0], blocks)


def test_sizes_are_measured_and_pooled():
    path = Staggered(torch.tensor([[0], [0], [1]]))
    z = torch.randn(20_000, 3, 1, generator=torch.Generator().manual_seed(0)) * torch.tensor([[1.0], [3.0], [0.1]])
    path.fit(z.split(1000))
    torch.testing.assert_close(path.variance[:, 0], torch.tensor([5.0, 5.0, 0.01]), rtol=0.05, atol=0)  # 5 σ of χ²
    torch.testing.assert_close(path.spread, path.variance.mean().sqrt())


def test_the_floor_leaves_out_time_in_which_all_wait():
    path = staggered(size=1.0, clip=False)  # would start at −7 + log 0.01 = −11.6, above the floor
    assert float(rates(path)[1][0].max()) == pytest.approx(-7 + math.log(0.01), abs=1e-5)
    path = staggered(VARIANCE * 1e-3, size=1.0, clip=False)
    _, gamma, slope = rates(path)
    assert float(gamma[0].max()) == pytest.approx(-13.3)
    assert float(slope[1].min()) > 0
    assert float(gamma[-1].min()) == pytest.approx(5 + math.log(0.004), abs=1e-5)


# ---- likelihood ----


class Hadamard(Noise):
    """Normal draws replaced by columns of a Hadamard matrix. Over its 16 rows the D entries of x (columns 1 … D) and
    those of ε (the next D) have exactly the covariance I, so the mean of a quadratic cost is its expectation."""

    def __init__(self, repeats=16):
        n = 16 * repeats  # each with times of its own
        super().__init__(n, torch.Generator().manual_seed(0), torch.device("cpu"), slice(None), n)
        h = torch.ones(1, 1, dtype=torch.float64)
        for _ in range(4):
            h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)])
        h = h.repeat(repeats, 1)
        self.x, self.eps = h[:, 1 : D + 1, None], h[:, D + 1 : 2 * D + 1, None]

    def normal(self, *shape):
        return self.eps


@pytest.mark.parametrize("name", list(SCHEDULES))
@pytest.mark.parametrize("estimate", ["bound", "flow", "adaptive"])
def test_gaussian_data_cost_their_entropy(name, estimate):
    """E2 for every schedule, on correlated components (a rotation of the diagonal), 1e-3 bits a dimension. The path
    goes from SNR e^13 of each component, which is e^8 of the smallest direction, to e^−9, where nothing is left.
    Where γ̇ jumps, stratified times err by Δ / points: more points for orders by place."""
    if estimate == "adaptive":
        pytest.importorskip("torchdiffeq")
    q, _ = torch.linalg.qr(torch.randn(D, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    covariance = q @ VARIANCE.diag() @ q.T
    options = {**SCHEDULES[name], "low": -13.0, "high": 9.0, "floor": -20.0}
    path = staggered(covariance.diagonal(), **options)
    entropy = (D * (1 + math.log(2 * math.pi)) + float(torch.logdet(covariance))) / 2
    prior = Diffusion(
        Sequence(D, 1), Told(covariance), path, estimate=estimate, points=2048 if "place" in options else 512
    )
    assert prior.kind == ("bound" if estimate == "bound" else "exact")
    noise = Hadamard()
    x = torch.einsum("ij,bjk->bik", torch.linalg.cholesky(covariance), noise.x)
    if estimate == "bound":
        found = -float(prior.log_prob(x, NONE(len(x)), noise).mean())
        assert -1e-3 < (found - entropy) / (D * math.log(2)) < 1e-3
        return
    x = x[:4]
    steps = None if estimate == "adaptive" else 256
    found = bound.flow_log_prob(path, prior.denoiser(NONE(4)), x, Noise.ambient(4), steps, "exact")
    exact = torch.distributions.MultivariateNormal(torch.zeros(D).double(), covariance).log_prob(x[..., 0])
    assert float((found - exact).abs().max()) / (D * math.log(2)) < 1e-3


# ---- conditioning ----


@pytest.mark.parametrize("softness", [0.3, 1.0])
def test_held_components_condition_the_others_exactly(softness):
    """E5 for soft conditioning: of x ~ N(0, C) half is known, and the samples of the rest have the mean and covariance
    of the conditional Gaussian, within 4 standard errors and the noise e^−9 that the known keeps."""
    n = 4000
    factor = torch.randn(D, D, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) / 2
    covariance = factor @ factor.T + 0.1 * torch.eye(D, dtype=torch.float64)
    place = torch.linspace(0, 1, D)
    path = staggered(
        covariance.diagonal(), place, softness=softness, low=-9.0, high=9.0
    )  # at e^5 the end would still know of C
    prior = Diffusion(Sequence(D, 1), Told(covariance), path, steps=100, solver="heun")
    mask = torch.tensor([True, False, True, False, False, True])[:, None].expand(n, D, 1)
    value = torch.tensor([0.5, 0.0, -1.0, 0.0, 0.0, 0.8], dtype=torch.float64)[:, None].expand(n, D, 1)
    drawn = prior.sample(NONE(n), Noise.shared(0, n), known=(value, mask))[..., 0]
    assert torch.equal(drawn[:, mask[0, :, 0]], value[:, mask[0, :, 0], 0])
    k, f = mask[0, :, 0], ~mask[0, :, 0]
    gain = covariance[f][:, k] @ torch.linalg.inv(covariance[k][:, k])
    mean = gain @ value[0, k, 0]
    rest = covariance[f][:, f] - gain @ covariance[k][:, f]
    found = drawn[:, f]
    assert bool(((found.mean(0) - mean).abs() < 4 * (rest.diagonal() / n).sqrt() + 0.01).all())
    error = 4 * (rest.diagonal()[:, None] * rest.diagonal()[None] + rest.square()).div(n).sqrt() + 0.01
    assert bool(((torch.cov(found.T) - rest).abs() < error).all())


def test_what_is_held_does_not_move_on_the_way():
    path = staggered(torch.ones(D).double(), torch.linspace(0, 1, D), softness=0.4, sized=False, low=-9.0)
    mask = (torch.arange(D) < 2)[:, None]
    held = Held(path, mask)
    _, gamma, slope = rates(held, 101)
    assert bool((gamma[:, :2] == -9).all())
    assert bool((slope[:, :2] == 0).all())
    last = 0.6 * 0.6 + 0.4  # when component 2, at place 0.4, has become noise: (1 − s) (1 − place) + s
    u = torch.linspace(0, 1, 101, dtype=torch.float64)[:, None, None] * held.last.double()
    grown, slopes = (v[:, 2:, 0] for v in path.rate(u))
    assert float(held.last) == pytest.approx(last, abs=1e-6)
    torch.testing.assert_close(gamma[:, 2:], grown)
    torch.testing.assert_close(slope[:, 2:], slopes * float(held.last))
    both = Held(path, torch.stack([mask, torch.zeros_like(mask)]))
    assert both.last.flatten().tolist() == [float(held.last), 1.0]  # each picture by itself
    prior = Diffusion(Sequence(D, 1), Told(torch.eye(D).double()), path, steps=20, solver="ddim")
    value = torch.full((3, D, 1), 0.7, dtype=torch.float64)
    states = list(prior.trajectory(NONE(3), Noise.each(range(3)), known=(value, mask.expand(3, D, 1))))
    drift = max(float((s.z[:, :2] - states[0].z[:, :2]).abs().max()) for s in states[:-1])
    assert drift < 1e-6


def test_training_beside_finished_parts_holds_them_and_learns_the_rest():
    """A share `begun` of the pictures is held up to a random place: clean there, without weight, each by its noise."""
    b = 4000
    path = staggered(torch.ones(D).double(), torch.linspace(0, 1, D), softness=0.3, sized=False, begun=0.25, low=-9.0)
    drawn = path.drawn(Noise.each(range(b)), torch.zeros(b, D, 1, dtype=torch.float64))
    gamma, slope = drawn.rate(torch.full((b, 1, 1), 0.6, dtype=torch.float64))
    held = drawn.mask[..., 0].sum(1)
    assert bool((drawn.mask[:, 1:] <= drawn.mask[:, :-1]).all())  # from place 0 on, without gaps
    counts = torch.bincount(held, minlength=D)
    wanted = torch.tensor([0.75] + [0.25 / (D - 1)] * (D - 1)) * b  # edges fall evenly between the places
    assert bool(((counts - wanted).abs() < 4 * wanted.sqrt()).all())
    assert bool((gamma[drawn.mask] == -9).all())
    assert bool((slope[drawn.mask] == 0).all())
    again = path.drawn(Noise.each([7]), torch.zeros(1, D, 1, dtype=torch.float64))
    assert torch.equal(again.mask[0], drawn.mask[7])


def test_a_preview_is_the_picture_so_far():
    path = staggered(size=3.0, clip=False)
    prior = Diffusion(Sequence(D, 1), Told(VARIANCE.diag()), path, steps=40, solver="ddim")
    early = prior.sample(NONE(500), Noise.shared(0, 500), stop=0.6)[..., 0]
    late = prior.sample(NONE(500), Noise.shared(0, 500))[..., 0]
    # the largest component is there, the smallest is not yet
    assert float(torch.corrcoef(torch.stack([early[:, 0], late[:, 0]]))[0, 1]) > 0.95
    assert float(early[:, -1].var()) < 0.05 * float(late[:, -1].var())


# ---- a range of schedules ----


def test_a_range_draws_a_schedule_for_each_picture():
    path = staggered(torch.ones(D).double(), torch.linspace(0, 1, D), softness=0.5, between=(0.2, 0.9), sized=False)
    z = torch.zeros(6, D, 1, dtype=torch.float64)
    drawn = path.drawn(Noise.shared(0, 6), z)
    at = level(drawn, torch.full((6,), 0.4, dtype=torch.float64), z)
    assert at.gamma.shape == (6, D, 1)
    soft = drawn.vary.flatten()
    assert bool(((soft >= 0.2) & (soft <= 0.9)).all())
    assert len(set(soft.tolist())) == 6
    for i in range(6):
        single = level(path.at(float(soft[i])), torch.full((1,), 0.4, dtype=torch.float64), z[:1])
        torch.testing.assert_close(at.gamma[i], single.gamma.expand(1, D, 1)[0], rtol=0, atol=1e-6)
    prior = Diffusion(Sequence(D, 1), Told(torch.eye(D).double()), path)
    assert bool(torch.isfinite(prior.loss(z + 1, NONE(6), Noise.shared(0, 6))["denoise"]))
    with pytest.raises(UsageError, match="at most 1"):
        path.at(1.5)


def test_gud_is_equivariant_to_a_change_of_basis():
    """E7: data, noise and net rotated together give rotated samples and the same loss. Equal schedules, since only they
    mean the same in every basis."""
    q, _ = torch.linalg.qr(torch.randn(D, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    covariance = VARIANCE.diag()
    path = staggered(torch.ones(D).double(), sized=False, low=-9.0)
    space = Sequence(D, 1)
    here = Diffusion(space, Told(covariance), path, steps=12)
    there = Diffusion(space, Told(q @ covariance @ q.T), path, steps=12)
    start = torch.randn(5, D, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    turned = torch.einsum("ij,bjk->bik", q, start)
    a = here.sample(NONE(5), Noise.each(range(5)), start=start)
    b = there.sample(NONE(5), Noise.each(range(5)), start=turned)
    torch.testing.assert_close(torch.einsum("ij,bjk->bik", q, a), b, rtol=0, atol=1e-9)


# ---- learned schedules ----


def test_a_learned_schedule_grows_and_knows_its_slope():
    path = Learned(-9.0, 4.0).double()
    with torch.no_grad():
        for parameter in path.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    t = torch.linspace(FIRST, 1, 201, dtype=torch.float64)[:, None].requires_grad_()
    at = path(t)
    (slope,) = torch.autograd.grad(at.gamma.sum(), t)
    torch.testing.assert_close(slope, at.d_gamma.detach(), rtol=1e-6, atol=1e-8)
    assert bool((at.d_gamma > 0).all())
    low, high = path.ends_of_gamma.tolist()
    assert float(at.gamma[0]) == pytest.approx(low, abs=1e-9)
    assert float(at.gamma[-1]) == pytest.approx(high, abs=1e-9)
    told = path.told(t[:, 0].detach(), torch.zeros(201, 1))
    assert float(told[0]) == pytest.approx(0, abs=1e-9)
    assert float(told[-1]) == pytest.approx(1, abs=1e-9)


def test_a_learned_schedule_lowers_the_variance_of_the_bound_and_not_its_mean():
    """Data of two sizes, exact net: 300 steps on the schedule alone. The estimate's standard deviation over times falls
    by a fifth or more, its mean stays within 4 standard errors, and decoder and terminal cost hold the ends."""
    torch.manual_seed(0)
    path = Learned(-9.0, 4.0)
    variance = torch.tensor([1.0, 0.01] * 8)
    prior = Diffusion(Sequence(16, 1), AtShare(path, variance.diag()), path, "noise", "vlb")

    def costs(n=4096):
        z = torch.randn(n, 16, 1, generator=torch.Generator().manual_seed(1)) * variance[:, None].sqrt()
        path.cost = None
        t = prior.draw_times(Noise.shared(5, n))
        at, eps = level(path, t, z), Noise.shared(6, n).normal(16, 1)
        with torch.no_grad():
            error = (prior.predict(at.alpha * z + at.sigma * eps, t, NONE(n)) - eps).square()
            return (at.d_gamma / 2 * error).flatten(1).mean(1)

    before = costs()
    optimiser = torch.optim.Adam([p for n, p in path.named_parameters() if n != "ends_of_gamma"], lr=3e-2)
    for step in range(300):
        z = torch.randn(256, 16, 1) * variance[:, None].sqrt()
        optimiser.zero_grad()
        sum(prior.loss(z, NONE(256), Noise.shared(step, 256)).values()).backward()
        optimiser.step()
    after = costs()
    assert float(after.std()) < 0.8 * float(before.std())
    slack = 4 * (float(before.std()) + float(after.std())) / math.sqrt(4096)
    assert abs(float(after.mean() - before.mean())) < slack
    terms = prior.loss(z, NONE(256), Noise.shared(0, 256))
    assert set(terms) == {"denoise", "decoder", "terminal"}
    gradient = torch.autograd.grad(terms["decoder"] + terms["terminal"], path.ends_of_gamma)[0]
    assert float(gradient[0]) != 0
    assert float(gradient[1]) < 0  # more noise at the end: the terminal cost falls


# ---- importance ----


def test_importance_sampling_lowers_the_variance_and_keeps_the_mean():
    """Costs that differ by a factor of a hundred between times: after it has seen them the weighted cost varies less,
    and its mean is that of even times within 4 standard errors."""
    from sfumato.priors.diffusion.importance import Importance

    importance = Importance(20)
    cost = lambda u: torch.where(u < 0.1, 10.0, 0.1) * (1 + u)
    for step in range(50):
        u, weight = importance.draw(Noise.shared(step, 256).spread())
        assert bool(((u >= 0) & (u < 1)).all())
        importance.see(u, cost(u), True)
        importance.settle()
    u = Noise.shared(99, 4096).uniform()
    even = cost(u)
    drawn, weight = importance.draw(u)
    weighed = cost(drawn) * weight
    assert float(weighed.std()) < 0.2 * float(even.std())
    exact = 10 * (0.1 + 0.005) + 0.1 * (0.9 + (1 - 0.01) / 2)
    assert abs(float(weighed.mean()) - exact) < 4 * float(weighed.std()) / 64 + 1e-3
    before = importance.square.clone()
    importance.see(u, cost(u), True)
    importance.forget()
    importance.settle()
    assert torch.equal(importance.square, before)  # a skipped step leaves nothing behind


def test_a_time_grid_of_a_path_per_component_ends_on_data():
    at = times(staggered(size=2.0, clip=False), 10)
    assert at[0] == 1
    assert at[-1] == 0
    assert bool((at[:-1] > at[1:]).all())
