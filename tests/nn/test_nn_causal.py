"""The causal net: nothing looks ahead, and the cache changes nothing (E6)."""

import pytest
import torch
import torch.nn.functional as F

from sfumato.core.condition import Condition
from sfumato.core.errors import Misfit
from sfumato.core.space import Sequence, Tokens
from sfumato.nn import CausalNet

KINDS = ["learned", "axial", "sincos", "rotary", "rotary2", "none"]
B, N, K = 3, 12, 7
MASK = torch.tensor([[1, 1, 1, 0, 0], [0, 1, 0, 1, 1], [0, 0, 0, 0, 0]]).bool()  # the last caption has no word


def condition(sequence=True, mask=True):
    return Condition(
        B,
        vector=torch.randn(B, 6),
        sequence=torch.randn(B, 5, 8) if sequence else None,
        mask=MASK if sequence and mask else None,
    )


def build(space, sequence=True, **options):
    net = CausalNet(space, 9, width=32, depth=3, heads=4, vector=6, context=8 if sequence else None, **options)
    return net.eval()


def values(space):
    return torch.randint(0, K, (B, N)) if isinstance(space, Tokens) else torch.randn(B, N, 4)


SPACES = {"tokens": Tokens(N, K, (3, 4)), "vectors": Sequence(N, 4, (3, 4))}
OPTIONS = {
    **{kind: {"positions": kind} for kind in KINDS},
    "modern": {"positions": "rotary", "norm": "rms", "activation": "swiglu", "qk_norm": True},
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", SPACES)
def test_cached_equals_uncached(kind, options):
    """1e-5 in float32, as RELIABILITY E6 asks: the same sums, grouped in another way."""
    space = SPACES[kind]
    net, z, c = build(space, **OPTIONS[options]), values(space), condition()
    state = net.start(c)
    steps = torch.stack([net.step(state, None if i == 0 else z[:, i - 1]) for i in range(N)], 1)
    with torch.no_grad():
        torch.testing.assert_close(steps, net(z, c), atol=1e-5, rtol=0)


@pytest.mark.parametrize("sequence", [True, False])
@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("options", OPTIONS)
def test_nothing_looks_ahead(options, sequence, mask):
    """Changing z_t leaves h_0 … h_t bitwise as they were, and does reach all that follow."""
    net, z, c = (
        build(SPACES["tokens"], sequence, **OPTIONS[options]),
        values(SPACES["tokens"]),
        condition(sequence, mask),
    )
    with torch.no_grad():
        before = net(z, c)
        for t in range(N):
            other = z.clone()
            other[:, t] = (z[:, t] + 1) % K
            after = net(other, c)
            assert torch.equal(before[:, : t + 1], after[:, : t + 1])
            assert (before[:, t + 1 :] != after[:, t + 1 :]).any(-1).all()


def test_masked_words_have_no_influence():
    net, z, c = build(SPACES["tokens"]), values(SPACES["tokens"]), condition()
    other = Condition(B, c.vector, torch.where(MASK[..., None], c.sequence, 1e3 * torch.randn(B, 5, 8)), MASK)
    with torch.no_grad():
        assert torch.equal(net(z, c), net(z, other))
        assert torch.equal(net.step(net.start(c), None), net.step(net.start(other), None))
        shown = Condition(B, c.vector, torch.where(MASK[..., None], 2 * c.sequence, c.sequence), MASK)
        assert ((net(z, c) != net(z, shown)).any(-1).any(-1) == MASK.any(-1)).all()


def test_a_row_does_not_depend_on_its_mates():
    """Same shape of the batch, other mates: bitwise the same row."""
    net, z, c = build(SPACES["tokens"]), values(SPACES["tokens"]), condition()
    mates = Condition(B, torch.randn(B, 6), torch.randn(B, 5, 8), ~MASK)
    mixed = Condition(
        B,
        *(
            torch.cat([a[:1], b[1:]])
            for a, b in ((c.vector, mates.vector), (c.sequence, mates.sequence), (MASK, ~MASK))
        ),
    )
    other = torch.cat([z[:1], (z[1:] + 1) % K])
    with torch.no_grad():
        assert torch.equal(net(z, c)[0], net(other, mixed)[0])


def test_the_vector_reaches_every_position():
    net, z, c = build(SPACES["tokens"], False), values(SPACES["tokens"]), condition(False)
    with torch.no_grad():
        assert (net(z, c) != net(z, Condition(B, vector=c.vector + 1))).any(-1).all()


def test_every_parameter_learns():
    for space in SPACES.values():
        net = build(space)
        net(values(space), condition()).square().sum().backward()
        dead = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
        assert dead == []


def test_tied_head_is_the_embedding():
    net = CausalNet(Tokens(N, K), K, width=16, depth=1, heads=2, tied=True).eval()
    z = torch.randint(0, K, (2, N))
    states = net.trunk.norm(net(z, Condition.none(2), layers=1))
    torch.testing.assert_close(net(z, Condition.none(2)), F.linear(states, net.embed.weight))
    assert "head.weight" not in net.state_dict()


def test_shorter_sequences_are_prefixes():
    """A text of five words is the beginning of a text of twelve."""
    net, z = build(Tokens(N, K), False), values(Tokens(N, K))
    c = condition(False)
    with torch.no_grad():
        torch.testing.assert_close(net(z[:, :5], c), net(z, c)[:, :5], atol=1e-6, rtol=0)


def test_the_cache_takes_its_memory_once():
    net, z, c = build(SPACES["tokens"]), values(SPACES["tokens"]), condition()
    state = net.start(c)
    places = [cache._keys.data_ptr() for cache in state.caches]
    for i in range(N):
        net.step(state, None if i == 0 else z[:, i - 1])
    assert [cache._keys.data_ptr() for cache in state.caches] == places
    assert all(cache._keys.shape == (B, 4, 5 + N, 8) and cache.length == 5 + N for cache in state.caches)
    with pytest.raises(Misfit, match="no position"):
        net.step(state, z[:, -1])


def test_what_does_not_fit_is_refused():
    with pytest.raises(Misfit, match="tied=False"):
        CausalNet(Sequence(4, 3), 3, width=16, depth=1, heads=2, tied=True)
    with pytest.raises(Misfit, match="no layout"):
        CausalNet(Tokens(4, 3), 3, width=16, depth=1, heads=2, positions="axial")
    with pytest.raises(Misfit, match="heads"):
        CausalNet(Tokens(4, 3), 3, width=16, depth=1, heads=3)
    with pytest.raises(Misfit, match=r"expects condition\.vector"):
        build(SPACES["tokens"])(values(SPACES["tokens"]), Condition.none(B))
    net = CausalNet(Tokens(N, K), K, width=16, depth=1, heads=2)
    with pytest.raises(Misfit, match="ignored"):
        net(values(Tokens(N, K)), condition(False))
    with pytest.raises(ValueError, match="before it"):
        net.step(net.start(Condition.none(B)), torch.zeros(B, dtype=torch.long))
