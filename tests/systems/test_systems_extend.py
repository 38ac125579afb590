"""Pictures that grow, and small ones that get details: what is known stays, what is drawn follows from it."""

import math

import pytest
import torch
from torch import nn

from sfumato.codecs.bases import Components
from sfumato.codecs.orthogonal import Fourier, Identity, Wavelet
from sfumato.core.contracts import Codec, Prior
from sfumato.core.errors import Misfit, UsageError
from sfumato.core.noise import Noise
from sfumato.core.space import Grid
from sfumato.priors.diffusion import Diffusion, Staggered
from sfumato.recipes import build
from sfumato.systems import System
from sfumato.systems.extend import _rolls, continued, default_stride

RHO, SIZE = 0.8, 0.2  # of a first-order autoregression along each row: E[x_j x_{j+k}] = SIZE² RHO^k
WINDOW = Grid(1, 4, 12)


class Double(Codec):
    """z = 2 x, in cells of `cell` pixels: positions are where pixels are, and whoever moves moves by a cell."""

    exact = True

    def __init__(self, cell: int = 1):
        super().__init__()
        self.space = self.data = WINDOW
        self._cell = cell

    @property
    def cell(self):
        return self._cell

    def encode(self, x):
        return 2 * x

    def decode(self, z):
        return z / 2


class Walk(Prior):
    """The autoregression itself, column by column; exact wherever the known columns are the left ones."""

    spaces = (Grid,)
    space = WINDOW

    def loss(self, z, condition, noise, progress=1.0, player=0):
        raise NotImplementedError

    def sample(self, condition, noise, *, null=None, guidance=1.0, known=None, bend=0.0):
        eps = noise.normal(*self.space.shape)
        columns = []
        for j in range(self.space.width):
            free = 2 * SIZE * eps[..., j]
            if columns:
                free = RHO * columns[-1] + math.sqrt(1 - RHO**2) * free + bend
            columns.append(free if known is None else torch.where(known[1][..., j], known[0][..., j], free))
        return torch.stack(columns, -1)


def walk(cell: int = 1) -> System:
    return System(Double(cell), Walk())


def start(n: int, width: int = 12, seed: int = 0) -> torch.Tensor:
    """n pictures of the process, of any width."""
    eps = Noise.shared(seed, n).normal(1, 4, width)
    columns = [SIZE * eps[..., 0]]
    for j in range(1, width):
        columns.append(RHO * columns[-1] + math.sqrt(1 - RHO**2) * SIZE * eps[..., j])
    return torch.stack(columns, -1)


# ---- extend ----


@pytest.mark.parametrize("stride", [1, 4, 6, 11, None])
@pytest.mark.parametrize(("width", "right"), [(12, 1), (12, 25), (40, 7), (3, 30), (1, 5)])
def test_what_is_finished_stays_and_the_width_is_right(stride, width, right):
    x = start(3, width)
    y = walk().extend(x, right, stride=stride)
    assert y.shape == (3, 1, 4, width + right)
    assert torch.equal(y[..., :width], x)
    assert not torch.isclose(y[..., width:], torch.zeros(())).any()


def test_a_longer_extension_begins_with_the_shorter_one():
    system, x = walk(), start(2)
    long = system.extend(x, 40, stride=5, seeds=[3, 9])
    for right in (1, 5, 6, 23):
        assert torch.equal(system.extend(x, right, stride=5, seeds=[3, 9]), long[..., : 12 + right])


def test_a_picture_depends_on_its_own_seed_alone():
    """Bitwise: alone, elsewhere, among others; and each window has numbers of its own."""
    system, x = walk(), start(1).expand(5, -1, -1, -1)
    many = system.extend(x, 30, seeds=range(5), batch=2)
    assert torch.equal(many[3:4], system.extend(x[:1], 30, seeds=[3], batch=2))
    assert torch.equal(many[[4, 1]], system.extend(x[:2], 30, seeds=[4, 1], batch=2))
    long = system.extend(x[:1], 12, stride=6, seeds=[0])
    fresh = (long[..., 12:] - RHO * long[..., 11:-1]).unflatten(-1, (2, 6))  # innovations of two windows
    assert not torch.isclose(fresh[..., 0, :], fresh[..., 1, :], atol=1e-5).any()


