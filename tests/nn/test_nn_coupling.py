"""The parts of Glow, each against autograd: what comes back, what the volume is, how it starts."""

import math

import pytest
import torch
import torch.nn.functional as F

from sfumato.core.condition import Condition
from sfumato.core.errors import Misfit
from sfumato.nn.parts import spline
from sfumato.nn.pictures.coupling import (
    COUPLINGS,
    FACTOR,
    GAUSSIAN,
    LEAST,
    MOST,
    CouplingNet,
    Mixing,
    NormConv,
    SplitNet,
    TopNet,
    ZeroConv,
    squeeze,
    unsqueeze,
)

MAPS = {**COUPLINGS, "gaussian": GAUSSIAN}
KINDS = ["lu", "plain", "shuffle", "reverse"]


def shaken(module, size=0.3):
    """Away from the start, where most things are zero; in float64."""
    for p in module.parameters():
        p.data = p.data + size * torch.randn_like(p)
    return module.double()


def log_det(function, x):
    """log |det ∂f/∂x| of each picture, by autograd."""
    wide = x.shape[1:].numel()
    jacobian = [torch.autograd.functional.jacobian(lambda v: function(v[None])[0].flatten(), row) for row in x]
    return torch.stack([torch.linalg.slogdet(j.reshape(wide, wide)).logabsdet for j in jacobian])


# ---- the maps ----


@pytest.mark.parametrize("name", MAPS)
def test_a_map_comes_back_and_its_volume_is_autograds(name):
    """Exact but for float64's last digits: 1e-12 back, 1e-10 in the log-det; also where it is identity or saturates."""
    g = MAPS[name]
    z, p = 3 * torch.randn(3, 2, 4, 4).double(), 2 * torch.randn(3, 2 * g.numbers, 4, 4).double()
    z[0, 0, 0, 0], p[0] = 50.0, 10 * p[0]
    y, volume = g.forward(z, p)
    assert (g.inverse(y, p) - z).abs().max() < (1e-9 if name == "spline" else 1e-12)
    for i in range(3):
        one = slice(i, i + 1)
        assert (volume[one] - log_det(lambda v, one=one: g.forward(v, p[one])[0], z[one])).abs() < 1e-10


@pytest.mark.parametrize("name", MAPS)
def test_gradcheck_of_a_map_and_its_inverse(name):
    g = MAPS[name]
    z = torch.randn(2, 1, 2, 2).double().requires_grad_()
    p = (0.5 * torch.randn(2, g.numbers, 2, 2).double()).requires_grad_()
    assert torch.autograd.gradcheck(g.forward, (z, p))
    assert torch.autograd.gradcheck(g.inverse, (z, p))


@pytest.mark.parametrize("name", MAPS)
def test_zeros_are_the_start(name):
    """p = 0 leaves z as it is; Glow's affine scale starts at sigmoid(2), a bound of 10⁻³ above."""
    g, z = MAPS[name], torch.randn(2, 3, 2, 2).double()
    y, volume = g.forward(z, torch.zeros(2, 3 * g.numbers, 2, 2).double())
    scale = LEAST + (1 - LEAST) / (1 + math.exp(-2)) if name == "affine" else 1.0
    torch.testing.assert_close(y, scale * z, atol=1e-12, rtol=0)
    torch.testing.assert_close(volume, torch.full((2,), 12 * math.log(scale), dtype=torch.float64), atol=1e-12, rtol=0)


def test_the_numbers_of_one_channel_are_neighbours():
    """Shift and raw scale interleave, as the official code reads even and odd channels; the shift comes first."""
    z, p = torch.randn(1, 3, 2, 2), torch.randn(1, 6, 2, 2)
    scale = LEAST + (1 - LEAST) * torch.sigmoid(p[:, 1::2] + 2)
    torch.testing.assert_close(COUPLINGS["affine"].forward(z, p)[0], (z + p[:, 0::2]) * scale)
    mean, log_std = p[:, 0::2], MOST * torch.tanh(p[:, 1::2] / MOST)
    torch.testing.assert_close(GAUSSIAN.inverse(z, p)[0], (mean + log_std.exp() * z)[0])


@pytest.mark.parametrize(("name", "most"), [("affine", 1 / LEAST), ("gaussian", math.exp(MOST)), ("spline", 5e5)])
def test_no_prediction_stretches_the_way_back_beyond_its_bound(name, most):
    """The numbers of a network far from its data: ± 10⁶. A spline's bin of slope m = 10⁻² with d = 10² at both ends
    has 2 m² / d in its middle."""
    g = MAPS[name]
    p = 1e6 * torch.randn(64, g.numbers, 4, 4, generator=torch.Generator().manual_seed(0)).sign().double()
    y = torch.linspace(-5, 5, 64).double().reshape(64, 1, 1, 1).expand(64, 1, 4, 4).clone().requires_grad_()
    z = g.inverse(y, p)
    assert z.isfinite().all()
    assert torch.autograd.grad(z.sum(), y)[0].abs().max() <= most * (1 + 1e-6)


