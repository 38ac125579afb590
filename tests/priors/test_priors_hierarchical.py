"""Hierarchical VAEs against closed forms: an exact ladder over Gaussian data, and the laws of guided Gaussians."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal as N
from torch.distributions import kl_divergence

from sfumato.codecs.pixels import Pixels
from sfumato.codecs.words import Words
from sfumato.conditioners import Labels, Text
from sfumato.core.condition import Condition
from sfumato.core.errors import Misfit, UsageError
from sfumato.core.noise import Noise
from sfumato.core.space import Grid
from sfumato.core.tensors import per_image
from sfumato.likelihoods import DiscretisedLogisticMixture, Normal
from sfumato.nn.pictures.ladder import Ladder, Level, resolutions
from sfumato.priors.guidance import Moments, apart, product
from sfumato.priors.hierarchical import Hierarchical, kl, log_sigma, schedule, softplus, targets
from sfumato.recipes import build
from sfumato.systems import System

A, B, C, S, T = 0.8, 1.1, -0.4, 0.5, 0.3  # z₁ ~ N(0, 1), z₂ ~ N(A z₁, S²), x = Q (B z₂ + C z₁ + T ε)
K, V = A * B + C, (B * S) ** 2 + T**2  # Qᵀx given z₁ is N(K z₁, V), and by itself N(0, K² + V)
SPACE = Grid(1, 2, 2)


class Exact(nn.Module):
    """The ladder of the linear model above, whose posterior is the exact one, off by `error` in every mean. h is
    (z₁, z₂) so far."""

    of, shapes = [0, 1], [(4, 1, 1), (4, 1, 1)]

    def __init__(self, error=0.0, scale=True):
        super().__init__()
        self.error, self.scale = error, scale
        self.turn = torch.linalg.qr(Noise.each([1]).normal(4, 4)[0].double())[0]

    def hear(self, condition):
        return None

    def encode(self, x, said):
        y = (x.flatten(1) @ self.turn)[:, :, None, None]
        return [y, y]

    def start(self, rows):
        return torch.zeros(rows, 8, 1, 1, dtype=torch.float64)

    def prior(self, i, h, said):
        mean = A * h[:, :4] if i else 0 * h[:, :4]
        return mean, torch.full_like(mean, math.log(S) if i else 0.0), torch.zeros_like(h)

    def posterior(self, i, h, a, said):
        z1 = h[:, :4]
        precision = 1 / S**2 + (B / T) ** 2 if i else 1 + K**2 / V
        mean = (A * z1 / S**2 + B * (a - C * z1) / T**2) / precision if i else K * a / V / precision
        return mean + self.error, torch.full_like(mean, -math.log(precision) / 2)

    def join(self, i, h, z, r, said):
        return torch.cat([h[:, :4], z], 1) if i else torch.cat([z, h[:, 4:]], 1)

    def exit(self, h):
        mean = ((B * h[:, 4:] + C * h[:, :4])[:, :, 0, 0] @ self.turn.T).unflatten(1, SPACE.shape)
        return torch.cat([mean, torch.full_like(mean, math.log(T))], 1) if self.scale else mean

    def norms(self):
        yield 4, torch.tensor(2.0, dtype=torch.float64)


def exact(error=0.0, **options):
    return Hierarchical(
        SPACE, Exact(error), Normal("element", floor=1e-9), parametrisation="log-sigma", **options
    ).double()


def data(rows, seed=0):
    """x of the model: Q is orthogonal, so its entries are independent, of variance K² + V."""
    return math.sqrt(K**2 + V) * Noise.shared(seed, rows).normal(*SPACE.shape).double()


def truth(x):
    return per_image(N(0 * x, math.sqrt(K**2 + V) + 0 * x).log_prob(x))  # of x's own precision


NONE = Condition.none


# ── the bound ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_with_the_exact_posterior_every_sample_of_the_bound_is_log_p():
    """E2, with equality: no spread at all, up to float64; so for one draw and for several."""
    x = data(64)
    for importance in (1, 3):
        found = exact(importance=importance).log_prob(x, NONE(64), Noise.each(range(64)))
        torch.testing.assert_close(found, truth(x), rtol=1e-10, atol=1e-10)


def test_the_loss_is_minus_log_p_per_entry_in_the_mean():
    """data + rate with analytic KLs has the noise of z₁ and z₂ alone: within 4 standard errors, about 1e-3 nats."""
    x = data(1).expand(40_000, -1, -1, -1)
    prior = exact()
    terms = prior.loss(x, NONE(len(x)), Noise.shared(3, len(x)))
    assert set(terms) == {"data", "rate"}
    torch.testing.assert_close(sum(terms.values()), -truth(x[:1]).mean() / 4, rtol=0, atol=4e-3)
    found = prior.diagnostics()
    assert found["rate_nats"] == pytest.approx(terms["rate"].item())
    assert found["share_1"] == pytest.approx(1)
    assert found["active_layers"] == 2
    assert prior.diagnostics() == {}  # since the last call


def test_a_wrong_posterior_is_below_and_more_draws_are_nearer():
    """ELBO ≤ IWAE₁₆ ≤ log p: by 0.3 of every posterior mean the first gap is ½ Σ 0.3²/σ_q², closed form below."""
    x = data(1).expand(20_000, -1, -1, -1)
    one, many = (exact(0.3, importance=k).log_prob(x, NONE(len(x)), Noise.shared(5, len(x))).mean() for k in (1, 16))
    exactly = truth(x[:1]).item()
    precision = [1 + K**2 / V, 1 / S**2 + (B / T) ** 2]
    # z₂'s mean is a function of z₁ that holds wherever z₁ is, so only its own error counts, and z₁'s likewise
    gap = 4 * sum(p * 0.3**2 / 2 for p in precision)
    assert one.item() == pytest.approx(exactly - gap, abs=0.05)  # 4 standard errors
    assert one < many - 0.2 < exactly - 0.2


@pytest.mark.parametrize("sigma", [0.05, 0.3])
def test_the_zeroth_layer_bounds_the_smoothed_density(sigma):
    """D is E −log p(x + σ ε | z) less an entropy, and D + R ≥ KL(N(x, σ²) ‖ p), here a closed form."""
    x = data(1).expand(20_000, -1, -1, -1)
    prior, noise = exact(sigma=sigma), Noise.shared(7, len(x))
    terms = prior.loss(x, NONE(len(x)), noise)
    smooth = kl_divergence(N(x[:1], sigma), N(0.0, math.sqrt(K**2 + V))).mean()
    gap = (sum(terms.values()) - smooth).item()
    # q is the exact posterior of x and not of x̃, so the gap is E KL(p(z | x) ‖ p(z | x̃)): per entry ½ σ² times the
    # Fisher information of z about y, which is that of (z, y) less that of y alone
    assert gap == pytest.approx(sigma**2 / 2 * (1 / T**2 - 1 / (K**2 + V)), abs=4e-3)  # 4 standard errors
    z = torch.randn(5, 8, 1, 1, dtype=torch.float64)
    likely = prior.likelihood(prior.net.exit(z))
    near = x[:5, None] + sigma * torch.randn(5, 20_000, *SPACE.shape, dtype=torch.float64)
    by_draws = -N(likely.mean[:, None], T).log_prob(near).mean(1).flatten(1).sum(1)
    entropy = 4 * (0.5 + math.log(sigma) + 0.5 * math.log(2 * math.pi))
    spread = 4 * 30 * sigma / T**2 / math.sqrt(20_000)
    torch.testing.assert_close(prior._distortion(likely, x[:5]), by_draws - entropy, rtol=0, atol=spread)


def test_a_vanishing_zeroth_layer_costs_without_end():
    """D grows by log 10 an entry for each digit of σ that is taken away."""
    x, costs = data(3), []
    for sigma in (1e-3, 1e-4, 1e-5):
        prior = exact(sigma=sigma)
        likely = prior.likelihood(prior.net.exit(torch.zeros(3, 8, 1, 1, dtype=torch.float64)))
        costs.append(prior._distortion(likely, x).mean() / 4)
    assert (costs[1] - costs[0]).item() == pytest.approx(math.log(10), abs=1e-4)
    assert (costs[2] - costs[1]).item() == pytest.approx(math.log(10), abs=1e-4)


def test_bits_per_dimension_of_gaussian_data_through_a_system():
    """E2: within 1e-3 of the analytic bits, for a density on raw pixels; x is far inside [−1, 1] after scaling."""
    codec = Pixels(SPACE, "raw")
    system = System(codec, exact())
    x = data(256)
    bits = -system.log_prob(x).mean() / (4 * math.log(2))
    assert bits.item() == pytest.approx(-truth(x).mean().item() / (4 * math.log(2)), abs=1e-3)
    assert system.log_prob_kind == "bound"


@pytest.mark.parametrize("style", ["bottleneck", "expansion"])
def test_a_trained_ladder_stays_on_the_right_side(style):
    """Gaussian data of known density: after training the mean of the bound is near the truth, and not above it."""
    torch.manual_seed(0)
    space = Grid(1, 4, 4)
    mix = torch.linalg.cholesky(torch.exp(-torch.cdist(*[torch.cartesian_prod(*[torch.arange(4.0)] * 2)] * 2) / 2))
    draw = lambda rows, seed: (Noise.shared(seed, rows).normal(16) @ mix.T).unflatten(1, space.shape)
    of = torch.distributions.MultivariateNormal(torch.zeros(16), scale_tril=mix)
    levels = tuple(Level(side, 2, 1, {"bottleneck": 0.5, "expansion": 2}[style]) for side in resolutions(4, 4))
    net = Ladder(levels, 1, 2, style=style, width=16, z=4)
    prior = Hierarchical(
        space, net, Normal("element"), parametrisation="log-sigma" if style == "bottleneck" else "softplus"
    )
    optimiser = torch.optim.Adam(prior.parameters(), 3e-3)
    for step in range(150):
        optimiser.zero_grad()
        sum(prior.loss(draw(64, step), NONE(64), Noise.shared(step, 64)).values()).backward()
        optimiser.step()
    x = draw(4000, -1 % 10**6)
    with torch.no_grad():
        gap = of.log_prob(x.flatten(1)) - prior.eval().log_prob(x, NONE(4000), Noise.shared(9, 4000))
    assert gap.mean() > -4 * gap.std() / math.sqrt(4000)
    assert gap.mean() / 16 < 0.5  # of 0.97 nats an entry that independent ones of unit variance would be off by


def test_eight_bit_values_have_probabilities():
    """Over all pictures of one cell they sum to one; many draws come near."""
    torch.manual_seed(0)
    space, likelihood = Grid(1, 1, 1), DiscretisedLogisticMixture(2)
    net = Ladder((Level((1, 1), 2, 1, 1.0),), 1, likelihood.channels(1), style="bottleneck", width=8, z=2)
    for p in net.parameters():
        p.data += 0.1 * torch.randn_like(p)
    prior = Hierarchical(space, net, likelihood, parametrisation="log-sigma", importance=200)
    x = (torch.arange(256) / 127.5 - 1).reshape(256, 1, 1, 1)
    with torch.no_grad():
        total = prior.log_prob(x, NONE(256), Noise.shared(1, 256)).exp().sum()
    assert total.item() == pytest.approx(1, abs=0.02)


def test_over_eight_bit_values_it_says_probabilities():
    """CODEC+PRIOR knows which pixels want a density and which probabilities: untrained, about a uniform guess."""
    torch.manual_seed(0)
    x = (torch.arange(256) / 127.5 - 1).reshape(1, 1, 16, 16)
    values = build("values+hierarchical", size="xs", side=16, channels=1)
    assert values.prior.likelihood.discrete
    assert 7 < values.bits_per_dim(x).item() < 10
    assert not build("pixels+hierarchical", size="xs", side=16, channels=1).prior.likelihood.discrete


# ── Gaussians ────────────────────────────────────────────────────────────────────────────────────────────────────────


def moments(seed, shape=(50,)):
    noise = Noise.shared(seed, 1)
    return Moments(noise.normal(*shape)[0].double(), noise.normal(*shape)[0].double())


def as_normal(m):
    return N(m.mean, (m.log_var / 2).exp())


def test_kl_is_the_closed_form():
    q, p = moments(1), moments(2)
    torch.testing.assert_close(kl(q, p), kl_divergence(as_normal(q), as_normal(p)))


def test_softplus_is_one_at_zero_and_finite_far_out():
    s = torch.tensor([0.0, -1e3, 1e3, -20.0], requires_grad=True)
    found = softplus(torch.zeros(4), s)
    assert found.log_var[0].item() == pytest.approx(0, abs=1e-7)
    assert found.log_var.isfinite().all()
    assert found.log_var[3].item() == pytest.approx(-20 * math.log(2) - math.log(math.log(2)), abs=1e-4)  # 2^s / log 2
    found.log_var.sum().backward()
    assert s.grad.isfinite().all()
    assert log_sigma(torch.zeros(1), torch.zeros(1)).log_var.item() == 0


@pytest.mark.parametrize("parametrisation", ["log-sigma", "softplus"])
def test_a_new_prior_is_standard_normal_so_each_rate_is_a_kl_to_it(parametrisation):
    torch.manual_seed(0)
    prior = build("deep-vae", size="xs", side=16).prior
    prior.read = {"log-sigma": log_sigma, "softplus": softplus}[parametrisation]
    x = torch.randn(3, *prior.space.shape)
    for _, q, p, _ in prior._inferred(x, NONE(3), NONE(3), prior._noise(Noise.each(range(3)))):
        assert p.mean.abs().max() == 0
        assert p.log_var.abs().max() < 1e-6
        torch.testing.assert_close(kl(q, p), kl_divergence(as_normal(q), N(0.0, 1.0)), rtol=1e-4, atol=1e-6)


def test_guided_means_and_variances_are_the_papers():
    c, u = moments(3), moments(4)
    found = apart(c, u, 2.5, 4.0)  # the released m = 1.5, v = 3
    torch.testing.assert_close(found.mean, c.mean + 1.5 * (c.mean - u.mean))
    torch.testing.assert_close(found.log_var.exp(), c.log_var.exp() * (c.log_var.exp() / u.log_var.exp()) ** 3)
    surer = c.log_var < u.log_var
    assert torch.equal(found.log_var < c.log_var, surer)
    held = apart(c, u, 2.5, 4.0, most=0.1)
    assert ((held.log_var - c.log_var).abs() <= 0.3 + 1e-12).all()
    for scale, of in ((0, u), (1, c)):
        torch.testing.assert_close(apart(c, u, scale, scale).mean, of.mean)
        torch.testing.assert_close(apart(c, u, scale, scale).log_var, of.log_var)


def test_guidance_between_two_that_agree_changes_nothing():
    """Bit for bit, for any scale and rule."""
    c = moments(5)
    for scale, variance in ((0.0, 0.0), (2.5, 4.0), (-3.0, 9.0), (20.0, 0.3)):
        assert all(torch.equal(a, b) for a, b in zip(apart(c, c, scale, variance), c))
        assert all(torch.equal(a, b) for a, b in zip(product(c, c, scale), c))


@pytest.mark.parametrize("scale", [0.0, 0.4, 1.0, 1.8, 3.0, -1.0])
def test_the_product_is_the_density_p_c_over_p_u(scale):
    """log p_c · s − log p_u · (s − 1) minus the found log-density is one constant, where the product exists."""
    c, u = moments(6), moments(7)
    kappa = 1 + (scale - 1) * (1 - (c.log_var - u.log_var).exp())
    fine = kappa > 0.1
    assert fine.sum() > 10
    found = product(c, u, scale)
    assert found.mean.isfinite().all()
    assert found.log_var.isfinite().all()
    x = torch.linspace(-3, 3, 7, dtype=torch.float64)[:, None]
    target = scale * as_normal(c).log_prob(x) - (scale - 1) * as_normal(u).log_prob(x)
    spread = (target - as_normal(found).log_prob(x))[:, fine]
    torch.testing.assert_close(spread, spread[:1].expand_as(spread), rtol=0, atol=1e-9)
    # where it does not exist, a tenth of c's precision is left, and never less
    assert ((found.log_var - c.log_var).exp() <= 10 + 1e-9).all() or 0 <= scale <= 1


# ── the schedule ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_targets_of_the_paper():
    """48 layers and S = 1000: 0.09 % for the first, 8.6 % for the last, 49 % of all for the last ten."""
    t = targets(48, 1000)
    assert sum(t) == pytest.approx(2 / 3)
    assert 100 * t[0] == pytest.approx(0.09, abs=5e-3)
    assert 100 * t[-1] == pytest.approx(8.6, abs=0.05)
    assert 100 * sum(t[-10:]) == pytest.approx(49, abs=0.5)
    assert t == sorted(t)
    assert targets(1, 100) == [pytest.approx(2 / 3)]


def test_the_weights_of_the_schedule():
    """One layer of 100 nats in all has a target of 10: its weight by its own KL, piece by piece, per image."""
    own = torch.tensor([0.0, 0.5, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 90.0])
    rates = torch.stack([own, 100 - own], 1).requires_grad_()
    weights = schedule(rates, [0.1, 0.5])
    torch.testing.assert_close(weights[:, 0], torch.tensor([0.1, 0.1, 0.5, 1.0, 1.0, 1.0, 1.5, 2.0, 2.0]))
    assert not weights.requires_grad
    (weights * rates).sum().backward()
    assert torch.equal(rates.grad, weights)  # the weight is a number
    assert schedule(torch.zeros(2, 3), [0.2, 0.2, 0.2]).isfinite().all()


def test_the_terms_are_weighted_and_add_up():
    x, noise = data(8), lambda: Noise.shared(1, 8)
    plain, scheduled = exact(), exact(spread=50, spectral=0.1)
    rates = torch.stack(
        [per_image(kl(q, p)) for _, q, p, _ in plain._inferred(x, NONE(8), NONE(8), plain._noise(noise()))], 1
    )
    terms = scheduled.loss(x, NONE(8), noise())
    torch.testing.assert_close(terms["rate"], (schedule(rates, targets(2, 50)) * rates).sum(1).mean() / 4)
    torch.testing.assert_close(terms["spectral"], torch.tensor(0.1 * 4 * 2 / 4).double())
    torch.testing.assert_close(plain.loss(x, NONE(8), noise())["data"], terms["data"])


def test_a_latent_far_out_counts_as_less_in_training_only():
    x = data(4)
    x[0, 0, 0, 0] = 50.0
    held, cut = exact(reach=4), x.clamp(-4, 4)
    noise = lambda: Noise.shared(1, 4)
    torch.testing.assert_close(held.loss(x, NONE(4), noise())["data"], exact().loss(cut, NONE(4), noise())["data"])
    assert torch.equal(held.log_prob(x, NONE(4), noise()), exact().log_prob(x, NONE(4), noise()))


# ── sampling ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def guided():
    """A prior with labels, away from its start: (prior, condition, null)."""
    torch.manual_seed(0)
    system = build("deep-vae", size="xs", side=28, channels=1, classes=3).eval()
    with torch.no_grad():
        for p in system.parameters():
            p.add_(0.05 * torch.randn_like(p))
        condition, null = system.conditioner({"label": [0, 1, 2]}), system.conditioner.null(3)
    return system.prior, condition, null


def draw(prior, condition, **options):
    return prior.sample(condition, Noise.each(range(3)), **options)


def test_unguided_is_one_stream_bit_for_bit(guided):
    prior, condition, null = guided
    plain = draw(prior, condition)
    for options in (
        {"guidance": 1.0},
        {"guidance": [1, 1, 1], "variance_guidance": 1.0},
        {"variance_guidance": [1, 1, 1]},
    ):
        assert torch.equal(draw(prior, condition, null=null, **options), plain)
    two = draw(prior, condition, null=null, variance_guidance=1 + 2**-52)  # two streams, and m = 0, v = 2e-16
    torch.testing.assert_close(two, plain, rtol=1e-4, atol=1e-5)  # float32, a batch of another shape
    assert not torch.equal(draw(prior, condition, null=null, guidance=2.0), plain)


def test_nought_is_unconditional_bit_for_bit(guided):
    prior, condition, null = guided
    assert torch.equal(draw(prior, condition, null=null, guidance=0.0), draw(prior, null))


def test_two_streams_that_hear_the_same_are_not_moved_by_any_scale(guided):
    prior, condition, _ = guided
    one = draw(prior, condition, null=condition, guidance=2.5, variance_guidance=4.0)
    for options in ({"guidance": -3.0}, {"guidance": 9.0, "rule": "product"}, {"guidance": [4, 1, 1], "most": 0.1}):
        assert torch.equal(draw(prior, condition, null=condition, **options), one)
    torch.testing.assert_close(one, draw(prior, condition), rtol=1e-4, atol=1e-5)  # float32, a batch of another shape


def test_both_streams_go_on_with_one_sample(guided, monkeypatch):
    prior, condition, null = guided
    join, seen = prior.net.join, []
    monkeypatch.setattr(prior.net, "join", lambda i, h, z, r, said: (seen.append((h, z)), join(i, h, z, r, said))[1])
    draw(prior, condition, null=null, guidance=3.0)
    assert len(seen) == len(prior.net.of)
    for _, z in seen:
        assert torch.equal(*z.chunk(2))
    first, second = seen[-1][0].chunk(2)
    assert not torch.allclose(first, second)


def test_each_resolution_has_its_own_scale_and_temperature(guided):
    prior, condition, null = guided
    assert prior.levels == 3
    coarse = draw(prior, condition, null=null, guidance=[3, 1, 1])
    fine = draw(prior, condition, null=null, guidance=[1, 1, 3])
    assert not torch.allclose(coarse, fine)
    cold = draw(prior, condition, temperature=0.0)
    assert torch.equal(cold, prior.sample(condition, Noise.each([7, 8, 9]), temperature=[0, 0, 0]))
    assert not torch.equal(cold, draw(prior, condition, temperature=[0, 0, 1]))
    for name in ("guidance", "temperature", "variance_guidance"):
        with pytest.raises(
            UsageError, match=rf"{name} is one number, or one for each of the 3 resolutions \[1, 4, 7\]"
        ):
            draw(prior, condition, null=null, **{name: [2, 1]})


def test_a_list_of_scales_reaches_the_prior_through_the_system():
    system = build("deep-vae", size="xs", side=28, channels=1, classes=3).eval()
    x = system.sample(2, {"label": [0, 1]}, guidance=[2.0, 1.0, 1.0], temperature=0.7, batch=2)
    assert x.shape == (2, 1, 28, 28)
    with pytest.raises(UsageError, match="Did you mean 'temperature'"):
        system.sample(1, {"label": 0}, temprature=1.0)


def test_the_variance_alone_can_be_guided_through_the_system():
    """guidance is 1 then, and yet there is something to guide away from."""
    system = build("deep-vae", size="xs", side=28, channels=1, classes=3).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in system.parameters():  # so that the two streams differ
            parameter.add_(0.05 * torch.randn_like(parameter))
    drawn = system.sample(2, {"label": [0, 1]}, variance_guidance=3.0, batch=2, seeds=[5, 6])
    condition, null = system.conditioner({"label": torch.tensor([0, 1])}), system.conditioner.null(2)
    z = system.prior.sample(condition, Noise.each([5, 6]), null=null, variance_guidance=3.0)
    assert torch.equal(drawn, system.decode(z))
    assert not torch.equal(drawn, system.sample(2, {"label": [0, 1]}, batch=2, seeds=[5, 6]))


def test_what_it_cannot_do_is_said(guided):
    prior, condition, _ = guided
    with pytest.raises(UsageError, match="null condition to guide away from"):
        draw(prior, condition, guidance=2.0)
    value = torch.zeros(3, *prior.space.shape)
    with pytest.raises(UsageError, match="cannot hold a part"):
        draw(prior, condition, known=(value, value > 0))
    with pytest.raises(UsageError, match="apart or product"):
        draw(prior, condition, null=condition, guidance=2.0, rule="sum")
    with pytest.raises(Misfit, match="Gaussian of learned width"):
        Hierarchical(SPACE, Exact(), Normal(0.3), sigma=0.1)


def test_the_law_of_the_exact_model_is_drawn():
    """10,000 draws of the linear model: variance K² + V of every entry, none of it shared between entries."""
    prior = exact(draw=True)
    x = prior.sample(NONE(10_000), Noise.shared(2, 10_000)).flatten(1)
    error = 4 * math.sqrt(2 / 10_000)
    torch.testing.assert_close(
        torch.cov(x.T), (K**2 + V) * torch.eye(4, dtype=x.dtype), rtol=0, atol=(K**2 + V) * error
    )
    assert x.mean(0).abs().max() < 4 * math.sqrt((K**2 + V) / 10_000)
    half = exact(draw=False).sample(NONE(10_000), Noise.shared(2, 10_000), temperature=0.5).flatten(1)
    torch.testing.assert_close(  # z₁ and z₂'s own noise at half the deviation, and no noise of the likelihood
        half.var(0).mean(), torch.tensor((K**2 + (B * S) ** 2) / 4).double(), rtol=error, atol=0
    )


def test_what_is_inverted_is_drawn_again(guided):
    """The noise of a latent, drawn with, is what the posterior's means decode to."""
    prior, condition, _ = guided
    x = torch.randn(3, *prior.space.shape)
    with torch.no_grad():
        eps = [torch.zeros(3, *shape) for shape in prior.net.shapes]
        *_, (_, _, _, h) = prior._inferred(x, condition, condition, eps)
        wanted = prior.likelihood(prior.net.exit(h)).mean
    found = draw(prior, condition, start=prior.invert(x, condition))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


