"""Masked priors against a joint table of which every conditional is known, brute force over orders, and Gaussians."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from prior_oracles import Mixture, plain
from torch import nn

from sfumato.core.condition import Condition
from sfumato.core.errors import Misfit, UnknownName, UsageError
from sfumato.core.noise import Noise
from sfumato.core.space import Grid, Sequence, Tokens
from sfumato.likelihoods import Categorical, Normal
from sfumato.likelihoods import Mixture as MixtureHead
from sfumato.nn import MaskedNet
from sfumato.priors.diffusion import Diffusion, Rectified
from sfumato.priors.masked import SCHEDULES, Masked, remaining
from sfumato.priors.orders import ORDERS

K, N = 3, 4
SPACE = Tokens(N, K, (2, 2))
EVERY = torch.tensor(list(itertools.product(range(K), repeat=N)))  # 81 words


def joint(seed=0, strength=1.5):
    """p over all 81 words, with every entry dependent on every other; float64."""
    logits = strength * torch.randn(len(EVERY), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return logits.softmax(0)


class Table(nn.Module):
    """The exact net: log p(z_i = k | shown) by summing the table. condition.vector (B, K), if any, is added."""

    def __init__(self, p):
        super().__init__()
        self.p, self.calls = p, []

    def forward(self, z, hidden, condition):
        self.calls.append((len(z), hidden.clone()))
        agrees = (hidden[:, None] | (z[:, None] == EVERY)).all(-1)  # (B, 81)
        weight = agrees * self.p
        onehot = F.one_hot(EVERY, K).to(weight)
        h = (torch.einsum("bw,wnk->bnk", weight, onehot) / weight.sum(1)[:, None, None]).clamp(min=1e-30).log()
        return h if condition.vector is None else h + condition.vector[:, None]


def table(p=None, **options):
    return Masked(SPACE, Table(joint() if p is None else p), Categorical(K), **options)


def counted(z):
    """How often each of the 81 words was drawn, as a frequency."""
    return torch.bincount((z * K ** torch.arange(N - 1, -1, -1)).sum(1), minlength=len(EVERY)).double() / len(z)


# ── schedules ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", [n for n in SCHEDULES if n != "mar"])
def test_schedules_fall_from_one_to_nothing(name):
    """float32: ends within 1e-6, and never up again."""
    r = torch.linspace(0, 1, 101)
    gamma = SCHEDULES[name](r)
    torch.testing.assert_close(gamma[[0, -1]], torch.tensor([1.0, 0.0]), atol=1e-6, rtol=0)
    assert bool((gamma.diff() < 0).all())


def test_mars_ratios_are_the_truncated_normal():
    """Against scipy's quantiles of N(1, 0.25²) cut to [0.7, 1]; float64."""
    from scipy import stats

    r = torch.linspace(0.001, 0.999, 50, dtype=torch.float64)
    exact = stats.truncnorm((0.7 - 1) / 0.25, 0, loc=1, scale=0.25).ppf(1 - r.numpy())
    torch.testing.assert_close(SCHEDULES["mar"](r), torch.from_numpy(exact), atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    ("schedule", "n", "steps", "left"),
    [
        ("linear", 4, 2, [2, 0]),
        ("linear", 4, 4, [3, 2, 1, 0]),
        ("linear", 20, 10, [18, 16, 14, 12, 10, 8, 6, 4, 2, 0]),  # 20 (1 − 0.9) is 2, not 1.9999
        ("cosine", 16, 4, [14, 11, 6, 0]),  # 16 · (0.9239, 0.7071, 0.3827) = 14.8, 11.3, 6.1
        ("cosine", 4, 4, [3, 2, 1, 0]),  # 3.7, 2.8, 1.5
        ("square", 5, 5, [4, 3, 2, 1, 0]),  # 4.8, 4.2 → one at least comes, 3.2 → 2, 1.8 → 1
        ("root", 9, 3, [3, 1, 0]),  # 9 (1 − √⅓) = 3.8; 9 (1 − √⅔) = 1.65
        ("root", 6, 6, [5, 4, 3, 2, 1, 0]),  # too steep: every step to come keeps one
        ("root", 12, 4, [6, 3, 1, 0]),  # 12 (1 − √¼) = 6; 3.5; 1.6
        ("cosine", 2, 8, [1, 0, 0, 0, 0, 0, 0, 0]),  # more steps than positions: it is done early
        ("cosine", 0, 2, [0, 0]),
        ("cosine", 16, 1, [0]),
    ],
)
def test_how_many_stay_hidden_by_hand(schedule, n, steps, left):
    now, found = torch.tensor([n]), []
    for k in range(steps):
        now = remaining(SCHEDULES[schedule], torch.tensor([n]), now, k, steps)
        found.append(int(now))
    assert found == left


