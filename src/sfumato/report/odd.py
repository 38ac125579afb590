"""The section of the report that says what did not go as it should."""

from __future__ import annotations

from sfumato.report import page
from sfumato.report.opened import Opened, events

NAMED = 50  # skipped files that are named


def odd(opened: Opened) -> str:
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
