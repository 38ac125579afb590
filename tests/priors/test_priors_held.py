"""What is known of a latent: read in one pass, and otherwise held in the unguided rows; alphabets, weights of parts."""

import math

import pytest
import torch
from torch import nn

from sfumato.core.condition import Condition
from sfumato.core.errors import Misfit, UsageError
from sfumato.core.noise import Noise
from sfumato.core.space import Sequence, Tokens
from sfumato.likelihoods import Categorical, Mixture
from sfumato.nn import CausalNet, MaskedNet
from sfumato.priors.autoregressive import Autoregressive
from sfumato.priors.choice import choose
from sfumato.priors.masked import Masked

B, N, K = 4, 10, 6
LETTERS = torch.zeros(N, K, dtype=torch.bool)  # a first half of letters 0 … 2, a second of 2 … 5
LETTERS[:4, :3], LETTERS[4:, 2:] = True, True
HALVES = {"text": (range(0, 4), 1 / 8), "image": (range(4, N), 7 / 8)}


class Slow(nn.Module):
    """The same net, without its gift of reading a beginning at once."""

    def __init__(self, net):
        super().__init__()
        self.net, self.start, self.step = net, net.start, net.step

    def forward(self, *said, **told):
        return self.net(*said, **told)


class Counted(nn.Module):
    """The net, which counts its steps."""

    def __init__(self, net):
        super().__init__()
        self.net, self.start, self.resume, self.steps = net, net.start, net.resume, 0

    def step(self, *said):
        self.steps += 1
        return self.net.step(*said)


def condition(scale=1.0, words=True):
    torch.manual_seed(3)
    sequence = scale * torch.randn(B, 4, 5).double() if words else None
    return Condition(B, sequence=sequence, mask=torch.arange(4).expand(B, 4) < 3 if words else None)


def net_of(space, features, words=True, **options):
    torch.manual_seed(0)
    context = 5 if words else None
    net = CausalNet(space, features, width=32, depth=2, heads=2, context=context, **options).double().eval()
    for name, weight in net.named_parameters():
        if weight.ndim > 1 and "norm" not in name:
            nn.init.normal_(weight, std=0.3)  # loud, so that what is read decides what is drawn
    return net


def begun(n, rows=B, entries=()):
    """The first n positions known, with letters that may stand there."""
    z = (torch.arange(N) % 2 + torch.where(torch.arange(N) < 4, 0, 3)).expand(rows, N).clone()
    mask = (torch.arange(N) < n).expand(rows, N)
    return (z, mask) if not entries else (torch.randn(rows, N, *entries).double(), mask[..., None].expand(-1, -1, 3))


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
@pytest.mark.parametrize(
    "options",
    [{}, {"positions": "rotary"}, {"patterns": ["row", "column"], "line": 3, "lead": 4}, {"prefix": "full"}],
    ids=["plain", "rotary", "sparse", "full"],
)
@pytest.mark.parametrize("n", [2, 4, 7, N])
def test_a_known_beginning_in_one_pass_draws_the_same_tokens(n, options, scale):
    """float64: the same tokens for the same uniforms, unless one lies within 1e-12 of an edge; and fewer steps."""
    net, c = net_of(Tokens(N, K), K, **options), condition()
    told = {"null": condition(0.0), "guidance": scale, "known": begun(n)}
    draw = lambda net: Autoregressive(Tokens(N, K), net, Categorical(K)).sample(c, Noise.each(range(B)), **told)
    counted = Counted(net)
    assert torch.equal(draw(counted), draw(Slow(net)))
    assert counted.steps == N - min(n, N - 1)


@pytest.mark.parametrize("order", [None, "random", "column"])
def test_in_any_order_too(order):
    """ "known" puts what is known first, wherever it lies; "random" finds no beginning, or a short one."""
    space = Tokens(N, K, (2, 5))
    net = net_of(space, K, words=False, orders=True)
    known = begun(N)[0], torch.isin(torch.arange(N), torch.tensor([1, 3, 8])).expand(B, N)
    prior = lambda net: Autoregressive(space, net, Categorical(K), order="any")
    draw = lambda net: prior(net).sample(Condition.none(B), Noise.each(range(B)), known=known, order=order)
    assert torch.equal(draw(net), draw(Slow(net)))
    counted = Counted(net)
    draw(counted)
    assert (counted.steps == N - 3) == (order is None)


def test_ragged_beginnings_go_step_by_step():
    net, known = net_of(Tokens(N, K), K), begun(6)
    known = known[0], known[1] & (torch.arange(B)[:, None] * 2 >= torch.arange(N))
    draw = lambda net: Autoregressive(Tokens(N, K), net, Categorical(K)).sample(
        condition(), Noise.each(range(B)), known=known
    )
    counted = Counted(net)
    assert torch.equal(draw(counted), draw(Slow(net)))
    assert counted.steps == N


