"""Training on from the weights of another run, or of a published model, on other data: `--from all=RUN`, or `--tune`.

    what both have       is taken, in its own shape
    rows of labels       go by the names of the classes: a class of both keeps its row, a new one begins anew, one that
                         is gone is left behind; the row for "no label" is taken too
    words                the alphabet of RUN stays: it begins with the 256 bytes, so no word is unknown to it
    what only one has    begins anew, or is left behind: a condition, say

What was matched, what begins anew and what is left behind is said. A module names its tensors that have a row for each
class, the classes' rows first, in `label_rows`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sfumato.core.errors import WeightsError

LEAST = 0.5  # of the numbers that a donor has to have: less is another model
NAMED = 3  # tensors or classes that a sentence names


@dataclass
class Taken:
    """Names of tensors: what was taken whole, what by class, what begins anew, what of the donor is left behind."""

    whole: list[str] = field(default_factory=list)
    by_class: list[str] = field(default_factory=list)
    anew: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    classes: tuple[list[str], list[str], list[str]] = ((), (), ())  # type: ignore[assignment]  # kept, new, gone

    def said(self, whence: str) -> list[str]:
        """Sentences for a person."""
        found = [f"{len(self.whole) + len(self.by_class)} tensors begin as in {whence}"]
        kept, new, gone = self.classes
        if self.by_class:
            said = f"{len(kept)} classes go on by their names"
            said += f", {len(new)} begin anew ({_some(new)})" if new else ""
            found.append(said + (f", {len(gone)} are left behind ({_some(gone)})" if gone else ""))
        found += [f"{len(self.anew)} tensors begin anew, which {whence} lacks ({_some(self.anew)})"] * bool(self.anew)
        found += [f"{len(self.left)} of its tensors have no place here ({_some(self.left)})"] * bool(self.left)
        return [f"{sentence}." for sentence in found]


@torch.no_grad()
def take(
    mine: nn.Module, theirs: nn.Module, classes: Sequence[str], others: Sequence[str], what: str, whence: str
) -> Taken:
    """Fills one module from another; `classes` and `others` are the names of ours and of theirs, in order of their
    numbers. WeightsError, and nothing taken, where a tensor has another shape and it is not for the classes, or where
    less than half of ours would be filled."""
    own, other, labelled = mine.state_dict(), theirs.state_dict(), _label_rows(mine)
    found = Taken(left=[name for name in other if name not in own])
    filled: dict[str, Tensor] = {}
    wrong = []
    for name, value in own.items():
        if name not in other:
            found.anew.append(name)
        elif name in labelled and list(classes) != list(others):
            filled[name] = _by_class(value, other[name], classes, others)
            found.by_class.append(name)
        elif other[name].shape == value.shape:
            filled[name] = other[name]
            found.whole.append(name)
        else:
            wrong.append(f"reshaped {name}: {tuple(other[name].shape)}, not {tuple(value.shape)}")
    share = sum(own[name].numel() for name in filled) / max(sum(value.numel() for value in own.values()), 1)
    if wrong or share < LEAST:
        faults = wrong or [f"missing {name}" for name in found.anew]
        listed = "".join(f"\n  {fault}" for fault in faults[:10])
        raise WeightsError(f"{whence} does not fit {what}; nothing was taken. Build both with the same dials.{listed}")
    mine.load_state_dict(own | filled)
    new, gone = [c for c in classes if c not in others], [c for c in others if c not in classes]
    found.classes = [c for c in classes if c in others], new, gone
    return found


def _label_rows(module: nn.Module) -> set[str]:
    """The names of the tensors that have a row for each class."""
    return {
        f"{path}.{name}".lstrip(".")
        for path, part in module.named_modules()
        for name in getattr(part, "label_rows", ())
    }


def _by_class(mine: Tensor, theirs: Tensor, classes: Sequence[str], others: Sequence[str]) -> Tensor:
    """Our rows, those of classes that both have from theirs, and what stands after the classes too. Where no names are
    known, rows go by their numbers."""
    k, n = (len(classes) or len(others)), (len(others) or len(classes))
    place = {name: j for j, name in enumerate(others)} if classes and others else None
    found = mine.clone()
    for i in range(min(k, len(mine))):
        j = (i if i < n else None) if place is None else place.get(classes[i])
        if j is not None and j < len(theirs):
            found[i] = theirs[j]
    extra = min(len(mine) - k, len(theirs) - n)
    if extra > 0:
        found[-extra:] = theirs[-extra:]
    return found


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")
