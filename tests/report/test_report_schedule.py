"""The figure of schedules: the values behind it, that it can be drawn, and where it is shown."""

import json
import math
import re
import shutil

import pytest
import torch
from PIL import Image

from sfumato.cli import main
from sfumato.core.condition import Condition
from sfumato.core.noise import Noise
from sfumato.priors.diffusion import Learned
from sfumato.recipes import build
from sfumato.report.run import write_report
from sfumato.report.schedule import (
    CELLS,
    CURVES,
    STEPS,
    crossings,
    draw,
    draw_run,
    explanation,
    schedule_of,
    strips,
    summary,
)
from sfumato.train.run import train


def made(name, **dials):
    """A tiny system that has measured 64 pictures: smooth, louder at the top, with noise on them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        system = build(name, size="xs", side=16, channels=1, **dials)
    noise = Noise.shared(0, 64)
    coarse = torch.nn.functional.interpolate(noise.normal(1, 4, 4), (16, 16), mode="bilinear")
    x = (0.4 * coarse + 0.05 * noise.normal(1, 16, 16)).clamp(-1, 1)
    for objective in system.stages().values():
        objective.prepare(lambda: [{"image": x}])
    return system.eval(), x


def ranks(values):
    return values.flatten().argsort(stable=True).argsort().double()


# ---- the values ----


def test_a_crossing_is_found_between_two_times():
    times = torch.tensor([0.0, 0.5, 1.0])
    log_snr = torch.tensor([[4.0, 2, -2], [1, -3, -9], [-1, -2, -3], [5, 4, 3], [2, 0, -2]])
    found = crossings(times, log_snr)
    torch.testing.assert_close(found, torch.tensor([0.75, 0.125, 0.0, 1.0, 0.5]))


@pytest.mark.parametrize("softness", ["0.3", "0.9"])
def test_columns_appear_from_left_to_right(softness):
    """log Σ − γ crosses 0 where g₀ − d + u Δ = log Σ, d = (g₁ − g₀)(1 − s)/s (1 − place): evenly apart, left first."""
    system, _ = made("gud-columns", softness=softness)
    found = schedule_of(system)
    path, s = system.prior.path, float(softness)
    gap = path.high - path.low
    late = gap * (1 - s) / s
    place = torch.arange(16) / 15
    u = (path.variance[0, 0, 0].log() - path.low + late * (1 - place)) / (gap + late)
    expected = 1e-4 + (1 - 1e-4) * u
    torch.testing.assert_close(found.crossing[0], expected.expand(16, 16), rtol=0, atol=1e-5)  # lines are straight
    assert (found.crossing[0].diff(dim=1) < 0).all()
    assert not found.together
    assert found.local
    assert len(found.log_snr) == CURVES


def test_components_by_size_appear_in_the_order_of_their_variances():
    """Spearman's ρ of t_i and Σ_i is 1, whatever the softness; a sharper order is drawn out in time."""
    spans = {}
    for softness in ("0.5", "1", "2"):
        system, _ = made("gud-pca", softness=softness)
        found, variance = schedule_of(system), system.prior.path.variance
        assert torch.equal(ranks(found.crossing), ranks(variance))
        order = found.crossing.flatten().argsort(descending=True)
        assert order[:10].tolist() == list(range(10))  # as the basis ranks them, where variances stand apart
        spans[softness] = float(found.crossing.max() - found.crossing.min())
        assert not found.local
    assert spans["0.5"] > spans["1"] > spans["2"] > 0.1


def test_curves_stand_in_the_order_of_appearance_and_hold_first_and_last():
    system, _ = made("gud-fourier", softness="0.7")
    found = schedule_of(system)
    own = crossings(found.times, found.log_snr)
    assert (own.diff() <= 0).all()
    assert float(own[0]) == pytest.approx(float(found.crossing.max()))
    assert float(own[-1]) == pytest.approx(float(found.crossing.min()))
    assert (found.log_snr.diff(dim=1) <= 1e-5).all()  # noise never lessens with t


