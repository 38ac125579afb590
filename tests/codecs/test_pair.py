"""A text and a picture in one line of tokens: which letter stands where, what is held, what is dropped and scored."""

import math

import pytest
import torch

from sfumato.codecs.pair import Pair
from sfumato.codecs.pixels import Pixels
from sfumato.codecs.words import Words
from sfumato.core.contracts import Codec
from sfumato.core.errors import Misfit, UsageError
from sfumato.core.noise import Noise
from sfumato.core.space import Grid, Tokens
from sfumato.likelihoods import Categorical
from sfumato.nn import CausalNet
from sfumato.priors.autoregressive import Autoregressive
from sfumato.systems import System

TEXTS = ["a red fox", "the fox is red", "red", "naïve 🦊"]
T, V, N, L = 16, 270, 4, 4


def words(fitted=True):
    codec = Words(vocab=V, length=T)
    if fitted:
        codec.fit(TEXTS)
    return codec


def pair(fitted=True, **options):
    return Pair(words(fitted), Pixels(Grid(1, 2, 2), "tokens", L), **options)


def images(rows=4):
    return ((torch.arange(4 * rows) * 37 % 256).view(rows, 1, 2, 2) / 127.5 - 1).float()


@pytest.mark.parametrize("first", ["text", "image"])
def test_the_line_by_hand(first):
    """Words where words are, a padding letter of its own at each place after, and the picture's tokens beyond all."""
    codec, x = pair(first=first), images()
    z, w, p = codec.encode((TEXTS, x)), codec.words.encode(TEXTS), codec.pictures.encode(x)
    assert codec.space == Tokens(T + N, V + T + L + 1)  # and one that says nothing
    assert (
        codec.halves == {"text": range(0, T), "image": range(T, 20)}
        if first == "text"
        else {
            "image": range(0, N),
            "text": range(N, 20),
        }
    )
    at = 0 if first == "text" else N
    for row in range(4):
        n = int(codec.words.mask(w)[row].sum())
        assert z[row, at : at + n].tolist() == w[row, :n].tolist()
        assert z[row, at + n : at + T].tolist() == [V + i for i in range(n, T)]
        other = T - at if first == "text" else 0
        assert (z[row, other : other + N] - V - T).tolist() == p[row].tolist()


@pytest.mark.parametrize("first", ["text", "image"])
def test_texts_come_back_and_pictures_as_their_codec_gives_them(first):
    codec, x = pair(first=first), images()
    texts, back = codec.decode(codec.encode((TEXTS, x)))
    assert texts == TEXTS
    assert torch.equal(back, codec.pictures.decode(codec.pictures.encode(x)))


@pytest.mark.parametrize("first", ["text", "image"])
def test_letters_hold_what_is_encoded_and_nothing_of_the_other_half(first):
    codec = pair(first=first)
    letters, z = codec.letters, codec.encode((TEXTS, images()))
    assert bool(letters.gather(1, z.T).all())
    text = letters[codec.halves["text"].start : codec.halves["text"].stop]
    image = letters[codec.halves["image"].start : codec.halves["image"].stop]
    assert text.sum(1).tolist() == [V + 1] * T  # all words, and one padding
    assert image.sum(1).tolist() == [L] * N
    assert not bool((text.any(0) & image.any(0)).any())
    assert (~(text.any(0) | image.any(0))).nonzero().tolist() == [[codec.nothing]]


def test_a_letter_of_the_other_half_is_refused():
    codec = pair()
    z = codec.encode((TEXTS, images()))
    for at, letter in ((0, V + T), (T, 5), (T, codec.nothing)):
        wrong = z.clone()
        wrong[0, at] = letter
        with pytest.raises(Misfit, match=r"letters=codec\.letters"):
            codec.decode(wrong)


def test_what_is_given_is_its_half():
    codec, x = pair(either=True), images()
    z = codec.encode((TEXTS, x))
    value, mask = codec.hold({"text": TEXTS}, 4)
    assert torch.equal(value[:, :T], z[:, :T])
    assert mask.sum(0).tolist() == [4] * T + [0] * N
    value, mask = codec.hold({"image": x}, 4)
    assert torch.equal(value[:, T:], z[:, T:])
    assert mask.sum(0).tolist() == [0] * T + [4] * N
    value, mask = codec.hold({"text": TEXTS, "image": x}, 4)
    assert torch.equal(value, z)
    assert bool(mask.all())


def test_nothing_is_a_letter_that_is_never_drawn():
    """It fills what may be given; a text without words is nothing too, and what is not to be known stays open."""
    for options, known in (({}, range(T)), ({"first": "image"}, range(N)), ({"either": True}, range(T + N))):
        codec = pair(**options)
        value, mask = codec.hold({}, 3)
        assert mask[0].nonzero()[:, 0].tolist() == list(known)
        assert bool((value[mask] == codec.nothing).all())
        assert not codec.letters[:, codec.nothing].any()
    codec = pair()
    value, mask = codec.hold({"text": ["red", "", None]}, 3)
    assert torch.equal(value[0, :T], codec.encode((["red"], images(1)))[0, :T])
    assert bool((value[1:, :T] == codec.nothing).all())
    assert bool(mask[:, :T].all())
    assert codec.decode(torch.where(mask, value, codec.encode((TEXTS[:3], images(3)))))[0] == ["red", "", ""]
    with pytest.raises(Misfit, match="drop=0"):
        pair(drop=0.0).hold({}, 3)


