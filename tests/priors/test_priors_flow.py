"""The flow prior: exact where the answer is known, a density that sums to one, a way back that holds."""

import math

import pytest
import torch
from torch import nn

from sfumato import recipes
from sfumato.codecs.pixels import Pixels
from sfumato.core.condition import Condition
from sfumato.core.errors import Misfit, UsageError
from sfumato.core.noise import Noise
from sfumato.core.space import Grid, Tokens
from sfumato.nn.pictures.glow import Glow
from sfumato.priors.flow import Flow
from sfumato.recipes import Plan
from sfumato.systems import System
from sfumato.train.fit import fit

COUPLINGS = ["affine", "additive", "spline"]
NONE = Condition.none


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


# ---- networks that know the answer ----


class Whitening(nn.Module):
    """ε = A⁻¹ (z − m), for z ~ N(m, A Aᵀ): the exact network."""

    def __init__(self, mean, factor):
        super().__init__()
        self.mean, self.factor = mean, factor

    def forward(self, z, ask):
        eps = torch.linalg.solve(self.factor.to(z), (z.flatten(1) - self.mean.to(z)).T).T
        return eps.view_as(z), -torch.linalg.slogdet(self.factor.to(z)).logabsdet.expand(len(z))

    def inverse(self, eps, ask):
        return (eps.flatten(1) @ self.factor.to(eps).T + self.mean.to(eps)).view_as(eps)

    def fit(self, z, ask): ...


class Quantile(nn.Module):
    """ε = Φ⁻¹((z + 1) / 2), for z uniform on [−1, 1]: the exact network."""

    def forward(self, z, ask):
        eps = math.sqrt(2) * torch.erfinv(z)
        each = (eps.square() + math.log(2 * math.pi)) / 2 - math.log(2)
        return eps, each.flatten(1).sum(1)

    def inverse(self, eps, ask):
        return torch.erf(eps / math.sqrt(2))

    def fit(self, z, ask): ...


def test_bits_of_gaussian_data_are_the_closed_form():
    """E2 with the exact network: equal to the density of N(m, A Aᵀ) to 1e-3 bits a dimension (1e-5 in fact), and its
    mean over 4000 draws to the entropy, within four standard errors."""
    g = torch.Generator().manual_seed(1)
    factor = torch.randn(12, 12, generator=g).tril(-1).mul(0.2) + torch.diag(0.2 + torch.rand(12, generator=g))
    mean = torch.randn(12, generator=g)
    space = Grid(3, 2, 2)
    system = System(Pixels(space), Flow(space, Whitening(mean, factor)))
    x = system.prior.sample(NONE(4000), Noise.shared(2, 4000))
    truth = torch.distributions.MultivariateNormal(mean.double(), (factor @ factor.T).double())
    bits, exact = (
        -v.double() / (12 * math.log(2)) for v in (system.log_prob(x), truth.log_prob(x.flatten(1).double()))
    )
    assert (bits - exact).abs().max() < 1e-3
    entropy = float(truth.entropy()) / (12 * math.log(2))
    assert abs(bits.mean() - entropy) < 4 * bits.std() / math.sqrt(4000)
    assert system.log_prob_kind == "exact"


def test_bits_per_dim_of_8_bit_gaussian_data():
    """Independent N(0, 0.2²) in bins of 1/127.5: a bin's mass is p / 127.5 up to (bin/σ)²/24 ≈ 6e-5 of itself, and the
    average over u of 64,000 values has a standard error of 0.036 bits / 253 = 1.4e-4."""
    space = Grid(1, 4, 4)
    system = System(Pixels(space), Flow(space, Whitening(torch.zeros(16), 0.2 * torch.eye(16))))
    levels = torch.arange(60.0, 76.0).reshape(1, 1, 4, 4).expand(4000, 1, 4, 4) + 60
    x = levels / 127.5 - 1
    normal = torch.distributions.Normal(0.0, 0.2)
    exact = -torch.log2(normal.cdf(x[0] + 0.5 / 127.5) - normal.cdf(x[0] - 0.5 / 127.5)).mean()
    assert abs(system.bits_per_dim(x).mean() - exact) < 1e-3


