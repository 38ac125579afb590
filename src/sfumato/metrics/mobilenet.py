"""MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381): the feature network that can be had offline.

A block widens, filters each channel alone, and narrows again without a non-linearity; where the shape allows, it adds:

    y = x + W₋ · relu6(DW₃ₓ₃ · relu6(W₊ · x)),        batch norm after every W

Shapes: (B, 3, H, W) → pooled features (B, 1280) → logits (B, 1000). Parameters are named as torchvision names them, so
that its published file fits without a translation.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Table 2 of the paper: expansion, channels out, blocks, stride of the first
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def conv_norm(inside: int, outside: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch norm, relu6: same size at stride 1."""
    return nn.Sequential(
        nn.Conv2d(inside, outside, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outside),
        nn.ReLU6(inplace=True),
    )


class InvertedResidual(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int, expansion: int):
        super().__init__()
        hidden = inside * expansion
        widen = [conv_norm(inside, hidden, kernel=1)] if expansion > 1 else []
        self.conv = nn.Sequential(
            *widen,
            conv_norm(hidden, hidden, stride=stride, groups=hidden),
            nn.Conv2d(hidden, outside, 1, bias=False),
            nn.BatchNorm2d(outside),
        )
        self.adds = stride == 1 and inside == outside

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.adds else self.conv(x)


class MobileNetV2(nn.Module):
    def __init__(self, classes: int = 1000):
        super().__init__()
        layers: list[nn.Module] = [conv_norm(3, 32, stride=2)]
        inside = 32
        for expansion, outside, blocks, stride in STAGES:
            for block in range(blocks):
                layers.append(InvertedResidual(inside, outside, stride if block == 0 else 1, expansion))
                inside = outside
        self.features = nn.Sequential(*layers, conv_norm(inside, 1280, kernel=1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes))

    def pooled(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) → (B, 1280)."""
        return self.features(x).mean((2, 3), dtype=torch.float32)  # a mean in bf16 would keep three digits

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.pooled(x).to(x.dtype))