@pytest.mark.parametrize(("least", "low"), [(0.0, 1), (0.5, 8), (1.0, 16)])
def test_training_hides_what_the_schedule_says(least, low):
    """Counts over 4000 draws against the law of ⌈16 γ(r)⌉: P(count ≥ c) = (2/π) arccos((c − 1)/16) for the cosine;
    within 4 standard errors. The draws of a batch are spread evenly, which only makes them nearer."""
    n, rows = 16, 4000
    prior = Masked(Tokens(n, K), Table(joint()), Categorical(K), least=least)
    hidden = prior.hide(Noise.shared(0, rows))
    count = hidden.sum(1)
    assert int(count.min()) == low
    assert int(count.max()) <= n
    for c in range(low + 1, n + 1):
        expected = 2 / math.pi * math.acos((c - 1) / n)
        found = float((count >= c).double().mean())
        assert abs(found - expected) < 4 * math.sqrt(expected * (1 - expected) / rows) + 1 / rows
    each = hidden.double().mean(0)
    assert float((each - each.mean()).abs().max()) < 4 * 0.5 / math.sqrt(rows)  # no position is favoured


# ── training ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_that_of_hidden_positions_alone(smoothing):
    """By hand, from what the net was asked."""
    prior = table(smoothing=smoothing)
    z = EVERY[::7]
    loss = prior.loss(z, Condition.none(len(z)), Noise.shared(3, len(z)))
    hidden = prior.net.calls[-1][1]
    h = prior.net(z, hidden, Condition.none(len(z))).log_softmax(-1)
    picked = (1 - smoothing) * h.gather(-1, z[..., None])[..., 0] + smoothing * h.mean(-1)
    assert set(loss) == {"nats"}
    torch.testing.assert_close(loss["nats"].double(), -picked[hidden].mean(), rtol=1e-5, atol=1e-6)


def test_a_hidden_token_does_not_reach_the_loss_by_another_way():
    """The real net: what a hidden entry holds changes no feature, bit for bit."""
    torch.manual_seed(0)
    net = MaskedNet(SPACE, K, width=16, depth=2, heads=2).eval()
    z, hidden = EVERY[::9], torch.rand(9, N) < 0.5
    other = torch.where(hidden, (z + 1) % K, z)
    assert torch.equal(net(z, hidden, Condition.none(9)), net(other, hidden, Condition.none(9)))


# ── the bound ────────────────────────────────────────────────────────────────────────────────────────────────────────


def repeated(prior, z, times=2000, seed=0):
    """(mean, standard error) of `times` independent estimates of log p(z) for one word."""
    rows = z.expand(times, *z.shape[1:])
    nats = prior.log_prob(rows, Condition.none(times), Noise.shared(seed, times)).double()
    return float(nats.mean()), float(nats.std()) / math.sqrt(times)


@pytest.mark.parametrize("points", [1, 4])
def test_with_exact_conditionals_the_bound_is_the_probability(points):
    """Every order's chain is the joint, so the mean estimate is log p(z): within 4 standard errors, for five words."""
    p = joint()
    prior = table(p, points=points)
    for word in (0, 13, 40, 67, 80):
        mean, error = repeated(prior, EVERY[word : word + 1])
        assert abs(mean - math.log(p[word])) < 4 * error + 1e-6


class Biased(Table):
    """Conditionals of no joint: those of the table, tempered by how much is shown."""

    def forward(self, z, hidden, condition):
        h = super().forward(z, hidden, condition)
        return (h * (0.4 + 0.3 * (~hidden).sum(1))[:, None, None]).log_softmax(-1)


