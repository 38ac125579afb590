"""Rejection by a score: the best of several candidates, each a function of its own seed."""

import pytest
import torch

from sfumato.core.errors import UsageError
from sfumato.core.noise import Noise
from sfumato.systems.rerank import best_of

calls = []


def draw(n, given=None, *, seeds, scale=1.0):
    calls.append((n, given, list(seeds)))
    return scale * Noise.each(seeds).normal(1, 2, 2)


def brightness(images, given):
    return images.flatten(1).mean(1)


def test_the_best_is_kept_and_more_candidates_never_do_worse():
    before = torch.full((3,), -torch.inf)
    for of in (1, 2, 5, 9):
        images, scores = best_of(draw, brightness, 3, of, seeds=[4, 5, 6])
        torch.testing.assert_close(scores, brightness(images, {}))
        assert bool((scores >= before).all())
        before = scores
    assert torch.equal(best_of(draw, brightness, 3, 1, seeds=[4, 5, 6])[0], draw(3, seeds=[4, 5, 6]))


def test_the_best_of_n_is_the_maximum_by_brute_force():
    images, scores = best_of(draw, brightness, 2, 4, seeds=[1, 2], scale=3.0)
    seeds = calls[-1][2]
    every = draw(8, seeds=seeds, scale=3.0).unflatten(0, (2, 4))
    marks = every.flatten(2).mean(2)
    assert torch.equal(scores, marks.max(1).values)
    assert all(torch.equal(images[i], every[i, marks[i].argmax()]) for i in range(2))
    assert len(set(seeds)) == 8


def test_candidates_share_their_pictures_condition():
    said = {"label": torch.tensor([3, 4]), "text": ["a", "b"]}
    seen = []
    best_of(draw, lambda images, given: seen.append(given) or brightness(images, given), 2, 3, said)
    assert seen[0]["label"].tolist() == [3, 3, 3, 4, 4, 4]
    assert calls[-1][1]["text"] == ["a"] * 3 + ["b"] * 3


def test_a_picture_depends_on_its_own_seed_alone():
    a, _ = best_of(draw, brightness, 3, 4, seeds=[7, 8, 9])
    b, _ = best_of(draw, brightness, 2, 4, seeds=[9, 7])
    assert torch.equal(a[[2, 0]], b)


def test_of_two_that_tie_the_first_is_kept():
    images, _ = best_of(draw, lambda images, given: torch.zeros(len(images)), 2, 3, seeds=[1, 2])
    assert torch.equal(images, draw(2, seeds=[1, 2]))


def test_no_candidate_is_refused():
    with pytest.raises(UsageError, match="at least one"):
        best_of(draw, brightness, 1, 0)
