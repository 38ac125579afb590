"""Adversarial terms, the adaptive weight and the perceptual distance."""

import hashlib
import warnings

import pytest
import torch
from sklearn.datasets import load_sample_images
from torch import nn

from sfumato import losses
from sfumato.core import published
from sfumato.core.errors import WeightsError
from sfumato.losses import ADVERSARIAL, TRUNKS, Perceptual, adaptive_weight, one_centred, perceptual, r1

LOGITS = torch.tensor([-2.0, -0.3, 0.4, 1.7], dtype=torch.float64)


def test_hinge_by_hand():
    hinge = ADVERSARIAL["hinge"]
    # critic: ½ (mean of (3, 1.3, 0.6, 0) + mean of (0, 0.7, 1.4, 2.7))
    assert float(hinge.critic(LOGITS, LOGITS)) == pytest.approx((4.9 / 4 + 4.8 / 4) / 2)
    assert float(hinge.generator(LOGITS)) == pytest.approx(0.05)


def test_non_saturating_is_binary_cross_entropy():
    pair, bce = ADVERSARIAL["non-saturating"], nn.functional.binary_cross_entropy_with_logits
    ones = torch.ones(4, dtype=torch.float64)
    torch.testing.assert_close(pair.critic(LOGITS, -LOGITS), bce(LOGITS, ones) + bce(-LOGITS, 0 * ones))
    torch.testing.assert_close(pair.generator(LOGITS), bce(LOGITS, ones))


def test_saturating_is_the_minimax_game():
    """The generator minimises E log(1 − σ(D(x̂))), and the critic's loss is −V."""
    pair, sigma = ADVERSARIAL["saturating"], LOGITS.sigmoid()
    torch.testing.assert_close(pair.generator(LOGITS), (1 - sigma).log().mean())
    torch.testing.assert_close(pair.critic(LOGITS, LOGITS), -(sigma.log().mean() + (1 - sigma).log().mean()))


def test_relativistic_compares_pairs():
    """Only differences count, each player's loss is the other's with real and made exchanged, and log 2 is a draw."""
    pair = ADVERSARIAL["relativistic"]
    assert pair.paired
    torch.testing.assert_close(pair.critic(LOGITS + 5, LOGITS.flip(0) + 5), pair.critic(LOGITS, LOGITS.flip(0)))
    torch.testing.assert_close(pair.critic(LOGITS, LOGITS.flip(0)), pair.generator(LOGITS, LOGITS.flip(0)))
    assert float(pair.critic(LOGITS, LOGITS)) == pytest.approx(0.6931472)


def test_wasserstein_is_a_difference_of_means():
    pair = ADVERSARIAL["wasserstein"]
    assert float(pair.critic(LOGITS + 3, LOGITS)) == pytest.approx(-3)
    assert float(pair.generator(LOGITS)) == pytest.approx(0.05)


def made_by(pair):
    """The generator's loss as a function of the made pictures' logits; real ones, where it looks at them, are zero."""
    return lambda fake: pair.generator(fake, *([torch.zeros_like(fake)] if pair.paired else []))


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_adversarial_gradients(name):
    """E8; the logits lie off the hinge's corners at ±1."""
    pair = ADVERSARIAL[name]
    logits = LOGITS.clone().requires_grad_()
    assert torch.autograd.gradcheck(made_by(pair), logits)
    assert torch.autograd.gradcheck(lambda x: pair.critic(x, -x.flip(0)), logits)


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_players_pull_in_opposite_directions(name):
    pair = ADVERSARIAL[name]
    fake = torch.zeros(3, requires_grad=True)
    (theirs,) = torch.autograd.grad(pair.critic(torch.zeros(3), fake), fake)
    (ours,) = torch.autograd.grad(made_by(pair)(fake), fake)
    assert (theirs > 0).all()
    assert (ours < 0).all()


def test_adaptive_weight_is_the_ratio_of_norms():
    last = torch.tensor([1.0, 2.0], requires_grad=True)
    rec, adv = (last * torch.tensor([3.0, 4.0])).sum(), (last * torch.tensor([0.0, 2.0])).sum()
    weight = adaptive_weight(rec, adv, last)
    assert not weight.requires_grad
    assert float(weight) == pytest.approx(5 / (2 + 1e-4))