def chain(net, z, order):
    """log p of a word in one order, one position a step."""
    hidden, total = torch.ones(1, N, dtype=torch.bool), 0.0
    for i in order:
        total = total + float(net(z, hidden, Condition.none(1))[0, i].log_softmax(-1)[z[0, i]])
        hidden = hidden.clone()
        hidden[0, i] = False
    return total


@pytest.mark.parametrize("points", [1, 3, 4])
def test_the_bound_is_the_mean_over_orders_by_brute_force(points):
    """All 24 orders: E_σ log p_σ(z), within 4 standard errors; and it is below log E_σ p_σ(z), what the model draws."""
    net = Biased(joint())
    prior = Masked(SPACE, net, Categorical(K), points=points)
    for word in (5, 44):
        z = EVERY[word : word + 1]
        chains = torch.tensor([chain(net, z, order) for order in itertools.permutations(range(N))])
        mean, error = repeated(prior, z)
        assert abs(mean - float(chains.mean())) < 4 * error + 1e-6
        assert float(chains.mean()) < float(chains.logsumexp(0)) - math.log(24)
    assert prior.kind == "bound"


# ── decoding ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("order", ["random", "halton", "raster", "column"])
def test_one_position_a_step_draws_from_the_joint(order):
    """All 81 words within 4 standard errors over 40000 draws, whatever the order that does not look at the draws."""
    n, p = 40_000, joint()
    z = table(p).sample(Condition.none(n), Noise.shared(1, n), steps=N, order=order)
    assert bool(((counted(z) - p).abs() < 4 * (p * (1 - p) / n).sqrt() + 1e-12).all())


def test_all_at_once_draws_from_the_marginals():
    """One step: independent positions, each with its own marginal."""
    n, p = 20_000, joint()
    z = table(p).sample(Condition.none(n), Noise.shared(1, n), steps=1)
    marginal = torch.einsum("w,wnk->nk", p, F.one_hot(EVERY, K).double())
    product = torch.stack([marginal[i, EVERY[:, i]] for i in range(N)]).prod(0)
    assert bool(((counted(z) - product).abs() < 4 * (product * (1 - product) / n).sqrt()).all())
    assert float((product - p).abs().sum()) > 0.3  # which is not the joint


def test_sure_of_itself_it_draws_too_few_words():
    """Without noise in the choice the surest draws stay, so that likely words are drawn too often: less entropy than
    the joint's, and than with noise."""
    n, p = 20_000, joint(strength=0.8)
    entropy = {}
    for tau in (0.0, 50.0):
        z = table(p).sample(Condition.none(n), Noise.shared(2, n), steps=N, order="confidence", choice_temperature=tau)
        q = counted(z)
        entropy[tau] = float(-(q * q.clamp(min=1e-30).log()).sum())
    exact = float(-(p * p.log()).sum())
    assert entropy[0.0] < exact - 0.1
    assert entropy[0.0] < entropy[50.0] - 0.1


@pytest.mark.parametrize("schedule", [n for n in SCHEDULES if n != "mar"])
@pytest.mark.parametrize("order", ["confidence", "random", *ORDERS])
def test_every_position_is_revealed_once(order, schedule):
    """What is hidden only shrinks, by one at least, to nothing; and every token is of the alphabet."""
    space = Tokens(12, 5, (3, 4))
    torch.manual_seed(0)
    net = Watched(MaskedNet(space, 5, width=16, depth=1, heads=2).eval())
    prior = Masked(space, net, Categorical(5), order=order, schedule=schedule)
    for steps in (1, 2, 5, 12, 40):
        net.hidden.clear()
        z = prior.sample(Condition.none(3), Noise.each(range(3)), steps=steps)
        counts = torch.stack(net.hidden).sum(2)  # (T, 3)
        assert len(counts) == min(steps, 12)
        assert bool((counts[0] == 12).all())
        assert bool((counts.diff(dim=0) < 0).all())
        assert all(not bool((later & ~earlier).any()) for earlier, later in itertools.pairwise(net.hidden))
        assert bool(((z >= 0) & (z < 5)).all())


