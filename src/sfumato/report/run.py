"""RUN/report.html: what was trained, how it went, what it draws, and how good that is; for a reader who is new to it.

What the run folder holds is told as it is; samples, reconstructions and nearest training pictures are made anew from
the averaged weights, at seeds that are written beside them. Whatever is missing (the data moved away, a stage not yet
trained) leaves a sentence instead of a section, never a failure.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch

from sfumato.checkpoint import write_file
from sfumato.core.errors import SfumatoError
from sfumato.metrics.evaluation import condition_keys
from sfumato.recipes import RECIPES
from sfumato.report import confusion, page, scores, shown
from sfumato.report.facts import facts
from sfumato.report.learning import learning
from sfumato.report.odd import odd
from sfumato.report.opened import Opened
from sfumato.report.shown import Watch
from sfumato.systems.abilities import can
from sfumato.version import VERSION


@torch.no_grad()
def write_report(
    run: str | Path, *, samples: int = 16, seed: int = 0, device: Any = "cpu", watch: Watch | None = None
) -> Path:
    """Writes RUN/report.html and returns its path."""
    opened = Opened(Path(run), device)
    name = opened.recipe["name"]
    title = f"{Path(run).resolve().name}"
    body = [
        f"<h1>{page.text(title)}</h1>",
        page.paragraph(RECIPES[name].summary if name in RECIPES else name, "lead"),
        facts(opened),
        opened.attempt(lambda: shown.learned_from(opened)),
        opened.attempt(lambda: shown.samples(opened, samples, seed, watch)),
        opened.attempt(lambda: shown.reconstructions(opened)),
        opened.attempt(lambda: confusion.section(opened)),
        opened.attempt(lambda: shown.schedule(opened, seed)),
        opened.attempt(lambda: shown.on_the_way(opened)),
        opened.attempt(lambda: learning(opened)),
        scores.section(opened),
        odd(opened),
        _next(opened),
        f"<footer>Written by sfumato {VERSION}. This page is one file, loads nothing, and runs no script.</footer>",
    ]
    place = Path(run) / "report.html"
    write_file(place, page.page(f"{title} · {name}", body).encode())
    return place


def _next(opened: Opened) -> str:
    run = opened.path
    lines = [f"sfumato resume {run}", f"sfumato info {run}"]
    with contextlib.suppress(SfumatoError):
        keys = condition_keys(opened.system)
        asked = ' --text "…" --guidance 3' if "text" in keys else " --label 0 --guidance 3" if "label" in keys else ""
        ending = "png" if "image" in opened.system.entries else "txt"
        said = {
            "draws": f"sample {run} -n 16{asked} --out samples.{ending}",
            "classifies": f"classify {run} picture.png --out classified.csv",
            "reconstructs": f"reconstruct {run} picture.png --out reconstruction.png",
        }
        lines.insert(0, next(f"sfumato {words}" for ability, words in said.items() if can(opened.system, ability)))
    return page.section("How to go on", page.code("\n".join(lines)))
