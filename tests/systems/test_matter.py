"""What a codec reads is what its system encodes, scores and draws: pictures, texts, or both side by side."""

import math

import pytest
import torch
from torch import nn

from sfumato.codecs.words import Words
from sfumato.core.condition import Condition
from sfumato.core.contracts import Codec, Prior
from sfumato.core.errors import Misfit, UsageError
from sfumato.core.noise import Noise
from sfumato.core.space import Grid, Tokens
from sfumato.systems import System, matter

TEXTS = ["a red fox", "the fox is red", "red", "naïve 🦊"]


class Letters(Prior):
    """Every position is the same categorical distribution, so that each number below has a closed form."""

    spaces, kind = (Tokens,), "exact"

    def __init__(self, space, weights=None):
        super().__init__()
        self.space = space
        self.register_buffer("p", torch.softmax(torch.linspace(-1, 1, space.vocab), 0) if weights is None else weights)
        self.bias = nn.Parameter(torch.zeros(()))
        self.told = []

    def loss(self, z, condition, noise, progress=1.0, player=0):
        return {"nats": -self.log_prob(z, condition, noise).mean() + 0 * self.bias}

    def log_prob(self, z, condition, noise):
        return self.p[z].log().sum(1)

    def sample(self, condition, noise, *, null=None, guidance=1.0, known=None, null_known=None):
        self.told.append((known, null_known))
        z = (noise.uniform(*self.space.shape)[..., None] > self.p.cumsum(0)).sum(-1).clamp(max=self.space.vocab - 1)
        return z if known is None else torch.where(known[1], known[0], z)


class Both(Codec):
    """A text of one letter beside a picture of one pixel, both among four: two tokens."""

    reads, holds, exact, discrete, kind = ("text", "image"), ("text", "image"), True, True, "exact"

    def __init__(self):
        super().__init__()
        self.space, self.data = Tokens(2, 4), Grid(1, 1, 1)

    def encode(self, x):
        texts, images = x
        letters = torch.tensor([ord(text) - ord("a") for text in texts])
        return torch.stack([letters, ((images[:, 0, 0, 0] + 1) * 1.5).round().long()], 1)

    def decode(self, z):
        return [chr(ord("a") + int(row)) for row in z[:, 0]], (z[:, 1] / 1.5 - 1).float().view(-1, 1, 1, 1)

    def hold(self, given, rows):
        z, mask = torch.zeros(rows, 2, dtype=torch.int64), torch.zeros(rows, 2, dtype=torch.bool)
        if "text" in given:
            z[:, 0], mask[:, 0] = torch.tensor([ord(text) - ord("a") for text in given["text"]]), True
        if "image" in given:
            z[:, 1], mask[:, 1] = ((given["image"][:, 0, 0, 0] + 1) * 1.5).round().long(), True
        return z, mask

    def lift(self, x, noise=None):
        z = self.encode(x)
        return z, torch.zeros(len(z))


@pytest.fixture
def words():
    codec = Words(vocab=300, length=24)
    codec.fit(TEXTS)
    return codec


def test_a_text_system_scores_the_tokens_of_its_texts(words):
    system = System(words, Letters(words.space))
    by_hand = system.prior.p[words.encode(TEXTS)].log().sum(1)
    assert torch.equal(system.log_prob(TEXTS, batch=3), by_hand)
    assert system.log_prob_kind == "bound"  # one of several spellings of a text is counted
    loss = system.loss({"text": TEXTS, "index": torch.arange(4)})["nats"]
    assert float(loss.detach()) == pytest.approx(-float(by_hand.mean()), rel=1e-6)  # float32 sums of 24 numbers


def test_what_a_text_system_draws_is_text_and_a_function_of_its_seed(words):
    system = System(words, Letters(words.space))
    drawn = system.sample(5, seeds=[3, 1, 4, 1, 5], batch=2)
    assert isinstance(drawn, list)
    assert all(isinstance(text, str) for text in drawn)
    assert len(drawn) == 5
    assert drawn[1] == drawn[3] != drawn[0]
    assert drawn == [system.sample(1, seeds=[seed], batch=2)[0] for seed in (3, 1, 4, 1, 5)]


