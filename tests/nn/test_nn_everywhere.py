"""What holds for every network alike: rows of one table."""

import pytest
import torch

from sfumato.core.condition import Condition
from sfumato.core.space import Grid, Sequence, Tokens
from sfumato.nn import CausalNet, Critic, Decoder, DiT, Encoder, Ladder, MaskedNet, PatchNet, TokenNet, UNet, VectorNet
from sfumato.nn.pictures.coupling import CouplingNet, SplitNet, TopNet
from sfumato.nn.pictures.ladder import Level, resolutions
from sfumato.nn.players.discriminator import DCDiscriminator, Discriminator, SNDiscriminator
from sfumato.nn.players.generator import DCGenerator, Generator, SNGenerator

B = 2


def images(side=8, channels=3):
    return torch.randn(B, channels, side, side)


def condition():
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]]).bool()
    return Condition(B, vector=torch.randn(B, 5), sequence=torch.randn(B, 3, 6), mask=mask)


def ids():
    return torch.randint(0, 7, (B, 12))


class Climb(torch.nn.Module):
    """Up a ladder and down it again, with the posterior's own m′ for z."""

    def __init__(self, style):
        super().__init__()
        levels = tuple(Level(side, 1, 1, 1.0, int(side != (1, 1)), 2) for side in resolutions(6, 6))
        self.net = Ladder(levels, 3, 3, style=style, width=16, z=4, vector=5, context=6)

    def forward(self, x, condition):
        net, said = self.net, self.net.hear(condition)
        a, h = net.encode(x, said), net.start(len(x))
        for i, level in enumerate(net.of):
            r = net.prior(i, h, said)[2]
            h = net.join(i, h, net.posterior(i, h, a[level], said)[0], r, said)
        return net.exit(h)


TOKENS, SMALL = Tokens(12, 7, (3, 4)), {"width": 32, "depth": 2, "heads": 4}
DOORS = {"vector": 5, "context": 6}
NETS = {
    "causal": (
        lambda: CausalNet(TOKENS, 7, positions="rotary2", norm="rms", qk_norm=True, **SMALL, **DOORS),
        lambda: (ids(), condition()),
    ),
    "causal-vectors": (
        lambda: CausalNet(Sequence(12, 4), 7, positions="sincos", **SMALL, **DOORS),
        lambda: (torch.randn(B, 12, 4), condition()),
    ),
    "causal-sparse": (
        lambda: CausalNet(TOKENS, 7, orders=True, patterns=["row", "column"], **SMALL, **DOORS),
        lambda: (ids(), condition()),
    ),
    "masked": (
        lambda: MaskedNet(TOKENS, 7, positions="axial", **SMALL, **DOORS),
        lambda: (ids(), torch.rand(B, 12) < 0.5, condition()),
    ),
    "words": (lambda: TokenNet(TOKENS, positions="rotary", **SMALL), lambda: (ids(), torch.ones(B, 12).bool())),
    "patches": (lambda: PatchNet(Grid(3, 8, 8), patch=2, **SMALL), lambda: (images(),)),
    "dit": (
        lambda: DiT(Grid(3, 8, 8), 3, positions="rotary2", **SMALL, **DOORS),
        lambda: (images(), torch.rand(B), condition()),
    ),
    "unet": (
        lambda: UNet(3, 3, width=16, mults=(1, 2), blocks=1, attention=(False, True), dropout=0.1, **DOORS),
        lambda: (images(), torch.rand(B), condition()),
    ),
    "coupling": (lambda: CouplingNet(3, 6, 16, vector=5), lambda: (images(), condition())),
    "split": (lambda: SplitNet(3, 6, vector=5), lambda: (images(), condition())),
    "top": (lambda: TopNet(6, (8, 8), vector=5), lambda: (images(), condition())),
    "vector": (
        lambda: VectorNet(Sequence(1, 4), 8, width=16, depth=2, vector=5),
        lambda: (torch.randn(B, 1, 4), torch.rand(B), Condition(B, vector=torch.randn(B, 5))),
    ),
    "encoder": (lambda: Encoder(3, 4, width=16, mults=(1, 2)), lambda: (images(),)),
    "decoder": (lambda: Decoder(4, 3, width=16, mults=(1, 2)), lambda: (images(4, 4),)),
    "ladder": (lambda: Climb("expansion"), lambda: (images(6), condition())),
    "ladder-narrow": (lambda: Climb("bottleneck"), lambda: (images(6), condition())),
    "critic": (lambda: Critic(3, width=16, layers=1), lambda: (images(16),)),
    "critic-spectral": (lambda: Critic(3, width=16, layers=1, norm="spectral"), lambda: (images(16),)),
    "generator": (
        lambda: Generator(Grid(3, 8, 8), noise=8, widths=(16, 32), blocks=1, vector=5),
        lambda: (torch.randn(B, 8), condition()),
    ),
    "generator-sn": (
        lambda: SNGenerator(Grid(3, 8, 8), noise=8, width=16, vector=5),
        lambda: (torch.randn(B, 8), condition()),
    ),
    "generator-dc": (
        lambda: DCGenerator(Grid(3, 8, 8), noise=8, width=16, vector=5),
        lambda: (torch.randn(B, 8), condition()),
    ),
    "discriminator": (
        lambda: Discriminator(Grid(3, 8, 8), widths=(16, 32), blocks=1, vector=5),
        lambda: (images(), condition()),
    ),
    "discriminator-sn": (lambda: SNDiscriminator(Grid(3, 8, 8), width=16, vector=5), lambda: (images(), condition())),
    "discriminator-dc": (lambda: DCDiscriminator(Grid(3, 8, 8), width=16, vector=5), lambda: (images(), condition())),
}


