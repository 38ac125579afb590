"""Another source for the same rows: a function of the seeds and the name alone."""

import pytest
import torch

from sfumato.core.noise import Noise

SOURCES = {
    "each": lambda: Noise.each([3, 1, 4]),
    "shared": lambda: Noise.shared(5, 3),
    "parts": lambda: Noise.shared(5, 1).parts(3),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_a_stream_is_another_source_for_every_name(kind):
    make = SOURCES[kind]
    first = make().stream("a").normal(1000)
    used = make()
    used.normal(7)  # what was drawn before does not matter
    assert torch.equal(used.stream("a").normal(1000), first)
    others = [make().normal(1000), make().stream("b").normal(1000), make().stream("a").stream("a").normal(1000)]
    for other in others:  # 1000 independent pairs: a correlation of 4 standard errors
        correlation = (first * other).mean(1) / (first.std(1) * other.std(1))
        assert bool((correlation.abs() < 4 / 1000**0.5).all())


def test_drawing_from_a_stream_leaves_the_source_where_it_was():
    noise, plain = Noise.each([3, 1, 4]), Noise.each([3, 1, 4])
    noise.stream("a").normal(5)
    assert torch.equal(noise.normal(5), plain.normal(5))


def test_rows_keep_their_own_numbers():
    """A row beside other mates; and a window of a batch that other processes draw too."""
    assert torch.equal(Noise.each([3, 1, 4]).stream("a").normal(5)[1:2], Noise.each([1]).stream("a").normal(5))
    whole = Noise.shared(5, 6).stream("a").uniform(2)
    assert torch.equal(Noise.shared(5, 2, start=3, total=6).stream("a").uniform(2), whole[3:5])


def test_a_call_that_names_no_source_keeps_none():
    assert Noise.ambient(3).stream("a").normal(2).shape == (3, 2)
