"""Odd pictures: the right pixels, or an ImageError with the right reason; nothing else."""

from __future__ import annotations

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from sfumato.core.errors import ImageError, UsageError
from sfumato.data.decode import MAX_PIXELS, background_color, decode, header, read

RNG = np.random.default_rng(0)


def saved(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noisy(height: int = 24, width: int = 32, channels: int = 3) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, channels), dtype=np.uint8)


PICTURE = noisy()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_formats_give_their_pixels(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    assert (decode(saved(Image.fromarray(PICTURE), kind, **options)) == PICTURE).all()


def test_jpeg_is_close_on_a_smooth_picture():
    """Quality 95 on a ramp: within 4 levels (quantisation steps there are 1 to 4)."""
    ramp = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1))[..., None].repeat(3, -1)
    assert abs(decode(saved(Image.fromarray(ramp), "JPEG", quality=95)).astype(int) - ramp).max() <= 4


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("part", [0.02, 0.3, 0.5, 0.9])
def test_a_picture_cut_short_is_refused(kind, part):
    """Never half a picture: every format, cut early and late."""
    data = saved(Image.fromarray(noisy(96, 96)), kind)
    with pytest.raises(ImageError):
        decode(data[: int(len(data) * part)])


def test_a_progressive_jpeg_cut_in_half_is_refused():
    data = saved(Image.fromarray(noisy(96, 96)), "JPEG", progressive=True)
    with pytest.raises(ImageError):
        decode(data[: len(data) // 2])


def test_every_flipped_bit_of_a_png_is_found():
    """All bits of a small PNG, its signature among them: each is refused."""
    data = saved(Image.fromarray(PICTURE[:4, :4]))
    for at in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[at] ^= 1 << bit
            with pytest.raises(ImageError):
                decode(bytes(damaged))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_random_damage_raises_only_our_error(kind):
    """200 pictures a format, each with one to eight bytes replaced at random places."""
    data = saved(Image.fromarray(PICTURE), kind)
    rng = np.random.default_rng(1)
    for _ in range(200):
        damaged = bytearray(data)
        for at in rng.integers(0, len(data), rng.integers(1, 9)):
            damaged[at] = rng.integers(0, 256)
        try:
            pixels = decode(bytes(damaged), max_pixels=10_000)
        except ImageError:
            continue
        assert pixels.dtype == np.uint8
        assert pixels.shape[2] == 3


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"this is text, whatever its name says", "not an image"),
        (b"\x89PNG\r\n\x1a\n", "truncated"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
        (b"P6 1 1 255 abc", "not an image"),
    ],
)
def test_what_is_no_picture_is_named(data, reason):
    with pytest.raises(ImageError) as caught:
        decode(data, "odd.jpg")
    assert caught.value.reason == reason
    assert "odd.jpg" in str(caught.value)


@pytest.mark.parametrize("kind", ["ICO", "TGA", "PCX", "PPM", "JPEG2000", "EPS", "PDF"])
def test_other_formats_are_not_opened(kind):
    with pytest.raises(ImageError):
        decode(saved(Image.fromarray(PICTURE), kind))


