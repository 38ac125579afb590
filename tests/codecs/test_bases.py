"""Pictures in another basis, as an exact codec: what is measured, what a density becomes, what stands behind what."""

import math

import pytest
import torch

from sfumato.codecs.bases import FLOOR, Components, Through, space_of
from sfumato.codecs.orthogonal import Arbitrary, Cosine, Fourier, Identity, Principal, Wavelet
from sfumato.codecs.pixels import Pixels
from sfumato.core.contracts import Codec, Prior
from sfumato.core.errors import Misfit
from sfumato.core.noise import Noise
from sfumato.core.space import Grid, Sequence, Tokens, check, size
from sfumato.systems import System

DATA = Grid(2, 4, 4)
D = size(DATA)

BASES = {
    "pixels": Identity,
    "haar": lambda data: Wavelet(data, 2),
    "db2": lambda data: Wavelet(data, 1, "db2"),
    "cosine": Cosine,
    "fourier": Fourier,
    "principal": Principal,
    "principal, each channel": lambda data: Principal(data, joint=False),
    "arbitrary": Arbitrary,
}


def gaussian(rows: int, seed: int = 0, data: Grid = DATA) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(pictures ~ N(m, C), m, C), float64: neighbours are alike, and every pixel has a mean of its own."""
    generator = torch.Generator().manual_seed(11)
    d = size(data)
    mix = torch.randn(d, d, generator=generator, dtype=torch.float64) * 0.1 + 0.2 * torch.eye(d, dtype=torch.float64)
    mean = 0.3 * torch.randn(d, generator=generator, dtype=torch.float64)
    x = mean + Noise.shared(seed, rows).normal(d).double() @ mix.T
    return x.reshape(-1, *data.shape), mean, mix @ mix.T


def prepared(name: str, exponent: float = 0.0, eight_bit: bool = False, rows: int = 400) -> Components:
    codec = Components(BASES[name](DATA), exponent, eight_bit).double()
    x, _, _ = gaussian(rows)
    codec.prepare(lambda: ({"image": part} for part in x.split(150)))
    return codec


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", BASES)
class TestEveryBasisAndExponent:
    def test_it_is_exact(self, name, exponent):
        codec = prepared(name, exponent)
        x, _, _ = gaussian(5, seed=1)
        z = check(codec.space, codec.encode(x))
        torch.testing.assert_close(codec.decode(z), x, rtol=0, atol=1e-12)
        assert codec.exact
        assert codec.kind == "exact"
        assert torch.equal(codec.encode(x), z)  # deterministic, whatever a prior is shown
        single = codec.float()
        torch.testing.assert_close(single.decode(single.encode(x.float())), x.float(), rtol=0, atol=1e-5)

    def test_its_log_determinant_is_autograds(self, name, exponent):
        codec = prepared(name, exponent)
        x, _, _ = gaussian(3, seed=2)
        z, w = codec.lift(x)
        jacobian = torch.autograd.functional.jacobian(lambda one: codec.encode(one[None])[0].flatten(), x[0])
        expected = torch.linalg.slogdet(jacobian.reshape(D, D)).logabsdet
        torch.testing.assert_close(w, expected.expand(3), rtol=0, atol=1e-9)
        assert torch.equal(z, codec.encode(x))

    def test_a_gaussian_has_the_density_that_it_has(self, name, exponent):
        """log p(x) through the basis and back to the analytic one, with the exact prior over the components."""
        codec = prepared(name, exponent)
        x, mean, covariance = gaussian(6, seed=3)
        system = System(codec, Normal(codec, mean, covariance))
        expected = torch.distributions.MultivariateNormal(mean, covariance).log_prob(x.flatten(1))
        torch.testing.assert_close(system.log_prob(x), expected, rtol=0, atol=1e-8)
        assert system.log_prob_kind == "exact"

    def test_what_is_measured_is_what_the_components_have(self, name, exponent):
        """Σ_i is the mean square over pictures and over the group, plus the floor; z has Σ_i^{1 − r} in its group."""
        codec = prepared(name, exponent)
        x, _, _ = gaussian(400)
        centred = x - codec.mean
        measured = codec.orthogonal.pooled(codec.orthogonal.turn(centred).square().mean(0)) + FLOOR
        torch.testing.assert_close(codec.variance, measured, rtol=1e-9, atol=0)
        square = codec.encode(x).square().mean(0)
        pooled = codec.orthogonal.pooled(square)
        expected = codec.orthogonal.pooled(codec.variance.pow(1 - exponent) * (1 - FLOOR / codec.variance))
        torch.testing.assert_close(pooled, expected, rtol=1e-9, atol=0)
        if codec.orthogonal.local:  # one mean a channel
            torch.testing.assert_close(codec.mean, x.mean((0, -2, -1))[:, None, None].expand(DATA.shape))
        else:
            torch.testing.assert_close(codec.mean, x.mean(0), rtol=0, atol=1e-12)


class Normal(Prior):
    """z of x ~ N(m, C): N(f(m), J C Jᵀ), f the codec."""

    spaces, kind = (Grid, Sequence), "exact"

    def __init__(self, codec, mean, covariance):
        super().__init__()
        self.space = codec.space
        units = torch.eye(D, dtype=torch.float64).reshape(-1, *DATA.shape)
        zero = codec.encode(torch.zeros(1, *DATA.shape, dtype=torch.float64)).flatten(1)
        jacobian = (codec.encode(units).flatten(1) - zero).T
        where = codec.encode(mean.reshape(1, *DATA.shape)).flatten()
        covariance = jacobian @ covariance @ jacobian.T
        self.normal = torch.distributions.MultivariateNormal(where, (covariance + covariance.T) / 2)

    def loss(self, z, condition, noise, progress=1.0, player=0):
        raise NotImplementedError

    def sample(self, condition, noise, *, null=None, guidance=1.0, known=None):
        raise NotImplementedError

    def log_prob(self, z, condition, noise):
        return self.normal.log_prob(z.flatten(1))


# ---- whitening ----


def covariance(z: torch.Tensor) -> torch.Tensor:
    z = z.flatten(1).double()
    return z.T @ z / len(z)


def test_whitened_principal_components_of_the_training_data_have_covariance_one():
    """Exactly, but for the floor of 8 bits that Σ has and these pictures have not: Σ − floor over Σ."""
    codec, (x, _, _) = prepared("principal", 1.0), gaussian(400)
    z = codec.encode(x)
    expected = (1 - FLOOR / codec.variance[:, 0]).diag()
    torch.testing.assert_close(covariance(z), expected, rtol=0, atol=1e-9)


def test_half_way_is_half_way_in_logs():
    """r = 0.5: standard deviations are geometric means of the plain ones and 1."""
    x, _, _ = gaussian(400)
    plain, half, white = (covariance(prepared("principal", r).encode(x)).diag().log() for r in (0.0, 0.5, 1.0))
    torch.testing.assert_close(half, (plain + white) / 2, rtol=0, atol=1e-9)


def test_eight_bit_pictures_are_dequantised_where_a_prior_learns():
    """A prior sees encode(x + u), u ~ U(±½/127.5): its mean is encode(x), it never leaves the bin, and its covariance,
    with that of the data, is what whitening makes 1. Within 5 standard errors: √(2/n) of a variance, 1/√n of others."""
    data = Grid(1, 2, 3)
    levels = Noise.shared(4, 500).integers(256, *data.shape)
    levels[:, :, 1] = levels[:, :, 0] // 2  # two rows that move together, so that small components are little but noise
    x = (levels.double() / 127.5 - 1).float()
    codec = Components(Principal(data), 1.0)
    codec.prepare(lambda: [{"image": x}])
    assert codec.variance.min() < 20 * FLOOR
    noise = Noise.shared(7, 500)
    draws = torch.stack([codec.latent(x, noise) for _ in range(200)])
    n = 500 * 200
    assert not torch.equal(draws[0], draws[1])
    error = (covariance(draws.flatten(0, 1)) - torch.eye(6)).abs()
    assert error.max() < 5 * math.sqrt(2 / n) + 2e-3  # the mean and Σ are stored in float32, of Σ down to 5e-6
    steps = torch.stack([codec.decode(z) for z in draws]) - x
    assert steps.abs().max() <= 0.5 / 127.5 + 1e-6
    assert steps.mean(0).abs().max() < 5 * math.sqrt(FLOOR / 200)
    assert steps.var(0).mean() == pytest.approx(FLOOR, rel=5 * math.sqrt(0.8 / (200 * 3000)))  # Var(u²) = 0.8 Var(u)²
    assert torch.equal(codec.encode(x), codec.encode(x))
    raw = Components(Principal(data), 1.0, eight_bit=False)
    assert torch.equal(raw.latent(x, Noise.shared(7, 500)), raw.encode(x))


def test_bits_of_a_gaussian_through_a_whitened_basis_are_those_of_its_bins():
    """A wide Gaussian of 8-bit values has −log₂ P(k) = −log₂ p(x) + log₂ 127.5 a dimension, up to (bin/σ)²/24 < 1e-4;
    the estimate varies by the dequantisation alone: 64 pictures of 32 values, 200 times, 4 errors < 2e-3 bits."""
    codec = prepared("principal", 1.0, eight_bit=True)
    x, mean, cov = gaussian(64, seed=6)
    x = ((x + 1) * 127.5).round() / 127.5 - 1
    system = System(codec, Normal(codec, mean, cov))
    density = torch.distributions.MultivariateNormal(mean, cov).log_prob(x.flatten(1))
    # E_u log p(x + u) = log p(x) − ½ tr(C⁻¹) Var(u), to second order, which for a Gaussian is all
    expected = -(density - torch.linalg.inv(cov).trace() * FLOOR / 2) / (D * math.log(2)) + math.log2(127.5)
    found = torch.stack([system.bits_per_dim(x, seeds=range(64 * k, 64 * k + 64)).double() for k in range(200)])
    assert float(found.mean()) == pytest.approx(float(expected.mean()), abs=2e-3)


def test_the_measure_of_half_a_million_pictures_is_of_fifty_thousand():
    """prepare reads no more once it has seen enough, in each of its passes."""
    seen = []

    def endless():
        while True:
            seen.append(10_000)
            yield {"image": torch.zeros(10_000, 1, 2, 2)}

    Components(Principal(Grid(1, 2, 2))).prepare(endless)
    assert sum(seen) == 3 * 50_000


# ---- blend, reach, smaller pictures ----


def test_blends_are_blends_of_pictures():
    codec, (x, _, _) = prepared("fourier", 0.5), gaussian(2, seed=8)
    a, b = codec.encode(x[:1]), codec.encode(x[1:])
    assert torch.equal(codec.blend(a, b, 0.0), a)
    torch.testing.assert_close(codec.decode(codec.blend(a, b, 0.25)), torch.lerp(x[:1], x[1:], 0.25))


def test_reach_is_the_bases():
    hole = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    hole[..., 2:] = True
    assert torch.equal(prepared("haar").reach(hole), prepared("haar").orthogonal.reach(hole))
    assert torch.equal(prepared("pixels", 1.0).reach(hole), hole.expand(1, 2, 4, 4))
    with pytest.raises(Misfit, match="Fourier basis"):
        prepared("fourier").reach(hole)


@pytest.mark.parametrize("exponent", [0.0, 1.0])
@pytest.mark.parametrize("factor", [2, 4])
def test_a_smaller_picture_is_a_part_of_a_haar_latent(exponent, factor):
    """Whatever the other components are, the picture's area averages are those that were asked for."""
    codec = prepared("haar", exponent)
    x, _, _ = gaussian(3, seed=9)
    small = torch.nn.functional.avg_pool2d(x, factor)
    value, told = codec.magnify(small)
    torch.testing.assert_close(value[told], codec.encode(x)[told], rtol=0, atol=1e-12)
    anything = torch.where(told, value, Noise.shared(0, 3).normal(*DATA.shape).double())
    average = torch.nn.functional.avg_pool2d(codec.decode(anything), factor)
    torch.testing.assert_close(average, small, rtol=0, atol=1e-12)


