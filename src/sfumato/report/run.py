"""RUN/report.html: what was trained, how it went, what it draws, and how good that is; for a reader who is new to it.

What the run folder holds is told as it is; samples, reconstructions and nearest training pictures are made anew from
the averaged weights, at seeds that are written beside them. Whatever is missing (the data moved away, a stage not yet
trained) leaves a sentence instead of a section, never a failure.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import torch

from sfumato.checkpoint import write_file
from sfumato.core.errors import SfumatoError
from sfumato.core.space import Tokens
from sfumato.metrics.evaluation import condition_keys
from sfumato.metrics.table import METRICS
from sfumato.recipes import RECIPES
from sfumato.report import confusion, page, shown
from sfumato.report.curves import chart
from sfumato.report.opened import Opened, events, history
from sfumato.report.shown import Watch
from sfumato.systems.abilities import can
from sfumato.version import VERSION

NAMED = 50  # skipped files that are named


def metric_of(score: str) -> str | None:
    """ "fd-mobilenetv2@10k" → "fd": the line of METRICS that a score's name belongs to."""
    if score in METRICS:
        return score
    alias = {"fid": "fd", "rfid": "rfd", "kid": "kd", "r": "retrieval"}
    stem = score.split("-")[0].split("@")[0]
    stem = alias.get(stem, stem)
    return stem if stem in METRICS else None


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
    body = [
        f"<h1>{page.text(title)}</h1>",
        page.paragraph(RECIPES[name].summary if name in RECIPES else name, "lead"),
        _facts(opened),
        opened.attempt(lambda: shown.learned_from(opened)),
        opened.attempt(lambda: shown.samples(opened, samples, seed, watch)),
        opened.attempt(lambda: shown.reconstructions(opened)),
        opened.attempt(lambda: confusion.section(opened)),
        opened.attempt(lambda: shown.schedule(opened, seed)),
        opened.attempt(lambda: shown.on_the_way(opened)),
        opened.attempt(lambda: _curves(opened)),
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
        codec = getattr(getattr(system, "last", system), "codec", None)
        rows += [] if codec is None else [("Latent space", _space(codec.space, codec.data))]
        rows.append(("Parameters", f"{sum(p.numel() for p in system.parameters()):,}"))
    if data:
        size = f", shown at {data['side']} × {data['side']} pixels" if data.get("side") else ""
        held = f"{data['texts']:,} texts" if data.get("texts") else f"{data.get('images', 0):,} pictures{size}"
        rows.append(("Data", f"{data.get('name', 'unnamed')}: {held}"))
    rows += _asked_for(opened)
    rows.append(("Trained", f"{max((line['step'] for line in steps), default=0):,} steps" + _in_stages(stages)))
    versions = recipe.get("versions", {})
    rows.append(("Made with", ", ".join(f"{key} {value}" for key, value in versions.items())))
    return page.section("What this is", page.table(rows))


def _asked_for(opened: Opened) -> list[tuple[str, Any]]:
    """What the training was asked to do: its length, batch, precision, seed, and the device it ran on."""
    asked, ran = opened.record("train.json"), opened.record("data.json").get("training", {})
    if not asked:
        return []
    length = f"{asked['minutes']:g} minutes in all" if asked.get("minutes") else ""
    length = f"{asked['steps']:,} steps a stage" if asked.get("steps") else length
    words = [length or "as long as the recipe plans", f"precision {asked.get('precision', 'fp32')}"]
    words += [f"batches of {asked['batch']}"] if asked.get("batch") else []
    words += [f"seed {asked.get('seed', 0)}"]
    words += [f"on {ran['device']}"] if isinstance(ran, dict) and ran.get("device") else []
    return [("Asked for", ", ".join(words))]


def _in_stages(stages: list[str]) -> str:
    return f", in the stages {', then '.join(stages)}" if len(stages) > 1 else ""


def _space(space: Any, data: Any) -> str:
    if space == data and not isinstance(space, Tokens):
        return f"the picture itself, {' × '.join(map(str, space.shape))}"
    if isinstance(space, Tokens) and space == data:
        return f"texts of {space.length} tokens at most, each one of {space.vocab}"
    if isinstance(space, Tokens):
        where = f", laid out {space.layout[0]} × {space.layout[1]}" if space.layout else ""
        return f"{space.length} tokens, each one of {space.vocab}{where}"
    return f"{' × '.join(map(str, space.shape))} numbers for {' × '.join(map(str, data.shape))} of the picture"


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
        ending = "png" if "image" in opened.system.entries else "txt"
        said = {
            "draws": f"sample {run} -n 16{asked} --out samples.{ending}",
            "classifies": f"classify {run} picture.png --out classified.csv",
            "reconstructs": f"reconstruct {run} picture.png --out reconstruction.png",
        }
        lines.insert(0, next(f"sfumato {words}" for ability, words in said.items() if can(opened.system, ability)))
    return page.section("How to go on", page.code("\n".join(lines)))
