"""One self-contained page: a style, sections, figures, tables. Nothing is loaded from anywhere, no script runs.

Everything that came from a user or a file is escaped here, at the one place where text becomes HTML. The page forbids
itself by its own content security policy what it does not need.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

from PIL import Image

from sfumato.report.pictures import data_uri

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
:root { color-scheme: light dark; --paper: #fdfcfa; --ink: #23211e; --soft: #6f6a62; --rule: #e4dfd6; --card: #f5f2ec;
  --c0: #2f6f8f; --c1: #b4552d; --c2: #5d7a34; --c3: #8a4f7d; --c4: #b08a1e; --c5: #4a5568; }
@media (prefers-color-scheme: dark) { :root { --paper: #181715; --ink: #e9e5dd; --soft: #a09a8e; --rule: #35322d;
  --card: #211f1c; --c0: #7cbad6; --c1: #e59a74; --c2: #a7c87a; --c3: #d09ac4; --c4: #e2c264; --c5: #a9b4c6; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.6 Charter, "Bitstream Charter",
  "Iowan Old Style", Georgia, "Noto Serif", serif; }
main { max-width: 60rem; margin: 0 auto; padding: 3.5rem 1.5rem 5rem; }
h1 { font-size: 2.1rem; line-height: 1.2; margin: 0 0 .4rem; font-weight: 600; letter-spacing: -.01em; }
h2 { font-size: 1.3rem; margin: 3.2rem 0 .4rem; font-weight: 600;
  border-top: 1px solid var(--rule); padding-top: 1.6rem; }
h3 { font-size: 1rem; margin: 1.6rem 0 .3rem; font-weight: 600; }
p { margin: .4rem 0 1rem; max-width: 42rem; }
.lead { font-size: 1.12rem; color: var(--soft); }
.soft, figcaption, th { color: var(--soft); }
table { border-collapse: collapse; width: 100%; margin: .6rem 0 1rem; font-size: .95rem; }
th, td { text-align: left; padding: .38rem 1rem .38rem 0; border-bottom: 1px solid var(--rule); vertical-align: top; }
th { font-weight: 400; }
td.n { font-variant-numeric: tabular-nums; white-space: nowrap; }
code, pre { font: .88em/1.5 ui-monospace, "SF Mono", Menlo, "DejaVu Sans Mono", monospace; }
pre { background: var(--card); padding: .9rem 1.1rem; overflow-x: auto; border-radius: 6px; }
.sheet { display: grid; gap: 1.1rem .9rem; margin: 1rem 0;
  grid-template-columns: repeat(auto-fill, minmax(6rem, 1fr)); }
figure { margin: 0; }
figure img { width: 100%; height: auto; display: block; border-radius: 3px; background: var(--card); }
img.pixels { image-rendering: pixelated; }
figcaption { font-size: .82rem; line-height: 1.35; margin-top: .35rem; overflow-wrap: anywhere; }
.tuple { display: grid; gap: .3rem; }
.pairs { display: grid; gap: 1.2rem 1.6rem; grid-template-columns: repeat(auto-fill, minmax(12rem, 1fr));
  margin: 1rem 0; }
.rows { display: grid; gap: 1.2rem 2rem; grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr)); margin: 1rem 0; }
.curves { display: grid; gap: 1.4rem 2rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); }
svg { width: 100%; height: auto; display: block; }
svg text { font: 11px ui-sans-serif, system-ui, sans-serif; fill: var(--soft); }
.rule { stroke: var(--rule); } .mark { stroke: var(--soft); stroke-dasharray: 2 4; }
.line, .raw { fill: none; stroke: currentColor; stroke-width: 1.8; stroke-linejoin: round; }
.raw { opacity: .22; stroke-width: 1; }
.c0 { color: var(--c0); } .c1 { color: var(--c1); } .c2 { color: var(--c2); }
.c3 { color: var(--c3); } .c4 { color: var(--c4); } .c5 { color: var(--c5); }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .1rem 1.1rem; padding: 0; margin: .2rem 0 0 3.2rem;
  font-size: .82rem; color: var(--soft); }
.legend i { display: inline-block; width: .9rem; height: .18rem; background: currentColor; vertical-align: middle;
  margin-right: .4rem; } .legend b { font-weight: 500; color: var(--ink); font-variant-numeric: tabular-nums; }
.warning { border-left: 3px solid var(--c1); padding: .1rem 0 .1rem 1rem; margin: 1rem 0; }
details { margin: .6rem 0; } summary { cursor: pointer; color: var(--soft); }
footer { margin-top: 4rem; color: var(--soft); font-size: .85rem; }
@media print { body { font-size: 11pt; } main { padding: 0; } h2, figure { break-inside: avoid; } }
"""

text = html.escape


def page(title: str, body: Iterable[str]) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="referrer" content="no-referrer">'
        f"<title>{text(title)}</title><style>{STYLE}</style></head><body><main>{''.join(body)}</main></body></html>\n"
    )


def section(title: str, *body: str) -> str:
    """A heading and what stands under it; nothing at all when nothing stands under it."""
    return f"<section><h2>{text(title)}</h2>{''.join(body)}</section>" if any(body) else ""


def paragraph(words: str, kind: str = "") -> str:
    return f'<p class="{kind}">{text(words)}</p>' if kind else f"<p>{text(words)}</p>"


def warning(words: str) -> str:
    return f'<div class="warning">{paragraph(words)}</div>'


def table(rows: Iterable[Sequence[Any]], header: Sequence[str] = ()) -> str:
    """Numbers stand in columns of even digits; everything else is text."""
    head = "".join(f"<th>{text(name)}</th>" for name in header)
    lines = []
    for first, *rest in rows:
        cells = "".join(
            f'<td class="n">{text(format(cell, ".5g"))}</td>'
            if isinstance(cell, float)
            else f"<td>{text(str(cell))}</td>"
            for cell in rest
        )
        lines.append(f"<tr><th scope='row'>{text(str(first))}</th>{cells}</tr>")
    head = f"<thead><tr>{head}</tr></thead>" if head else ""
    return f"<table>{head}<tbody>{''.join(lines)}</tbody></table>" if lines else ""


def figure(images: Sequence[Image.Image], caption: str, alt: str, drawn: bool = False) -> str:
    """One picture, or several side by side, with words under them. A browser shows their pixels as squares, however
    large it shows them; what is `drawn` with lines and letters it may smooth."""
    tags = "".join(
        f'<img src="{data_uri(image)}" alt="{text(alt)}" width="{image.width}" height="{image.height}"'
        + (">" if drawn else ' class="pixels">')
        for image in images
    )
    if len(images) > 1:
        tags = f'<div class="tuple" style="grid-template-columns: repeat({len(images)}, 1fr)">{tags}</div>'
    return f"<figure>{tags}<figcaption>{text(caption)}</figcaption></figure>"


def drawing(svg: str, caption: str = "") -> str:
    """A chart, which is HTML already; a caption only where its legend does not say it all."""
    return f"<figure>{svg}{f'<figcaption>{text(caption)}</figcaption>' if caption else ''}</figure>"


def sheet(figures: Iterable[str], kind: str = "sheet") -> str:
    inside = "".join(figures)
    return f'<div class="{kind}">{inside}</div>' if inside else ""


def folded(title: str, inside: str) -> str:
    return f"<details><summary>{text(title)}</summary>{inside}</details>"


def code(words: str) -> str:
    return f"<pre>{text(words)}</pre>"
