"""Likelihoods against quadrature, summation and torch's own distributions."""

import math

import pytest
import torch
from scipy import stats

from sfumato.core.errors import UnknownName
from sfumato.core.noise import Noise
from sfumato.likelihoods import LIKELIHOODS, SWIFT, Categorical, Likelihood, Normal, from_levels, to_levels

LEVELS = from_levels(torch.arange(256), dtype=torch.float64)

# name -> constructor, all that LIKELIHOODS holds
TABLE = {
    "normal": lambda: LIKELIHOODS["normal"]("element"),
    "laplace": lambda: LIKELIHOODS["laplace"]("element"),
    "logit-laplace": lambda: LIKELIHOODS["logit-laplace"](),
    "mixture": lambda: LIKELIHOODS["mixture"](3),
    "logistic-mixture": lambda: LIKELIHOODS["logistic-mixture"](3),
    "levels": lambda: LIKELIHOODS["levels"](),
    "bernoulli": lambda: LIKELIHOODS["bernoulli"](),
    "categorical": lambda: LIKELIHOODS["categorical"](7),
}
IMAGES = [name for name in TABLE if name != "categorical"]


def features(likelihood: Likelihood, c: int, *shape: int, seed: int = 0, spread: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(shape[0], likelihood.channels(c), *shape[1:], generator=generator, dtype=torch.float64)


def test_the_table_covers_the_registry():
    assert set(TABLE) == set(LIKELIHOODS)
    with pytest.raises(UnknownName, match="logit-laplace"):
        LIKELIHOODS["logitlaplace"]


@pytest.mark.parametrize(
    ("name", "low", "high"),
    # logit-Laplace lives on x in ±1 / (1 − 2ε) = ±1.25; the others' tails beyond ±60 are below float64
    [("normal", -60, 60), ("laplace", -400, 400), ("logit-laplace", -1.25, 1.25), ("mixture", -60, 60)],
)
@pytest.mark.parametrize("seed", range(3))
def test_densities_integrate_to_one(name, low, high, seed):
    """Trapezoids on 2·10⁶ points: the kink of a Laplace costs at most (step / b)² ~ 1e-6."""
    likelihood = TABLE[name]()
    distribution = likelihood(features(likelihood, 1, 1, 1, 1, seed=seed))
    x = torch.linspace(low, high, 2_000_001, dtype=torch.float64)[1:-1].reshape(1, 1, -1, 1)
    mass = torch.trapezoid(distribution.log_prob(x).exp().flatten(), x.flatten())
    assert abs(mass - 1) < 2e-5


@pytest.mark.parametrize("spread", [0.3, 3.0])
@pytest.mark.parametrize("name", ["logistic-mixture", "levels"])
def test_the_256_probabilities_sum_to_one(name, spread):
    likelihood = TABLE[name]()
    h = features(likelihood, 1, 16, 1, 1, spread=spread).expand(-1, -1, 256, 1)
    total = likelihood(h).log_prob(LEVELS.reshape(1, 1, 256, 1).expand(16, 1, 256, 1)).exp().flatten(1).sum(1)
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-12, rtol=0)


def test_coupled_channels_sum_to_one_given_those_before():
    """Σ_b P(r, g, b) over all b, then over all g, is P(r) of the mixture with one channel."""
    likelihood = TABLE["logistic-mixture"]()
    h = features(likelihood, 2, 1, 1, 1)
    joint = likelihood(h)
    r, g = torch.meshgrid(LEVELS, LEVELS, indexing="ij")
    total = joint.log_prob(torch.stack([r, g])[None]).exp()
    assert abs(total.sum() - 1) < 1e-10
    alone = type(joint)(joint.logits, joint.means[..., :1], joint.log_scales[..., :1], joint.coefficients[..., :0], 1)
    first = alone.log_prob(LEVELS.reshape(1, 1, 256, 1)).exp().flatten()
    torch.testing.assert_close(total[0].sum(1), first, atol=1e-12, rtol=1e-9)


def test_binary_probabilities_sum_to_one():
    likelihood = TABLE["bernoulli"]()
    distribution = likelihood(features(likelihood, 2, 3, 2, 2, spread=5))
    one = torch.ones(3, 2, 2, 2, dtype=torch.float64)
    total = distribution.log_prob(one).exp() + distribution.log_prob(-one).exp()
    torch.testing.assert_close(total, one, atol=1e-13, rtol=0)


def test_logistic_tails_stay_finite_where_differences_underflow():
    """A narrow bump at −1 and a white pixel: σ(a) − σ(b) is 0 in float32, its logarithm must not be."""
    likelihood = LIKELIHOODS["logistic-mixture"](1)
    h = torch.tensor([0.0, -1.0, -9.0]).reshape(1, 3, 1, 1).requires_grad_()
    value = likelihood(h).log_prob(torch.full((1, 1, 1, 1), 0.9)).sum()
    # density · step ≈ e^(−gap / s) / s · step, exactly log(1 − e^(−step / s)) − (gap − step / 2) / s
    s = math.hypot(math.exp(-9), math.exp(-7))
    gap = float(from_levels(to_levels(torch.tensor(0.9)))) + 1
    expected = math.log(-math.expm1(-1 / 127.5 / s)) - (gap - 0.5 / 127.5) / s
    assert float(value.detach()) == pytest.approx(expected, rel=1e-5)
    value.backward()
    assert h.grad.isfinite().all()
    assert h.grad.abs().sum() > 0