@pytest.mark.parametrize("stride", [3, 6, 10])
def test_the_process_goes_on_across_every_seam(stride):
    """Innovations (x_j − ρ x_{j−1}) / √(1 − ρ²) of the drawn columns are N(0, SIZE²), and know nothing of the columns
    before: 2,000 pictures of 4 rows, so 4 standard errors are 4 / √8000 for a correlation and 4 √(2/8000) for a
    variance, in units of SIZE²; the largest of 30 columns is held to 5. ρ itself follows from the two."""
    y = walk().extend(start(2000), 30, stride=stride, batch=500)[:, 0].flatten(0, 1) / SIZE
    drawn = torch.arange(12, 42)
    fresh = (y[:, drawn] - RHO * y[:, drawn - 1]) / math.sqrt(1 - RHO**2)
    assert (fresh.square().mean(0) - 1).abs().max() < 5 * math.sqrt(2 / 8000)
    assert fresh.mean(0).abs().max() < 5 / math.sqrt(8000)
    for back in (1, 2, 5):
        assert (fresh * y[:, drawn - back]).mean(0).abs().max() < 5 / math.sqrt(8000)
    seams = torch.arange(12, 42, stride)
    at_seams = (y[:, seams] * y[:, seams - 1]).mean()
    assert abs(float(at_seams) - RHO) < 4 * math.sqrt((1 + RHO**2) / 8000)  # every seam alike: no smaller than one


class Exact(nn.Module):
    """E[x | z] of N(0, C) at any noise state γ, whoever asks: what a perfectly trained net is."""

    def __init__(self, covariance: torch.Tensor):
        super().__init__()
        self.covariance = covariance

    def forward(self, z, gamma, condition):
        c, flat, gamma = self.covariance, z.flatten(1).double(), gamma.flatten(1).double()
        alpha, variance = torch.sigmoid(-gamma).sqrt(), torch.sigmoid(gamma)
        noisy = alpha[:, :, None] * c * alpha[:, None, :] + torch.diag_embed(variance)
        return (alpha * torch.linalg.solve(noisy, flat) @ c).reshape(z.shape).to(z)


def covariance_of_rows(width: int) -> torch.Tensor:
    places = torch.arange(width, dtype=torch.float64)
    return SIZE**2 * RHO ** (places[:, None] - places).abs()


def columns(softness: float = 0.3, width: int = 16, steps: int = 120) -> System:
    """The exact denoiser of the process, column by column."""
    data = Grid(1, 1, width)
    basis = Identity(data)
    column = basis.centres()[1]
    place = (column - column.min()) / (column.max() - column.min())
    path = Staggered(basis.group, place, softness=softness, low=-11.0, sized=False)
    system = System(
        Components(basis, eight_bit=False), Diffusion(data, Exact(covariance_of_rows(width)), path, "data", steps=steps)
    )
    path.variance.fill_(SIZE**2)
    return system


def assert_the_process_goes_on(y: torch.Tensor, first: int, slack: float) -> None:
    """Innovations of the columns from `first` on are N(0, 1), and know nothing of the columns before: y (n, width) in
    units of SIZE; 4 standard errors, and `slack` for the solver."""
    drawn, n = torch.arange(first, y.shape[-1]), len(y)
    fresh = (y[:, drawn] - RHO * y[:, drawn - 1]) / math.sqrt(1 - RHO**2)
    assert (fresh.square().mean(0) - 1).abs().max() < 4 * math.sqrt(2 / n) + slack
    assert fresh.mean(0).abs().max() < 4 / math.sqrt(n)
    for back in (1, 2, 3):
        assert (fresh * y[:, drawn - back]).mean(0).abs().max() < 4 / math.sqrt(n) + slack


@pytest.mark.parametrize(("softness", "steps"), [(1.0, 40), (0.3, 80)])
def test_a_diffusion_that_holds_the_finished_columns_continues_the_process(softness, steps):
    """GUD's soft conditioning with the exact denoiser: the same oracle, through the whole sampler, all columns at once
    and from left to right. 4 standard errors are 0.13 of a variance and 0.09 of a correlation; the solver's own error
    is below 0.01 at these steps, measured with twice as many (a column has a third of them where s = 0.3)."""
    x = start(2000, 8)[:, :, :1]
    y = columns(softness, 8, steps).extend(x, 12, stride=4, batch=500)[:, 0, 0] / SIZE
    assert torch.equal(y[:, :8], x[:, 0, 0] / SIZE)
    assert_the_process_goes_on(y, 8, slack=0.01)


