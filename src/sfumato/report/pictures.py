"""Numbers to pictures that a person can look at: 8 bits, grids with captions, PNG files that say what they are.

    k = round(127.5 (x + 1)), clipped to 0 … 255            x in [−1, 1]

A small picture is enlarged by a whole factor, every pixel becoming a square: nothing is smoothed that the model did not
smooth. A caption is set in the first font that has all of its characters: the one that comes with Pillow (Latin), else
one that the system has for the script (report/fonts.py). A character that no font has is written without its accents,
or as its code point, U+82F9; the PNG's text chunks hold the prompt as it was given in any case.
"""

from __future__ import annotations

import base64
import functools
import io
import json
import math
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from sfumato.report.fonts import EMBEDDED, LETTERS, Font, characters, font, font_files
from sfumato.train.grid import png as encode

GAP = 4  # pixels between the pictures of a grid
SHOWN = 128  # a picture in a grid is at least this wide, if a whole factor up to LARGEST brings it there
LARGEST = 16
LINES = 3  # of a caption; the rest is cut and ends in "…"
PAPER, INK = (255, 255, 255), (40, 40, 40)


def eight_bit(images: Tensor) -> np.ndarray:
    """(n, C, H, W) in [−1, 1], C = 1 or 3 → (n, H, W, C) uint8."""
    levels = ((images.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round()
    return levels.byte().permute(0, 2, 3, 1).numpy()


def picture(image: Tensor) -> Image.Image:
    """(C, H, W) in [−1, 1] → an L or RGB picture of the same size."""
    pixels = eight_bit(image[None])[0]
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def enlarged(image: Image.Image, least: int = SHOWN) -> Image.Image:
    """By the smallest whole factor that makes it at least that wide; every pixel becomes a square."""
    factor = min(LARGEST, max(1, math.ceil(least / image.width)))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def grid(
    images: Tensor | Sequence[Image.Image],
    captions: Sequence[str] | None = None,
    columns: int | None = None,
    least: int = SHOWN,
) -> Image.Image:
    """All pictures in one, row by row, each with its caption under it."""
    pictures = [picture(image) for image in images] if isinstance(images, Tensor) else list(images)
    shown = [enlarged(image, least).convert("RGB") for image in pictures]
    columns = columns or math.ceil(math.sqrt(len(shown)))
    columns = min(columns, len(shown))
    width, height = max(i.width for i in shown), max(i.height for i in shown)
    texts = [wrap(caption, width) for caption in captions] if captions else []
    deep = max((len(lines) for lines in texts), default=0) * (LETTERS + 3) + (GAP if texts else 0)
    rows = math.ceil(len(shown) / columns)
    size = (columns * (width + GAP) + GAP, rows * (height + deep + GAP) + GAP)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    for i, image in enumerate(shown):
        x, y = GAP + i % columns * (width + GAP), GAP + i // columns * (height + deep + GAP)
        sheet.paste(image, (x, y))
        for number, line in enumerate(texts[i] if texts else ()):
            draw.text((x, y + height + 3 + number * (LETTERS + 3)), line, fill=INK, font=font_for(line))
    return sheet


def wrap(text: str, width: int) -> list[str]:
    """At most LINES lines of at most `width` pixels, broken at spaces, or anywhere in scripts that have none."""
    text = " ".join(unicodedata.normalize("NFC", text).split())
    text = written(text)
    face = font_for(text)
    lines, line = [], ""
    for piece in _pieces(text):
        if line and face.getlength((line + piece).rstrip()) > width:
            lines.append(line.rstrip())
            line = ""
        while face.getlength(piece.rstrip()) > width and len(piece) > 1:  # a word wider than the picture
            cut = max(1, next(k for k in range(len(piece), 0, -1) if k == 1 or face.getlength(piece[:k]) <= width))
            lines.append(piece[:cut])
            piece = piece[cut:]
        line += piece
    lines.append(line.rstrip())
    if len(lines) > LINES:
        last = lines[LINES - 1]
        while last and face.getlength(last + "…") > width:
            last = last[:-1]
        lines = [*lines[: LINES - 1], last + "…"]
    return [line for line in lines if line]


def _pieces(text: str) -> list[str]:
    """What may not be broken: a word with its space, or one character of a wide script."""
    pieces, word = [], ""
    for character in text:
        if unicodedata.east_asian_width(character) in "WF":
            pieces += [word, character] if word else [character]
            word = ""
        else:
            word += character
            if character == " ":
                pieces.append(word)
                word = ""
    return [*pieces, word] if word else pieces


def written(text: str) -> str:
    """The text, with every character that no font here has without its accents, or as its code point."""
    if _font_file(text) is not None:
        return text
    have = characters(EMBEDDED)
    shown = []
    for character in text:
        letter = unicodedata.normalize("NFD", character)[0]
        known = next((c for c in (character, letter) if ord(c) in have), None)
        shown.append(f"U+{ord(character):04X} " if known is None else known)
    return "".join(shown).strip()


def font_for(text: str) -> Font:
    return font(_font_file(text) or EMBEDDED)


@functools.lru_cache(maxsize=1024)
def _font_file(text: str) -> str | None:
    """The first font that has all of the text; None when there is none."""
    needed = {ord(c) for c in text if not c.isspace()}
    return next((path for path in font_files() if needed <= characters(path)), None)


def png(image: Image.Image, facts: Mapping[str, Any] | None = None) -> bytes:
    """A PNG file; each fact is a text chunk, those that are None or "" are left out."""
    said = {key: value for key, value in (facts or {}).items() if value is not None and value != ""}
    pixels = np.array(image if image.mode == "RGBA" else image.convert("RGB"))
    return encode(torch.from_numpy(pixels).permute(2, 0, 1), said)


def jpeg(image: Image.Image, facts: Mapping[str, Any] | None = None) -> bytes:
    """A JPEG file of little loss, transparency on white; the facts are its comment, as JSON."""
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, (*PAPER, 255)), image)
    said = {key: value for key, value in (facts or {}).items() if value is not None and value != ""}
    file = io.BytesIO()
    image.convert("RGB").save(file, "JPEG", quality=95, subsampling=0, comment=json.dumps(said).encode()[:65000])
    return file.getvalue()


def data_uri(image: Image.Image) -> str:
    return "data:image/png;base64," + base64.b64encode(png(image)).decode()