def test_a_smaller_picture_of_no_such_size_is_refused():
    with pytest.raises(Misfit, match=r"2 × 2 × 2 or 2 × 1 × 1 values here, not 2 × 3 × 3"):
        prepared("haar").magnify(torch.zeros(1, 2, 3, 3))
    for codec in (prepared("db2"), prepared("fourier"), Pixels(DATA)):
        with pytest.raises(Misfit, match="gud-wavelet"):
            codec.magnify(torch.zeros(1, 2, 2, 2))


# ---- through another codec ----


class Stretch(Codec):
    """z = k x, k learned: exact, log |det| = D log k; it counts how often it was adapted."""

    exact, learned, kind = True, True, "exact"

    def __init__(self, by: float = 3.0):
        super().__init__()
        self.space = self.data = DATA
        self.by = torch.nn.Parameter(torch.tensor(by, dtype=torch.float64))
        self.adapted = 0

    def encode(self, x):
        return x * self.by

    def decode(self, z):
        return z / self.by

    def lift(self, x, noise=None):
        return self.encode(x), (D * self.by.log()).expand(len(x))

    def blend(self, a, b, weight):
        return torch.lerp(a, b, weight)

    def loss(self, batch, player=0, noise=None, progress=1.0):
        return {"size": (self.by - 2).square() + 0 * batch["image"].sum()}

    def adapt(self, batches):
        self.adapted += 1