def test_vectors_use_the_numbers_that_they_used():
    """A known beginning of vectors: what follows is drawn from the same numbers as step by step; float64, 1e-9."""
    space, head = Sequence(N, 3), Mixture()
    net = net_of(space, head.channels(3))
    draw = lambda net: Autoregressive(space, net, head).sample(
        condition(), Noise.each(range(B)), known=begun(5, entries=(3,)), null=condition(0.0), guidance=1.5
    )
    torch.testing.assert_close(draw(net), draw(Slow(net)), rtol=0, atol=1e-9)


# ── what the unguided rows hold ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize("words", [False, True])
@pytest.mark.parametrize("scale", [0.0, 2.5])
def test_unguided_rows_hold_something_else(scale, words, slow):
    """Against two uncached passes per step: c reads what is known, u reads null_known, and what was drawn since.
    Without a null condition u hears the same."""
    net, c = net_of(Tokens(N, K), K, words), condition(words=words)
    known, empty = begun(4), (torch.full((B, N), 2), begun(4)[1])
    prior = Autoregressive(Tokens(N, K), Slow(net) if slow else net, Categorical(K), letters=LETTERS)
    null = condition(0.0) if words else None
    found = prior.sample(c, Noise.each(range(B)), null=null, guidance=scale, known=known, null_known=empty)
    uniforms, z, other = Noise.each(range(B)).uniform(N), known[0].clone(), torch.full((B, N), 2)
    with torch.no_grad():
        for i in range(4, N):
            a, b = net(z, c)[:, i], net(other, null or c)[:, i]
            logits = (b + scale * (a - b)).masked_fill(~LETTERS[i], -torch.inf)
            z[:, i] = other[:, i] = choose(logits, uniforms[:, i])
    assert torch.equal(found, z)
    plain = prior.sample(c, Noise.each(range(B)), null=null, known=known)
    assert not torch.equal(found, plain)
    assert torch.equal(plain, prior.sample(c, Noise.each(range(B)), null=null, known=known, null_known=empty))


def test_where_nothing_stands_for_it_unguided_rows_hold_what_is_known():
    """null_known all unknown: u reads what c reads, so without a condition guidance changes nothing but rounding."""
    net = net_of(Tokens(N, K), K, words=False)
    prior, known = Autoregressive(Tokens(N, K), net, Categorical(K)), begun(4)
    nothing = torch.zeros_like(known[0]), torch.zeros_like(known[1])
    told = {"known": known, "null_known": nothing}
    guided = prior.sample(Condition.none(B), Noise.each(range(B)), guidance=3.0, **told)
    assert torch.equal(guided, prior.sample(Condition.none(B), Noise.each(range(B)), known=known))


def test_unguided_rows_hold_nothing_but_where_something_is_known():
    """What stands for nothing may be told of all positions; where c draws, u reads what is drawn. Where nothing is
    known there is nothing to hold, and guidance needs a null condition."""
    net = net_of(Tokens(N, K), K, words=False)
    auto = Autoregressive(Tokens(N, K), net, Categorical(K))
    masked = Masked(Tokens(N, K), MaskedNet(Tokens(N, K), K, width=16, depth=1, heads=2), Categorical(K))
    empty = torch.full((B, N), 2)
    for prior in (auto, masked):

        def draw(null_known, known, prior=prior):
            told = {"guidance": 2.5, "known": known, "null_known": null_known}
            return prior.sample(Condition.none(B), Noise.each(range(B)), **told)

        assert torch.equal(draw((empty, begun(N)[1]), begun(4)), draw((empty, begun(4)[1]), begun(4)))
        with pytest.raises(UsageError, match="null condition"):
            draw((empty, begun(4)[1]), None)


def test_a_masked_prior_holds_it_too():
    """One step: every hidden position at once, from u + s (c − u) with u at the empty half."""
    torch.manual_seed(0)
    net = MaskedNet(Tokens(N, K), K, width=32, depth=2, heads=2).eval()
    nn.init.normal_(net.head.weight, std=0.3)
    prior = Masked(Tokens(N, K), net, Categorical(K), letters=LETTERS, steps=1)
    known, empty = begun(4), (torch.full((B, N), 2), begun(4)[1])
    told = {"known": known, "null_known": empty, "guidance": 2.5}
    found = prior.sample(Condition.none(B), Noise.each(range(B)), **told)
    with torch.no_grad():
        a, b = (net(z, ~known[1], Condition.none(B)) for z in (known[0], empty[0]))
    logits = (b + 2.5 * (a - b)).masked_fill(~LETTERS, -torch.inf)
    drawn = choose(logits, Noise.each(range(B)).uniform(N))
    assert torch.equal(found, torch.where(known[1], known[0], drawn))