def test_texts_come_back_from_their_latents(words):
    system = System(words, Letters(words.space))
    assert system.reconstruct(TEXTS, batch=3) == TEXTS
    assert torch.equal(system.encode(TEXTS, batch=3), words.encode(TEXTS))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("a red fox", r"Of one: \[text\]"),
        ([1, 2], "Texts are strings"),
        (torch.zeros(2, 3, 4, 4), "Texts are strings"),
    ],
    ids=["one string", "numbers", "pictures"],
)
def test_what_is_no_text_is_refused(words, wrong, said):
    with pytest.raises(Misfit, match=said):
        System(words, Letters(words.space)).log_prob(wrong)


def test_what_only_pictures_have_is_refused_of_texts(words):
    system = System(words, Letters(words.space))
    for asked in (
        lambda: system.bits_per_dim(TEXTS),
        lambda: system.edit(torch.zeros(1, 3, 4, 4), torch.ones(1, 1, 4, 4, dtype=torch.bool)),
    ):
        with pytest.raises(Misfit, match="reads texts"):
            asked()


def test_of_two_entries_both_are_drawn_or_the_one_that_is_not_given():
    system = System(Both(), Letters(Tokens(2, 4)))
    texts, images = system.sample(6, seeds=range(6))
    assert len(texts) == 6
    assert images.shape == (6, 1, 1, 1)
    told = system.sample(6, {"text": "c"}, seeds=range(6))
    assert torch.equal(told, images)  # the same uniforms, and this prior's positions know nothing of one another
    assert system.sample(6, {"image": images}, seeds=range(6)) == texts
    known, null = system.prior.told[-1]
    assert torch.equal(known[1], torch.tensor([[False, True]]).expand(8, 2))
    assert null is None


def test_guided_the_null_rows_hold_what_stands_for_nothing_given():
    system = System(Both(), Letters(Tokens(2, 4)))
    system.sample(2, {"text": ["b", "d"]}, guidance=3.0, batch=2)
    (value, mask), (nothing, empty) = system.prior.told[-1]
    assert value[:, 0].tolist() == [1, 3]
    assert mask[:, 0].all()
    assert not mask[:, 1].any()
    assert not nothing.any()
    assert not empty.any()


def test_of_two_entries_the_likelihood_is_of_both():
    system = System(Both(), Letters(Tokens(2, 4)))
    images = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1)
    p = system.prior.p.log()
    found = system.log_prob((["a", "b"], images))
    assert torch.allclose(found, torch.stack([p[0] + p[0], p[1] + p[3]]), atol=1e-6)  # one float32 sum
    with pytest.raises(Misfit, match="as many"):
        system.log_prob((["a"], images))
    with pytest.raises(Misfit, match="a tuple of both"):
        system.log_prob(images)


def test_what_is_given_and_what_is_known_do_not_go_together():
    system = System(Both(), Letters(Tokens(2, 4)))
    with pytest.raises(UsageError, match="fixes a part"):
        system.sample(1, {"text": "a"}, known=system.codec.hold({"text": ["a"]}, 1))
    with pytest.raises(UsageError, match="cannot listen to 'label'"):
        system.sample(1, {"label": 3})


def test_matter_is_cut_and_joined_row_by_row():
    both = (["a", "b", "c"], torch.arange(3.0))
    pieces = list(matter.parts(both, 2))
    assert [matter.count(piece) for piece in pieces] == [2, 1]
    texts, numbers = matter.joined(pieces)
    assert texts == ["a", "b", "c"]
    assert torch.equal(numbers, both[1])
    assert [matter.count(piece) for piece in matter.parts([], 2)] == [0]


def test_the_empirical_letters_are_those_of_the_prior(words):
    """The frequencies of drawn letters, by decode and encode's inverse: within 4.5 standard errors of p."""
    prior = Letters(Tokens(3, 4), torch.tensor([0.1, 0.2, 0.3, 0.4]))
    z = prior.sample(Condition.none(4000), Noise.each(range(4000)))
    found = torch.bincount(z.flatten(), minlength=4) / z.numel()
    assert bool(((found - prior.p).abs() < 4.5 * (prior.p * (1 - prior.p) / z.numel()).sqrt()).all())
    assert math.isclose(float(prior.p.sum()), 1.0, rel_tol=1e-6)


@pytest.mark.parametrize("given", [7, "red", ["red"]])
def test_what_is_given_is_a_mapping(words, given):
    with pytest.raises(UsageError, match="given"):
        System(words, Letters(words.space)).sample(1, given)
