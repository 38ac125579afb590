"""How a picture of any H × W becomes side × side: the largest centred square, then one resampling.

    s = min(H, W),   window [(W − s)/2, (W + s)/2] × [(H − s)/2, (H + s)/2],   resampled to side × side

Lanczos with the window widened by s/side where it shrinks (each source pixel counts: no aliasing), bicubic where it
grows, nothing at all where s = side: those pixels are copied. It equals "resize the shorter side, crop the centre",
without rounding the longer side first.

When no side is asked for: the shorter side if all pictures share it, else the median of the shorter sides rounded
down to a multiple of 8; in both cases at most 256 and at least 8.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np
from PIL import Image

SMALLEST, LARGEST = 8, 256


def fit(image: Image.Image, side: int) -> np.ndarray:
    """An L or RGB picture → (C, side, side) uint8."""
    width, height = image.size
    square = min(width, height)
    left, top = (width - square) / 2, (height - square) / 2
    if square == side:
        corner = (int(left), int(top))
        image = image.crop((*corner, corner[0] + side, corner[1] + side))
    else:
        filter_ = Image.Resampling.LANCZOS if square > side else Image.Resampling.BICUBIC
        image = image.resize((side, side), filter_, box=(left, top, left + square, top + square))
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def fit_height(image: Image.Image, height: int) -> np.ndarray:
    """An L or RGB picture → (C, height, W) uint8, whole: W keeps its proportions."""
    if image.height != height:
        filter_ = Image.Resampling.LANCZOS if image.height > height else Image.Resampling.BICUBIC
        image = image.resize((max(round(image.width * height / image.height), 1), height), filter_)
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def natural_side(sizes: Sequence[tuple[int, int]]) -> int:
    """The side that a set of (width, height) asks for by itself."""
    short = [min(size) for size in sizes]
    side = short[0] if len(set(short)) == 1 else int(statistics.median_low(short)) // 8 * 8
    return max(SMALLEST, min(LARGEST, side))
