"""Does the picture show what the words say? Where the right answer is known, rank it.

A picture is generated for a caption whose true picture is one of a gallery (for `emoji`: all pictures of the style that
the caption names). The gallery is ordered by distance in feature space, and

    R@k = the part of the generated pictures whose true picture is among the k nearest.

Ties count against the generator: a picture that is as near as the true one stands before it. Chance is k / gallery.
Shapes: generated (N, D), gallery (M, D), answers (N,) indices into the gallery.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor


def ranks(generated: Tensor, gallery: Tensor, answers: Tensor, chunk: int = 512) -> Tensor:
    """(N,) int64: 1 where the true picture is strictly the nearest."""
    if len(generated) != len(answers):
        raise ValueError(f"{len(generated)} pictures have {len(answers)} right answers.")
    found, gallery = [], gallery.to(generated.device, torch.float64)
    for rows, right in zip(generated.split(chunk), answers.to(generated.device).split(chunk)):
        distances = torch.cdist(rows.to(torch.float64), gallery, compute_mode="donot_use_mm_for_euclid_dist")
        found.append((distances <= distances.gather(1, right[:, None])).sum(1))
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.long)


def ranks_in_groups(
    generated: Tensor,
    gallery: Tensor,
    answers: Tensor,
    groups: Sequence[Hashable],
) -> tuple[Tensor, Tensor]:
    """As `ranks`, each within its answer's group (a style) of the gallery: (ranks, sizes of the groups), each (N,)."""
    if len(groups) != len(gallery):
        raise ValueError(f"{len(gallery)} pictures have {len(groups)} groups.")
    found, sizes = torch.zeros(len(generated), dtype=torch.long), torch.zeros(len(generated), dtype=torch.long)
    wanted = [groups[int(i)] for i in answers]
    for group in dict.fromkeys(wanted):
        rows = torch.tensor([i for i, g in enumerate(wanted) if g == group])
        part = torch.tensor([i for i, g in enumerate(groups) if g == group])
        place = torch.full((len(gallery),), -1)
        place[part] = torch.arange(len(part))
        found[rows] = ranks(generated[rows], gallery[part], place[answers[rows]]).cpu()
        sizes[rows] = len(part)
    return found, sizes


def recall_at(found: Tensor, k: int) -> float:
    """R@k of ranks (N,)."""
    return float((found <= k).double().mean())
