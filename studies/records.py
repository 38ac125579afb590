"""What results.py and priors.py share: records of runs, kept in docs/results, and a sheet of what the runs drew."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "docs" / "results"
ACROSS = 5  # grids in a row of a sheet


class Drawn(Protocol):
    """A run's name, and what to write above its grid."""

    @property
    def name(self) -> str: ...

    @property
    def recipe(self) -> str: ...


def sheet(found: Sequence[Drawn], out: Path, place: Path) -> bool:
    """The last grid of every run, side by side, its name above; False, and the older sheet stays, where one is gone."""
    from PIL import Image, ImageDraw, ImageFont

    grids = []
    for job in found:
        pictures = sorted((out / job.name / "samples").glob("*.png"), key=lambda p: int(p.stem))
        if not pictures:
            return False
        grids.append((job.recipe, Image.open(pictures[-1]).convert("RGB")))
    wide, high = max(g.width for _, g in grids) + 12, max(g.height for _, g in grids) + 28
    page = Image.new("RGB", (wide * min(len(grids), ACROSS), high * -(-len(grids) // ACROSS)), "white")
    pen = ImageDraw.Draw(page)
    for i, (name, grid) in enumerate(grids):
        x, y = i % ACROSS * wide, i // ACROSS * high
        pen.text((x + 2, y + 3), name, fill="black", font=ImageFont.load_default(13))
        page.paste(grid, (x, y + 22))
    place.parent.mkdir(parents=True, exist_ok=True)
    page.save(place)
    return True


def keep(out: Path, jobs: list) -> list[tuple[Any, dict]]:
    """Copies the records in `out` to docs/results/; (job, record) of all that are kept there."""
    KEPT.mkdir(exist_ok=True)
    found = []
    for job in jobs:
        fresh, kept = out / f"{job.name}.json", KEPT / f"{job.name}.json"
        if fresh.exists():
            shutil.copyfile(fresh, kept)
        if kept.exists():
            found.append((job, json.loads(kept.read_text())))
    return found
