"""A critic of patches: how real does each neighbourhood of a picture look (arXiv:1611.07004)?

    conv 4×4 stride 2, leaky · (layers − 1) × [conv 4×4 stride 2, norm, leaky] · [conv 4×4, norm, leaky] · conv 4×4

Each logit sees 70×70 pixels when layers = 3. The original normalises over the batch. Then a logit depends on the other
pictures beside it, real and false batches are measured with different statistics, and the processes of a distributed
run disagree. Hence here the norm is over groups of channels of one picture ("group") or over single ones ("instance");
or there is none, and each layer has Lipschitz constant one ("spectral", arXiv:1802.05957).
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from sfumato.core.errors import Misfit
from sfumato.nn.parts.layers import group_norm

Kind = Literal["group", "instance", "spectral", "none"]


class Critic(nn.Module):
    """x (B, C, H, W) → logits (B, 1, h, w)."""

    def __init__(self, channels: int = 3, *, width: int = 64, layers: int = 3, norm: Kind = "group"):
        super().__init__()
        if norm not in ("group", "instance", "spectral", "none"):
            raise Misfit(f"A critic's norm is group, instance, spectral or none; not {norm!r}.")

        def conv(a: int, b: int, stride: int) -> nn.Module:
            made = nn.Conv2d(a, b, 4, stride, padding=1)
            nn.init.normal_(made.weight, std=0.02)  # DCGAN's, arXiv:1511.06434
            nn.init.zeros_(made.bias)  # type: ignore[arg-type]
            return spectral_norm(made) if norm == "spectral" else made

        def normed(c: int) -> list[nn.Module]:
            if norm == "group":
                return [group_norm(c)]
            return [nn.InstanceNorm2d(c, affine=True)] if norm == "instance" else []

        widths = [width * min(2**i, 8) for i in range(layers + 1)]
        parts: list[nn.Module] = [conv(channels, widths[0], 2), nn.LeakyReLU(0.2)]
        for i, (a, b) in enumerate(pairwise(widths)):
            parts += [conv(a, b, 1 if i == layers - 1 else 2), *normed(b), nn.LeakyReLU(0.2)]
        self.smallest = 2**layers * 2 + 2**layers  # below, the last convolutions have nothing left to look at
        self.body = nn.Sequential(*parts, conv(widths[-1], 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        if min(x.shape[-2:]) < self.smallest:
            raise Misfit(
                f"This critic needs pictures of {self.smallest} pixels or more, not {tuple(x.shape[-2:])}: "
                "each layer halves them. Build it with fewer layers."
            )
        return self.body(x)
