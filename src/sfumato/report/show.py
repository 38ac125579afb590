"""Pictures that show themselves: in a notebook by being the last line of a cell, elsewhere by `save`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from sfumato.checkpoint.disk import write_file
from sfumato.core.errors import Misfit, UsageError
from sfumato.report import pictures
from sfumato.systems.inputs import check_values

ENCODED = {".png": pictures.png, ".jpg": pictures.jpeg, ".jpeg": pictures.jpeg}


class Sheet:
    """Pictures on one sheet; `image` is it as PIL has it."""

    def __init__(self, image: Image.Image, count: int):
        self.image, self.count = image, count

    def save(self, path: str | Path) -> Path:
        """Writes a PNG or a JPEG, by what the path ends in; UsageError for another ending."""
        path = Path(path)
        if path.suffix.lower() not in ENCODED:
            raise UsageError(f"{path}: pictures are saved as {', '.join(ENCODED)}.")
        write_file(path, ENCODED[path.suffix.lower()](self.image))
        return path

    def _repr_png_(self) -> bytes:
        return pictures.png(self.image)

    def __repr__(self) -> str:
        return f"Sheet({self.count} pictures, {self.image.width}×{self.image.height}; .save(path), .image)"


def show(
    images: Tensor | Image.Image | Sequence[Image.Image],
    captions: Sequence[str] | None = None,
    columns: int | None = None,
) -> Sheet:
    """A sheet of images: (n, C, H, W) or (C, H, W) floats in [−1, 1], C 1 or 3, as `sample` gives them, or PIL's."""
    if isinstance(images, Tensor):
        images = images[None] if images.ndim == 3 else images
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise Misfit(f"Pictures are (n, C, H, W) with C 1 or 3, not {tuple(images.shape)}.")
        images = check_values(images)
    elif isinstance(images, Image.Image):
        images = [images]
    count = len(images)
    if not count:
        raise Misfit("There are no pictures to show.")
    if captions is not None and len(captions) != count:
        raise Misfit(f"{count} pictures have {count} captions, not {len(captions)}.")
    if columns is not None and columns < 1:
        raise UsageError(f"columns must be at least 1, not {columns}.")
    return Sheet(pictures.grid(images, captions, columns), count)
