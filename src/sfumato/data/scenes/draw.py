"""Scenes: 1 to 8 objects, each a colour × shape × size at a place, that neither touch nor leave the picture.

Lengths are in pixels of a picture of side S, with the diameters d(small) = round(6 S/32), d(large) = round(9 S/32).
An object fills a d × d box whose corner (x, y) is whole, so it looks the same wherever it stands. With (u, v)
from −1 to 1 across the box:

    square |u|,|v| ≤ 1          circle u² + v² ≤ 1            diamond |u| + |v| ≤ 1
    triangle |u| ≤ (v + 1)/2    cross |u| ≤ ⅓ or |v| ≤ ⅓

Pixel = white + a (colour − white), a the covered part of the pixel (measured at 8 × 8 points): edges are smooth.
Places are uniform; after TRIES vain attempts, or for a crowd, objects go into cells of a 3 × 3 grid. One pixel at
least stays between boxes.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from sfumato.core.noise import derive

COLORS = {
    "red": (215, 35, 35),
    "orange": (245, 135, 20),
    "yellow": (240, 210, 20),
    "green": (40, 160, 60),
    "cyan": (30, 190, 215),
    "blue": (40, 75, 215),
    "purple": (140, 50, 175),
    "black": (30, 30, 30),
}
SHAPES = ("circle", "square", "triangle", "diamond", "cross")
SIZES = ("small", "large")
MOST = 8
TRIES = 30
_FINE = 8


@dataclass(frozen=True)
class Object:
    """One thing in a picture. (x, y) is its centre in pixels from the upper left, y down; `box` is (x0, y0, x1, y1)."""

    color: str
    shape: str
    size: str
    x: float
    y: float
    box: tuple[int, int, int, int]
    score: float = 1.0  # how well what is seen agrees with the shape, from 0 to 1

    @property
    def kind(self) -> tuple[str, str, str]:
        return self.size, self.color, self.shape


def diameter(size: str, side: int) -> int:
    return max(1, round((6 if size == "small" else 9) * side / 32))


@functools.lru_cache(maxsize=256)
def coverage(shape: str, d: int) -> np.ndarray:
    """(d, d) float in [0, 1]: how much of each pixel the shape covers."""
    axis = (np.arange(d * _FINE) + 0.5) / (d * _FINE) * 2 - 1
    u, v = axis[None, :], axis[:, None]
    inside = {
        "square": (abs(u) <= 1) & (abs(v) <= 1),
        "circle": u**2 + v**2 <= 1,
        "diamond": abs(u) + abs(v) <= 1,
        "triangle": abs(u) <= (v + 1) / 2,
        "cross": (abs(u) <= 1 / 3) | (abs(v) <= 1 / 3),
    }[shape]
    return inside.reshape(d, _FINE, d, _FINE).mean((1, 3))


def arrange(seed: int, side: int, n: int) -> list[Object]:
    """n objects, their kinds and places drawn from `seed`."""
    rng = np.random.Generator(np.random.PCG64(derive("scene", seed)))
    kinds = [(str(rng.choice(SIZES)), str(rng.choice(list(COLORS))), str(rng.choice(SHAPES))) for _ in range(n)]
    wide = [diameter(size, side) for size, _, _ in kinds]
    corners = None
    for _ in range(TRIES if n <= 5 else 0):
        corners = [(int(rng.integers(0, side - d + 1)), int(rng.integers(0, side - d + 1))) for d in wide]
        if all(_apart(corners[i], wide[i], corners[j], wide[j]) for i in range(n) for j in range(i)):
            break
        corners = None
    if corners is None:
        edges = [side * k // 3 for k in range(4)]
        cells = [divmod(int(cell), 3) for cell in rng.permutation(9)[:n]]
        room = [min(edges[k + 1] - edges[k] - 1 for k in range(3)) - d for d in wide]
        corners = [
            (edges[column] + int(rng.integers(0, max(r, 0) + 1)), edges[row] + int(rng.integers(0, max(r, 0) + 1)))
            for (row, column), r in zip(cells, room, strict=True)
        ]
    return [place(*kind, x, y, side) for kind, (x, y) in zip(kinds, corners, strict=True)]


def place(size: str, color: str, shape: str, x: int, y: int, side: int) -> Object:
    """An object whose box has the upper left corner (x, y)."""
    d = diameter(size, side)
    return Object(color, shape, size, x + d / 2, y + d / 2, (x, y, x + d, y + d))


def _apart(a: tuple[int, int], da: int, b: tuple[int, int], db: int) -> bool:
    return any(a[k] + da < b[k] or b[k] + db < a[k] for k in (0, 1))


def render(objects: list[Object], side: int) -> np.ndarray:
    """(3, side, side) uint8, on white."""
    picture = np.full((side, side, 3), 255.0)
    for o in objects:
        x0, y0, x1, y1 = o.box
        a = coverage(o.shape, x1 - x0)[..., None]
        window = picture[y0:y1, x0:x1]
        picture[y0:y1, x0:x1] = window + a * (np.array(COLORS[o.color]) - window)
    return np.rint(picture).astype(np.uint8).transpose(2, 0, 1)
