"""RUN/report.html: what was trained, how it went, what it draws, and how good that is; for a reader who is new to it.

What the run folder holds is told as it is; samples, reconstructions and nearest training pictures are made anew from
the averaged weights, at seeds that are written beside them. Whatever is missing (the data moved away, a stage not yet
trained) leaves a sentence instead of a section, never a failure.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfumato.checkpoint import load_model, read_json, read_recipe, write_file
from sfumato.core.errors import SfumatoError
from sfumato.core.space import Tokens
from sfumato.data import Source, open_data
from sfumato.metrics.evaluation import condition_keys
from sfumato.metrics.table import METRICS
from sfumato.recipes import RECIPES
from sfumato.report import page
from sfumato.report.curves import chart, number
from sfumato.report.neighbours import nearest
from sfumato.report.pictures import picture
from sfumato.report.schedule import draw_run
from sfumato.version import VERSION

Watch = Callable[[int, int], None]
GUIDED = 1.5  # samples with a condition are drawn so; what people do, and it is said beside them
REBUILT = 6  # reconstructions shown
COMPARED = 8  # samples shown beside their nearest training pictures
GRIDS = 6  # of the sample grids on the way
NAMED = 50  # skipped files that are named
log = logging.getLogger("sfumato")


@dataclass
class Opened:
    """A run folder, each part read at its first use; `problems` gathers why a part cannot be had."""

    path: Path
    device: Any = "cpu"

    def __post_init__(self) -> None:
        self.problems: list[str] = []

    def record(self, name: str) -> dict[str, Any]:
        with contextlib.suppress(SfumatoError):
            return read_json(self.path / name)
        return {}

    @cached_property
    def recipe(self) -> dict[str, Any]:
        place = self.path / "recipe.json"
        return read_recipe(place if place.is_file() else self.path / "model" / "recipe.json")

    @cached_property
    def system(self) -> Any:
        return load_model(self.path).to(self.device)

    @cached_property
    def source(self) -> Source:
        """The data of the training, opened as it was then."""
        request = read_json(self.path / "train.json")
        return open_data(request["data"], side=request["side"], channels=request["channels"])

    def attempt(self, make: Callable[[], str]) -> str:
        """A section, or the reason why there is none."""
        try:
            return make()
        except SfumatoError as error:
            self.problems.append(str(error))
            return ""


def history(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl that are steps; a line cut by a death is passed over."""
    return [line for line in events(run) if "step" in line]


def events(run: Path) -> list[dict[str, Any]]:
    path, lines = run / "metrics.jsonl", []
    if path.is_file():
        for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                line = json.loads(text)
                lines += [line] if isinstance(line, dict) else []
    return lines


def metric_of(score: str) -> str | None:
    """ "fd-mobilenetv2@10k" → "fd": the line of METRICS that a score's name belongs to."""
    alias = {"fid": "fd", "rfid": "rfd", "kid": "kd", "r": "retrieval"}
    stem = score.split("-")[0].split("@")[0]
    stem = alias.get(stem, stem)
    return stem if stem in METRICS else score if score in METRICS else None


def better(score: str) -> str | None:
    """Whether a "lower" or a "higher" value is better; None for a score that the table does not know."""
    name = metric_of(score)
    return None if name is None else METRICS[name].better


@torch.no_grad()
def write_report(
    run: str | Path, *, samples: int = 16, seed: int = 0, device: Any = "cpu", watch: Watch | None = None
) -> Path:
    """Writes RUN/report.html and returns its path."""
    opened = Opened(Path(run), device)
    name = opened.recipe["name"]
    title = f"{Path(run).resolve().name}"
    shown = [
        opened.attempt(lambda: _samples(opened, samples, seed, watch)),
        opened.attempt(lambda: _reconstructions(opened)),
        opened.attempt(lambda: _schedule(opened, seed)),
    ]
    body = [
        f"<h1>{page.text(title)}</h1>",
        page.paragraph(RECIPES[name].summary if name in RECIPES else name, "lead"),
        _facts(opened),
        *shown,
        _on_the_way(opened),
        _curves(opened),
        _scores(opened),
        _odd(opened),
        _next(opened),
        f"<footer>Written by sfumato {VERSION}. This page is one file, loads nothing, and runs no script.</footer>",
    ]
    place = Path(run) / "report.html"
    write_file(place, page.page(f"{title} · {name}", body).encode())
    return place


# ---- what it is ----