# ── alphabets and weights ────────────────────────────────────────────────────────────────────────────────────────────


class Fixed(nn.Module):
    """The same logits whatever is read."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, z, *said, order=None):
        h = self.logits.expand(len(z), N, K)
        return h if order is None else h[:, order] if order.ndim == 1 else h[torch.arange(len(z))[:, None], order]

    def start(self, condition, order=None):
        self.i = -1
        return condition.rows

    def step(self, state, last):
        self.i += 1
        return self.logits[self.i].expand(state, K)


def logits():
    return torch.randn(N, K, generator=torch.Generator().manual_seed(5)).double()


def by_hand():
    """p (N, K): the softmax over each position's own letters."""
    weight = logits().exp() * LETTERS
    return weight / weight.sum(1, keepdim=True)


def allowed(rows):
    return choose(LETTERS.double().log().expand(rows, N, K), Noise.shared(7, rows).uniform(N))


def test_no_probability_leaks_to_letters_that_may_not_stand():
    """Σ over a position's own letters of exp log p is one, and a letter of the other half has none; float64, 1e-12."""
    prior = Autoregressive(Tokens(N, K), Fixed(logits()), Categorical(K), letters=LETTERS)
    z = allowed(50)
    nats = prior.log_prob(z, Condition.none(50), Noise.ambient(50))
    expected = by_hand().log().expand(50, N, K).gather(-1, z[..., None])[..., 0].sum(1)
    torch.testing.assert_close(nats, expected, rtol=0, atol=1e-5)  # a likelihood counts in float32
    wrong = z[:1].clone()
    wrong[0, 0] = 5
    assert float(prior.log_prob(wrong, Condition.none(1), Noise.ambient(1)).detach()) == -math.inf


