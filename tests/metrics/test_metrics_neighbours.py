"""Kernel distance, neighbourhoods and retrieval against plain loops over every pair."""

import math
from itertools import combinations

import pytest
import torch

from sfumato.metrics.coverage import nearest, neighbourhoods, radii
from sfumato.metrics.kernel import kernel_distance, mmd
from sfumato.metrics.retrieval import ranks, ranks_in_groups, recall_at


def draw(rows, dims, seed, shift=0.0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(rows, dims, generator=g) + shift


# ---- kernel distance ----


def mmd_by_loops(x, y):
    def k(a, b):
        return (sum(p * q for p, q in zip(a, b)) / len(a) + 1) ** 3

    x, y = x.tolist(), y.tolist()
    within = [2 * sum(k(a, b) for a, b in combinations(s, 2)) / (len(s) * (len(s) - 1)) for s in (x, y)]
    return sum(within) - 2 * sum(k(a, b) for a in x for b in y) / (len(x) * len(y))


def test_mmd_equals_the_double_loop():
    x, y = draw(7, 3, 1).double(), draw(5, 3, 2, shift=0.5).double()
    assert mmd(x, y) == pytest.approx(mmd_by_loops(x, y), rel=1e-12)


def test_mmd_is_unbiased_where_the_distributions_agree():
    """400 independent pairs of 20: their mean within 4 of its standard errors of 0. A biased estimate, which counts
    k(x, x), would be off by about 2 (k(x, x) − k(x, y)) / 20, dozens of standard errors."""
    found = torch.tensor([mmd(draw(20, 8, 2 * i), draw(20, 8, 2 * i + 1)) for i in range(400)], dtype=torch.float64)
    assert abs(float(found.mean())) < 4 * float(found.std()) / 20
    assert float(found.min()) < 0


def test_mmd_grows_with_the_difference():
    near, far = (mmd(draw(200, 8, 1), draw(200, 8, 2, shift)) for shift in (0.2, 1.0))
    assert 0 < near < far


def test_one_subset_of_everything_is_the_plain_estimate():
    x, y = draw(30, 4, 1), draw(30, 4, 2, 1.0)
    assert kernel_distance(x, y, subsets=1, size=100)[0] == pytest.approx(mmd(x, y), rel=1e-12)


def test_subsets_agree_with_the_whole_and_are_seeded():
    x, y = draw(600, 4, 1), draw(500, 4, 2, 0.5)
    value, error = kernel_distance(x, y, subsets=50, size=100)
    assert (value, error) == kernel_distance(x, y, subsets=50, size=100)
    assert value != kernel_distance(x, y, subsets=50, size=100, seed=1)[0]
    assert error > 0
    assert abs(value - mmd(x, y)) < 4 * error  # the whole is itself an average of subsets


def test_kernel_distance_of_one_picture_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        mmd(draw(1, 3, 1), draw(9, 3, 2))


# ---- neighbourhoods ----


def coverage_by_loops(real, generated, k, k_density):
    real, generated = real.tolist(), generated.tolist()

    def radius(points, i, k):
        return sorted(math.dist(points[i], q) for j, q in enumerate(points) if j != i)[k - 1]

    reach = [radius(real, i, k) for i in range(len(real))]
    deep = [radius(real, i, k_density) for i in range(len(real))]
    own = [radius(generated, j, k) for j in range(len(generated))]
    precision = sum(any(math.dist(x, y) <= r for x, r in zip(real, reach)) for y in generated) / len(generated)
    recall = sum(any(math.dist(x, y) <= r for y, r in zip(generated, own)) for x in real) / len(real)
    density = sum(math.dist(x, y) <= r for x, r in zip(real, deep) for y in generated) / (k_density * len(generated))
    covered = sum(any(math.dist(x, y) <= r for y in generated) for x, r in zip(real, deep)) / len(real)
    return precision, recall, density, covered


@pytest.mark.parametrize("chunk", [1, 7, 1000])
@pytest.mark.parametrize(("n", "m", "shift"), [(40, 30, 0.5), (25, 60, 2.0)])
def test_all_four_equal_the_loops(n, m, shift, chunk):
    real, generated = draw(n, 3, 1).double(), draw(m, 3, 2, shift).double()
    found = neighbourhoods(real, generated, k=3, k_density=5, chunk=chunk)
    expected = coverage_by_loops(real, generated, 3, 5)
    assert (found.precision, found.recall, found.density, found.coverage) == pytest.approx(expected, rel=1e-12)
    assert 0 < found.precision < 1  # or the case would tell nothing


def test_a_set_covers_itself_and_a_far_one_not_at_all():
    x = draw(50, 4, 1)
    same, far = neighbourhoods(x, x), neighbourhoods(x, x + 100)
    assert (same.precision, same.recall, same.coverage) == (1, 1, 1)
    assert same.density >= 1
    assert (far.precision, far.recall, far.density, far.coverage) == (0, 0, 0, 0)


def test_a_collapsed_generator_is_precise_and_has_no_recall():
    real = draw(100, 4, 1)
    collapsed = real[:1] + 1e-3 * draw(100, 4, 2)
    found = neighbourhoods(real, collapsed)
    assert found.precision > 0.9
    assert found.recall < 0.1


@pytest.mark.parametrize("chunk", [1, 6, 1000])
def test_nearest_equals_the_loops(chunk):
    x, reference = draw(20, 5, 1), draw(33, 5, 2)
    distances, indices = nearest(x, reference, k=4, chunk=chunk)
    for i in range(20):
        order = sorted(range(33), key=lambda j: math.dist(x[i].tolist(), reference[j].tolist()))[:4]
        assert indices[i].tolist() == order
        expected = [math.dist(x[i].tolist(), reference[j].tolist()) for j in order]
        assert distances[i].tolist() == pytest.approx(expected, rel=1e-12)


def test_a_copy_is_at_distance_zero_exactly_even_far_from_the_origin():
    reference = draw(50, 64, 1, shift=1000.0)
    distances, indices = nearest(reference[[7, 3]], reference)
    assert indices.flatten().tolist() == [7, 3]
    assert distances.flatten().tolist() == [0.0, 0.0]


def test_too_few_neighbours_are_refused():
    with pytest.raises(ValueError, match="4 are asked for"):
        nearest(draw(2, 3, 1), draw(3, 3, 2), k=4)
    with pytest.raises(ValueError, match="2 neighbours"):
        radii(draw(3, 3, 1), k=3)


# ---- retrieval ----


def test_ranks_of_a_line():
    """Pictures at 0, 1, 2, 3 on a line: what is drawn at 1.4 has 1 nearest, then 2, 0, 3."""
    gallery = torch.arange(4.0)[:, None]
    generated = torch.full((4, 1), 1.4)
    assert ranks(generated, gallery, torch.tensor([1, 2, 0, 3])).tolist() == [1, 2, 3, 4]


def test_ties_count_against_the_generator():
    """A generator that draws one grey mean for everything must not score by luck."""
    gallery = torch.tensor([[-1.0], [1.0]])
    assert ranks(torch.zeros(2, 1), gallery, torch.tensor([0, 1])).tolist() == [2, 2]


def test_groups_are_searched_alone():
    gallery = torch.arange(6.0)[:, None]
    generated = torch.tensor([[2.1], [2.1], [5.0]])
    answers = torch.tensor([0, 3, 5])
    found, sizes = ranks_in_groups(generated, gallery, answers, ["a", "b", "a", "b", "a", "b"])
    assert found.tolist() == [3, 1, 1]  # among 0, 2, 4 · 1, 3, 5 · 1, 3, 5
    assert sizes.tolist() == [3, 3, 3]
    assert recall_at(found, 1) == pytest.approx(2 / 3)
    assert recall_at(found, 5) == 1


def test_random_features_retrieve_at_chance():
    """2,000 queries of a gallery of 50: k / 50 within 4 standard errors."""
    g = torch.Generator().manual_seed(3)
    answers = torch.randint(50, (2000,), generator=g)
    found = ranks(draw(2000, 16, 1), draw(50, 16, 2), answers)
    for k in (1, 5):
        chance = k / 50
        assert abs(recall_at(found, k) - chance) < 4 * math.sqrt(chance * (1 - chance) / 2000)
