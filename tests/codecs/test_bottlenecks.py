"""Bottlenecks against closed forms: what they cost, what they pass on, and what gradients they let through."""

import math

import pytest
import torch
from scipy import stats

from sfumato.codecs.bottlenecks import Bottleneck, Finite, Gaussian, Gumbel, Open
from sfumato.codecs.codebook import Codebook
from sfumato.core.errors import Misfit
from sfumato.core.noise import Noise
from sfumato.core.space import Tokens, check

# name -> constructor
TABLE = {
    "open": lambda: Open(4),
    "noisy": lambda: Open(4, noise=0.3),
    "gaussian": lambda: Gaussian(4),
    "codebook": lambda: Codebook(16, 4),
    "cosine": lambda: Codebook(16, 4, cosine=True),
    "loss": lambda: Codebook(16, 4, mode="loss"),
    "features": lambda: Codebook(16, 4, features=True),
    "gumbel": lambda: Gumbel(16, 4),
    "straight": lambda: Gumbel(16, 4, straight=True),
    "finite": lambda: Finite((8, 5, 2)),
}


def h_of(part: Bottleneck, rows: int = 3, side: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, part.inputs, side, side, generator=torch.Generator().manual_seed(seed))


def flat(part: Bottleneck, z: torch.Tensor) -> torch.Tensor:
    return z.flatten(1) if isinstance(part.space((2, 2)), Tokens) else z


@pytest.mark.parametrize("name", TABLE)
def test_contract(name):
    """Spaces, shapes, determinism of encode, rows that stand alone, and a state that forward leaves alone."""
    torch.manual_seed(0)
    part = TABLE[name]()
    h = h_of(part)
    before = {key: value.clone() for key, value in part.state_dict().items()}
    code, terms = part(h, Noise.shared(0, 3), 1.0, 48)
    z = part.encode(h)
    check(part.space((2, 2)), flat(part, z))
    assert code.shape == part.embed(z).shape == (3, part.width, 2, 2)
    assert torch.equal(part.encode(h), z)
    assert torch.equal(part.encode(h[1:2]), z[1:2])
    assert all(term.ndim == 0 and term.isfinite() for term in terms.values())
    assert all(torch.equal(value, before[key]) for key, value in part.state_dict().items())
    assert torch.equal(part.blend(z, part.encode(h.flip(0)), 0.0), z) or name in ("gaussian", "open", "noisy")
    torch.testing.assert_close(part.blend(z, part.encode(h.flip(0)), 1.0), part.encode(h.flip(0)))
    if part.kind is None:
        with pytest.raises(Misfit, match="no likelihood"):
            part.lift(h, Noise.shared(0, 3))
    else:
        lifted, log_q = part.lift(h, Noise.shared(0, 3))
        assert lifted.shape == z.shape
        assert log_q.shape == (3,)


@pytest.mark.parametrize("name", TABLE)
def test_training_input_is_differentiable_in_h(name):
    torch.manual_seed(0)
    part = TABLE[name]()
    h = h_of(part).requires_grad_()
    code, terms = part(h, Noise.shared(0, 3), 1.0, 48)
    (code.square().sum() + sum(terms.values())).backward()
    assert h.grad.isfinite().all()
    assert h.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["open", "gaussian", "gumbel"])
def test_gradients(name):
    """E8, of what is smooth; the others' gradients are straight-through by definition and tested below."""
    torch.manual_seed(0)
    part = TABLE[name]().double()
    h = h_of(part, rows=2).double().requires_grad_()

    def cost(h):
        code, terms = part(h, Noise.shared(0, 2), 0.5, 48)
        return code, sum(terms.values())

    assert torch.autograd.gradcheck(cost, h, fast_mode=True)


# ── Gaussian ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_kl_equals_monte_carlo():
    """Direction test 1 of vae.md: log q − log p over 40,000 draws within 4 standard errors, which are below 1e-2 of the
    KL here."""
    part = Gaussian(2, warmup=0)
    h = torch.tensor([0.5, -1.0, -0.7, 0.4]).reshape(1, 4, 1, 1)
    _, terms = part(h, Noise.shared(0, 1), 1.0, 1)
    z, log_q = part.lift(h.expand(40_000, -1, -1, -1), Noise.shared(1, 40_000))
    ratio = log_q - torch.distributions.Normal(0.0, 1.0).log_prob(z).flatten(1).sum(1)
    error = 4 * ratio.std() / 200
    assert error < 0.05 * terms["kl"]
    assert abs(ratio.mean() - terms["kl"]) < error


