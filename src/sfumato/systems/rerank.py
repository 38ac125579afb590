"""Rejection: draw several pictures for each one wanted, and keep what a score likes best.

    x* = argmax_j score(x_j, y),   x_1 … x_k ~ p(x | y)

The score may be a classifier's log p(y | x) (Razavi et al. 2019, arXiv:1906.00446) or how well CLIP finds words and
picture to agree (Ramesh et al. 2021, arXiv:2102.12092). Whatever it is, it is judged by another measure than itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from sfumato.core.errors import UsageError
from sfumato.core.noise import derive
from sfumato.systems.inputs import as_rows, take

Draw = Callable[..., Tensor]  # System.sample, Cascade.sample, or what is called like them
Score = Callable[[Tensor, Mapping[str, Any]], Tensor]  # (images (m, C, H, W), given of m rows) → (m,), higher is better


@torch.no_grad()
def best_of(
    draw: Draw,
    score: Score,
    n: int = 1,
    of: int = 8,
    given: Mapping[str, Any] | None = None,
    *,
    seeds: Iterable[int] | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """(n pictures, their scores): each the best of `of` candidates, the earliest of those that tie.

    Candidate 0 of a picture has the picture's own seed, so that of = 1 is `draw`; the others have seeds made from it,
    so that more candidates never do worse by the score. `options` are those of `draw`.
    """
    if of < 1:
        raise UsageError(f"The best is taken of at least one candidate, not of {of}.")
    roots = list(range(n)) if seeds is None else list(seeds)
    tried = [seed if j == 0 else derive(seed, "candidate", j) for seed in roots for j in range(of)]
    names = getattr(getattr(draw, "__self__", None), "classes", ())  # of a system, whose classes may be said by name
    said = {key: take(value, [i // of for i in range(n * of)]) for key, value in as_rows(given, n, names).items()}
    images = draw(n * of, said or None, seeds=tried, **options)
    scores = score(images, said).reshape(n, of)
    best = scores.argmax(1)
    return images.unflatten(0, (n, of))[torch.arange(n), best.to(images.device)], scores.gather(1, best[:, None])[:, 0]
