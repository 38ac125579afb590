"""Autoregression against a Markov chain, a Gaussian process, brute force, and the cached transformer."""

import itertools
import math

import pytest
import torch
from torch import nn

from sfumato.core.condition import Condition
from sfumato.core.errors import UsageError
from sfumato.core.noise import Noise
from sfumato.core.space import Sequence, Tokens
from sfumato.likelihoods import Categorical, Normal
from sfumato.nn.rows.causal import CausalNet
from sfumato.priors import choice
from sfumato.priors.autoregressive import Autoregressive, choose, shape

K, N = 3, 5


class Markov(nn.Module):
    """The exact net of a chain: log π, then log P[z_{i−1}]; condition.vector (B, K), if any, is added to the logits."""

    start_of = torch.tensor([0.5, 0.3, 0.2]).log()
    transition = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.25, 0.25, 0.5]]).log()

    def __init__(self):
        super().__init__()
        self.batches = []

    def forward(self, z, condition):
        self.read = z
        first = self.start_of.expand(len(z), 1, K)
        h = torch.cat([first, self.transition[z[:, :-1]]], 1)
        return h if condition.vector is None else h + condition.vector[:, None]

    def start(self, condition):
        return condition

    def step(self, state, last):
        h = self.start_of.expand(state.rows, K) if last is None else self.transition[last]
        self.batches.append(len(h))
        return h if state.vector is None else h + state.vector


class Walk(nn.Module):
    """z_i = φ z_{i−1} + τ n: the exact net with features (mean)."""

    def forward(self, z, condition):
        return torch.cat([torch.zeros_like(z[:, :1]), 0.8 * z[:, :-1]], 1)

    def start(self, condition):
        return condition

    def step(self, state, last):
        return torch.zeros(state.rows, 2) if last is None else 0.8 * last


def markov(**options):
    return Autoregressive(Tokens(N, K), Markov(), Categorical(K), **options)


EVERY = torch.tensor(list(itertools.product(range(K), repeat=N)))


def test_a_chain_has_its_entropy():
    """All 243 words: probabilities sum to one, and −Σ p log p = H(π) + Σ_i H(z_i | z_{i−1}); float32, 1e-5."""
    nats = markov().log_prob(EVERY, Condition.none(243), Noise.ambient(243))
    p = nats.exp()
    assert abs(float(p.sum()) - 1) < 1e-5
    marginal, transition = Markov.start_of.exp(), Markov.transition.exp()
    expected = -(marginal * marginal.log()).sum()
    for _ in range(N - 1):
        expected = expected - (marginal[:, None] * transition * transition.log()).sum()
        marginal = marginal @ transition
    assert abs(float(-(p * nats).sum() - expected)) < 1e-5
    loss = markov().loss(EVERY[5:6], Condition.none(1), Noise.ambient(1))
    torch.testing.assert_close(sum(loss.values()), -nats[5] / N)


def test_draws_follow_the_chain():
    """Each pair of neighbours within 4 standard errors of its probability, over 20000 words."""
    n = 20_000
    z = markov().sample(Condition.none(n), Noise.shared(0, n))
    joint = (Markov.start_of.exp()[:, None] * Markov.transition.exp()).flatten()
    counts = torch.bincount(z[:, 0] * K + z[:, 1], minlength=K * K) / n
    assert bool(((counts - joint).abs() < 4 * (joint * (1 - joint) / n).sqrt()).all())


def test_a_gaussian_process_has_its_density():
    """Against the multivariate normal with covariance L Lᵀ, L_ij = τ φ^{i−j}: bits per dimension within 1e-5."""
    tau = 0.6
    prior = Autoregressive(Sequence(4, 2), Walk(), Normal(scale=tau))
    n = 4096
    z = prior.sample(Condition.none(n), Noise.shared(0, n))
    i = torch.arange(4)
    factor = tau * torch.tril(0.8 ** (i[:, None] - i).clamp(min=0).float())
    exact = torch.distributions.MultivariateNormal(torch.zeros(4), factor @ factor.T)
    nats = prior.log_prob(z, Condition.none(n), Noise.ambient(n))
    torch.testing.assert_close(nats, exact.log_prob(z.transpose(1, 2)).sum(1), rtol=0, atol=8 * 1e-5)
    loss = prior.loss(z, Condition.none(n), Noise.ambient(n))["nats"]
    torch.testing.assert_close(loss, -nats.mean() / 4)
    entropy, se = float(exact.entropy()) * 2, float(nats.std()) / math.sqrt(n)
    assert abs(float(nats.mean()) + entropy) < 4 * se  # draws are from the model: cross-entropy is entropy