def test_kl_is_per_data_dimension_and_sums_over_latents():
    part = Gaussian(3, beta=4.0, warmup=0)
    h = h_of(part, rows=5)
    mean, log_var = h.chunk(2, 1)
    posterior = torch.distributions.Normal(mean, (log_var / 2).exp())
    kl = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).flatten(1).sum(1).mean()
    torch.testing.assert_close(part(h, Noise.shared(0, 5), 1.0, 100)[1]["kl"], 4 * kl / 100)


def test_warm_up_and_free_bits():
    h = h_of(Gaussian(3), rows=5)
    noise = lambda: Noise.shared(0, 5)
    full = Gaussian(3, warmup=0)(h, noise(), 0.0, 10)[1]["kl"]
    warm = [Gaussian(3, warmup=0.2)(h, noise(), p, 10)[1]["kl"] for p in (0.0, 0.1, 0.2, 1.0)]
    torch.testing.assert_close(torch.stack(warm), full * torch.tensor([0, 0.5, 1, 1]))
    # a posterior that collapsed to the prior pays the free nats of each channel, and feels no pull
    collapsed = torch.zeros(5, 6, 2, 2, requires_grad=True)
    cost = Gaussian(3, warmup=0, free=0.5)(collapsed, noise(), 1.0, 10)[1]["kl"]
    assert float(cost.detach()) == pytest.approx(3 * 0.5 / 10)
    assert cost.requires_grad
    cost.backward()
    assert collapsed.grad.abs().sum() == 0


def test_slerp_keeps_the_norm_and_lerp_does_not():
    part = Gaussian(64)
    a, b = torch.randn(2, 3, 64, 2, 2, generator=torch.Generator().manual_seed(0))
    a, b = (v / v.flatten(1).norm(dim=1).view(-1, 1, 1, 1) * 16 for v in (a, b))
    middle = part.blend(a, b, 0.5)
    torch.testing.assert_close(middle.flatten(1).norm(dim=1), torch.full((3,), 16.0))
    torch.testing.assert_close(middle, (a + b) / (a + b).flatten(1).norm(dim=1).view(-1, 1, 1, 1) * 16)
    assert part.blend(a, -a, 0.5).isfinite().all()
    torch.testing.assert_close(part.blend(a, a, 0.3), a)


def test_extreme_variances_stay_finite():
    part = Gaussian(1)
    h = torch.tensor([[0.0, 1e4], [0.0, -1e4]]).reshape(2, 2, 1, 1)
    _, terms = part(h, Noise.shared(0, 2), 1.0, 1)
    z, log_q = part.lift(h, Noise.shared(0, 2))
    assert terms["kl"].isfinite()
    assert z.isfinite().all()
    assert log_q.isfinite().all()


# ── Open ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_noise_counts_in_the_latents_own_deviations():
    """The encoder cannot flee by growing: ten times the latents, ten times the noise. 5 % of 16,000 draws is 6 standard
    errors."""
    part = Open(4, noise=0.3, penalty=0)
    h = h_of(part, rows=1000)
    ratios = []
    for scale in (1.0, 10.0):
        code, _ = part(scale * h, Noise.shared(0, 1000), 1.0, 48)
        ratios.append(float((code - scale * h).std() / (scale * h).std()))
    assert ratios == pytest.approx([0.3, 0.3], rel=0.05)
    assert torch.equal(part.embed(part.encode(h)), h)


def test_penalty_by_hand():
    part = Open(4, penalty=1e-2)
    _, terms = part(torch.full((3, 4, 2, 2), 2.0), Noise.shared(0, 3), 1.0, 48)
    assert float(terms["penalty"]) == pytest.approx(1e-2 * 4 * 16 / 48)


# ── Gumbel ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_hard_samples_follow_softmax():
    """Direction test 6 of dvae.md: chi-square of 20,000 draws, by lift and by the argmax of the relaxed ones."""
    part = Gumbel(6, 4)
    logits = torch.tensor([0.0, 1.0, -1.0, 0.5, 2.0, -2.0])
    h = logits.view(1, 6, 1, 1).expand(20_000, -1, -1, -1)
    expected = (20_000 * logits.double().softmax(0)).numpy()
    z, log_q = part.lift(h, Noise.shared(0, 20_000))
    assert stats.chisquare(torch.bincount(z.flatten(), minlength=6).numpy(), expected).pvalue > 1e-3
    torch.testing.assert_close(log_q, logits.log_softmax(0)[z.flatten()])
    relaxed = part.relax(h, Noise.shared(1, 20_000), 0.5).argmax(1).flatten()
    assert stats.chisquare(torch.bincount(relaxed, minlength=6).numpy(), expected).pvalue > 1e-3