@pytest.mark.parametrize("order", ["raster", "random", "any"])
def test_the_loss_is_each_halfs_mean_times_its_weight(order):
    prior = Autoregressive(Tokens(N, K), Fixed(logits()), Categorical(K), letters=LETTERS, parts=HALVES, order=order)
    z = allowed(50)
    terms = prior.loss(z, Condition.none(50), Noise.shared(0, 50))
    nats = -by_hand().log().expand(50, N, K).gather(-1, z[..., None])[..., 0]
    assert set(terms) == {"text", "image"}
    assert float(terms["text"].detach()) == pytest.approx(float(nats[:, :4].mean()) / 8, rel=1e-6)  # float32 logits
    assert float(terms["image"].detach()) == pytest.approx(float(nats[:, 4:].mean()) * 7 / 8, rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("kind", ["whole", "parts", "masked"])
def test_a_letter_that_may_not_stand_is_read_and_not_asked_for(kind, smoothing):
    """The first 20 rows say nothing in their first half: the mean is over what is asked for, without NaN in the
    gradient."""
    z, options = allowed(50), {"letters": LETTERS, "smoothing": smoothing}
    spoilt = z.clone()
    spoilt[:20, :4] = 5
    c, noise = Condition.none(50), Noise.shared(0, 50)
    if kind == "masked":
        prior = Masked(Tokens(N, K), Fixed(logits()), Categorical(K), least=1.0, **options)
    else:
        parts = HALVES if kind == "parts" else None
        prior = Autoregressive(Tokens(N, K), Fixed(logits()), Categorical(K), parts=parts, order="random", **options)
    terms = prior.loss(spoilt, c, noise)
    nats = -by_hand().log().expand(50, N, K)
    even = torch.where(LETTERS, nats, 0.0).sum(-1) / LETTERS.sum(-1)
    each = (1 - smoothing) * nats.gather(-1, z[..., None])[..., 0] + smoothing * even
    text, image = each[20:, :4], each[:, 4:]
    if kind == "parts":
        assert float(terms["text"].detach()) == pytest.approx(float(text.mean()) / 8, rel=1e-6)
        assert float(terms["image"].detach()) == pytest.approx(float(image.mean()) * 7 / 8, rel=1e-6)
    else:
        mean = (text.sum() + image.sum()) / (30 * 4 + 50 * 6)
        assert float(terms["nats"].detach()) == pytest.approx(float(mean), rel=1e-6)
    sum(terms.values()).backward()
    assert bool(prior.net.logits.grad.isfinite().all())


def test_letters_that_may_not_stand_get_no_gradient():
    prior = Autoregressive(Tokens(N, K), Fixed(logits()), Categorical(K), letters=LETTERS)
    sum(prior.loss(allowed(50), Condition.none(50), Noise.shared(0, 50)).values()).backward()
    grad = prior.net.logits.grad
    assert not grad[~LETTERS].any()
    assert bool(grad[LETTERS].all())
    torch.testing.assert_close(grad.sum(1), torch.zeros(N).double(), rtol=0, atol=1e-7)  # p − target, float32 inside


def test_smoothing_spreads_over_the_letters_that_may_stand():
    prior = Autoregressive(Tokens(N, K), Fixed(logits()), Categorical(K), letters=LETTERS, smoothing=0.2)
    z = allowed(50)
    found = prior.loss(z, Condition.none(50), Noise.shared(0, 50))["nats"]
    nats = -by_hand().log().expand(50, N, K)
    even = torch.where(LETTERS, nats, 0.0).sum(-1) / LETTERS.sum(-1)
    expected = 0.8 * nats.gather(-1, z[..., None])[..., 0] + 0.2 * even
    assert float(found.detach()) == pytest.approx(float(expected.mean()), rel=1e-6)


@pytest.mark.parametrize("order", ["raster", "random"])
def test_what_is_spoilt_keeps_to_its_alphabet(order):
    """All tokens replaced: evenly among a position's own letters, 4 standard errors of 3000 rows."""
    heard = []

    class Reader(Fixed):
        def forward(self, z, *said, order=None):
            heard.append(z if order is None else z[:, order.argsort()])
            return super().forward(z, *said, order=order)

    prior = Autoregressive(Tokens(N, K), Reader(logits()), Categorical(K), letters=LETTERS, corrupt=1.0, order=order)
    prior.loss(allowed(3000), Condition.none(3000), Noise.shared(0, 3000))
    found = torch.nn.functional.one_hot(heard[0], K).double().mean(0)
    p = LETTERS.double() / LETTERS.sum(1, keepdim=True)
    assert bool(((found - p).abs() <= 4 * (p * (1 - p) / 3000).sqrt()).all())


@pytest.mark.parametrize("scale", [1.0, 2.0])
@pytest.mark.parametrize("kind", ["autoregressive", "masked"])
def test_draws_have_the_renormalised_probabilities(kind, scale):
    """4000 draws at each of ten positions within 4 standard errors; guided, u being the same, p is what it was."""
    n = 4000
    if kind == "masked":
        prior = Masked(Tokens(N, K), Fixed(logits()), Categorical(K), letters=LETTERS, steps=2)
    else:
        prior = Autoregressive(Tokens(N, K), Fixed(logits()), Categorical(K), letters=LETTERS)
    c = Condition.none(n)
    z = prior.sample(c, Noise.shared(0, n), null=c, guidance=scale)
    found, p = torch.nn.functional.one_hot(z, K).double().mean(0), by_hand()
    if kind == "masked":  # what is surest stays, so that the frequencies are not p; but no letter leaks
        assert not found[~LETTERS].any()
    else:
        assert bool(((found - p).abs() <= 4 * (p * (1 - p) / n).sqrt()).all())


def test_a_masked_prior_scores_each_position_by_its_own_letters():
    """Conditionals that look at nothing are those of one joint distribution, so that the bound is tight; each of m = 1
    … N is visited once, and the estimate of a row is then exact on average: 4 standard errors of 2000 rows."""
    prior = Masked(Tokens(N, K), Fixed(logits()), Categorical(K), letters=LETTERS, points=N)
    z = allowed(1).expand(2000, N)
    nats = prior.log_prob(z, Condition.none(2000), Noise.shared(0, 2000)).detach()
    expected = by_hand().log().gather(-1, z[0, :, None]).sum()
    assert abs(float(nats.mean() - expected)) < 4 * float(nats.std()) / math.sqrt(2000)
    prior = Masked(Tokens(N, K), Fixed(logits()), Categorical(K), letters=LETTERS, smoothing=0.1, least=1.0)
    found = prior.loss(allowed(50), Condition.none(50), Noise.shared(0, 50))["nats"]  # everything is hidden
    plain = Autoregressive(Tokens(N, K), Fixed(logits()), Categorical(K), letters=LETTERS, smoothing=0.1)
    torch.testing.assert_close(found, plain.loss(allowed(50), Condition.none(50), Noise.shared(0, 50))["nats"])


def test_what_does_not_fit_is_refused():
    build = lambda **options: Autoregressive(Tokens(N, K), Fixed(logits()), Categorical(K), **options)
    with pytest.raises(Misfit, match="bool mask"):
        build(letters=LETTERS[:3])
    with pytest.raises(Misfit, match="no letter"):
        build(letters=LETTERS & (torch.arange(N) > 0)[:, None])
    with pytest.raises(Misfit, match="each of the 10 positions once"):
        build(parts={"text": (range(0, 4), 1.0), "image": (range(5, N), 1.0)})
    with pytest.raises(Misfit, match="no letters"):
        Autoregressive(Sequence(N, 3), Slow(net_of(Sequence(N, 3), 6)), Mixture(), letters=LETTERS)
    assert "letters" not in build(letters=LETTERS).state_dict()
