"""What a set holds, in words: the rows that `sfumato data` shows, and a training before its first step."""

from __future__ import annotations

from sfumato.data.facts import Facts

SHOWN = 20  # labels, and skipped files, that are named
SIZES = 5  # native sizes that are named
LINE = 120  # characters of a text that is shown


def told(source: Facts) -> list[tuple[str, str]]:
    """(topic, words), in the order of a reader's questions."""
    report = source.report
    labels, skipped, parts = report["labels"], report["skipped"], report.get("parts", {})
    biggest = sorted(labels, key=lambda name: -labels[name])[:SHOWN]
    more = f" and {len(labels) - SHOWN} more" if len(labels) > SHOWN else ""
    like = f", like “{source.text(0)}”" if source.has_text else ""
    rows = [
        *(_of_texts(source) if "texts" in report else _of_pictures(source)),
        ("labels", ", ".join(f"{name} ({labels[name]:,})" for name in biggest) + more if labels else "none"),
        *[("captions", f"{report['captions']:,}{like}")] * ("texts" not in report),
        *[("held out", ", ".join(f"{part} ({n:,})" for part, n in parts.items()))] * bool(parts),
        ("skipped", f"{max(len(skipped), report.get('bad', 0)):,}"),
    ]
    rows += [("", f"{bad['file']}: {bad['reason']}") for bad in skipped[:SHOWN]]
    return rows


def _of_pictures(source: Facts) -> list[tuple[str, str]]:
    report, sizes = source.report, source.report["sizes"]
    most = f" and {len(sizes) - SIZES} more sizes" if len(sizes) > SIZES else ""
    return [
        ("pictures", f"{report['images']:,}, shown as {report['channels']}×{report['side']}×{report['side']}"),
        ("sizes", ", ".join(f"{size} ({n:,})" for size, n in list(sizes.items())[:SIZES]) + most or "made to order"),
    ]


def _of_texts(source: Facts) -> list[tuple[str, str]]:
    report, characters, text = source.report, source.report["characters"], source.text(0)
    shown = text if len(text) <= LINE else f"{text[:LINE]} …"
    return [
        ("texts", f"{report['texts']:,}, like “{shown}”"),
        (
            "characters",
            f"{characters['total']:,}, {characters['mean']:,} a text; the longest has {characters['longest']:,}",
        ),
        *[("empty rows", f"{report['empty']:,}, left out")] * bool(report["empty"]),
    ]
