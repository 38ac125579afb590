"""What is handed on in a cascade: a vector, a picture, tokens and a text, by key; and options by the system's name."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sfumato import recipes
from sfumato.conditioners import Picture, Reading, Several
from sfumato.core.condition import Condition
from sfumato.core.contracts import Codec, Conditioner, Prior
from sfumato.core.errors import Misfit, UsageError
from sfumato.core.noise import Noise, derive
from sfumato.core.space import Grid, Sequence, Tokens
from sfumato.systems import Cascade, System

DRAWS = 4000
VECTORS = torch.tensor([[3.0, 0.0], [0.0, -3.0]])  # beyond [−1, 1]: a vector is no picture
LEVELS = torch.tensor([-1.0, 0.0, 1.0])


class Vector(Codec):
    """A picture's vector, from which no picture comes back."""

    kind, discrete, decodes = "exact", True, False

    def __init__(self):
        super().__init__()
        self.space, self.data = Sequence(1, 2), Grid(1, 2, 2)

    def encode(self, x):
        return VECTORS[(x.mean((1, 2, 3)) > 0).long()][:, None]

    def lift(self, x, noise=None):
        return x, torch.zeros(len(x))


class Flat(Codec):
    """A flat picture of one of three levels, as a token; with `bare` the tokens themselves are drawn."""

    kind, discrete, exact = "exact", True, True

    def __init__(self, side, bare=False):
        super().__init__()
        self.space, self.data, self.bare = Tokens(1, 3), Grid(1, side, side), bare

    def encode(self, x):
        return (x.mean((1, 2, 3))[:, None] - LEVELS).abs().argmin(1, keepdim=True)

    def decode(self, z):
        return z if self.bare else LEVELS[z[:, 0]].view(-1, 1, 1, 1).expand(-1, *self.data.shape)

    def lift(self, x, noise=None):
        return self.encode(x), torch.zeros(len(x))


class Letter(Codec):
    """A text of one letter."""

    reads, kind, discrete, exact = "text", "exact", True, True

    def __init__(self):
        super().__init__()
        self.space = self.data = Tokens(1, 3)

    def encode(self, x):
        return torch.tensor([["abc".index(text)] for text in x])

    def decode(self, z):
        return ["abc"[int(i)] for i in z[:, 0]]


class Table(Prior):
    """One of K outcomes, log p = log-softmax(weight) in a row of it, chosen by the digits that the condition's vector
    holds: a table of conditional probabilities."""

    spaces, kind, discrete = (Tokens, Sequence), "exact", True

    def __init__(self, space, *digits, k=3, seed=0):
        super().__init__()
        self.space, self.digits = space, digits
        drawn = torch.randn(*digits, k, generator=torch.Generator().manual_seed(seed))
        self.weight = nn.Parameter(drawn)

    def rows(self, condition):
        if condition.vector is None:
            return self.weight.log_softmax(-1).expand(condition.rows, -1)
        return self.weight.log_softmax(-1)[tuple(condition.vector.long().T)]

    def outcome(self, z):
        return z[:, 0] if z.ndim == 2 else (z[:, 0, 1] < 0).long()

    def loss(self, z, condition, noise, progress=1.0, player=0):
        return {"nats": -self.log_prob(z, condition, noise).mean()}

    def sample(self, condition, noise, *, null=None, guidance=1.0, known=None, sharpness: float = 1.0):
        z = (sharpness * self.rows(condition) + noise.gumbel(self.weight.shape[-1])).argmax(-1)
        return z[:, None] if isinstance(self.space, Tokens) else VECTORS[z][:, None]

    def log_prob(self, z, condition, noise):
        return self.rows(condition).gather(1, self.outcome(z)[:, None])[:, 0]


class Brief(Table):
    """Its sampler takes no options at all."""

    def sample(self, condition, noise, *, null=None, guidance=1.0, known=None):
        return super().sample(condition, noise)


