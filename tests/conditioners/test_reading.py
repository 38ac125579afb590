"""The tokens of a codec as a condition: what opens, what is dropped, and that a frozen codec stays out of it."""

import math

import pytest
import torch
from torch import nn

from sfumato.codecs.pair import Pair
from sfumato.codecs.pixels import Pixels
from sfumato.codecs.words import Words
from sfumato.conditioners import Labels, Reading, Several
from sfumato.core.errors import Misfit, UsageError
from sfumato.core.noise import Noise
from sfumato.core.space import Grid, Tokens
from sfumato.likelihoods import Categorical
from sfumato.nn import CausalNet
from sfumato.priors.autoregressive import Autoregressive
from sfumato.systems import System

TEXTS = ["a red fox", "the fox is red", "red", ""]


class Painter(Pixels):
    """A codec with something to learn, and a mode."""

    learned = True

    def __init__(self):
        super().__init__(Grid(1, 2, 2), "tokens", 4)
        self.weight = nn.Parameter(torch.ones(3))


def words():
    codec = Words(vocab=270, length=12)
    codec.fit(TEXTS)
    return codec


def images(rows=4):
    return ((torch.arange(4 * rows) * 37 % 256).view(rows, 1, 2, 2) / 127.5 - 1).float()


def test_words_are_embedded_in_their_places():
    reading = Reading(words(), 6)
    assert reading.keys == ("text",)
    found, z = reading({"text": TEXTS}), reading.codec.encode(TEXTS)
    assert torch.equal(found.sequence, reading.embed.weight[z] + reading.places)
    assert torch.equal(found.mask, reading.codec.mask(z))
    assert torch.equal(reading({"text": [*TEXTS[:3], None]}).sequence, found.sequence)


def test_a_pictures_tokens_all_say_something():
    reading = Reading(Painter(), 6)
    assert reading.keys == ("image",)
    found = reading({"image": images()})
    assert torch.equal(found.sequence, reading.embed.weight[reading.codec.encode(images())] + reading.places)
    assert bool(found.mask.all())


def test_both_entries_of_a_pair_are_read():
    codec = Pair(words(), Painter(), drop=0.5)
    reading = Reading(codec, 6)
    assert reading.keys == ("text", "image")
    found = reading({"text": TEXTS, "image": images()})
    assert torch.equal(found.sequence, reading.embed.weight[codec.encode((TEXTS, images()))] + reading.places)
    with pytest.raises(UsageError, match="no 'image'"):
        reading({"text": TEXTS})


def test_rows_are_dropped_to_the_null_condition():
    """A quarter of 2000 rows within 4 standard errors; a dropped row is the null, another is as it was."""
    reading, n = Reading(words(), 6, drop=0.25), 2000
    given = {"text": ["a red fox"] * n}
    found, plain, null = reading(given, Noise.shared(0, n)), reading(given), reading.null(n)
    dropped = ~(found.sequence == plain.sequence).flatten(1).all(1)
    assert abs(float(dropped.double().mean()) - 0.25) < 4 * math.sqrt(0.25 * 0.75 / n)
    assert torch.equal(found.sequence[dropped], null.sequence[dropped])
    assert torch.equal(found.mask[dropped], null.mask[dropped])
    assert torch.equal(found.mask[~dropped], plain.mask[~dropped])
    assert null.mask.sum(1).tolist() == [1] * n  # one word that says: nothing


def test_a_frozen_codec_is_not_trained_from_here():
    codec = Painter()
    for frozen in (True, False):
        reading = Reading(codec, 6, frozen=frozen).train()
        assert codec.training != frozen
        assert any(p is codec.weight for p in reading.learns()) != frozen
        assert {id(p) for p in (reading.places, reading.nothing, reading.embed.weight)} <= {
            id(p) for p in reading.learns()
        }
    several = Several(Reading(codec, 6), Labels(3, 6, attended=True))
    assert not any(p is codec.weight for p in several.learns())
    assert len(several.learns()) == 4
    net = CausalNet(Tokens(12, 270), 270, width=8, depth=1, heads=1, context=6)
    for conditioner in (Reading(codec, 6), several):
        system = System(words(), Autoregressive(Tokens(12, 270), net, Categorical(270)), conditioner)
        assert not any(p is codec.weight for p in system.players()[0])


def test_an_embedding_may_be_the_nets_own():
    """It stands once among what learns, and both sides move it."""
    net = CausalNet(Tokens(12, 270), 270, width=8, depth=1, heads=1, context=8)
    reading = Reading(words(), 8, net.embed)
    system = System(reading.codec, Autoregressive(Tokens(12, 270), net, Categorical(270)), reading)
    (player,) = system.players()
    assert len({id(p) for p in player}) == len(player)
    assert sum(p is net.embed.weight for p in player) == 1
    assert sum(p is reading.places for p in player) == 1


def test_every_parameter_learns():
    space = Painter().space
    net = CausalNet(space, 4, width=8, depth=1, heads=2, context=6, prefix="full")
    system = System(Painter(), Autoregressive(space, net, Categorical(4)), Reading(words(), 6, drop=0.5))
    batch = {"text": TEXTS * 4, "image": images(16), "index": torch.arange(16)}
    sum(system.loss(batch, noise=Noise.shared(0, 16)).values()).backward()
    assert [p.shape for p in system.players()[0] if p.grad is None or not p.grad.any()] == []
    assert system.codec.weight.grad is None


def test_the_vocabulary_is_learned_before_the_first_step():
    reading = Reading(Words(vocab=270, length=12), 6)
    reading.prepare(lambda: [{"text": TEXTS}])
    assert reading.codec.fitted


def test_vectors_are_no_reading():
    with pytest.raises(Misfit, match="of tokens"):
        Reading(Pixels(Grid(1, 2, 2)), 6)
