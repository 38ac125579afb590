"""Confusion, calibration and bits of texts, by numbers that can be counted on paper."""

import math

import pytest
import torch

from sfumato.codecs.words import Words
from sfumato.core.errors import UsageError
from sfumato.metrics import applicable, evaluate
from sfumato.metrics.classification import Told, confusion, reliability
from sfumato.metrics.evaluation import Written


def told(rows):
    """(p of class 0, p of class 1, label) …"""
    table = torch.tensor(rows)
    return Told(table[:, :2], table[:, 2].long())


def test_confusion_counts_of_which_class_what_was_called():
    found = confusion(told([(0.9, 0.1, 0), (0.8, 0.2, 0), (0.3, 0.7, 0), (0.4, 0.6, 1)]))
    assert found.tolist() == [[2, 1], [0, 1]]


def test_calibration_is_the_gap_between_sure_and_right():
    """Bins of a tenth: two of 0.85 of which one is right (gap 0.35), two of 0.55, both right (gap 0.45): ECE 0.4."""
    found = reliability(told([(0.85, 0.15, 0), (0.15, 0.85, 0), (0.55, 0.45, 0), (0.45, 0.55, 1)]), bins=10)
    assert found.count.tolist() == [0, 0, 0, 0, 0, 2, 0, 0, 2, 0]
    assert found.right[8] == 0.5
    assert float(found.sure[5]) == pytest.approx(0.55, abs=1e-6)
    assert found.error == pytest.approx(0.4, abs=1e-6)


def test_one_who_is_as_sure_as_right_has_no_error():
    """Drawn labels of probability p: ECE goes to zero as 1 / √n; 20,000 pictures in 15 bins err by some 0.01."""
    generator = torch.Generator().manual_seed(0)
    p = 0.5 + 0.5 * torch.rand(20_000, generator=generator)
    right = torch.rand(20_000, generator=generator) < p
    found = reliability(Told(torch.stack([p, 1 - p], 1), (~right).long()))
    assert found.error < 0.02


class Judge:
    """Knows the classes of a set, and is wrong about every fourth picture."""

    entries, hears, learns, device, training = ("image",), (), ("image", "label"), torch.device("cpu"), False

    def classify(self, images):
        number = ((images[:, 0, 0, 0] + 1) * 127.5).round().long()
        called = torch.where(number % 4 == 0, 1 - number % 2, number % 2)
        return torch.nn.functional.one_hot(called, 2).float()


class Numbered:
    """Picture i is of the grey i; its class is whether i is odd."""

    name, labels = "numbers", ["even", "odd"]

    def __len__(self):
        return 40

    def batch(self, rows):
        index = torch.tensor(list(rows))
        image = (index.float() / 127.5 - 1).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
        return {"image": image, "label": index % 2, "index": index}


def test_a_classifier_is_measured_by_what_it_tells():
    assert applicable(Judge(), Numbered()) == ["top-1", "calibration"]
    scores = evaluate(Judge(), Numbered(), n=40)["scores"]
    assert scores["top-1"] == 0.75
    assert scores["calibration"] == pytest.approx(0.25)  # always sure, and right in three of four


class Author:
    """Every token of a text costs two bits."""

    entries, hears, learns, device, training = ("text",), (), ("text",), torch.device("cpu"), False
    log_prob_kind, prior = "bound", object()

    def __init__(self, texts):
        self.codec = Words(vocab=300, length=32)
        self.codec.fit(texts)

    def encode(self, texts):
        return self.codec.encode(texts)

    def log_prob(self, texts, given=None, *, seeds):
        return -2 * math.log(2) * (self.codec.mask(self.encode(texts)).sum(1) - 1)


class Lines:
    name = "lines"

    def __init__(self, texts):
        self.texts = texts

    def __len__(self):
        return len(self.texts)

    def batch(self, rows):
        return {"text": [self.texts[i] for i in rows], "index": torch.tensor(list(rows))}


def test_bits_of_a_character_are_the_bits_of_all_texts_by_all_their_characters():
    texts = ["abc", "ab", "x" * 10]
    author = Author(texts)
    tokens = author.codec.mask(author.encode(texts)).sum(1) - 1
    assert applicable(author, Lines(texts)) == ["bits-per-char", "bits-per-token"]
    found = evaluate(author, Lines(texts), n=3)
    assert found["scores"]["bits-per-token"] == pytest.approx(2)
    assert found["scores"]["bits-per-char"] == pytest.approx(2 * int(tokens.sum()) / 15)
    assert found["protocol"]["scores"]["bits-per-char"]["characters"] == 15


def test_the_error_of_a_ratio_is_that_of_its_residuals():
    """The delta method for Σ b / Σ l: residuals b − r l. Equal lengths give the plain standard error of the mean."""
    bits = torch.tensor([1.0, 2.0, 3.0, 6.0])
    written = Written(-bits.double() * math.log(2), torch.full((4,), 2), torch.full((4,), 2))
    ratio, error = written.bits_by(written.tokens)
    assert ratio == pytest.approx(1.5)
    assert error == pytest.approx(float((bits / 2).std()) / 2)


def test_pictures_have_no_bits_of_characters():
    with pytest.raises(UsageError, match="draws pictures"):
        evaluate(Judge(), Numbered(), ["bits-per-char"], n=4)
