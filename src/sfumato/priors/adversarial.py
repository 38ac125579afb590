"""A game of two: a generator draws, a critic tells what was drawn from what is real.

    z = G(w, c),  w ~ N(0, I)            min over D of L_D(D(T z_real, c), D(T z, c)),   min over G of L_G(D(T z, c))

    player 1     L_D + ½ r1 k E‖∂D/∂z_real‖² + ½ r2 k E‖∂D/∂z‖² + one_centred k E(‖∂D/∂z_between‖ − 1)²
    player 0     L_G

L_D and L_G are a pair of losses.ADVERSARIAL; T is differentiable augmentation (augment.py); the penalties are added in
every k-th step, k times as strong (lazily, arXiv:1912.04958). Their slopes are those with respect to the latent before
T, in float32, since they are differentiated again. "relativistic" with r1 and r2 is R3GAN's loss (arXiv:2501.05441).

The critic's condition bears no gradient: a conditioner that could move it would learn which conditions are flattering.
What the conditioner learns, it learns through the generator.

p(z | c) is whatever G makes of N(0, I), so there is no density and no log-probability, and nothing to guide. What the
house calls guidance is here a line between conditions, G(w, u + s (c − u)): s = 0 is unconditional, 1 conditional, what
lies between is a morph, and above 1 the generator extrapolates, which it was not trained to do.

Shapes: w (B, D), z (B, …) in the space, logits (B, …). Sources: Goodfellow et al. 2014, arXiv:1406.2661; the penalties
Mescheder et al. 2018, arXiv:1801.04406; truncation Brock et al. 2019, arXiv:1809.11096; filling in by a search over w
Yeh et al. 2017, arXiv:1607.07539.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor, nn

from sfumato.core.condition import Condition
from sfumato.core.contracts import Known, Prior, Terms
from sfumato.core.errors import Misfit, UsageError
from sfumato.core.noise import Noise
from sfumato.core.space import Grid, check
from sfumato.core.space import Sequence as Row
from sfumato.core.tensors import against, per_image
from sfumato.losses import ADVERSARIAL, one_centred, r1
from sfumato.priors.augment import AUGMENTATIONS, augmented


class Maker(Protocol):
    """What the generator promises (nn.generator's do): (w (B, noise), condition) → z."""

    noise: int

    def __call__(self, w: Tensor, condition: Condition) -> Tensor: ...


class Judge(Protocol):
    """What the critic promises (nn.discriminator's do): (z, condition) → logits (B, …), row by row."""

    def __call__(self, z: Tensor, condition: Condition) -> Tensor: ...


class Adversarial(Prior):
    """`one_centred` is the weight of WGAN-GP's penalty (10 there). `augment` names what both players' critic sees."""

    spaces = (Grid, Row)
    space: Grid | Row
    steps: Tensor

    def __init__(
        self,
        space: Grid | Row,
        generator: Maker,
        critic: Judge,
        *,
        loss: str = "relativistic",
        r1: float = 0.0,
        r2: float = 0.0,
        one_centred: float = 0.0,
        every: int = 1,
        augment: Sequence[str] = (),
    ):
        super().__init__()
        if augment and not isinstance(space, Grid):
            raise Misfit(f"Augmentation changes pictures, and {space} is none. Leave `augment` empty.")
        if every < 1:
            raise UsageError(f"Penalties are added in every k-th step, k ≥ 1, not {every}.")
        self.space, self.generator, self.critic = space, generator, critic
        self.game = ADVERSARIAL[loss]
        self.weights = {"r1": r1, "r2": r2, "one_centred": one_centred}
        self.every, self.augment = every, tuple(augment)
        for name in self.augment:
            AUGMENTATIONS[name]  # a wrong name is answered now
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))  # accepted ones; a resumed run counts on
        self.gallery = Gallery()

    # ── the game ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def players(self) -> list[list[nn.Parameter]]:
        return [list(self.generator.parameters()), list(self.critic.parameters())]  # type: ignore[attr-defined]

    def loss(self, z: Tensor, condition: Condition, noise: Noise, progress: float = 1.0, player: int = 0) -> Terms:
        """Player 0: "generator". Player 1: "critic", and the penalties that are due. In the unit of the logits, mean
        over pictures."""
        check(self.space, z)
        w = noise.normal(self.generator.noise).to(z)
        return self._criticism(z, w, condition, noise) if player else self._drawing(z, w, condition, noise)

    def _drawing(self, z: Tensor, w: Tensor, condition: Condition, noise: Noise) -> Terms:
        told = condition.map(Tensor.detach)
        made = self.critic(augmented(self.generator(w, condition), self.augment, noise), told)
        if not self.game.paired:
            return {"generator": self.game.generator(made)}
        with torch.no_grad():
            real = self.critic(augmented(z, self.augment, noise), told)
        return {"generator": self.game.generator(made, real)}

    def _criticism(self, z: Tensor, w: Tensor, condition: Condition, noise: Noise) -> Terms:
        told = condition.map(Tensor.detach)
        with torch.no_grad():
            made = self.generator(w, told).to(z)
        due = self._due()
        real, made = z.detach().requires_grad_("r1" in due), made.detach().requires_grad_("r2" in due)
        with torch.autocast(z.device.type, enabled=False) if due else nullcontext():
            logits = self.critic(augmented(real, self.augment, noise), told)
            others = self.critic(augmented(made, self.augment, noise), told)
            terms = {"critic": self.game.critic(logits, others)}
            if "r1" in due:
                terms["r1"] = due["r1"] * r1(logits, real)
            if "r2" in due:
                terms["r2"] = due["r2"] * r1(others, made)
            if "one_centred" in due:
                share = against(noise.uniform(), z).to(z)
                between = torch.lerp(made.detach(), real.detach(), share).requires_grad_()
                found = self.critic(augmented(between, self.augment, noise), told)
                terms["one_centred"] = due["one_centred"] * one_centred(found, between)
        if self.training:
            self.gallery.hang(real.detach(), made.detach(), logits.detach(), others.detach())
        return terms

    def _due(self) -> dict[str, float]:
        """The penalties of this step and their weights. Without gradients (a validation loss) there are none."""
        wanted = {name: weight * self.every for name, weight in self.weights.items() if weight}
        if not wanted or not torch.is_grad_enabled() or (self.every > 1 and int(self.steps) % self.every):
            return {}
        return wanted

    def settle(self, noise: Noise | None = None) -> None:
        self.steps += 1

    def diagnostics(self) -> dict[str, float]:
        return self.gallery.figures()

    # ── drawing ──────────────────────────────────────────────────────────────────────────────────────────────────────

    @torch.no_grad()
    def sample(  # type: ignore[override]  # options are named, so that a wrong one is answered with the nearest
        self,
        condition: Condition,
        noise: Noise,
        *,
        null: Condition | None = None,
        guidance: float = 1.0,
        known: Known | None = None,
        temperature: float = 1.0,
        truncation: float | None = None,
        search: int = 200,
        start: Tensor | None = None,
    ) -> Tensor:
        """w = temperature · ε, with ε ~ N(0, I) or, with `truncation` τ, the normal restricted to |ε| ≤ τ an entry; or
        w = start (B, D). Of `known` entries the picture nearest to them is searched, `search` steps from w; then they
        are put in place. That is an estimate and no draw from p(z | known), but each seed has its own."""
        if temperature < 0 or (truncation is not None and truncation <= 0):
            raise UsageError(f"temperature ≥ 0 and truncation > 0 are needed, not {temperature}, {truncation}.")
        told = between(condition, null, guidance)
        if start is None:
            w = noise.normal(self.generator.noise)
            w = temperature * (w if truncation is None else truncated(w, truncation))
        else:
            w = start
        if known is None:
            return self.generator(w, told)
        value, mask = known
        z = self.generator(self._nearest(value, mask, told, w, search), told)
        return torch.where(mask, value, z)

    def invert(self, z: Tensor, condition: Condition, steps: int = 200) -> Tensor:
        """The w (B, D) whose picture is nearest to z, as far as a search from w = 0 finds it."""
        start = z.new_zeros(len(z), self.generator.noise)
        return self._nearest(check(self.space, z), torch.ones_like(z, dtype=torch.bool), condition, start, steps)

    def _nearest(self, value: Tensor, mask: Tensor, condition: Condition, w: Tensor, steps: int) -> Tensor:
        """argmin over w of mean over the mask of (G(w, c) − value)² + 10⁻² ‖w‖² / D, by Adam with a cosine rate.

        The second term is a Gaussian's −log density up to a factor; it keeps w where G was trained."""
        share = mask.to(value) / against(per_image(mask.to(value)).clamp(min=1), value)
        first, second = torch.zeros_like(w), torch.zeros_like(w)
        with torch.enable_grad():
            for k in range(1, steps + 1):
                w = w.detach().requires_grad_()
                away = per_image(share * (self.generator(w, condition) - value).square())
                (slope,) = torch.autograd.grad((away + 0.01 * w.square().mean(1)).sum(), w)
                first, second = 0.9 * first + 0.1 * slope, 0.99 * second + 0.01 * slope.square()
                step = (first / (1 - 0.9**k)) / ((second / (1 - 0.99**k)).sqrt() + 1e-8)
                w = w.detach() - 0.05 * (1 + math.cos(math.pi * (k - 1) / steps)) * step
        return w.detach()

    def log_prob(self, z: Tensor, condition: Condition, noise: Noise) -> Tensor:
        raise Misfit(
            "A generator and its critic give no log-probability: what G makes of its noise fills a thin part of the "
            "space. Measure distances between samples instead, or train a flow or an autoregressive prior."
        )