def test_kl_to_uniform_at_its_ends():
    """Direction test 7 of dvae.md: 0 for constant logits, log K a position for one-hot ones."""
    part = Gumbel(16, 4, beta=1.0, warmup=0)
    flat_, sharp = torch.zeros(2, 16, 3, 3), torch.zeros(2, 16, 3, 3)
    sharp[:, 5] = 200.0
    kl = [float(part(h, Noise.shared(0, 2), 1.0, 1)[1]["kl"].detach()) for h in (flat_, sharp)]
    assert kl == pytest.approx([0, 9 * math.log(16)], abs=1e-4)


def test_schedules():
    """τ by a cosine from 1 to 1/16, β by a cosine from 0 to 6.6, both flat afterwards."""
    part = Gumbel(4, 4)
    assert [part.temperature(p) for p in (0, 0.125, 0.25, 1)] == pytest.approx([1, (1 + 1 / 16) / 2, 1 / 16, 1 / 16])
    assert [part.strength(p) for p in (0, 0.005, 0.01, 1)] == pytest.approx([0, 3.3, 6.6, 6.6])


def test_the_relaxation_sharpens_to_the_one_hot():
    """The mean gap between the relaxed letters and the hard ones falls with τ."""
    part = Gumbel(8, 4)
    h, gaps = h_of(part, rows=200), []
    for temperature in (1, 1 / 2, 1 / 4, 1 / 8, 1 / 16):
        soft = part.relax(h, Noise.shared(0, 200), temperature)
        gaps.append(float(1 - soft.max(1).values.mean()))
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 0.1 * gaps[0]


def test_straight_through_is_one_hot_with_the_soft_gradient():
    hard, soft = Gumbel(8, 4, straight=True), Gumbel(8, 4)
    h = h_of(hard).requires_grad_()
    weight = torch.randn(8, 1, 1)
    y = hard.relax(h, Noise.shared(0, 3), 0.7)
    assert set(y.detach().unique().tolist()) == {0.0, 1.0}
    (a,) = torch.autograd.grad((y * weight).sum(), h)
    (b,) = torch.autograd.grad((soft.relax(h, Noise.shared(0, 3), 0.7) * weight).sum(), h)
    assert torch.equal(a, b)


def test_tokens_are_the_argmax_and_embed_like_one_hots():
    part = Gumbel(8, 4)
    h = h_of(part)
    z = part.encode(h)
    assert torch.equal(z, h.argmax(1))
    ones = torch.nn.functional.one_hot(z, 8).movedim(-1, 1).float()
    torch.testing.assert_close(part.embed(z), part.table(ones))
    assert torch.equal(part.nearest(part.embed(z)), z)


# ── FSQ ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("levels", [(8, 5, 5, 5), (2, 3), (7,), (4, 4, 4)])
def test_every_letter_round_trips(levels):
    part = Finite(levels)
    z = torch.arange(part.vocab).view(-1, 1, 1)
    code = part.embed(z)
    assert torch.equal(part.nearest(code), z)
    assert len(code.flatten(1).unique(dim=0)) == math.prod(levels)
    assert code.abs().max() <= 1


@pytest.mark.parametrize("levels", [(8, 5, 5, 5), (2, 3), (7,)])
def test_every_letter_is_reached_and_none_beyond(levels):
    """From −∞ to ∞, each channel meets each of its levels, and h = 0 meets the level 0."""
    part = Finite(levels)
    line = torch.cat([torch.linspace(-12, 12, 4001), torch.tensor([-1e6, 1e6])])
    for channel, level in enumerate(levels):
        h = torch.zeros(len(line), len(levels), 1, 1)
        h[:, channel] = line.view(-1, 1, 1)
        code, terms = part(h, Noise.shared(0, len(line)), 1.0, 1)
        assert len(code[:, channel].unique()) == level
        assert not terms
        assert torch.equal(part.embed(part.encode(h)), code)
    torch.testing.assert_close(part(0 * h, Noise.shared(0, len(line)), 1.0, 1)[0], 0 * h)


def test_finite_gradient_is_that_of_the_bounded_value():
    part = Finite((5, 5)).double()
    h = torch.tensor([0.3, -0.8], dtype=torch.float64).view(1, 2, 1, 1).requires_grad_()
    (slope,) = torch.autograd.grad(part(h, Noise.shared(0, 1), 1.0, 1)[0].sum(), h)
    torch.testing.assert_close(slope, (1 - h.tanh() ** 2) * 2.002 / 2)


def test_finite_equals_an_oracle():
    """Codes of vector-quantize-pytorch's FSQ for odd levels, where both centre alike."""
    from vector_quantize_pytorch import FSQ

    part, oracle = Finite((5, 7, 3)), FSQ([5, 7, 3])
    h = 2 * h_of(part, rows=20)
    codes, _ = oracle(h)
    torch.testing.assert_close(part(h, Noise.shared(0, 20), 1.0, 1)[0], codes)