def test_what_stands_second_cannot_be_given():
    """… since it would not be heard; the system says so, with what would do."""
    codec = pair(first="text")
    assert codec.holds == ("text",)
    with pytest.raises(Misfit, match=r"first='image'.*either=True"):
        codec.hold({"image": images()}, 4)
    with pytest.raises(Misfit, match="first='text'"):
        pair(first="image").hold({"text": TEXTS}, 4)
    net = CausalNet(codec.space, codec.space.vocab, width=8, depth=1, heads=1)
    system = System(codec, Autoregressive(codec.space, net, Categorical(codec.space.vocab), letters=codec.letters))
    with pytest.raises(Misfit, match=r"either=True"):
        system.sample(4, {"image": images()})
    with pytest.raises(UsageError, match="'label'"):
        system.sample(4, {"label": 1})


@pytest.mark.parametrize("either", [False, True])
@pytest.mark.parametrize("first", ["text", "image"])
def test_halves_are_dropped_row_by_row(first, either):
    """A quarter of 2000 rows within 4 standard errors, whole, by the row's own number; the second half where it may be
    given, and never both."""
    codec, n = pair(first=first, either=either, drop=0.25), 2000
    x = (TEXTS * (n // 4), images().repeat(n // 4, 1, 1, 1))
    z, plain = codec.latent(x, Noise.shared(0, n)), codec.encode(x)
    gone = {name: (z[:, at.start : at.stop] == codec.nothing) for name, at in codec.halves.items()}
    for name, empty in gone.items():
        assert torch.equal(empty.any(1), empty.all(1))
        share = 0.25 if either or name == first else 0.0
        assert abs(float(empty[:, 0].double().mean()) - share) <= 4 * math.sqrt(share * (1 - share) / n)
    assert not bool((gone["text"].all(1) & gone["image"].all(1)).any())
    assert torch.equal(torch.where(z == codec.nothing, plain, z), plain)
    together = codec.latent((x[0][:8], x[1][:8]), Noise.each(range(8)))
    alone = [codec.latent((x[0][i : i + 1], x[1][i : i + 1]), Noise.each([i])) for i in range(8)]
    assert torch.equal(together, torch.cat(alone))
    assert torch.equal(pair(first=first, drop=0.0).latent(x, Noise.shared(0, n)), plain)


def test_a_picture_without_a_text_teaches_pictures_alone():
    codec = pair(drop=0.0)
    z = codec.latent((["red", ""], images(2)), Noise.shared(0, 2))
    assert torch.equal(z[0], codec.encode((["red"], images(2)[:1]))[0])
    assert bool((z[1, :T] == codec.nothing).all())
    assert torch.equal(z[:, T:], codec.encode((["red", ""], images(2)))[:, T:])


def test_the_likelihood_adds_up():
    """w is the pictures' own, −D log(256 / L), since texts are spelt as they are; z is what is encoded, padding too."""
    codec, x = pair(), (TEXTS, images())
    z, w = codec.lift(x)
    assert torch.equal(z, codec.encode(x))
    torch.testing.assert_close(w, torch.full((4,), -4 * math.log(64)))
    assert codec.kind == "bound"
    assert codec.discrete
    assert not codec.exact  # four letters for 256 values
    assert Pair(words(), Pixels(Grid(1, 2, 2), "tokens")).exact


def test_both_codecs_are_prepared():
    """The vocabulary comes from the captions, before a prior's first step; what learns is the pictures' stage."""

    class Learned(Pixels):
        learned = True

    codec = Pair(words(False), Learned(Grid(1, 2, 2), "tokens", L))
    assert codec.learned
    assert codec.stage is codec.pictures
    assert not codec.words.fitted
    codec.adapt(lambda: [{"text": TEXTS, "image": images()}])
    assert codec.words.fitted
    assert codec.decode(codec.encode((TEXTS, images())))[0] == TEXTS
    other = pair(False)
    other.prepare(lambda: [{"text": TEXTS, "image": images()}])
    assert other.words.fitted


def test_letters_are_known_on_the_meta_device():
    with torch.device("meta"):
        codec = pair(False)
        assert codec.letters.device.type == "cpu"


def test_what_does_not_fit_is_refused():
    with pytest.raises(Misfit, match="alphabet"):
        Pair(words(), Pixels(Grid(1, 2, 2)))
    with pytest.raises(Misfit, match="alphabet"):
        Pair(Pixels(Grid(1, 2, 2), "tokens"), words())
    with pytest.raises(Misfit, match="probability"):
        pair(drop=1.0)
    with pytest.raises(Misfit, match="first"):
        pair(first="label")
    assert isinstance(pair(), Codec)
