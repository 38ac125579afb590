"""Nets that are told of the noise, component by component: what they hear, and that they hear nothing else."""

import math

import pytest
import torch
from torch import nn

from sfumato.codecs.orthogonal import Arbitrary, Cosine, Fourier, Identity, Principal, Wavelet
from sfumato.core.condition import Condition
from sfumato.core.noise import Noise
from sfumato.core.space import Grid, size
from sfumato.nn import UNet
from sfumato.nn.parts.stated import MOST, Fine, Stated
from sfumato.priors.diffusion import Diffusion, Staggered

DATA = Grid(2, 8, 8)
B, WORDS = 3, 16
MASK = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]).bool()  # the last caption has no word
LOCAL = {"identity": Identity, "haar": lambda data: Wavelet(data, 2)}
OTHERS = {"cosine": Cosine, "fourier": Fourier, "principal": Principal, "arbitrary": Arbitrary}


def stated(name: str, grid: int = 0, text: bool = False) -> Stated:
    """A U-Net around a basis of that name, awake: a new one answers zero."""
    basis = (LOCAL | OTHERS)[name](DATA)
    told = basis.layers + grid if basis.local else None
    context = WORDS if text or not basis.local else None
    net = UNet(2, 2, width=16, mults=(1, 2), blocks=1, attention=(False, True), context=context, grid=told)
    found = Stated(net, basis, context=context)
    for p in found.parameters():
        p.data = p.data + 0.1 * torch.randn_like(p)
    return found.eval()


def state(basis, seed=0):
    """z and γ of all components, anyhow."""
    noise = Noise.shared(seed, B)
    return noise.normal(*basis.space.shape), 18 * noise.uniform(*basis.space.shape) - 13.3


def heard(net: Stated, *arguments):
    """(what the inner net was called with, what came out)."""
    calls = []
    hook = net.net.register_forward_pre_hook(lambda module, inputs: calls.append(inputs))
    with torch.no_grad():
        out = net(*arguments)
    hook.remove()
    return calls[0], out


@pytest.mark.parametrize("name", LOCAL | OTHERS)
@torch.no_grad()
def test_two_schedules_that_visit_a_state_get_the_same_answer(name):
    """One at its end, another at its start, where all γ agree to the last bit: −d for delays d of 4 (1 − place). What
    the prior hands on is z and γ, so the answers agree to the last bit too, although the times are 1 and 0."""
    net = stated(name)
    basis = net._basis[0]
    place = (torch.arange(size(DATA)) % 5 / 4).reshape(basis.space.shape)
    z, _ = state(basis)
    shared = {"softness": 0.5, "sized": False, "clip": False}
    early = Staggered(basis.group, place, low=-8.0, high=-4.0, **shared)
    late = Staggered(basis.group, place, low=0.0, high=4.0, **shared)
    first, last = torch.full((B,), 1e-4), torch.ones(B)
    assert torch.equal(early.told(last, z), late.told(first, z))
    assert early.told(last, z)[0].unique().numel() == 5
    one, other = (Diffusion(basis.space, net, path) for path in (early, late))
    answer = one.predict(z, last, Condition.none(B))
    assert torch.equal(answer, other.predict(z, first, Condition.none(B)))
    assert not torch.equal(answer, one.predict(z, first, Condition.none(B)))


