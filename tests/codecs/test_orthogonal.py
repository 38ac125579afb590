"""Orthogonal maps: that they are, and that their components are what the field calls by these names."""

import math

import numpy as np
import pytest
import scipy.fft
import torch

from sfumato.codecs.orthogonal import (
    TAPS,
    Arbitrary,
    Cosine,
    Fourier,
    Identity,
    Principal,
    Wavelet,
    analysis,
)
from sfumato.core.errors import Misfit
from sfumato.core.noise import Noise
from sfumato.core.space import Grid, check, size

ODD, EVEN = Grid(2, 5, 7), Grid(2, 8, 16)


def pictures(rows: int, data: Grid, seed: int = 0) -> torch.Tensor:
    return Noise.shared(seed, rows).normal(*data.shape).double()


def fitted(data: Grid, joint: bool = True) -> Principal:
    """On pictures that are mixed, so that no eigenvector is a pixel, and more of them than dimensions."""
    basis, d = Principal(data, joint).double(), size(data)
    mixed = (pictures(2 * d, data, 1).flatten(1) @ pictures(d, data, 2).flatten(1)).reshape(-1, *data.shape)
    basis.fit(lambda: [{"image": mixed}])
    return basis


MAPS = {
    "identity": lambda: Identity(ODD),
    "haar": lambda: Wavelet(EVEN, 3),
    "haar, one level": lambda: Wavelet(Grid(1, 6, 10), 1),
    "db2": lambda: Wavelet(EVEN, 3, "db2"),  # the last level is 2 long, where 4 taps wrap around
    "db4": lambda: Wavelet(EVEN, 2, "db4"),
    "cosine": lambda: Cosine(ODD),
    "cosine, even": lambda: Cosine(EVEN),
    "fourier": lambda: Fourier(ODD),
    "fourier, even": lambda: Fourier(EVEN),
    "fourier, one odd side": lambda: Fourier(Grid(1, 4, 5)),
    "principal": lambda: fitted(Grid(2, 3, 5)),
    "principal, each channel": lambda: fitted(Grid(2, 3, 5), joint=False),
    "arbitrary": lambda: Arbitrary(Grid(2, 3, 5)),
}


@pytest.fixture(params=MAPS)
def basis(request):
    return MAPS[request.param]()


# ---- what holds for all ----


@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_back_inverts_turn_and_lengths_stay(basis, dtype, near):
    x = pictures(4, basis.data).to(dtype)
    basis.to(dtype)
    if isinstance(basis, Principal) and dtype == torch.float64:  # fitted in float64, not rounded on the way
        assert basis.vectors.dtype == torch.float64
    c = check(basis.space, basis.turn(x))
    assert c.dtype == dtype
    torch.testing.assert_close(basis.back(c), x, rtol=0, atol=4 * near)  # of numbers up to 4
    torch.testing.assert_close(basis.turn(basis.back(c)), c, rtol=0, atol=8 * near)
    torch.testing.assert_close(c.flatten(1).norm(dim=1), x.flatten(1).norm(dim=1), rtol=near, atol=0)


def test_the_matrix_of_it_is_orthogonal(basis):
    """Column i of U is what unit vector i turns into; row i is what it comes back as."""
    units = torch.eye(size(basis.data), dtype=torch.float64)
    u = basis.turn(units.reshape(-1, *basis.data.shape)).flatten(1).T
    torch.testing.assert_close(u @ u.T, units, rtol=0, atol=1e-12)
    back = basis.back(units.reshape(-1, *basis.space.shape)).flatten(1)
    torch.testing.assert_close(back, u, rtol=0, atol=1e-12)


def test_white_noise_stays_white(basis):
    """cov(U ε) = U Uᵀ = I: for 4,000 draws the largest of D² entries lies within 6 standard errors, 1/√n each."""
    c = basis.turn(pictures(4000, basis.data)).flatten(1)
    error = (c.T @ c / 4000 - torch.eye(c.shape[1])).abs()
    assert error.max() < 6 * math.sqrt(2 / 4000)


