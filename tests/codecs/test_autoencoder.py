"""Autoencoders: the bound against closed forms, the latents' scale, and the two players of a VQGAN."""

import math

import pytest
import torch
from torch import nn

from sfumato.codecs.autoencoder import AutoEncoder, Start, Watch
from sfumato.codecs.bottlenecks import Finite, Gaussian, Gumbel, Open
from sfumato.codecs.codebook import Codebook
from sfumato.core.errors import Misfit
from sfumato.core.noise import Noise
from sfumato.core.space import Grid, Tokens, check
from sfumato.likelihoods import Laplace, Levels, LogitLaplace, Normal

DATA = Grid(1, 4, 4)


def build(bottleneck, likelihood=None, **options) -> AutoEncoder:
    """4×4 pictures through 2×2 positions of 6 features, by one convolution each way."""
    torch.manual_seed(0)
    likelihood = likelihood or Normal(0.3)
    width = 4 if isinstance(bottleneck, Gumbel) else 5
    decoder = nn.ConvTranspose2d(width, likelihood.channels(1), 2, stride=2)
    encoder = nn.Conv2d(1, 6, 2, stride=2)
    return AutoEncoder(encoder, decoder, bottleneck, likelihood, DATA, layout=(2, 2), channels=(6, width), **options)


def images(rows: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.rand(rows, 1, 4, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1


TABLE = {
    "ae": lambda: build(Open(3)),
    "dae": lambda: build(Open(3, noise=0.1)),
    "vae": lambda: build(Gaussian(3)),
    "vqvae": lambda: build(Codebook(16, 3)),
    "vq features": lambda: build(Codebook(16, 3, features=True)),
    "dvae": lambda: build(Gumbel(16, 4), LogitLaplace()),
    "fsq": lambda: build(Finite((3, 3)), Levels()),
    "vqgan": lambda: build(Codebook(16, 3), Laplace(1.0), critic=nn.Conv2d(1, 1, 2)),
}


@pytest.mark.parametrize("name", TABLE)
def test_contract(name):
    codec, x = TABLE[name](), images()
    codec.prepare(lambda: [{"image": images(64)}])
    terms = codec.loss({"image": x}, noise=Noise.shared(0, 8), progress=0.1)
    assert all(term.ndim == 0 and term.isfinite() for term in terms.values())
    codec.settle(Noise.shared(0, 1))
    codec.finish(lambda: [{"image": images(64)}])
    z = check(codec.space, codec.encode(x))
    assert codec.decode(z).shape == x.shape
    assert torch.equal(codec.encode(x), z)
    check(codec.space, codec.blend(z, z.flip(0), 0.5))
    parameters = [id(p) for player in codec.players() for p in player]
    assert len(parameters) == len(set(parameters)) == len(list(codec.parameters()))
    assert all(math.isfinite(value) for value in codec.diagnostics().values())


@pytest.mark.parametrize("name", TABLE)
def test_every_parameter_learns(name):
    codec = TABLE[name]()
    sum(codec.loss({"image": images()}, noise=Noise.shared(0, 8), progress=0.5).values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in codec.players()[0])


@pytest.mark.parametrize("name", TABLE)
def test_the_same_noise_is_the_same_loss_bitwise(name):
    codec, x = TABLE[name](), images()
    a, b = (sum(codec.loss({"image": x}, noise=Noise.shared(3, 8), progress=0.3).values()) for _ in range(2))
    assert torch.equal(a, b)


# ── the bound ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def factor():
    """x = W z + m + s ε with z ~ N(0, I₂), and an autoencoder whose q is the exact posterior N(M⁻¹ Wᵀ(x − m), s² M⁻¹),
    M = WᵀW + s² I; W's columns are orthogonal, so that M is diagonal."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(16, 2, generator=generator, dtype=torch.float64)).Q
    w, s = basis * torch.tensor([1.5, 0.8], dtype=torch.float64), 0.3
    m = 0.1 * torch.randn(16, generator=generator, dtype=torch.float64)
    precision = (w.T @ w).diagonal() + s**2
    codec = AutoEncoder(
        nn.Conv2d(1, 4, 4), nn.ConvTranspose2d(2, 1, 4), Gaussian(2), Normal(s), DATA, layout=(1, 1), channels=(4, 2)
    ).double()
    with torch.no_grad():
        read = w.T / precision[:, None]
        codec.encoder.weight.copy_(torch.cat([read, 0 * read]).view(4, 1, 4, 4))
        codec.encoder.bias.copy_(torch.cat([-read @ m, (s**2 / precision).log()]))
        codec.before.weight.copy_(torch.eye(4).view(4, 4, 1, 1))
        codec.after.weight.copy_(torch.eye(2).view(2, 2, 1, 1))
        codec.before.bias.zero_()
        codec.after.bias.zero_()
        codec.decoder.weight.copy_(w.T.reshape(2, 1, 4, 4))
        codec.decoder.bias.zero_()
    # the mean belongs to every pixel, which one bias per channel cannot hold
    codec.decoder = Shifted(codec.decoder, m.view(1, 4, 4))
    x = torch.randn(400, 2, generator=generator, dtype=torch.float64) @ w.T + m
    x = x + s * torch.randn(400, 16, generator=generator, dtype=torch.float64)
    exact = torch.distributions.MultivariateNormal(m, w @ w.T + s**2 * torch.eye(16)).log_prob(x)
    return codec, x.view(-1, 1, 4, 4), exact


class Shifted(nn.Module):
    def __init__(self, part: nn.Module, shift: torch.Tensor):
        super().__init__()
        self.part, self.shift = part, shift

    def forward(self, z):
        return self.part(z) + self.shift


@torch.no_grad()
def bound(codec, x, seed):
    z, w = codec.lift(x, Noise.shared(seed, len(x)))
    return torch.distributions.Normal(0.0, 1.0).log_prob(z).flatten(1).sum(1) + w


def test_the_bound_of_the_exact_posterior_is_the_likelihood(factor):
    """E2: within 1e-3 bits a dimension; with the exact q the bound has no variance either, so 1e-6 nats an image."""
    codec, x, exact = factor
    torch.testing.assert_close(bound(codec, x, 0), exact, atol=1e-6, rtol=0)


@torch.no_grad()
def test_the_loss_is_the_bound_in_nats_per_dimension(factor):
    """−Σ terms · D = E[log p(z) + w] in expectation over z, so that β = 1 is the ELBO: equal to 4 standard errors of
    400 draws an image, and these are below 1e-3 bits a dimension."""
    codec, x, exact = factor
    many = {"image": x.repeat(20, 1, 1, 1)}
    losses = torch.stack([sum(codec.loss(many, noise=Noise.shared(n, 8000)).values()) for n in range(20)])
    error = 4 * losses.std() / math.sqrt(20)
    assert error / math.log(2) < 1e-3
    assert abs(losses.mean() + exact.mean() / 16) < error


def test_bounds_are_ordered(factor):
    """Direction test 1 of vae.md with a q whose variance is v = e^0.7 times too wide: ELBO < IWAE₁₀ < IWAE₅₀₀ ≤ exact,
    each on the mean of 400 images. In two dimensions Var(p / q) = v² / (2v − 1) − 1 = 0.34, so the last inequality is
    measured with a standard error of √(0.34 / 500 / 400) = 0.0013; four of them are allowed."""
    codec, x, exact = factor
    bias = codec.before.bias
    with torch.no_grad():
        bias[2:] += 0.7
    try:
        weights = torch.cat([bound(codec, x.repeat(25, 1, 1, 1), seed).view(25, -1) for seed in range(20)])
    finally:
        with torch.no_grad():
            bias[2:] -= 0.7
    many = lambda k: (weights[:k].logsumexp(0) - math.log(k)).mean()
    assert many(1) < many(10) < many(500) < exact.mean() + 4 * 0.0013
    assert exact.mean() - many(500) < 0.02 < exact.mean() - weights.mean()


def test_one_hot_codecs_weigh_with_the_decoder_alone():
    codec, x = build(Codebook(16, 3)), images()
    z, w = codec.lift(x, Noise.shared(0, 8))
    assert torch.equal(z, codec.encode(x))
    torch.testing.assert_close(w, codec.likely(z).log_prob(x).flatten(1).sum(1))
    assert codec.space == Tokens(4, 16, (2, 2))
    assert codec.kind == "bound"
    assert not codec.discrete
    assert TABLE["fsq"]().discrete


@pytest.mark.parametrize("name", ["ae", "dae", "vq features"])
def test_open_latents_have_no_likelihood(name):
    with pytest.raises(Misfit, match="no likelihood"):
        TABLE[name]().lift(images())


def test_relaxed_bound_nears_the_hard_one():
    """Direction test 1 of dvae.md: |relaxed − hard| reconstruction falls as τ goes 1, 1/4, 1/16, with the same Gumbel
    noise for both. The decoder is large, so that mixtures of letters show."""
    codec, x = build(Gumbel(16, 4), LogitLaplace()), images(200)
    with torch.no_grad():
        codec.bottleneck.table.weight.mul_(6)
        h = codec.before(codec.encoder(x))
        hard = codec.lift(x, Noise.shared(0, 200))[1] + codec.bottleneck.lift(h, Noise.shared(0, 200))[1]
        gaps = []
        for temperature in (1, 1 / 4, 1 / 16):
            y = codec.bottleneck.relax(h, Noise.shared(0, 200), temperature)
            soft = codec.likelihood(codec.decoder(codec.bottleneck.table(y))).log_prob(x).flatten(1).sum(1)
            gaps.append(float((soft - hard).mean().abs()))
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 0.3 * gaps[0]


# ── the scale of latents ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("bottleneck", [lambda: Open(3), lambda: Gaussian(3, beta=1e-6)])
def test_finish_gives_latents_mean_zero_and_deviation_one(bottleneck):
    codec, x = build(bottleneck()), images(500)
    before = codec.decode(codec.encode(x))
    codec.finish(lambda: [{"image": part} for part in x.split(100)])
    z = codec.encode(x).detach()
    assert abs(float(z.mean())) < 1e-5
    assert float(z.std(correction=0)) == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(codec.decode(z), before, atol=1e-5, rtol=1e-5)
    assert codec.training  # measuring left the mode as it was
    measured = codec.mean.clone(), codec.deviation.clone()
    codec.finish(lambda: [{"image": part} for part in x.split(100)])
    assert measured == (codec.mean, codec.deviation)


def test_a_unit_latent_is_left_alone():
    codec = build(Gaussian(3, beta=1.0))
    codec.finish(lambda: [{"image": images(50)}])
    assert codec.mean == 0
    assert codec.deviation == 1


def test_normalised_latents_carry_their_volume():
    """The same draws, the same bound: N(0, 1) of the normalised latents gives the log p(x) that a normal prior with the
    latents' own mean and deviation gave before."""
    codec, x = build(Gaussian(3), normalise=True), images(50)
    z, w = codec.lift(x, Noise.shared(0, 50))
    codec.finish(lambda: [{"image": x}])
    assert codec.deviation != 1
    narrow, w2 = codec.lift(x, Noise.shared(0, 50))
    own = torch.distributions.Normal(codec.mean, codec.deviation)
    unit = torch.distributions.Normal(0.0, 1.0)
    total = lambda p, z: p.log_prob(z).flatten(1).sum(1)
    torch.testing.assert_close(total(own, z) + w, total(unit, narrow) + w2, atol=1e-4, rtol=1e-5)


# ── two players ──────────────────────────────────────────────────────────────────────────────────────────────────────


def gan(**options) -> AutoEncoder:
    start = Start(fast=5, slow=20, least=30, gain=0.02, alone=3)
    return build(Codebook(16, 3), Laplace(1.0), critic=nn.Conv2d(1, 1, 2), start=start, **options)


def watched(errors, rule: Start, progress=lambda n: 0.0) -> list[int]:
    watch, phases = Watch(rule), []
    for n, error in enumerate(errors):
        watch.see(torch.tensor(float(error)), progress(n))
        phases.append(int(watch.phase))
    return phases


def test_the_critic_waits_for_the_plateau():
    """An error that falls by 1 % a step keeps it out; when it stays, the critic comes, alone for 3 steps, then both."""
    rule = Start(fast=5, slow=20, least=30, gain=0.02, alone=3)
    errors = [0.99**n for n in range(100)] + [0.99**100] * 100
    phases = watched(errors, rule)
    assert set(phases[:100]) == {0}
    first = phases.index(1)
    assert 100 < first < 200
    assert phases[first : first + 4] == [1, 1, 1, 2]
    assert watched([1.0] * 40, rule).index(1) == 29  # a plateau from the start waits for `least`


def test_the_critic_comes_by_half_time_at_the_latest():
    phases = watched([0.99**n for n in range(100)], Start(alone=10**6), progress=lambda n: n / 100)
    assert phases.index(1) == 50
    assert phases.index(2) == 60


def test_watch_is_all_in_buffers():
    """Stopped and filled into another, it goes on as if nothing had happened."""
    rule, errors = Start(fast=5, slow=20, least=30, alone=3), torch.rand(80, generator=torch.Generator().manual_seed(0))
    straight, stopped = Watch(rule), Watch(rule)
    for n, error in enumerate(errors):
        straight.see(error, 0.0)
        stopped.see(error, 0.0)
        if n == 33:
            other = Watch(rule)
            other.load_state_dict(stopped.state_dict())
            stopped = other
    assert all(torch.equal(a, b) for a, b in zip(straight.state_dict().values(), stopped.state_dict().values()))
    assert straight.phase > 0


def test_players_by_phase():
    """0: no adversarial term, and the critic sits out. 1: the critic alone. 2: both."""
    codec, batch = gan(), {"image": images()}
    for phase, generator, critic in [(0, False, set()), (1, False, {"critic"}), (2, True, {"critic"})]:
        codec.watch.phase.fill_(phase)
        assert ("adversarial" in codec.loss(batch, 0, Noise.shared(0, 8))) == generator
        assert set(codec.loss(batch, 1, Noise.shared(0, 8))) == critic
    with torch.no_grad():
        assert "adversarial" not in codec.loss(batch, 0, Noise.shared(0, 8))


def test_each_player_feels_its_own_terms():
    """The critic's loss leaves no gradient in the autoencoder; and the critic's pictures are not counted as codes."""
    codec, batch = gan(), {"image": images()}
    codec.watch.phase.fill_(2)
    sum(codec.loss(batch, 1, Noise.shared(0, 8)).values()).backward()
    ours, theirs = codec.players()
    assert all(p.grad is None for p in ours)
    assert all(p.grad is not None for p in theirs)
    before = {key: value.clone() for key, value in codec.state_dict().items()}
    codec.settle(Noise.shared(0, 1))
    assert all(torch.equal(value, before[key]) for key, value in codec.state_dict().items())


def test_the_adversarial_term_is_the_weighted_one():
    """λ = clamp(‖∂rec/∂last‖ / (‖∂adv/∂last‖ + 1e-4)) times 0.8, capped by `ceiling`; it is reported, not optimised."""
    codec, batch = gan(), {"image": images()}
    codec.watch.phase.fill_(2)
    codec.diagnostics()
    terms = codec.loss(batch, 0, Noise.shared(0, 8))
    adv = -codec.critic(
        codec.likelihood(
            codec.decoder(
                codec.after(
                    codec.bottleneck(codec.before(codec.encoder(batch["image"])), Noise.shared(0, 8), 1.0, 16)[0]
                )
            )
        ).mean
    ).mean()
    last = codec.decoder.weight
    norms = [torch.autograd.grad(t, last, retain_graph=True)[0].norm() for t in (terms["reconstruction"], adv)]
    weight = float(norms[0] / (norms[1] + 1e-4))
    assert codec.diagnostics()["adaptive_weight"] == pytest.approx(min(weight, 10.0), rel=1e-4)
    assert float(terms["adversarial"].detach()) == pytest.approx(
        0.8 * min(weight, 10.0) * float(adv.detach()), rel=1e-4
    )


def test_a_skipped_step_leaves_no_trace():
    codec, batch = gan(), {"image": images()}
    codec.loss(batch, 0, Noise.shared(0, 8))
    codec.settle(Noise.shared(0, 1))
    before = {key: value.clone() for key, value in codec.state_dict().items()}
    codec.loss({"image": images() * math.nan}, 0, Noise.shared(1, 8))
    codec.forget()
    codec.settle(Noise.shared(1, 1))
    assert all(torch.equal(value, before[key]) for key, value in codec.state_dict().items())


class Squared(nn.Module):
    """A stand-in for the perceptual distance."""

    def forward(self, x, y):
        return (x - y).square().flatten(1).mean(1)


def test_the_perceptual_term_adds_up():
    codec = build(Open(3), Laplace(1.0), perceptual=Squared(), perceptual_weight=0.5)
    x = images()
    terms = codec.loss({"image": x}, noise=Noise.shared(0, 8))
    made = codec.decode(codec.encode(x))
    assert float(terms["perceptual"].detach()) == pytest.approx(
        0.5 * float((made.detach() - x).square().mean()), rel=1e-5
    )
    # Laplace of scale 1: the mean absolute error and log 2
    assert float(terms["reconstruction"].detach()) == pytest.approx(
        float((made - x).abs().mean()) + math.log(2), rel=1e-5
    )


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(Misfit, match="decoder wants"):
        AutoEncoder(nn.Identity(), nn.Identity(), Gumbel(8, 3), Normal(), DATA, layout=(4, 4), channels=(1, 5))
    with pytest.raises(Misfit, match="encoder yields"):
        build(Open(3)).encode(torch.zeros(1, 1, 8, 8))