class Watched(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net, self.hidden, self.z = net, [], []

    def forward(self, z, hidden, condition):
        self.hidden.append(hidden)
        self.z.append(z)
        return self.net(z, hidden, condition)


@pytest.mark.parametrize("order", ["confidence", "random", "halton"])
@pytest.mark.parametrize("steps", [1, 3, 12])
def test_known_tokens_are_kept_and_shown_at_every_step(order, steps):
    """Rows that know nothing, some, all but one, and all; what is drawn where little is known cannot overwrite it."""
    space = Tokens(12, 5, (3, 4))
    torch.manual_seed(0)
    net = Watched(MaskedNet(space, 5, width=16, depth=1, heads=2).eval())
    prior = Masked(space, net, Categorical(5), order=order)
    value = torch.randint(5, (4, 12))
    mask = torch.rand(4, 12) < torch.tensor([0.0, 0.5, 2.0, 2.0])[:, None]
    mask[2, 7] = False
    z = prior.sample(Condition.none(4), Noise.each(range(4)), known=(value, mask), steps=steps)
    assert torch.equal(z[mask], value[mask])
    assert not any(bool((hidden & mask).any()) for hidden in net.hidden)
    assert all(torch.equal(seen[mask], value[mask]) for seen in net.z)
    assert bool((net.hidden[0] == ~mask).all())


def test_known_tokens_condition_the_rest():
    """p(z_2, z_3 | z_0, z_1) of the table, one position a step; within 4 standard errors of 20000 draws."""
    n, p = 20_000, joint()
    value = torch.tensor([[1, 2, 0, 0]]).expand(n, N)
    mask = torch.tensor([[True, True, False, False]]).expand(n, N)
    z = table(p).sample(Condition.none(n), Noise.shared(4, n), known=(value, mask), steps=N, order="random")
    held = ((EVERY[:, :2] == torch.tensor([1, 2])).all(1)).double() * p
    exact = held / held.sum()
    assert bool(((counted(z) - exact).abs() < 4 * (exact * (1 - exact) / n).sqrt() + 1e-12).all())


def test_guidance_one_is_unguided_and_zero_unconditional():
    """Bitwise; and guided steps cost one call of twice the rows."""
    prior = table()
    condition, null = Condition(5, vector=torch.randn(5, K)), Condition(5, vector=torch.zeros(5, K))
    draw = lambda c, **options: prior.sample(c, Noise.each(range(5)), steps=3, **options)
    assert torch.equal(draw(condition, null=null, guidance=1.0), draw(condition))
    assert torch.equal(draw(condition, null=null, guidance=1.0, ramp="linear"), draw(condition))
    assert torch.equal(draw(condition, null=null, guidance=0.0), draw(null))
    for ramp, rows in (("constant", [10, 10, 10]), ("linear", [5, 10, 10])):  # the ramp begins unguided
        prior.net.calls.clear()
        draw(condition, null=null, guidance=3.0, ramp=ramp)
        assert [b for b, _ in prior.net.calls] == rows


def test_the_ramp_of_guidance_is_linear():
    """What is drawn at step k of 3 follows u + s_k (c − u), s = 1, 2, 3: here by the marginal of the last position in
    raster order with independent tokens; within 4 standard errors of 20000 draws."""
    n = 20_000
    flat = torch.full((len(EVERY),), 1 / len(EVERY), dtype=torch.float64)
    tilt = torch.tensor([0.5, -0.2, 0.0])
    condition, null = Condition(n, vector=tilt.expand(n, K)), Condition(n, vector=torch.zeros(n, K))
    z = table(flat).sample(
        condition, Noise.shared(5, n), null=null, guidance=4.0, ramp="linear", steps=N, order="raster"
    )
    for i, scale in enumerate((1, 2, 3, 4)):
        expected = (scale * tilt).softmax(0)
        found = torch.bincount(z[:, i], minlength=K) / n
        assert bool(((found - expected).abs() < 4 * (expected * (1 - expected) / n).sqrt()).all()), i


@pytest.mark.parametrize("order", ["confidence", "random", "halton"])
def test_a_row_depends_on_its_seed_alone(order):
    """E10, bitwise, beside other mates and with other things known."""
    space = Tokens(12, 5, (3, 4))
    torch.manual_seed(0)
    prior = Masked(space, MaskedNet(space, 5, width=16, depth=2, heads=2).eval(), Categorical(5), order=order)
    value, mask = torch.randint(5, (3, 12)), torch.rand(3, 12) < 0.4
    draw = lambda seeds, rows=None: prior.sample(
        Condition.none(3), Noise.each(seeds), known=None if rows is None else (value[rows], mask[rows])
    )
    a, b = draw([1, 2, 3], [0, 1, 2]), draw([9, 8, 1], [2, 1, 0])
    assert torch.equal(a[0], b[2])
    c, d = draw([1, 2, 3]), draw([5, 1, 6])
    assert torch.equal(c[0], d[1])
    assert not torch.equal(c[1], d[0])


# ── vectors ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Gauss(nn.Module):
    """z ~ N(0, C) over 4 positions, in each of 2 channels: the exact net, features (mean, log σ) per channel."""

    def __init__(self, scale=1.0):
        super().__init__()
        i = torch.arange(4).double()
        self.c = 0.8 ** (i[:, None] - i).abs()
        self.scale = scale

    def moments(self, shown):
        """(weights (4, shown), variance (4,)) of each position given the shown ones."""
        if not shown:
            return torch.zeros(4, 0, dtype=torch.float64), self.c.diag()
        gain = self.c[:, shown] @ torch.linalg.inv(self.c[shown][:, shown])
        return gain, self.c.diag() - (gain * self.c[:, shown]).sum(1)

    def forward(self, z, hidden, condition):
        h = torch.zeros(len(z), 4, 4, dtype=torch.float64)
        for b, row in enumerate(hidden):
            shown = (~row).nonzero()[:, 0].tolist()
            gain, variance = self.moments(shown)
            h[b, :, :2] = gain @ z[b, shown].double()
            h[b, :, 2:] = variance.clamp(min=1e-12).sqrt().log()[:, None]
        return h


def test_vectors_have_the_density_of_their_gaussian():
    """Exact conditionals, exact heads: the mean of the estimate is the multivariate normal's; 4 standard errors."""
    prior = Masked(Sequence(4, 2), Gauss(), Normal("element", floor=1e-6), points=4)
    z = Noise.each([3]).normal(4, 2).double()
    exact = torch.distributions.MultivariateNormal(torch.zeros(4).double(), prior.net.c).log_prob(z.mT).sum()
    mean, error = repeated(prior, z, times=300)
    assert abs(mean - float(exact)) < 4 * error + 1e-5


def test_vectors_drawn_one_by_one_have_the_covariance():
    """Over 3000 draws of a grid (2, 2, 2), read as four cells of two channels: every entry of the covariance within 4
    standard errors, √((C_ij² + C_ii C_jj) / n)."""
    n = 3000
    prior = Masked(Grid(2, 2, 2), Gauss(), Normal("element", floor=1e-6))
    z = prior.sample(Condition.none(n), Noise.shared(0, n), steps=4).double()
    assert z.shape == (n, 2, 2, 2)
    flat = z.flatten(2).transpose(0, 1)  # (channel, n, cell)
    c = prior.net.c
    error = ((c.square() + c.diag()[:, None] * c.diag()) / n).sqrt()
    for channel in flat:
        assert bool((((channel.T @ channel) / n - c).abs() < 4 * error).all())
    cross = flat[0].T @ flat[1] / n
    assert bool((cross.abs() < 4 * (c.diag()[:, None] * c.diag() / n).sqrt()).all())


class Still(nn.Module):
    """Features that say the position, and nothing else: (B, N, N)."""

    def __init__(self, n):
        super().__init__()
        self.n = n

    def forward(self, z, hidden, condition):
        return torch.eye(self.n).expand(len(z), -1, -1)


def test_a_diffusion_head_draws_a_known_mixture_at_every_position():
    """E5 for MAR's head: an exact denoiser, 4 positions, 3 steps. Weights, means and spreads of the three components
    within 4 standard errors over 8000 draws; the sampler's own error (60 steps of Heun) is below a tenth of that."""
    path = Rectified()
    head = Diffusion(Sequence(1, 2), Deaf(Mixture(path, "velocity")), path, "velocity", steps=60, solver="heun")
    n = 2000
    prior = Masked(Grid(2, 2, 2), Still(4), head, steps=3)
    z = prior.sample(Condition.none(n), Noise.shared(0, n))
    x = z.flatten(2).transpose(1, 2).flatten(0, 1).double()  # (4 n, 2)
    weights, means, stds = Mixture.weights, Mixture.means, Mixture.stds
    gap = x[:, None] - means
    nearest = (weights.log() - 2 * stds.log() - gap.square().sum(-1) / (2 * stds.square())).argmax(1)
    for k in range(3):
        own = x[nearest == k]
        share = len(own) / len(x)
        assert abs(share - weights[k]) < 4 * math.sqrt(weights[k] * (1 - weights[k]) / len(x))
        error = stds[k] / math.sqrt(len(own))
        assert bool(((own.mean(0) - means[k]).abs() < 4 * error).all())
        spread = own.var(0)
        assert bool(((spread - stds[k].square()).abs() < 4 * stds[k].square() * math.sqrt(2 / len(own))).all())
    cells = z.flatten(2)[:, 0]  # positions are independent: their correlations are within 4 standard errors of zero
    correlation = torch.corrcoef(cells.T) - torch.eye(4)
    assert float(correlation.abs().max()) < 4 / math.sqrt(n)


class Deaf(nn.Module):
    """A denoiser that knows the answer whatever it is told."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, z, t, condition):
        assert condition.vector is not None
        assert len(condition.vector) == len(z)
        return self.net(z, t, condition)


def test_a_diffusion_head_bounds_the_density():
    """Independent positions x ~ N(1.5, 0.5²): with the exact denoiser the bound's gap is the decoder's and the last
    level's alone, below 0.02 nats an entry; and it is a bound, up to 4 standard errors."""
    path = Rectified()
    net = plain(path, "velocity", d=2)
    head = Diffusion(Sequence(1, 2), Deaf(net), path, "velocity", points=32)
    prior = Masked(Grid(2, 2, 2), Still(4), head, points=4)
    z = 1.5 + 0.5 * Noise.each(range(64)).normal(2, 2, 2)
    exact = torch.distributions.Normal(1.5, 0.5).log_prob(z).flatten(1).sum(1)
    found = torch.stack([prior.log_prob(z, Condition.none(64), Noise.shared(s, 64)) for s in range(20)])
    gap, error = (exact - found).mean(), (exact - found).mean(1).std() / math.sqrt(20)
    assert -4 * error < gap < 8 * 0.02 + 4 * error
    assert prior.kind == "bound"


def vectors(head=None, seed=0, **options):
    torch.manual_seed(seed)
    space = Grid(3, 2, 3)
    net = MaskedNet(Sequence(6, 3, (2, 3)), 10, width=16, depth=2, heads=2, vector=4).eval()
    from sfumato.nn import VectorNet

    denoiser = VectorNet(Sequence(1, 3), 3, width=16, depth=2, vector=10)
    for parameter in denoiser.parameters():
        nn.init.normal_(parameter, std=0.3)  # its exits begin at zero, which would hide everything
    head = head or Diffusion(Sequence(1, 3), denoiser, Rectified(), "velocity", steps=4, solver="heun")
    return Masked(space, net, head, **options)


def test_rows_of_vectors_depend_on_their_seed_alone():
    """E10, bitwise, also where the images know different parts, so that different numbers of positions are drawn."""
    prior = vectors(steps=3)
    c = Condition(3, vector=torch.randn(1, 4).expand(3, 4))
    null = Condition(3, vector=torch.zeros(3, 4))
    value, mask = torch.randn(3, 3, 2, 3), (torch.rand(3, 1, 2, 3) < 0.5).expand(-1, 3, -1, -1)
    draw = lambda seeds, rows: prior.sample(
        c, Noise.each(seeds), null=null, guidance=2.0, known=(value[rows], mask[rows])
    )
    a, b = draw([1, 2, 3], [0, 1, 2]), draw([9, 8, 1], [2, 1, 0])
    assert torch.equal(a[0], b[2])
    assert not torch.equal(a[1], b[1])
    assert torch.equal(a[mask], value[mask])


def test_guidance_of_a_diffusion_head_is_the_heads_own():
    prior = vectors(steps=3)
    c, null = Condition(2, vector=torch.randn(2, 4)), Condition(2, vector=torch.zeros(2, 4))
    draw = lambda given, **options: prior.sample(given, Noise.each([1, 2]), **options)
    assert torch.equal(draw(c, null=null, guidance=1.0), draw(c))
    assert torch.equal(draw(c, null=null, guidance=0.0), draw(null))
    assert not torch.equal(draw(c, null=null, guidance=3.0), draw(c))
    assert not torch.equal(draw(c, head_steps=9), draw(c))


def test_half_a_vector_known_is_drawn_around():
    """A position of which one channel is known is drawn, and the known channel put back."""
    prior = vectors(steps=2)
    value, mask = torch.randn(2, 3, 2, 3), torch.zeros(2, 3, 2, 3, dtype=torch.bool)
    mask[:, 0] = True
    z = prior.sample(Condition(2, vector=torch.zeros(2, 4)), Noise.each([1, 2]), known=(value, mask))
    assert torch.equal(z[:, 0], value[:, 0])
    assert bool((z[:, 1:] != value[:, 1:]).all())


@pytest.mark.parametrize("repeats", [1, 4])
def test_the_head_learns_on_hidden_positions_at_several_levels(repeats):
    """The head is called once with repeats · hidden rows, and its mean is what the loss is."""
    prior = vectors(repeats=repeats, masking="mar")
    z, c = torch.randn(5, 3, 2, 3), Condition(5, vector=torch.randn(5, 4))
    sizes = []
    prior.head.register_forward_pre_hook(lambda *_: None)
    honest = prior.head.loss
    prior.head.loss = lambda z, condition, noise, progress: (
        sizes.append((len(z), condition.rows, noise.rows)) or honest(z, condition, noise, progress)
    )
    terms = prior.loss(z, c, Noise.shared(0, 5))
    hidden = int(prior.hide(Noise.shared(0, 5)).sum())
    assert sizes == [(repeats * hidden,) * 3]
    assert set(terms) == {"denoise"}
    assert bool(terms["denoise"] > 0)
    sum(terms.values()).backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in prior.net.parameters())


