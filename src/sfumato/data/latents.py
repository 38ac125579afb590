"""Latents kept on disk: a set whose batches hold "latent" in place of "image", encoded once and read back bit for bit.

    folder/KEY/latents.npy      memory-mapped, (N, …), in the encoder's own dtype
    folder/KEY/about.json       what it belongs to, its shape, and its SHA-256
    KEY = SHA-256(key, data fingerprint)[:32],      `key` is the codec's hash

Both are written into a temporary folder, flushed to the disk, and renamed into place at once: another process, or a
crash, sees all or nothing. A folder that does not agree with its own about.json is made anew. Encoding goes by fixed
rows of `batch`, so that the same codec on the same device gives the same bits.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sfumato.core.errors import DataError, DiskError
from sfumato.data.batches import once
from sfumato.data.source import Source

Encode = Callable[[Tensor], Tensor]
VERSION = 1
HEADER = 4096  # bytes, more than a header of ours has
CHUNK = 1 << 22  # bytes written at once
_DTYPES = ("float32", "float64", "int64", "int32", "uint8", "float16")


class Latents:
    """A Source whose batches hold "latent" for "image". Index, label and text are those of the pictures."""

    def __init__(self, source: Source, values: np.ndarray, rows: Sequence[int] | np.ndarray | None = None):
        self.source, self._values = source, values
        self._rows = np.arange(len(source)) if rows is None else np.asarray(rows, np.int64)
        self.name, self.labels, self.has_text, self.report = source.name, source.labels, source.has_text, source.report
        self.channels, self.side = source.channels, source.side

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(("latents/" + self.source.fingerprint).encode()).hexdigest()

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one latent."""
        return self._values.shape[1:]

    def image(self, i: int) -> Tensor:
        return self.source.image(i)

    def label(self, i: int) -> int:
        return self.source.label(i)

    def text(self, i: int, choice: int = 0) -> str:
        return self.source.text(i, choice)

    def latent(self, i: int) -> Tensor:
        return torch.from_numpy(np.array(self._values[self._rows[i]]))

    def item(self, i: int) -> dict[str, Any]:
        return {key: value[0] for key, value in self.batch([i]).items()}

    def batch(self, indices: Iterable[int], choice: int | Sequence[int] = 0) -> dict[str, Any]:
        index = [int(i) for i in indices]
        batch = self.source.facts(index, choice)
        return {"latent": torch.from_numpy(np.array(self._values[self._rows[index]])), **batch}

    def captions(self) -> Iterator[str]:
        return self.source.captions()

    def subset(self, indices: Iterable[int]) -> Latents:
        index = [range(len(self))[int(i)] for i in indices]
        return Latents(self.source.subset(index), self._values, self._rows[index])


def cached_latents(
    encode: Encode,
    source: Source,
    folder: str | Path,
    key: str,
    batch: int = 64,
    device: torch.device | str | None = None,
) -> Latents:
    """encode((B, C, H, W) in [−1, 1]) of every picture: from `folder` if it is there and whole, else made and kept."""
    name = hashlib.sha256(f"{VERSION}/{key}/{source.fingerprint}".encode()).hexdigest()[:32]
    place = Path(folder) / name
    belongs = {"version": VERSION, "key": key, "data": source.fingerprint, "count": len(source)}
    values = _read(place, belongs)
    if values is None:
        try:
            _write(encode, source, place, belongs, batch, device)
        except DiskError:
            raise
        except OSError as error:
            raise _refusal(place, error) from error
        values = _read(place, belongs)
        if values is None:
            raise DiskError(f"The latents in {place} do not read back as they were written.")
    return Latents(source, values)


def _refusal(place: Path, error: OSError, needed: int | None = None) -> DiskError:
    free = shutil.disk_usage(_existing(place)).free
    room = "" if needed is None else f" They need {needed:,} bytes."
    return DiskError(
        f"The latents cannot be kept in {place}: {error.strerror or error}.{room} {free:,} bytes are free. Make room, "
        "and resume: what was trained is kept."
    )


def _existing(path: Path) -> Path:
    return next(p for p in (path, *path.absolute().parents) if p.exists())


def _read(place: Path, belongs: dict[str, Any]) -> np.ndarray | None:
    """The latents in `place`, or None when they are absent, damaged, or of something else."""
    try:
        about = json.loads((place / "about.json").read_text(encoding="utf8"))
        if not isinstance(about, dict) or any(about.get(k) != v for k, v in belongs.items()):
            return None
        if _hash(place / "latents.npy") != about.get("sha256"):
            return None
        values = np.load(place / "latents.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return values if len(values) == belongs["count"] and str(values.dtype) in _DTYPES else None


def _write(
    encode: Encode, source: Source, place: Path, belongs: dict[str, Any], batch: int, device: torch.device | str | None
) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".making-", dir=place.parent))
    try:
        values: np.memmap | None = None
        done = 0
        for part in once(source, batch, device):
            z = encode(part["image"]).detach().cpu().numpy()
            if str(z.dtype) not in _DTYPES:
                raise DataError(f"Latents of type {z.dtype} cannot be kept; encode to float32 or int64.")
            if values is None:
                shape = (len(source), *z.shape[1:])
                values = np.lib.format.open_memmap(temporary / "latents.npy", mode="w+", dtype=z.dtype, shape=shape)
                try:
                    _reserve(temporary / "latents.npy")
                except OSError as error:
                    raise _refusal(place, error, (temporary / "latents.npy").stat().st_size) from error
            values[done : done + len(z)] = z
            done += len(z)
        if values is None or done != len(source):
            raise DataError(f"The encoder gave {done} latents for {len(source)} pictures.")
        values.flush()
        del values
        _sync(temporary / "latents.npy")
        about = {**belongs, "sha256": _hash(temporary / "latents.npy")}
        (temporary / "about.json").write_text(json.dumps(about), encoding="utf8")
        _sync(temporary / "about.json")
        _sync(temporary)
        if place.exists():
            os.rename(place, Path(tempfile.mkdtemp(prefix=".broken-", dir=place.parent)) / "old")
        try:
            os.rename(temporary, place)
        except OSError:
            if not place.exists():  # else another process was first, with the same bits
                raise
        _sync(place.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        for old in place.parent.glob(".broken-*"):
            shutil.rmtree(old, ignore_errors=True)


def _reserve(path: Path) -> None:
    """Takes the room that a mapped file will need: a full disk is an error here, and a SIGBUS at a write to the map."""
    size = path.stat().st_size
    with open(path, "r+b") as file:
        if hasattr(os, "posix_fallocate"):
            try:
                return os.posix_fallocate(file.fileno(), 0, size)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # a file system that cannot reserve
                    raise
        start = file.read(HEADER)
        file.seek(0)
        for at in range(0, size, CHUNK):
            part = bytes(min(CHUNK, size - at))
            file.write(start + part[len(start) :] if at == 0 else part)
        file.flush()
        os.fsync(file.fileno())


def sweep(folder: Path) -> None:
    """Removes what processes that died while they made latents have left. Only for the holder of the run's lock."""
    for stale in (*folder.glob(".making-*"), *folder.glob(".broken-*")):
        shutil.rmtree(stale, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _hash(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