def through(exponent: float = 1.0) -> Through:
    codec = Through(Stretch(), Components(Principal(DATA), exponent, eight_bit=False)).double()
    x, _, _ = gaussian(400)
    codec.adapt(lambda: [{"image": x}])
    return codec


def test_through_composes():
    codec = through()
    x, _, _ = gaussian(4, seed=1)
    torch.testing.assert_close(codec.encode(x), codec.then.encode(3 * x))
    torch.testing.assert_close(codec.decode(codec.encode(x)), x, rtol=0, atol=1e-12)
    z, w = codec.lift(x)
    jacobian = torch.autograd.functional.jacobian(lambda one: codec.encode(one[None])[0].flatten(), x[0])
    torch.testing.assert_close(w, torch.linalg.slogdet(jacobian.reshape(D, D)).logabsdet.expand(4), rtol=0, atol=1e-9)
    assert torch.equal(codec.latent(x, Noise.shared(0, 4)), z)
    blended = codec.decode(codec.blend(z[:1], z[1:2], 0.25))
    torch.testing.assert_close(blended, torch.lerp(x[:1], x[1:2], 0.25), rtol=0, atol=1e-12)
    assert codec.exact
    assert codec.kind == "exact"


def test_adapting_measures_the_latents_of_the_first():
    """The first is adapted, then the basis is fitted on 3 x: nine times the variances, and white at r = 1."""
    codec, plain = through(), prepared("principal", 1.0)
    assert codec.first.adapted == 1
    torch.testing.assert_close(codec.then.variance - FLOOR, 9 * (plain.variance - FLOOR), rtol=1e-9, atol=0)
    x, _, _ = gaussian(400)
    error = covariance(codec.encode(x)) - torch.eye(D)
    assert error.abs().max() < FLOOR / codec.then.variance.min() + 1e-9


