"""Whether a position is there at all: sequences of n ≤ N vectors, carried as (B, N, D + 1) (core/space.py).

    log p(z) = Σ_{i ≤ min(n, N − 1)} log p(i is there, or not | all before are, z_<i) + Σ_{i<n} log p(z_i | z_<i)

After the first position that is not there nothing is asked, and after N nothing can come: a sequence that is full pays
for N ones and for no end. A first position is like every other, so that none at all (n = 0) has a probability too.

A diffusion carries it as one more channel, ±1, and reads its sign at the end, up to the first that is not there.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.core.contracts import Known
from sfumato.core.space import Space, presence, varies
from sfumato.likelihoods.numbers import full


def nats(logit: Tensor, there: Tensor) -> Tensor:
    """−log p of what is there, (B, N), of logits (B, N) that a position is there given that all before it are; 0 where
    nothing is asked."""
    asked = F.pad(there[:, :-1], (1, 0), value=True)
    logit = full(logit)
    return F.binary_cross_entropy_with_logits(logit, there.to(logit), reduction="none").masked_fill(~asked, 0)


def joined(z: Tensor, logit: Tensor, u: Tensor, before: Tensor | None) -> Tensor:
    """Vectors (B, D) with their presence, (B, D + 1): drawn by uniforms u (B,), and none where none was `before`."""
    there = u < full(logit).sigmoid()
    there = there if before is None else there & presence(before)
    return torch.cat([z, there[:, None].to(z)], -1)


def emptied(z: Tensor) -> Tensor:
    """(…, D + 1) with zeros for what is not there."""
    return z.masked_fill(~presence(z)[..., None], 0)


def completed(space: Space, known: Known | None) -> Known | None:
    """What is known, and what follows from it where a length varies: a position of which anything is known is there or
    not as the known latent says; so are all before one that is there, and none from one on that is not."""
    if known is None or not varies(space):
        return known
    value, mask = known
    said, there = mask.any(-1), presence(value)
    here = (said & there).long().flip(1).cumsum(1).flip(1)[..., None] > 0
    gone = (said & ~there).long().cumsum(1)[..., None] > 0
    value = torch.cat([value[..., :-1].masked_fill(gone, 0), here.to(value)], -1)
    return value, torch.cat([mask[..., :-1] | gone, here | gone], -1)


def signed(space: Space, z: Tensor) -> Tensor:
    """As a diffusion carries it: the last channel ±1 where a length varies."""
    return torch.cat([z[..., :-1], 2 * z[..., -1:] - 1], -1) if varies(space) else z


def held(space: Space, known: Known | None) -> Known | None:
    """What is known, completed and as a diffusion carries it."""
    known = completed(space, known)
    return None if known is None else (signed(space, known[0]), known[1])


def rounded(space: Space, z: Tensor) -> Tensor:
    """A latent of the space, of one that a diffusion drew."""
    if not varies(space):
        return z
    there = (z[..., -1:] > 0).long().cumprod(1)
    return emptied(torch.cat([z[..., :-1], there.to(z)], -1))
