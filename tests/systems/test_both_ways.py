"""A joint distribution of a text and a picture, drawn from either side: by one line of both, and by two systems that
share a network. One letter among three, one pixel among four, P in 64ths."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sfumato.codecs.pair import Pair
from sfumato.conditioners import Reading
from sfumato.core.contracts import Codec
from sfumato.core.noise import Noise, derive
from sfumato.core.space import Grid, Tokens
from sfumato.likelihoods import Categorical
from sfumato.nn import CausalNet
from sfumato.priors.autoregressive import Autoregressive
from sfumato.systems import System, Together

COUNTS = torch.tensor([[10, 2, 4, 1], [1, 12, 3, 6], [5, 2, 8, 10]])
P = COUNTS.double() / COUNTS.sum()
DROP, SCALE, DRAWS = 0.2, 2.0, 3000
LEVELS = torch.tensor([-1.0, -0.5, 0.5, 1.0])


class Letter(Codec):
    """A text of one letter or none, which is a letter too, and padding."""

    reads, exact, discrete, kind = "text", True, True, "exact"
    marks = (3, 0, 0)

    def __init__(self):
        super().__init__()
        self.space = self.data = Tokens(1, 4)

    def encode(self, x):
        return torch.tensor([["abc".index(text) if text else 3] for text in x])

    def mask(self, z):
        return z != 3

    def decode(self, z):
        return ["abc "[int(i)].strip() for i in z[:, 0]]

    def lift(self, x, noise=None):
        return self.encode(x), torch.zeros(len(x))


class Dot(Codec):
    """A picture of one pixel, of four levels."""

    exact, discrete, kind = True, True, "exact"

    def __init__(self):
        super().__init__()
        self.space, self.data = Tokens(1, 4), Grid(1, 1, 1)

    def encode(self, x):
        return (x.flatten(1) - LEVELS).abs().argmin(1, keepdim=True)

    def decode(self, z):
        return LEVELS[z].view(-1, 1, 1, 1)

    def lift(self, x, noise=None):
        return self.encode(x), torch.zeros(len(x))


def picture(i):
    return LEVELS[i].view(1, 1, 1, 1)


TEXT, IMAGE, K = slice(0, 3), slice(5, 9), 10  # a Pair's letters: a b c, none, padding, four levels, nothing


class Exact(nn.Module):
    """The net of the joint distribution itself: a step's logits are log P(place) or log P(place | the other). Letters
    of the other half, and nothing, are not forbidden, but as likely as the best."""

    def __init__(self, text=0):
        super().__init__()
        self.alone, self.given, self.text = torch.zeros(2, K), torch.zeros(2, K, K), text
        for place, letters, others, p in ((0, TEXT, IMAGE, P), (1, IMAGE, TEXT, P.T)):
            half = slice(0, 5) if place == 0 else IMAGE
            self.alone[place, half], self.given[place, :, half] = -30.0, -30.0
            self.alone[place, letters] = self.given[place, :, letters] = p.sum(1).log().float()
            self.given[place, others, letters] = (p / p.sum(0)).T.log().float()

    def forward(self, z, condition, order=None):
        order = torch.tensor([self.text, 1 - self.text]) if order is None else order
        first, then = order.expand(len(z), 2).unbind(1)
        return torch.stack([self.alone[first], self.given[then, z[:, 0]]], 1)

    def start(self, condition, order=None):
        order = torch.tensor([self.text, 1 - self.text]) if order is None else order
        return {"order": order.expand(condition.rows, 2), "i": 0}

    def step(self, state, last):
        place = state["order"][:, state["i"]]
        state["i"] += 1
        return self.alone[place] if last is None else self.given[place, last]


def exact(first="text", **options):
    codec = Pair(Letter(), Dot(), first=first, drop=DROP, **options)
    order = "any" if options else "raster"
    net = Exact(0 if first == "text" else 1)
    return System(codec, Autoregressive(codec.space, net, Categorical(K), letters=codec.letters, order=order))


def of_text(system, p_or_i, **options):
    """(how often each picture is drawn, given a text); of what was drawn nothing is lost."""
    drawn = system.sample(DRAWS, {"text": "abc"[p_or_i]}, batch=1000, **options)
    return F.one_hot(Dot().encode(drawn)[:, 0], 4).double().mean(0)


def of_picture(system, i, **options):
    drawn = system.sample(DRAWS, {"image": picture(i)}, batch=1000, **options)
    return F.one_hot(Letter().encode(drawn)[:, 0], 4).double().mean(0)[:3]


def tilted(c, u, scale):
    """p ∝ u (c / u)^s."""
    p = u * (c / u) ** scale
    return p / p.sum()


def near(found, p, slack=0.0):
    """Within 4 standard errors, and the error of a net that was trained."""
    return bool(((found - p).abs() <= 4 * (p * (1 - p) / DRAWS).sqrt() + slack).all())


SIDES = {
    "text": (of_text, 3, lambda i: P[i] / P[i].sum(), P.sum(0)),
    "image": (of_picture, 4, lambda i: P[:, i] / P[:, i].sum(), P.sum(1)),
}


@pytest.mark.parametrize("kind", ["in line", "any order"])
@pytest.mark.parametrize("held", SIDES)
def test_given_one_half_the_other_has_its_conditional(held, kind):
    """The drawn conditional of every text, or picture, within 4 standard errors of the table's."""
    draw, n, conditional, _ = SIDES[held]
    system = exact(held) if kind == "in line" else exact(either=True)
    for i in range(n):
        assert near(draw(system, i), conditional(i))