def test_what_learns_of_it_is_the_first():
    codec = through()
    assert codec.learned
    assert codec.stage is codec.first
    assert System(codec).stages() == {"codec": codec.first}
    assert codec.loss({"image": torch.zeros(1, *DATA.shape)})["size"].item() == 1.0


def test_a_hole_reaches_through_both():
    """Cells of 2 × 2 pixels, then a basis over the cells: whatever any pixel under a cell touches."""
    first = Stretch()
    first.space = Grid(2, 2, 2)
    codec = Through(first, Components(Wavelet(Grid(2, 2, 2), 1), eight_bit=False))
    hole = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    hole[..., 0, 0] = True
    assert codec.reach(hole).all()  # one Haar level of a 2 × 2 latent looks at all of it
    assert codec.cell == 4
    local = Through(first, Components(Identity(Grid(2, 2, 2)), eight_bit=False))
    assert local.reach(hole)[0, 0].tolist() == [[True, False], [False, False]]
    assert local.cell == 2


def test_a_basis_that_does_not_fit_is_refused_with_advice():
    with pytest.raises(Misfit, match=r"Stretch yields Grid.*2, height=4.*Build the basis over the codec's space"):
        Through(Stretch(), Components(Cosine(Grid(2, 8, 8))))
    with pytest.raises(Misfit, match=r"Pixels yields Tokens"):
        space_of(Pixels(DATA, "tokens"))
    assert space_of(Stretch()) == DATA


def test_a_cell_is_what_a_layout_says():
    """By default, the pixels of one position; at least one where a pixel is several tokens."""
    first = Stretch()
    assert first.cell == 1
    first.space = Tokens(4, 8, (2, 2))
    assert first.cell == 2
    assert Pixels(DATA, "tokens").cell == 1
    first.space = Sequence(4, 8)
    with pytest.raises(Misfit, match="no layout"):
        first.cell  # noqa: B018
