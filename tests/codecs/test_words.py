"""Words: every text that fits comes back, in every script; a file of weights is all that is needed."""

import gzip
import json

import pytest
import torch

from sfumato.codecs.words import SPECIAL, Words
from sfumato.core.errors import Misfit, WeightsError

CAPTIONS = [
    "a red apple on a table",
    "a red car and a green apple",
    "一个红苹果和一辆红色的车",
    "ein großer roter Apfel, zwei Äpfel",
    "uma maçã vermelha e um carro não muito grande",
    "แอปเปิ้ลแดงบนโต๊ะ",
    "🍎🚗 👩‍👩‍👧‍👦 👍🏽",
]
UNSEEN = [
    "The quick brown fox: 12.5% off!",
    "敏捷的棕色狐狸跳过了懒狗",
    "Zwölf Boxkämpfer jagen Viktor quer über den Sylter Deich",
    "À noite, vovô Kowalsky vê o ímã cair",
    "เป็นมนุษย์สุดประเสริฐ",
    "🏳️‍🌈🧑🏿‍🚀🇧🇷#️⃣",
    "",
    "  two  spaces,\ttab\nline ",
    "<begin> <end> <pad>",
    "\x00\x7f\u200b\ufffd",
]


@pytest.fixture(scope="module")
def words() -> Words:
    words = Words(vocab=400, length=160)
    words.fit(CAPTIONS)
    return words


@pytest.mark.parametrize("text", CAPTIONS + UNSEEN)
def test_round_trip(words, text):
    z = words.encode([text])
    assert z.shape == (1, 160)
    assert z.dtype == torch.int64
    assert z.max() < 400
    assert words.decode(z) == [words.clean(text)]


def test_marks_and_mask(words):
    z = words.encode(["a red apple", ""])
    assert words.marks == (0, 1, 2)
    assert z[1].tolist() == [1, 2] + [0] * 158
    assert z[0, 0] == 1
    mask = words.mask(z)
    assert mask.sum(1).tolist() == [int((z[0] != 0).sum()), 2]
    assert not (z[~mask] != 0).any()


def test_normal_forms_and_case():
    """é in one code point and in two is one text; lower case folds a text to what it was trained on."""
    words = Words(300, 40, lower=True)
    words.fit(["école"])
    one, two = words.encode(["École", "e\u0301cole"])
    assert torch.equal(one, two)
    assert words.decode(one[None]) == ["école"]


def test_training_is_deterministic_and_blind_to_order(words):
    again = Words(400, 160)
    again.fit(reversed(CAPTIONS))
    assert torch.equal(again.store, words.store)


def test_merges_shorten_what_was_seen(words):
    """Seen captions need fewer tokens than bytes; that is what the merges are for."""
    tokens = int(words.mask(words.encode(CAPTIONS)).sum()) - 2 * len(CAPTIONS)
    assert tokens < 0.8 * sum(len(caption.encode()) for caption in CAPTIONS)


def test_nothing_said_needs_no_vocabulary(words):
    """The empty caption has the same tokens before and after learning, so a system can be counted before it reads."""
    fresh = Words(400, 160)
    assert not fresh.fitted
    assert torch.equal(fresh.encode(["", ""]), words.encode(["", ""]))
    assert torch.equal(fresh.mask(fresh.encode([""])), words.mask(words.encode([""])))
    with torch.device("meta"):
        assert Words(400, 160).encode([""]).shape == (1, 160)
    fresh.load_state_dict(words.state_dict())
    assert fresh.fitted
    assert torch.equal(fresh.encode(["", CAPTIONS[0]]), words.encode(["", CAPTIONS[0]]))


def test_weights_alone_restore_it(words):
    other = Words(400, 160)
    with pytest.raises(Misfit, match="no vocabulary"):
        other.encode(["a"])
    other.load_state_dict(words.state_dict())
    assert torch.equal(other.encode(UNSEEN), words.encode(UNSEEN))
    # and again, when other weights are filled in later
    third = Words(400, 160)
    third.fit(["zzz zzz zzz"])
    other.load_state_dict(third.state_dict())
    assert torch.equal(other.encode(["zzz"]), third.encode(["zzz"]))
    assert not torch.equal(other.encode(["zzz"]), words.encode(["zzz"]))


def test_damaged_weights_are_named(words):
    other = Words(400, 160)
    other.store.copy_(words.store)
    other.store[40:60] = 255
    with pytest.raises(WeightsError, match="damaged"):
        other.encode(["a"])


