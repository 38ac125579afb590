"""Handwritten digits on a grid: the UCI digits (1,797 of 8×8, shipped) and folders in MNIST's idx format.

idx: 0 0 type rank, then rank big-endian 32-bit sizes, then the numbers; only type 8 (uint8) occurs. UCI values 0 … 16
become round(255 v / 16). Ink is light on dark, as stored. The test part of the UCI digits is every sixth picture;
that of an idx folder has files of its own (t10k-…).
"""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import zlib
from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image

from sfumato.core.errors import DataError, UnknownName
from sfumato.core.registry import nearest
from sfumato.data.decode import read
from sfumato.data.fit import fit, natural_side
from sfumato.data.source import Source, Store

FASHION = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle-boot"]
PARTS = {"train": "train", "test": "t10k"}
LARGEST_FILE = 512 * 2**20
RATIO, SMALL = 100, 16 * 2**20  # times that numbers may have shrunk, if there are more than so many


def check_split(split: str, known: tuple[str, ...], name: str) -> None:
    if split not in known:
        raise UnknownName(f"{name} has no split called {split!r}. {nearest(split, known)}")


def open_digits(side: int | None, channels: int, split: str) -> Source:
    check_split(split, ("train", "test", "all"), "digits")
    data = (resources.files("sfumato.data") / "embedded" / "digits.npz").read_bytes()
    with np.load(io.BytesIO(data), allow_pickle=False) as z:
        images, labels = np.rint(z["images"] * (255 / 16)).astype(np.uint8), z["labels"].astype(np.int64)
    test = np.arange(len(labels)) % 6 == 5
    rows = np.flatnonzero({"train": ~test, "test": test, "all": np.ones_like(test)}[split])
    identity = hashlib.sha256(data).hexdigest()
    return _gallery("digits", images[rows], labels[rows], list("0123456789"), identity + split, side, channels)


def is_idx_folder(folder: Path) -> bool:
    return any(_find(folder, part, "images-idx3") for part in PARTS.values())


def open_idx(folder: Path, side: int | None, channels: int, split: str) -> Source:
    check_split(split, ("train", "test", "all"), str(folder))
    images, labels = [], []
    for part in PARTS.values() if split == "all" else [PARTS[split]]:
        files = _find(folder, part, "images-idx3"), _find(folder, part, "labels-idx1")
        if not all(files):
            raise DataError(f"{folder} lacks {part}-images-idx3-ubyte or {part}-labels-idx1-ubyte, plain or .gz.")
        images.append(idx(files[0], 3))  # type: ignore[arg-type]
        labels.append(idx(files[1], 1))  # type: ignore[arg-type]
        if len(images[-1]) != len(labels[-1]):
            raise DataError(f"{folder}: {len(images[-1])} pictures, but {len(labels[-1])} labels.")
    pixels, ids = np.concatenate(images), np.concatenate(labels).astype(np.int64)
    names = FASHION if "fashion" in str(folder.resolve()).lower() else [str(k) for k in range(int(ids.max()) + 1)]
    identity = hashlib.sha256(pixels.tobytes() + ids.tobytes()).hexdigest()
    return _gallery(str(folder), pixels, ids, names, identity, side, channels)


def idx(path: Path, rank: int) -> np.ndarray:
    """The numbers of a file, plain or gzipped; unpacked as far as its header says, and at most RATIO times."""
    data, start = read(path), 4 + 4 * rank
    try:
        with gzip.open(io.BytesIO(data)) if data[:2] == b"\x1f\x8b" else io.BytesIO(data) as file:
            head = file.read(start)
            if len(head) < start or head[:3] != b"\0\0\x08" or head[3] != rank:
                raise DataError(f"{path} is no idx file of uint8 with {rank} dimensions.")
            shape = np.frombuffer(head, ">u4", rank, 4).astype(object).tolist()
            size = math.prod(shape)
            if size > max(SMALL, RATIO * len(data)) or size > LARGEST_FILE:
                raise DataError(f"{path} says {'×'.join(map(str, shape))}, which its {len(data)} bytes cannot hold.")
            body = np.frombuffer(file.read(size + 1), np.uint8)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged: {error}.") from error
    if len(body) != size or not size:
        more = "more" if len(body) > size else len(body)
        raise DataError(f"{path} says {'×'.join(map(str, shape))} but holds {more} bytes.")
    return body.reshape(shape)


def _find(folder: Path, part: str, kind: str) -> Path | None:
    candidates = [folder / f"{part}-{kind}{mark}ubyte{gz}" for mark in "-." for gz in ("", ".gz")]
    return next((path for path in candidates if path.is_file()), None)


def _gallery(
    name: str, pixels: np.ndarray, ids: np.ndarray, names: list[str], identity: str, side: int | None, channels: int
) -> Source:
    """(N, H, W) uint8 greys in memory."""
    height, width = pixels.shape[1:]
    side = natural_side([(width, height)]) if side is None else side

    def load(i: int) -> np.ndarray:
        return np.repeat(fit(Image.fromarray(pixels[i]), side), channels, 0)

    return Source(
        name,
        Store(len(pixels), (channels, side, side), load),
        range(len(pixels)),
        identity=identity,
        label_ids=ids,
        labels=names,
        report={"sizes": {f"{width}x{height}": len(pixels)}, "modes": {"L": len(pixels)}},
    )