def _facts(opened: Opened) -> str:
    recipe, data = opened.recipe, opened.record("data.json")
    steps = history(opened.path)
    stages = list(dict.fromkeys(line["stage"] for line in steps if "stage" in line))
    dials = ", ".join(f"{key} = {value}" for key, value in sorted(recipe["dials"].items()) if value is not None)
    source = RECIPES[recipe["name"]].source if recipe["name"] in RECIPES else ""
    rows: list[tuple[str, Any]] = [
        ("Recipe", recipe["name"] + (f" ({source})" if source else "")),
        ("Dials", dials or "none"),
    ]
    with contextlib.suppress(SfumatoError):
        system = opened.system
        last = getattr(system, "last", system)
        rows.append(("Latent space", _space(last.codec.space, last.codec.data)))
        rows.append(("Parameters", f"{sum(p.numel() for p in system.parameters()):,}"))
    if data:
        size = f", shown at {data['side']} × {data['side']} pixels" if data.get("side") else ""
        rows.append(("Data", f"{data.get('name', 'unnamed')}: {data.get('images', 0):,} pictures{size}"))
    rows.append(("Trained", f"{max((line['step'] for line in steps), default=0):,} steps" + _in_stages(stages)))
    versions = recipe.get("versions", {})
    rows.append(("Made with", ", ".join(f"{key} {value}" for key, value in versions.items())))
    return page.section("What this is", page.table(rows))


def _in_stages(stages: list[str]) -> str:
    return f", in the stages {', then '.join(stages)}" if len(stages) > 1 else ""


def _space(space: Any, data: Any) -> str:
    if space == data:
        return f"the picture itself, {' × '.join(map(str, space.shape))}"
    if isinstance(space, Tokens):
        where = f", laid out {space.layout[0]} × {space.layout[1]}" if space.layout else ""
        return f"{space.length} tokens, each one of {space.vocab}{where}"
    return f"{' × '.join(map(str, space.shape))} numbers for {' × '.join(map(str, data.shape))} of the picture"


# ---- pictures ----


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


def _samples(opened: Opened, n: int, seed: int, watch: Watch | None) -> str:
    system = opened.system
    if n < 1 or (hasattr(system, "prior") and system.prior is None):
        return ""
    try:
        given, words = _asked(opened, n)
    except SfumatoError as error:  # the data are gone: draw without a condition
        opened.problems.append(str(error))
        given, words = {}, [""] * n
    guidance = GUIDED if given else 1.0
    images = system.sample(n, given or None, guidance=guidance, seeds=range(seed, seed + n), watch=watch).float().cpu()
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


def _copies(opened: Opened, images: Tensor) -> str:
    """Samples beside their nearest training pictures: has it learned, or learned by heart?"""
    found = nearest(images[:COMPARED], opened.source, opened.device)
    figures = [
        page.figure(
            [picture(image), picture(opened.source.batch([row])["image"][0])],
            f"distance {number(distance)}",
            "a sample, and the training picture nearest to it",
        )
        for image, row, distance in zip(images, found.rows, found.distances)
    ]
    told = page.paragraph(
        "Left a sample, right the training picture that is nearest to it. If the two were always the same, the model "
        f"would have learned its pictures by heart. {found.how} Two training pictures are usually "
        f"{number(found.usual)} apart."
    )
    return page.section("Is it copying?", told, page.sheet(figures, "pairs"))


def _reconstructions(opened: Opened) -> str:
    system = opened.system
    if not getattr(getattr(system, "codec", None), "learned", False):
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


def _schedule(opened: Opened, seed: int) -> str:
    found = draw_run(opened, seed)
    if found is None:
        return ""
    image, told = found
    return page.section("What comes when", page.paragraph(told), page.figure([image], "", told))


