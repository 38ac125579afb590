"""Pictures for people: the right pixels, captions in any script, PNG chunks, curves, nearest training pictures."""

import io
import re
import shutil
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.ft2font import FT2Font
from PIL import Image

from sfumato.data import open_data
from sfumato.report import curves, fonts, neighbours, page, pictures
from sfumato.train.grid import columns_for


def noise(n, side, channels=3, seed=0):
    levels = np.random.default_rng(seed).integers(0, 256, (n, channels, side, side))
    return torch.from_numpy(levels).float() / 127.5 - 1, levels


def test_a_grid_holds_every_pixel_as_a_square():
    """A 10-pixel picture is shown at 130, the first multiple over 128: each pixel is a square of 13 × 13."""
    images, levels = noise(5, 10)
    sheet = np.asarray(pictures.grid(images, columns=2))
    gap, cell = pictures.GAP, 130 + pictures.GAP
    assert sheet.shape == (3 * cell + gap, 2 * cell + gap, 3)
    for i in range(5):
        top, left = gap + i // 2 * cell, gap + i % 2 * cell
        shown = sheet[top : top + 130, left : left + 130]
        assert np.array_equal(shown, levels[i].transpose(1, 2, 0).repeat(13, 0).repeat(13, 1))
    assert (sheet[gap + 2 * cell :, gap + cell :] == 255).all()  # the sixth place is paper
    assert (sheet[:gap] == 255).all()


def test_a_large_picture_is_not_enlarged():
    images, levels = noise(1, 200, channels=1)
    sheet = np.asarray(pictures.grid(images))
    assert np.array_equal(sheet[4:204, 4:204, 0], levels[0, 0])


def test_values_beyond_the_range_are_clipped_not_wrapped():
    assert pictures.eight_bit(torch.tensor([-9.0, -1, 0, 1, 9]).reshape(1, 1, 1, 5)).ravel().tolist() == [
        0,
        0,
        128,  # round half to even, 127.5 → 128
        255,
        255,
    ]


def test_a_caption_stands_under_its_picture_and_nowhere_else():
    images, _ = noise(2, 8)
    with_words = np.asarray(pictures.grid(images, ["a red apple", ""], columns=2))
    under = with_words[4 + 128 : -4]
    assert (under[:, : 4 + 128] < 200).any()
    assert (under[:, 4 + 128 + 4 :] == 255).all()


@pytest.fixture
def only_shipped(monkeypatch):
    """A machine without fonts: Pillow's own is the only one."""
    monkeypatch.setattr(pictures, "font_files", lambda: (fonts.EMBEDDED,))
    pictures._font_file.cache_clear()
    yield
    pictures._font_file.cache_clear()


@pytest.mark.parametrize(
    ("text", "drawn"), [("a red apple", "a red apple"), ("Äpfel für Ödön", "Apfel fur Odon"), ("(3d) #7!", "(3d) #7!")]
)
def test_letters_that_the_shipped_font_has_are_drawn(text, drawn, only_shipped):
    assert pictures.written(text) == drawn


@pytest.mark.parametrize("text", ["красное яблоко", "κόκκινο μήλο"])
def test_other_letters_are_drawn_by_a_font_of_the_system(text, monkeypatch, tmp_path):
    """DejaVu, as matplotlib carries it, in a folder where a system keeps fonts."""
    shutil.copy(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", tmp_path)
    monkeypatch.setattr(fonts, "folders", lambda: [tmp_path])
    fonts.font_files.cache_clear()
    pictures._font_file.cache_clear()
    try:
        assert pictures.written(text) == text
        assert pictures._font_file(text) == str(tmp_path / "DejaVuSans.ttf")
    finally:
        fonts.font_files.cache_clear()
        pictures._font_file.cache_clear()


def test_letters_that_no_font_has_become_code_points(only_shipped):
    """Never a row of empty boxes. The fonts are restricted to the shipped one, so that the machine does not matter."""
    assert pictures.written("红 apple") == "U+7EA2  apple"


def test_the_characters_of_a_font_are_those_that_freetype_finds():
    """Every font that matplotlib carries, and every one of this system, against FreeType's own reading of the table."""
    own = sorted((Path(matplotlib.get_data_path()) / "fonts/ttf").glob("*.ttf"))
    tried = 0
    for path in [*own, *(Path(name) for name in fonts.font_files() if name)]:
        if path.name.startswith("LastResort"):  # one glyph for all characters, table 13: no letters
            continue
        expected = {code for code, glyph in FT2Font(path).get_charmap().items() if glyph}
        found = fonts.characters(str(path))
        if expected <= set(range(0xF000, 0xF100)) | set(range(0x100)):  # a symbol font has no Unicode table
            continue
        assert found == expected, path
        tried += 1
    assert tried >= 10


@pytest.mark.parametrize("content", [b"", b"ttcf", b"\0\1\0\0" + b"\xff" * 60, b"OTTO" + bytes(100)])
def test_what_is_no_font_has_no_characters(content, tmp_path):
    assert fonts.read_characters(content) == frozenset()
    (tmp_path / "a.ttf").write_bytes(content)
    assert fonts.characters(str(tmp_path / "a.ttf")) == frozenset()


@pytest.mark.parametrize(
    "text", ["word " * 60, "Donaudampfschifffahrtsgesellschaftskapitän" * 3, "красное яблоко " * 9, "a\n\tb  c"]
)
def test_wrapped_lines_fit_and_lose_nothing_without_saying_so(text):
    lines = pictures.wrap(text, 128)
    assert 1 <= len(lines) <= pictures.LINES
    assert all(pictures.font_for(line).getlength(line) <= 128 for line in lines)
    joined = "".join(lines).replace(" ", "")
    whole = "".join(text.split())
    assert joined == whole or (joined.endswith("…") and whole.startswith(joined[:-1]))


def test_png_chunks_come_back_in_any_script():
    facts = {"prompt": "红苹果 🍎", "seed": 7, "run": "runs/a", "steps": None, "guidance": ""}
    image = Image.open(io.BytesIO(pictures.png(Image.new("RGB", (2, 2)), facts)))
    assert image.text == {"prompt": "红苹果 🍎", "seed": "7", "run": "runs/a"}


# ---- curves ----


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (0, 10, [0, 2, 4, 6, 8, 10]), (3, 18, [5, 10, 15])],
)
def test_ticks_are_round_numbers(low, high, expected):
    assert curves.ticks(low, high, 5) == pytest.approx(expected)


