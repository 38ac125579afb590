"""Inception-v3 (Szegedy et al. 2015, arXiv:1512.00567), the variant that defines the Fréchet Inception Distance.

The FID (Heusel et al. 2017, arXiv:1706.08500) is read from a TensorFlow graph of 2015, whose towers differ from the
later torchvision model in three places:

    average pooling inside a tower leaves the padding out of the count     Mixed_5b … Mixed_6e, Mixed_7b
    the last tower pools by the maximum                                    Mixed_7c
    1008 classes

Shapes: (B, 3, 299, 299) in [−1, 1] → pooled features (B, 2048). Each tower is a table: branches of convolutions, laid
side by side. Parameters are named as in the published port of those weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Size = int | tuple[int, int]


class ConvNorm(nn.Module):
    """Convolution, batch norm (ε = 0.001), relu."""

    def __init__(self, inside: int, outside: int, kernel: Size, stride: int = 1, padding: Size = 0):
        super().__init__()
        self.conv = nn.Conv2d(inside, outside, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outside, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


def average(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def largest(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, 1, 1)


def shrink(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, 2)


# A step of a branch: name, channels out, kernel, stride, padding
Step = tuple[str, int, Size, int, Size]


class Tower(nn.Module):
    """Branches side by side, concatenated. A branch is a chain of steps; two steps in one list fork its end.

    `pool` stands before the branch that is named "pool"; a "pool" branch without steps is the pooling alone.
    """

    def __init__(self, inside: int, branches: Mapping[str, list[list[Step]]], pool: Callable[[Tensor], Tensor]):
        super().__init__()
        self.pool = pool
        self.plan = [(name, [[step[0] for step in level] for level in branch]) for name, branch in branches.items()]
        for branch in branches.values():
            width = inside
            for level in branch:
                for name, outside, kernel, stride, padding in level:
                    self.add_module(name, ConvNorm(width, outside, kernel, stride, padding))
                width = sum(step[1] for step in level)

    def forward(self, x: Tensor) -> Tensor:
        ends = []
        for name, levels in self.plan:
            h = self.pool(x) if name == "pool" else x
            for level in levels:
                forks = [self.get_submodule(step)(h) for step in level]
                h = torch.cat(forks, 1) if len(forks) > 1 else forks[0]
            ends.append(h)
        return torch.cat(ends, 1)


def tower_a(inside: int, pooled: int) -> Tower:
    """5×5 and double 3×3 beside 1×1: out 224 + pooled."""
    return Tower(
        inside,
        {
            "one": [[("branch1x1", 64, 1, 1, 0)]],
            "five": [[("branch5x5_1", 48, 1, 1, 0)], [("branch5x5_2", 64, 5, 1, 2)]],
            "double": [
                [("branch3x3dbl_1", 64, 1, 1, 0)],
                [("branch3x3dbl_2", 96, 3, 1, 1)],
                [("branch3x3dbl_3", 96, 3, 1, 1)],
            ],
            "pool": [[("branch_pool", pooled, 1, 1, 0)]],
        },
        average,
    )


def tower_b(inside: int) -> Tower:
    """Halves the side: out inside + 480."""
    return Tower(
        inside,
        {
            "three": [[("branch3x3", 384, 3, 2, 0)]],
            "double": [
                [("branch3x3dbl_1", 64, 1, 1, 0)],
                [("branch3x3dbl_2", 96, 3, 1, 1)],
                [("branch3x3dbl_3", 96, 3, 2, 0)],
            ],
            "pool": [],
        },
        shrink,
    )


def tower_c(inside: int, width: int) -> Tower:
    """7×7 as 1×7 and 7×1: out 768."""
    across, down = ((1, 7), 1, (0, 3)), ((7, 1), 1, (3, 0))
    return Tower(
        inside,
        {
            "one": [[("branch1x1", 192, 1, 1, 0)]],
            "seven": [
                [("branch7x7_1", width, 1, 1, 0)],
                [("branch7x7_2", width, *across)],
                [("branch7x7_3", 192, *down)],
            ],
            "double": [
                [("branch7x7dbl_1", width, 1, 1, 0)],
                [("branch7x7dbl_2", width, *down)],
                [("branch7x7dbl_3", width, *across)],
                [("branch7x7dbl_4", width, *down)],
                [("branch7x7dbl_5", 192, *across)],
            ],
            "pool": [[("branch_pool", 192, 1, 1, 0)]],
        },
        average,
    )


def tower_d(inside: int) -> Tower:
    """Halves the side: out inside + 512."""
    return Tower(
        inside,
        {
            "three": [[("branch3x3_1", 192, 1, 1, 0)], [("branch3x3_2", 320, 3, 2, 0)]],
            "seven": [
                [("branch7x7x3_1", 192, 1, 1, 0)],
                [("branch7x7x3_2", 192, (1, 7), 1, (0, 3))],
                [("branch7x7x3_3", 192, (7, 1), 1, (3, 0))],
                [("branch7x7x3_4", 192, 3, 2, 0)],
            ],
            "pool": [],
        },
        shrink,
    )


def tower_e(inside: int, pool: Callable[[Tensor], Tensor]) -> Tower:
    """3×3 forked into 1×3 and 3×1: out 2048."""
    across, down = ((1, 3), 1, (0, 1)), ((3, 1), 1, (1, 0))
    return Tower(
        inside,
        {
            "one": [[("branch1x1", 320, 1, 1, 0)]],
            "three": [
                [("branch3x3_1", 384, 1, 1, 0)],
                [("branch3x3_2a", 384, *across), ("branch3x3_2b", 384, *down)],
            ],
            "double": [
                [("branch3x3dbl_1", 448, 1, 1, 0)],
                [("branch3x3dbl_2", 384, 3, 1, 1)],
                [("branch3x3dbl_3a", 384, *across), ("branch3x3dbl_3b", 384, *down)],
            ],
            "pool": [[("branch_pool", 192, 1, 1, 0)]],
        },
        pool,
    )


class InceptionV3(nn.Module):
    def __init__(self, classes: int = 1008):
        super().__init__()
        self.Conv2d_1a_3x3 = ConvNorm(3, 32, 3, 2)
        self.Conv2d_2a_3x3 = ConvNorm(32, 32, 3)
        self.Conv2d_2b_3x3 = ConvNorm(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = ConvNorm(64, 80, 1)
        self.Conv2d_4a_3x3 = ConvNorm(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = tower_a(192, 32), tower_a(256, 64), tower_a(288, 64)
        self.Mixed_6a = tower_b(288)
        self.Mixed_6b, self.Mixed_6c = tower_c(768, 128), tower_c(768, 160)
        self.Mixed_6d, self.Mixed_6e = tower_c(768, 160), tower_c(768, 192)
        self.Mixed_7a = tower_d(768)
        self.Mixed_7b, self.Mixed_7c = tower_e(1280, average), tower_e(2048, largest)
        self.fc = nn.Linear(2048, classes)

    def pooled(self, x: Tensor) -> Tensor:
        """(B, 3, 299, 299) → (B, 2048)."""
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(shrink(x)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(shrink(x))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        return self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x))).mean((2, 3), dtype=torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pooled(x).to(x.dtype))