def between(condition: Condition, null: Condition | None, scale: float) -> Condition:
    """The condition at u + s (c − u) on the line through both; at s = 1 and s = 0 they themselves, bit for bit."""
    if scale == 1:
        return condition
    if null is None:
        raise UsageError(f"Guidance {scale} needs the null condition to go away from; pass `null`, or guidance 1.")
    if scale == 0:
        return null
    if condition.vector is None or null.vector is None:
        raise UsageError("A generator is guided along condition.vector, and this condition has none. Use guidance 1.")
    return replace(condition, vector=null.vector + scale * (condition.vector - null.vector))


def truncated(w: Tensor, limit: float) -> Tensor:
    """A standard normal as one restricted to [−τ, τ]: Φ⁻¹(Φ(−τ) + Φ(w) (Φ(τ) − Φ(−τ))).

    It is distributed as what redrawing the entries beyond τ gives, but moves with τ: a seed keeps its picture."""
    low = torch.special.ndtr(torch.tensor(-limit, dtype=torch.float64, device=w.device))
    inside = low + torch.special.ndtr(w.double()) * (1 - 2 * low)
    return torch.special.ndtri(inside).clamp(-limit, limit).to(w)


class Gallery:
    """The latest real and made latents, and what they say of a collapse. It is not saved and nothing learns from it.

    coverage    the part of the real ones that have a made one nearer than their fifth real neighbour (Naeem et al.
                2020, arXiv:2002.09797); about 0.97 where both are alike and as many
    variety     mean distance between made ones / between real ones; 0 when all are one picture
    """

    rows, side, neighbours = 256, 8, 5  # pictures kept, pixels a side that are compared, as in that paper

    def __init__(self) -> None:
        self.real: list[Tensor] = []
        self.made: list[Tensor] = []
        self.logits: list[tuple[Tensor, Tensor]] = []

    def hang(self, real: Tensor, made: Tensor, logits: Tensor, others: Tensor) -> None:
        for wall, new in ((self.real, real), (self.made, made)):
            wall.append(self._small(new))
            while sum(map(len, wall[1:])) >= self.rows:
                wall.pop(0)
        self.logits = [*self.logits[-99:], (logits.float().mean(), others.float().mean())]

    def _small(self, z: Tensor) -> Tensor:
        if z.ndim == 4 and max(z.shape[2:]) > self.side:
            z = nn.functional.adaptive_avg_pool2d(z, (min(z.shape[2], self.side), min(z.shape[3], self.side)))
        return z.flatten(1).float()

    def figures(self) -> dict[str, float]:
        if not self.logits:
            return {}
        real, made = torch.cat(self.real)[-self.rows :], torch.cat(self.made)[-self.rows :]
        means = torch.stack([torch.stack(pair) for pair in self.logits]).mean(0).tolist()
        self.logits = []
        found = {"critic_real": means[0], "critic_made": means[1]}
        if len(real) <= self.neighbours:
            return found
        own = torch.cdist(real, real)
        reach = own.kthvalue(self.neighbours + 1, 1).values  # oneself is the first
        pairs = len(real) * (len(real) - 1)
        variety = torch.pdist(made).sum() * 2 / pairs / (own.sum() / pairs).clamp(min=1e-12)
        covered = (torch.cdist(real, made) <= reach[:, None]).any(1).float().mean()
        return {**found, "coverage": float(covered), "variety": float(variety)}