def test_adaptive_weight_shrinks_as_the_critic_shouts_and_is_clamped():
    last = torch.tensor([1.0, 2.0], requires_grad=True)
    rec = last.square().sum()
    weights = [float(adaptive_weight(rec, g * last.sum(), last, ceiling=10)) for g in (0.0, 0.5, 1, 2, 100)]
    assert weights[0] == 10  # a critic without a slope
    assert weights[1:] == sorted(weights[1:], reverse=True)
    assert weights[1] > weights[-1]


def test_r1_of_a_linear_critic():
    """D = a · x has ‖∂D‖² = ‖a‖² everywhere, and the penalty's own slope is a."""
    a = torch.randn(6, dtype=torch.float64, requires_grad=True)
    x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    penalty = r1(x @ a, x)
    torch.testing.assert_close(penalty, a.square().sum() / 2)
    torch.testing.assert_close(torch.autograd.grad(penalty, a)[0], a)


def test_r1_of_a_quadratic_critic():
    """D = ½ xᵀ A x with A symmetric: the penalty is ½ E‖A x‖², and its slope in A is E[A x xᵀ], made symmetric."""
    a = torch.randn(5, 5, dtype=torch.float64)
    a = (a + a.T).requires_grad_()
    x = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    penalty = r1(torch.einsum("bi,ij,bj->b", x, a, x) / 2, x)
    torch.testing.assert_close(penalty, (x @ a).square().sum(1).mean() / 2)
    slope = (a @ x.T @ x) / 7
    torch.testing.assert_close(torch.autograd.grad(penalty, a)[0], (slope + slope.T) / 2)


@pytest.mark.parametrize("penalty", [r1, one_centred])
def test_penalties_are_differentiated_again(penalty):
    """E8: through a critic with a bend in it, with respect to its weights."""

    def of(first, second):
        x = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(3, 4).requires_grad_()
        return penalty((x @ first).tanh() @ second, x)

    generator = torch.Generator().manual_seed(4)
    weights = [torch.randn(4, 5, generator=generator), torch.randn(5, generator=generator)]
    assert torch.autograd.gradcheck(of, [w.double().requires_grad_() for w in weights])


def test_one_centred_is_zero_at_slope_one_and_survives_slope_zero():
    x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    unit = nn.functional.normalize(torch.randn(6, dtype=torch.float64), dim=0).requires_grad_()
    assert one_centred(x @ unit, x).item() == pytest.approx(0, abs=1e-12)
    assert one_centred(3 * x @ unit, x).item() == pytest.approx(4)
    flat = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    penalty = one_centred(x @ flat, x)
    assert penalty.item() == pytest.approx(1, abs=1e-5)
    assert torch.autograd.grad(penalty, flat)[0].isfinite().all()


# ── perceptual distance: a stand-in file of the published shape, since the real one is an optional package ───────────

WIDTHS = {"alex": [64, 192, 384, 256, 256], "vgg": [64, 128, 256, 512, 512]}


def stand_in(trunk: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "scaling_layer.shift": torch.tensor([-0.03, -0.088, -0.188]).reshape(1, 3, 1, 1),
        "scaling_layer.scale": torch.tensor([0.458, 0.448, 0.45]).reshape(1, 3, 1, 1),
    }
    before = 3
    for n, (slice_, width) in enumerate(zip(TRUNKS[trunk], WIDTHS[trunk])):
        for layer in slice_:
            if layer[0] == "conv":
                side = {("alex", 0): 11, ("alex", 1): 5}.get((trunk, n), 3)
                kernel = torch.randn(width, before, side, side, generator=generator)
                tensors[f"net.{layer[1]}.weight"] = kernel * (2 / (before * side * side)) ** 0.5
                tensors[f"net.{layer[1]}.bias"] = torch.zeros(width)
                before = width
            elif layer[0] == "blur":
                binomial = torch.tensor([1.0, 2, 1]).outer(torch.tensor([1.0, 2, 1])) / 16
                channels = WIDTHS[trunk][max(0, n - 1)] if n else width
                tensors[f"net.{layer[1]}.filt"] = binomial.expand(channels, 1, 3, 3).clone()
        tensors[f"lin{n}.model.1.weight"] = torch.rand(1, width, 1, 1, generator=generator) / width
    return tensors


