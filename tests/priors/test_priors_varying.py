"""How many vectors there are is drawn, scored and learned like what they hold, against closed forms and integrals."""

import math

import pytest
import torch
from torch import nn

from sfumato.core.condition import Condition
from sfumato.core.errors import Misfit
from sfumato.core.noise import Noise
from sfumato.core.space import Sequence, check, pack, presence, unpack
from sfumato.likelihoods import Mixture, Normal
from sfumato.nn.rows.causal import CausalNet
from sfumato.nn.rows.vector import VectorNet
from sfumato.priors.autoregressive import Autoregressive
from sfumato.priors.diffusion import Diffusion, Rectified, cosine
from sfumato.priors.presence import completed

NONE = Condition.none


class Walk(nn.Module):
    """z_i ~ N(0.5 z_{i−1} + v, 0.6²), there with probability σ(1 − z_{i−1} + v), z_{−1} = 0; v is condition.vector."""

    def read(self, last, condition):
        told = torch.zeros(condition.rows, 1) if condition.vector is None else condition.vector
        told = told if last.ndim == 2 else told[:, None]
        return torch.cat([0.5 * last + told, 1 - last + told], -1)

    def forward(self, z, condition):
        assert z.shape[-1] == 1  # the net reads vectors, and is not told whether they are there
        return self.read(torch.cat([torch.zeros_like(z[:, :1]), z[:, :-1]], 1), condition)

    def start(self, condition):
        return condition

    def step(self, state, last):
        return self.read(torch.zeros(state.rows, 1) if last is None else last, state)


def walk(n=2):
    return Autoregressive(Sequence(n, 1, varying=True), Walk(), Normal(0.6))


def transformer(head, features, n=4, width=2, **options):
    torch.manual_seed(0)
    space = Sequence(n, width, varying=True)
    net = CausalNet(Sequence(n, width), features + 1, width=16, depth=2, heads=2, **options).eval()
    return Autoregressive(space, net, head)


def scored(prior, items):
    z = pack(prior.space, items)
    return prior.log_prob(z, NONE(len(z)), Noise.each(range(len(z))))


def test_all_lengths_together_have_probability_one():
    """p(0) + ∫ p(1, z) + ∫∫ p(2, z): on a grid from −6 to 6, whose steps of 0.1 the trapezoids of a Gaussian of width
    0.6 do not feel; float32 sums, 1e-4."""
    prior, x = walk(), torch.linspace(-6, 6, 121)
    h = float(x[1] - x[0])
    none = scored(prior, [torch.zeros(0, 1)]).exp().sum()
    one = scored(prior, list(x[:, None, None])).exp().sum() * h
    both = scored(prior, list(torch.cartesian_prod(x, x)[..., None])).exp().sum() * h**2
    assert abs(float(none) - float(torch.sigmoid(torch.tensor(-1.0)))) < 1e-6
    assert abs(float(none + one + both) - 1) < 1e-4
    assert min(float(one), float(both)) > 0.1


def test_a_mixture_of_a_transformer_integrates_to_one_too():
    prior, x = transformer(Mixture(3, floor=0.3), Mixture(3).channels(1), n=2, width=1), torch.linspace(-9, 9, 181)
    with torch.no_grad():
        prior.net.head.weight.mul_(6)  # from nearly nothing to something that depends on what was read
        none = scored(prior, [torch.zeros(0, 1)]).exp().sum()
        one = scored(prior, list(x[:, None, None])).exp().sum() * 0.1
        both = scored(prior, list(torch.cartesian_prod(x, x)[..., None])).exp().sum() * 0.01
    assert abs(float(none + one + both) - 1) < 1e-3  # tails of wide components beyond ±9


def test_the_likelihood_is_that_by_hand():
    """log σ(1) + log N(z_0) + log σ(1 − z_0) + …, and log(1 − σ) at the first that is not there; none at N."""
    prior, z = walk(3), torch.tensor([0.3, -0.8, 1.1])
    yes, at = torch.nn.functional.logsigmoid, torch.distributions.Normal
    mean = torch.cat([torch.zeros(1), 0.5 * z[:-1]])
    logit = torch.cat([torch.ones(1), 1 - z])
    nats = at(mean, 0.6).log_prob(z) + yes(logit[:3])
    ends = [*yes(-logit[:3]), torch.zeros(())]
    by_hand = torch.stack([nats[:n].sum() + ends[n] for n in range(4)])
    found = scored(prior, [z[:n, None] for n in range(4)])
    torch.testing.assert_close(found, by_hand, rtol=0, atol=1e-5)
    packed = pack(prior.space, [z[:n, None] for n in range(4)])
    loss = prior.loss(packed, NONE(4), Noise.each(range(4)))
    assert set(loss) == {"presence", "nats"}
    torch.testing.assert_close(sum(loss.values()), -by_hand.mean() / 3)