@pytest.mark.parametrize("name", IMAGES)
def test_gradients(name):
    """E8. Values lie off the kinks (Laplace) and on the 8-bit grid."""
    likelihood = TABLE[name]().double()
    h = features(likelihood, 2, 2, 2, 1, spread=0.5).requires_grad_()
    if name == "levels":
        h = (h[:, :512]).detach().requires_grad_()
    x = from_levels(torch.tensor([0, 3, 90, 128, 200, 254, 255, 17])).double().reshape(2, 2, 2, 1)
    assert torch.autograd.gradcheck(lambda h: likelihood(h).log_prob(x), h, fast_mode=True)


@pytest.mark.parametrize(
    ("name", "of"), [("normal", torch.distributions.Normal), ("laplace", torch.distributions.Laplace)]
)
@pytest.mark.parametrize("scale", [0.3, "global", "element"])
def test_location_scale_equals_torch(name, of, scale):
    likelihood = LIKELIHOODS[name](scale, floor=1e-9)
    h = features(likelihood, 2, 3, 4, 4)
    x = torch.rand(3, 2, 4, 4, dtype=torch.float64) * 2 - 1
    if scale == "global":
        torch.nn.init.constant_(likelihood.log_scale, -1.3 / SWIFT)
    spread = {"global": torch.tensor(-1.3).exp(), 0.3: torch.tensor(0.3), "element": h[:, 2:].exp()}[scale]
    torch.testing.assert_close(
        likelihood(h).log_prob(x), of(h[:, :2], spread.double()).log_prob(x), atol=1e-6, rtol=1e-6
    )


def test_the_floor_bounds_the_density_and_keeps_the_gradient():
    likelihood = Normal("global", floor=0.01)
    torch.nn.init.constant_(likelihood.log_scale, -8.0 / SWIFT)  # σ = 3e-4, far below the floor
    x = torch.zeros(1, 1, 4, 4)
    nats = likelihood(x).log_prob(x)
    assert float(nats.detach().max()) <= -math.log(0.01)
    (likelihood(x + 1).log_prob(x)).sum().backward()
    assert likelihood.log_scale.grad != 0


def test_logit_laplace_at_the_borders():
    likelihood = TABLE["logit-laplace"]()
    h = torch.zeros(1, 2, 1, 2, requires_grad=True)
    x = torch.tensor([-1.0, 1.0]).reshape(1, 1, 1, 2).requires_grad_()
    nats = likelihood(h).log_prob(x)
    b = math.hypot(1, 0.01)
    expected = math.log(0.4) - math.log(9) / b - math.log(2 * b * 0.1 * 0.9)
    torch.testing.assert_close(nats, torch.full_like(nats, expected), atol=1e-5, rtol=0)
    nats.sum().backward()
    assert x.grad.isfinite().all()
    assert h.grad.isfinite().all()


def test_logit_laplace_shows_the_colour_it_is_centred_on():
    """Display is φ⁻¹(σ(μ)): a pixel that is the centre is shown as it is, what lies outside is clamped."""
    likelihood = TABLE["logit-laplace"]()
    x = torch.linspace(-1, 1, 9).reshape(1, 1, 1, 9)
    centre = (0.4 * (x + 1) + 0.1).logit()
    torch.testing.assert_close(likelihood(torch.cat([centre, 0 * x], 1)).mean, x, atol=1e-6, rtol=0)
    assert likelihood(torch.full((1, 2, 1, 1), 50.0)).mean == 1


@pytest.mark.parametrize("name", ["normal", "laplace", "logistic-mixture", "levels", "bernoulli", "mixture"])
def test_samples_have_the_mean(name):
    """20,000 draws of one pixel; a mean within 5 standard errors. (A logit-Laplace shows its median instead; the
    logistic mixture is centred well inside [−1, 1], where clipping moves its mean by less than that.)"""
    likelihood = TABLE[name]()
    h = features(likelihood, 1, 1, 1, 1, spread=0.2).float()
    if name == "logistic-mixture":
        h = h - torch.tensor([0, 0, 0, 0, 0, 0, 4, 4, 4.0]).reshape(1, 9, 1, 1)
    distribution = likelihood(h.expand(20_000, -1, -1, -1))
    drawn = distribution.sample(Noise.shared(1, 20_000)).double().flatten()
    error = drawn.std() / math.sqrt(len(drawn))
    assert abs(drawn.mean() - distribution.mean[0].double().item()) < 5 * error
    assert distribution.log_prob(distribution.sample(Noise.shared(2, 20_000))).isfinite().all()