def transformer(space, features, likelihood, seed=0):
    torch.manual_seed(seed)
    net = CausalNet(space, features, width=32, depth=2, heads=2, vector=6, context=5).double().eval()
    condition = Condition(
        3,
        vector=torch.randn(3, 6).double(),
        sequence=torch.randn(3, 4, 5).double(),
        mask=torch.ones(3, 4, dtype=torch.bool),
    )
    return Autoregressive(space, net, likelihood), condition, condition.map(torch.zeros_like)


def with_mask(null):
    return Condition(null.rows, null.vector, null.sequence, torch.ones_like(null.mask, dtype=torch.bool))


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_cached_sampling_equals_uncached(scale):
    """The transformer's cache against a full forward pass per token, with the same uniforms; tokens are equal unless a
    uniform falls within 1e-12 of an edge."""
    prior, condition, null = transformer(Tokens(7, 11), 11, Categorical(11))
    null = with_mask(null)
    cached = prior.sample(condition, Noise.each([1, 2, 3]), null=null, guidance=scale, top_k=8, temperature=0.9)
    u, z = Noise.each([1, 2, 3]).uniform(7), torch.zeros(3, 7, dtype=torch.long)
    with torch.no_grad():
        for i in range(7):
            c, n = (prior.net(z, given)[:, i] for given in (condition, null))
            z[:, i] = choose(shape(n + scale * (c - n), 0.9, 8), u[:, i])
    assert torch.equal(cached, z)


def test_rows_depend_on_their_seed_alone():
    """Bit for bit: a row beside other mates, in a batch of the same shape (float64 transformer)."""
    prior, condition, null = transformer(Tokens(7, 11), 11, Categorical(11))
    one = Condition(3, condition.vector[:1].expand(3, -1), condition.sequence[:1].expand(3, -1, -1), condition.mask)
    a = prior.sample(one, Noise.each([1, 2, 3]), null=with_mask(null), guidance=2.0)
    b = prior.sample(one, Noise.each([9, 8, 1]), null=with_mask(null), guidance=2.0)
    assert torch.equal(a[0], b[2])
    assert not torch.equal(a[1], b[1])


def test_continuous_rows_depend_on_their_seed_alone():
    prior = Autoregressive(Sequence(4, 2), Walk(), Normal(scale=0.6))
    a = prior.sample(Condition.none(2), Noise.each([1, 2]))
    assert torch.equal(a[1:], prior.sample(Condition.none(1), Noise.each([2])))


def test_guidance_one_and_zero_and_the_number_of_calls():
    prior = markov()
    condition, null = Condition(4, vector=torch.randn(4, K)), Condition(4, vector=torch.zeros(4, K))
    draw = lambda c, **options: prior.sample(c, Noise.each([1, 2, 3, 4]), **options)
    assert torch.equal(draw(condition, null=null, guidance=1.0), draw(condition))
    assert torch.equal(draw(condition, null=null, guidance=0.0), draw(null))
    prior.net.batches.clear()
    draw(condition, null=null, guidance=3.0)
    assert prior.net.batches == [8] * N


def test_guided_tokens_have_the_tilted_distribution():
    """Softmax of u + s (c − u) at the first position, within 4 standard errors of 20000 draws."""
    n, scale = 20_000, 2.5
    tilt = torch.tensor([0.4, -0.3, 0.1])
    condition, null = Condition(n, vector=tilt.expand(n, K)), Condition(n, vector=torch.zeros(n, K))
    z = markov().sample(condition, Noise.shared(0, n), null=null, guidance=scale)
    expected = (Markov.start_of + scale * tilt).softmax(0)
    counts = torch.bincount(z[:, 0], minlength=K) / n
    assert bool(((counts - expected).abs() < 4 * (expected * (1 - expected) / n).sqrt()).all())


