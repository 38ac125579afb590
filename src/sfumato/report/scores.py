"""What a score is called and which way is good, and the section of the report that says how good the run is."""

from __future__ import annotations

import json

from sfumato.metrics.table import METRICS
from sfumato.report import page
from sfumato.report.opened import Opened


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


def section(opened: Opened) -> str:
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
    within = f", in the features of {features['name']}" if features.get("name") else ""
    told = page.paragraph(
        f"Measured against {reference.get('count', 'some')} rows of {reference.get('set', 'a set')}{within}. A number "
        "means nothing by itself: compare it with one of the same protocol only."
    )
    whole = page.folded("The whole protocol", page.code(json.dumps(protocol, indent=1, ensure_ascii=False)))
    return page.section("Scores", told, page.table(rows, ("score", "value", "", "what it is")), whole)