def test_each_band_of_wavelets_appears_from_left_to_right():
    system, _ = made("gud-wavelet-columns")
    when = schedule_of(system).crossing[0]
    for rows, columns, _ in system.codec.orthogonal.bands:
        band = when[rows, columns]
        assert (band.diff(dim=1) < 0).all()
        assert torch.equal(band, band[:1].expand_as(band))


def test_what_appears_together_is_said_to():
    system, _ = made("gud-pixel")
    found = schedule_of(system)
    assert found.together
    assert re.search(r"256 components all appear at the same time, around t = 0\.\d\d", summary(found))
    columns = schedule_of(made("gud-columns")[0])
    high, low = float(columns.crossing.max()), float(columns.crossing.min())
    assert summary(columns) == f"Its 256 components appear one after another, from t = {high:.2f} to {low:.2f}."
    assert "bands" in explanation(schedule_of(made("gud-wavelet")[0]))
    assert "bands" not in explanation(columns)


def test_a_learned_schedule_is_one_curve():
    """log SNR − the VDM's spread falls from −g₀ to −g₁, on whatever curve was learned."""
    system, _ = made("vdm")
    path = system.prior.path
    assert isinstance(path, Learned)
    with torch.no_grad():
        path.ends_of_gamma.copy_(torch.tensor([-9.0, 3.0]))
        path.outer.fill_(1.0)
    found = schedule_of(system)
    assert found.learned
    assert found.log_snr.shape == (1, len(found.times))
    ends = 2 * math.log(path.spread) - torch.tensor([-9.0, 3.0])
    torch.testing.assert_close(found.log_snr[0, [0, -1]], ends)
    assert (found.log_snr.diff() < 0).all()
    assert not found.log_snr.requires_grad
    assert "from -4.4 to 7.6" in summary(found)


@pytest.mark.parametrize("name", ["ddpm", "edm", "rectified-flow", "vq-ar", "vae", "cascade"])
def test_what_has_one_given_curve_or_none_has_no_figure(name):
    with torch.random.fork_rng():
        system = build(name, size="xs", side=16)
    assert schedule_of(system) is None
    assert draw(system, None) is None


# ---- the strips ----


@pytest.mark.parametrize("name", ["gud-columns", "gud-pca", "gud-wavelet-columns", "vdm"])
def test_strips_end_in_the_picture_and_in_the_draw_of_the_seed(name):
    """The last of each is what it claims to be; the first is noise, the same for both, whatever its spread."""
    system, x = made(name)
    found = strips(system, x[5], seed=3)
    for strip in (found.forward, found.states, found.guesses):
        assert strip.shape == (CELLS, 1, 16, 16)
        assert strip.abs().max() <= 1
    torch.testing.assert_close(found.forward[-1], x[5], rtol=0, atol=1e-5)
    drawn = system.sample(1, seeds=[3], steps=STEPS, batch=1)[0]
    torch.testing.assert_close(found.states[-1], drawn, rtol=0, atol=1e-5)
    assert torch.equal(found.guesses[-1], found.states[-1])
    assert correlation(found.forward[0], x[5]).abs() < 0.3
    assert correlation(found.forward[0], found.states[0]) > 0.9  # both are of one seed
    assert strips(system, None).forward is None


def test_a_guess_stands_under_the_time_at_which_it_was_made():
    """Cell i shows z at t = 1 − i/10 and x̂(z, t) of that very z, decoded."""
    system, _ = made("gud-columns")
    found, prior = strips(system, None, seed=2), system.prior
    start = Noise.each([2]).normal(*prior.space.shape)
    way = prior.trajectory(Condition.none(1), Noise.each([2]), start=start, steps=STEPS, grid="uniform")
    made_at = {round(float(state.before), 6): state.x for state in way}
    for cell in range(CELLS - 1):
        guess = system.codec.decode(made_at[round(1 - cell / (CELLS - 1), 6)]).clamp(-1, 1)
        torch.testing.assert_close(found.guesses[cell], guess[0], rtol=0, atol=1e-6)


