"""Orthogonal maps of pictures: c = U x, x = Uᵀ c, with U Uᵀ = I.

    map         component                                    latent                      looks at
    Identity    a pixel                                      Grid(C, H, W)               itself
    Wavelet     a coefficient of an orthonormal wavelet      Grid(C, H, W), Mallat's     few pixels, more when coarse
    Cosine      DCT-II: C_H x C_Wᵀ                           Sequence(C H W, 1)          all pixels of its channel
    Fourier     √2 Re, √2 Im of one of k and −k              Sequence(C H W, 1)          all pixels of its channel
    Principal   an eigenvector of the covariance             Sequence(C H W, 1)          all pixels
    Arbitrary   the Q of a random matrix's QR (for tests)    Sequence(C H W, 1)          all pixels

Real pictures have Hermitian spectra, F(−k) = F(k)*. Of each such pair Fourier keeps √2 Re F in the place of one and
√2 Im F in the place of the other, so the map is real and orthogonal, and white noise stays white.

The wavelet transform is periodic. A level splits the upper left block of the one before into four: low-low, then
low-high, high-low, high-high (Mallat 1989). Taps as PyWavelets prints them; Daubechies 1988.

Components that a stationary picture cannot tell apart (the pixels of a channel, the coefficients of one band) are one
`group`: their variances are pooled. Components of one group lie side by side in `painted`, which says what is known of
each pixel: the groups' values, brought to the pixels that they touch.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.core.contracts import Batches
from sfumato.core.errors import Misfit
from sfumato.core.space import Grid, Sequence, size

TAPS: dict[str, tuple[float, ...]] = {
    "haar": (math.sqrt(0.5), math.sqrt(0.5)),
    "db2": (0.48296291314453416, 0.8365163037378079, 0.2241438680420134, -0.12940952255126037),
    "db4": (
        *(0.2303778133088965, 0.7148465705529157, 0.6308807679298589, -0.027983769416859854),
        *(-0.18703481171909309, 0.030841381835560764, 0.0328830116668852, -0.010597401785069032),
    ),
}


class Orthogonal(nn.Module, ABC):
    """Law: back(turn(x)) = x and ‖turn(x)‖ = ‖x‖. `group` (latent's shape) int64 numbers each component's group, from
    coarse to fine; it is a buffer, since some maps are fitted. `local`: whether a component looks at a part of the
    picture only, so that the latent is laid out in the plane, and `layers` of it are painted."""

    space: Grid | Sequence
    local: bool
    layers: int = 0
    factors: tuple[int, ...] = ()  # by which a picture may be made smaller whose pixels are components of this one
    group: Tensor

    def __init__(self, data: Grid, space: Grid | Sequence, group: Tensor):
        super().__init__()
        self.data, self.space = data, space
        self.register_buffer("group", group)

    @abstractmethod
    def turn(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def back(self, c: Tensor) -> Tensor: ...

    def fit(self, batches: Batches) -> None:
        """What is learned from the pictures in closed form; batches hold "image"."""

    def reach(self, hole: Tensor) -> Tensor:
        """Which components look at the hole (B, 1, H, W) bool: the latent's shape, bool."""
        raise Misfit(
            f"Every component of the {type(self).__name__} basis looks at the whole picture, so no part of the picture "
            "is a part of the latent. Take the pixel or the wavelet basis to edit or extend pictures."
        )

    @property
    def cell(self) -> int:
        """The least number of pixels by which a picture can move so that its components move along."""
        raise Misfit(
            f"No move of a picture moves components of the {type(self).__name__} basis along. Take the pixel or the "
            "wavelet basis to extend pictures."
        )

    def moved(self, c: Tensor, pixels: int) -> Tensor:
        """Numbers of components (B, latent), as those of a picture `pixels` further left; zero where nothing comes in.
        Where `pixels` is a multiple of the cell, components change places."""
        return self.turn(F.pad(self.back(c)[..., pixels:], (0, pixels)))

    def averages(self, factor: int) -> Tensor:
        """Which components make up the means over factor × factor pixels, of `factors`: the latent's shape, bool."""
        raise Misfit(f"No components of the {type(self).__name__} basis are the pixels of a smaller picture.")

    def painted(self, value: Tensor) -> Tensor:
        """A number per component (B, latent) → (B, `layers`, H, W): on every pixel the values of what touches it."""
        raise Misfit(f"The {type(self).__name__} basis has no place for its components in the plane.")

    def centres(self) -> Tensor:
        """(2, latent's shape): the row and the column of the middle of what each component looks at, in (0, 1)."""
        raise Misfit(f"The components of the {type(self).__name__} basis lie nowhere in the plane.")

    @property
    def groups(self) -> int:
        return int(self.group.max()) + 1

    def pooled(self, value: Tensor) -> Tensor:
        """A number per component (latent's shape) → the mean of its group, in every member's place."""
        flat, member = value.flatten(), self.group.flatten()
        total = torch.zeros(self.groups, dtype=value.dtype, device=value.device)
        count = total.index_add(0, member, torch.ones_like(flat))
        return (total.index_add(0, member, flat) / count)[member].reshape(value.shape)


class Identity(Orthogonal):
    """Pixels as they are; the pixels of a channel are one group."""

    local = True
    cell = 1

    def __init__(self, data: Grid):
        channel = torch.arange(data.channels)[:, None, None]
        super().__init__(data, data, channel.expand(data.shape).clone())
        self.layers = data.channels

    def turn(self, x: Tensor) -> Tensor:
        return x

    def back(self, c: Tensor) -> Tensor:
        return c

    def reach(self, hole: Tensor) -> Tensor:
        return hole.expand(-1, self.data.channels, -1, -1)

    def painted(self, value: Tensor) -> Tensor:
        return value

    def centres(self) -> Tensor:
        return _centres(self.data.height, self.data.width)[:, None].expand(-1, *self.data.shape)


def analysis(taps: tuple[float, ...], n: int) -> np.ndarray:
    """(n, n): one periodic level in one dimension, the n/2 low-pass rows above the n/2 high-pass ones. The high-pass
    filter is the low-pass one reversed, with every second sign changed; what sticks out wraps around."""
    low = np.array(taps)
    high = low[::-1] * (-1.0) ** np.arange(len(taps))
    rows = np.zeros((n, n))
    for half, filter_ in ((0, low), (n // 2, high)):
        for k in range(n // 2):
            np.add.at(rows[half + k], (2 * k + np.arange(len(taps))) % n, filter_)
    return rows


@functools.lru_cache(maxsize=256)
def _once(make: Callable[..., np.ndarray], of: tuple[Any, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """make(*of), which is known to float64, as `turn` and `back` need it; a constant is no state of a module."""
    with torch.inference_mode(False):  # else the first caller would decide whether others may differentiate
        return torch.tensor(make(*of), device=device, dtype=dtype)


class Wavelet(Orthogonal):
    """`levels` of a 2-D orthonormal wavelet, in Mallat's layout. A band of a channel is a group: the coarsest average
    first, then the details from coarse to fine."""

    local = True

    def __init__(self, data: Grid, levels: int = 3, taps: str = "haar"):
        if taps not in TAPS:
            raise Misfit(f"The wavelets are {', '.join(TAPS)}; not {taps!r}.")
        if data.height % 2**levels or data.width % 2**levels:
            raise Misfit(
                f"A picture of {data.height}×{data.width} does not halve {levels} times. Take fewer levels, or a side "
                f"that {2**levels} divides."
            )
        self.bands = _bands(data, levels)
        group = torch.zeros(data.shape, dtype=torch.int64)
        for band, (rows, columns, _) in enumerate(self.bands):
            for channel in range(data.channels):
                group[channel, rows, columns] = band * data.channels + channel
        super().__init__(data, data, group)
        self.levels, self.taps, self.layers = levels, TAPS[taps], data.channels * len(self.bands)
        self.factors = tuple(2**k for k in range(1, levels + 1)) if taps == "haar" else ()

    def _step(self, level: int, like: Tensor) -> tuple[Tensor, Tensor]:
        sides = self.data.height >> level, self.data.width >> level
        rows, columns = (_once(analysis, (self.taps, n), like.device, like.dtype) for n in sides)
        return rows, columns

    def turn(self, x: Tensor) -> Tensor:
        c = x.clone()
        for level in range(self.levels):
            rows, columns = self._step(level, c)
            h, w = len(rows), len(columns)
            c[..., :h, :w] = rows @ c[..., :h, :w] @ columns.T
        return c

    def back(self, c: Tensor) -> Tensor:
        x = c.clone()
        for level in reversed(range(self.levels)):
            rows, columns = self._step(level, x)
            h, w = len(rows), len(columns)
            x[..., :h, :w] = rows.T @ x[..., :h, :w] @ columns
        return x

    def reach(self, hole: Tensor) -> Tensor:
        c = hole.to(torch.float32).expand(-1, self.data.channels, -1, -1).clone()
        for level in range(self.levels):
            rows, columns = (m.abs() for m in self._step(level, c))
            h, w = len(rows), len(columns)
            c[..., :h, :w] = rows @ c[..., :h, :w] @ columns.T
        return c > 0

    @property
    def cell(self) -> int:
        return 2**self.levels

    def averages(self, factor: int) -> Tensor:
        told = torch.zeros(self.data.shape, dtype=torch.bool, device=self.group.device)
        told[:, : self.data.height // factor, : self.data.width // factor] = True
        return told

    def painted(self, value: Tensor) -> Tensor:
        """A layer for each band and channel, its coefficients enlarged to the pixels under them."""
        layers = [
            F.interpolate(value[..., rows, columns], (self.data.height, self.data.width), mode="nearest")
            for rows, columns, _ in self.bands
        ]
        return torch.cat(layers, 1)

    def centres(self) -> Tensor:
        found = torch.zeros(2, *self.data.shape)
        for rows, columns, _ in self.bands:
            found[:, :, rows, columns] = _centres(rows.stop - rows.start, columns.stop - columns.start)[:, None]
        return found


def _centres(height: int, width: int) -> Tensor:
    """(2, H, W): where the cells of a grid lie in the unit square."""
    rows, columns = (torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"))


def _bands(data: Grid, levels: int) -> list[tuple[slice, slice, int]]:
    """(rows, columns, level) of each band, coarse to fine; the level of the finest details is 0."""
    h, w = data.height >> levels, data.width >> levels
    found = [(slice(0, h), slice(0, w), levels)]
    for level in reversed(range(levels)):
        h, w = data.height >> (level + 1), data.width >> (level + 1)
        low, high = (slice(0, h), slice(0, w)), (slice(h, 2 * h), slice(w, 2 * w))
        found += [(low[0], high[1], level), (high[0], low[1], level), (high[0], high[1], level)]
    return found


def _row(data: Grid) -> Sequence:
    return Sequence(size(data), 1)


def _by_frequency(radius: np.ndarray, data: Grid) -> Tensor:
    """Each component's rank by frequency, equal ones sharing a number a channel, as a group in `_row`'s shape."""
    _, rank = np.unique(np.round(radius, 9), return_inverse=True)
    channel = np.arange(data.channels)[:, None, None]
    return torch.tensor((rank.reshape(radius.shape) * data.channels + channel).reshape(-1, 1))


class Cosine(Orthogonal):
    """The orthonormal DCT-II. Frequencies (i, j) and (j, i) are one group: natural pictures hardly tell them apart."""

    local = False

    def __init__(self, data: Grid):
        i, j = np.arange(data.height)[:, None] / data.height, np.arange(data.width)[None] / data.width
        super().__init__(data, _row(data), _by_frequency(i**2 + j**2, data))

    def _sides(self, like: Tensor) -> tuple[Tensor, Tensor]:
        rows, columns = (_once(_dct, (n,), like.device, like.dtype) for n in (self.data.height, self.data.width))
        return rows, columns

    def turn(self, x: Tensor) -> Tensor:
        rows, columns = self._sides(x)
        return (rows @ x @ columns.T).reshape(len(x), -1, 1)

    def back(self, c: Tensor) -> Tensor:
        rows, columns = self._sides(c)
        return rows.T @ c.reshape(-1, *self.data.shape) @ columns


def _dct(n: int) -> np.ndarray:
    k, i = np.arange(n)[:, None], np.arange(n)[None]
    matrix = np.cos(math.pi * (i + 0.5) * k / n) * math.sqrt(2 / n)
    matrix[0] = math.sqrt(1 / n)
    return matrix


class Fourier(Orthogonal):
    """The orthonormal discrete Fourier transform of a real picture, as real numbers. Equal |k| are one group."""

    local = False
    own: Tensor
    first: Tensor

    def __init__(self, data: Grid):
        k, m = np.fft.fftfreq(data.height)[:, None], np.fft.fftfreq(data.width)[None]
        super().__init__(data, _row(data), _by_frequency(k**2 + m**2, data))
        index = torch.arange(data.height * data.width).reshape(data.height, data.width)
        partner = _mirrored(index)
        self.register_buffer("own", index == partner, persistent=False)
        self.register_buffer("first", index < partner, persistent=False)

    def turn(self, x: Tensor) -> Tensor:
        f = torch.fft.fft2(x, norm="ortho")
        pair = math.sqrt(2) * torch.where(self.first, f.real, -f.imag)
        return torch.where(self.own, f.real, pair).reshape(len(x), -1, 1)

    def back(self, c: Tensor) -> Tensor:
        c = c.reshape(-1, *self.data.shape)
        other = _mirrored(c)
        real = torch.where(self.first, c, other) / math.sqrt(2)
        imag = torch.where(self.first, other, -c) / math.sqrt(2)
        f = torch.complex(
            torch.where(self.own, c, real),
            torch.where(self.own, torch.zeros_like(c), imag),
        )
        return torch.fft.ifft2(f, norm="ortho").real


def _mirrored(x: Tensor) -> Tensor:
    """x at −k: index i goes to (−i) mod n in both dimensions."""
    return x.flip(-2, -1).roll((1, 1), (-2, -1))


class Principal(Orthogonal):
    """Eigenvectors of the pictures' covariance, the largest variance first; each is a group. `joint` mixes the channels
    (a D × D matrix); otherwise each channel has its own."""

    local = False
    vectors: Tensor

    def __init__(self, data: Grid, joint: bool = True):
        self.blocks = 1 if joint else data.channels
        width = size(data) // self.blocks
        super().__init__(data, _row(data), torch.arange(size(data))[:, None])
        self.register_buffer("vectors", torch.eye(width).expand(self.blocks, -1, -1).clone())

    def turn(self, x: Tensor) -> Tensor:
        rows = x.reshape(len(x), self.blocks, -1)
        return torch.einsum("bnd,nkd->bnk", rows, self.vectors.to(x)).reshape(len(x), -1, 1)

    def back(self, c: Tensor) -> Tensor:
        rows = c.reshape(len(c), self.blocks, -1)
        return torch.einsum("bnk,nkd->bnd", rows, self.vectors.to(c)).reshape(len(c), *self.data.shape)

    @torch.no_grad()
    def fit(self, batches: Batches) -> None:
        """One pass, in float64. The sign of an eigenvector is chosen: its largest entry is positive."""
        width = self.vectors.shape[-1]
        count = 0
        total = torch.zeros(self.blocks, width, dtype=torch.float64, device=self.vectors.device)
        square = torch.zeros(self.blocks, width, width, dtype=torch.float64, device=self.vectors.device)
        for batch in batches():
            rows = batch["image"].to(total).reshape(-1, self.blocks, width)
            count += len(rows)
            total += rows.sum(0)
            square += torch.einsum("bni,bnj->nij", rows, rows)
        mean = total / count
        values, vectors = torch.linalg.eigh(square / count - mean[:, :, None] * mean[:, None, :])
        vectors = vectors.flip(-1).mT  # rows, the largest variance first
        leading = vectors.gather(-1, vectors.abs().argmax(-1, keepdim=True)).sign()
        self.vectors.copy_((vectors * leading).to(self.vectors))
        order = values.flip(-1).flatten().argsort(descending=True, stable=True)
        rank = torch.empty_like(order)
        rank[order] = torch.arange(len(order), device=order.device)
        self.group.copy_(rank[:, None])


class Arbitrary(Orthogonal):
    """A random rotation, one for each seed; all its components are one group."""

    local = False
    matrix: Tensor

    def __init__(self, data: Grid, seed: int = 0):
        d = size(data)
        super().__init__(data, _row(data), torch.zeros(d, 1, dtype=torch.int64))
        generator = torch.Generator().manual_seed(seed)
        q, r = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64, generator=generator))
        self.register_buffer("matrix", q * r.diagonal().sign())

    def turn(self, x: Tensor) -> Tensor:
        return (x.flatten(1) @ self.matrix.to(x).T)[..., None]

    def back(self, c: Tensor) -> Tensor:
        return (c[..., 0] @ self.matrix.to(c)).reshape(-1, *self.data.shape)
