"""A small judge of one's own: a convolutional classifier, trained in minutes on the labelled set to be modelled.

It says whether a picture that was drawn for a label shows that label, and its pooled features measure distances on
sets that ImageNet knows nothing of, such as handwritten digits.

    (3×3 convolution, batch norm, relu) per level, each halving, the width doubling until 8 × width; mean; linear

Shapes: (B, C, side, side) in [−1, 1] → pooled (B, D) → logits (B, K).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.core.errors import DataError
from sfumato.core.noise import Noise, derive


class Classifier(nn.Module):
    def __init__(self, channels: int, side: int, classes: int, width: int = 32, seed: int = 0):
        super().__init__()
        self.channels, self.side, self.classes, self.width = channels, side, classes, width
        levels: list[nn.Module] = []
        inside, outside = channels, width
        while side >= 4:  # down to a side of 2 or 3, where the plane is averaged
            stride = 2 if levels else 1  # the first level sees every pixel
            levels += [nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU()]
            side = -(-side // stride)
            inside, outside = outside, min(2 * outside, 8 * width)
        self.trunk = nn.Sequential(*levels)
        self.dims = inside
        self.head = nn.Linear(inside, classes)
        self._draw(seed)

    def _draw(self, seed: int) -> None:
        """He et al. 2015 (arXiv:1502.01852), from the seed and not from torch's own generator."""
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                drawn = Noise.each([derive(seed, "classifier", name)]).normal(*parameter.shape)[0]
                parameter.data = drawn * (2 / parameter[0].numel()) ** 0.5
        nn.init.zeros_(self.head.bias)

    def pooled(self, x: Tensor) -> Tensor:
        return self.trunk(x).mean((2, 3), dtype=torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pooled(x))

    @torch.inference_mode()
    def predict(self, images: Tensor, batch: int = 256) -> Tensor:
        """The most probable label of each picture: (N,) int64, on the CPU. Other sizes are resized, grey is tripled."""
        was, device = self.training, self.head.weight.device
        self.eval()
        found = []
        for part in images.split(batch):
            x = part.to(device).expand(-1, max(self.channels, part.shape[1]), -1, -1)
            if x.shape[-2:] != (self.side, self.side):
                x = F.interpolate(x, (self.side, self.side), mode="bilinear", antialias=True)
            found.append(self(x).argmax(1).cpu())
        self.train(was)
        return torch.cat(found) if found else torch.zeros(0, dtype=torch.long)


def fit_classifier(
    source: Any,
    steps: int = 1000,
    minutes: float | None = None,
    batch: int = 128,
    rate: float = 3e-3,
    width: int = 32,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Callable[[int, float], None] | None = None,
) -> Classifier:
    """Trains on all of `source` (len(), batch(indices)), with a cosine schedule over `steps`, or over `minutes` where
    they are given and end first. `progress` is called with (step, loss)."""
    first = source.batch([0])
    if "label" not in first:
        raise DataError("A judge is trained on labels, and this set has none. Use the mobilenetv2 features instead.")
    classes = len(source.labels) if getattr(source, "labels", None) else 1 + int(_labels(source).max())
    channels, side = first["image"].shape[1], first["image"].shape[-1]
    judge = Classifier(channels, side, classes, width, seed).to(device).train()
    optimiser = torch.optim.AdamW(judge.parameters(), lr=rate, weight_decay=0.01)
    begun = time.monotonic()
    for step in range(steps):
        done = step / steps
        if minutes is not None:
            done = max(done, (time.monotonic() - begun) / (60 * minutes))
        if done >= 1:
            break
        optimiser.param_groups[0]["lr"] = rate * 0.5 * (1 + torch.cos(torch.tensor(done * torch.pi)).item())
        rows = Noise.each([derive(seed, "classifier-rows", step)]).integers(len(source), batch)[0]
        drawn = source.batch(rows.tolist())
        loss = F.cross_entropy(judge(drawn["image"].to(device)), drawn["label"].to(device), label_smoothing=0.05)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        if progress is not None:
            progress(step + 1, float(loss.detach()))
    return judge.eval()


def _labels(source: Any, chunk: int = 1024) -> Tensor:
    parts = [source.batch(range(i, min(i + chunk, len(source))))["label"] for i in range(0, len(source), chunk)]
    return torch.cat(parts)


def accuracy(judge: Classifier, source: Any, batch: int = 256) -> float:
    """The part of a labelled set that the judge names rightly."""
    right = 0
    for start in range(0, len(source), batch):
        drawn = source.batch(range(start, min(start + batch, len(source))))
        right += int((judge.predict(drawn["image"]) == drawn["label"]).sum())
    return right / len(source)
