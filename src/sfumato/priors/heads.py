"""What stands at the end of a sequence prior: features h of one position → p(z there | h).

    a likelihood     p in closed form: Categorical for tokens; Normal, Mixture for vectors             exact
    a small prior    over one vector, Sequence(1, D), told h through condition.vector. A Diffusion     its own kind
                     makes it MAR's head: a denoiser of a few layers, run for each position

Guidance meets them where each is linear: a likelihood in its features, h = u + s (c − u); a prior in whatever it is
guided by itself, given both c and u.

Where positions have alphabets of their own, `letters` (N, K) bool is True where a letter may stand; the others get −∞,
in the loss as in sampling, so that those that may stand have all the probability. A letter that may stand nowhere can
still be read: it says that nothing is known there, and is never drawn.

Shapes: h (M, F) with a row for every position of interest, z (M, D) or tokens (M,); their noise has M rows.
Source: Li et al. 2024, arXiv:2406.11838 (the diffusion head; each position is trained at several noise levels).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.core.condition import Condition
from sfumato.core.contracts import Kind, Known, Prior, Terms
from sfumato.core.errors import Misfit, UsageError
from sfumato.core.noise import Noise
from sfumato.core.space import Sequence, Tokens
from sfumato.core.tensors import per_image
from sfumato.likelihoods import Categorical, Laplace, Likelihood, Mixture, Normal
from sfumato.priors.guidance import linear

Head = Likelihood | Prior


def check_head(head: Head, space: Sequence | Tokens) -> Head:
    """The head, or Misfit when it does not speak of one position of the space."""
    if isinstance(space, Tokens):
        if not isinstance(head, Categorical) or head.vocab != space.vocab:
            raise Misfit(f"{space} needs the head Categorical({space.vocab}), not {_named(head)}.")
    elif isinstance(head, Prior):
        one = Sequence(1, space.width)
        if head.space != one:
            raise Misfit(f"A head over one position of {space} models {one}, but {_named(head)} models {head.space}.")
    elif isinstance(head, Categorical):
        raise Misfit(f"{space} holds vectors, of which Categorical knows nothing. Take Mixture, Normal or a Diffusion.")
    return head


def _named(head: Head) -> str:
    return f"Categorical({head.vocab})" if isinstance(head, Categorical) else type(head).__name__


def check_letters(letters: Tensor | None, space: Sequence | Tokens) -> Tensor | None:
    """Which letters may stand at each position, or Misfit where they are no such mask."""
    if letters is None:
        return None
    if not isinstance(space, Tokens):
        raise Misfit(f"{space} holds vectors, which have no letters.")
    if letters.dtype != torch.bool or tuple(letters.shape) != (space.length, space.vocab):
        raise Misfit(
            f"The letters of {space} are a bool mask ({space.length}, {space.vocab}), not {letters.dtype} of shape "
            f"{tuple(letters.shape)}."
        )
    if not letters.is_meta and not bool(letters.any(1).all()):
        raise Misfit("At some position no letter may stand.")
    return letters


def only(logits: Tensor, letters: Tensor | None) -> Tensor:
    """The logits, −∞ at every letter that may not stand there; `letters` broadcasts."""
    return logits if letters is None else logits.masked_fill(~letters, -torch.inf)


def nats(logits: Tensor, z: Tensor, letters: Tensor | None = None, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """(−log p of each token, which of them count), both (B, N), logits (B, N, K). A letter that may not stand where it
    stands was put there to be read, and does not count. `smoothing` spreads that share of the target over all letters
    that may stand there."""
    if letters is None:
        flat = F.cross_entropy(logits.flatten(0, 1), z.flatten(), reduction="none", label_smoothing=smoothing)
        return flat.view_as(z), torch.ones_like(z, dtype=torch.bool)
    asked = letters.expand(*z.shape, -1).gather(-1, z[..., None])[..., 0]
    log_p = only(logits, letters).log_softmax(-1)
    found = -log_p.masked_fill(~letters, 0).gather(-1, z[..., None])[..., 0]
    if smoothing:
        spread = log_p.masked_fill(~letters, 0).sum(-1) / letters.sum(-1)
        found = (1 - smoothing) * found - smoothing * spread
    return found, asked


def mean(nats: Tensor, asked: Tensor) -> Tensor:
    """Over those that count; 0 where none does."""
    return (nats * asked).sum() / asked.sum().clamp(min=1)


def beside(known: Known | None, null_known: Known | None) -> Known | None:
    """What unguided rows hold: what stands for nothing, where something is given. What is to be drawn is theirs too."""
    if known is None or null_known is None:
        return None
    return null_known[0], null_known[1] & known[1]


def kind_of(head: Head) -> Kind | None:
    """Whether `log_prob` below is exact or a bound."""
    return head.kind if isinstance(head, Prior) else "exact"


def loss(head: Head, h: Tensor, z: Tensor, noise: Noise, progress: float = 1.0) -> Terms:
    """A likelihood's mean "nats" of a position; a prior's own terms."""
    if isinstance(head, Prior):
        return head.loss(z[:, None], Condition(len(h), vector=h), noise, progress)
    nats = -head(h, dim=-1).log_prob(z)
    return {"nats": nats.sum() / max(len(z), 1)}


def log_prob(head: Head, h: Tensor, z: Tensor, noise: Noise) -> Tensor:
    """(M,) nats."""
    if isinstance(head, Prior):
        return head.log_prob(z[:, None], Condition(len(h), vector=h), noise)
    return per_image(head(h, dim=-1).log_prob(z))


def stepping(head: Head, steps: int | None) -> dict[str, Any]:
    """The options by which `draw` takes so many steps; UsageError where the head has no steps to take."""
    if steps is None:
        return {}
    if not isinstance(head, Prior):
        raise UsageError(f"head_steps are those of a diffusion at each position; here {_named(head)} is drawn at once.")
    return {"steps": steps}


def cooling(head: Head, temperature: float) -> dict[str, Any]:
    """The options by which `draw` scales the deviations; UsageError where the head has none."""
    if temperature == 1:
        return {}
    if temperature < 0 or not isinstance(head, Normal | Mixture | Laplace):
        raise UsageError(
            "A temperature is at least 0, and scales the deviations of a Mixture, a Normal or a Laplace; "
            f"here {temperature:g} is asked of a {_named(head)}."
        )
    return {"temperature": temperature}


def draw(head: Head, c: Tensor, u: Tensor | None, scale: float, noise: Noise, **options: Any) -> Tensor:
    """(M, D); u None: c as it is, unguided. `options` are those of a prior's `sample`, or a temperature."""
    if not isinstance(head, Prior):
        at: Any = head(c if u is None else linear(c, u, scale), dim=-1)
        return (at.cooled(**options) if options else at).sample(noise)
    null = None if u is None else Condition(len(u), vector=u)
    scale = 1.0 if u is None else scale
    return head.sample(Condition(len(c), vector=c), noise, null=null, guidance=scale, **options)[:, 0]