class Digit(Conditioner):
    """given[key] → vector (B, 1), a digit; made of the image where it is not given."""

    drop = 0.0

    def __init__(self, key, read, entry="image"):
        super().__init__()
        self.keys, self.made, self.read = (key,), {key: entry}, read
        self.seen = []

    def forward(self, given, noise=None):
        value = given.get(self.keys[0])
        self.seen.append("made" if value is None else "given")
        digit = self.read(given[self.made[self.keys[0]]], True) if value is None else self.read(value, False)
        return Condition(len(digit), vector=digit[:, None].float())

    def null(self, rows):
        return Condition(rows, vector=torch.zeros(rows, 1))


def of_vector(value, made):
    return (((Vector().encode(value) if made else value)[:, 0, 1]) < 0).long()


def of_picture(value, made):
    return Flat(2).encode(value)[:, 0]


def of_tokens(value, made):
    return Flat(4).encode(value)[:, 0] if made else value[:, 0]


def four():
    """meaning (a vector) → small (a picture of 2 × 2) → code (tokens) → large, which hears all three."""
    return Cascade(
        meaning=System(Vector(), Table(Sequence(1, 2), k=2, seed=1)),
        small=System(Flat(2), Table(Tokens(1, 3), 2, seed=2), Digit("meaning", of_vector)),
        code=System(Flat(4, bare=True), Table(Tokens(1, 3), 3, seed=3), Digit("picture", of_picture)),
        large=System(
            Flat(4),
            Table(Tokens(1, 3), 2, 3, 3, seed=4),
            Several(Digit("meaning", of_vector), Digit("picture", of_picture), Digit("code", of_tokens), drop=0.0),
        ),
    )


def test_each_is_handed_what_it_names_and_picture_is_the_last_picture_that_it_does_not_name():
    cascade = four()
    assert cascade.handed == {
        "meaning": {},
        "small": {"meaning": "meaning"},
        "code": {"picture": "small"},
        "large": {"meaning": "meaning", "picture": "small", "code": "code"},
    }
    assert cascade.hears == ()
    assert cascade.learns == ("image",)


def test_the_joint_probability_factorises():
    """54 outcomes of four draws; every frequency within 4 standard errors of Π p(x_i | what i hears). A z-score beyond
    4 comes once in 16,000 for one outcome, once in 300 for all of them; the seeds are fixed."""
    cascade = four()
    drawn = cascade.sample_each(DRAWS, batch=1000)
    assert drawn["meaning"].shape == (DRAWS, 1, 2)
    assert drawn["meaning"].abs().max() == 3  # not clamped
    assert drawn["code"].dtype == torch.int64
    assert torch.equal(drawn["large"], cascade.sample(DRAWS, batch=1000))
    digits = [of_vector(drawn["meaning"], False), of_picture(drawn["small"], False)]
    digits += [drawn["code"][:, 0], of_picture(drawn["large"], False)]
    number = ((digits[0] * 3 + digits[1]) * 3 + digits[2]) * 3 + digits[3]
    found = torch.bincount(number, minlength=54).double() / DRAWS
    tables = {name: system.prior.weight.detach().double().softmax(-1) for name, system in cascade.named()}
    p = torch.einsum("m,ms,sc,mscl->mscl", *(tables[name] for name in tables)).flatten()
    assert ((found - p).abs() <= 4 * (p * (1 - p) / DRAWS).sqrt()).all()
    # and the systems' own log-probabilities, each given what it was handed, add up to the joint's
    nats = cascade.systems["meaning"].prior.log_prob(drawn["meaning"], Condition.none(DRAWS), None)
    nats = nats + cascade.systems["small"].log_prob(drawn["small"], {"meaning": drawn["meaning"]})
    code = cascade.systems["code"]
    nats = nats + code.prior.log_prob(drawn["code"], code.conditioner({"picture": drawn["small"]}), None)
    handed = {"meaning": drawn["meaning"], "picture": drawn["small"], "code": drawn["code"]}
    nats = nats + cascade.systems["large"].log_prob(drawn["large"], handed)
    torch.testing.assert_close(nats.double(), p[number].log(), rtol=1e-5, atol=1e-5)