def make(name):
    build, inputs = NETS[name]
    net = build().eval()
    for p in net.parameters():
        p.data = p.data + 0.05 * torch.randn_like(p)
    return build, net, inputs()


@pytest.mark.parametrize("name", NETS)
def test_the_weights_are_all_there_is(name):
    """Built on the meta device and filled, a net is the same function: it has no state that a checkpoint would lose."""
    build, net, inputs = make(name)
    with torch.device("meta"):
        empty = build()
    empty.load_state_dict(net.state_dict(), assign=True)
    with torch.no_grad():
        assert torch.equal(empty.eval()(*inputs), net(*inputs))


@pytest.mark.parametrize("name", NETS)
def test_bfloat16_is_near(name):
    """8 bits of mantissa through a few layers: within 5 % of the output's scale."""
    _, net, inputs = make(name)
    with torch.no_grad():
        wanted = net(*inputs)
        with torch.autocast("cpu", torch.bfloat16):
            got = net(*inputs).float()
    assert got.isfinite().all()
    assert (got - wanted).square().mean().sqrt() < 0.05 * wanted.square().mean().sqrt()
    assert not torch.equal(got, wanted)


@pytest.mark.parametrize("name", ["causal", "causal-vectors", "causal-sparse"])
def test_bfloat16_is_near_step_by_step(name):
    _, net, (z, c) = make(name)
    with torch.no_grad():
        wanted = net(z, c)
        with torch.autocast("cpu", torch.bfloat16):
            state = net.start(c)
            steps = torch.stack([net.step(state, None if i == 0 else z[:, i - 1]) for i in range(12)], 1).float()
    assert (steps - wanted).square().mean().sqrt() < 0.05 * wanted.square().mean().sqrt()


@pytest.mark.parametrize("name", NETS)
def test_float64_agrees_with_float32(name):
    """In float64 the parts kept in float32 on purpose (sinusoids, rotary turns) leave 1e-4 of the output's scale."""
    _, net, inputs = make(name)
    with torch.no_grad():
        wanted = net(*inputs)
        wide = [v.to(torch.float64) if isinstance(v, torch.Tensor) and v.is_floating_point() else v for v in inputs]
        wide = [
            v.map(lambda d: d.double() if d.is_floating_point() else d) if isinstance(v, Condition) else v for v in wide
        ]
        got = net.double()(*wide)
    assert got.dtype == torch.float64
    assert (got - wanted).abs().max() < 1e-4 * wanted.abs().max()


@pytest.mark.parametrize("name", NETS)
def test_nothing_is_drawn_at_inference(name):
    _, net, inputs = make(name)
    with torch.no_grad():
        first = net(*inputs)
        state = torch.get_rng_state()
        assert torch.equal(net(*inputs), first)
        assert torch.equal(torch.get_rng_state(), state)