def test_the_lengths_that_are_drawn_have_their_probabilities():
    """Each within 4 standard errors over 20,000 draws; P(n) of the walk by integration on a grid."""
    n, prior = 20_000, walk()
    z = check(prior.space, prior.sample(NONE(n), Noise.shared(0, n)))
    x = torch.linspace(-6, 6, 1201)
    none = 1 / (1 + math.e)
    density = torch.distributions.Normal(0, 0.6).log_prob(x).exp() * 0.01
    one = float((1 - none) * (density * torch.sigmoid(x - 1)).sum())
    exact = torch.tensor([none, one, 1 - none - one])
    found = torch.bincount(presence(z).sum(1), minlength=3) / n
    assert bool(((found - exact).abs() < 4 * (exact * (1 - exact) / n).sqrt()).all())
    # and the draws are those that it scores: the mean of log p is minus the entropy, by another 20,000 within 4 errors
    nats = prior.log_prob(z, NONE(n), Noise.shared(1, n))
    again = prior.log_prob(prior.sample(NONE(n), Noise.shared(2, n)), NONE(n), Noise.shared(1, n))
    assert abs(float(nats.mean() - again.mean())) < 4 * math.sqrt(2) * float(nats.std()) / math.sqrt(n)


def test_what_is_drawn_of_a_row_uses_as_many_numbers_whatever_its_length():
    """Bitwise: after a draw each row's generator stands where it stands after any other; and rows are their seeds'."""
    prior = walk(4)
    noise, other = Noise.each([1, 2, 3, 4]), Noise.each([1, 2, 3, 4])
    z = prior.sample(NONE(4), noise)
    assert len({len(item) for item in unpack(z)}) > 1
    never = Autoregressive(prior.space, Never(), Normal(0.6))
    assert not presence(never.sample(NONE(4), other)).any()
    assert torch.equal(noise.normal(3), other.normal(3))
    alone = prior.sample(NONE(2), Noise.each([3, 1]))
    assert torch.equal(alone, z[[2, 0]])


class Never(Walk):
    def read(self, last, condition):
        return torch.cat([last, torch.full_like(last, -100.0)], -1)


def test_of_what_is_not_there_nothing_is_learned():
    """The gradient of a batch is that of its items each at their own length, cut off there; float32, 1e-6."""
    items = [torch.randn(n, 2, generator=torch.Generator().manual_seed(n)) for n in (0, 2, 4)]
    prior = transformer(Normal(0.5), 2)
    z = pack(prior.space, items)
    sum(prior.loss(z, NONE(3), Noise.each(range(3))).values()).backward()
    whole = [p.grad.clone() for p in prior.parameters()]
    prior.zero_grad()
    for item in items:
        n = len(item)
        h = prior.net(torch.cat([item, torch.zeros(1, 2)])[None, :4], NONE(1))[0]  # h_n is asked, and no later one
        nats = -torch.distributions.Normal(h[:n, :2], 0.5).log_prob(item).sum()
        nats = nats - torch.nn.functional.logsigmoid(h[: min(n, 4), 2]).sum()
        nats = nats if n == 4 else nats - torch.nn.functional.logsigmoid(-h[n, 2])
        (nats / 12).backward()
    for a, p in zip(whole, prior.parameters(), strict=True):
        torch.testing.assert_close(a, p.grad, rtol=0, atol=1e-6)
    later = [name for name, p in prior.named_parameters() if not p.grad.any()]
    assert later == []


def diffusion_head(n=3, width=2):
    head = Diffusion(
        Sequence(1, width),
        VectorNet(Sequence(1, width), width, width=16, depth=1, vector=6),
        path=cosine(),
        target="v",
        levels=1000,
        steps=8,
        points=4,
    )
    return transformer(head, 6, n, width)


