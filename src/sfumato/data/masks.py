"""What a mask says of a picture: where to repaint. One rule for masks with transparency and without.

    no transparency                      light (luma ≥ 128) is repainted, dark is kept
    transparent in part, and the rest is
        one light or bright colour       strokes on a layer: they are repainted, if most of the border is transparent
        black and white                  a mask with a transparent edge: light is repainted
        anything else                    a hole in a picture: the transparent part is repainted

so that masks of OpenAI's API (transparent is repainted) and layers of a drawing program (strokes are) both mean what
their makers meant. Half transparent counts as transparent below α = 128. The rule that was taken is said.

A system sees squares of its own side. `window` is the square of the picture that the hole lies in, as near to its
middle as the hole allows; `put_back` sets what was painted there into the picture, which keeps every pixel outside of
the hole, its size and its transparency.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from sfumato.core.errors import DataError, UsageError

OPAQUE = 128  # of α
LIGHT = 128  # of luma
ONE_COLOUR = 12.0  # deviation of 256 levels within one colour, with the edges of its strokes
BRIGHT = 64  # of 256 levels, the least distance between the channels of a bright colour


def hole_of(mask: Image.Image, picture: Image.Image, side: int, name: str = "The mask") -> tuple[np.ndarray, str]:
    """((H, W) bool, true where to repaint; the rule that said so). A mask has the size of the picture, or is side ×
    side, what a system sees: then it lies on the picture's middle square. DataError for another size, UsageError where
    nothing is to be repainted."""
    if mask.size not in (picture.size, (side, side)):
        raise DataError(
            f"{name} is {mask.width}×{mask.height} and the picture {picture.width}×{picture.height}; a mask has the "
            f"picture's own width and height, or {side}×{side}, the run's."
        )
    luma = np.asarray(mask.convert("L"))
    alpha = np.asarray(mask)[..., 3] if mask.mode == "RGBA" else np.full(luma.shape, 255, np.uint8)
    solid = alpha >= OPAQUE
    if solid.all():
        hole, said = luma >= LIGHT, "its light part is repainted"
    else:
        hole, said = _by_transparency(np.asarray(mask)[..., :3], luma, solid)
    if not hole.any():
        raise UsageError(
            f"{name} leaves nothing to repaint ({said}). Paint the part to change white on black, or make it "
            "transparent."
        )
    if mask.size == picture.size:
        return hole, said
    square = min(picture.size)
    left, top = (picture.width - square) // 2, (picture.height - square) // 2
    whole = np.zeros((picture.height, picture.width), bool)
    stencil = Image.fromarray(hole).resize((square, square), Image.Resampling.NEAREST)
    whole[top : top + square, left : left + square] = np.asarray(stencil)
    return whole, f"{said}; it has the run's own size, so it lies on the middle {square}×{square} of the picture"


def _by_transparency(colour: np.ndarray, luma: np.ndarray, solid: np.ndarray) -> tuple[np.ndarray, str]:
    if solid.any():
        inside, grey = colour[solid].astype(np.float64), luma[solid]
        border = np.concatenate([solid[0], solid[-1], solid[1:-1, 0], solid[1:-1, -1]])
        bright = grey.mean() >= LIGHT or np.ptp(np.median(inside, axis=0)) >= BRIGHT
        if bright and inside.std(axis=0).max() <= ONE_COLOUR and border.mean() < 0.5:
            return solid, "its strokes are repainted, which are of one colour on a transparent layer"
        dark, light = grey < 32, grey > 223
        if dark.any() and light.any() and (dark | light).mean() > 0.95:
            return solid & (luma >= LIGHT), "its light part is repainted, what is opaque being black and white"
    return ~solid, "its transparent part is repainted"


def window(hole: np.ndarray) -> tuple[int, int, int]:
    """(left, top, side) of the largest square that holds the hole, as central as that allows; UsageError if none is."""
    height, width = hole.shape
    side = min(height, width)
    rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
    long = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    if long > side:
        raise UsageError(
            f"The part to repaint is {long} pixels long, and a square of a {width}×{height} picture holds {side}. "
            "Repaint it in two parts, one after the other."
        )
    return _start(columns, width, side), _start(rows, height, side), side


def _start(found: np.ndarray, length: int, side: int) -> int:
    """Where a window begins that covers `found` within 0 … length."""
    return int(min(max((length - side) // 2, found[-1] + 1 - side), found[0]))


def put_back(picture: Image.Image, painted: Image.Image, hole: np.ndarray, place: tuple[int, int, int]) -> Image.Image:
    """The picture with `painted`, a square that lay at `place`, where the hole is; everything else as it was."""
    left, top, side = place
    if painted.size != (side, side):
        grows = painted.width < side
        painted = painted.resize((side, side), Image.Resampling.BICUBIC if grows else Image.Resampling.LANCZOS)
    if picture.mode == "L" and painted.mode != "L":
        picture = picture.convert("RGB")
    result = picture.copy()
    stencil = Image.fromarray(hole[top : top + side, left : left + side].astype(np.uint8) * 255)
    result.paste(painted.convert(result.mode), (left, top), stencil)
    return result


def reduced(hole: np.ndarray, place: tuple[int, int, int], side: int) -> np.ndarray:
    """The hole as a system of that side sees it: (side, side) bool, true where any pixel under it is."""
    left, top, size = place
    part = hole[top : top + size, left : left + size]
    if size == side:
        return part
    edges = np.arange(side + 1) * size / side
    first = np.floor(edges[:-1]).astype(int)
    last = np.maximum(np.ceil(edges[1:]).astype(int), first + 1)
    by_row = np.stack([part[a:b].any(0) for a, b in zip(first, last)])
    return np.stack([by_row[:, a:b].any(1) for a, b in zip(first, last)], 1)
