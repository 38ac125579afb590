"""Generators and discriminators: any grid, no neighbours, spectral norms, the projection, a second derivative."""

import pytest
import torch

from sfumato.core.condition import Condition
from sfumato.core.errors import Misfit
from sfumato.core.space import Grid
from sfumato.nn.parts.layers import Inverted, halved
from sfumato.nn.players.discriminator import DCDiscriminator, Discriminator, SNDiscriminator
from sfumato.nn.players.generator import DCGenerator, Generator, SNGenerator

PAIRS = {
    "modern": (Generator, Discriminator, {"widths": (16, 32), "blocks": 1}),
    "modern-patch": (Generator, Discriminator, {"widths": (16, 32), "blocks": 1, "patch": 4}),
    "sngan": (SNGenerator, SNDiscriminator, {"width": 16}),
    "dcgan": (DCGenerator, DCDiscriminator, {"width": 8}),
}


def pair(name, space, vector=None, **options):
    make, judge, dims = PAIRS[name]
    return make(space, vector=vector, **dims), judge(space, vector=vector, **dims, **options)


def told(rows, vector):
    return Condition.none(rows) if vector is None else Condition(rows, vector=torch.randn(rows, vector))


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("layout", [(1, 1), (2, 2), (4, 4), (7, 7), (8, 8), (28, 28), (32, 32), (33, 17), (20, 12)])
@pytest.mark.parametrize(("channels", "vector"), [(1, None), (3, 5), (16, 5)])
def test_any_grid_has_a_pair(name, layout, channels, vector):
    space = Grid(channels, *layout)
    make, judge = pair(name, space, vector)
    z = make(torch.randn(2, make.noise), told(2, vector))
    assert z.shape == (2, *space.shape)
    assert z.isfinite().all()
    assert judge(z, told(2, vector)).shape == (2,)


def test_the_coarsest_grid():
    assert halved((32, 32), 4) == [(32, 32), (16, 16), (8, 8), (4, 4)]
    assert halved((28, 28), 4) == [(28, 28), (14, 14), (7, 7)]  # 7 doubles back to 14, 4 would not
    assert halved((33, 17), 4) == [(33, 17), (17, 9), (9, 5), (5, 3)]
    assert halved((3, 2), 4) == [(3, 2)]


@pytest.mark.parametrize("name", PAIRS)
def test_a_row_knows_nothing_of_its_mates(name):
    """In training mode too: with its mates changed, a row's picture and its logit are bit for bit what they were."""
    space = Grid(3, 16, 16)
    make, judge = pair(name, space, 8)
    w, c, x = torch.randn(4, make.noise), torch.randn(4, 8), torch.randn(4, 3, 16, 16)
    if name == "sngan":
        judge.eval()  # a power iteration moves all rows alike
    others = [torch.cat([t[:1], torch.randn_like(t[1:])]) for t in (w, c, x)]
    first = make(w, Condition(4, vector=c))[0], judge(x, Condition(4, vector=c))[0]
    again = make(others[0], Condition(4, vector=others[1]))[0], judge(others[2], Condition(4, vector=others[1]))[0]
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])


@pytest.mark.parametrize("name", PAIRS)
def test_a_label_turns_the_logit_by_a_projection(name):
    """D(x, c) is affine in c, with the same slope ⟨V ·, φ(x)⟩ at every c; and without a condition it is D(x, 0)."""
    space = Grid(1, 8, 8)
    _, judge = pair(name, space, 8)
    judge.eval()
    x, a, b = torch.randn(3, 1, 8, 8), torch.randn(3, 8), torch.randn(3, 8)
    at = lambda vector: judge(x, Condition(3, vector=vector))
    origin = at(torch.zeros(3, 8))
    torch.testing.assert_close(at(a + b) - origin, at(a) - origin + at(b) - origin, atol=1e-4, rtol=1e-4)
    assert ((at(a) - at(b)).abs() > 1e-5).all()
    _, plain = pair(name, space)
    plain.eval()
    own = {key: value for key, value in judge.state_dict().items() if ".told." not in key}
    plain.load_state_dict(own)
    torch.testing.assert_close(plain(x, Condition.none(3)), origin)


