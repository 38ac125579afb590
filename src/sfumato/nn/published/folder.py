"""A folder of config.json and *.safetensors: read whole, or refused with what is wrong in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from sfumato.core.errors import WeightsError

N = TypeVar("N", bound=nn.Module)


Weights = dict[str, Tensor]


Config = dict[str, Any]


def config_of(folder: str | Path) -> Config:
    path = Path(folder) / "config.json"
    try:
        return _Config(path, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise WeightsError(
            f"{path} cannot be read ({error}). A published model is a folder with config.json and *.safetensors; "
            "in a pipeline it is the subfolder, for example 'unet' or 'vae'."
        ) from error


class _Config(dict):
    """A config.json that says which setting it lacks."""

    def __init__(self, path: Path, settings: Config):
        super().__init__(settings)
        self.path = path

    def __missing__(self, key: str) -> Any:
        raise WeightsError(f"{self.path} lacks {key!r}; it belongs to another kind of model.")


def expect(config: Config, key: str, allowed: list[Any], default: Any) -> Any:
    value = config.get(key, default)
    if value not in allowed:
        wanted = " or ".join(map(repr, allowed))
        raise WeightsError(f"config.json has {key} = {value!r}; our network computes {wanted} only.")
    return value


def weights_of(folder: str | Path) -> Weights:
    folder = Path(folder)
    index = sorted(folder.glob("*.safetensors.index.json"))
    names = ("diffusion_pytorch_model.safetensors", "model.safetensors")
    plain = [folder / name for name in names if (folder / name).is_file()]
    try:
        if plain:
            files = plain[:1]
        elif index:
            shards = json.loads(index[0].read_text(encoding="utf-8"))["weight_map"].values()
            files = [folder / Path(name).name for name in sorted(set(shards))]
        else:
            files = sorted(folder.glob("*.safetensors"))[:1]
        if not files:
            raise WeightsError(
                f"{folder} holds no *.safetensors, and other formats are not read. Save it as safetensors."
            )
        weights: Weights = {}
        for file in files:
            weights.update(load_file(file))
        for name, tensor in weights.items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise WeightsError(f"{folder} is damaged: the tensor {name!r} holds NaN or Inf.")
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"The weights in {folder} cannot be read: {error}. Download them again.") from error
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}


def empty(kind: Callable[..., N], *sizes: Any, **options: Any) -> N:
    """The network without memory for its weights."""
    with torch.device("meta"):
        return kind(*sizes, **options)


def fill(net: N, weights: Weights) -> N:
    """All of `weights` become all of `net`'s, or WeightsError. The net comes back in evaluation mode."""
    own = net.state_dict()
    wrong = [
        f"{k} is {tuple(weights[k].shape)}, not {tuple(own[k].shape)}"
        for k in own
        if k in weights and weights[k].shape != own[k].shape
    ]
    problems = {
        "missing": sorted(own.keys() - weights.keys()),
        "not expected": sorted(weights.keys() - own.keys()),
        "of another shape": wrong,
    }
    if any(problems.values()):
        said = "; ".join(f"{what}: {_some(names)}" for what, names in problems.items() if names)
        raise WeightsError(f"The weights do not belong to this {type(net).__name__}. Tensors {said}.")
    net.load_state_dict(weights, assign=True)
    return net.eval()


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
