"""The sections of the report that show pictures: what was learned from, what is drawn, what is rebuilt, on the way."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sfumato.core.errors import SfumatoError, UsageError
from sfumato.metrics.evaluation import condition_keys
from sfumato.report import page
from sfumato.report.curves import number
from sfumato.report.neighbours import nearest
from sfumato.report.opened import Opened
from sfumato.report.pictures import picture
from sfumato.report.schedule import draw_run
from sfumato.systems.abilities import can

Watch = Callable[[int, int], None]
GUIDED = 1.5  # samples with a condition are drawn so; what people do, and it is said beside them
REBUILT = 6  # reconstructions shown
THUMBNAILS = 12  # of the training set
COMPARED = 8  # samples shown beside their nearest training pictures
GRIDS = 6  # of the sample grids on the way


def learned_from(opened: Opened) -> str:
    """Some of what was learned from, as it was shown to the model."""
    source = opened.source
    rows = [i * len(source) // min(THUMBNAILS, len(source)) for i in range(min(THUMBNAILS, len(source)))]
    batch = source.batch(rows)
    if "image" not in batch:
        told = page.paragraph(f"{len(rows)} of {len(source):,}, evenly spread over the set.")
        return page.section(
            "The texts it learned from", told, page.table([(f"{row}", t) for row, t in zip(rows, batch["text"])])
        )
    names = source.labels or []
    words = batch.get("text") or [
        names[i] for i in batch.get("label", torch.zeros(0)).long().tolist() if i < len(names)
    ]
    words = words if len(words) == len(rows) else [""] * len(rows)
    figures = [
        page.figure([picture(image)], word, word or f"picture {row} of the training set")
        for image, word, row in zip(batch["image"], words, rows)
    ]
    told = page.paragraph(f"{len(rows)} of {len(source):,}, evenly spread over the set, as the model saw them.")
    return page.section("The pictures it learned from", told, page.sheet(figures))


def _asked(opened: Opened, n: int) -> tuple[dict[str, Any], list[str]]:
    """Conditions of n pictures spread over the set, and words for them; nothing for a system that takes none."""
    keys = condition_keys(opened.system)
    if not keys:
        return {}, [""] * n
    source = opened.source
    rows = [i * len(source) // n for i in range(n)]
    batch = source.batch(rows)
    given = {key: batch[key] for key in keys if key in batch}
    if len(given) < len(keys):
        return {}, ["nothing asked for"] * n
    words = list(given.get("text", [""] * n))
    if "label" in given:
        names = source.labels or []
        labels = [names[i] if i < len(names) else str(i) for i in given["label"].tolist()]
        words = [f"{label}: {word}" if word else label for label, word in zip(labels, words)]
    return given, words


def samples(opened: Opened, n: int, seed: int, watch: Watch | None) -> str:
    system = opened.system
    if n < 1 or not can(system, "draws"):
        return ""
    try:
        given, words = _asked(opened, n)
    except SfumatoError as error:  # the data are gone: draw without a condition
        opened.problems.append(str(error))
        given, words = {}, [""] * n
    guidance = GUIDED if given else 1.0
    drawn = system.sample(n, given or None, guidance=guidance, seeds=range(seed, seed + n), watch=watch)
    if system.entries == ("text",):
        return _written(drawn, words, bool(given), guidance, seed)
    images = next(part for part in drawn if isinstance(part, Tensor)) if isinstance(drawn, tuple) else drawn
    images = images.float().cpu()
    figures = [
        page.figure([picture(image)], f"{word}" if word else f"seed {seed + i}", word or f"sample of seed {seed + i}")
        for i, (image, word) in enumerate(zip(images, words))
    ]
    if given:
        how = (
            "Each was asked for by the words under it, which belong to a picture of the training set, with guidance "
            f"{guidance:g}, which exaggerates what the words ask for (1 would not). "
        )
    else:
        how = "Nothing was asked for: each is a draw from everything that was learned. "
    told = page.paragraph(
        f"{n} pictures that the model drew, none of them chosen by hand. {how}The seeds are {seed} to {seed + n - 1}; "
        "the same seed gives the same picture again."
    )
    return page.section("Samples", told, page.sheet(figures)) + opened.attempt(lambda: _copies(opened, images))


def _written(texts: list[str], words: list[str], asked: bool, guidance: float, seed: int) -> str:
    """Drawn texts, each beside what was asked for."""
    rows = [
        (word if asked else f"seed {seed + i}", text or "(nothing)") for i, (text, word) in enumerate(zip(texts, words))
    ]
    how = f"Each was asked for by what stands beside it, with guidance {guidance:g}. " if asked else ""
    told = page.paragraph(
        f"{len(texts)} texts that the model drew, none of them chosen by hand. {how}The seeds are {seed} to "
        f"{seed + len(texts) - 1}; the same seed gives the same text again."
    )
    return page.section("Samples", told, page.table(rows))


def _copies(opened: Opened, images: Tensor) -> str:
    """Samples beside their nearest training pictures: has it learned, or learned by heart?"""
    found = nearest(images[:COMPARED], opened.source, opened.device)
    figures = [
        page.figure(
            [picture(image), *map(picture, opened.source.batch([row, *others])["image"])],
            f"distance {number(distance)}",
            "a sample, and the training pictures nearest to it",
        )
        for image, row, others, distance in zip(images, found.rows, found.others, found.distances)
    ]
    told = page.paragraph(
        "Left a sample, then the training pictures that are nearest to it and differ from one another. If the first "
        "two were always the same, the model "
        f"would have learned its pictures by heart. {found.how} Two training pictures are usually "
        f"{number(found.usual)} apart."
    )
    return page.section("Is it copying?", told, page.sheet(figures, "pairs"))


def reconstructions(opened: Opened) -> str:
    system = opened.system
    codec = getattr(system, "codec", None)
    if codec is None or not (codec.learned and codec.decodes) or system.entries != ("image",):
        return ""
    source = opened.source
    rows = [i * len(source) // min(REBUILT, len(source)) for i in range(min(REBUILT, len(source)))]
    before = source.batch(rows)["image"]
    after = system.reconstruct(before).float().cpu()
    error = (after - before).abs()
    decibel = -10 * torch.log10((error / 2).square().flatten(1).mean(1).clamp_min(1e-10))
    figures = [
        page.figure(
            [picture(a), picture(b), picture(e - 1)],
            f"PSNR {db:.1f} dB, largest error {largest:.0%} of the range",
            "a picture, its reconstruction, and the error between them",
        )
        for a, b, e, db, largest in zip(before, after, error, decibel.tolist(), (error / 2).flatten(1).amax(1).tolist())
    ]
    told = page.paragraph(
        "Left a picture of the training set, in the middle what came of it on its way through the latent space and "
        "back, right the error: black where nothing was lost. A prior can draw nothing finer than this."
    )
    return page.section("Reconstructions", told, page.sheet(figures, "rows"))


def schedule(opened: Opened, seed: int) -> str:
    try:
        found = draw_run(opened, seed)
    except UsageError as error:  # matplotlib is an extra
        return page.section("What comes when", page.paragraph(str(error)))
    if found is None:
        return ""
    image, told = found
    return page.section("What comes when", page.paragraph(told), page.figure([image], "", told, drawn=True))


def on_the_way(opened: Opened) -> str:
    """The sample grids that the training drew at fixed seeds."""
    from sfumato.data.decode import picture as decode
    from sfumato.data.decode import read

    folder = opened.path / "samples"
    grids = [p for p in folder.glob("*.png") if p.stem.isdecimal()] if folder.is_dir() else []
    grids.sort(key=lambda path: int(path.stem))
    kept = [grids[i * (len(grids) - 1) // max(1, min(GRIDS, len(grids)) - 1)] for i in range(min(GRIDS, len(grids)))]
    sheets: dict[str, list[str]] = {}
    for path in kept:
        with contextlib.suppress(SfumatoError):
            image, _ = decode(read(path), path.name, 3, "white")
            words = f"after step {int(path.stem):,}"
            sheets.setdefault(_stage_of(path), []).append(page.figure([image], words, f"samples {words}"))
    told = page.paragraph(
        "What the model made while it learned, always from the same seeds. A stage called codec shows pictures above "
        "their reconstructions; a stage called prior shows draws."
    )
    # a sheet for each stage, since grids of one shape leave no hole between them
    parts = [
        (f"<h3>Stage {page.text(stage)}</h3>" if stage else "") + page.sheet(figures, "rows")
        for stage, figures in sheets.items()
    ]
    return page.section("On the way", told, *parts) if parts else ""


def _stage_of(path: Path) -> str:
    """The stage that a sample grid says it is of; "" where it does not."""
    try:
        with Image.open(path, formats=["PNG"]) as file:
            return str(getattr(file, "text", {}).get("stage", ""))
    except (OSError, ValueError, SyntaxError):
        return ""
