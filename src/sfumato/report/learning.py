"""The section of the report that says how the run learned: its curves, a stage after the other."""

from __future__ import annotations

from typing import Any

from sfumato.report import page
from sfumato.report.curves import chart
from sfumato.report.opened import Opened, history


def learning(opened: Opened) -> str:
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
