"""Many pictures as one PNG."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

GAP = 2  # pixels between pictures


def tile(images: Tensor, columns: int | None = None) -> Tensor:
    """(n, C, H, W) in [−1, 1] → (3, H′, W′) uint8, row by row on white; square when `columns` is not given."""
    n, c, h, w = images.shape
    columns = columns or columns_for(n)
    rows = math.ceil(n / columns)
    levels = ((images.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    levels = levels.expand(n, 3, h, w) if c == 1 else levels[:, :3]
    sheet = torch.full((3, rows * (h + GAP) - GAP, columns * (w + GAP) - GAP), 255, dtype=torch.uint8)
    for i, picture in enumerate(levels):
        top, left = i // columns * (h + GAP), i % columns * (w + GAP)
        sheet[:, top : top + h, left : left + w] = picture
    return sheet


def columns_for(n: int) -> int:
    """The squarest sheet without a hole in it, unless that were more than half as wide again as a square one."""
    least = math.ceil(math.sqrt(n))
    return next((c for c in range(least, 3 * least // 2 + 1) if n % c == 0), least)


def png(sheet: Tensor, about: Mapping[str, object]) -> bytes:
    """(3 or 4, H, W) uint8, the fourth being transparency, as a PNG whose text chunks hold `about`."""
    chunks = PngInfo()
    for name, value in about.items():
        chunks.add_itxt(name, str(value))
    file = io.BytesIO()
    Image.fromarray(sheet.permute(1, 2, 0).contiguous().numpy()).save(file, "PNG", pnginfo=chunks)
    return file.getvalue()