def test_every_component_has_a_group_and_groups_are_numbered_without_gaps(basis):
    assert basis.group.shape == basis.space.shape
    assert basis.group.dtype == torch.int64
    assert torch.equal(basis.group.unique(), torch.arange(basis.groups))


def test_a_constant_of_the_map_does_not_weigh_on_a_checkpoint(basis):
    """What any machine can compute again is not stored; what was fitted is."""
    stored = set(basis.state_dict())
    own = {"vectors"} if isinstance(basis, Principal) else {"matrix"} if isinstance(basis, Arbitrary) else set()
    assert stored == {"group"} | own


def test_training_may_go_on_after_a_look_in_inference_mode():
    """Constants are made once; whoever came first must not forbid gradients to the others."""
    basis, x = Wavelet(Grid(1, 4, 12), 2), torch.randn(1, 1, 4, 12)
    with torch.inference_mode():
        basis.turn(x)
    x.requires_grad_()
    basis.turn(x).square().sum().backward()
    torch.testing.assert_close(x.grad, 2 * x.detach())


# ---- wavelets ----


def test_haar_by_hand():
    """4 × 4, two levels: a 2 × 2 block (a b; c d) gives (a+b+c+d)/2, then (a−b+c−d)/2 beside it, (a+b−c−d)/2 under it,
    (a−b−c+d)/2 aslant. Band by band in Mallat's layout, and the average once more."""
    x = torch.tensor([[4.0, 2, 0, 0], [6, 8, 0, 4], [1, 1, 3, 5], [1, 1, 3, 5]], dtype=torch.float64)[None, None]
    # averages (10 2; 2 8); side by side (0 −2; 0 −2); one under the other (−4 −2; 0 0); aslant (2 2; 0 0)
    expected = torch.tensor(
        [[11, 1, 0, -2], [1, 7, 0, -2], [-4, -2, 2, 2], [0, 0, 0, 0]],
        dtype=torch.float64,
    )[None, None]
    torch.testing.assert_close(Wavelet(Grid(1, 4, 4), 2).turn(x), expected, rtol=0, atol=1e-12)


def test_bands_are_numbered_from_coarse_to_fine_and_a_channel_has_its_own():
    group = Wavelet(Grid(2, 4, 4), 2).group
    assert group[0].tolist() == [[0, 2, 8, 8], [4, 6, 8, 8], [10, 10, 12, 12], [10, 10, 12, 12]]
    assert torch.equal(group[1], group[0] + 1)


@pytest.mark.parametrize(("taps", "moments"), [("haar", 1), ("db2", 2), ("db4", 4)])
def test_taps_are_daubechies(taps, moments):
    """Σ h = √2, Σ h_k h_{k+2m} = δ_m, and the high-pass filter sees no polynomial below its number of moments."""
    h = np.array(TAPS[taps])
    assert len(h) == 2 * moments
    assert h.sum() == pytest.approx(math.sqrt(2), abs=1e-12)
    for shift in range(moments):
        overlap = (h[2 * shift :] * h[: len(h) - 2 * shift]).sum()
        assert overlap == pytest.approx(float(shift == 0), abs=1e-12)
    g, k = h[::-1] * (-1.0) ** np.arange(len(h)), np.arange(len(h)) / len(h)
    for power in range(moments):
        assert (g * k**power).sum() == pytest.approx(0, abs=1e-11)
    assert abs((g * k**moments).sum()) > 1e-3  # and no more than that


