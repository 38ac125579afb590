"""Objectives trained together: the sum of terms, the sum of gradients, one step for what is shared."""

import copy

import pytest
import torch
from torch import nn

from sfumato.codecs.pixels import Pixels
from sfumato.core.errors import UsageError
from sfumato.core.noise import Noise
from sfumato.core.space import Grid
from sfumato.systems import Together


class Line(nn.Module):
    """(w x + ε − 1)² of a weight that may be shared, a second player, and a record of what is asked of it."""

    def __init__(self, shared, critic=False):
        super().__init__()
        self.shared, self.own = shared, nn.Linear(1, 1, bias=False)
        self.critic = nn.Linear(1, 1) if critic else None
        self.asked = []

    def loss(self, batch, player=0, noise=None, progress=1.0):
        x = batch["x"]
        noise = Noise.ambient(len(x)) if noise is None else noise
        if player:
            return {"critic": self.critic(x).square().mean()}
        y = self.own(self.shared(x + noise.normal(1)))
        return {"fit": (y - 1).square().mean(), "size": 0.1 * self.own.weight.square().sum()}

    def players(self):
        first = [*self.shared.parameters(), *self.own.parameters()]
        return [first] if self.critic is None else [first, [*self.critic.parameters(), *self.shared.parameters()]]

    def prepare(self, batches):
        self.asked.append("prepare")

    def settle(self, noise=None):
        self.asked.append(float(noise.uniform()[0]))

    def forget(self):
        self.asked.append("forget")

    def finish(self, batches):
        self.asked.append("finish")

    def diagnostics(self):
        return {"asked": len(self.asked)}


BATCH = {"x": torch.linspace(-1, 1, 8)[:, None]}


def both(**options):
    torch.manual_seed(0)
    shared = nn.Linear(1, 1)
    return Together(one=Line(shared), two=Line(shared, critic=True), **options)


def grads(loss, parameters):
    return [
        torch.zeros_like(p) if g is None else g
        for p, g in zip(parameters, torch.autograd.grad(loss, parameters, allow_unused=True))
    ]


def test_terms_are_the_parts_by_their_names_and_add_up():
    together, noise = both(weights={"two": 0.25}), Noise.shared(3, 8)
    terms = together.loss(BATCH, noise=noise)
    assert list(terms) == ["one.fit", "one.size", "two.fit", "two.size"]
    for name, weight in (("one", 1.0), ("two", 0.25)):
        alone = together.parts[name].loss(BATCH, noise=Noise.shared(3, 8).stream(name))
        for term, value in alone.items():
            assert torch.equal(terms[f"{name}.{term}"], weight * value)


def test_gradients_are_the_sum_of_the_parts():
    """float32: each entry the same sum but for the order, 1e-6."""
    together = both(weights={"two": 0.25})
    (first, _), draw = together.players(), lambda name: Noise.shared(3, 8).stream(name)
    found = grads(sum(together.loss(BATCH, noise=Noise.shared(3, 8)).values()), first)
    one = grads(sum(together.parts["one"].loss(BATCH, noise=draw("one")).values()), first)
    two = grads(sum(together.parts["two"].loss(BATCH, noise=draw("two")).values()), first)
    for sum_of, a, b in zip(found, one, two):
        torch.testing.assert_close(sum_of, a + 0.25 * b, rtol=1e-6, atol=1e-6)


def test_what_is_shared_stands_once_and_is_stepped_once():
    together = both()
    first, second = together.players()
    assert len(first) == 4  # a shared weight and bias, two of their own
    assert [p is q for p, q in zip(second, together.parts["two"].critic.parameters())] == [True, True]
    assert not {id(p) for p in first} & {id(p) for p in second}  # the shared one is not the critic's too
    shared = together.parts["one"].shared.weight
    before = copy.deepcopy(shared.data)
    optimizer = torch.optim.SGD(first, lr=0.1)
    sum(together.loss(BATCH, noise=Noise.shared(3, 8)).values()).backward()
    optimizer.step()
    assert torch.equal(shared, before - 0.1 * shared.grad)
    assert shared is together.parts["two"].shared.weight


def test_a_second_player_is_its_parts_alone():
    together = both(weights={"two": 0.5})
    terms = together.loss(BATCH, player=1, noise=Noise.shared(3, 8))
    alone = together.parts["two"].loss(BATCH, player=1)
    assert list(terms) == ["two.critic"]
    assert torch.equal(terms["two.critic"], 0.5 * alone["critic"])


def test_parts_draw_from_streams_of_their_own():
    """Nothing that one part draws moves another's numbers, and the global generator is left as it was."""
    together, state = both(), torch.get_rng_state()
    before = together.loss(BATCH, noise=Noise.each(range(8)))["two.fit"]
    together.parts["one"].loss = lambda batch, player, noise, progress: {"fit": noise.normal(100).mean()}
    assert torch.equal(together.loss(BATCH, noise=Noise.each(range(8)))["two.fit"], before)
    assert torch.equal(torch.get_rng_state(), state)
    together.settle(Noise.shared(1, 2))
    asked = [together.parts[name].asked[-1] for name in ("one", "two")]
    assert asked == [float(Noise.shared(1, 2).stream(name).uniform()[0]) for name in ("one", "two")]
    assert asked[0] != asked[1]


def test_all_of_the_objective_reaches_every_part():
    together = both()
    together.prepare(list)
    together.forget()
    together.finish(list)
    assert [part.asked for part in together.parts.values()] == [["prepare", "forget", "finish"]] * 2
    assert together.diagnostics() == {"one.asked": 3, "two.asked": 3}


def test_a_codec_that_is_a_part_learns_beside_the_system_that_holds_it_frozen():
    class Holder(Line):
        def train(self, mode=True):
            super().train(mode)
            self.codec.eval()
            return self

    codec, holder = Pixels(Grid(1, 1, 1)), Holder(nn.Linear(1, 1))
    holder.codec = codec
    for parts in ({"codec": codec, "prior": holder}, {"prior": holder, "codec": codec}):
        together = Together(**parts)
        assert together.train().parts["codec"].training
        assert not together.eval().parts["codec"].training


@pytest.mark.parametrize(
    ("weights", "said"), [({"three": 1.0}, "three"), ({"one": -1.0}, "from 0 on"), ({"one": float("nan")}, "from 0 on")]
)
def test_weights_that_are_none_are_refused(weights, said):
    with pytest.raises(UsageError, match=said):
        both(weights=weights)
    with pytest.raises(UsageError, match="one or more"):
        Together()