@pytest.mark.parametrize("name", ["modern", "sngan", "dcgan"])
def test_spectral_norms_are_one(name):
    """After 200 power iterations each weight's largest singular value is 1 within 1e-2 (two close values take longer);
    evaluation leaves u and v alone."""
    _, judge = pair(name, Grid(3, 16, 16), 8, spectral=True)
    judge.train()
    x, c = torch.randn(2, 3, 16, 16), told(2, 8)
    for _ in range(200):
        judge(x, c)
    judge.eval()
    weights = [m.weight for m in judge.modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)]
    assert len(weights) >= 4
    for weight in weights:
        assert torch.linalg.matrix_norm(weight.flatten(1), 2).item() == pytest.approx(1, abs=1e-2)
    before = {key: value.clone() for key, value in judge.named_buffers()}
    assert before
    judge(x, c)
    assert all(torch.equal(value, before[key]) for key, value in judge.named_buffers())
    judge.train()(x, c)
    assert any(not torch.equal(value, before[key]) for key, value in judge.named_buffers())


@pytest.mark.parametrize("name", PAIRS)
def test_a_gradient_penalty_has_a_gradient(name):
    """E8: the slope of E‖∂D/∂x‖² along a direction in weight space, against a finite difference in float64."""
    _, judge = pair(name, Grid(1, 8, 8), 8)
    judge.double().eval()
    for p in judge.parameters():
        p.data += 0.1 * torch.randn_like(p)
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    c = Condition(2, vector=torch.randn(2, 8, dtype=torch.float64))
    own = [p for p in judge.parameters() if p.requires_grad]
    way = [torch.randn_like(p) for p in own]

    def penalty():
        at = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(judge(at, c).sum(), at, create_graph=True)
        return slope.square().sum()

    grads = torch.autograd.grad(penalty(), own, allow_unused=True)
    predicted = sum((g * d).sum() for g, d in zip(grads, way) if g is not None).item()
    step, values = 1e-6, []
    for sign in (1, -2):
        for p, d in zip(own, way):
            p.data += sign * step * d
        values.append(penalty().item())
    assert predicted == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-4)
    assert abs(predicted) > 1e-3


def test_inverted_blocks_keep_the_variance():
    """Zero at the start, so x comes out; with W₃ drawn as the others, eight in a row less than treble the deviation."""
    blocks = torch.nn.Sequential(*[Inverted(32, group=16, blocks=8) for _ in range(8)])
    x = torch.randn(4, 32, 8, 8)
    assert torch.equal(blocks(x), x)
    for block in blocks:
        torch.nn.init.normal_(block.narrow.weight, std=64**-0.5)
    assert 1 < blocks(x).std() < 3
    with pytest.raises(Misfit, match="groups of 16"):
        Inverted(12, group=16, expansion=1)


@pytest.mark.parametrize("name", PAIRS)
def test_shut_doors_are_refused(name):
    make, judge = pair(name, Grid(1, 8, 8), 5)
    with pytest.raises(Misfit, match=r"generator expects condition\.vector"):
        make(torch.randn(2, make.noise), Condition.none(2))
    with pytest.raises(Misfit, match=r"critic expects condition\.vector"):
        judge(torch.randn(2, 1, 8, 8), Condition.none(2))


@pytest.mark.parametrize("name", ["sngan", "dcgan"])
def test_pictures_are_bounded_and_latents_are_not(name):
    for bounded in (True, False):
        make = PAIRS[name][0](Grid(1, 8, 8), bounded=bounded, **PAIRS[name][2])
        for p in make.parameters():
            p.data *= 20
        x = make(torch.randn(8, make.noise), Condition.none(8))
        assert (x.abs().max() <= 1) == bounded
