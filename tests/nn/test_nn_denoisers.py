"""U-Net and DiT: where they start, what reaches them, and what must not."""

import pytest
import torch
from torch import nn

from sfumato.core.condition import Condition
from sfumato.core.errors import Misfit
from sfumato.core.space import Grid
from sfumato.nn import DiT, UNet

B, SPACE = 3, Grid(2, 8, 8)
MASK = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]).bool()  # the last caption has no word


def unet(context=6, vector=5, grid=1, **options):
    options = {"width": 16, "mults": (1, 2), "blocks": 1, "attention": (False, True), "head": 8, **options}
    return UNet(2, 4, vector=vector, context=context, grid=grid, **options)


def dit(context=6, vector=5, grid=1, **options):
    options = {"width": 32, "depth": 2, "heads": 4, **options}
    return DiT(SPACE, 4, patch=2, vector=vector, context=context, grid=grid, **options)


NETS = {
    "unet": unet,
    "unet-scaled": lambda **o: unet(scaled=True, attention=(True, False), **o),
    "dit": dit,
    "dit-rotary": lambda **o: dit(positions="rotary2", norm="rms", activation="swiglu", qk_norm=True, **o),
    "dit-learned": lambda **o: dit(positions="axial", **o),
}


def condition():
    return Condition(B, torch.randn(B, 5), torch.randn(B, 4, 6), MASK, torch.randn(B, 1, 8, 8))


def awake(net):
    """Away from the zeros that a new net starts with, so that everything has an effect."""
    for p in net.parameters():
        p.data = p.data + 0.1 * torch.randn_like(p)
    return net.eval()


@pytest.mark.parametrize("kind", NETS)
def test_a_new_net_answers_zero(kind):
    out = NETS[kind]()(torch.randn(B, 2, 8, 8), torch.rand(B), condition())
    assert out.shape == (B, 4, 8, 8)
    assert not out.any()


@pytest.mark.parametrize("kind", NETS)
def test_every_parameter_learns(kind):
    net = awake(NETS[kind]())
    net(torch.randn(B, 2, 8, 8), torch.rand(B), condition()).square().sum().backward()
    dead = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert dead == []


@pytest.mark.parametrize("kind", NETS)
def test_every_door_is_heard(kind):
    net, z, t, c = awake(NETS[kind]()), torch.randn(B, 2, 8, 8), torch.rand(B), condition()
    with torch.no_grad():
        before = net(z, t, c)
        heard = {
            "t": net(z, (t + 0.3) % 1, c),
            "vector": net(z, t, Condition(B, c.vector + 1, c.sequence, MASK, c.grid)),
            "grid": net(z, t, Condition(B, c.vector, c.sequence, MASK, c.grid + 1)),
        }
        for name, after in heard.items():
            assert (before != after).flatten(1).any(1).all(), name
        after = net(z, t, Condition(B, c.vector, c.sequence + MASK[..., None], MASK, c.grid))
        assert ((before != after).flatten(1).any(1) == MASK.any(1)).all()


@pytest.mark.parametrize("kind", NETS)
def test_masked_words_have_no_influence(kind):
    net, z, t, c = awake(NETS[kind]()), torch.randn(B, 2, 8, 8), torch.rand(B), condition()
    noisy = torch.where(MASK[..., None], c.sequence, 1e3 * torch.randn(B, 4, 6))
    with torch.no_grad():
        after = net(z, t, Condition(B, c.vector, noisy, MASK, c.grid))
        assert after.isfinite().all()
        assert torch.equal(net(z, t, c), after)


@pytest.mark.parametrize("kind", NETS)
def test_a_row_does_not_depend_on_its_mates(kind):
    net, z, t, c, d = awake(NETS[kind]()), torch.randn(B, 2, 8, 8), torch.rand(B), condition(), condition()
    mixed = Condition(
        B, *(torch.cat([getattr(c, n)[:1], getattr(d, n)[1:]]) for n in ("vector", "sequence", "mask", "grid"))
    )
    with torch.no_grad():
        other = net(torch.cat([z[:1], -z[1:]]), torch.cat([t[:1], 1 - t[1:]]), mixed)
        assert torch.equal(net(z, t, c)[0], other[0])


