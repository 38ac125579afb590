"""Bytes → pixels: right ones, or an ImageError with a reason; never half a picture and never a foreign parser.

    bytes ──open──▶ one of seven formats ──size check──▶ decode ─▶ upright ─▶ 8 bits ─▶ onto the background ─▶ (H, W, C)

What is refused: other formats, more than MAX_PIXELS pixels (read from the header, before decoding), pictures that end
too early, PNG chunks whose checksum is wrong (Pillow reads past those of pixel data), float and integer pictures of
unknown range.

What is converted, and how
    16-bit grey           k ↦ round(k / 257)          (Pillow's own conversion clips at 255, which turns them white)
    16-bit colour         the high byte (Pillow's reading)
    float                 x ↦ round(255 x) if all x are finite and in [0, 1], else refused
    EXIF orientation      applied; a broken EXIF block counts as none
    transparency          α over the background, for RGBA, LA, palettes with transparency and PNG's transparent colour
    CMYK, YCbCr           to RGB by Pillow's formula, without colour profiles
    palette, one bit      expanded; animations give their first frame
    colour → grey         ITU-R 601 luma: 0.299 R + 0.587 G + 0.114 B

A JPEG holds no checksum: damage inside one that still decodes to its last line cannot be told from a picture.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import threading
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor, ImageFile, ImageOps, features

from sfumato.core.errors import ImageError, UsageError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", *(("AVIF",) if features.check("avif") else ()))
HEIF = ("ftypheic", "ftypheix", "ftyphevc", "ftypheim", "ftypheis", "ftypmif1", "ftypmsf1")  # bytes 4 … 12 of a file
WANTED = "pip install 'sfumato[heif]'"  # what reads it
MAX_PIXELS = 64_000_000
MAX_BYTES = 512 * 2**20  # an uncompressed 16-bit RGBA picture of MAX_PIXELS
WIDE = 8_000_000  # pixels, beyond which pictures are decoded one at a time and composited in bands: memory
_wide = threading.RLock()
_PNG = b"\x89PNG\r\n\x1a\n"
_SIXTEEN = ("I;16", "I;16L", "I;16B", "I;16N")


def regular(path: str | Path, homes: Path | Sequence[Path] = ()) -> int:
    """A handle of a regular file that lies, links followed, in one of `homes` (none: anywhere). No FIFO blocks it."""
    path, homes = Path(path), (homes.resolve(),) if isinstance(homes, Path) else homes
    try:
        if homes and not any(path.resolve(strict=True).is_relative_to(home) for home in homes):
            raise ImageError(
                f"{path} is a link out of {homes[0]}; copy the picture into the folder.", "link out of the folder"
            )
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except (OSError, ValueError, RuntimeError) as error:
        raise ImageError(f"{path} cannot be opened: {error}.", "cannot be opened") from error
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return handle
    os.close(handle)
    kind = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
    raise ImageError(f"{path} is {kind}, not a picture.", kind)


def read(path: str | Path, homes: Path | Sequence[Path] = (), limit: int = MAX_BYTES) -> bytes:
    """The bytes of a regular file (see above)."""
    handle = regular(path, homes)
    try:
        if (size := os.fstat(handle).st_size) > limit:
            raise ImageError(f"{path} has {size} bytes; at most {limit} are read.", "too large")
        with os.fdopen(os.dup(handle), "rb") as file:
            return file.read(limit + 1)[:limit]
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error}.", "cannot be read") from error
    finally:
        os.close(handle)


def background_color(background: str | tuple[int, ...]) -> tuple[int, int, int]:
    """A colour's name, #rrggbb, or three numbers 0 … 255, as three numbers."""
    try:
        color = ImageColor.getrgb(background) if isinstance(background, str) else tuple(int(v) for v in background)
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"{background!r} is no colour. Use a name, #rrggbb, or three numbers from 0 to 255."
        ) from error
    if len(color) < 3 or not all(0 <= v <= 255 for v in color) or (len(color) > 3 and color[3] != 255):
        raise UsageError(f"{background!r} is no opaque colour. Use a name, #rrggbb, or three numbers from 0 to 255.")
    return color[0], color[1], color[2]


def header(data: bytes, name: str = "the picture", max_pixels: int = MAX_PIXELS) -> tuple[str, tuple[int, int]]:
    """(mode, (width, height)) as they will be shown, orientation applied, without decoding a pixel."""
    image = _open(data, name, max_pixels)
    width, height = image.size
    return image.mode, (height, width) if _turned(image) else (width, height)