def test_a_chart_draws_its_points_where_they_are():
    """Two points, linear: the left one at the bottom and the right one at the top, up to 6 % of air."""
    svg = curves.chart({"loss": [(0, 1.0), (10, 2.0)]}, "loss")
    x0, y0, x1, y1 = map(float, re.search(r'class="line c0" d="M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)"', svg).groups())
    assert (x0, x1) == (curves.LEFT, curves.WIDTH - curves.RIGHT)
    plot = curves.HEIGHT - curves.TOP - curves.BOTTOM
    assert y0 - y1 == pytest.approx(plot / 1.12, abs=0.2)


def test_a_chart_of_many_powers_is_logarithmic():
    """1, 10, 100, 1000 at equal steps are a straight line."""
    svg = curves.chart({"loss": [(k, 10.0**k) for k in range(4)]}, "loss")
    heights = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", re.search(r'class="line[^>]*d="([^"]+)', svg)[1])]
    assert np.diff(heights) == pytest.approx([np.diff(heights)[0]] * 3, abs=0.2)


def test_the_bold_line_is_a_median_that_ignores_a_spike():
    points = [(k, 100.0 if k == 500 else 1.0) for k in range(1000)]
    assert all(y == 1.0 for _, y in curves.smooth(points))


@pytest.mark.parametrize("points", [[], [(1, 2.0)], [(1, 0.0), (2, 0.0)], [(1, -5.0), (2, 5.0)]])
def test_small_curves_are_no_trouble(points):
    assert "nan" not in curves.chart({"loss": points}, "loss").lower()


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (12345, "12.3k"), (2.5e6, "2.5M"), (0.0316, "0.0316"), (1.2e-5, "1e-5")]
)
def test_numbers_are_short(value, text):
    assert curves.number(value) == text


# ---- the page ----


def test_what_a_user_wrote_is_text_on_the_page():
    hostile = '<script>alert(1)</script>" onerror="x'
    made = [
        page.paragraph(hostile),
        page.table([(hostile, hostile)], (hostile,)),
        page.figure([Image.new("RGB", (1, 1))], hostile, hostile),
        page.folded(hostile, page.code(hostile)),
        page.section(hostile, "x"),
        page.page(hostile, []),
        curves.chart({hostile: [(0, 1.0)]}, hostile),
    ]
    for html in made:
        assert "<script" not in html
        assert '" onerror' not in html


# ---- neighbours ----


def test_a_copy_is_its_own_nearest_neighbour_in_pixels():
    source = open_data("digits", channels=1)
    rows = [3, 700, 1400]
    images = source.batch(rows)["image"]
    found = neighbours.nearest(images, source, features=False)
    assert found.rows == rows
    assert found.distances == [0, 0, 0]
    assert "pixels" in found.how
    assert f"{len(source):,}" in found.how


def test_the_nearest_is_that_of_a_full_search_and_its_distance_a_root_mean_square():
    source = open_data("digits", channels=1).subset(range(200))
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    everything = source.batch(range(200))["image"]
    rms = (images[:, None] - everything[None]).square().flatten(2).mean(2).sqrt()
    found = neighbours.nearest(images, source, features=False)
    assert found.rows == rms.argmin(1).tolist()
    assert found.distances == pytest.approx(rms.amin(1).tolist(), rel=1e-5)  # float32 sums of 64 squares


def test_neighbours_beside_the_nearest_are_other_pictures():
    """A set that holds each picture three times: the second and third neighbour are no copies of the first."""
    source = open_data("digits", channels=1).subset([row for row in range(20) for _ in range(3)])
    images = source.batch([9, 30])["image"]
    found = neighbours.nearest(images, source, features=False)
    assert found.rows == [9, 30]
    for row, others in zip(found.rows, found.others):
        shown = source.batch([row, *others])["image"]
        assert len(others) == 2
        assert len({bytes(picture.numpy().tobytes()) for picture in shown}) == 3
        distances = [float((picture - shown[0]).square().mean()) for picture in shown]
        assert distances == sorted(distances)


@pytest.mark.parametrize(("n", "columns"), [(1, 1), (4, 2), (6, 3), (7, 3), (8, 4), (10, 5), (12, 4), (13, 4), (16, 4)])
def test_a_sheet_has_no_hole_where_a_wider_one_has_none(n, columns):
    assert columns_for(n) == columns