def test_known_tokens_are_kept_and_seen():
    """The first half is given; what follows is what a chain started there would draw."""
    mask = torch.zeros(4, N, dtype=torch.bool)
    mask[:, :2] = True
    value = torch.tensor([[0, 1, 0, 0, 0], [2, 2, 0, 0, 0], [1, 0, 0, 0, 0], [2, 1, 0, 0, 0]])
    z = markov().sample(Condition.none(4), Noise.each(range(4)), known=(value, mask))
    assert torch.equal(z[:, :2], value[:, :2])
    u = Noise.each(range(4)).uniform(N)
    assert torch.equal(z[:, 2], choose(Markov.transition[value[:, 1]], u[:, 2]))


def brute(logits, temperature, top_k, top_p):
    """Token by token in plain Python: which survive, then their normalised probabilities."""
    out = []
    for row in logits.tolist():
        order = sorted(range(len(row)), key=lambda k: (-row[k], k))[: top_k or len(row)]
        weight = {k: math.exp((row[k] - row[order[0]]) / temperature) for k in order}
        total, reached, kept = sum(weight.values()), 0.0, []
        for k in order:
            if reached >= top_p:
                break
            kept.append(k)
            reached += weight[k] / total
        mass = sum(weight[k] for k in kept)
        out.append([weight[k] / mass if k in kept else 0.0 for k in range(len(row))])
    return torch.tensor(out, dtype=torch.float64)


