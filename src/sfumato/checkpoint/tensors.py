"""A safetensors file, written as a stream and read with suspicion.

    8 bytes: length n of the header, little-endian │ n bytes: JSON {name: {dtype, shape, data_offsets}} │ the data

The header is checked before a byte of data is touched: its length, its JSON, duplicate names, known dtypes, sizes that
fit their shapes, and offsets that tile the data without gap or overlap up to the last byte of the file.
Format: https://huggingface.co/docs/safetensors.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sfumato.checkpoint.disk import decode_json, open_plain
from sfumato.core.errors import WeightsError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
HEADER_LIMIT = 100_000_000  # bytes, the format's own


@dataclass(frozen=True)
class Entry:
    """What a header says of one tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype


# ---- writing ----


def _bytes(tensor: Tensor) -> memoryview:
    """The tensor's bytes, row-major, little-endian (as every platform of torch is)."""
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


def size_in_bytes(tensors: Mapping[str, Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors.values())


def encode_tensors(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> Iterator[bytes | memoryview]:
    """The file's bytes, one tensor at a time, so that a large model is never held twice."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    # The widest dtypes first, so that every tensor starts at a multiple of its own size.
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    offset = 0
    for name in order:
        tensor = tensors[name]
        if tensor.dtype not in NAMES:
            raise TypeError(f"The tensor {name!r} has dtype {tensor.dtype}, which a safetensors file cannot hold.")
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in order:
        yield _bytes(tensors[name])


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the file that these tensors would make."""
    digest = hashlib.sha256()
    for part in encode_tensors(tensors):
        digest.update(part)
    return digest.hexdigest()


# ---- reading ----


def read_header(path: Path) -> tuple[dict[str, Entry], dict[str, Any]]:
    """The tensors that a file holds, and its metadata; or a WeightsError that names the file and the fault."""
    with open_plain(path) as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(HEADER_LIMIT, size - 8):
            raise WeightsError(
                f"{path} is damaged: it has {size:,} bytes and announces a header of {length:,}; "
                "it is truncated or no safetensors file."
            )
        text = file.read(length)
    header = decode_json(text, path)
    metadata = header.pop("__metadata__", None)
    spans = sorted(_span(path, name, entry) for name, entry in header.items())
    end = 0
    for start, stop, name in spans:
        if start != end:
            fault = "overlaps the one before" if start < end else "leaves a gap before it"
            raise WeightsError(f"{path} is damaged: the tensor {name!r} {fault}.")
        end = stop
    if end != size - 8 - length:
        raise WeightsError(
            f"{path} is damaged: its tensors need {end:,} bytes and the file has {size - 8 - length:,}; "
            f"it is {'truncated' if end > size - 8 - length else 'too long'}."
        )
    entries = {name: Entry(tuple(entry["shape"]), DTYPES[entry["dtype"]]) for name, entry in header.items()}
    return entries, metadata if isinstance(metadata, dict) else {}


def _span(path: Path, name: str, entry: Any) -> tuple[int, int, str]:
    """(first byte, end, name) of one entry, checked by itself."""
    try:
        dtype, shape, (start, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
        numbers = [start, stop, *shape]
    except (TypeError, KeyError, ValueError):
        raise WeightsError(f"{path} is damaged: the header's entry for {name!r} is incomplete.") from None
    if not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in numbers) or not isinstance(
        dtype, str
    ):
        raise WeightsError(f"{path} is damaged: the header's entry for {name!r} holds no sizes.")
    if dtype not in DTYPES:
        raise WeightsError(
            f"{path} cannot be used: the tensor {name!r} has the dtype {dtype!r}, which is not known here."
        )
    if stop - start != math.prod(shape) * DTYPES[dtype].itemsize:
        raise WeightsError(f"{path} is damaged: {name!r} has {stop - start:,} bytes, not those of {dtype} {shape}.")
    return start, stop, name


def read_tensors(path: Path, finite: bool = True) -> dict[str, Tensor]:
    """All tensors, on the CPU; with `finite`, NaN and Inf are refused."""
    read_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is damaged: {error}.") from None
    if finite:
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise WeightsError(f"{path} is damaged: the tensor {name!r} holds NaN or Inf.")
    return tensors