def test_a_stride_is_a_multiple_of_the_cell():
    system = walk(cell=4)
    assert default_stride(system) == 4
    assert default_stride(walk()) == 6
    assert system.extend(start(1, 14), 9).shape[-1] == 23
    for stride in (3, 0, 12, -4):
        with pytest.raises(UsageError, match=r"multiple of 4 below the window's 12 pixels.*4 is usual"):
            system.extend(start(1), 4, stride=stride)


def test_what_cannot_be_extended_is_refused():
    with pytest.raises(UsageError, match="at least one pixel"):
        walk().extend(start(1), 0)
    with pytest.raises(UsageError, match="4 pixels high and at least 1 wide here, not 3 × 12"):
        walk().extend(start(1)[:, :, :3], 4)
    with pytest.raises(UsageError, match="at least 4 wide"):
        walk(cell=4).extend(start(1, 3), 4)
    with pytest.raises(UsageError, match="no sampling option 'bent'"):
        walk().extend(start(1), 4, bent=1.0)
    everywhere = System(Components(Fourier(WINDOW)))
    with pytest.raises(Misfit, match=r"Fourier basis along.*wavelet basis to extend"):
        everywhere.extend(start(1), 4)


class Watched(Walk):
    """Remembers how many columns were held at each call."""

    def __init__(self):
        super().__init__()
        self.held = []

    def sample(self, condition, noise, *, null=None, guidance=1.0, known=None):
        self.held.append(int(known[1][0, 0, 0].sum()))
        assert known[1][..., : self.held[-1]].all()
        return super().sample(condition, noise, known=known)


@pytest.mark.parametrize(
    ("cell", "width", "stride", "held"),
    [(1, 12, 6, [6, 6]), (1, 40, 4, [8, 8, 8]), (1, 3, 6, [3, 6]), (4, 6, 4, [4, 8]), (4, 14, 4, [8, 8, 8])],
)
def test_a_window_holds_what_fits_in_whole_cells(cell, width, stride, held):
    """Of a narrow picture all the cells that are whole, the last ones; from then on a window less a stride."""
    prior = Watched()
    System(Double(cell), prior).extend(start(1, width), 12, stride=stride, batch=1)
    assert prior.held == held


def test_windows_are_counted_and_options_are_handed_on():
    seen = []
    y = walk().extend(start(2), 13, stride=6, watch=lambda done, total: seen.append((done, total)), batch=1, bend=1.0)
    assert seen == [(1, 6), (2, 6), (3, 6), (4, 6), (5, 6), (6, 6)]
    assert y[..., 14:].mean() > 0.5  # columns drift upwards, and are cut at 1


def test_the_border_is_mirrored_for_the_encoder():
    x = torch.tensor([1.0, 2, 3]).reshape(1, 1, 1, 3)
    assert continued(x, 8).flatten().tolist() == [1, 2, 3, 3, 2, 1, 1, 2]
    assert torch.equal(continued(x, 3), x)


LAID_OUT = ["ddpm", "edm", "rectified-flow", "vdm", "ldm", "dit", "vq-ar", "gud-pixel", "gud-columns"]
LAID_OUT += ["gud-wavelet", "gud-wavelet-columns"]


