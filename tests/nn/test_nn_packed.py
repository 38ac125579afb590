"""Packed weights are the same function, only where they gain, and leave the module as it is."""

import copy

import pytest
import torch
from torch import nn

from sfumato.core.condition import Condition
from sfumato.core.space import Tokens
from sfumato.nn import CausalNet
from sfumato.nn.parts.packed import PackedLinear, packed, packed_product, precision

AVAILABLE = torch.backends.mkldnn.is_available()


def network():
    return nn.Sequential(nn.Linear(24, 40), nn.GELU(), nn.Sequential(nn.LayerNorm(40), nn.Linear(40, 8, bias=False)))


@pytest.mark.parametrize("rows", [1, 2, 7, 16, 64])
def test_a_packed_copy_is_the_same_function(rows):
    """float32: sums of 40 terms near one, grouped in another way."""
    net, x = network(), torch.randn(rows, 24)
    with torch.no_grad():
        twin = packed(net, rows)
        torch.testing.assert_close(twin(x), net(x), atol=2e-6, rtol=1e-5)
    kinds = [type(m) for m in twin.modules()]
    assert kinds.count(PackedLinear) == (2 if AVAILABLE else 0)
    assert [type(m) for m in net.modules()].count(nn.Linear) == 2
    assert twin is not net or not AVAILABLE


def test_rows_of_a_packed_product_do_not_know_their_mates():
    """E10, bitwise: the same row in another place, beside other rows."""
    net = network()
    a, b = torch.randn(16, 24), torch.randn(16, 24)
    b[11] = a[2]
    with torch.no_grad():
        twin = packed(net, 16)
        assert torch.equal(twin(a)[2], twin(b)[11])


def test_it_is_left_alone_where_it_gains_nothing():
    net = network()
    assert packed(net, 4) is net, "gradients are on"
    with torch.no_grad():
        assert packed(net, 1000) is net
        norm, wide = nn.LayerNorm(4), copy.deepcopy(net).double()
        assert packed(norm, 4) is norm
        assert packed(wide, 4) is wide
        assert (packed(net, 4) is net) == (not AVAILABLE)
        with torch.autocast("cpu", torch.float16):
            assert packed(net, 4) is net


def test_under_autocast_products_are_in_bfloat16():
    """As the layers' own are: equal up to the last of 8 bits, in the same dtype."""
    net, x = network(), torch.randn(7, 24)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        twin = packed(net, 7)
        if precision() is None:
            assert twin is net  # a processor without bfloat16
            return
        assert twin(x).dtype == net(x).dtype == torch.bfloat16
        torch.testing.assert_close(twin(x).float(), net(x).float(), atol=2e-2, rtol=2e-2)


def test_a_packed_copy_is_of_the_weights_at_hand():
    """Made anew for each sampling, so that training between two of them is seen."""
    net = CausalNet(Tokens(4, 5), 5, width=16, depth=1, heads=2).eval()
    first = net.step(net.start(Condition.none(2)), None)
    with torch.no_grad():
        net.trunk.blocks[0].mlp.out.weight.add_(1.0)
    assert not torch.equal(net.step(net.start(Condition.none(2)), None), first)
    before = dict(net.state_dict())
    net.start(Condition.none(2))
    assert list(net.state_dict()) == list(before)


def test_the_tied_head_is_packed_too():
    net = CausalNet(Tokens(4, 5), 5, width=16, depth=1, heads=2, tied=True).eval()
    z = torch.randint(0, 5, (3, 4))
    with torch.no_grad():
        state = net.start(Condition.none(3))
        steps = torch.stack([net.step(state, None if i == 0 else z[:, i - 1]) for i in range(4)], 1)
        torch.testing.assert_close(steps, net(z, Condition.none(3)), atol=1e-5, rtol=0)
        assert (packed_product(net.embed.weight, 3) is None) == (not AVAILABLE)