def one_bit_bomb(side: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    rows = zlib.compress(bytes((side // 8 + 1) * side), 9)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [12_000, 60_000])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bomb_is_refused_by_its_header(side, monkeypatch):
    """12000² stands between Pillow's warning and its error, 60000² beyond both; no pixel may be decoded."""
    data = one_bit_bomb(side) if side == 12_000 else one_bit_bomb(80)
    if side == 60_000:
        head = bytearray(data)
        head[16:24] = struct.pack(">II", side, side)
        head[29:33] = struct.pack(">I", zlib.crc32(bytes(head[12:29])))
        data = bytes(head)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("a bomb was decoded"))
    with pytest.raises(ImageError) as caught:
        decode(data)
    assert caught.value.reason == "too large"


def test_the_largest_allowed_size_is_exactly_max_pixels():
    data = saved(Image.new("1", (100, 100)))
    assert decode(data, max_pixels=10_000).shape == (100, 100, 3)
    with pytest.raises(ImageError):
        decode(data, max_pixels=9_999)
    assert MAX_PIXELS == 64_000_000


def test_sixteen_bit_grey_is_scaled():
    """Plain Pillow would clip at 255; ours is round(k/257) on every value, for PNG and TIFF."""
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = np.rint(values / 257).astype(np.uint8)
    for kind in ("PNG", "TIFF"):
        assert (decode(saved(Image.fromarray(values), kind))[..., 0] == expected).all()


def test_sixteen_bit_grey_with_a_transparent_value():
    values = np.array([[0, 65535], [30000, 12345]], np.uint16)
    data = saved(Image.fromarray(values), "PNG", transparency=12345)
    got = decode(data, background=(1, 2, 3))
    assert got[1, 1].tolist() == [1, 2, 3]
    assert got[1, 0].tolist() == [round(30000 / 257)] * 3


def test_floats_are_scaled_or_refused():
    ramp = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    assert (decode(saved(Image.fromarray(ramp), "TIFF"))[..., 0] == np.rint(ramp * 255)).all()
    for wrong in (ramp * 255, ramp - 0.5, np.where(ramp > 0.5, np.nan, ramp), ramp + np.inf):
        with pytest.raises(ImageError) as caught:
            decode(saved(Image.fromarray(wrong.astype(np.float32)), "TIFF"))
        assert caught.value.reason == "float range"


def test_wide_integers_are_refused():
    with pytest.raises(ImageError) as caught:
        decode(saved(Image.fromarray(np.full((4, 4), 70_000, np.int32)), "TIFF"))
    assert caught.value.reason == "integer range"


def test_cmyk_is_converted():
    """No ink is white, cyan keeps green and blue, black ink is black; JPEG at quality 100 within 3 levels."""
    inks = {(0, 0, 0, 0): (255, 255, 255), (255, 0, 0, 0): (0, 255, 255), (0, 0, 0, 255): (0, 0, 0)}
    for ink, color in inks.items():
        image = Image.new("CMYK", (16, 16), ink)
        for kind, options in (("JPEG", {"quality": 100}), ("TIFF", {})):
            got = decode(saved(image, kind, **options))
            assert abs(got.astype(int) - color).max() <= 3, (ink, kind)


def test_transparency_shows_the_background_and_not_what_lies_under_it():
    """RGBA all transparent over noise is the background, exactly."""
    rgba = np.concatenate([PICTURE, np.zeros((*PICTURE.shape[:2], 1), np.uint8)], -1)
    for background, color in (("white", (255, 255, 255)), ("#102030", (16, 32, 48)), ((7, 8, 9), (7, 8, 9))):
        assert (decode(saved(Image.fromarray(rgba)), background=background) == color).all()


def test_half_transparency_is_the_weighted_mean():
    rgba = np.zeros((1, 256, 4), np.uint8)
    rgba[..., 0], rgba[..., 3] = 200, np.arange(256)
    expected = 200 * np.arange(256) / 255
    got = decode(saved(Image.fromarray(rgba)), background="black")[0, :, 0]
    assert abs(got - expected).max() <= 1  # Pillow rounds in two steps


def test_grey_with_alpha():
    la = np.array([[[100, 0], [100, 255]]], np.uint8)
    assert decode(saved(Image.fromarray(la, "LA")), channels=1, background="white")[0, :, 0].tolist() == [255, 100]


@pytest.mark.parametrize("clear", [1, b"\xff\x00\xff"])
def test_a_palette_with_transparency(clear):
    """One entry clear (an index, or an alpha per entry): that entry shows the background, the others their colour."""
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    got = decode(saved(image, "PNG", transparency=clear), background=(9, 9, 9))
    assert got[0].tolist() == [[255, 0, 0], [9, 9, 9], [0, 0, 255]]


def test_rgb_with_a_transparent_color():
    pixels = np.array([[[255, 0, 0], [0, 255, 0]]], np.uint8)
    got = decode(saved(Image.fromarray(pixels), "PNG", transparency=(255, 0, 0)), background=(5, 6, 7))
    assert got[0].tolist() == [[5, 6, 7], [0, 255, 0]]


def test_palette_and_one_bit_are_expanded():
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    image.putpalette([1, 2, 3, 4, 5, 6])
    assert decode(saved(image))[0].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert decode(saved(Image.fromarray(np.array([[True, False]]))))[0].tolist() == [[255] * 3, [0] * 3]


UPRIGHT = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
STORED = {  # what has to be stored so that the flag's rotation or mirroring gives UPRIGHT (EXIF 2.3, tag 0x0112)
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.T,
    6: np.rot90(UPRIGHT, 1),
    7: UPRIGHT[::-1, ::-1].T,
    8: np.rot90(UPRIGHT, -1),
}


@pytest.mark.parametrize("flag", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_exif_orientation(flag, kind):
    exif = Image.Exif()
    exif[0x0112] = flag
    options = {"exif": exif, **({"lossless": True} if kind == "WEBP" else {})}
    if kind == "TIFF":
        options = {"tiffinfo": {0x0112: flag}}
    rgb = np.ascontiguousarray(STORED[flag])[..., None].repeat(3, -1)
    data = saved(Image.fromarray(rgb), kind, **options)
    assert (decode(data)[..., 0] == UPRIGHT).all()
    assert header(data)[1] == (3, 2)


@pytest.mark.parametrize("flag", range(1, 9))
def test_exif_orientation_of_a_jpeg(flag):
    """Blocks of 16 px, so that JPEG's loss stays within 6 levels of flat areas."""
    exif = Image.Exif()
    exif[0x0112] = flag
    big = np.kron(STORED[flag], np.ones((16, 16), np.uint8)).astype(np.uint8)
    got = decode(saved(Image.fromarray(big), "JPEG", exif=exif, quality=98), channels=1)[8::16, 8::16, 0]
    assert abs(got.astype(int) - UPRIGHT).max() <= 6


def test_a_broken_exif_block_counts_as_none():
    data = saved(Image.fromarray(PICTURE), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert decode(data).shape == PICTURE.shape


def test_the_first_frame_of_an_animation():
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "green", "blue")]
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert (decode(data) == (255, 0, 0)).all(), kind


def test_one_pixel_and_thin_pictures():
    for height, width in ((1, 1), (1, 5000), (5000, 1)):
        assert decode(saved(Image.new("RGB", (width, height), (1, 2, 3)))).shape == (height, width, 3)


def test_grey_comes_as_color_and_color_as_grey():
    grey = PICTURE[..., 0]
    assert (decode(saved(Image.fromarray(grey))) == grey[..., None]).all()
    luma = PICTURE @ np.array([0.299, 0.587, 0.114])
    assert (
        abs(decode(saved(Image.fromarray(PICTURE)), channels=1)[..., 0] - luma).max() <= 1
    )  # Pillow's integer weights


def test_half_pictures_stay_refused_when_a_program_asks_pillow_for_them(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data = saved(Image.fromarray(PICTURE), "JPEG")
    with pytest.raises(ImageError):
        decode(data[: len(data) // 2])


def test_reading_refuses_what_is_no_regular_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    for name, reason in (
        ("pipe.png", "not a regular file"),
        ("folder.png", "a folder"),
        ("none.png", "cannot be opened"),
    ):
        with pytest.raises(ImageError) as caught:
            read(tmp_path / name)
        assert caught.value.reason == reason
    with pytest.raises(ImageError):
        read("a\0b.png")


def test_reading_refuses_links_out_of_the_root_and_long_files(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret.png").write_bytes(b"12345")
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "loop.png").symlink_to(root / "loop.png")
    assert read(root / "link.png") == b"12345"
    for name in ("link.png", "loop.png"):
        with pytest.raises(ImageError):
            read(root / name, root)
    with pytest.raises(ImageError) as caught:
        read(tmp_path / "secret.png", limit=4)
    assert caught.value.reason == "too large"


@pytest.mark.parametrize("wrong", ["nocolour", (1, 2), (300, 0, 0), "#ff000080", ("a", "b", "c")])
def test_a_background_that_is_no_color(wrong):
    with pytest.raises(UsageError):
        background_color(wrong)