@pytest.mark.parametrize("temperature", [1.0, 0.6, 1.7])
@pytest.mark.parametrize(
    ("top_k", "top_p"), [(None, 1.0), (1, 1.0), (4, 1.0), (None, 0.5), (None, 0.93), (5, 0.7), (99, 0.1)]
)
def test_top_k_and_top_p_against_brute_force(temperature, top_k, top_p):
    logits = 2 * torch.randn(50, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits[0] = 1.0  # ties: the earlier tokens stay
    if top_p < 1:
        logits[0] = torch.arange(12)  # sums of ties meet top_p only up to rounding
    found = shape(logits, temperature, top_k, top_p).softmax(-1)
    torch.testing.assert_close(found, brute(logits, temperature, top_k, top_p), rtol=1e-9, atol=1e-12)


def test_temperature_zero_takes_the_likeliest():
    logits = torch.randn(20, 9)
    assert torch.equal(choose(shape(logits, 0.0), torch.full((20,), 0.999999)), logits.argmax(-1))


def test_choose_inverts_the_distribution_function():
    logits = torch.tensor([[0.5, 0.0, 0.25, 0.25]]).log().expand(5, -1)
    u = torch.tensor([0.0, 0.499, 0.501, 0.749, 0.9999999])
    assert choose(logits, u).tolist() == [0, 0, 2, 2, 3]


@pytest.mark.parametrize("vocab", [1000, 1024])  # the last block of 32 full and not
def test_choose_among_many_is_choose_among_few(vocab):
    """Blocks and then tokens, beside one distribution function in float64: the same tokens (a block's sum is off by
    1e-7, so that one draw in a million would differ). What has no probability is never taken, even with the least and
    the greatest u."""
    logits = 3 * Noise.shared(0, 300).normal(vocab)
    logits = logits.masked_fill(Noise.shared(1, 300).uniform(vocab) < 0.7, -torch.inf)
    assert logits.numel() > choice.FEW
    u = Noise.shared(2, 300).uniform()
    reach = logits.softmax(-1).double().cumsum(-1)
    plain = torch.searchsorted(reach, (u.double() * reach[:, -1])[:, None], right=True)[:, 0]
    assert torch.equal(choose(logits, u), plain)
    for extreme in (0.0, 1 - 2**-24):
        assert bool(logits.gather(1, choose(logits, torch.full((300,), extreme))[:, None]).isfinite().all())


def test_corruption_changes_what_is_read_not_what_is_predicted():
    """A tenth of the tokens is redrawn from 3, so 1/15 changes: within 4 standard errors of 5000 tokens."""
    prior = markov(corrupt=0.1)
    z = torch.randint(K, (1000, N), generator=torch.Generator().manual_seed(0))
    loss = prior.loss(z, Condition.none(1000), Noise.shared(0, 1000))["nats"]
    changed = (prior.net.read != z).double().mean()
    assert abs(float(changed) - 1 / 15) < 4 * math.sqrt(1 / 15 * 14 / 15 / 5000)
    h = prior.net(prior.net.read, Condition.none(1000)).log_softmax(-1)
    torch.testing.assert_close(loss, -h.gather(-1, z[..., None]).mean())


def test_vectors_are_read_with_noise_and_predicted_without():
    """Each example has a deviation of its own, U[0, 0.6]: of 4000 × 12 entries the mean square is 0.6² / 3, and by
    example it spreads as that of u² does, 4/45; 4 standard errors. Likelihoods read no noise."""
    heard = []

    class Reader(Walk):
        def __call__(self, z, condition):
            heard.append(z)
            return super().__call__(z, condition)

    prior = Autoregressive(Sequence(4, 3), Reader(), Normal(scale=0.6), corrupt=0.6)
    z = Noise.shared(0, 4000).normal(4, 3)
    loss = prior.loss(z, Condition.none(4000), Noise.shared(1, 4000))["nats"]
    square = (heard[0] - z).square().mean((1, 2)) / 0.36
    assert abs(float(square.mean()) - 1 / 3) < 4 * math.sqrt((4 / 45 + 2 / 5 / 12) / 4000)
    spread = 4 / 45 + 2 / 5 / 12  # of u², and of a mean of 12 squares: 2 u⁴ / 12, E u⁴ = 1/5
    assert abs(float(square.var()) - spread) < 0.1 * spread
    h = Walk()(heard[0], Condition.none(4000))
    torch.testing.assert_close(loss, -Normal(scale=0.6)(h, dim=-1).log_prob(z).sum() / (4 * 4000))
    prior.log_prob(z, Condition.none(4000), Noise.shared(1, 4000))
    assert torch.equal(heard[1], z)


def test_a_cooled_chain_of_vectors_has_smaller_steps():
    """z_i = 0.8 z_{i−1} + τ n at temperature T: innovations of deviation T τ, 4 standard errors of 8000; at T = 0 none.
    A diffusion at each position has no deviation to scale, and top-k is of tokens."""
    prior, n = Autoregressive(Sequence(4, 2), Walk(), Normal(scale=0.6)), 4000
    for temperature in (1.0, 0.5, 0.0):
        z = prior.sample(Condition.none(n), Noise.shared(0, n), temperature=temperature)
        steps = torch.cat([z[:, :1], z[:, 1:] - 0.8 * z[:, :-1]], 1)
        wanted = 0.6 * temperature
        assert bool(((steps.std(0) - wanted).abs() <= 4 * wanted / math.sqrt(2 * n) + 1e-7).all())
    with pytest.raises(UsageError, match="top_k and top_p choose among tokens"):
        prior.sample(Condition.none(1), Noise.shared(0, 1), top_k=3)
    with pytest.raises(UsageError, match="at least 0"):
        prior.sample(Condition.none(1), Noise.shared(0, 1), temperature=-1.0)


def test_smoothing_mixes_the_target_with_all_tokens():
    z = EVERY[:9]
    loss = markov(smoothing=0.2).loss(z, Condition.none(9), Noise.ambient(9))["nats"]
    h = Markov()(z, Condition.none(9)).log_softmax(-1)
    torch.testing.assert_close(loss, -(0.8 * h.gather(-1, z[..., None])[..., 0] + 0.2 * h.mean(-1)).mean())


def test_what_does_not_fit_is_refused():
    with pytest.raises(UsageError, match="no tokens"):
        Autoregressive(Sequence(4, 2), Walk(), Normal(), smoothing=0.1)
    with pytest.raises(UsageError, match="continuous"):
        Autoregressive(Sequence(4, 2), Walk(), Normal()).sample(Condition.none(1), Noise.each([1]), top_k=3)
    with pytest.raises(UsageError, match="top_p"):
        shape(torch.zeros(1, 3), top_p=0.0)