# ---- the spline's oracle ----


def test_the_spline_is_zukos():
    """The same knots in both: values, inverse and log-slopes to 1e-6 (float64: 1e-12), inside and on the tails."""
    zuko = pytest.importorskip("zuko")
    g = torch.Generator().manual_seed(0)
    widths, heights, slopes = (torch.randn(500, n, generator=g).double() for n in (8, 8, 7))
    theirs = zuko.transforms.MonotonicRQSTransform(widths, heights, slopes, bound=4.0)
    x = 6 * (torch.rand(500, generator=g).double() - 0.5) * 2
    knots = tuple(v.T for v in (theirs.horizontal, theirs.vertical, theirs.derivatives))
    y, log_slope = spline.forward(x, *knots)
    expected, ladj = theirs.call_and_ladj(x)
    torch.testing.assert_close(y, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(log_slope, ladj, atol=1e-10, rtol=0)
    torch.testing.assert_close(spline.inverse(y, *knots), theirs.inv(y), atol=1e-9, rtol=0)
    assert (x.abs() > 4).any()


def test_the_spline_is_monotone_and_meets_its_knots():
    x0, y0, d = spline.shape(torch.randn(23, 1).double(), 4.0)
    assert (x0.diff(dim=0) > 0).all()
    assert (y0.diff(dim=0) > 0).all()
    assert x0[0] == y0[0] == -4
    assert x0[-1] == y0[-1] == 4
    assert d[0] == d[-1] == 1
    y, log_slope = spline.forward(x0[1:-1, 0], *(k.expand(-1, 7) for k in (x0, y0, d)))
    torch.testing.assert_close(y, y0[1:-1, 0])
    torch.testing.assert_close(log_slope.exp(), d[1:-1, 0])
    x = torch.linspace(-5, 5, 1001).double()
    assert (spline.forward(x, *(k.expand(-1, 1001) for k in (x0, y0, d)))[0].diff() > 0).all()


# ---- across channels ----


@pytest.mark.parametrize("kind", KINDS)
def test_mixing_comes_back_and_its_volume_is_autograds(kind):
    mixing = shaken(Mixing(4, kind), 0.1)
    x = torch.randn(2, 4, 3, 3).double()
    y, volume = mixing(x)
    assert (mixing.inverse(y) - x).abs().max() < 1e-12
    assert (volume - log_det(lambda v: mixing(v)[0], x)).abs().max() < 1e-10  # 9 pixels: a forgotten H W would show
    expected = torch.einsum("oc,bchw->bohw", mixing.matrix(x.dtype), (x + _at(mixing.norm.bias)) * _at(scale(mixing)))
    torch.testing.assert_close(y, expected)


def _at(value):
    return value[:, None, None]


def scale(module):
    return (FACTOR * module.norm.log_scale).exp()


@pytest.mark.parametrize("kind", ["lu", "plain"])
def test_mixing_starts_as_a_rotation(kind):
    mixing = Mixing(12, kind)
    w = mixing.matrix(torch.float64)
    torch.testing.assert_close(w @ w.T, torch.eye(12).double(), atol=1e-5, rtol=0)
    assert mixing.log_det().abs() < 1e-5
    assert torch.equal(mixing.double().log_det(), mixing.log_det())


def test_every_entry_of_a_free_matrix_is_within_reach_of_lu():
    """P is fixed, but W is not bound to a triangle: all c² entries have a gradient of their own (rank c²)."""
    mixing = Mixing(4, "lu").double()
    rows = [
        torch.autograd.grad(entry, mixing.factors, retain_graph=True)[0]
        for entry in mixing.matrix(torch.float64).flatten()
    ]
    assert torch.linalg.matrix_rank(torch.stack(rows).flatten(1)) == 16


def test_a_negative_determinant_has_a_volume():
    mixing = Mixing(3, "plain")
    mixing.weight.data = torch.diag(torch.tensor([1.0, 2.0, -3.0]))
    assert mixing.log_det().item() == pytest.approx(math.log(6))


def test_permutations_are_what_they_are_called():
    x = torch.arange(5.0).reshape(1, 5, 1, 1)
    assert torch.equal(Mixing(5, "reverse")(x)[0], x.flip(1))
    assert torch.equal(Mixing(5, "shuffle")(x)[0].sort(1).values, x)
    with pytest.raises(Misfit, match="lu, plain, shuffle, reverse"):
        Mixing(5, "rotate")


def test_squeeze_is_exact_and_keeps_the_channels_together():
    x = torch.randn(2, 3, 4, 6)
    assert torch.equal(unsqueeze(squeeze(x)), x)
    assert torch.equal(squeeze(x)[:, :4].reshape(2, 2, 2, 2, 3), x[:, 0].reshape(2, 2, 2, 3, 2).permute(0, 2, 4, 1, 3))


# ---- actnorm ----


def test_actnorm_starts_with_mean_0_and_deviation_1():
    """Float64 statistics of a float32 batch: within 1e-5. A constant channel is centred, and not blown up."""
    x = 5 * torch.randn(8, 3, 4, 4) * torch.tensor([0.01, 1.0, 100.0])[:, None, None] + 7
    x = torch.cat([x, torch.full((8, 1, 4, 4), 3.0)], 1)
    mixing = Mixing(4, "reverse")
    mixing.fit(x)
    y = mixing(x.double())[0].flip(1)
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(4).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(y[:, :3].std((0, 2, 3), correction=0), torch.ones(3).double(), atol=1e-5, rtol=0)
    assert y[:, 3].abs().max() < 1e-4
    assert float(scale(mixing)[3].detach()) == pytest.approx(1 / LEAST, rel=1e-5)


def test_actnorm_of_features_starts_with_mean_0_and_deviation_1():
    conv, x = NormConv(2, 6, 3), torch.rand(16, 2, 5, 5)
    conv.fit(x)
    y = conv(x).double()
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(6).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.std((0, 2, 3), correction=0), torch.ones(6).double(), atol=1e-4, rtol=0)