@pytest.mark.parametrize("name", LOCAL | OTHERS)
def test_a_net_in_a_turned_basis_is_the_net_of_pictures_turned(name):
    """U net(Uᵀ z): with U written out as a matrix, the inner net sees Uᵀ z and the mean of γ in [0, 1]."""
    net = stated(name)
    basis = net._basis[0]
    z, gamma = state(basis)
    units = torch.eye(size(DATA), dtype=torch.float64).reshape(-1, *DATA.shape)
    u = basis.turn(units).flatten(1).T  # column i is U e_i
    (seen, t, condition), out = heard(net, z, gamma, Condition.none(B))
    pictures = (z.flatten(1).double() @ u).reshape(-1, *DATA.shape)
    torch.testing.assert_close(seen.double(), pictures, rtol=0, atol=1e-5)
    torch.testing.assert_close(t, (gamma.flatten(1).mean(1) + 13.3) / 18.3, rtol=0, atol=1e-6)
    with torch.no_grad():
        inner = net.net(seen, t, condition)
    turned = (inner.flatten(1).double() @ u.T).reshape(z.shape)
    torch.testing.assert_close(out.double(), turned, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", LOCAL | OTHERS)
@torch.no_grad()
def test_every_component_of_the_state_is_heard(name):
    """With all means kept: γ of two components is exchanged, of different groups, far apart in rank."""
    net = stated(name)
    basis = net._basis[0]
    if name == "arbitrary":
        basis.group.copy_(torch.arange(size(DATA))[:, None])  # one group would say the mean alone
    z, gamma = state(basis)
    flat = basis.group.flatten()
    low, high = int(flat.argmin()), int(flat.argmax())
    swapped = gamma.flatten(1).clone()
    swapped[:, [low, high]] = swapped[:, [high, low]]
    none = Condition.none(B)
    assert not torch.allclose(net(z, gamma, none), net(z, swapped.reshape(gamma.shape), none), atol=1e-5)


@torch.no_grad()
def test_infinite_noise_and_none_are_as_good_as_very_much_and_very_little():
    net = stated("fourier")
    z, gamma = state(net._basis[0])
    ends = gamma.clone()
    ends[:, :20], ends[:, 20:40] = torch.inf, -torch.inf
    out = net(z, ends, Condition.none(B))
    assert out.isfinite().all()
    assert torch.equal(out, net(z, ends.clamp(-50, 50), Condition.none(B)))


@pytest.mark.parametrize("name", LOCAL | OTHERS)
@torch.no_grad()
def test_a_row_does_not_depend_on_its_mates(name):
    net = stated(name)
    z, gamma = state(net._basis[0])
    alone = net(z[:1].expand_as(z), gamma[:1].expand_as(z), Condition.none(B))
    assert torch.equal(net(z, gamma, Condition.none(B))[0], alone[0])


# ---- in the plane ----


@pytest.mark.parametrize("name", LOCAL)
def test_a_local_state_is_painted_beside_the_grid_door(name):
    net = stated(name, grid=2)
    basis = net._basis[0]
    z, gamma = state(basis)
    grid = torch.randn(B, 2, 8, 8)
    (_, _, condition), _ = heard(net, z, gamma, Condition(B, grid=grid))
    assert torch.equal(condition.grid[:, :2], grid)
    expected = basis.painted(2 * (gamma + 13.3) / 18.3 - 1)
    torch.testing.assert_close(condition.grid[:, 2:], expected, rtol=0, atol=1e-6)
    assert condition.grid[:, 2:].abs().max() <= 1 + 1e-6  # γ between −13.3 and 5


# ---- in tokens ----


def tokens_by_hand(net: Stated, gamma: torch.Tensor) -> torch.Tensor:
    """The mean of γ over each of MOST stretches of rank, its sinusoid plus the learned vector, two layers."""
    basis = net._basis[0]
    ranks = basis.group.flatten().tolist()
    rows = []
    for one in gamma.flatten(1).tolist():
        inside = [[] for _ in range(MOST)]
        for rank, value in zip(ranks, one):
            inside[rank * MOST // (max(ranks) + 1)].append((value + 13.3) / 18.3)
        means = torch.tensor([sum(stretch) / len(stretch) if stretch else 0.0 for stretch in inside])
        rates = torch.exp(-math.log(10000) * torch.arange(WORDS // 2) / (WORDS // 2))
        angles = 1000 * means[:, None] * rates
        rows.append(torch.cat([angles.cos(), angles.sin()], 1))
    e = torch.stack(rows) + net.rank
    return net.outer(nn.functional.silu(net.inner(e)))


@pytest.mark.parametrize("name", OTHERS)
def test_tokens_are_means_over_neighbours_in_rank(name):
    net = stated(name)
    z, gamma = state(net._basis[0])
    (_, _, condition), _ = heard(net, z, gamma, Condition.none(B))
    assert condition.mask is None
    # angles go to 1,000, of which float32 knows 6e-5
    torch.testing.assert_close(condition.sequence, tokens_by_hand(net, gamma), rtol=1e-3, atol=1e-3)


def test_tokens_stand_behind_the_words_of_a_caption():
    """The words keep their places and their mask; tokens are always heard, also where a caption has no word."""
    net = stated("principal")
    z, gamma = state(net._basis[0])
    words = torch.randn(B, 4, WORDS)
    (_, _, condition), out = heard(net, z, gamma, Condition(B, sequence=words, mask=MASK))
    assert torch.equal(condition.sequence[:, :4], words)
    assert torch.equal(condition.mask, torch.cat([MASK, torch.ones(B, MOST, dtype=torch.bool)], 1))
    with torch.no_grad():
        noisy = torch.where(MASK[..., None], words, 1e3 * torch.randn(B, 4, WORDS))
        assert torch.equal(out, net(z, gamma, Condition(B, sequence=noisy, mask=MASK)))
        said = torch.where(MASK[..., None], words + 1, words)
        changed = (out != net(z, gamma, Condition(B, sequence=said, mask=MASK))).flatten(1).any(1)
        assert torch.equal(changed, MASK.any(1))
        turned = net(z, gamma.flip(1), Condition(B, sequence=words, mask=MASK))
        assert (out != turned).flatten(1).any(1).all()
        unmasked = net(z, gamma, Condition(B, sequence=words))
        everything = net(z, gamma, Condition(B, sequence=words, mask=torch.ones(B, 4, dtype=torch.bool)))
        torch.testing.assert_close(unmasked, everything, rtol=1e-4, atol=1e-5)


def test_words_are_heard_beside_what_is_painted():
    net = stated("haar", text=True)
    z, gamma = state(net._basis[0])
    words = torch.randn(B, 4, WORDS)
    (_, _, condition), _ = heard(net, z, gamma, Condition(B, sequence=words, mask=MASK))
    assert torch.equal(condition.sequence, words)
    assert torch.equal(condition.mask, MASK)
    assert condition.grid.shape == (B, net._basis[0].layers, 8, 8)


@pytest.mark.parametrize("name", LOCAL | OTHERS)
def test_every_parameter_learns(name):
    net = stated(name)
    z, gamma = state(net._basis[0])
    net(z, gamma, Condition.none(B)).square().sum().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_the_basis_stays_the_codecs():
    """Its buffers are in the codec's state, once; the net follows a codec that moves, since it is the same object."""
    net = stated("principal")
    assert not [name for name in net.state_dict() if "vectors" in name or "group" in name]
    assert set(dict(net.named_children())) == {"net", "inner", "outer"}


# ---- the last bits of a picture ----


def test_fine_features_by_hand():
    inside = []
    net = Fine(lambda z, t, condition: inside.append(z) or z[:, :2], waves=(6, 7))
    z = torch.tensor([-1.0, -0.5, 0.1, 1 / 3]).reshape(1, 1, 2, 2).expand(1, 2, 2, 2)
    out = net(z, torch.zeros(1), Condition.none(1))
    assert torch.equal(out, z)
    waves = [f(2**n * math.pi * z) for n in (6, 7) for f in (torch.sin, torch.cos)]
    torch.testing.assert_close(inside[0], torch.cat([z, *waves], 1))
    assert inside[0].shape == (1, 2 * (1 + 2 * 2), 2, 2)


def test_neighbouring_8_bit_values_are_far_apart_in_fine_features():
    """1/127.5 is a quarter turn of the first wave and half a turn of the second, wherever it is; in z it is 0.008."""
    seen = []
    net = Fine(lambda z, t, condition: seen.append(z) or z)
    net(torch.arange(256.0).reshape(256, 1, 1, 1) / 127.5 - 1, torch.zeros(256), Condition.none(256))
    steps = (seen[0][1:] - seen[0][:-1])[:, :, 0, 0]
    assert steps[:, 0].max() < 0.01
    assert steps[:, 1:3].norm(dim=1).min() > 1.3  # 2 sin(π/4 · 128/127.5) = 1.42
    assert steps[:, 3:5].norm(dim=1).min() > 1.9  # 2 sin(π/2 · 128/127.5) = 2.00
