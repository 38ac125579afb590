"""What a set holds, in words: the rows that `sfumato data` shows, and a training before its first step."""

from __future__ import annotations

from sfumato.data.source import Source

SHOWN = 20  # labels, and skipped files, that are named
SIZES = 5  # native sizes that are named


def told(source: Source) -> list[tuple[str, str]]:
    """(topic, words), in the order of a reader's questions."""
    report = source.report
    labels, sizes, skipped, parts = report["labels"], report["sizes"], report["skipped"], report.get("parts", {})
    biggest = sorted(labels, key=lambda name: -labels[name])[:SHOWN]
    more = f" and {len(labels) - SHOWN} more" if len(labels) > SHOWN else ""
    most = f" and {len(sizes) - SIZES} more sizes" if len(sizes) > SIZES else ""
    rows = [
        ("pictures", f"{report['images']:,}, shown as {report['channels']}×{report['side']}×{report['side']}"),
        ("sizes", ", ".join(f"{size} ({n:,})" for size, n in list(sizes.items())[:SIZES]) + most or "made to order"),
        ("labels", ", ".join(f"{name} ({labels[name]:,})" for name in biggest) + more if labels else "none"),
        ("captions", f"{report['captions']:,}" + (f", like “{source.text(0)}”" if source.has_text else "")),
        *[("held out", ", ".join(f"{part} ({n:,})" for part, n in parts.items()))] * bool(parts),
        ("skipped", f"{len(skipped):,}"),
    ]
    rows += [("", f"{bad['file']}: {bad['reason']}") for bad in skipped[:SHOWN]]
    return rows