# ── who hears what ───────────────────────────────────────────────────────────────────────────────────────────────────


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(300, 5)

    def forward(self, ids, mask):
        return self.table(ids)


def conditioner(kind, drop):
    if kind == "label":
        return Labels(3, 5, drop=drop), {"label": torch.tensor([0, 1, 2])}
    texts = ["a red apple", "a blue square", "a cup"]
    words = Words(300, 8)
    words.prepare(lambda: [{"text": texts}])
    return Text(words, Reader(), drop=drop), {"text": texts}


@pytest.mark.parametrize("kind", ["label", "text"])
def test_the_posterior_hears_what_the_prior_is_not_told(kind):
    """Every row dropped: encoder and posterior hear the true condition, prior and generator the null one."""
    torch.manual_seed(0)
    space = Grid(3, 4, 4)
    listener, given = conditioner(kind, drop=1.0)
    levels = tuple(Level(side, 1, 1, 1.0) for side in resolutions(4, 4))
    net = Ladder(levels, 3, 6, style="expansion", width=8, z=2, vector=5)
    system = System(Pixels(space, "raw"), Hierarchical(space, net, Normal("element")), listener)
    heard = {}

    def spy(name):
        method = getattr(net, name)

        def called(*arguments):
            heard.setdefault(name, []).append(arguments[-1].vector)
            return method(*arguments)

        setattr(net, name, called)

    for name in ("encode", "prior", "posterior", "join"):
        spy(name)
    system.loss({"image": torch.zeros(3, 3, 4, 4), **given}, noise=Noise.shared(1, 3))
    full, null = (net.hear(c).vector for c in (listener(given), listener.null(3)))
    assert not torch.allclose(full, null)
    for name, wanted in (("encode", full), ("posterior", full), ("prior", null), ("join", null)):
        assert heard[name], name
        for vector in heard[name]:
            torch.testing.assert_close(vector, wanted, msg=name)
    for parameter in system.players()[0]:
        parameter.grad = None


def test_other_priors_are_handed_no_companion():
    system = build("ldm", size="xs", side=16, classes=3)
    seen = []
    system.prior.loss = lambda z, condition, *rest: seen.append(condition) or {}
    system.loss({"image": torch.zeros(3, 3, 16, 16), "label": torch.tensor([0, 1, 2])}, noise=Noise.shared(1, 3))
    assert seen[0].full is None


def test_a_condition_carries_its_companion_wherever_it_goes():
    full = Condition(2, vector=torch.ones(2, 3))
    condition = Condition(2, vector=torch.zeros(2, 3), full=full)
    assert torch.equal(condition.repeat(2).full.vector, torch.ones(4, 3))
    assert condition[1:].full.rows == 1
    assert condition.to("cpu").full.vector.shape == (2, 3)
    assert Condition.none(2).full is None