def test_adaln_zero_blocks_are_the_identity():
    net = dit()
    x, vector, words = torch.randn(B, 16, 32), torch.randn(B, 32), torch.randn(B, 4, 6)
    for block in net.trunk.blocks:
        assert torch.equal(block(x, vector=vector, context=words, context_mask=MASK), x)


def test_residual_blocks_start_as_the_identity():
    net = unet()
    block = net.down[0].blocks[0]
    h = torch.randn(B, 16, 8, 8)
    assert torch.equal(block(h, torch.randn(B, 64)), h)
    attended = net.middle.attentions[0]
    h = torch.randn(B, 32, 4, 4)
    assert torch.equal(attended(h, torch.randn(B, 4, 6), MASK), h)


@pytest.mark.parametrize("sides", [(4, 4), (8, 20), (7, 7), (12, 5)])
def test_unet_takes_any_sides(sides):
    """What does not divide is what a margin of zeros, cut off again, makes of it."""
    net = unet(None, None, None)
    torch.nn.init.normal_(net.exit.weight)  # zero at the start, when there would be nothing to compare
    z, t, none = torch.randn(B, 2, *sides), torch.rand(B), Condition.none(B)
    wide = torch.nn.functional.pad(z, (0, -sides[1] % net.factor, 0, -sides[0] % net.factor))
    assert torch.equal(net(z, t, none), net(wide, t, none)[..., : sides[0], : sides[1]])


def test_unet_refuses_what_does_not_fit():
    net = unet(None, None, None)
    with pytest.raises(Misfit, match="ignored"):
        net(torch.randn(B, 2, 8, 8), torch.rand(B), condition())
    with pytest.raises(Misfit, match=r"expects condition\.grid"):
        unet()(torch.randn(B, 2, 8, 8), torch.rand(B), Condition(B, torch.randn(B, 5), torch.randn(B, 4, 6)))
    with pytest.raises(Misfit, match="width 5, not 6"):
        dit(None, 5, None)(torch.randn(B, 2, 8, 8), torch.rand(B), Condition(B, vector=torch.randn(B, 6)))
    with pytest.raises(Misfit, match="attention here"):
        unet(attention=(True,))
    with pytest.raises(Misfit, match="somewhere to look"):
        unet(attention=(False, False), middle_attention=False)


def test_a_caption_gives_more_doors_than_a_net_must_read():
    """Text opens sequence and vector; a net that only attends is no mistake."""
    net = awake(unet(6, None, None))
    z, t, c = torch.randn(B, 2, 8, 8), torch.rand(B), condition()
    alone = Condition(B, sequence=c.sequence, mask=MASK)
    assert torch.equal(net(z, t, c), net(z, t, alone))


def test_dit_tells_places_apart():
    """Without positions the net would be a function of the set of patches: moving them would move the answer alike."""
    net = awake(dit(None, None, None))
    z, t, nothing = torch.randn(1, 2, 8, 8), torch.rand(1), Condition.none(1)
    moved = net(z.roll(2, -1), t, nothing).roll(-2, -1)
    assert not torch.allclose(net(z, t, nothing), moved, atol=1e-3)
    blind = awake(dit(None, None, None, positions="none"))
    torch.testing.assert_close(
        blind(z, t, nothing), blind(z.roll(2, -1), t, nothing).roll(-2, -1), atol=1e-5, rtol=1e-5
    )


def test_groups_are_never_of_one_channel():
    for net in (unet(), unet(None, width=12), unet(width=30, head=None, context=None)):
        norms = [m for m in net.modules() if isinstance(m, nn.GroupNorm)]
        assert norms
        assert all(m.num_channels // m.num_groups >= 4 for m in norms)