def made(name: str, side: int = 16, **dials) -> System:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        system = build(name, size="xs", side=side, **dials)
    for objective in system.stages().values():
        objective.prepare(lambda: [{"image": start(8, side).repeat(1, 3, -(-side // 4), 1)[:, :, :side]}])
    return system.eval()


@pytest.mark.parametrize("name", LAID_OUT)
def test_every_recipe_with_a_layout_extends(name):
    system = made(name)
    x = start(2, 23).repeat(1, 3, 4, 1)
    y = system.extend(x, 19, **({} if name == "vq-ar" else {"steps": 2}))
    assert y.shape == (2, 3, 16, 42)
    assert torch.equal(y[..., :23], x)
    assert y[..., 23:].abs().max() <= 1
    assert y[..., 23:].std() > 0


@pytest.mark.parametrize("name", ["gud-pca", "gud-fourier", "gud-latent"])
def test_every_recipe_without_says_so(name):
    with pytest.raises(Misfit, match="Take the pixel or the wavelet basis to extend"):
        made(name).extend(torch.zeros(1, 3, 16, 16), 8)


# ---- upscale ----


def smooth_covariance(data: Grid) -> torch.Tensor:
    """SIZE² e^{−distance / 2} between the pixels of one channel."""
    y, x = torch.meshgrid(*[torch.arange(float(n)) for n in (data.height, data.width)], indexing="ij")
    place = torch.stack([y.flatten(), x.flatten()], 1).double()
    return SIZE**2 * (-torch.cdist(place, place) / 2).exp()


@pytest.mark.parametrize("size_order", [0.0, 1.5])
@pytest.mark.parametrize("factor", [2, 4])
def test_details_are_those_of_the_conditional_gaussian(factor, size_order):
    """One small picture, 3,000 draws with the exact denoiser, all components at once or coarse ones first: mean and
    covariance of the pixels given their area averages are the analytic ones, within 4.5 standard errors (of 16 means,
    and 136 covariances) and 0.01 of SIZE² for the solver. The averages are those given, to float32."""
    data = Grid(1, 4, 4)
    basis = Wavelet(data, 2)
    units = torch.eye(16, dtype=torch.float64)
    u = basis.turn(units.reshape(-1, 1, 4, 4)).flatten(1).T
    c = smooth_covariance(data)
    path = Staggered(basis.group, size=size_order, low=-11.0, sized=False, clip=False)
    turned = u @ c @ u.T
    path.variance.copy_(turned.diag().reshape(1, 4, 4))
    prior = Diffusion(data, Exact(turned), path, "data", steps=40)
    system = System(Components(basis, eight_bit=False), prior)
    n = 3000
    small = 0.1 * torch.randn(1, 1, 4 // factor, 4 // factor, generator=torch.Generator().manual_seed(2))
    y = system.upscale(small.expand(n, -1, -1, -1), batch=500).double()
    average = nn.functional.avg_pool2d(y, factor)
    torch.testing.assert_close(average, small.double().expand_as(average), rtol=0, atol=1e-6)
    pool = nn.functional.avg_pool2d(units.reshape(-1, 1, 4, 4), factor).flatten(1).T  # means as a matrix
    gain = c @ pool.T @ torch.linalg.inv(pool @ c @ pool.T)
    mean, left = gain @ small.flatten().double(), c - gain @ pool @ c
    flat = y.flatten(1)
    error = (flat.mean(0) - mean).abs() / (left.diag() / n).sqrt()
    assert error.max() < 4.5
    found = torch.cov(flat.T)
    spread = ((left.diag()[:, None] * left.diag() + left.square()) / n).sqrt()
    assert ((found - left).abs() - 4.5 * spread).max() < 0.01 * SIZE**2


@pytest.mark.parametrize("name", ["gud-wavelet", "gud-wavelet-columns"])
@pytest.mark.parametrize("factor", [2, 4, 8])
def test_an_untrained_run_over_wavelets_keeps_the_averages_too(name, factor):
    """What is known does not depend on what was learned; where no pixel is cut at ±1, the averages are exact."""
    system = made(name)
    small = 0.2 * start(2, 16 // factor)[:, :, : 16 // factor].repeat(1, 3, 4, 1)[:, :, : 16 // factor]
    y = system.upscale(small, steps=2)
    assert y.shape == (2, 3, 16, 16)
    inside = y.abs().amax((1, 2, 3)) < 1
    average = nn.functional.avg_pool2d(y, factor)
    torch.testing.assert_close(average[inside], small[inside], rtol=0, atol=1e-5)
    assert inside.any()
    assert not torch.equal(y[0], y[1])


def test_what_cannot_be_upscaled_is_refused():
    with pytest.raises(Misfit, match=r"No part of what Components yields.*gud-wavelet"):
        made("gud-columns").upscale(torch.zeros(1, 3, 8, 8))
    with pytest.raises(Misfit, match=r"3 × 8 × 8 or 3 × 4 × 4 or 3 × 2 × 2 values here, not 3 × 5 × 5"):
        made("gud-wavelet").upscale(torch.zeros(1, 3, 5, 5))


# ---- an order that rolls along ----


@pytest.mark.parametrize("solver", ["dpm++2m", "ddim", "sde-dpm++2m"])
def test_a_rolling_order_continues_the_process(solver):
    """The same oracle: innovations of what is drawn are N(0, SIZE²) and know nothing of the columns before, at the seam
    to the picture that was given and at none other. Nine turns of 2 columns; 4 standard errors of 2,000 pictures, and
    0.02 for the solvers, of which ddim is the coarsest (its error halves with twice the steps)."""
    system = columns()
    steps = 400 if solver == "ddim" else 120
    x = start(2000, 16)[:, :, :1]
    y = system.extend(x, 22, stride=2, batch=500, solver=solver, steps=steps)[:, 0, 0] / SIZE
    assert torch.equal(y[:, :16], x[:, 0, 0] / SIZE)
    assert_the_process_goes_on(y, 16, slack=0.02)


def test_a_rolling_order_rolls_where_it_can_and_a_longer_one_begins_with_the_shorter():
    system, x = columns(steps=20), start(3, 16)[:, :, :1]
    assert default_stride(system) == 2
    assert _rolls(system, 2, {}) is not None
    assert _rolls(system, 2, {"stop": 0.2}) is None  # an option of a whole window
    assert _rolls(system, 8, {}) is None  # too little would be finished beside the ramp
    assert _rolls(system, 2, {"softness": 0.6}) is None
    assert _rolls(columns(1.0), 2, {}) is None
    long = system.extend(x, 31, seeds=[4, 5, 6], batch=2)
    for right in (1, 2, 9, 30):
        assert torch.equal(system.extend(x, right, seeds=[4, 5, 6], batch=2), long[..., : 16 + right])
    assert torch.equal(system.extend(x[1:2], 31, seeds=[5], batch=2), long[1:2])
    for width in (1, 3, 40):  # what is there may be less than what a turn begins with, or more than a window
        assert system.extend(start(1, width)[:, :, :1], 9, batch=1).shape[-1] == width + 9


def test_turns_are_counted():
    seen = []
    columns(steps=20).extend(start(3, 16)[:, :, :1], 9, watch=lambda done, total: seen.append((done, total)), batch=2)
    assert seen[-1][0] == seen[-1][1]
    assert seen == sorted(seen)


@pytest.mark.parametrize("name", ["gud-columns", "gud-wavelet-columns"])
def test_a_move_carries_the_schedule_along(name):
    """γ a stride further on and a turn earlier is γ where it was, component by component; what comes in is noise, and
    what is finished stays so. A slope of γ is 100 at most, and u is known to float32."""
    system = made(name, 64, softness="0.3")
    found = _rolls(system, 8, {})
    assert found is not None, name
    rolling, done = found
    assert done > 16
    u = lambda value: torch.full((1, 1, 1, 1), value)
    before, after = rolling.path.rate(u(rolling.low))[0], rolling.path.rate(u(rolling.high))[0]
    moved = rolling.move(before)
    torch.testing.assert_close(after[:, ~rolling.fresh], moved[:, ~rolling.fresh], rtol=0, atol=2e-3)
    end = rolling.path.rate(u(1.0))[0]
    torch.testing.assert_close(after[:, rolling.fresh], end[:, rolling.fresh], rtol=0, atol=2e-3)
    assert torch.equal(before[:, rolling.done], rolling.path.rate(u(0.0))[0][:, rolling.done])


def test_other_orders_do_not_roll():
    for order in ("rows", "blocks"):
        assert _rolls(made("gud-columns", 32, softness="0.2", order=order), 4, {}) is None
    assert _rolls(made("gud-wavelet", 32), 8, {}) is None


def test_rolling_without_a_condition_refuses_guidance_as_sampling_does():
    with pytest.raises(UsageError, match="Guidance needs a condition"):
        columns(steps=20).extend(start(1, 16)[:, :, :1], 4, guidance=2.0)


@pytest.mark.parametrize(("name", "value"), [("softness", "soft"), ("steps", 2.5), ("interval", 3)])
def test_rolling_looks_at_its_options_as_sampling_does(name, value):
    with pytest.raises(UsageError, match=f"{name} takes .*, not {value!r}"):
        columns(steps=20).extend(start(1, 16)[:, :, :1], 4, **{name: value})
