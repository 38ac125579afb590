"""Autoregression in other orders and over vectors: against a joint table, a Gaussian process and exact denoisers."""

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
from sfumato.nn import CausalNet, VectorNet
from sfumato.priors.autoregressive import Autoregressive, put, taken
from sfumato.priors.diffusion import Diffusion, Rectified

K, N = 3, 4
SPACE = Tokens(N, K, (2, 2))
EVERY = torch.tensor(list(itertools.product(range(K), repeat=N)))
JOINT = (1.5 * torch.randn(len(EVERY), generator=torch.Generator().manual_seed(0), dtype=torch.float64)).softmax(0)


class Table(nn.Module):
    """The exact net in any order: log p(z_π(i) | z_π(<i)) by summing the table."""

    def conditional(self, z, order, i):
        """(B, K) at step i; z in the order, order (B, N)."""
        words = EVERY[:, order].transpose(0, 1)  # (B, 81, N): every word as each row reads it
        agrees = (words[:, :, :i] == z[:, None, :i]).all(-1) * JOINT
        onehot = F.one_hot(words[:, :, i], K).double()
        return (torch.einsum("bw,bwk->bk", agrees, onehot) / agrees.sum(1, keepdim=True)).clamp(min=1e-30).log()

    def orders(self, rows, order):
        order = torch.arange(N) if order is None else order
        return order.expand(rows, N)

    def forward(self, z, condition, order=None):
        order = self.orders(len(z), order)
        return torch.stack([self.conditional(z, order, i) for i in range(N)], 1)

    def start(self, condition, order=None):
        return {"order": self.orders(condition.rows, order), "z": []}

    def step(self, state, last):
        if last is not None:
            state["z"].append(last)
        rows = len(state["order"])
        z = torch.stack(state["z"], 1) if state["z"] else torch.zeros(rows, 0, dtype=torch.long)
        return self.conditional(z, state["order"], z.shape[1])


def table(order):
    return Autoregressive(SPACE, Table(), Categorical(K), order=order)


def counted(z):
    return torch.bincount((z * K ** torch.arange(N - 1, -1, -1)).sum(1), minlength=len(EVERY)).double() / len(z)


@pytest.mark.parametrize("order", ["raster", "column", "snake", "random", "halton", "any"])
def test_every_order_has_the_same_probabilities_and_draws(order):
    """The conditionals are those of one joint, so log_prob is its logarithm in every order (1e-6: float32 sums), and
    the draws are its draws (all 81 words within 4 standard errors of 20000)."""
    prior, n = table(order), 20_000
    nats = prior.log_prob(EVERY, Condition.none(81), Noise.ambient(81))
    torch.testing.assert_close(nats.double(), JOINT.log(), atol=1e-5, rtol=0)
    z = prior.sample(Condition.none(n), Noise.shared(0, n))
    assert bool(((counted(z) - JOINT).abs() < 4 * (JOINT * (1 - JOINT) / n).sqrt() + 1e-12).all())
    loss = prior.loss(EVERY[:9], Condition.none(9), Noise.shared(0, 9))["nats"]
    torch.testing.assert_close(loss.double(), -JOINT[:9].log().mean() / N, rtol=1e-5, atol=1e-6)
    assert prior.kind == "exact"


@pytest.mark.parametrize("order", ["raster", "random", "known", "column", None])
def test_a_prior_of_any_order_takes_what_is_known_first(order):
    """Entries 1 and 3 are given. Taken first, as they are unless asked otherwise, they condition the others exactly
    (4 standard errors of 20000); in raster order entry 0 cannot know of them."""
    n = 20_000
    value = torch.tensor([[0, 2, 0, 1]]).expand(n, N)
    mask = torch.tensor([[False, True, False, True]]).expand(n, N)
    z = table("any").sample(Condition.none(n), Noise.shared(1, n), known=(value, mask), order=order)
    assert torch.equal(z[mask], value[mask])
    held = ((EVERY[:, 1] == 2) & (EVERY[:, 3] == 1)).double() * JOINT
    exact = held / held.sum()
    near = ((counted(z) - exact).abs() < 4 * (exact * (1 - exact) / n).sqrt() + 1e-12).all()
    assert bool(near) == (order in ("known", None))