@pytest.fixture
def distance(tmp_path, monkeypatch):
    def make(trunk: str) -> Perceptual:
        path = tmp_path / f"{trunk}_shift_tolerant.pth"
        torch.save(stand_in(trunk), path)
        table = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
        monkeypatch.setattr(published, "PUBLISHED", table)
        monkeypatch.setattr(losses, "PUBLISHED", table)
        return Perceptual(trunk, path)

    return make


@pytest.mark.parametrize("trunk", TRUNKS)
def test_a_distance_grows_with_noise(distance, trunk):
    """Zero for equals, symmetric, and growing with noise even through random kernels."""
    d = distance(trunk)
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(1, 3, 5, 5, generator=generator) * 2 - 1
    x = nn.functional.interpolate(coarse, (32, 32), mode="bicubic").clamp(-1, 1)
    noise = torch.randn(x.shape, generator=generator)
    noisy = torch.cat([x + s * noise for s in (0, 0.05, 0.1, 0.2, 0.4)])
    values = d(x.expand_as(noisy), noisy)
    assert values[0] == 0
    assert values.tolist() == sorted(values.tolist())
    torch.testing.assert_close(values, d(noisy, x.expand_as(noisy)))


@pytest.mark.parametrize("trunk", TRUNKS)
def test_the_published_distance_forgives_a_shift_but_not_noise(trunk):
    """On photographs: one pixel's shift costs below 0.02, noise of σ = 0.05 on [0, 1] at least five times that shift,
    and σ = 0.4 at least 0.5 (DATA.md measured 0.004 · 0.12 · 0.79)."""
    if not list(losses.importlib.metadata.distributions(name="stlpips-pytorch")):
        with pytest.warns(UserWarning, match="No perceptual term: its weights are not installed"):
            assert perceptual(trunk) is None  # the promise on a machine without the optional weights
        return
    d = perceptual(trunk)
    photos = [
        torch.from_numpy(photo.copy()).permute(2, 0, 1)[:, 100:196, 200:296] for photo in load_sample_images().images
    ]
    x = torch.stack(photos).float() / 127.5 - 1
    noise = 2 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    shift = float(d(x[..., :-1], x[..., 1:]).mean())
    faint, strong = (float(d(x, (x + s * noise).clamp(-1, 1)).mean()) for s in (0.05, 0.4))
    assert shift < 0.02
    assert faint > 5 * shift
    assert strong > 0.5


def test_a_distance_is_learned_from_and_keeps_no_state(distance):
    d = distance("alex")
    x = torch.zeros(2, 1, 16, 16, requires_grad=True)  # grey, small, and flat: zero features must not give NaN
    value = d(x, torch.rand(2, 1, 16, 16))
    assert value.shape == (2,)
    value.sum().backward()
    assert x.grad.isfinite().all()
    assert x.grad.abs().sum() > 0
    assert not list(d.parameters())
    assert not d.state_dict()


def test_perceptual_gradient(distance):
    """E8: a directional finite difference in float64."""
    d = distance("alex")
    generator = torch.Generator().manual_seed(2)
    x, y, way = torch.randn(3, 1, 3, 32, 32, generator=generator, dtype=torch.float64)
    x = x.requires_grad_()
    (slope,) = torch.autograd.grad(d(x, y).sum(), x)
    with torch.no_grad():
        measured = (d(x + 1e-6 * way, y) - d(x - 1e-6 * way, y)).sum() / 2e-6
    assert float((slope * way).sum()) == pytest.approx(float(measured), rel=1e-4)


def test_another_file_is_refused(distance, tmp_path):
    d = distance("alex")
    d.path.write_bytes(d.path.read_bytes() + b"\0")
    with pytest.raises(WeightsError, match="not the published file"):
        d(torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 32, 32))
    with pytest.raises(WeightsError, match="no weights"):
        perceptual("alex", tmp_path / "absent.pth")
    with pytest.raises(ValueError, match="trunk"):
        Perceptual("squeeze", tmp_path)


def test_absence_is_said_and_survived(monkeypatch):
    def absent(name):
        raise losses.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(losses.importlib.metadata, "distribution", absent)
    with pytest.warns(UserWarning, match="No perceptual term"):
        assert perceptual() is None


def test_presence_is_silent(distance, tmp_path):
    path = distance("alex").path
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(perceptual("alex", path), Perceptual)
