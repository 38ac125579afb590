"""A part of the pictures that training does not see, and the loss on it.

Which part, in this order:
    0              none, if `held_out` says so
    a part         of the set, if `held_out` says how much: the pictures with the smallest derive("held out", seed, i)
    valid, test    the set's own, if it has one: nothing is taken from training
    2 %            of a set of LARGE pictures and more, by the same rule, and at most MOST

and at most MOST of them are looked at, the same ones each time. The loss is that of player 0, with the averaged
weights, in eval mode, with noise that is the same each time: two values of one run differ by the weights alone. Two
players have none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from sfumato.core.contracts import Objective
from sfumato.core.errors import SfumatoError
from sfumato.core.noise import Noise, derive
from sfumato.data import Set, open_data
from sfumato.train.request import Request

LARGE = 1000  # pictures of a set from which on a part is taken without being asked for
PART = 0.02
NONE = "none"  # how nothing was chosen
MOST = 256  # pictures that are looked at
BATCH = 32
LOOKS = 10  # a stage, and none of one of fewer than FIRST steps, which tell nothing yet
FIRST = 50


def split(source: Set, request: Request, most: int | None = MOST) -> tuple[Set, Set | None, str]:
    """(what is trained on, what of the held-out part is looked at, how that was chosen, in words)."""
    part = request.held_out
    if part == 0:
        return source, None, NONE
    if part is None:
        own = _own_part(source, request, most)
        if own is not None:
            return source, *own
        count = min(MOST, round(PART * len(source))) if len(source) >= LARGE and source.files is not None else 0
    else:
        count = round(part * len(source))
    if count < 1 or count >= len(source):
        return source, None, NONE
    keys = np.fromiter((derive("held out", request.seed, i) for i in range(len(source))), np.int64, len(source))
    chosen = np.argpartition(keys, count)[:count]  # of millions of rows a list would be more than the set
    order = chosen[np.argsort(keys[chosen])]
    left = np.ones(len(source), bool)
    left[chosen] = False
    how = f"{count} of {len(source)} {source.noun}, taken by chance"
    how += f", of which {most} are looked at" if most is not None and count > most else ""
    return source.subset(np.flatnonzero(left)), source.subset(np.sort(order[:most])), how


def judged_on(source: Set, request: Request) -> tuple[Set, str]:
    """(what a training was not shown, all of it, and what that is in words): the set's own part, or else what was held
    out; or else the set itself."""
    _, held, how = split(source, request, most=None)
    return (source, f"the {source.noun} that it learned from") if held is None else (held, how)


def _own_part(source: Set, request: Request, most: int | None) -> tuple[Set, str] | None:
    if source.origin is None:
        return None
    for name in ("valid", "test"):
        try:
            own = open_data(
                source.origin,
                side=source.side or None,  # texts have none
                channels=source.channels or 3,
                background=request.background,
                allow_bad=request.allow_bad,
                split=name,
            )
        except SfumatoError:
            continue
        if own.labels != source.labels or own.has_text != source.has_text:
            continue  # its labels have other numbers
        step = 1 if most is None else max(1, len(own) // most)
        rows = range(0, len(own), step)[:most]
        return own.subset(rows), f"{len(rows)} {own.noun} of the part {name!r}"
    return None


@torch.no_grad()
def held_loss(objective: Objective, source: Set, seed: int, device: torch.device) -> float:
    """The mean loss of a picture of the part, weighted by the size of each batch."""
    module: Any = objective
    training = module.training
    module.eval()
    total = 0.0
    for start in range(0, len(source), BATCH):
        rows = range(start, min(start + BATCH, len(source)))
        batch = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in source.batch(rows).items()}
        noise = Noise.shared(derive(seed, "held out", start), len(rows), device=device)
        terms = objective.loss(batch, 0, noise, 1.0)
        total += len(rows) * float(sum(float(term) for term in terms.values()))
    objective.forget()  # what a loss gathers on the way is training's
    module.train(training)
    return total / len(source)


def worth_looking(before: float, after: float, step: int) -> bool:
    """Whether a step, the `step`th, that led from one progress to the other passed one of LOOKS marks."""
    return step >= FIRST and int(after * LOOKS) > int(before * LOOKS)


class Best:
    """The lowest loss so far, where it was, and how many looks ago."""

    def __init__(self, loss: float | None = None, step: int = 0, since: int = 0):
        self.loss, self.step, self.since = loss, step, since

    def beaten_by(self, loss: float) -> bool:
        """Whether `loss` is a better one; NaN never is."""
        return loss == loss and (self.loss is None or loss < self.loss)

    def hears(self, loss: float, step: int) -> None:
        if self.beaten_by(loss):
            self.loss, self.step, self.since = loss, step, 0
        else:
            self.since += 1

    def record(self) -> Sequence[Any]:
        return [self.loss, self.step, self.since]
