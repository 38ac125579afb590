"""What stands before: a known beginning in one pass, words in full attention, a caption that lies in no line (E6)."""

import pytest
import torch

from sfumato.core.condition import Condition
from sfumato.core.errors import Misfit
from sfumato.core.space import Sequence, Tokens
from sfumato.nn import CausalNet
from sfumato.priors.orders import order_of

B, N, K = 3, 12, 7
MASK = torch.tensor([[1, 1, 1, 0, 0], [0, 1, 0, 1, 1], [0, 0, 0, 0, 0]]).bool()  # the last caption has no word
SPACES = {"tokens": Tokens(N, K, (3, 4)), "vectors": Sequence(N, 4, (3, 4))}
NETS = {
    "plain": {},
    "rotary": {"positions": "rotary", "norm": "rms", "activation": "swiglu", "qk_norm": True},
    "plane": {"positions": "rotary2"},
    "sparse": {"positions": "rotary2", "patterns": ["row", "column", "convolution"], "kernel": 3},
    "some sparse": {"patterns": [None, "convolution", "column"], "kernel": 3},
    "led": {"patterns": ["row", "column", "convolution"], "kernel": 3, "line": 3, "lead": 5},
    "led in part": {"patterns": ["row", None, "column"], "line": 2, "lead": 4},
    "full": {"positions": "rotary", "prefix": "full"},
    "full and led": {"patterns": ["row", None, "column"], "line": 3, "lead": 2, "prefix": "full"},
}
ORDERS = ["none", "random", "each"]


def condition(doors="words and mask"):
    sequence = torch.randn(B, 5, 8) if "words" in doors else None
    return Condition(B, vector=torch.randn(B, 6), sequence=sequence, mask=MASK if "mask" in doors else None)


def net_of(kind="tokens", name="plain", doors="words and mask", **options):
    options = {**NETS[name], **options}
    if "words" not in doors:
        options.pop("prefix", None)
    context = 8 if "words" in doors else None
    return CausalNet(SPACES[kind], 9, width=32, depth=3, heads=4, vector=6, context=context, **options).eval()


def values(kind="tokens"):
    return torch.randint(0, K, (B, N)) if kind == "tokens" else torch.randn(B, N, 4)


def order_for(name, kind="tokens"):
    if name == "each":
        return torch.rand(B, N, generator=torch.Generator().manual_seed(1)).argsort(1)
    return None if name == "none" else order_of(name, SPACES[kind])


def stepped(net, z, c, order, state=None):
    """h of the steps from the state's on."""
    state = net.start(c, order) if state is None else state
    first = state.position
    return torch.stack([net.step(state, z[:, i - 1] if i else None) for i in range(first, N)], 1)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("doors", ["nothing", "words", "words and mask"])
@pytest.mark.parametrize("name", NETS)
def test_a_beginning_in_one_pass_is_the_beginning_step_by_step(name, doors, order):
    """1e-5 in float32: the same sums, grouped in another way; for beginnings within, at and after the end of what
    leads, for tokens and vectors."""
    for kind in SPACES:
        net, z, c = net_of(kind, name, doors, orders=order == "each"), values(kind), condition(doors)
        told = order_for(order, kind)
        slowly = stepped(net, z, c, told)
        for n in (1, 4, 5, 6, N - 1):
            state = net.resume(c, z[:, :n], told)
            assert state.position == n + 1
            if n < N - 1:
                torch.testing.assert_close(stepped(net, z, c, told, state), slowly[:, n + 1 :], atol=1e-5, rtol=0)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("doors", ["words", "words and mask"])
@pytest.mark.parametrize("name", ["led", "led in part", "full", "full and led"])
def test_cached_equals_uncached(name, doors, order):
    """E6: 1e-5 in float32."""
    net, z, c = net_of("tokens", name, doors, orders=order == "each"), values(), condition(doors)
    told = order_for(order)
    with torch.no_grad():
        torch.testing.assert_close(stepped(net, z, c, told), net(z, c, order=told), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["led", "led in part", "full", "full and led"])
def test_nothing_looks_ahead(name):
    """Changing z_t leaves h_0 … h_t bitwise as they were, and reaches the next step."""
    net, z, c = net_of("tokens", name), values(), condition()
    with torch.no_grad():
        before = net(z, c)
        for t in range(N - 1):
            other = z.clone()
            other[:, t] = (z[:, t] + 1) % K
            after = net(other, c)
            assert torch.equal(before[:, : t + 1], after[:, : t + 1])
            assert bool((before[:, t + 1] != after[:, t + 1]).any(-1).all())


@pytest.mark.parametrize("pattern", ["row", "column", "convolution"])
def test_every_step_sees_what_leads_by_hand(pattern):
    """One layer, so that what h_i depends on is what its step looks at: all of the caption z_0 … z_3 before it; and of
    the picture, in lines of 3, what the pattern says of the steps d back, step i reading z_{i−1}."""
    backs = {"row": {0, 1, 2, 3}, "column": {0, 3, 6}, "convolution": {0, 1, 2, 3, 4}}  # d: a row on, b to the side
    net = CausalNet(Tokens(N, K), 9, width=32, depth=1, heads=4, patterns=[pattern], line=3, kernel=3, lead=4).eval()
    z, c = torch.randint(0, K, (1, N)), Condition.none(1)
    with torch.no_grad():
        before, sees = net(z, c), torch.zeros(N, N, dtype=torch.bool)
        for j in range(N):
            other = z.clone()
            other[:, j] = (z[:, j] + 1) % K
            sees[:, j] = (net(other, c) != before).any(-1)[0]
    for i in range(N):
        picture = {i - d - 1 for d in backs[pattern]}
        assert set(sees[i].nonzero()[:, 0].tolist()) == {j for j in range(i) if j < 4 or j in picture}


def test_words_see_all_words_only_where_the_prefix_is_full():
    """Two layers carry what the first word saw of the last one to every step; a causal first word knows nothing of it,
    as its keys and values show."""
    c = condition("words")
    other = Condition(B, c.vector, torch.cat([c.sequence[:, :4], c.sequence[:, 4:] + 1], 1))
    for prefix in ("causal", "full"):
        net = net_of("tokens", "plain", "words", prefix=prefix)
        keys = [net.start(told).caches[-1]._keys[:, :, 0] for told in (c, other)]
        assert torch.equal(*keys) == (prefix == "causal")


def test_masked_words_have_no_influence_in_a_full_prefix():
    net, z, c = net_of("tokens", "full"), values(), condition()
    other = Condition(B, c.vector, torch.where(MASK[..., None], c.sequence, 1e3 * torch.randn(B, 5, 8)), MASK)
    with torch.no_grad():
        assert torch.equal(net(z, c), net(z, other))


def test_what_does_not_fit_is_refused():
    with pytest.raises(Misfit, match="no prefix"):
        CausalNet(Tokens(N, K), 9, width=16, depth=1, heads=2, prefix="full")
    with pytest.raises(Misfit, match="'whole'"):
        net_of(prefix="whole")
    with pytest.raises(Misfit, match="may lead"):
        net_of(lead=N)
