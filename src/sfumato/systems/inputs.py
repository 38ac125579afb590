"""What is handed to a system from outside is looked at once, at its door: pictures, masks, conditions, seeds.

A tensor of another shape, of bytes, of values from 0 to 255 or with NaN in it would not always fail: some would give a
picture, and a wrong one. So each is answered with what was given and what is wanted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from sfumato.core.classes import class_number
from sfumato.core.errors import Misfit, UsageError
from sfumato.core.space import Grid

MOST = 10_000_000  # images of one call: they are held in memory
FAR = 8.0  # no picture in [−1, 1], however noisy, has values beyond it; one in [0, 255] has


def check_images(images: Any, data: Grid, what: str = "images") -> Tensor:
    """The images, or Misfit unless they are finite floats (n, C, H, W) in [−1, 1], or not far from it."""
    wanted = f"(n, {', '.join(map(str, data.shape))}) floats in [−1, 1]"
    if not isinstance(images, Tensor):
        raise Misfit(f"{what} must be a tensor {wanted}, not {type(images).__name__}.")
    if tuple(images.shape) == data.shape:
        raise Misfit(
            f"{what} must be a batch, {wanted}; this is one picture, {tuple(images.shape)}. Write image[None]."
        )
    if images.ndim != 4 or tuple(images.shape[1:]) != data.shape:
        raise Misfit(f"{what} must be {wanted}, not {tuple(images.shape)}. Resize and crop them, or use another run.")
    return check_values(images, what)


def check_texts(texts: Any) -> list[str]:
    """The texts, or Misfit unless they are a list of strings."""
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        raise Misfit(f"Texts are a list of strings, not {type(texts).__name__}. Of one: [text].")
    found = list(texts)
    wrong = next((one for one in found if not isinstance(one, str)), None)
    if wrong is not None:
        raise Misfit(f"Texts are strings, and this is {type(wrong).__name__}: {str(wrong)[:60]}.")
    return found


def check_values(images: Tensor, what: str = "images") -> Tensor:
    """Returns the images, or raises Misfit unless they are finite floats in [−1, 1], or not far from it."""
    if not images.is_floating_point():
        raise Misfit(f"{what} must be floats in [−1, 1], not {images.dtype}. Of bytes: images.float() / 127.5 - 1.")
    if not images.numel():
        return images
    low, high = (float(value) for value in torch.aminmax(images.detach()))
    if not (low > -float("inf") and high < float("inf")):  # NaN fails every comparison
        raise Misfit(f"{what} must be floats in [−1, 1], and these hold NaN or infinite values.")
    if max(-low, high) > FAR:
        raise Misfit(
            f"{what} must be floats in [−1, 1], and these run from {low:.4g} to {high:.4g}. Of 0 … 255: x / 127.5 - 1."
        )
    return images


def check_mask(mask: Any, images: Tensor) -> Tensor:
    """The hole, (n, 1, H, W) bool, of a mask (n or 1, 1, H, W), (H, W) or what lies between, true or above 0 where to
    repaint."""
    shape = f"({len(images)} or 1, 1, {images.shape[-2]}, {images.shape[-1]})"
    if not isinstance(mask, Tensor):
        raise Misfit(f"A mask is a tensor {shape}, true where to repaint, not {type(mask).__name__}.")
    whole = mask[(None,) * max(4 - mask.ndim, 0)]
    if whole.ndim != 4 or whole.shape[0] not in (1, len(images)) or whole.shape[1] != 1:
        raise Misfit(f"A mask is {shape}, true where to repaint, not {tuple(mask.shape)}.")
    if whole.shape[-2:] != images.shape[-2:]:
        raise Misfit(f"The mask is {_size(whole)} and the picture {_size(images)}; both must have one shape.")
    if whole.is_floating_point() and bool(whole.isnan().any()):
        raise Misfit("The mask holds NaN; it must be true or above 0 where to repaint.")
    return whole.to(images.device).expand(len(images), 1, -1, -1) > 0


def _size(picture: Tensor) -> str:
    return f"{picture.shape[-1]}×{picture.shape[-2]}"


def keys_of(given: Any) -> tuple[str, ...]:
    """The keys of what is given; none of what is no mapping, which `as_rows` refuses."""
    return tuple(given) if isinstance(given, Mapping) else ()


def as_rows(given: Mapping[str, Any] | None, n: int, names: Sequence[str] = ()) -> dict[str, Any]:
    """Every value as n rows: one value (a string, a number, a single row) stands for all. Classes may be named."""
    if given is not None and not isinstance(given, Mapping):
        raise UsageError(f"`given` maps what is asked for to its values, {{'label': [0]}}, and is no {_kind(given)}.")
    rows: dict[str, Any] = {}
    for key, value in (given or {}).items():
        if isinstance(value, (str, int, float)):
            value = [value] * n
        if key == "label":
            value = _labels(value, names)
        elif key == "text":
            value = _texts(value)
        if isinstance(value, Tensor) and value.ndim == 0:
            value = value[None]
        if len(value) == 1 and n != 1:
            value = take(value, [0] * n)
        if len(value) != n:
            raise UsageError(f"{n} images need {n} rows of {key!r} (or one for all), not {len(value)}.")
        rows[key] = value
    return rows


def take(value: Any, rows: list[int]) -> Any:
    return value[rows] if isinstance(value, Tensor) else [value[i] for i in rows]


def _labels(value: Any, names: Sequence[str]) -> Tensor:
    """(n,) int64. Words are classes by name, numbers by index."""
    if not isinstance(value, Tensor):
        value = [class_number(one, names) if isinstance(one, str) else one for one in _listed(value, "label")]
    try:
        labels = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise UsageError(f"Labels are whole numbers or names of classes, not {str(value)[:60]}.") from None
    labels = labels[None] if labels.ndim == 0 else labels
    if labels.ndim != 1 or labels.is_floating_point() or labels.dtype is torch.bool or labels.is_complex():
        kind = f"{labels.dtype} of shape {tuple(labels.shape)}"
        raise UsageError(f"Labels are whole numbers or names of classes, one an image, not {kind}.")
    if labels.numel() and int(labels.min()) < 0:
        raise UsageError(f"Label {int(labels.min())} is no class; they count from 0. For none, leave the label out.")
    return labels.long()


def _texts(value: Any) -> list[str]:
    texts = _listed(value, "text")
    wrong = next((one for one in texts if not (one is None or isinstance(one, str))), "")
    if wrong != "":
        raise UsageError(f"Captions are strings, and this is {type(wrong).__name__}: {str(wrong)[:60]}.")
    return texts


def _listed(value: Any, key: str) -> list[Any]:
    if isinstance(value, Mapping) or not isinstance(value, Iterable):
        raise UsageError(f"given[{key!r}] is one value an image, or one for all, not {_kind(value)}.")
    return list(value)


def _kind(value: Any) -> str:
    return type(value).__name__


def check_batch(batch: Any) -> int:
    if isinstance(batch, bool) or not isinstance(batch, Integral) or not 1 <= int(batch) <= MOST:
        raise UsageError(f"A batch holds from 1 to {MOST:,} images, not {str(batch)[:40]}.")
    return int(batch)


def check_seeds(n: Any, seeds: Iterable[int] | None) -> Sequence[int]:
    """The seeds of n images: 0 … n − 1 if none are given. Each from −2⁶³ to 2⁶⁴ − 1, what a generator can take."""
    if isinstance(n, bool) or not isinstance(n, Integral) or not 1 <= int(n) <= MOST:
        raise UsageError(
            f"The number of images is a whole number of at least 1 and at most {MOST:,}, not {str(n)[:40]}."
        )
    if seeds is None:
        return range(n)
    found = list(seeds) if isinstance(seeds, Iterable) else [seeds]
    if len(found) != n:
        raise UsageError(f"{n} images need {n} seeds, not {len(found)}.")
    for seed in found:
        try:
            fits = seed == int(seed) and -(2**63) <= int(seed) < 2**64
        except (TypeError, ValueError, OverflowError):
            fits = False
        if not fits:
            raise UsageError(f"A seed is a whole number from 0 to 2⁶⁴ − 1 = {2**64 - 1}, not {str(seed)[:40]}.")
    return [int(seed) for seed in found]