def test_uniform_noise_has_8_bits():
    """E2: 8.000 ± 0.002, through the dequantised codec and back; every value 0 … 255."""
    space = Grid(3, 16, 16)
    system = System(Pixels(space, "dequantised"), Flow(space, Quantile()))
    k = torch.randint(0, 256, (32, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    assert abs(float(system.bits_per_dim(k / 127.5 - 1).mean()) - 8) < 0.002
    drawn = ((system.sample(64, batch=64) + 1) * 127.5).round()
    assert set(drawn.unique().tolist()) == set(range(256))


# ---- a density ----


def moons(k, n=256):
    """Two moons with noise 0.15, and standard scale."""
    noise = Noise.shared(k, n)
    t, side = math.pi * noise.uniform(), (noise.uniform() < 0.5).float()
    x = torch.stack([torch.cos(t) * (1 - 2 * side) + side, torch.sin(t) * (1 - 2 * side) + side / 2], 1)
    x = (x + 0.15 * noise.normal(2) - torch.tensor([0.5, 0.25])) / torch.tensor([0.87, 0.5])
    return x.reshape(n, 2, 1, 1)


class Moons:
    def at(self, k):
        return {"image": moons(k), "label": (torch.arange(256) % 2), "index": torch.arange(256)}


def mass(log_prob, reach=8.0, n=400):
    """∫ p over a square, by the midpoint rule: a smooth density of scale 0.1 leaves less than 1e-3 at steps of 0.04."""
    line = (torch.arange(n) + 0.5) / n * 2 * reach - reach
    z = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2, 1, 1)
    with torch.no_grad():
        return (
            float(torch.cat([log_prob(part) for part in z.split(20_000)]).double().exp().sum()) * (2 * reach / n) ** 2
        )


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_the_density_integrates_to_one(coupling):
    """Every sign of every log-det at once, fresh and trained: 1 ± 1e-2."""
    space = Grid(2, 1, 1)
    system = System(Pixels(space), Flow(space, Glow(space, levels=1, steps=4, width=16, coupling=coupling)))
    prior = system.prior
    p = lambda z: prior.log_prob(z, NONE(len(z)), Noise.ambient(len(z)))
    system.prepare(lambda: [Moons().at(0)])
    assert abs(mass(p) - 1) < 1e-2
    before = p(moons(10**6)).mean().detach()
    for _ in fit(system, Moons(), Plan(steps=150, rate=1e-2, ema=0.9, clip=100.0)):
        pass
    assert p(moons(10**6)).mean() > before + 0.02  # additive couplings move, and cannot squeeze one part of the plane
    assert abs(mass(p) - 1) < 1e-2


# ---- there and back ----


@pytest.fixture(scope="module", params=COUPLINGS)
def trained(request):
    """glow xs on emoji, 80 steps: enough that every part has left its start."""
    from sfumato.data import Batches, open_data

    with torch.random.fork_rng():
        torch.manual_seed(0)
        system = recipes.build("glow", size="xs", side=16, coupling=request.param)
        source = open_data("emoji", side=16)
        system.prepare(lambda: [source.batch(range(64))])
        for step in fit(system, Batches(source, 16, 0), Plan(steps=80, rate=3e-3, ema=0.9)):
            last = step.loss
    assert last < 0.0  # nats a dimension on [−1, 1]: uniform noise has 0.69
    return system.eval(), source.batch(range(16))["image"]


def inputs(system, images):
    g = torch.Generator().manual_seed(3)
    real, random = system.encode(images), torch.randn(16, 3, 16, 16, generator=g)
    constant = torch.linspace(-1, 1, 16)[:, None, None, None].expand(16, 3, 16, 16).contiguous()
    return {"real": real, "random": random, "constant": constant, "1000 real": 1e3 * real, "1000 random": 1e3 * random}


@pytest.mark.parametrize("fresh", [False, True])
def test_what_goes_to_noise_comes_back(trained, fresh):
    """E1: 1e-3 with float32 weights, whatever the input; 1e-8 in float64 of inputs of unit scale, and 1e-8 of their
    scale where that is a thousand."""
    system, images = trained
    coupling = system.recipe["dials"]["coupling"]
    if fresh:
        system = recipes.build("glow", size="xs", side=16, coupling=coupling).eval()
    prior, c = system.prior, NONE(16)
    for name, z in inputs(system, images).items():
        eps = prior.invert(z, c)
        assert (prior.sample(c, Noise.ambient(16), start=eps) - z).abs().max() < 1e-3, name
    prior.double()
    try:
        for name, z in inputs(system, images).items():
            z = z.double()
            eps = prior.invert(z, c)
            error = (prior.sample(c, Noise.ambient(16), start=eps) - z).abs().max()
            assert error < 1e-8 * (1e3 if name.startswith("1000") else 1), name
    finally:
        prior.float()


def test_the_volume_of_a_trained_flow_is_autograds():
    """E1 again, through the prior: log p(z) against autograd's Jacobian, below 1e-6 in float64."""
    space = Grid(2, 4, 4)
    prior = Flow(space, Glow(space, levels=2, steps=2, width=8))
    system, noise = System(Pixels(space), prior), Noise.shared(0, 32)
    batch = {"image": noise.normal(2, 4, 4).cumsum(-1) / 2, "index": torch.arange(32)}
    system.prepare(lambda: [batch])
    optimiser = torch.optim.AdamW(prior.parameters(), lr=1e-2)
    for _ in range(50):
        loss = system.loss(batch)["nats"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    prior.double()
    z = batch["image"][:3].double()
    whole = lambda v: prior.net(v[None], lambda net, state: net(state, NONE(1)))[0].flatten()
    for row in z:
        _, volume = torch.linalg.slogdet(torch.autograd.functional.jacobian(whole, row).reshape(32, 32))
        expected = volume - (whole(row).square() + math.log(2 * math.pi)).sum() / 2
        found = prior.log_prob(row[None], NONE(1), Noise.ambient(1))[0]
        # log_prob's networks read the state rounded to float32: 6e-8 of it, a hundred times
        assert abs(found - expected) < 1e-4
        direct = prior._log_prob(row[None], NONE(1))[0]
        torch.testing.assert_close(found, direct)


@pytest.mark.parametrize("temperature", [0.0, 1e3, 1e30])
def test_no_temperature_gives_nan(trained, temperature):
    system, _ = trained
    z = system.prior.sample(NONE(4), Noise.each(range(4)), temperature=temperature)
    assert z.isfinite().all()
    x = system.sample(4, temperature=temperature, batch=4)
    assert x.isfinite().all()
    assert torch.equal(x[0], x[1]) == (temperature == 0)


def test_a_way_between_two_pictures_meets_both(trained):
    """System.interpolate along the great circle of noises: the ends are the 8-bit pictures themselves."""
    system, images = trained
    frames = system.interpolate(images[0], images[1], frames=3)
    assert torch.equal(frames[0], system.reconstruct(images[:1])[0])
    assert torch.equal(frames[-1], system.reconstruct(images[1:2])[0])
    with pytest.raises(UsageError, match="no sampling option 'steps'"):
        system.interpolate(images[0], images[1], frames=3, steps=5)


# ---- the start ----


def test_prepare_gathers_a_start_once_and_under_every_condition():
    space = Grid(2, 4, 4)
    prior, asked = Flow(space, Glow(space, levels=1, steps=1, width=4, vector=3)), []

    def latents():
        for k in range(9):
            asked.append(k)
            yield Noise.shared(k, 100).normal(2, 4, 4) + 5, Condition(100, vector=torch.randn(100, 3))

    prior.prepare(latents)
    assert asked == [0, 1, 2]  # 300 ≥ 256 latents
    bias = prior.net.levels[0][0].mixing.norm.bias.detach().clone()
    assert (bias + 5).abs().max() < 0.1
    prior.prepare(lambda: [(torch.zeros(4, 2, 4, 4), Condition(4, vector=torch.zeros(4, 3)))])
    assert torch.equal(prior.net.levels[0][0].mixing.norm.bias, bias)
    Flow(space, Glow(space, levels=1, steps=1, width=4)).prepare(lambda: [])  # nothing to see is no error


def test_dequantised_pixels_are_learned_with_fresh_noise():
    """Not from the middles of their bins, on which a density could pile up without limit."""
    space = Grid(1, 2, 2)
    codec, noise = Pixels(space, "dequantised"), Noise.shared(0, 500)
    z = codec.latent(torch.zeros(500, 1, 2, 2), noise)
    assert torch.equal(codec.decode(z), codec.decode(codec.encode(torch.zeros(500, 1, 2, 2))))
    u = (z + 1) * 128 - 128  # k = 128
    assert abs(float(u.mean()) - 0.5) < 4 / math.sqrt(12 * 2000)
    assert float(u.min()) < 0.01
    assert float(u.max()) > 0.99
    raw = Pixels(space)
    assert torch.equal(raw.latent(z, noise), z)


def test_a_prior_learns_from_draws_where_the_codec_has_a_width():
    """The draws that `lift` weighs, of a VAE; the code itself of an autoencoder without one."""
    x = Noise.each(range(3)).uniform(3, 16, 16) * 2 - 1
    for name, drawn in (("vae", True), ("dae", False), ("vqvae", False)):
        codec = recipes.build(name, size="xs", side=16).codec.eval()
        z = codec.latent(x, Noise.each(range(3)))
        assert torch.equal(z, codec.lift(x, Noise.each(range(3)))[0] if drawn else codec.encode(x))
        assert torch.equal(z, codec.encode(x)) != drawn


# ---- guidance ----


def conditional(steps=2, coupling="affine", shake=0.2):
    space = Grid(2, 1, 1)
    prior = Flow(space, Glow(space, levels=1, steps=steps, width=8, vector=3, coupling=coupling))
    for p in prior.parameters():
        p.data = p.data + shake * torch.randn_like(p)
    c, u = (Condition(5, vector=v.expand(5, 3)) for v in torch.randn(2, 1, 3))
    return prior, c, u


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_guidance_1_and_0_are_the_two_flows_bit_for_bit(coupling):
    prior, c, u = conditional(coupling=coupling)
    draw = lambda condition, **options: prior.sample(condition, Noise.each(range(5)), **options)
    assert torch.equal(draw(c, null=u, guidance=1.0), draw(c))
    assert torch.equal(draw(c, null=u, guidance=0.0), draw(u))
    assert not torch.allclose(draw(c, null=u, guidance=2.0), draw(c))
    with pytest.raises(UsageError, match="needs the null condition"):
        draw(c, guidance=2.0)


def test_guidance_moves_means_and_log_deviations_linearly():
    """With no steps there is the top alone: z = μ + e^l ε with μ and the raw l at u + s (c − u)."""
    prior, c, u = conditional(steps=0)
    with torch.no_grad():
        p = prior.net.top(torch.zeros(5, 2, 1, 1), c), prior.net.top(torch.zeros(5, 2, 1, 1), u)
        mean, raw = (p[1] + 3 * (p[0] - p[1])).unflatten(1, (2, 2)).unbind(2)
    eps = Noise.each(range(5)).normal(2, 1, 1)
    expected = mean + torch.exp(4 * torch.tanh(raw / 4)) * 0.5 * eps
    found = prior.sample(c, Noise.each(range(5)), null=u, guidance=3.0, temperature=0.5)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_a_guided_flow_is_a_density(coupling):
    """It is the flow of the guided numbers: its own density integrates to one, and its samples go back to their ε."""
    prior, c, u = conditional(coupling=coupling, shake=0.1)

    def log_prob(z, guidance=2.0):
        one = lambda condition: Condition(len(z), vector=condition.vector[:1].expand(len(z), 3))
        eps, volume = prior.net(z.double(), prior._ask(one(c), one(u), guidance))
        return volume - (eps.square() + math.log(2 * math.pi)).flatten(1).sum(1) / 2

    assert abs(mass(log_prob, reach=32.0, n=800) - 1) < 1e-2
    z = prior.sample(c, Noise.each(range(5)), null=u, guidance=2.0)
    eps, _ = prior.net(z.double(), prior._ask(c, u, 2.0))
    torch.testing.assert_close(eps.float(), Noise.each(range(5)).normal(2, 1, 1), atol=1e-4, rtol=0)


# ---- refusals ----


def test_what_a_flow_cannot_do_it_says():
    space = Grid(2, 4, 4)
    system = System(Pixels(space), Flow(space, Glow(space, levels=1, steps=1, width=4)))
    with pytest.raises(UsageError, match="To repaint a part take a diffusion"):
        system.edit(torch.zeros(1, 2, 4, 4), torch.ones(1, 1, 4, 4))
    with pytest.raises(UsageError, match="finite number"):
        system.sample(1, temperature=-1.0)
    with pytest.raises(UsageError, match="Did you mean 'temperature'"):
        system.sample(1, temperatur=1.0)
    with pytest.raises(Misfit, match="Expected a batch"):
        system.prior.invert(torch.zeros(1, 3, 4, 4), NONE(1))
    codec = Pixels(space)
    codec.space = Tokens(4, 4)
    with pytest.raises(Misfit, match="Flow models Grid"):
        System(codec, system.prior)


def test_a_network_in_half_precision_still_gives_a_finite_density(trained):
    system, images = trained
    with torch.autocast("cpu", torch.bfloat16):
        half = system.bits_per_dim(images)
    full = system.bits_per_dim(images)
    assert half.isfinite().all()
    assert abs(float((half - full).mean())) < 0.05
