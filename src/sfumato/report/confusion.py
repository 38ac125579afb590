"""What a classifier takes for what, and whether its probabilities mean what they say: one figure of two panels.

    left     M[i, j] / Σ_j M[i, j]: of the pictures of class i, the part that was called j; the diagonal is right
    right    of each bin of probability, the part that was right, against the mean probability; on the line they agree

M and the bins are those of metrics/classification.py.
"""

from __future__ import annotations

import io
from typing import Any

import torch
from PIL import Image

from sfumato.metrics.classification import Told, confusion, reliability
from sfumato.report import page
from sfumato.report.pictures import picture
from sfumato.report.schedule import EVEN, INK, PAPER, RULE, SOFT, refuse_without_matplotlib
from sfumato.systems.abilities import can
from sfumato.train.held import judged_on
from sfumato.train.request import read_request

NAMED = 40  # classes whose names stand beside the figure
WRITTEN = 15  # classes up to which the counts are written into it
WORST = 5  # confusions that are told
MOST = 20_000  # pictures that are looked at
BATCH = 256
MISSED = 12  # pictures that were called wrong, and are shown


def told_in_words(told: Told, names: list[str]) -> str:
    """The commonest confusions."""
    m = confusion(told)
    right, n = int(m.diagonal().sum()), int(m.sum())
    off = m.clone().fill_diagonal_(0)
    order = off.flatten().argsort(descending=True)[:WORST].tolist()
    k = len(m)
    said = [f"{names[at // k]} for {names[at % k]} ({int(off.flatten()[at])})" for at in order if off.flatten()[at]]
    most = f" Most often it took {', '.join(said)}." if said else ""
    return f"{right:,} of {n:,} pictures were called what they are ({right / n:.2%}).{most}"


def figure(told: Told, names: list[str]) -> Image.Image:
    refuse_without_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sheet = Figure(figsize=(10.5, 5.2), dpi=150, facecolor=PAPER, layout="constrained")
    FigureCanvasAgg(sheet)
    left, right = sheet.subplots(1, 2, width_ratios=(1.15, 1))
    _matrix(left, confusion(told), names)
    _reliability(right, told)
    file = io.BytesIO()
    sheet.savefig(file, format="png")
    return Image.open(file).convert("RGB")


def _matrix(axes: Any, m: torch.Tensor, names: list[str]) -> None:
    part = m.double() / m.sum(1, keepdim=True).clamp_min(1)
    axes.imshow(part, cmap="Blues", vmin=0, vmax=1)
    axes.set_title("called", color=INK, fontsize=10)
    axes.set_ylabel("is", color=INK)
    k = len(m)
    if k <= NAMED:
        axes.set_xticks(range(k), names, rotation=90 if max(map(len, names)) > 2 else 0, color=SOFT, fontsize=8)
        axes.set_yticks(range(k), names, color=SOFT, fontsize=8)
    if k <= WRITTEN:
        for i in range(k):
            for j in range(k):
                if m[i, j]:
                    colour = "white" if part[i, j] > 0.5 else INK
                    axes.text(j, i, f"{int(m[i, j])}", ha="center", va="center", fontsize=7, color=colour)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)


def _reliability(axes: Any, told: Told) -> None:
    found = reliability(told)
    there = found.count > 0
    axes.plot([0, 1], [0, 1], color=RULE, linewidth=1)
    size = 12 + 160 * found.count[there] / found.count.sum()
    axes.plot(found.sure[there], found.right[there], color=EVEN, linewidth=1.2)
    axes.scatter(found.sure[there], found.right[there], s=size, color=EVEN, zorder=3)
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("probability of what was called", color=INK)
    axes.set_ylabel("part that was right", color=INK)
    axes.set_title(f"expected calibration error {found.error:.4f}", color=INK, fontsize=10)
    axes.set_facecolor(PAPER)
    for spine in axes.spines.values():
        spine.set_color(RULE)
    axes.tick_params(colors=SOFT, labelsize=8)


def section(opened: Any) -> str:
    """The section of the report: on the part of the set that the training did not see, where there is one."""
    system = opened.system
    if not can(system, "classifies"):
        return ""
    source, whence = judged_on(opened.source, read_request(opened.path / "train.json"))
    rows = range(min(len(source), MOST))
    p, labels = [], []
    for start in range(0, len(rows), BATCH):
        batch = source.batch(rows[start : start + BATCH])
        p.append(system.classify(batch["image"]))
        labels.append(batch["label"])
    told = Told(torch.cat(p), torch.cat(labels))
    names = system.classes or [str(i) for i in range(system.count)]
    said = page.paragraph(f"{told_in_words(told, names)} Seen on {whence}.")
    wrong = (~told.right).nonzero().flatten()[:MISSED].tolist()
    pictures = source.batch(wrong)["image"] if wrong else []
    figures = [
        page.figure(
            [picture(image)],
            f"{names[int(told.labels[i])]}, called {names[int(told.called[i])]} ({float(told.p[i].max()):.0%})",
            "a picture that was called what it is not",
        )
        for i, image in zip(wrong, pictures)
    ]
    drawn = page.figure([figure(told, names)], "", "confusion and calibration", drawn=True)
    missed = [page.paragraph("Some that it called wrong, the first of the set, not chosen:"), page.sheet(figures)]
    return page.section("What it takes for what", said, drawn, *(missed if wrong else []))