@pytest.mark.parametrize(("taps", "degree"), [("haar", 0), ("db2", 1), ("db4", 3)])
def test_smooth_pictures_have_no_details_away_from_the_border(taps, degree):
    """A polynomial of the degree below the moments, in both directions; the wrap touches the last len(taps) places."""
    data = Grid(1, 32, 32)
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, 32, dtype=torch.float64)] * 2, indexing="ij")
    picture = 0.3 + sum((0.5 - k) * x**k + 0.7 * y**k - 0.4 * x**k * y ** (degree - k) for k in range(degree + 1))
    c = Wavelet(data, 1, taps).turn(picture[None, None])[0, 0]
    clear = 16 - len(TAPS[taps]) // 2 + 1
    for rows, columns in ((0, 16), (16, 0), (16, 16)):
        assert c[rows : rows + clear, columns : columns + clear].abs().max() < 1e-11
    rougher = Wavelet(data, 1, taps).turn((picture + x ** (degree + 1))[None, None])[0, 0]
    assert rougher[:clear, 16 : 16 + clear].abs().max() > 1e-6


@pytest.mark.parametrize("taps", TAPS)
@pytest.mark.parametrize("n", [2, 4, 6, 16])
def test_a_level_is_orthogonal_however_short(taps, n):
    rows = analysis(TAPS[taps], n)
    np.testing.assert_allclose(rows @ rows.T, np.eye(n), atol=1e-12)


