"""PSNR, SSIM, bits and codebook statistics against sums written out."""

import math

import pytest
import torch

from sfumato.core.noise import Noise
from sfumato.metrics.bits import bits_per_dim, histogram, perplexity, usage
from sfumato.metrics.fidelity import eight_bit, psnr, ssim, window
from sfumato.metrics.probe import linear_probe
from sfumato.metrics.stability import code_cosine, disturb, token_change


def pictures(n=2, channels=3, height=14, width=17, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(n, channels, height, width, generator=g, dtype=torch.float64) * 2 - 1


def test_psnr_of_a_constant_error():
    """An error of 0.02 on a range of 2 is 20 log₁₀(100) = 40 dB; a copy has no error."""
    x = pictures().clamp(-0.9, 0.9)
    assert psnr(x, x + 0.02).tolist() == pytest.approx([40.0, 40.0])
    assert psnr(x, x).tolist() == [math.inf, math.inf]


def ssim_by_loops(x, y, size, sigma=1.5):
    """Wang et al. 2004, one channel, by the letter: a weighted mean, variance and covariance under each window."""
    half = size // 2
    weights = [
        [math.exp(-(i * i + j * j) / (2 * sigma**2)) for j in range(-half, half + 1)] for i in range(-half, half + 1)
    ]
    total = sum(map(sum, weights))
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    found = []
    for top in range(len(x) - size + 1):
        for left in range(len(x[0]) - size + 1):
            cells = [
                (weights[i][j] / total, x[top + i][left + j], y[top + i][left + j])
                for i in range(size)
                for j in range(size)
            ]
            mx, my = sum(w * a for w, a, _ in cells), sum(w * b for w, _, b in cells)
            vx, vy = sum(w * (a - mx) ** 2 for w, a, _ in cells), sum(w * (b - my) ** 2 for w, _, b in cells)
            cov = sum(w * (a - mx) * (b - my) for w, a, b in cells)
            found.append((2 * mx * my + c1) * (2 * cov + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2)))
    return sum(found) / len(found)


@pytest.mark.parametrize(("height", "width", "size"), [(14, 17, 11), (8, 8, 7), (9, 30, 9)])
def test_ssim_equals_the_loops(height, width, size):
    x = pictures(1, 2, height, width)
    y = (x + 0.5 * pictures(1, 2, height, width, seed=1)).clamp(-1, 1)
    expected = sum(ssim_by_loops(x[0, c].tolist(), y[0, c].tolist(), size) for c in range(2)) / 2
    assert float(ssim(x, y)) == pytest.approx(expected, rel=1e-9)


def test_ssim_knows_a_copy_and_orders_noise():
    x = pictures()
    found = [float(ssim(x, x + s * pictures(seed=2)).mean()) for s in (0.0, 0.1, 0.5)]
    assert found[0] == pytest.approx(1.0, abs=1e-12)
    assert found[0] > found[1] > found[2]


def test_windows_sum_to_one_and_are_odd():
    assert [len(window(side)) for side in (1, 2, 8, 11, 64)] == [1, 1, 7, 11, 11]
    assert float(window(64).sum()) == pytest.approx(1.0)


def test_two_shapes_are_not_compared():
    for metric in (psnr, ssim):
        with pytest.raises(ValueError, match="one shape"):
            metric(pictures(2), pictures(1))


def test_eight_bit_is_what_a_file_holds():
    levels = torch.arange(256.0) / 127.5 - 1
    assert torch.equal(eight_bit(levels), levels)
    assert eight_bit(torch.tensor([-3.0, 7.0, 0.4 / 127.5 - 1])).tolist() == [-1.0, 1.0, -1.0]


def test_uniform_values_cost_eight_bits():
    """Of 8-bit values: log p = −D log 256. As a density: 1 / (256 δ) on an interval of 256 bins of width δ."""
    dims = 48
    discrete = bits_per_dim(torch.full((3,), -dims * math.log(256)), dims, discrete=True)
    density = bits_per_dim(torch.full((3,), -dims * math.log(256 / 127.5)), dims, discrete=False)
    assert discrete.tolist() == pytest.approx([8.0] * 3, abs=1e-5)
    assert density.tolist() == pytest.approx([8.0] * 3, abs=1e-5)


def test_perplexity_and_usage_of_known_histograms():
    counts = histogram(torch.tensor([[0, 1, 1], [2, 2, 2]]), 8)
    assert counts.tolist() == [1, 2, 3, 0, 0, 0, 0, 0]
    entropy = -sum(p * math.log(p) for p in (1 / 6, 2 / 6, 3 / 6))
    assert perplexity(counts) == pytest.approx(math.exp(entropy), rel=1e-12)
    assert usage(counts) == 3 / 8
    assert perplexity(torch.ones(16)) == pytest.approx(16)
    assert perplexity(histogram(torch.zeros(5, dtype=torch.long), 4)) == pytest.approx(1)
    with pytest.raises(ValueError, match=r"0 … 3"):
        histogram(torch.tensor([4]), 4)


def test_a_probe_finds_what_is_linear_and_only_that():
    """Three classes along a direction are found; labels drawn apart from the features are at chance, 1/3 ± 4 s.e."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(1200, 10, generator=g)
    labels = torch.bucketize(x @ torch.randn(10, generator=g), torch.tensor([-1.4, 1.4]))
    assert linear_probe(x[:800], labels[:800], x[800:], labels[800:]) > 0.9
    random = torch.randint(3, (1200,), generator=g)
    assert abs(linear_probe(x[:800], random[:800], x[800:], random[800:]) - 1 / 3) < 4 * math.sqrt(2 / 9 / 400)


@pytest.mark.parametrize("decibels", [0.0, 10.0, 20.0])
def test_noise_has_the_ratio_asked_for(decibels):
    """Each picture has 3 · 64 · 64 entries, so its noise power is within 4 √(2 / 12288) = 5 % of what it should be."""
    x = pictures(4, 3, 64, 64) * torch.tensor([0.1, 0.5, 1.0, 1.0]).view(-1, 1, 1, 1)
    noise = disturb(x, decibels, Noise.each(range(4))) - x
    ratio = x.square().mean((1, 2, 3)) / noise.square().mean((1, 2, 3))
    assert ratio.tolist() == pytest.approx([10 ** (decibels / 10)] * 4, rel=0.05)


def test_stability_of_a_sign_codec():
    """Tokens that are the sign of one pixel of ±1: noise of power 1 (0 dB) turns Φ(−1) = 0.1587 of them. 12,288 pixels,
    4 standard errors. Codes +1 and −1 then have cosine 1 − 2 · change."""
    x = pictures(4, 3, 32, 32).sign()

    def encode(images):
        return (images.flatten(1) > 0).long()

    change = token_change(encode, x, 0.0, Noise.each(range(4)))
    expected = 0.5 * math.erfc(1 / math.sqrt(2))
    assert abs(change - expected) < 4 * math.sqrt(expected * (1 - expected) / 12288)
    codes = torch.tensor([[-1.0], [1.0]])
    assert code_cosine(encode, codes, x, 0.0, Noise.each(range(4))) == pytest.approx(1 - 2 * change, abs=1e-6)