def test_in_training_each_makes_its_condition_of_the_batch():
    """What `large` hears while it learns is what it would be handed for these pictures, and no draw is made."""
    cascade = four()
    x = LEVELS[torch.tensor([0, 1, 2, 2])].view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    for objective in cascade.stages().values():
        objective.loss({"image": x}, noise=Noise.each(range(4)))
    parts = list(cascade.systems["large"].conditioner.parts)
    assert [part.seen for part in parts] == [["made"]] * 3
    meaning, token = (x.mean((1, 2, 3)) > 0).long(), torch.tensor([0, 1, 2, 2])
    table = cascade.systems["large"].prior.weight.log_softmax(-1)
    expected = -table[meaning, token, token, token].mean()
    terms = cascade.stages()["large.prior"].loss({"image": x}, noise=Noise.each(range(4)))
    torch.testing.assert_close(terms["nats"], expected)


def test_what_is_in_the_batch_is_not_made():
    cascade = four()
    x = LEVELS[torch.tensor([0, 1])].view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    cascade.stages()["small.prior"].loss({"image": x, "meaning": VECTORS[:, None]}, noise=Noise.each(range(2)))
    assert cascade.systems["small"].conditioner.seen == ["given"]


def test_a_text_is_handed_on_by_the_name_of_its_entry():
    """A caption is drawn first, and is what `large` hears as "text"; nobody may give it from outside."""
    read = lambda value, made: Letter().encode(value)[:, 0]
    large = System(Flat(2), Table(Tokens(1, 3), 3, seed=2), Digit("text", read, "text"))
    cascade = Cascade(text=System(Letter(), Table(Tokens(1, 3), seed=1)), large=large)
    drawn = cascade.sample_each(6, batch=3)
    assert set(drawn["text"]) <= set("abc")
    again = large.sample(6, {"text": drawn["text"]}, seeds=[derive(i, "large") for i in range(6)], batch=3)
    assert torch.equal(drawn["large"], again)
    assert cascade.hears == ()
    assert cascade.learns == ("text", "image")
    with pytest.raises(UsageError, match="not conditioned on 'text'"):
        cascade.sample(1, {"text": "a"})
    x = torch.ones(2, 1, 4, 4)  # the texts' system has no resolution; pictures pass by
    assert cascade.stages()["text.prior"].loss({"image": x, "text": ["a", "b"]}, noise=Noise.each(range(2)))


def test_pictures_or_tokens_are_read_by_key():
    """Tokens that were drawn are read as they are; a picture, of any size, by the codec; both give one condition."""
    reading = Reading(Flat(2), 8, key="code").eval()
    assert (reading.keys, dict(reading.made)) == (("code",), {"code": "image"})
    z = torch.tensor([[0], [2], [1]])
    small = Flat(2).decode(z)
    conditions = [reading({"code": z}), reading({"code": small}), reading({"image": small})]
    conditions.append(reading({"image": F.interpolate(small, (8, 8))}))
    for condition in conditions[1:]:
        assert torch.equal(condition.sequence, conditions[0].sequence)
    assert torch.equal(conditions[0].sequence, reading.embed(z) + reading.places)
    with pytest.raises(UsageError, match="no 'code' is given"):
        reading({"text": ["a"]})
    with pytest.raises(Misfit, match=r"Tokens\(length=1"):
        reading({"code": torch.zeros(3, 2, dtype=torch.int64)})


def test_what_nobody_hears_and_who_hears_nobody_are_refused():
    first = System(Flat(2), Table(Tokens(1, 3)))
    deaf = System(Flat(4), Table(Tokens(1, 3)))
    hears = lambda *keys: System(
        Flat(4), Table(Tokens(1, 3), *[3] * len(keys)), Several(*(Digit(key, of_picture) for key in keys))
    )
    with pytest.raises(Misfit, match=r"'large' stands later .* on a picture, or .* \(small\)"):
        Cascade(small=first, large=deaf)
    with pytest.raises(Misfit, match=r"'large' stands later"):
        Cascade(small=first, large=hears("label"))
    with pytest.raises(Misfit, match="after 'middle' in the cascade hears"):
        Cascade(small=first, middle=hears("small"), large=hears("small"))
    for first_drawn in (System(Letter(), Table(Tokens(1, 3))), System(Vector(), Table(Sequence(1, 2), k=2))):
        with pytest.raises(Misfit, match="'large' stands later"):  # neither a text nor a vector is a picture
            Cascade(meaning=first_drawn, large=hears("picture"))
    assert Cascade(small=first, large=hears("small", "label")).hears == ("label",)


