"""Recipes that tell what a picture shows: vit. There is no latent and no prior in them."""

from __future__ import annotations

from typing import Literal

from sfumato.core.errors import UsageError
from sfumato.nn.rows.encoders import PatchNet, Pooled
from sfumato.recipes.frame import PICTURES, Frame
from sfumato.recipes.sizes import ACROSS, VIT, VIT_PUBLISHED, planner
from sfumato.recipes.table import add
from sfumato.systems.classifier import Classifier
from sfumato.systems.views import Views

LEAST = 0.6  # of a crop's area; the papers' 0.08 shows too little of what fills its picture, a digit or an emoji
Augment = Literal["crop", "crop+flip", "none"]


@add("vit", planner("classifier"), (*PICTURES, "classes"))
def vit(
    frame: Frame,
    patch: int | None = None,
    trunk: Literal["own", "Ti", "S", "B", "L", "H"] = "own",
    augment: Augment = "crop",
) -> Classifier:
    """A classifier: the patches of a picture as words, read by a transformer (arXiv:2010.11929).

    `trunk` takes a published network instead of the size's own. Letters and digits have a handedness, photographs have
    none: take "crop+flip" for those.
    """
    frame, published = frame.published(), frame.size == "paper" or trunk != "own"
    data = frame.grid(paper=224)
    patch = (16 if published else max(data.height // ACROSS[frame.size], 1)) if patch is None else patch
    if data.height % patch:
        raise UsageError(f"A side of {data.height} is no multiple of {patch}. Try --patch or --side.")
    dims, dropout = VIT_PUBLISHED.get(trunk, VIT[frame.size]), 0.1 if frame.size == "paper" else 0.0
    net = PatchNet(data, patch=patch, width=dims.width, depth=dims.depth, heads=dims.heads, dropout=dropout, eps=1e-6)
    least = {"none": 1.0}.get(augment, 0.08 if frame.size == "paper" else LEAST)
    view = Views(least=least, flip=augment == "crop+flip")
    return Classifier(Pooled(net, frame.classes or 0), data, frame.classes or 0, view=view)