def test_a_diffusion_head_learns_what_is_there_and_nothing_where_nothing_is():
    prior = diffusion_head()
    assert prior.kind == "bound"
    empty = pack(prior.space, [torch.zeros(0, 2)] * 3)
    terms = prior.loss(empty, NONE(3), Noise.each(range(3)))
    assert float(terms["denoise"].detach()) == 0
    sum(terms.values()).backward()
    assert all(not p.grad.any() for p in prior.head.parameters())
    assert torch.equal(
        prior.log_prob(empty, NONE(3), Noise.each(range(3))),
        torch.nn.functional.logsigmoid(-prior.net(empty[..., :-1], NONE(3))[:, 0, -1]),
    )
    some = pack(prior.space, [torch.ones(1, 2), torch.ones(3, 2), torch.zeros(0, 2)])
    nats = prior.log_prob(some, NONE(3), Noise.each(range(3)))
    assert torch.isfinite(nats).all()
    apart = prior.log_prob(some[1:2], NONE(1), Noise.each([1]))
    torch.testing.assert_close(nats[1:2], apart)  # a row does not know of its mates' lengths
    check(prior.space, prior.sample(NONE(3), Noise.each(range(3)), head_steps=4))


def test_a_loss_goes_down_and_the_lengths_are_learned():
    """Items of two vectors: after 300 steps nine draws in ten have two."""
    prior = transformer(Mixture(2), Mixture(2).channels(2), n=3)
    z = pack(prior.space, [torch.tensor([[1.0, 0.0], [0.0, -1.0]])] * 16)
    optimiser = torch.optim.Adam(prior.parameters(), 3e-3)
    for step in range(300):
        optimiser.zero_grad()
        noise = Noise.shared(step, 16)
        noisy = torch.cat([z[..., :-1] + 0.1 * noise.normal(3, 2) * z[..., -1:], z[..., -1:]], -1)
        sum(prior.loss(noisy, NONE(16), noise).values()).backward()
        optimiser.step()
    drawn = prior.sample(NONE(200), Noise.shared(0, 200))
    assert float((presence(drawn).sum(1) == 2).float().mean()) > 0.9
    two = torch.stack([item for item in unpack(drawn) if len(item) == 2])
    torch.testing.assert_close(two.mean(0), z[0, :2, :2], rtol=0, atol=0.1)


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_presence_is_guided_as_logits_are(scale):
    """c and u are Walks with v = 1 and v = −1: at the first position the logit is 1 − 1 + 2 s, whose frequency over
    20,000 draws is within 4 standard errors."""
    n, prior = 20_000, walk(1)
    told, null = (Condition(n, vector=torch.full((n, 1), v)) for v in (1.0, -1.0))
    z = prior.sample(told, Noise.shared(0, n), null=null, guidance=scale)
    exact = float(torch.sigmoid(torch.tensor(2 * scale)))
    assert abs(float(presence(z).float().mean()) - exact) < 4 * math.sqrt(exact * (1 - exact) / n)


def test_the_cache_sees_what_a_whole_pass_sees():
    """A transformer in float64, guided, step by step as here by hand with the same numbers; 1e-9."""
    prior = transformer(Normal(0.5), 2, vector=3).double()
    told = Condition(3, vector=torch.randn(3, 3).double())
    null = told.map(torch.zeros_like)
    found = prior.sample(told, Noise.each([1, 2, 3]), null=null, guidance=2.0)
    noise = Noise.each([1, 2, 3])
    u, z = noise.uniform(4), torch.zeros(3, 4, 3, dtype=torch.float64)
    with torch.no_grad():
        for i in range(4):
            c, n = (prior.net(z[..., :2], given)[:, i] for given in (told, null))
            h = n + 2 * (c - n)
            there = u[:, i] < h[:, 2].sigmoid()
            there = there if i == 0 else there & (z[:, i - 1, 2] > 0)
            z[:, i] = torch.cat([h[:, :2] + 0.5 * noise.normal(2), torch.ones(3, 1)], 1) * there[:, None]
    torch.testing.assert_close(found, z, rtol=0, atol=1e-9)


def test_what_is_known_says_what_is_there():
    space = Sequence(4, 1, varying=True)
    value = pack(space, [torch.tensor([[5.0], [6.0]])])
    mask = torch.zeros(1, 4, 2, dtype=torch.bool)
    mask[:, 1, 0] = True  # one vector that is there: so is the one before, whatever it holds
    held, shown = completed(space, (value, mask))
    assert shown[0].tolist() == [[False, True], [True, True], [False, False], [False, False]]
    assert held[0, :2, 1].tolist() == [1, 1]
    mask[:, 2, 1] = True  # and the third is not, nor is the fourth
    assert completed(space, (value, mask))[1][0, 2:].all()


