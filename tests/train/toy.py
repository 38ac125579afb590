"""A recipe of two stages that trains in milliseconds, and pictures for it; `python toy.py RUN DATA DELAY` trains it."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from tiny import One, Two
from torch import nn

from sfumato.core.space import Grid
from sfumato.recipes.frame import Frame
from sfumato.recipes.plan import Plan
from sfumato.recipes.table import RECIPES, add


class Toy(nn.Module):
    """Two objectives in a row; the second's pictures are the draws."""

    def __init__(self, delay: float, poison: int):
        super().__init__()
        self.first, self.second = One(), Two()
        self.codec = SimpleNamespace(data=Grid(1, 4, 4))
        self.data, self.entries, self.hears, self.learns = self.codec.data, ("image",), (), ("image",)
        self.delay, self.poison = delay, poison
        self.prepared: list[str] = []
        self.finished: list[tuple[str, torch.Tensor]] = []
        for name, objective in self.stages().items():
            objective.prepare = lambda batches, name=name: self.prepared.append(name)
            objective.finish = lambda batches, name=name, o=objective: self.finished.append(
                (name, next(iter(o.parameters())).detach().clone(), sum(len(b["image"]) for b in batches()))
            )
        self.first.fault = self._fault
        self.seen = 0

    def _fault(self, objective, loss):
        time.sleep(self.delay if self.seen else 0)  # the first step of a process never waits
        self.seen += 1
        return loss * float("nan") if self.poison and self.seen > self.poison else loss

    def stages(self):
        return {"codec": self.first, "prior": self.second}

    def reconstruct(self, images):
        return images.clamp(-1, 1)

    def sample(self, n, given=None, *, seeds):
        return self.second.generator(torch.zeros(n, 4)).reshape(n, 1, 4, 4)


def toy(frame: Frame, delay: float = 0.0, poison: int = 0) -> Toy:
    """A toy."""
    return Toy(delay, poison)


def register() -> None:
    if "toy" not in RECIPES:
        plan = Plan(steps=30, batch=8, rate=1e-2, ema=0.9)
        add("toy", lambda stage, size: plan, ())(toy)  # type: ignore[arg-type]


def pictures(folder: Path, count: int = 20) -> Path:
    folder.mkdir(parents=True)
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 256, (4, 4), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
    return folder


if __name__ == "__main__":
    from sfumato.train.run import resume, train

    register()
    run, data, delay = sys.argv[1:]
    if Path(run, "train.json").exists():
        resume(run, quiet=True)
    else:
        train("toy", data, out=run, quiet=True, save_every=7, delay=float(delay))