# ---- the networks ----


def framed(x):
    """The official code's input: zeros around the picture, and one channel more that is 1 there."""
    border = F.pad(torch.zeros_like(x[:, :1]), (1, 1, 1, 1), value=1.0)
    return torch.cat([F.pad(x, (1, 1, 1, 1)), border], 1)


def test_convolutions_are_the_official_ones():
    """Folded scales and the frame apart give what convolving everything and scaling afterwards gives."""
    x = torch.randn(2, 3, 5, 4).double()
    norm, last = shaken(NormConv(3, 7, 3)), shaken(ZeroConv(3, 4))
    expected = (F.conv2d(framed(x), norm.weight) + _at(norm.norm.bias)) * _at(scale(norm))
    torch.testing.assert_close(norm(x), expected)
    kernel = torch.cat([last.weight, last.edge.reshape(4, 1, 3, 3)], 1)
    expected = (F.conv2d(framed(x), kernel) + _at(last.bias)) * _at((FACTOR * last.log_scale).exp())
    torch.testing.assert_close(last(x), expected)


NETS = {
    "coupling": lambda vector: CouplingNet(2, 6, 4, vector),
    "split": lambda vector: SplitNet(2, 6, vector),
    "top": lambda vector: TopNet(6, (3, 3), vector),
}


@pytest.mark.parametrize("name", NETS)
def test_a_network_predicts_nothing_at_its_start_and_hears_its_condition_later(name):
    z, given, other = torch.randn(2, 2, 3, 3), *(Condition(2, vector=torch.randn(2, 5)) for _ in range(2))
    net = NETS[name](5)
    assert torch.equal(net(z, given), torch.zeros(2, 6, 3, 3))
    net = shaken(net)
    assert not torch.allclose(net(z, given.map(torch.Tensor.double)), net(z, other.map(torch.Tensor.double)))
    with pytest.raises(Misfit, match=r"expects condition\.vector"):
        net(z, Condition.none(2))
    with pytest.raises(Misfit, match="would be ignored"):
        NETS[name](None)(z, given)


@pytest.mark.parametrize("name", NETS)
def test_gradcheck_of_a_network(name):
    net = shaken(NETS[name](2))
    names = [n for n, _ in net.named_parameters()]

    def run(z, vector, *values):
        return torch.func.functional_call(net, dict(zip(names, values)), (z, Condition(1, vector=vector)))

    inputs = (torch.randn(1, 2, 3, 3).double().requires_grad_(), torch.randn(1, 2).double().requires_grad_())
    assert torch.autograd.gradcheck(run, (*inputs, *net.parameters()))


@pytest.mark.parametrize("kind", ["lu", "plain"])
def test_gradcheck_of_mixing(kind):
    mixing = shaken(Mixing(3, kind), 0.1)
    names = [n for n, _ in mixing.named_parameters()]
    run = lambda x, *values: torch.func.functional_call(mixing, dict(zip(names, values)), (x,))
    assert torch.autograd.gradcheck(run, (torch.randn(1, 3, 2, 2).double().requires_grad_(), *mixing.parameters()))