@pytest.mark.parametrize("make", [lambda: transformer(Normal(0.5), 1, width=1), lambda: walk(4)], ids=["resumed", "no"])
def test_known_parts_are_kept_and_the_length_agrees(make):
    prior = make()
    value = pack(prior.space, [torch.tensor([[0.5], [0.25]])]).expand(64, -1, -1)
    mask = torch.zeros(64, 4, 2, dtype=torch.bool)
    mask[:, :2] = True
    z = check(prior.space, prior.sample(NONE(64), Noise.each(range(64)), known=(value, mask)))
    assert torch.equal(z[:, :2], value[:, :2])
    assert set(presence(z).sum(1).tolist()) == {2, 3, 4}
    free = prior.sample(NONE(64), Noise.each(range(64)))
    assert 0 in presence(free).sum(1)
    mask[:, 2, 1] = True  # that there is no third
    z = check(prior.space, prior.sample(NONE(64), Noise.each(range(64)), known=(value, mask)))
    assert torch.equal(z, value)


def test_only_the_raster_goes_through_a_prefix():
    with pytest.raises(Misfit, match="in that order, not 'random'"):
        Autoregressive(Sequence(3, 1, varying=True), Walk(), Normal(0.6), order="random")


class Denoiser(nn.Module):
    """The exact E[x | z_t] of three items with equal weights, by their distances; said as data."""

    def __init__(self, items, path):
        super().__init__()
        self.items, self.path = items, path

    def forward(self, z, t, condition):
        at = self.path(t[:, None])
        gap = (z.flatten(1)[:, None] - at.alpha[..., None] * self.items.flatten(1)).square().sum(-1)
        weights = (-gap / (2 * at.sigma.square())).softmax(-1)
        return torch.einsum("bk,knd->bnd", weights, self.items)


def test_a_diffusion_carries_presence_as_a_channel():
    """Three items of 0, 1 and 2 vectors, exactly denoised: only they are drawn, each in a third of 3,000 draws, within
    4.5 standard errors."""
    space, path, n = Sequence(2, 1, varying=True), Rectified(), 3000
    items = pack(space, [torch.zeros(0, 1), torch.ones(1, 1), torch.tensor([[-1.0], [0.5]])])
    inner = torch.cat([items[..., :-1], 2 * items[..., -1:] - 1], -1)
    prior = Diffusion(space, Denoiser(inner, path), path=path, target="data", steps=50, solver="ddim")
    assert prior.kind is None
    with pytest.raises(Misfit, match="how many vectors"):
        prior.log_prob(items, NONE(3), Noise.each(range(3)))
    loss = prior.loss(items.repeat(40, 1, 1), NONE(120), Noise.shared(0, 120))["denoise"]
    assert 0.05 < float(loss) < 1  # a third of the entries' variance or so, of ones that are ±1
    z = check(space, prior.sample(NONE(n), Noise.shared(0, n)))
    nearest = (z[:, None] - items).abs().sum((2, 3)).min(1)
    assert float(nearest.values.max()) < 0.01
    found = torch.bincount(nearest.indices, minlength=3) / n
    assert bool(((found - 1 / 3).abs() < 4.5 * math.sqrt(2 / 9 / n)).all())
    value = items[2:].expand(50, -1, -1)
    mask = torch.zeros(50, 2, 2, dtype=torch.bool)
    mask[:, 1] = True
    held = check(space, prior.sample(NONE(50), Noise.each(range(50)), known=(value, mask), rounds=3))
    assert bool(presence(held).all())
    assert torch.equal(held[:, 1], value[:, 1])
    start = torch.randn(4, 2, 2)
    assert check(space, prior.sample(NONE(4), Noise.each(range(4)), start=start)).shape == (4, 2, 2)


def test_a_diffusions_draw_is_made_a_prefix():
    """What comes after the first that is not there is not there either, and is zeros."""

    class Fixed(nn.Module):
        def forward(self, z, t, condition):
            row = torch.tensor([[3.0, 0.2], [4.0, -0.1], [5.0, 0.9]])
            return row.expand_as(z)

    space = Sequence(3, 1, varying=True)
    prior = Diffusion(space, Fixed(), path=Rectified(), target="data", steps=4, solver="ddim")
    z = prior.sample(NONE(2), Noise.each([0, 1]))
    expected = torch.tensor([[3.0, 1.0], [0.0, 0.0], [0.0, 0.0]]).expand(2, -1, -1)
    torch.testing.assert_close(z, expected)