def test_a_shared_codec_is_one_stage_under_its_first_name():
    codec = recipes.build("vqvae", size="xs", side=8, channels=1).codec
    prior = lambda: Table(codec.space, k=codec.space.vocab)
    second = System(codec, prior(), Picture(1, (8, 8)))
    cascade = Cascade(small=System(codec, prior()), large=second)
    assert list(cascade.stages()) == ["small.codec", "small.prior", "large.prior"]
    assert cascade.stages()["small.codec"].objective is codec


# ---- options ----


def two():
    """The first takes no options, the second a sharpness."""
    large = System(Flat(4), Table(Tokens(1, 3), 3, seed=4), Digit("picture", of_picture))
    return Cascade(small=System(Flat(2), Brief(Tokens(1, 3), seed=2)), large=large)


@pytest.mark.parametrize("name", ["sharpness", "large.sharpness"])
def test_an_option_reaches_those_that_have_it(name):
    """Infinitely sharp, the second draws the likeliest given the first."""
    cascade = two()
    drawn = cascade.sample_each(40, batch=40, **{name: 1e6})
    likeliest = cascade.systems["large"].prior.weight.argmax(-1)
    small, large = (of_picture(drawn[key], False) for key in ("small", "large"))
    assert torch.equal(large, likeliest[small])
    assert len(small.unique()) == 3
    assert torch.equal(small, of_picture(cascade.sample_each(40, batch=40)["small"], False))


def test_an_option_by_name_is_stronger_than_one_for_all():
    cascade = four()
    options = {"large.sharpness": 1e6, "sharpness": 1.0}
    drawn, plain = cascade.sample_each(40, batch=40, **options), cascade.sample_each(40, batch=40)
    assert torch.equal(drawn["code"], plain["code"])
    assert not torch.equal(drawn["large"], plain["large"])
    assert torch.equal(drawn["large"], cascade.sample(40, batch=40, **dict(reversed(options.items()))))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sharpnes": 1.0}, "No system of the cascade has a sampling option 'sharpnes'. Did you mean 'sharpness'"),
        ({"large.sharpnes": 1.0}, "Table has no sampling option 'sharpnes'. Did you mean 'sharpness'"),
        ({"small.sharpness": 1.0}, "Brief has no sampling option 'sharpness'. It takes none"),
        ({"lage.sharpness": 1.0}, "No system of the cascade is called 'lage'. Did you mean 'large'"),
        ({"large.sharpness": "x"}, "sharpness takes float"),
        ({"large.guidance": "x"}, "guidance takes float"),
        ({"large.guidance": math.nan}, "guidance takes a finite number"),
        ({"small.guidance": 2.0}, "Guidance needs a condition"),
        ({"large.known": None}, "no sampling option 'known'"),
    ],
)
def test_options_that_nobody_has_are_refused_before_anything_is_drawn(options, said, monkeypatch):
    cascade = two()
    if "small.guidance" not in options:
        monkeypatch.setattr(cascade.systems["small"], "sample", lambda *_, **__: pytest.fail("it drew"))
    with pytest.raises(UsageError, match=said):
        cascade.sample(1, **options)


def test_guidance_is_for_those_that_hear_or_for_the_one_that_is_named(monkeypatch):
    cascade, heard = four(), {}
    for name, system in cascade.named():
        sample = system.sample
        monkeypatch.setattr(
            system,
            "sample",
            lambda *a, name=name, sample=sample, **k: heard.update({name: k["guidance"]}) or sample(*a, **k),
        )
    cascade.sample(1, guidance=2.0, **{"code.guidance": 3.0})
    assert heard == {"meaning": 1.0, "small": 2.0, "code": 3.0, "large": 2.0}
