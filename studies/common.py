"""What every study shares: data in memory, a training in one call, one JSON and one plot.

A study is one file for one claim of the literature: `python studies/NAME.py` trains what it needs on this CPU, and
writes docs/studies/NAME.json and NAME.png. The JSON says the claim, its source, the figures and whether the claim
`holds` here, by a rule that stands in the file above the training.
"""

from __future__ import annotations

import json
import platform
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import sfumato
from sfumato.core.contracts import Objective
from sfumato.core.noise import derive
from sfumato.recipes.plan import Plan
from sfumato.train.fit import fit
from sfumato.train.parallel import accelerator_for
from sfumato.train.state import State

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs" / "studies"
COLOURS = ("#1b6ca8", "#d1495b", "#2e933c", "#edae49", "#6a4c93", "#4a4e69", "#00798c", "#8d5b4c")


class Memory:
    """Batches of tensors held in memory: batch k is a function of (seed, k). Lists and tensors have a row a picture."""

    def __init__(self, rows: Mapping[str, Any], batch: int, seed: int = 0):
        self.rows, self.batch, self.seed = dict(rows), batch, seed
        self.count = len(next(iter(self.rows.values())))

    def at(self, k: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(derive(self.seed, "batch", k))
        index = torch.randint(self.count, (self.batch,), generator=generator)
        return {**{name: take(value, index) for name, value in self.rows.items()}, "index": index}

    def once(self, size: int = 256) -> Callable[[], Any]:
        """All rows in order, as `prepare` and `finish` want them."""
        return lambda: (
            {name: take(value, torch.arange(i, min(i + size, self.count))) for name, value in self.rows.items()}
            for i in range(0, self.count, size)
        )


def take(value: Any, index: Tensor) -> Any:
    return value[index] if isinstance(value, Tensor) else [value[i] for i in index.tolist()]


def pictures(data: str, side: int, channels: int, split: str = "train", most: int | None = None) -> dict[str, Any]:
    """{"image", "label" or "text" where there are any} of a set that `sfumato train` would take."""
    from sfumato.data import open_data

    source = open_data(data, side=side, channels=channels, split=split)
    count = len(source) if most is None else min(most, len(source))
    parts = [source.batch(range(i, min(i + 256, count))) for i in range(0, count, 256)]
    rows: dict[str, Any] = {}
    for name, value in parts[0].items():
        if name != "index":
            joined = [part[name] for part in parts]
            rows[name] = torch.cat(joined) if isinstance(value, Tensor) else [row for part in joined for row in part]
    return rows


def learn(
    objective: Objective,
    data: Memory,
    plan: Plan,
    *,
    seed: int = 0,
    precision: str = "fp32",
    say: str = "",
    watch: Callable[[Any], None] | None = None,
) -> dict[str, Any]:
    """prepare → fit → averaged weights → finish, as `sfumato train` does one stage; the curve and the CPU seconds.

    `watch` is called with every Step. Thousands of steps are a minute or more: `say` names the training on stderr.
    """
    torch.manual_seed(seed)
    objective.prepare(data.once())
    plan = replace(plan, batch=data.batch)
    state = State(objective, plan, accelerator=accelerator_for(precision))
    begun, curve = cpu_seconds(), []
    for step in fit(objective, data, plan, seed=seed, state=state):
        if step.step % max(1, plan.steps // 200) == 0:
            curve.append((step.step, step.loss))
        if say and step.step % max(1, plan.steps // 10) == 0:
            print(f"{say}: step {step.step}/{plan.steps}, loss {step.loss:.4g}", file=sys.stderr, flush=True)
        if watch is not None:
            watch(step)
    with torch.no_grad():
        for parameter, value in zip(state.average.parameters, state.average.values):
            parameter.copy_(value)
    state.close()
    objective.eval()  # type: ignore[attr-defined]
    objective.finish(data.once())
    return {"curve": curve, "cpu_seconds": round(cpu_seconds() - begun, 1)}


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def write(name: str, claim: str, source: str, holds: bool | dict[str, bool], figures: Any, figure: Any) -> None:
    """docs/studies/NAME.json and NAME.png; `figure` is matplotlib's."""
    OUT.mkdir(parents=True, exist_ok=True)
    record = {
        "claim": claim,
        "source": source,
        "holds": holds,
        "figures": figures,
        "command": f"python studies/{name}.py",
        "when": time.strftime("%Y-%m-%d"),
        "cpu_minutes": round(cpu_seconds() / 60, 1),
        "versions": {"sfumato": sfumato.__version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    (OUT / f"{name}.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    figure.savefig(OUT / f"{name}.png", dpi=110, bbox_inches="tight")
    print(json.dumps({"claim": claim, "holds": holds}, ensure_ascii=False))


def canvas(columns: int = 1, rows: int = 1, width: float = 4.2, height: float = 3.2) -> tuple[Any, Any]:
    """(figure, axes) in the house's style; axes is always a 2-D array."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True})
    plt.rcParams.update({"grid.alpha": 0.25, "axes.prop_cycle": plt.cycler(color=COLOURS)})
    return plt.subplots(rows, columns, figsize=(width * columns, height * rows), squeeze=False, layout="constrained")


def show(axis: Any, images: Tensor, columns: int, title: str = "") -> None:
    """(n, C, H, W) in [−1, 1] as one grid on an axis."""
    from sfumato.train.grid import tile

    axis.imshow(tile(images, columns).permute(1, 2, 0).numpy(), interpolation="nearest")
    axis.set_title(title)
    axis.axis("off")