def test_prepare_learns_once():
    words = Words(300, 20)
    words.prepare(lambda: [{"text": ["blue blue blue"]}, {"text": ["blue sky"]}])
    before = words.store.clone()
    words.prepare(lambda: [{"text": ["entirely different captions"] * 9}])
    assert torch.equal(words.store, before)
    assert int(words.mask(words.encode(["blue"])).sum()) == 3  # begin, one merged word, end


@pytest.mark.parametrize("text", ["一个红苹果一个红苹果", "👩‍👩‍👧‍👦👩‍👩‍👧‍👦", "word " * 40])
def test_a_long_text_is_cut_at_a_whole_character(text):
    words = Words(259, 16)
    words.fit(["a"])
    with pytest.warns(UserWarning, match="cut"):
        z = words.encode([text])
    (kept,) = words.decode(z)
    assert kept
    assert text.startswith(kept)
    assert int(z[0, -1]) in (0, 2)


def test_answers_do_not_depend_on_what_was_asked_before(words, monkeypatch):
    monkeypatch.setattr("sfumato.codecs.words.REMEMBERED", 2)
    first = words.encode(CAPTIONS)
    assert torch.equal(words.encode(CAPTIONS[::-1]).flip(0), first)
    assert torch.equal(words.encode(CAPTIONS), first)


def test_any_ids_read_as_some_text(words):
    """What an untrained prior writes must not break the reader."""
    z = torch.randint(400, (50, 160), generator=torch.Generator().manual_seed(0))
    assert all(isinstance(text, str) for text in words.decode(z))


def test_the_largest_vocabulary_fits_its_buffer():
    """Captions that no merge is shared between: the worst case for the table's size."""
    generator = torch.Generator().manual_seed(0)
    letters = torch.randint(0x4E00, 0x9FA5, (3000, 6), generator=generator)
    words = Words(4096, 32)
    words.fit("".join(map(chr, row)) for row in letters.tolist())
    assert words.tokenizer.get_vocab_size() == 4096
    assert words.decode(words.encode(["一个"])) == ["一个"]


@pytest.fixture
def merges(tmp_path):
    """A small file in the form of CLIP's list of merges."""
    path = tmp_path / "bpe.txt.gz"
    lines = ["#version: 0.2", "r e", "re d</w>", "a p", "ap p", "l e</w>", "app le</w>", "t h", "th e</w>"]
    path.write_bytes(gzip.compress("\n".join([*lines, ""]).encode()))
    return path, lines[1:]


def test_clip_words_equal_transformers(merges, tmp_path):
    """Against transformers' own CLIP tokenizer, made from the same merges."""
    from transformers import CLIPTokenizer

    path, lines = merges
    words = Words.from_clip(path, length=77)
    vocab = words.tokenizer.get_vocab()
    (tmp_path / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *lines]), encoding="utf-8")
    oracle = CLIPTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    texts = ["the red apple", "A  Red\nApple!", "it's 12 o'clock", "一个红苹果", "naïve café", "🍎🍏"]
    ours = words.encode(texts)
    for row, text in zip(ours, texts):
        assert row[words.mask(row[None])[0]].tolist() == oracle(text)["input_ids"]
    assert words.decode(ours)[0] == "the red apple"
    assert not words.exact


def test_clip_ids_are_the_published_ones(merges):
    path, lines = merges
    words = Words.from_clip(path)
    vocab = words.tokenizer.get_vocab()
    assert vocab["!"] == 0
    assert vocab["!</w>"] == 256
    assert vocab["re"] == 512
    assert words.marks[1:] == (512 + len(lines), 513 + len(lines))
    again = Words(514 + len(lines), 77)
    again.load_state_dict(words.state_dict())
    assert torch.equal(again.encode(["the red apple"]), words.encode(["the red apple"]))


def test_another_file_is_refused(tmp_path):
    (tmp_path / "plain.txt").write_text("not deflated")
    with pytest.raises(WeightsError, match="merges"):
        Words.from_clip(tmp_path / "plain.txt")
    with pytest.raises(WeightsError, match="merges"):
        Words.from_clip(tmp_path / "absent.gz")


@pytest.mark.parametrize(("vocab", "length"), [(258, 32), (4096, 2)])
def test_too_small_is_refused(vocab, length):
    assert len(SPECIAL) + 256 == 259
    with pytest.raises(ValueError):
        Words(vocab, length)