def _on_the_way(opened: Opened) -> str:
    """The sample grids that the training drew at fixed seeds."""
    from sfumato.data.decode import picture as decode
    from sfumato.data.decode import read

    folder = opened.path / "samples"
    grids = [p for p in folder.glob("*.png") if p.stem.isdecimal()] if folder.is_dir() else []
    grids.sort(key=lambda path: int(path.stem))
    kept = [grids[i * (len(grids) - 1) // max(1, min(GRIDS, len(grids)) - 1)] for i in range(min(GRIDS, len(grids)))]
    figures, wide = [], False
    for path in kept:
        with contextlib.suppress(SfumatoError):
            image, _ = decode(read(path), path.name, 3, "white")
            wide |= image.width > 2 * image.height  # pictures above their reconstructions
            figures.append(page.figure([image], f"after step {int(path.stem):,}", f"samples after step {path.stem}"))
    told = page.paragraph(
        "What the model made while it learned, always from the same seeds. A stage called codec shows pictures above "
        "their reconstructions; a stage called prior shows draws."
    )
    return page.section("On the way", told, page.sheet(figures, "rows" if wide else "pairs")) if figures else ""


# ---- numbers ----


def _curves(opened: Opened) -> str:
    lines = [line for line in history(opened.path) if "stage" in line]
    parts = []
    for stage in dict.fromkeys(line["stage"] for line in lines):
        own = [line for line in lines if line["stage"] == stage]
        point = lambda line, value: (line["step"], float(value))
        terms: dict[str, Any] = {"loss": [point(line, line["loss"]) for line in own if line.get("loss") is not None]}
        names = dict.fromkeys(name for line in own for name in line.get("terms", {}))
        if len(names) > 1:
            for name in names:
                terms[name] = [point(a, a["terms"][name]) for a in own if a.get("terms", {}).get(name) is not None]
        figures = [("Loss and its terms", chart(terms, f"loss of the stage {stage}"))]
        rates = {"learning rate": [point(line, line["rate"]) for line in own if line.get("rate") is not None]}
        figures.append(("", chart(rates, f"learning rate of the stage {stage}")))
        said = dict.fromkeys(name for line in own for name in line.get("diagnostics", {}))
        for name in said:
            values = [point(a, a["diagnostics"][name]) for a in own if a.get("diagnostics", {}).get(name) is not None]
            figures.append(("", chart({name: values}, f"{name} of the stage {stage}")))
        drawn = [page.drawing(svg, title) for title, svg in figures if svg]
        parts.append(f"<h3>Stage {page.text(stage)}</h3>" + page.sheet(drawn, "curves"))
    told = page.paragraph(
        "The horizontal axis counts steps over all stages. Faint lines are the logged values, bold ones their running "
        "median. The terms of a loss add up to it; an axis that covers many powers of ten is logarithmic."
    )
    return page.section("How it learned", told, *parts) if parts else ""


def _scores(opened: Opened) -> str:
    found = opened.record("scores.json")
    scores = found.get("scores")
    if not isinstance(scores, dict) or not scores:
        return page.section(
            "Scores",
            page.paragraph(f"None yet. `sfumato score {opened.path} DATA` measures the run and writes scores.json."),
        )
    words = {"lower": "lower is better", "higher": "higher is better", None: ""}
    rows, order = [], list(METRICS)
    for name, value in sorted(scores.items(), key=lambda item: order.index(metric_of(item[0]) or order[-1])):
        metric = metric_of(name)
        rows.append((name, float(value), words[better(name)], METRICS[metric].about if metric else ""))
    protocol = found.get("protocol", {})
    reference, features = protocol.get("reference", {}), protocol.get("features", {})
    told = page.paragraph(
        f"Measured against {reference.get('count', 'some')} pictures of {reference.get('set', 'a set')}, in the "
        f"features of {features.get('name', 'a network')}. A number means nothing by itself: compare it with one of "
        "the same protocol only."
    )
    whole = page.folded("The whole protocol", page.code(json.dumps(protocol, indent=1, ensure_ascii=False)))
    return page.section("Scores", told, page.table(rows, ("score", "value", "", "what it is")), whole)


def _odd(opened: Opened) -> str:
    """What did not go as it should: skipped files, warnings of the data, skipped steps, rollbacks, missing parts."""
    data = opened.record("data.json")
    parts = [page.warning(str(words)) for words in data.get("warnings", [])]
    parts += [page.warning(problem) for problem in dict.fromkeys(opened.problems)]
    lines = events(opened.path)
    for line in lines:
        if "rollback" in line:
            words = f"Non-finite numbers again and again: the training went back to step {line['rollback']}, once."
            parts.append(page.warning(words))
    skipped = [line for line in lines if line.get("skipped")]
    if skipped:
        steps = [(f"step {a['step']:,}", a["skipped"], f"pictures {a.get('index', [])[:8]}") for a in skipped]
        parts.append(page.paragraph(f"{len(skipped)} steps were skipped; the weights stayed as they were."))
        parts.append(page.folded("Skipped steps", page.table(steps[:NAMED])))
    files = data.get("skipped", [])
    if files:
        rows = [(bad.get("file", ""), bad.get("reason", "")) for bad in files[:NAMED]]
        more = f", of which {NAMED} are named; data.json has all" if len(files) > NAMED else ""
        parts.append(page.paragraph(f"{len(files)} files of the data were not used{more}."))
        parts.append(page.folded("Skipped files", page.table(rows, ("file", "reason"))))
    return page.section("What to know", *parts)


def _next(opened: Opened) -> str:
    run = opened.path
    lines = [f"sfumato resume {run}", f"sfumato info {run}"]
    with contextlib.suppress(SfumatoError):
        keys = condition_keys(opened.system)
        asked = ' --text "…" --guidance 3' if "text" in keys else " --label 0 --guidance 3" if "label" in keys else ""
        if getattr(opened.system, "prior", True) is not None:
            lines.insert(0, f"sfumato sample {run} -n 16{asked} --out samples.png")
        else:
            lines.insert(0, f"sfumato reconstruct {run} picture.png --out reconstruction.png")
    return page.section("How to go on", page.code("\n".join(lines)))