def test_logit_laplace_draws_follow_its_distribution():
    """Kolmogorov-Smirnov of the logits of 5,000 draws against the Laplace; drawn colours that were clamped are left out
    by a centre and width which put 1e-4 of the mass outside."""
    likelihood = TABLE["logit-laplace"]()
    h = torch.tensor([0.2, -1.5]).reshape(1, 2, 1, 1).expand(5000, -1, -1, -1)
    drawn = likelihood(h).sample(Noise.shared(3, 5000)).flatten().double()
    logit = (0.4 * (drawn + 1) + 0.1).logit()
    assert stats.kstest(logit.numpy(), stats.laplace(0.2, math.hypot(math.exp(-1.5), 0.01)).cdf).pvalue > 1e-3


def test_logistic_mixture_draws_follow_its_probabilities():
    """Chi-square over the 256 values (pooled to those expected at least 5 times), 20,000 draws."""
    likelihood = TABLE["logistic-mixture"]()
    h = features(likelihood, 1, 1, 1, 1, spread=0.7).float()
    p = likelihood(h.expand(1, -1, 256, 1)).log_prob(LEVELS.float().reshape(1, 1, 256, 1)).exp().flatten().double()
    drawn = to_levels(likelihood(h.expand(20_000, -1, -1, -1)).sample(Noise.shared(4, 20_000))).flatten()
    seen, expected = torch.bincount(drawn, minlength=256).double(), 20_000 * p / p.sum()
    big = expected >= 5
    seen = torch.cat([seen[big], seen[~big].sum()[None]])
    expected = torch.cat([expected[big], expected[~big].sum()[None]])
    assert stats.chisquare(seen[expected > 0].numpy(), expected[expected > 0].numpy()).pvalue > 1e-3


def test_categorical_over_a_sequence():
    likelihood = Categorical(7)
    h = torch.randn(2, 5, 7)
    z = torch.randint(7, (2, 5))
    torch.testing.assert_close(likelihood(h, dim=-1).log_prob(z), torch.distributions.Categorical(logits=h).log_prob(z))
    assert likelihood(h, dim=-1).mean.shape == (2, 5)
    drawn = likelihood(h[:1, :1].expand(20_000, 1, 7), dim=-1).sample(Noise.shared(5, 20_000)).flatten()
    expected = 20_000 * h[0, 0].softmax(0).double()
    assert (
        stats.chisquare(torch.bincount(drawn, minlength=7).numpy(), (expected / expected.sum() * 20_000).numpy()).pvalue
        > 1e-3
    )


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("dim", [1, -1])
def test_shapes_for_pictures_and_sequences(name, dim):
    """x, samples and means share a shape; log_prob is x's, or x's without channels for what couples them."""
    likelihood = TABLE[name]()
    c = 1 if name == "categorical" else 3
    h = torch.randn(2, likelihood.channels(c), 4, 5).movedim(1, dim)
    distribution = likelihood(h, dim=dim)
    x = distribution.sample(Noise.shared(0, 2))
    assert distribution.mean.shape == x.shape
    shape = (2, 4, 5) if name == "categorical" else tuple(torch.empty(2, 3, 4, 5).movedim(1, dim).shape)
    assert tuple(x.shape) == shape
    assert distribution.log_prob(x).shape in {shape, (2, 4, 5)}


def test_bf16_features_are_read_in_float32():
    likelihood = TABLE["logistic-mixture"]()
    h = torch.randn(2, likelihood.channels(3), 4, 4).bfloat16()
    assert likelihood(h).log_prob(torch.zeros(2, 3, 4, 4)).dtype == torch.float32


@pytest.mark.parametrize("scale", [0, -1.0, "pixel"])
def test_a_scale_that_is_none_is_refused(scale):
    with pytest.raises(ValueError, match="scale"):
        Normal(scale)


@pytest.mark.parametrize("name", ["normal", "laplace", "mixture"])
@pytest.mark.parametrize("temperature", [0.0, 0.5, 2.0])
def test_a_cooled_distribution_has_its_scales_times_the_temperature(name, temperature):
    """The same noise: what is drawn lies T times as far from its centre, in float64 to rounding; a mixture's draw takes
    the same component. The densities still integrate to one (T > 0)."""
    likelihood, n = TABLE[name](), 500
    h = features(likelihood, 2, 1).expand(n, -1).contiguous()
    plain = likelihood(h, dim=-1)
    cool, noise = plain.cooled(temperature), lambda: Noise.shared(3, n)
    centre = plain.cooled(0.0).sample(noise())
    torch.testing.assert_close(cool.sample(noise()) - centre, temperature * (plain.sample(noise()) - centre))
    if name == "mixture":
        assert {tuple(row) for row in centre.tolist()} == {tuple(row) for row in plain.means[0].tolist()}
    else:
        assert torch.equal(centre, plain.mean)
    if temperature:
        x = torch.linspace(-80, 80, 400_001, dtype=torch.float64)
        h = features(likelihood, 1, 1).expand(len(x), -1)
        density = likelihood(h, dim=-1).cooled(temperature).log_prob(x[:, None]).exp().flatten()
        assert abs(torch.trapezoid(density, x) - 1) < 2e-5