def test_the_order_is_a_buffer_and_taken_back():
    for order in ("column", "random"):
        prior = table(order)
        assert sorted(prior.state_dict()["places"].tolist()) == list(range(N))
    assert "places" not in table("raster").state_dict()
    z = torch.randn(3, 6, 2)
    for order in (torch.randperm(6), torch.rand(3, 6).argsort(1)):
        there = taken(z, order)
        assert torch.equal(put(there, order), z)
        assert torch.equal(there[1, 2], z[1, order[2] if order.ndim == 1 else order[1, 2]])


def transformer(order, rows=3, head=None, space=None, **options):
    torch.manual_seed(0)
    space = Tokens(6, 7, (2, 3)) if space is None else space
    head = Categorical(7) if head is None else head
    line = space if isinstance(space, Tokens) else Sequence(6, 3, (2, 3))
    features = 7 if isinstance(head, Categorical) else 10 if not hasattr(head, "channels") else head.channels(3)
    net = CausalNet(line, features, width=16, depth=2, heads=2, vector=4, orders=order == "any", **options).eval()
    return Autoregressive(space, net, head, order=order), Condition(rows, vector=torch.randn(1, 4).expand(rows, 4))


@pytest.mark.parametrize("order", ["raster", "column", "random", "any"])
@pytest.mark.parametrize("patterns", [None, ["row", "column"]])
def test_rows_depend_on_their_seed_alone(order, patterns):
    """E10, bitwise, with the cache, packed weights, guidance and an order for each image."""
    prior, condition = transformer(order, patterns=patterns)
    null = condition.map(torch.zeros_like)
    options = {"order": "random"} if order == "any" else {}
    draw = lambda seeds: prior.sample(condition, Noise.each(seeds), null=null, guidance=2.0, **options)
    a, b = draw([1, 2, 3]), draw([9, 3, 1])
    assert torch.equal(a[0], b[2])
    assert torch.equal(a[2], b[1])
    assert not torch.equal(a[0], a[1])


def test_cached_draws_in_any_order_are_uncached_draws():
    """Step by step by hand, with an order for each row; float64, so that no uniform falls between the two."""
    prior, condition = transformer("any")
    prior.double()
    condition = condition.map(lambda d: d.double())
    z = prior.sample(condition, Noise.each([1, 2, 3]), order="random")
    noise = Noise.each([1, 2, 3])
    order = noise.uniform(6).argsort(1)
    u = noise.uniform(6)
    read = torch.zeros(3, 6, dtype=torch.long)
    with torch.no_grad():
        for i in range(6):
            reach = prior.net(read, condition, order=order)[:, i].softmax(-1).cumsum(-1)
            read[:, i] = (reach < u[:, i : i + 1]).sum(-1)
    assert torch.equal(z, put(read, order))


# ── vectors ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Walk(nn.Module):
    """z_i = φ z_{i−1} + τ n along the order: the exact net with features (mean)."""

    def forward(self, z, condition, order=None):
        return torch.cat([torch.zeros_like(z[:, :1]), 0.8 * z[:, :-1]], 1)

    def start(self, condition, order=None):
        return condition

    def step(self, state, last):
        return torch.zeros(state.rows, 2) if last is None else 0.8 * last


@pytest.mark.parametrize("order", ["raster", "column"])
def test_a_grid_is_read_cell_by_cell(order):
    """A grid's cells in the order are the Gaussian process: against its multivariate normal, 1e-4 nats of about 10."""
    tau, n = 0.6, 512
    prior = Autoregressive(Grid(2, 2, 3), Walk(), Normal(scale=tau), order=order)
    z = prior.sample(Condition.none(n), Noise.shared(0, n))
    assert z.shape == (n, 2, 2, 3)
    i = torch.arange(6)
    factor = tau * torch.tril(0.8 ** (i[:, None] - i).clamp(min=0).float())
    exact = torch.distributions.MultivariateNormal(torch.zeros(6), factor @ factor.T)
    line = z.flatten(2) if order == "raster" else z.transpose(2, 3).flatten(2)
    nats = prior.log_prob(z, Condition.none(n), Noise.ambient(n))
    torch.testing.assert_close(nats, exact.log_prob(line).sum(1), rtol=0, atol=1e-4)
    entropy, se = float(exact.entropy()) * 2, float(nats.std()) / math.sqrt(n)
    assert abs(float(nats.mean()) + entropy) < 4 * se


