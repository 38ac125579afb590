"""The ladder's resolutions, its start, its attention and the singular values it knows."""

import pytest
import torch

from sfumato.core.condition import Condition
from sfumato.core.errors import Misfit
from sfumato.nn.pictures.ladder import Heard, Ladder, Leading, Level, Look, resolutions, spots

STYLES = ["bottleneck", "expansion"]


def make(style="expansion", side=(7, 7), attention=1, **options):
    levels = tuple(Level(s, 2, 2, 1.0, attention * (s != (1, 1)), heads=2) for s in resolutions(*side))
    return Ladder(levels, 3, 6, style=style, width=16, other=24, z=4, vector=5, **options)


def walk(net, x, condition):
    """Down by the posterior's means: what leaves at the end, and every (m, s, r), (m′, s′)."""
    said, seen = net.hear(condition), []
    a, h = net.encode(x, said), net.start(len(x))
    for i, level in enumerate(net.of):
        prior, posterior = net.prior(i, h, said), net.posterior(i, h, a[level], said)
        seen.append((prior, posterior))
        h = net.join(i, h, posterior[0], prior[2], said)
    return net.exit(h), seen


@pytest.mark.parametrize(
    ("side", "found"),
    [
        (32, (1, 4, 8, 16, 32)),
        (64, (1, 4, 8, 16, 32, 64)),
        (28, (1, 4, 7, 14, 28)),
        (7, (1, 4, 7)),
        (1, (1,)),
        (3, (1, 3)),
    ],
)
def test_the_resolutions_are_the_papers_and_any_side_has_some(side, found):
    assert resolutions(side, side) == tuple((n, n) for n in found)
    assert resolutions(9, 4) == ((1, 1), (3, 1), (5, 2), (9, 4))


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("side", [(1, 1), (7, 7), (8, 8), (5, 12), (28, 28)])
def test_every_grid_has_a_way_up_and_a_way_down(style, side):
    net, x = make(style, side), torch.randn(2, 3, *side)
    out, seen = walk(net, x, Condition(2, vector=torch.randn(2, 5)))
    assert out.shape == (2, 6, *side)
    assert [tuple(m.shape[1:]) for (_, _, _), (m, _) in seen] == net.shapes
    assert [shape[1:] for shape in net.shapes] == [s for s in resolutions(*side) for _ in range(2)]


@pytest.mark.parametrize("style", STYLES)
def test_the_prior_says_nothing_at_the_start_and_the_posterior_something(style):
    _, seen = walk(make(style), torch.randn(2, 3, 7, 7), Condition(2, vector=torch.randn(2, 5)))
    for prior, (mean, _) in seen:
        assert all(torch.equal(part, torch.zeros_like(part)) for part in prior)
        assert mean.abs().max() > 0


@pytest.mark.parametrize("style", STYLES)
def test_every_parameter_learns(style):
    """From a point off the start, where zeros would hide what lies before them."""
    net = make(style, context=6)
    for p in net.parameters():
        p.data += 0.1 * torch.randn_like(p)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]]).bool()
    said = Condition(2, vector=torch.randn(2, 5), sequence=torch.randn(2, 3, 6), mask=mask)
    out, seen = walk(net, torch.randn(2, 3, 7, 7), said)
    total = out.square().sum() + sum(part.square().sum() for prior, post in seen for part in (*prior, *post))
    total.backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("context", [None, 6])
def test_attention_mixes_positions(context):
    """With several heads: a change in one cell reaches every other one (the official layer leaves them as they were),
    by the amounts that softmax(q kᵀ / √d) v has."""
    look = Look(16, 4, context)
    said = Heard(None, None if context is None else torch.randn(1, 3, context), None)
    for p in look.parameters():
        p.data = p.data + 0.3 * torch.randn_like(p)
    x = torch.randn(1, 16, 3, 3)
    moved = x.clone()
    moved[:, :, 1, 1] += 1
    gap = (look(moved, said) - look(x, said)).abs().amax(1)[0]
    assert (gap > 1e-4).all()
    if context is None:
        cells, part = x.flatten(2).transpose(1, 2)[0], look.cells
        q, k, v = (t.reshape(9, 4, 4).transpose(0, 1) for t in part.qkv(cells).chunk(3, -1))
        weight = (part.q_norm(q) @ part.k_norm(k).transpose(1, 2) / 2).softmax(-1)  # √d = 2
        by_hand = cells + part.out((weight @ v).transpose(0, 1).reshape(9, 16))
        torch.testing.assert_close(look(x, said)[0].flatten(1).T, by_hand, atol=1e-5, rtol=1e-5)  # float32


def test_attention_stands_evenly_and_not_at_the_end():
    assert spots(4, 10) == {2, 4, 6, 8}  # arXiv:2303.13714's decoder at 32 cells a side
    assert spots(0, 10) == spots(1, 0) == set()
    assert spots(4, 4) == {1, 2, 3}  # two fell on one place


def test_the_largest_singular_value_is_found_and_has_a_gradient():
    conv = Leading(5, 7, 3).double()
    for _ in range(300):  # the ratio of the first two singular values of this matrix, to the power of 600
        norm = conv.norm()
    matrix = conv.weight.detach().flatten(1)
    left, values, right = torch.linalg.svd(matrix)
    torch.testing.assert_close(norm.detach(), values[0], rtol=1e-9, atol=0)
    norm.backward()
    outer = torch.outer(left[:, 0], right[0]).reshape(conv.weight.shape)  # ∂σ₁/∂W = u vᵀ
    torch.testing.assert_close(conv.weight.grad, outer, rtol=0, atol=1e-5)


def test_its_direction_turns_while_training_only_and_survives_a_matrix_of_zeros():
    conv = Leading(5, 7, 1)
    before = conv.u.clone()
    conv.eval().norm()
    assert torch.equal(conv.u, before)
    with torch.no_grad():
        conv.train().norm()
        assert torch.equal(conv.u, before)
        conv.weight.zero_()
    assert conv.norm() == 0
    assert torch.equal(conv.u, before)
    torch.nn.init.normal_(conv.weight)
    assert conv.norm() > 0
    assert not torch.equal(conv.u, before)
    assert "u" in conv.state_dict()  # or a resumed run would not be the same


def test_words_reach_a_ladder_that_attends_and_one_without_attention_takes_the_vector():
    said = Condition(2, vector=torch.randn(2, 5), sequence=torch.randn(2, 3, 6), mask=torch.ones(2, 3).bool())
    assert make(context=6).context_width == 6
    plain = make(context=6, attention=0)
    assert plain.context_width is None
    walk(plain, torch.randn(2, 3, 7, 7), said)
    with pytest.raises(Misfit, match=r"expects condition\.sequence"):
        walk(make(context=6), torch.randn(2, 3, 7, 7), Condition(2, vector=torch.randn(2, 5)))


def test_a_ladder_without_a_first_cell_is_refused():
    with pytest.raises(Misfit, match="starts at one cell"):
        Ladder((Level((4, 4), 1, 1, 1.0),), 3, 3, style="expansion", width=8)