def test_a_mixture_may_be_sure_of_itself():
    """A closed density at the draw lets vectors be chosen by confidence too."""
    prior = vectors(head=MixtureHead(1), order="confidence")
    prior.net.head = nn.Linear(16, MixtureHead(1).channels(3))
    c = Condition(2, vector=torch.zeros(2, 4))
    a = prior.sample(c, Noise.each([1, 2]), steps=3)
    assert a.shape == (2, 3, 2, 3)
    assert bool(a.isfinite().all())
    assert not torch.equal(a, prior.sample(c, Noise.each([1, 2]), steps=3, order="random"))


def test_what_does_not_fit_is_refused():
    with pytest.raises(Misfit, match=r"Categorical\(3\)"):
        Masked(SPACE, Table(joint()), Categorical(4))
    with pytest.raises(Misfit, match="over one position"):
        Masked(Grid(2, 2, 2), Still(4), Diffusion(Sequence(4, 2), Still(4), Rectified(), "velocity"))
    with pytest.raises(Misfit, match="Confidence is a density"):
        vectors().sample(Condition(1, vector=torch.zeros(1, 4)), Noise.each([1]), order="confidence")
    with pytest.raises(UnknownName, match="Did you mean 'halton'"):
        table(order="haltn")
    with pytest.raises(UnknownName, match="Did you mean 'cosine'"):
        table(masking="cosin")
    with pytest.raises(UsageError, match="training only"):
        table().sample(Condition.none(1), Noise.each([1]), schedule="mar")
    with pytest.raises(UsageError, match="at least one step"):
        table().sample(Condition.none(1), Noise.each([1]), steps=0)
    with pytest.raises(UsageError, match="no tokens"):
        vectors(smoothing=0.1)
    with pytest.raises(UsageError, match="temperature chooses"):
        vectors().sample(Condition(1, vector=torch.zeros(1, 4)), Noise.each([1]), temperature=0.5)
    with pytest.raises(UsageError, match="ramp"):
        table().sample(Condition.none(1), Noise.each([1]), ramp="quadratic")
