"""Pixels: exact inverses, and nats that are of 8-bit data."""

import math

import pytest
import torch

from sfumato.codecs.pixels import Pixels
from sfumato.core.noise import Noise
from sfumato.core.space import Grid, Tokens, check
from sfumato.likelihoods import from_levels

DATA = Grid(3, 4, 5)


def eight_bit(rows: int, seed: int = 0) -> torch.Tensor:
    return from_levels(Noise.shared(seed, rows).integers(256, *DATA.shape))


@pytest.mark.parametrize("mode", ["raw", "dequantised", "tokens"])
def test_decode_inverts_encode_bitwise(mode):
    codec = Pixels(DATA, mode)
    x = from_levels(torch.arange(256).repeat(60).reshape(-1, *DATA.shape))
    z = check(codec.space, codec.encode(x))
    assert codec.exact
    assert torch.equal(codec.decode(z), x)


def test_decode_inverts_every_lifted_dequantisation():
    """Whatever u was drawn, the same 8-bit value comes back; and z lies in [−1, 1)."""
    codec, x = Pixels(DATA, "dequantised"), eight_bit(500)
    z, _ = codec.lift(x, Noise.shared(1, 500))
    assert z.min() >= -1
    assert z.max() < 1
    assert torch.equal(codec.decode(z), x)


@pytest.mark.parametrize(
    ("mode", "levels", "prior"),
    # log p(z) of the uniform prior, a dimension
    [("dequantised", 256, -math.log(2)), ("tokens", 256, -math.log(256)), ("tokens", 16, -math.log(16))],
)
def test_uniform_noise_costs_eight_bits(mode, levels, prior):
    """E2: 8.000 ± 0.002 bits per dimension under a uniform prior. There is nothing random in it: 1e-6."""
    codec, x = Pixels(DATA, mode, levels), eight_bit(50)
    z, w = codec.lift(x, Noise.shared(1, 50))
    bits = -(prior * z[0].numel() + w) / math.log(2) / 60
    torch.testing.assert_close(bits, torch.full((50,), 8.0), atol=1e-6, rtol=0)
    assert codec.discrete


def test_dequantised_mass_of_a_gaussian_is_bounded():
    """E_u log p(z) + w ≤ log ∫ p over the value's interval, with equality up to 1e-4 for a density that is nearly
    straight there (σ = 0.5: curvature · (1/128)² / 24σ² ~ 1e-5)."""
    codec = Pixels(Grid(1, 1, 1), "dequantised")
    x = from_levels(torch.full((20_000, 1, 1, 1), 100))
    z, w = codec.lift(x, Noise.shared(0, 20_000))
    normal = torch.distributions.Normal(0.0, 0.5)
    bound = float((normal.log_prob(z).flatten() + w).double().mean())
    exact = math.log(float(normal.cdf(torch.tensor(202 / 256 - 1)) - normal.cdf(torch.tensor(200 / 256 - 1))))
    assert bound < exact + 1e-4
    assert bound == pytest.approx(exact, abs=2e-4)


def test_raster_order_keeps_a_pixels_channels_together():
    codec = Pixels(Grid(3, 2, 2), "tokens")
    k = torch.arange(12).reshape(1, 2, 2, 3)  # row, column, channel
    z = codec.encode(from_levels(k.permute(0, 3, 1, 2)))
    assert z.tolist() == [list(range(12))]
    assert codec.space == Tokens(12, 256, (2, 6))


@pytest.mark.parametrize("levels", [2, 16, 32])
def test_coarse_tokens_show_the_middle_of_their_values(levels):
    """|x − decode(encode(x))| is at most half a letter's width; encoding again changes nothing."""
    codec, x = Pixels(DATA, "tokens", levels), eight_bit(50)
    z = codec.encode(x)
    back = codec.decode(z)
    assert not codec.exact
    assert z.max() == levels - 1
    assert (back - x).abs().max() <= (256 / levels - 1) / 2 / 127.5 + 1e-6
    assert torch.equal(codec.encode(back), z)


@pytest.mark.parametrize("mode", ["raw", "dequantised", "tokens"])
def test_blend_meets_both_ends(mode):
    codec = Pixels(DATA, mode)
    a, b = codec.encode(eight_bit(2)), codec.encode(eight_bit(2, seed=1))
    assert torch.equal(codec.blend(a, b, 0.0), a)
    assert torch.equal(codec.blend(a, b, 1.0), b)
    check(codec.space, codec.blend(a, b, 0.3))


@pytest.mark.parametrize(("mode", "levels"), [("words", 256), ("tokens", 100), ("raw", 16), ("tokens", 1)])
def test_what_does_not_fit_is_refused(mode, levels):
    with pytest.raises(ValueError):
        Pixels(DATA, mode, levels)