@pytest.mark.parametrize("factor", [2, 4])
def test_the_coarse_block_holds_the_area_averages(factor):
    """f × the mean over f × f pixels, whatever finer levels did to the rest; and only Haar has such averages."""
    basis, x = Wavelet(Grid(2, 8, 16), 2), pictures(3, Grid(2, 8, 16))
    told = basis.averages(factor)
    assert basis.factors == (2, 4)
    assert int(told.sum()) == 2 * (8 // factor) * (16 // factor)
    x_coarse = torch.where(told, basis.turn(x), torch.zeros(()))  # without the details
    means = torch.nn.functional.avg_pool2d(x, factor)
    torch.testing.assert_close(torch.nn.functional.avg_pool2d(basis.back(x_coarse), factor), means, rtol=0, atol=1e-12)
    enlarged = means.repeat_interleave(factor, -2).repeat_interleave(factor, -1)
    torch.testing.assert_close(basis.back(x_coarse), enlarged, rtol=0, atol=1e-12)
    assert Wavelet(EVEN, 2, "db2").factors == Identity(EVEN).factors == Cosine(EVEN).factors == ()


def test_a_picture_that_does_not_halve_is_refused_with_advice():
    with pytest.raises(Misfit, match=r"12×16 does not halve 3 times.*a side that 8 divides"):
        Wavelet(Grid(1, 12, 16), 3)
    with pytest.raises(Misfit, match=r"haar, db2, db4; not 'coif'"):
        Wavelet(EVEN, 1, "coif")


# ---- places ----


def jacobian_reach(basis, hole):
    """Components with a derivative by any pixel in the hole."""
    touched = torch.zeros(basis.space.shape, dtype=torch.bool)
    for pixel in hole.flatten().nonzero()[:, 0]:
        for channel in range(basis.data.channels):
            unit = torch.zeros(1, *basis.data.shape, dtype=torch.float64)
            unit[0, channel].view(-1)[pixel] = 1
            touched |= basis.turn(unit)[0].abs() > 1e-12
    return touched


def holes(data):
    generator = torch.Generator().manual_seed(3)
    corner = torch.zeros(1, data.height, data.width, dtype=torch.bool)
    corner[..., -1, -1] = True
    right = torch.zeros_like(corner)
    right[..., data.width // 2 :] = True
    spots = torch.rand(1, data.height, data.width, generator=generator) < 0.05
    return torch.stack([corner, right, spots, torch.zeros_like(corner), torch.ones_like(corner)])


@pytest.mark.parametrize(
    "make",
    [
        lambda: Identity(Grid(2, 4, 6)),
        lambda: Wavelet(Grid(2, 8, 16), 3),
        lambda: Wavelet(Grid(1, 16, 16), 1, "db2"),
        lambda: Wavelet(Grid(1, 16, 32), 2, "db2"),
        lambda: Wavelet(Grid(1, 32, 32), 2, "db4"),
    ],
)
def test_reach_is_where_the_jacobian_is_not_zero(make):
    """Exactly, in every map here: no product of taps cancels. What a hole does not reach cannot know of it."""
    basis = make()
    hole = holes(basis.data)
    found = basis.reach(hole)
    assert found.shape == (5, *basis.space.shape)
    for reached, one in zip(found, hole):
        assert torch.equal(reached, jacobian_reach(basis, one))


def test_an_aligned_half_of_a_haar_picture_is_half_of_the_latent():
    """Why the stride of an extension is a multiple of `cell`: nothing lies across the seam then, and only then."""
    basis = Wavelet(Grid(3, 16, 32), 3)
    shares = {}
    for left in range(1, 32):
        hole = torch.zeros(1, 1, 16, 32, dtype=torch.bool)
        hole[..., left:] = True
        shares[left] = float(basis.reach(hole).double().mean() - hole.double().mean())
    assert basis.cell == 8
    assert {left for left, more in shares.items() if more == 0} == {8, 16, 24}
    assert min(shares.values()) == 0
    assert Identity(ODD).cell == 1


@pytest.mark.parametrize("make", [lambda: Cosine(ODD), lambda: Fourier(ODD), lambda: Principal(ODD)])
def test_what_looks_everywhere_has_no_place(make):
    basis = make()
    for ask in (
        lambda: basis.reach(torch.ones(1, 1, 5, 7, dtype=torch.bool)),
        lambda: basis.painted(torch.ones(1, *basis.space.shape)),
        basis.centres,
        lambda: basis.cell,
        lambda: basis.averages(2),
    ):
        with pytest.raises(Misfit, match=type(basis).__name__):
            ask()
    with pytest.raises(Misfit, match="Take the pixel or the wavelet basis"):
        basis.reach(torch.ones(1, 1, 5, 7, dtype=torch.bool))


def test_painted_by_hand():
    """One channel of 4 × 4, two levels: seven bands, each value on the pixels under it."""
    basis = Wavelet(Grid(1, 4, 4), 2)
    value = torch.arange(16.0).reshape(1, 1, 4, 4)
    found = basis.painted(value)
    assert (basis.layers, tuple(found.shape)) == (7, (1, 7, 4, 4))
    for layer, number in zip(found[0, :4], (0.0, 1.0, 4.0, 5.0)):  # the four of level 1 lie under all pixels
        assert torch.equal(layer, torch.full((4, 4), number))
    each = lambda a, b, c, d: torch.tensor([[a, a, b, b], [a, a, b, b], [c, c, d, d], [c, c, d, d]])
    assert torch.equal(found[0, 4], each(2.0, 3.0, 6.0, 7.0))
    assert torch.equal(found[0, 5], each(8.0, 9.0, 12.0, 13.0))
    assert torch.equal(found[0, 6], each(10.0, 11.0, 14.0, 15.0))
    assert torch.equal(Identity(Grid(1, 4, 4)).painted(value), value)


def test_painted_lies_where_the_component_looks():
    """For Haar a component's pixels are exactly those on which it is painted, channel by channel."""
    basis = Wavelet(Grid(2, 4, 8), 2)
    units = torch.eye(size(basis.data), dtype=torch.float64).reshape(-1, *basis.data.shape)
    looks = basis.back(units) != 0
    layer = basis.painted(units).unflatten(1, (-1, 2))  # band, channel
    assert torch.equal((layer != 0).any(1), looks)


def test_centres_are_where_the_weight_of_a_component_lies():
    """The mean place of |component|² in the unit square: for Haar the middle of its pixels, to rounding."""
    data = Grid(2, 4, 8)
    y, x = ((torch.arange(n, dtype=torch.float64) + 0.5) / n for n in (4, 8))
    for basis in (Identity(data), Wavelet(data, 2)):
        units = torch.eye(size(data), dtype=torch.float64).reshape(-1, *data.shape)
        weight = basis.back(units).square().sum(1)
        rows, columns = (weight.sum(2) * y).sum(1), (weight.sum(1) * x).sum(1)
        expected = torch.stack([rows, columns]).reshape(2, *data.shape)
        torch.testing.assert_close(basis.centres().double(), expected, rtol=0, atol=1e-6)


def test_pooled_is_the_mean_of_the_group():
    basis = Identity(Grid(2, 2, 2))
    value = torch.tensor([[[1.0, 2], [3, 6]], [[0, 0], [0, 8]]])
    assert basis.pooled(value)[:, 0, 0].tolist() == [3.0, 2.0]
    assert torch.equal(basis.pooled(value), basis.pooled(value)[:, :1, :1].expand(2, 2, 2))
    wave = Wavelet(Grid(1, 4, 4), 2)
    found = wave.pooled(torch.arange(16.0).reshape(1, 4, 4))[0]
    fine = [[2.5 + 2, 2.5 + 2], [10.5, 12.5]]  # (2 3; 6 7), then (8 9; 12 13) and (10 11; 14 15)
    assert found.tolist() == [
        [0, 1, fine[0][0], fine[0][0]],
        [4, 5, fine[0][0], fine[0][0]],
        [fine[1][0], fine[1][0], fine[1][1], fine[1][1]],
        [fine[1][0], fine[1][0], fine[1][1], fine[1][1]],
    ]


# ---- frequencies ----


@pytest.mark.parametrize("data", [ODD, EVEN, Grid(1, 4, 5), Grid(1, 1, 6)])
def test_fourier_holds_what_fft2_says(data):
    """(√2 Re)² + (√2 Im)² = |F(k)|² + |F(−k)|² for a pair; what is its own mirror is real and stays."""
    x = pictures(3, data)
    c = Fourier(data).turn(x).reshape(3, *data.shape)
    f = torch.fft.fft2(x, norm="ortho")
    h, w = data.height, data.width
    for k in range(h):
        for m in range(w):
            other = (-k) % h, (-m) % w
            if other == (k, m):
                torch.testing.assert_close(c[..., k, m], f[..., k, m].real, rtol=0, atol=1e-12)
                assert f[..., k, m].imag.abs().max() < 1e-12
                continue
            energy = c[..., k, m].square() + c[..., other[0], other[1]].square()
            torch.testing.assert_close(energy, 2 * f[..., k, m].abs().square(), rtol=0, atol=1e-11)
            if k * w + m < other[0] * w + other[1]:  # the first of a pair is the cosine, the other the sine
                torch.testing.assert_close(c[..., k, m], math.sqrt(2) * f[..., k, m].real, rtol=0, atol=1e-12)
                torch.testing.assert_close(c[..., other[0], other[1]], math.sqrt(2) * f[..., k, m].imag)


@pytest.mark.parametrize("data", [ODD, EVEN, Grid(1, 4, 5)])
def test_any_numbers_are_the_spectrum_of_a_real_picture(data):
    """back of anything: its spectrum is Hermitian, F(−k) = F(k)*, so nothing of it was lost in .real."""
    c = pictures(2, data).reshape(2, -1, 1)
    x = Fourier(data).back(c)
    f = torch.fft.fft2(x, norm="ortho")
    mirrored = torch.roll(f.flip(-2, -1), (1, 1), (-2, -1))
    torch.testing.assert_close(f, mirrored.conj(), rtol=0, atol=1e-12)
    torch.testing.assert_close(x.flatten(1).norm(dim=1), c.flatten(1).norm(dim=1))


@pytest.mark.parametrize("data", [ODD, EVEN, Grid(1, 1, 6)])
def test_cosine_is_scipys(data):
    x = pictures(3, data)
    expected = torch.tensor(scipy.fft.dctn(x.numpy(), type=2, axes=(-2, -1), norm="ortho"))
    torch.testing.assert_close(Cosine(data).turn(x), expected.reshape(3, -1, 1), rtol=0, atol=1e-12)


def test_frequencies_of_one_size_are_a_group_and_low_ones_come_first():
    group = Fourier(Grid(2, 4, 4)).group.reshape(2, 4, 4) // 2  # // channels: the rank of |k|²
    # |k|² in units of 1/16: rows 0 1 4 1, columns alike; 0 1 2 4 5 8 → ranks 0 … 5
    assert group[0].tolist() == [[0, 1, 3, 1], [1, 2, 4, 2], [3, 4, 5, 4], [1, 2, 4, 2]]
    assert torch.equal(group[0], group[1])
    cosine = Cosine(Grid(1, 3, 3)).group.reshape(3, 3)
    assert torch.equal(cosine, cosine.T)
    assert cosine[0].tolist() == [0, 1, 3]


# ---- principal components ----


def test_principal_components_are_numpys_eigenvectors():
    """Up to sign, which is chosen: the largest entry of each is positive. The largest variance is first."""
    data = Grid(1, 3, 4)
    x = (pictures(500, data) * torch.linspace(3, 0.3, 12).reshape(1, 3, 4)).flatten(1) @ torch.tensor(
        np.linalg.qr(np.random.default_rng(0).normal(size=(12, 12)))[0]
    )
    basis = Principal(data).double()
    basis.fit(lambda: [{"image": x.reshape(-1, 1, 3, 4) + 0.7}])
    values, vectors = np.linalg.eigh(np.cov(x.numpy().T, bias=True))
    expected = torch.tensor(vectors[:, ::-1].T.copy())
    alike = (basis.vectors[0] * expected).sum(1).abs()
    torch.testing.assert_close(alike, torch.ones(12, dtype=torch.float64), rtol=0, atol=1e-9)
    assert (basis.vectors[0].gather(1, basis.vectors[0].abs().argmax(1, keepdim=True)) > 0).all()
    c = basis.turn((x - x.mean(0)).reshape(-1, 1, 3, 4))[..., 0]
    covariance = c.T @ c / 500
    torch.testing.assert_close(covariance, torch.tensor(np.diag(values[::-1].copy())), rtol=0, atol=1e-9)
    assert torch.equal(basis.group[:, 0], torch.arange(12))


def test_each_channel_may_have_its_own():
    """The blocks are what each channel alone would give; a component's group is its rank among all."""
    data = Grid(2, 2, 3)
    x = pictures(400, data) * torch.tensor([1.0, 2.0]).reshape(1, 2, 1, 1)
    basis = Principal(data, joint=False).double()
    basis.fit(lambda: [{"image": x}])
    for channel in range(2):
        alone = Principal(Grid(1, 2, 3)).double()
        alone.fit(lambda channel=channel: [{"image": x[:, channel : channel + 1]}])
        torch.testing.assert_close(basis.vectors[channel], alone.vectors[0], rtol=0, atol=1e-9)
    c = basis.turn(x - x.mean(0))[..., 0]
    within = (c.T @ c / 400).reshape(2, 6, 2, 6)
    for channel in range(2):
        block = within[channel, :, channel]
        torch.testing.assert_close(block, block.diag().diag(), rtol=0, atol=1e-9)
    assert torch.equal((c.square().mean(0)).argsort(descending=True).argsort(), basis.group[:, 0])
    assert basis.group[:, 0].tolist() != list(range(12))  # the second channel is the louder


def test_a_fit_may_see_the_pictures_in_parts():
    """One pass over five batches, uneven, is the fit on all at once; in float32 too, whatever the mean."""
    data = Grid(2, 3, 3)
    x = (pictures(300, data).flatten(1) @ pictures(18, data, 5).flatten(1)).reshape(-1, *data.shape).float() / 8 + 0.4
    whole, parts = Principal(data), Principal(data)
    whole.fit(lambda: [{"image": x}])
    parts.fit(lambda: ({"image": part} for part in x.split(70)))
    torch.testing.assert_close(whole.vectors, parts.vectors, rtol=0, atol=1e-6)
    assert torch.equal(whole.group, parts.group)


def test_an_arbitrary_rotation_is_one_for_each_seed():
    a, b, c = (Arbitrary(Grid(1, 3, 3), seed).matrix for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