@pytest.mark.parametrize("kind", ["in line", "any order"])
@pytest.mark.parametrize("held", SIDES)
def test_guided_the_other_half_is_tilted(held, kind):
    """u is what nothing says of the other half: its marginal."""
    draw, n, conditional, marginal = SIDES[held]
    system = exact(held) if kind == "in line" else exact(either=True)
    for i in range(n):
        assert near(draw(system, i, guidance=SCALE), tilted(conditional(i), marginal, SCALE))
        assert near(draw(system, i, guidance=0.0), marginal)


@pytest.mark.parametrize("first", ["text", "image"])
def test_given_nothing_both_are_drawn(first):
    texts, images = exact(first).sample(DRAWS, batch=1000)
    drawn = Letter().encode(texts)[:, 0] * 4 + Dot().encode(images)[:, 0]
    assert near(F.one_hot(drawn, 16).double().mean(0)[:12], P.flatten())
    if first == "text":  # a text without words says nothing of the picture
        drawn = exact(first).sample(DRAWS, {"text": ""}, batch=1000)
        assert near(F.one_hot(Dot().encode(drawn)[:, 0], 4).double().mean(0), P.sum(0))


@pytest.mark.parametrize("first", ["text", "image"])
def test_the_likelihoods_of_all_pairs_add_up(first):
    """No probability is lost to what is dropped: log p of each of twelve pairs is the table's; float32, 1e-5."""
    x = [text for text in "abc" for _ in range(4)], LEVELS.repeat(3).view(-1, 1, 1, 1)
    torch.testing.assert_close(exact(first).log_prob(x).double(), P.flatten().log(), rtol=0, atol=1e-5)


# ── networks that learn it ───────────────────────────────────────────────────────────────────────────────────────────


def batch(times=4):
    """The table itself, row by row, so that a step's gradient is the distribution's but for what is dropped."""
    cells = COUNTS.flatten().repeat_interleave(COUNTS.flatten())
    cells = torch.arange(12).repeat_interleave(COUNTS.flatten()).repeat(times)
    return {"text": ["abc"[int(i) // 4] for i in cells], "image": LEVELS[cells % 4].view(-1, 1, 1, 1)}


def trained(objective, steps, rate=6e-3):
    parameters, data = objective.players()[0], batch()
    optimizer = torch.optim.Adam(parameters, rate)
    objective.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 + math.cos(math.pi * step / steps)) / 2
        noise = Noise.shared(derive("both ways", step), len(data["text"]))
        optimizer.zero_grad()
        sum(objective.loss(data, noise=noise).values()).backward()
        optimizer.step()
        objective.settle()
    return objective.eval()


def learned(first="text", **options):
    torch.manual_seed(0)
    codec = Pair(Letter(), Dot(), first=first, drop=DROP, **options)
    net = CausalNet(codec.space, K, width=24, depth=1, heads=2, orders=bool(options))
    parts = {name: (codec.halves[name], weight) for name, weight in (("text", 1 / 8), ("image", 7 / 8))}
    head, order = Categorical(K), "any" if options else "raster"
    return System(codec, Autoregressive(codec.space, net, head, letters=codec.letters, parts=parts, order=order))


@pytest.mark.parametrize(("held", "options"), [("text", {}), ("image", {}), ("both", {"either": True})])
def test_a_network_learns_the_line(held, options):
    """Conditionals, and guided ones, within 4 standard errors of 3000 draws and 0.01 for what is not yet learned."""
    system = trained(learned("text" if held == "both" else held, **options), 300)
    for side in ("text", "image") if held == "both" else (held,):
        draw, n, conditional, marginal = SIDES[side]
        for i in range(n):
            assert near(draw(system, i), conditional(i), 0.01)
        assert near(draw(system, 1, guidance=SCALE), tilted(conditional(1), marginal, SCALE), 0.02)


@pytest.mark.parametrize("prefix", ["causal", "full"])
def test_two_systems_share_a_network(prefix):
    """Pictures of a text and texts of a picture, from one trunk and in one step of training; each conditional, and
    guided ones, as above."""
    torch.manual_seed(0)
    build = lambda space: CausalNet(space, space.vocab, width=24, depth=1, heads=2, context=24, prefix=prefix)
    words, dots, paint, tell = Letter(), Dot(), build(Dot().space), build(Letter().space)
    tell.trunk = paint.trunk
    pictures = System(
        dots, Autoregressive(dots.space, paint, Categorical(4)), Reading(words, 24, tell.embed, drop=DROP)
    )
    texts = System(words, Autoregressive(words.space, tell, Categorical(4)), Reading(dots, 24, paint.embed, drop=DROP))
    together = Together(paint=pictures, tell=texts)
    (player,) = together.players()
    assert len({id(p) for p in player}) == len(player) < sum(len(s.players()[0]) for s in (pictures, texts))
    assert set(together.loss(batch(1))) == {"paint.nats", "tell.nats"}
    trained(together, 300)
    for system, side in ((pictures, "text"), (texts, "image")):
        draw, n, conditional, marginal = SIDES[side]
        for i in range(n):
            assert near(draw(system, i), conditional(i), 0.01)
        assert near(draw(system, 1, guidance=SCALE), tilted(conditional(1), marginal, SCALE), 0.02)
        assert near(draw(system, 1, guidance=0.0), marginal, 0.01)
