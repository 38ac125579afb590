"""The frame: what every recipe is told of the pictures and of what they are given, in one word.

A recipe says in `add` which of these dials it has; what it has not keeps its default here. All beside are its own.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from sfumato.core.space import Grid
from sfumato.recipes.sizes import Size, side_for


@dataclass(frozen=True)
class Frame:
    """side: the pictures' side in pixels; None: the size's own. classes: None, those of the published model where
    there is one (see `published`), else 0."""

    size: Size = "s"
    side: int | None = None
    channels: int = 3
    classes: int | None = None
    text: bool = False

    def side_by(self, factor: int = 1, paper: int | None = None) -> int:
        """The pictures' side, a multiple of `factor`; `paper` is what it is unasked at that size."""
        return side_for(self.size, self.side, factor, paper)

    def grid(self, factor: int = 1, paper: int | None = None) -> Grid:
        """The pictures."""
        side = self.side_by(factor, paper)
        return Grid(self.channels, side, side)

    def published(self, classes: int = 1000) -> Frame:
        """Unasked, the published sizes have their classes, ImageNet's thousand; the others none."""
        wanted = self.classes is None and self.size == "paper" and not self.text
        return replace(self, classes=classes) if wanted else self


ALL = tuple(f.name for f in fields(Frame))
PICTURES = ("size", "side", "channels")