def decode(
    data: bytes,
    name: str = "the picture",
    channels: int = 3,
    background: str | tuple[int, ...] = "white",
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """(H, W, channels) uint8."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's doubts about metadata; the pixels are checked here
        image, _ = picture(data, name, channels, background, max_pixels)
    return np.asarray(image).reshape(image.height, image.width, channels)


def picture(
    data: bytes, name: str, channels: int, background: str | tuple[int, ...], max_pixels: int = MAX_PIXELS
) -> tuple[Image.Image, str]:
    """The picture in mode L or RGB, upright and opaque, and the mode it was stored in."""
    image = _open(data, name, max_pixels)
    mode = image.mode
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise ImageError("PIL.ImageFile.LOAD_TRUNCATED_IMAGES is set: half pictures would pass. Unset it.", "truncated")
    try:
        with _wide if image.width * image.height > WIDE else contextlib.nullcontext():
            image.seek(0)
            image.load()
            return opaque(_upright(image), name, channels, background), mode
    except ImageError:
        raise
    except Exception as error:  # a decoder fed with damaged bytes may raise anything
        reason = "truncated" if "truncated" in str(error).lower() or isinstance(error, EOFError) else "damaged"
        raise ImageError(f"{name} cannot be decoded: {error}.", reason) from error


def opaque(image: Image.Image, name: str, channels: int, background: str | tuple[int, ...]) -> Image.Image:
    """Any mode → L or RGB, by the table above."""
    color = background_color(background)
    image = _eight_bits(image, name)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = _composited(image, color)
    target = "L" if channels == 1 else "RGB"
    if image.mode == target:
        return image
    if image.mode not in ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV"):
        raise ImageError(f"{name} has the pixel format {image.mode}, which has no stated conversion.", "pixel format")
    return image.convert(target) if image.mode in ("1", "L", "RGB") else image.convert("RGB").convert(target)


def _composited(image: Image.Image, color: tuple[int, int, int]) -> Image.Image:
    """RGB; in bands of at most WIDE pixels, since each is held several times."""
    width, height = image.size
    rows = max(WIDE // width, 1)
    if rows >= height:
        ground = Image.new("RGBA", image.size, (*color, 255))
        return Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB")
    made = Image.new("RGB", image.size)
    for top in range(0, height, rows):
        made.paste(_composited(image.crop((0, top, width, min(top + rows, height))), color), (0, top))
    return made


def _eight_bits(image: Image.Image, name: str) -> Image.Image:
    if image.mode not in (*_SIXTEEN, "I", "F"):
        return image
    values = np.asarray(image)
    if image.mode == "F":
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            raise ImageError(f"{name} holds floats outside [0, 1], so its range is unknown.", "float range")
        grey = np.rint(values * 255).astype(np.uint8)
    else:
        wide = values.astype(np.int64)
        if wide.min() < 0 or wide.max() > 65535:
            raise ImageError(f"{name} holds integers beyond 16 bits, so its range is unknown.", "integer range")
        grey = ((wide + 128) // 257).astype(np.uint8)
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        return Image.fromarray(np.stack([grey, np.where(values == clear, 0, 255).astype(np.uint8)], -1))
    return Image.fromarray(grey)


def _open(data: bytes, name: str, max_pixels: int) -> Image.Image:
    if not data:
        raise ImageError(f"{name} is empty (0 bytes).", "empty")
    if data.startswith(_PNG):
        _check_png(data, name)
    formats = FORMATS
    if data[4:12].decode("latin-1") in HEIF:
        formats = (*FORMATS, _heif(name))
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{name} is too large: {error}", "too large") from error
    except Image.UnidentifiedImageError as error:
        raise ImageError(f"{name} is not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file.", "not an image") from error
    except Exception as error:  # as above
        raise ImageError(f"{name} cannot be opened as a picture: {error}.", "damaged") from error
    width, height = image.size
    if width < 1 or height < 1:
        raise ImageError(f"{name} has no pixels ({width}×{height}).", "empty")
    if width * height > max_pixels:
        raise ImageError(f"{name} has {width}×{height} pixels; at most {max_pixels:,} are decoded.", "too large")
    return image


def _heif(name: str) -> str:
    """Pillow's name of the format, once the extra is there that reads it."""
    try:
        import pillow_heif
    except ImportError as error:
        raise ImageError(f"{name} is HEIC, which the extra `heif` reads: {WANTED}.", f"HEIC: {WANTED}") from error
    pillow_heif.register_heif_opener()
    return "HEIF"


def animated(data: bytes) -> bool:
    """Whether a file holds more than the one frame that is shown."""
    if not (data.startswith((b"GIF8", b"RIFF")) or (data.startswith(_PNG) and b"acTL" in data[:4096])):
        return False
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return bool(getattr(image, "is_animated", False))
    except Exception:  # as above
        return False


def _check_png(data: bytes, name: str) -> None:
    """Every chunk's checksum, up to IEND."""
    at = len(_PNG)
    while True:
        length = int.from_bytes(data[at : at + 4], "big")
        end = at + 12 + length
        if end > len(data):
            raise ImageError(f"{name} ends too early, at byte {len(data)}.", "truncated")
        if zlib.crc32(data[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            raise ImageError(f"{name} is damaged: the checksum at byte {end - 4} is wrong.", "damaged")
        if data[at + 4 : at + 8] == b"IEND":
            return
        at = end


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(0x0112, 1)
        return int(value) if value in range(1, 9) else 1
    except Exception:  # EXIF is parsed by hand in Pillow: damage shows as any error
        return 1


def _turned(image: Image.Image) -> bool:
    """Whether width and height change places; Pillow has done so already for TIFF."""
    return image.format != "TIFF" and _orientation(image) >= 5


def _upright(image: Image.Image) -> Image.Image:
    if _orientation(image) == 1:
        return image
    turned = ImageOps.exif_transpose(image)
    return image if turned is None else turned


def layered(data: bytes, name: str = "the picture", max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The picture upright in 8 bits with the transparency that it has: in mode L, RGB or RGBA."""
    image, _ = picture(data, name, 3, "white", max_pixels)  # refuses what cannot be decoded
    stored = _eight_bits(_upright(_open(data, name, max_pixels)), name)
    if stored.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in stored.info:
        return stored.convert("RGBA")
    return stored.convert("L") if stored.mode in ("1", "L") else image
