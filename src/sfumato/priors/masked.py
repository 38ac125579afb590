"""Masked priors: some entries are shown, the others are guessed, all at once; what is surest is kept, and again.

    training    r ~ U[0, 1),  ⌈γ(r) N⌉ positions at random are hidden (one at least):  −log p(z_i | shown, c) on those
    decoding    step k of T:  every hidden position is drawn,  ⌊γ(k/T) N₀⌋ stay hidden, N₀ of the first step

One position at least comes in every step, and none stays hidden after the last. Those that stay hidden are the ones
with the lowest confidence log p(drawn) + τ (1 − k/T) · Gumbel, or the last ones of an order that does not look at the
draw.

Any order of the N positions gives a chain, so with σ uniform and m = N − t + 1 positions hidden at its step t,

    log p(z | c) ≥ E_σ Σ_t log p(z_σ(t) | z_σ(<t), c) = E_m (N / m) E_{m hidden} Σ_{i hidden} log p(z_i | shown, c)

with m uniform on 1 … N. The bound is that of decoding one position a step in random order, and tight when the net's
conditionals are those of one joint distribution.

Shapes: z (B, N) tokens, (B, N, D), or (B, C, H, W) read as its cells; the net is told what is hidden,
(B, N) bool, and gives features (B, N, F).
Sources: MaskGIT, Chang et al. 2022, arXiv:2202.04200; vectors with a diffusion head (MAR), Li et al. 2024,
arXiv:2406.11838; the bound Hoogeboom et al. 2022, arXiv:2110.02037; the ramp of guidance Chang et al. 2023,
arXiv:2301.00704.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from sfumato.core.condition import Condition
from sfumato.core.contracts import Kind, Known, Prior, Terms
from sfumato.core.errors import Misfit, UsageError
from sfumato.core.noise import Noise
from sfumato.core.registry import Registry
from sfumato.core.space import Grid, Sequence, Space, Tokens, check, from_rows, rows, to_rows
from sfumato.core.tensors import per_image
from sfumato.likelihoods import Likelihood
from sfumato.priors import heads
from sfumato.priors.choice import choose, shape
from sfumato.priors.guidance import linear, pair
from sfumato.priors.orders import ORDERS, order_of

Schedule = Callable[[Tensor], Tensor]  # r in [0, 1] → the part that is hidden, falling from 1 to 0
Ramp = Literal["constant", "linear"]

SCHEDULES: Registry[Schedule] = Registry("mask schedule")
SCHEDULES.add("cosine")(lambda r: torch.cos(math.pi / 2 * r))  # concave: few positions first, many when much is known
SCHEDULES.add("arccos")(lambda r: torch.arccos(r) * (2 / math.pi))
SCHEDULES.add("cubic")(lambda r: 1 - r**3)
SCHEDULES.add("square")(lambda r: 1 - r**2)
SCHEDULES.add("linear")(lambda r: 1 - r)
SCHEDULES.add("root")(lambda r: 1 - r.sqrt())


@SCHEDULES.add("mar")
def _mar(r: Tensor) -> Tensor:
    """For training only: ratios from N(1, 0.25²), cut to [0.7, 1] (MAR); here by its inverse distribution function."""
    lowest = torch.special.ndtr(torch.tensor((0.7 - 1) / 0.25, dtype=r.dtype, device=r.device))
    return 1 + 0.25 * torch.special.ndtri(0.5 - r * (0.5 - lowest))


class Net(Protocol):
    """What the network promises (nn.masked.MaskedNet does): what a hidden entry holds cannot matter."""

    def __call__(self, z: Tensor, hidden: Tensor, condition: Condition) -> Tensor: ...


class Masked(Prior):
    """masking, schedule   how much is hidden: in training, and by default in decoding (SCHEDULES)
    least      no training example hides less than this part (0.5 in MaskGIT's class-conditional configuration)
    smoothing  spreads that share of each target over all tokens (0.1 in MaskGIT)
    order      "confidence", "random" (another for each image), or a name of priors.orders; by default confidence for
               tokens and random for vectors
    repeats    how many noise levels a diffusion head learns at each position, for one call of the net (4 in MAR)
    points     calls of the net for log_prob
    letters    (N, K) bool, of tokens: which of them may stand at each position; None: all
    """

    letters: Tensor | None

    spaces = (Tokens, Sequence, Grid)

    def __init__(
        self,
        space: Space,
        net: Net,
        head: heads.Head,
        *,
        masking: str = "cosine",
        least: float = 0.0,
        smoothing: float = 0.0,
        schedule: str = "cosine",
        order: str | None = None,
        steps: int = 8,
        repeats: int = 1,
        points: int = 16,
        letters: Tensor | None = None,
    ):
        super().__init__()
        self.space, self.line = space, rows(space)
        self.register_buffer("letters", heads.check_letters(letters, self.line), persistent=False)
        self.net, self.head = net, heads.check_head(head, self.line)
        self.masking, self.least, self.smoothing = masking, least, smoothing
        self.schedule, self.steps, self.repeats, self.points = schedule, steps, repeats, points
        self.order = order or ("confidence" if self.tokens else "random")
        # with a prior for a head the bound is a bound on a bound; with exact heads it stays one
        self.kind: Kind | None = None if heads.kind_of(head) is None else "bound"
        SCHEDULES[masking], SCHEDULES[schedule]
        self._refuse(self.order)
        if smoothing and not self.tokens:
            raise UsageError("Label smoothing spreads a target over all tokens; a latent of vectors has no tokens.")

    @property
    def tokens(self) -> bool:
        return isinstance(self.space, Tokens)

    def _refuse(self, order: str) -> None:
        if order == "confidence" and not isinstance(self.head, Likelihood):
            raise Misfit(
                f"Confidence is a density at the draw, which the head {type(self.head).__name__} does not give. "
                "Take the order random or halton, or a Mixture as the head."
            )
        if order not in ("confidence", "random"):
            ORDERS[order]

    # ---- training ----

    def hide(self, noise: Noise) -> Tensor:
        """(B, N), true at ⌈γ(r) N⌉ random positions, one at least."""
        n = self.line.length
        ratio = SCHEDULES[self.masking](noise.spread()).clamp(min=self.least)
        count = (ratio * n).ceil().clamp(1, n)
        return _ranks(noise.uniform(n)) < count[:, None]

    def loss(self, z: Tensor, condition: Condition, noise: Noise, progress: float = 1.0, player: int = 0) -> Terms:
        """ "nats": mean over the hidden positions (not over the D entries of one); or the terms of a head of its
        own."""
        z, hidden = to_rows(self.space, check(self.space, z)), self.hide(noise)
        h = self.net(z, hidden, condition)
        if self.letters is not None:
            nats, asked = heads.nats(self.head(h, dim=-1).logits, z, self.letters, self.smoothing)  # type: ignore[operator,union-attr]
            return {"nats": heads.mean(nats, asked & hidden)}
        if self.tokens:
            target = z.masked_fill(~hidden, -1)
            logits = self.head(h, dim=-1).logits.flatten(0, 1)  # type: ignore[operator,union-attr]
            nats = F.cross_entropy(logits, target.flatten(), ignore_index=-1, label_smoothing=self.smoothing)
            return {"nats": nats}
        times = 1 if isinstance(self.head, Likelihood) else self.repeats
        source = noise.parts(self.line.length * times, hidden.repeat_interleave(times, 1))
        h, z = (x[hidden].repeat_interleave(times, 0) for x in (h, z))
        return heads.loss(self.head, h, z, source, progress)

    def log_prob(self, z: Tensor, condition: Condition, noise: Noise) -> Tensor:
        """(B,) nats: an unbiased estimate of the bound above, with one m in each of `points` equal parts of 1 … N."""
        z, n = to_rows(self.space, check(self.space, z)), self.line.length
        u = (torch.arange(self.points, device=z.device) + noise.uniform(self.points)) / self.points
        total = torch.zeros(len(z), device=z.device)
        for m in ((u * n).floor().clamp(max=n - 1) + 1).unbind(1):
            hidden = _ranks(noise.uniform(n)) < m[:, None]
            h = heads.only(self.net(z, hidden, condition), self.letters)
            nats = heads.log_prob(self.head, h[hidden], z[hidden], noise.parts(n, hidden))
            total = total + n / m * per_image(nats.new_zeros(hidden.shape).masked_scatter(hidden, nats))
        return total / self.points

    # ---- decoding ----

    @torch.no_grad()
    def sample(  # type: ignore[override]  # options are named, so that a wrong one is answered with the nearest
        self,
        condition: Condition,
        noise: Noise,
        *,
        null: Condition | None = None,
        guidance: float = 1.0,
        known: Known | None = None,
        null_known: Known | None = None,
        steps: int | None = None,
        order: str | None = None,
        schedule: str | None = None,
        temperature: float = 1.0,
        choice_temperature: float = 4.5,
        ramp: Ramp = "constant",
        head_steps: int | None = None,
    ) -> Tensor:
        """steps: as many as there are positions at most. order, schedule: others than those built in.

        temperature divides the tokens' logits; choice_temperature is τ: at 0 the surest draws are kept, at much any.
        ramp "linear" lets guidance grow from 1 in the first step to its value in the last. head_steps are those of a
        diffusion head. A position of which all entries are `known` is never drawn, and what is known comes back as it
        was given. Where something is known, `null_known` stands instead where the unguided u is computed, which
        without a `null` hears the same condition.
        """
        null_known = heads.beside(known, null_known)
        n, order, schedule = self.line.length, order or self.order, schedule or self.schedule
        steps = min(self.steps if steps is None else steps, n)
        self._refuse(order)
        _check_options(steps, schedule, ramp, temperature, self.tokens)
        gamma, options = SCHEDULES[schedule], heads.stepping(self.head, head_steps)
        null = condition if null is None and null_known is not None else null
        z, hidden = self._begin(known, noise)
        first, place = hidden.sum(1), self._places(order, noise)
        most = _most(gamma, n, steps, whole=known is None)
        for k in range(steps):
            scale = guidance if ramp == "constant" or steps == 1 else 1 + (guidance - 1) * k / (steps - 1)
            c, u = pair(self.net, condition, null, scale)(z, hidden, beside=self._beside(z, hidden, null_known))
            if isinstance(self.head, Likelihood):
                drawn, sure = self._guess(c if u is None else linear(c, u, scale), temperature, noise)
            if place is None:
                score = sure + choice_temperature * (1 - (k + 1) / steps) * noise.gumbel(n)
            else:
                score = -place.double()
            left = remaining(gamma, first, hidden.sum(1), k, steps)
            later = _lowest(score, hidden, left)
            if not isinstance(self.head, Likelihood):
                drawn = self._draw_at(hidden & ~later, most[k], z, c, u, scale, noise, options)
            z = torch.where(hidden if self.tokens else hidden[..., None], drawn, z)
            hidden = later
        z = from_rows(self.space, z)
        return z if known is None else torch.where(known[1], known[0], z)

    def _begin(self, known: Known | None, noise: Noise) -> tuple[Tensor, Tensor]:
        """(z, hidden) before the first step."""
        if known is None:
            z = torch.zeros(
                noise.rows, *self.line.shape, device=noise.device, dtype=torch.long if self.tokens else None
            )
            return z, torch.ones(noise.rows, self.line.length, dtype=torch.bool, device=noise.device)
        value, mask = (to_rows(self.space, part) for part in known)
        return value, ~(mask if self.tokens else mask.all(-1))

    def _beside(self, z: Tensor, hidden: Tensor, held: Known | None) -> tuple[Tensor, Tensor] | None:
        """(z, hidden) of the unguided rows; None for the same. What they hold lies where nothing is hidden."""
        if held is None:
            return None
        value, mask = (to_rows(self.space, part) for part in held)
        shown = mask if self.tokens else mask.all(-1)
        return torch.where(shown if self.tokens else shown[..., None], value, z), hidden

    def _places(self, order: str, noise: Noise) -> Tensor | None:
        """(B, N): when each position comes; None where the draws decide."""
        n = self.line.length
        if order == "confidence":
            return None
        if order == "random":
            return _ranks(noise.uniform(n))
        place = order_of(order, self.line).to(noise.device).argsort()
        if order == "halton":  # spread out wherever one begins, so that each image may begin elsewhere
            return (place - noise.integers(n)[:, None]) % n
        return place.expand(noise.rows, n)

    def _guess(self, h: Tensor, temperature: float, noise: Noise) -> tuple[Tensor, Tensor]:
        """(draws, log p of them (B, N)) at every position."""
        at = self.head(heads.only(h, self.letters), dim=-1)
        if self.tokens:
            drawn = choose(shape(at.logits, temperature), noise.uniform(self.line.length))  # type: ignore[union-attr]
            return drawn, at.log_prob(drawn)  # type: ignore[union-attr]
        drawn = at.sample(noise)  # type: ignore[union-attr]
        sure = at.log_prob(drawn)  # type: ignore[union-attr]
        return drawn, sure if sure.ndim == 2 else sure.sum(-1)

    def _draw_at(
        self,
        wanted: Tensor,
        most: int,
        z: Tensor,
        c: Tensor,
        u: Tensor | None,
        scale: float,
        noise: Noise,
        options: dict[str, Any],
    ) -> Tensor:
        """z with the positions `wanted` (B, N) drawn from their features: `most` positions in each image, those that
        are wanted first among them."""
        here = wanted.byte().argsort(dim=1, descending=True, stable=True)[:, :most, None]
        pick = lambda h: h.gather(1, here.expand(-1, -1, h.shape[-1])).flatten(0, 1)
        told = pick(c), None if u is None else pick(u)
        drawn = heads.draw(self.head, *told, scale, noise.parts(most), **options).unflatten(0, (len(z), most))
        return z.scatter(1, here.expand_as(drawn), drawn.to(z))


def _ranks(x: Tensor) -> Tensor:
    """The place of each entry among those of its row, from the lowest, 0, up."""
    return x.argsort(dim=1, stable=True).argsort(dim=1, stable=True)


def _lowest(score: Tensor, hidden: Tensor, count: Tensor) -> Tensor:
    """(B, N), true at the `count` (B,) hidden positions of the lowest score."""
    return _ranks(score.masked_fill(~hidden, torch.inf)) < count[:, None]


def remaining(gamma: Schedule, first: Tensor, now: Tensor, k: int, steps: int) -> Tensor:
    """How many of `now` (B,) hidden positions stay hidden after step k = 0, 1, …, when `first` were at the beginning:
    ⌊γ first⌋, but fewer than now, and enough for every step to come to have one."""
    ratio = float(gamma(torch.tensor((k + 1) / steps, dtype=torch.float64)))
    wanted = (first.double() * ratio + 1e-9).floor().long()  # 20 (1 − 0.9) is 2, whatever the last bit says
    return wanted.clamp(min=steps - 1 - k).minimum(now - 1).clamp(min=0)


def _most(gamma: Schedule, n: int, steps: int, whole: bool) -> list[int]:
    """The most positions that step k reveals in any image. Where parts are known the images may differ, and the bound
    is over all beginnings, since what is computed for one image must not depend on what others know."""
    first = torch.tensor([n]) if whole else torch.arange(1, n + 1)
    now, most = first, []
    for k in range(steps):
        left = remaining(gamma, first, now, k, steps)
        most.append(int((now - left).max()))
        now = left
    return most


def _check_options(steps: int, schedule: str, ramp: str, temperature: float, tokens: bool) -> None:
    if steps < 1:
        raise UsageError(f"Decoding takes at least one step, not {steps}.")
    if ramp not in ("constant", "linear"):
        raise UsageError(f'The ramp of guidance is "constant" or "linear", not {ramp!r}.')
    if float(SCHEDULES[schedule](torch.ones(()))) > 1e-6:
        raise UsageError(f"The schedule {schedule!r} does not end at 0, so it serves training only; decode by cosine.")
    if not tokens and temperature != 1:
        raise UsageError("temperature chooses among tokens; this prior draws vectors.")
