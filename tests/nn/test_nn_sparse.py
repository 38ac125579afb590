"""Sparse attention against sets written down by hand, against the dense mask, and in the causal net (E6)."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from sfumato.core.condition import Condition
from sfumato.core.errors import Misfit
from sfumato.core.space import Sequence, Tokens
from sfumato.nn import CausalNet
from sfumato.nn.parts.sparse import Pattern, attend, dalle
from sfumato.priors.orders import ORDERS, order_of

# Step 10 of a 4 × 4 grid (row 2, column 2) looks at these; rows wrap and reach the cell above, as in DALL·E's figure
SEEN = {
    "row": {6, 7, 8, 9, 10},
    "column": {2, 6, 10},
    "convolution": {5, 6, 7, 9, 10},  # 3 × 3: the three above, the one to the left, itself
}


@pytest.mark.parametrize("name", SEEN)
def test_what_a_step_sees_by_hand(name):
    mask = Pattern(name, 4, 3).mask(16)[0, 0]
    assert set(mask[10].nonzero()[:, 0].tolist()) == SEEN[name]
    assert set(Pattern(name, 4, 3).past(10, 0, torch.device("cpu")).tolist()) == SEEN[name]
    assert set(mask[0].nonzero()[:, 0].tolist()) == {0}


@pytest.mark.parametrize(("line", "kernel"), [(4, 3), (5, 5), (3, 7), (8, 11)])
def test_a_neighbourhood_is_the_raster_around_a_step(line, kernel):
    """By enumeration: a rows up and b to the side, in raster numbers, for kernels wider than a line too."""
    r, n = kernel // 2, 6 * line
    mask = Pattern("convolution", line, kernel).mask(n)[0, 0]
    for i in range(n):
        offsets = {a * line + b for a in range(r + 1) for b in range(-r, r + 1)}
        assert set(mask[i].nonzero()[:, 0].tolist()) == {i - d for d in offsets if 0 <= d <= i}


def test_dalles_layers():
    """Layer i of 1 … 63: column if (i − 2) mod 4 = 0, else row; the last one a neighbourhood."""
    names = dalle(64)
    assert names[-1] == "convolution"
    assert [i for i, name in enumerate(names, 1) if name == "column"] == list(range(2, 64, 4))
    assert names[:6] == ["row", "column", "row", "row", "row", "column"]


VALID = torch.tensor([[1, 1, 1], [0, 1, 0], [0, 0, 0]]).bool()


@pytest.mark.parametrize("words", [0, 3])
@pytest.mark.parametrize("n", [12, 20, 18])
@pytest.mark.parametrize("name", SEEN)
def test_blocks_equal_the_dense_mask(name, n, words):
    """float64, 1e-12; also for lengths that end within a line, with words of which some are none, and in the
    gradient."""
    torch.manual_seed(0)
    pattern = Pattern(name, 4, 5)
    q, k, v = (torch.randn(3, 2, words + n, 8, dtype=torch.float64, requires_grad=True) for _ in range(3))
    valid = F.pad(VALID, (0, n), value=True) if words else None
    dense = F.scaled_dot_product_attention(q, k, v, attn_mask=pattern.mask(n, words, valid))
    found = attend(pattern, q, k, v, words, valid)
    torch.testing.assert_close(found, dense, atol=1e-12, rtol=0)
    probe = torch.randn_like(dense)
    for a, b in zip(*(torch.autograd.grad((y * probe).sum(), (q, k, v)) for y in (found, dense))):
        torch.testing.assert_close(a, b, atol=1e-11, rtol=0)


B, N, K = 3, 12, 7
MASK = torch.tensor([[1, 1, 1, 0, 0], [0, 1, 0, 1, 1], [0, 0, 0, 0, 0]]).bool()
PATTERNS = {
    "full": [None] * 3,
    "dalle": ["row", "column", "convolution"],
    "rows": ["row"] * 3,
    "columns": ["column"] * 3,
    "mixed": [None, "convolution", "column"],
}
SPACES = {"tokens": Tokens(N, K, (3, 4)), "vectors": Sequence(N, 4, (3, 4))}


def net_of(space, patterns, context=True, **options):
    torch.manual_seed(0)
    options = {"positions": "rotary2", **options}
    return CausalNet(
        space,
        9,
        width=32,
        depth=3,
        heads=4,
        vector=6,
        context=8 if context else None,
        patterns=PATTERNS[patterns],
        kernel=3,
        **options,
    ).eval()


def condition(context=True):
    return Condition(
        B,
        vector=torch.randn(B, 6),
        sequence=torch.randn(B, 5, 8) if context else None,
        mask=MASK if context else None,
    )


def values(space):
    return torch.randint(0, K, (B, N)) if isinstance(space, Tokens) else torch.randn(B, N, 4)


def order_for(name, space):
    if name == "each":  # another one for each row, as a prior that learns any order draws them
        return torch.rand(B, N, generator=torch.Generator().manual_seed(1)).argsort(1)
    return None if name == "none" else order_of(name, space)


ORDERED = ["none", *ORDERS, "each"]


@pytest.mark.parametrize("order", ORDERED)
@pytest.mark.parametrize("patterns", PATTERNS)
@pytest.mark.parametrize("context", [True, False])
def test_cached_equals_uncached_in_every_order_and_mask(patterns, order, context):
    """E6: 1e-5 in float32, for tokens and vectors."""
    for space in SPACES.values():
        net, z, c = net_of(space, patterns, context, orders=order == "each"), values(space), condition(context)
        told = order_for(order, space)
        with torch.no_grad():
            state = net.start(c, told)
            steps = torch.stack([net.step(state, None if i == 0 else z[:, i - 1]) for i in range(N)], 1)
            torch.testing.assert_close(steps, net(z, c, order=told), atol=1e-5, rtol=0)


@pytest.mark.parametrize("order", ORDERED)
@pytest.mark.parametrize("patterns", PATTERNS)
@pytest.mark.parametrize("positions", ["learned", "rotary2"])
def test_nothing_looks_ahead_in_every_order_and_mask(patterns, order, positions):
    """E6: changing z_t leaves h_0 … h_t bitwise as they were, and reaches the next step (which every pattern looks
    at)."""
    space = SPACES["tokens"]
    net, z, c = net_of(space, patterns, positions=positions, orders=order == "each"), values(space), condition()
    told = order_for(order, space)
    with torch.no_grad():
        before = net(z, c, order=told)
        for t in range(N - 1):
            other = z.clone()
            other[:, t] = (z[:, t] + 1) % K
            after = net(other, c, order=told)
            assert torch.equal(before[:, : t + 1], after[:, : t + 1])
            assert bool((before[:, t + 1] != after[:, t + 1]).any(-1).all())


@pytest.mark.parametrize("positions", ["learned", "axial", "sincos", "rotary", "rotary2"])
def test_an_order_tells_the_place(positions):
    """The same entry at the same step, on its way to another place, gives another answer; and to the same, the same."""
    space = SPACES["tokens"]
    net, z, c = net_of(space, "full", positions=positions), values(space), condition()
    order = torch.arange(N)
    swapped = order.clone()
    swapped[[7, 11]] = order[[11, 7]]  # another row and column
    with torch.no_grad():
        plain, given, other = net(z, c), net(z, c, order=order), net(z, c, order=swapped)
    assert torch.equal(plain, given)
    assert torch.equal(given[:, :7], other[:, :7])
    assert bool((given[:, 7] != other[:, 7]).any(-1).all())


def test_many_orders_are_told_whence_an_entry_came():
    """Only a net built for them knows: two orders that differ in where z_0 came from alone."""
    space = SPACES["tokens"]
    z, c = values(space), condition()
    a = torch.arange(N)
    b = a.clone()
    b[[0, 11]] = a[[11, 0]]
    with torch.no_grad():
        for told in (True, False):
            net = net_of(space, "full", positions="learned", orders=told)
            net.positions.table.data[11] = net.positions.table.data[0]  # the place of step 0 says the same in both
            assert torch.equal(net(z, c, order=a)[:, 1], net(z, c, order=b)[:, 1]) != told


def test_every_parameter_learns_under_orders_and_patterns():
    space = SPACES["tokens"]
    net = net_of(space, "dalle", positions="learned", orders=True)
    net(values(space), condition(), order=order_for("each", space)).square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_what_does_not_fit_is_refused():
    with pytest.raises(Misfit, match="3 layers"):
        CausalNet(SPACES["tokens"], 9, width=16, depth=3, heads=2, patterns=["row"])
    with pytest.raises(Misfit, match="no|none"):
        CausalNet(Tokens(12, 7), 9, width=16, depth=1, heads=2, patterns=["row"])
    with pytest.raises(Misfit, match="'diagonal'"):
        CausalNet(SPACES["tokens"], 9, width=16, depth=1, heads=2, patterns=["diagonal"])
    with pytest.raises(Misfit, match="odd"):
        Pattern("convolution", 4, 4)


# ── orders ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("layout", [(1, 1), (1, 7), (7, 1), (3, 4), (7, 7), (16, 16)])
@pytest.mark.parametrize("name", ORDERS)
def test_orders_visit_every_position_once(name, layout):
    order = order_of(name, Tokens(layout[0] * layout[1], 5, layout))
    assert sorted(order.tolist()) == list(range(layout[0] * layout[1]))


def test_orders_by_hand():
    space = Tokens(6, 5, (2, 3))
    assert order_of("raster", space).tolist() == [0, 1, 2, 3, 4, 5]
    assert order_of("column", space).tolist() == [0, 3, 1, 4, 2, 5]
    assert order_of("snake", space).tolist() == [0, 1, 2, 5, 4, 3]
    # (½, ⅓), (¼, ⅔), (¾, 1/9), (⅛, 4/9), (⅝, 7/9), (⅜, 2/9): rows 1 0 1 0 1 0, columns 1 2 0 1 2 0
    assert order_of("halton", space).tolist() == [4, 2, 3, 1, 5, 0]
    assert order_of("halton", Tokens(4, 5)).tolist() == [2, 1, 3, 0]  # ½, ¼, ¾, ⅛ in a row


def test_halton_is_spread_out():
    """The farthest-apart law: the nearest two of the first 16 cells of 16 × 16 are farther apart than in 95 of 100
    random orders, and every quarter of the plane has its share of them."""
    cells = lambda order: torch.stack([order[:16] // 16, order[:16] % 16], 1).double()
    nearest = lambda order: float(torch.pdist(cells(order)).min())
    order = order_of("halton", Tokens(256, 5, (16, 16)))
    generator = torch.Generator().manual_seed(0)
    others = sorted(nearest(torch.randperm(256, generator=generator)) for _ in range(100))
    assert nearest(order) > others[94]
    quarters = (cells(order) // 8).tolist()
    assert all(3 <= quarters.count([a, b]) <= 5 for a, b in itertools.product((0.0, 1.0), repeat=2))


def test_orders_that_do_not_fit_are_refused():
    with pytest.raises(Misfit, match="no layout"):
        order_of("column", Tokens(6, 5))