@pytest.mark.parametrize("order", ["raster", "any"])
def test_known_cells_of_a_grid_are_kept(order):
    prior, condition = transformer(order, head=MixtureHead(2), space=Grid(3, 2, 3))
    value, mask = torch.randn(3, 3, 2, 3), torch.rand(3, 3, 2, 3) < 0.5
    z = prior.sample(condition, Noise.each([1, 2, 3]), known=(value, mask))
    assert torch.equal(z[mask], value[mask])
    assert bool((z[~mask] != value[~mask]).all())


class Deaf(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, z, t, condition):
        return self.net(z, t, condition)


def test_a_diffusion_head_draws_its_mixture_at_every_step():
    """E5: shares and means of three components over 1500 draws of 4 positions, within 4 standard errors."""
    path = Rectified()
    head = Diffusion(Sequence(1, 2), Deaf(Mixture(path, "velocity")), path, "velocity", steps=60, solver="heun")
    n = 1500
    z = Autoregressive(Grid(2, 2, 2), Walk(), head).sample(Condition.none(n), Noise.shared(0, n))
    x = z.flatten(2).transpose(1, 2).flatten(0, 1).double()
    weights, means, stds = Mixture.weights, Mixture.means, Mixture.stds
    gap = (x[:, None] - means).square().sum(-1)
    nearest = (weights.log() - 2 * stds.log() - gap / (2 * stds.square())).argmax(1)
    for k in range(3):
        own = x[nearest == k]
        assert abs(len(own) / len(x) - weights[k]) < 4 * math.sqrt(weights[k] * (1 - weights[k]) / len(x))
        assert bool(((own.mean(0) - means[k]).abs() < 4 * stds[k] / math.sqrt(len(own))).all())


def test_with_a_diffusion_head_log_prob_is_a_bound():
    """Independent x ~ N(1.5, 0.5²), exact denoiser: within 0.02 nats an entry below the density."""
    path = Rectified()
    head = Diffusion(Sequence(1, 2), Deaf(plain(path, "velocity", d=2)), path, "velocity", points=32)
    prior = Autoregressive(Grid(2, 2, 2), Walk(), head)
    assert prior.kind == "bound"
    z = 1.5 + 0.5 * Noise.each(range(64)).normal(2, 2, 2)
    exact = torch.distributions.Normal(1.5, 0.5).log_prob(z).flatten(1).sum(1)
    found = torch.stack([prior.log_prob(z, Condition.none(64), Noise.shared(s, 64)) for s in range(20)])
    gap, error = (exact - found).mean(), (exact - found).mean(1).std() / math.sqrt(20)
    assert -4 * error < gap < 8 * 0.02 + 4 * error


def test_heads_of_their_own_learn_and_are_guided():
    net = VectorNet(Sequence(1, 3), 3, width=16, depth=2, vector=10)
    head = Diffusion(Sequence(1, 3), net, Rectified(), "velocity", steps=3, solver="heun")
    prior, condition = transformer("raster", head=head, space=Grid(3, 2, 3))
    prior.repeats = 3
    terms = prior.loss(torch.randn(3, 3, 2, 3), condition, Noise.shared(0, 3))
    assert set(terms) == {"denoise"}
    for parameter in net.parameters():  # its exits begin at zero, which would hide everything
        nn.init.normal_(parameter, std=0.3)
    null = condition.map(torch.zeros_like)
    draw = lambda given, **options: prior.sample(given, Noise.each([1, 2, 3]), **options)
    assert torch.equal(draw(condition, null=null, guidance=1.0), draw(condition))
    assert torch.equal(draw(condition, null=null, guidance=0.0), draw(null))
    assert not torch.equal(draw(condition, null=null, guidance=3.0), draw(condition))


def test_what_does_not_fit_is_refused():
    with pytest.raises(Misfit, match="Categorical knows nothing"):
        Autoregressive(Sequence(4, 2), Walk(), Categorical(3))
    with pytest.raises(Misfit, match=r"needs the head Categorical\(3\)"):
        Autoregressive(SPACE, Table(), Normal())
    with pytest.raises(UnknownName, match="Did you mean 'raster'"):
        table("rastre")
    with pytest.raises(UsageError, match="one order"):
        table("column").sample(Condition.none(1), Noise.each([1]), order="random")
