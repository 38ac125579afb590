"""A classifier: p(y | x) = softmax(network(x)) over K classes. What is trained has no latent and no prior.

    −log p(y | v(x))  →  min,      v a view of the picture (systems/views.py), in training only

With smoothing ε the target is (1 − ε) at y and ε / K everywhere (arXiv:1512.00567), as the loss of a step; on what is
held out ε counts too, so that both numbers are of one scale.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.core.contracts import Batch, Batches, Objective, Terms
from sfumato.core.errors import Misfit, UsageError
from sfumato.core.noise import Noise
from sfumato.core.space import Grid
from sfumato.systems import shown
from sfumato.systems.inputs import check_images

View = Callable[[Tensor, Noise], Tensor]


class Network(Protocol):
    """(B, C, H, W) → logits (B, K); `embed` gives what they are read from, (B, D)."""

    def __call__(self, x: Tensor) -> Tensor: ...

    def embed(self, x: Tensor) -> Tensor: ...


class Classifier(nn.Module):
    """`classes` names the labels by their numbers, where names are known."""

    entries = ("image",)  # what it reads
    learns = ("image", "label")  # what of a batch its training takes
    hears: tuple[str, ...] = ()  # what may be given where it answers: nothing but the picture

    def __init__(self, network: Network, data: Grid, count: int, *, view: View | None = None, smoothing: float = 0.0):
        super().__init__()
        self.network, self.data, self.count = network, data, count
        self.view, self.smoothing = view, smoothing
        self.classes: list[str] = []
        self.recipe: dict[str, Any] = {}
        self._right = float("nan")

    def __repr__(self) -> str:
        return shown.line(self)

    def _repr_html_(self) -> str:
        return shown.table(self)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    # ---- training ----

    def stages(self) -> dict[str, Objective]:
        return {"classifier": self}

    def loss(self, batch: Batch, player: int = 0, noise: Noise | None = None, progress: float = 1.0) -> Terms:
        """ "nats": mean over the pictures."""
        x, y = batch["image"], batch["label"]
        if not self.count:
            raise UsageError("This classifier was built for no classes. Hand in --classes, or a set that has labels.")
        if self.training and self.view is not None:
            x = self.view(x, Noise.ambient(len(x), x.device) if noise is None else noise)
        logits = self.network(x)
        self._right = float((logits.detach().argmax(1) == y).float().mean())
        return {"nats": F.cross_entropy(logits.float(), y, label_smoothing=self.smoothing)}

    def players(self) -> list[list[nn.Parameter]]:
        return [list(self.parameters())]

    def prepare(self, batches: Batches) -> None: ...

    def settle(self, noise: Noise | None = None) -> None: ...

    def forget(self) -> None: ...

    def finish(self, batches: Batches) -> None: ...

    def diagnostics(self) -> dict[str, float]:
        """The part of the last batch whose label was the likeliest."""
        return {"right": self._right} if self._right == self._right else {}

    # ---- use ----

    @torch.no_grad()
    def classify(self, images: Tensor, batch: int = 64) -> Tensor:
        """(n, C, H, W) in [−1, 1] → p(y | x) (n, K), on the CPU."""
        if not len(check_images(images, self.data)):
            return torch.zeros(0, self.count)
        parts = images.split(batch)
        return torch.cat([self.network(part.to(self.device)).float().softmax(1).cpu() for part in parts])

    @torch.no_grad()
    def embed(self, images: Tensor, batch: int = 64) -> Tensor:
        """(n, C, H, W) in [−1, 1] → what the logits are linear in, (n, D), on the CPU."""
        found = [
            self.network.embed(part.to(self.device)).cpu() for part in check_images(images, self.data).split(batch)
        ]
        if not found:
            raise Misfit("There is no picture to embed.")
        return torch.cat(found)
