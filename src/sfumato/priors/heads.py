"""What stands at the end of a sequence prior: features h of one position → p(z there | h).

    a likelihood     p in closed form: Categorical for tokens; Normal, Mixture for vectors             exact
    a small prior    over one vector, Sequence(1, D), told h through condition.vector. A Diffusion     its own kind
                     makes it MAR's head: a denoiser of a few layers, run for each position

Guidance meets them where each is linear: a likelihood in its features, h = u + s (c − u); a prior in whatever it is
guided by itself, given both c and u.

Shapes: h (M, F) with a row for every position of interest, z (M, D) or tokens (M,); their noise has M rows.
Source: Li et al. 2024, arXiv:2406.11838 (the diffusion head; each position is trained at several noise levels).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sfumato.core.condition import Condition
from sfumato.core.contracts import Kind, Prior, Terms
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
