"""A grid as rows, and noise for parts of an image."""

import torch

from sfumato.core.noise import Noise
from sfumato.core.space import Grid, Sequence, Tokens, from_rows, rows, to_rows


def test_a_grid_is_the_sequence_of_its_cells_in_raster_order():
    space = Grid(2, 3, 4)
    assert rows(space) == Sequence(12, 2, (3, 4))
    z = torch.randn(5, 2, 3, 4)
    line = to_rows(space, z)
    assert torch.equal(line[1, 7], z[1, :, 1, 3])
    assert torch.equal(from_rows(space, line), z)
    assert from_rows(space, line).is_contiguous()
    mask = z > 0
    assert torch.equal(from_rows(space, to_rows(space, mask)), mask)


def test_what_is_in_rows_already_stays():
    for space, z in ((Tokens(4, 3), torch.zeros(2, 4, dtype=torch.long)), (Sequence(4, 3), torch.zeros(2, 4, 3))):
        assert rows(space) is space
        assert to_rows(space, z) is z
        assert from_rows(space, z) is z


def test_parts_draw_from_their_own_image():
    """Bitwise: of image 7 the same numbers, beside whomever, and whichever parts are kept."""
    a, b = Noise.each([7, 8]).parts(5), Noise.each([3, 9, 7]).parts(5)
    assert (a.rows, b.rows) == (10, 15)
    assert torch.equal(a.normal(2)[:5], b.normal(2)[10:])
    keep = torch.rand(2, 5) < 0.5
    whole, some = Noise.each([7, 8]).parts(5), Noise.each([7, 8]).parts(5, keep)
    assert some.rows == int(keep.sum())
    for kind, shape in (("normal", (2,)), ("uniform", ()), ("gumbel", (3,)), ("spread", None)):
        draw = lambda noise: getattr(noise, kind)() if shape is None else getattr(noise, kind)(*shape)  # noqa: B023
        assert torch.equal(draw(whole)[keep.flatten()], draw(some))
    assert torch.equal(whole.integers(9, 2)[keep.flatten()], some.integers(9, 2))


def test_parts_are_spread_evenly_and_each_is_uniform():
    """Of 8 parts one number falls in each eighth, in an order that differs; and over 4000 images part 3 is uniform: the
    Kolmogorov distance stays below 1.95 / √4000, which chance exceeds once in a thousand."""
    n = 4000
    u = Noise.shared(0, n).parts(8).spread().reshape(n, 8)
    eighths = (u * 8).long().sort(1).values
    assert bool((eighths == torch.arange(8)).all(1).float().mean() > 0.99)  # rounding at an edge is all that may differ
    third = u[:, 3].sort().values
    distance = (third - (torch.arange(n) + 0.5) / n).abs().max()
    assert float(distance) < 1.95 / n**0.5
    assert len({tuple(row) for row in (u[:50] * 8).long().tolist()}) > 45
