"""A class label becomes a vector, or a sequence of one: a learned row a class, and one more for "no label".

    y ∈ {0 … K − 1} → E[y];  null, and any y < 0 → E[K]

The null row is learned by dropping labels with probability `drop` (Ho & Salimans 2022, arXiv:2207.12598).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sfumato.core.condition import Condition
from sfumato.core.contracts import Conditioner, Given
from sfumato.core.errors import UsageError
from sfumato.core.noise import Noise


class Labels(Conditioner):
    """given["label"] (B,) int64 → vector (B, width), or, `attended`, sequence (B, 1, width), as in LDM.
    Raises UsageError for a label that no class has."""

    keys = ("label",)
    label_rows = ("table.weight",)  # its first rows are the classes', see train/tuning.py

    def __init__(self, classes: int, width: int, drop: float = 0.1, attended: bool = False):
        super().__init__()
        self.classes, self.drop, self.attended = classes, drop, attended
        self.table = nn.Embedding(classes + 1, width)  # N(0, 1), ADM's: as loud as the time embedding it stands beside

    def forward(self, given: Given, noise: Noise | None = None) -> Condition:
        label = torch.as_tensor(given["label"], device=self.table.weight.device)
        if label.numel() and int(label.max()) >= self.classes:
            raise UsageError(
                f"Label {int(label.max())} is not one of the {self.classes} classes 0 … {self.classes - 1}."
            )
        label = torch.where(label < 0, self.classes, label)
        if noise is not None:
            label = torch.where(noise.uniform() < self.drop, self.classes, label)
        return self._embed(label)

    def null(self, rows: int) -> Condition:
        return self._embed(torch.full((rows,), self.classes, device=self.table.weight.device))

    def _embed(self, label: Tensor) -> Condition:
        row = self.table(label)
        if not self.attended:
            return Condition(len(label), vector=row)
        return Condition(len(label), sequence=row[:, None], mask=torch.ones_like(label, dtype=torch.bool)[:, None])