def correlation(a, b):
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]


def test_half_way_the_left_is_a_picture_and_the_right_is_noise():
    """The direction of the column order, by what is seen. (A draw by an untrained net shows nothing of it.)"""
    system, x = made("gud-columns", softness="0.2")
    found = strips(system, x[2], seed=1)
    half = found.forward[CELLS // 2]
    assert correlation(half[..., :5], x[2][..., :5]) > 0.99
    assert correlation(half[..., 11:], x[2][..., 11:]).abs() < 0.3


# ---- the figure ----


@pytest.mark.parametrize("name", ["gud-columns", "gud-pca", "gud-wavelet", "gud-pixel", "gud-latent", "vdm"])
def test_every_kind_of_figure_can_be_drawn(name):
    system, x = made(name)
    image, told = draw(system, x[0])
    assert image.mode == "RGB"
    assert 1800 < image.width < 2400
    assert told == summary(schedule_of(system))
    without, _ = draw(system, None)
    assert without.height < image.height  # a strip less
    assert len(image.getcolors(2**24)) > 500  # curves, colours, pictures: no empty sheet


def test_the_plane_is_dark_where_drawing_begins():
    """The leftmost column's colour is the darker end of the map, the rightmost's the lighter one."""
    from sfumato.report.schedule import _colour

    found = schedule_of(made("gud-columns")[0])
    colours = torch.tensor(_colour(found)(found.crossing[0, 0].numpy()))[:, :3].mean(1)
    assert colours[0] < 0.3 < 0.45 < colours[-1]
    assert (colours.diff() > 0).float().mean() > 0.8


# ---- where it is shown ----


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("schedule") / "tiny"
    train("gud-wavelet-columns", "digits", out=out, size="xs", side=16, steps=2, batch=8, quiet=True)
    return out


def told(capsys, *words):
    assert main([str(word) for word in words]) == 0
    return capsys.readouterr()


def test_info_draws_it_and_says_so(run, capsys):
    facts = json.loads(told(capsys, "info", run, "--json").out)
    place = run / "schedule.png"
    assert facts["schedule"] == str(place)
    image = Image.open(place)
    assert image.width > 1800
    assert image.text["run"] == str(run)
    assert image.text["summary"] == facts["order"]
    assert facts["order"].startswith("Its 256 components appear one after another")
    assert f"See {place}" in told(capsys, "info", run).out


def test_the_report_has_it_with_a_sentence(run):
    html = write_report(run, samples=1).read_text()
    assert "<h2>What comes when</h2>" in html
    section = html.split("<h2>What comes when</h2>")[1].split("</section>")[0]
    assert "256 components appear one after another" in section
    assert section.count("<img") == 1


def test_without_data_or_a_model_there_is_less_and_no_failure(run, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    request = json.loads((folder / "train.json").read_text())
    (folder / "train.json").write_text(json.dumps(request | {"data": "moved/away"}))
    facts = json.loads(told(capsys, "info", folder, "--json").out)
    whole, less = Image.open(run / "schedule.png"), Image.open(facts["schedule"])
    assert less.height < whole.height
    shutil.rmtree(folder / "model")
    said = told(capsys, "info", folder, "--json")
    assert "schedule" not in json.loads(said.out)
    assert "could not be drawn" in said.err
    assert "no model yet" in said.err


def test_runs_with_one_curve_get_no_figure(tmp_path, capsys):
    train("ddpm", "digits", out=tmp_path / "run", size="xs", side=8, steps=1, batch=2, quiet=True)
    assert "schedule" not in json.loads(told(capsys, "info", tmp_path / "run", "--json").out)
    assert not (tmp_path / "run" / "schedule.png").exists()
    assert draw_run(type("Opened", (), {"system": build("ddpm", size="xs")})()) is None
