"""A mask is read by one rule, decided by what the file holds; the picture keeps all that it had outside the hole."""

import io

import numpy as np
import pytest
from PIL import Image

from sfumato.core.errors import DataError, UsageError
from sfumato.data import masks
from sfumato.data.decode import layered

BOX = (slice(6, 12), slice(8, 20))  # rows, columns of the hole


def picture(width=32, height=24, mode="RGB"):
    values = np.random.default_rng(0).integers(0, 256, (height, width, len(mode)), dtype=np.uint8)
    return Image.fromarray(values if len(mode) > 1 else values[..., 0], mode)


def hole(width=32, height=24):
    found = np.zeros((height, width), bool)
    found[BOX] = True
    return found


def painted_on(colour, alpha, ground=(0, 0, 0)):
    """A mask whose hole has one colour and α, and the rest another."""
    values = np.zeros((24, 32, 4), np.uint8)
    values[..., :3], values[..., 3] = ground, 255 - alpha
    values[BOX] = (*colour, alpha)
    return Image.fromarray(values, "RGBA")


def erased():
    values = np.dstack([np.asarray(picture()), np.full((24, 32), 255, np.uint8)])
    values[BOX] = (0, 0, 0, 0)
    return Image.fromarray(values, "RGBA")


def grey(dtype=np.uint8):
    return Image.fromarray(hole().astype(dtype) * 255)


MASKS = {
    "white on black": grey(),
    "one bit": grey().convert("1"),
    "white on black, opaque": grey().convert("RGBA"),
    "grey with α": grey().convert("LA"),
    "white strokes on a layer": painted_on((255, 255, 255), 255),
    "red strokes on a layer": painted_on((230, 20, 30), 255),
    "the picture with an erased hole": erased(),
    "black with a transparent hole": painted_on((0, 0, 0), 0),
    "white with a transparent hole": painted_on((255, 255, 255), 0, (255, 255, 255)),
}


@pytest.mark.parametrize("name", MASKS)
def test_every_kind_of_mask_means_its_hole(name):
    found, said = masks.hole_of(MASKS[name], picture(), 16)
    assert np.array_equal(found, hole())
    assert said.endswith("repainted") or "repainted, " in said


def test_a_mask_with_a_transparent_edge_is_black_and_white():
    values = np.dstack([*[np.asarray(grey())] * 3, np.full((24, 32), 255, np.uint8)])
    values[:, :2, 3] = 0
    found, said = masks.hole_of(Image.fromarray(values, "RGBA"), picture(), 16)
    assert np.array_equal(found, hole())
    assert "black and white" in said


@pytest.mark.parametrize("size", [(24, 32), (31, 24), (64, 48), (24, 24)])
def test_another_shape_is_refused(size):
    with pytest.raises(DataError, match=rf"{size[0]}×{size[1]} and the picture 32×24.*or 16×16, the run's"):
        masks.hole_of(Image.new("L", size, 255), picture(), 16)


def test_a_mask_of_the_runs_own_size_lies_on_the_middle_square():
    small = np.zeros((16, 16), np.uint8)
    small[:8] = 255
    found, said = masks.hole_of(Image.fromarray(small), picture(), 16)
    expected = np.zeros((24, 32), bool)
    expected[:12, 4:28] = True
    assert np.array_equal(found, expected)
    assert "middle 24×24" in said


@pytest.mark.parametrize("mask", [Image.new("L", (32, 24), 0), Image.new("RGBA", (32, 24), (0, 0, 0, 255))])
def test_a_mask_without_a_hole_is_refused(mask):
    with pytest.raises(UsageError, match="leaves nothing to repaint"):
        masks.hole_of(mask, picture(), 16)


@pytest.mark.parametrize(
    ("rows", "columns", "place"),
    [
        ((6, 12), (8, 20), (4, 0, 24)),  # within the middle square
        ((0, 3), (0, 5), (0, 0, 24)),
        ((20, 24), (29, 32), (8, 0, 24)),
        ((0, 24), (2, 26), (2, 0, 24)),
    ],
)
def test_the_window_holds_the_hole_and_is_as_central_as_it_can_be(rows, columns, place):
    found = np.zeros((24, 32), bool)
    found[slice(*rows), slice(*columns)] = True
    assert masks.window(found) == place


def test_a_hole_longer_than_a_square_is_refused():
    found = np.zeros((24, 32), bool)
    found[3, :] = True
    with pytest.raises(UsageError, match="32 pixels long, and a square of a 32×24 picture holds 24"):
        masks.window(found)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("channels", ["L", "RGB"])
@pytest.mark.parametrize("side", [16, 24, 48])
def test_what_was_painted_is_put_back(mode, channels, side):
    """Outside the hole every value is as it was, transparency too; inside a constant stays a constant."""
    before = picture(mode=mode)
    place = masks.window(hole())
    colour = 200 if channels == "L" else (10, 20, 30)
    after = masks.put_back(before, Image.new(channels, (side, side), colour), hole(), place)
    assert after.size == before.size
    kept, now = np.asarray(before.convert(after.mode)), np.asarray(after)
    assert np.array_equal(now[~hole()], kept[~hole()])
    shown = np.asarray(Image.new(channels, (1, 1), colour).convert(after.mode))[0, 0]
    assert np.array_equal(now[hole()], np.broadcast_to(shown, now[hole()].shape))


@pytest.mark.parametrize("side", [8, 16, 24, 48])
def test_a_system_sees_the_whole_hole(side):
    """Each of its pixels is repainted if any pixel of the picture under it is."""
    place = masks.window(hole())
    left, top, size = place
    seen = masks.reduced(hole(), place, side)
    assert seen.shape == (side, side)
    for y, x in np.argwhere(hole()):
        cell = [(x - left + 0.5) * side / size, (y - top + 0.5) * side / size]
        assert seen[int(cell[1]), int(cell[0])]
    assert seen.sum() <= (6 * side / size + 2) * (12 * side / size + 2)


def test_a_picture_keeps_its_transparency():
    file = io.BytesIO()
    before = picture(mode="RGBA")
    before.save(file, "PNG")
    assert np.array_equal(np.asarray(layered(file.getvalue())), np.asarray(before))
    for mode in ("L", "RGB"):
        file = io.BytesIO()
        picture(mode=mode).save(file, "PNG")
        assert layered(file.getvalue()).mode == mode
