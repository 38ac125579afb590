"""Every autoencoder: encoder, bottleneck, decoder, likelihood; with a critic it is a VQGAN.

    x → encoder → 1×1 → h → bottleneck → z          z → embedding → 1×1 → decoder → likelihood p(x|z)

    player 0    −log p(x|z) / D + the bottleneck's terms + w_p d(x, x̂) + w λ G(critic(x̂))
    player 1    C(critic(x), critic(x̂))

in nats per data dimension, D = C · H · W: with a Gaussian bottleneck and β = 1 it is the negative ELBO / D exactly. d
is the perceptual distance, (C, G) the adversarial pair, λ the adaptive weight (losses.py), x̂ the likelihood's mean.

Continuous latents that are not near N(0, I) already are normalised after training, z ← (z − mean) / deviation, two
numbers measured on the training set; `lift` carries the volume.

When the critic starts is a rule, not a step number (`Start` below), since a critic that meets blurred pictures, or a
generator that listens to an untrained critic, ruins both. Until then player 1 has nothing to say: an empty dict means
that this player sits the step out.

Sources: VAE arXiv:1312.6114; VQ-VAE arXiv:1711.00937; dVAE arXiv:2102.12092; VQGAN arXiv:2012.09841; the first stages
of latent diffusion arXiv:2112.10752.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sfumato.codecs.bottlenecks import Bottleneck, Meter
from sfumato.core.contracts import Batch, Batches, Codec, Terms
from sfumato.core.errors import Misfit
from sfumato.core.noise import Noise
from sfumato.core.space import Grid, Tokens, size
from sfumato.core.tensors import over_processes, per_image
from sfumato.likelihoods import Distribution, Likelihood
from sfumato.losses import ADVERSARIAL, adaptive_weight

ENOUGH = 10_000  # images for the mean and deviation of the latents


@dataclass(frozen=True)
class Start:
    """When the critic comes in. The mean absolute error is averaged over about `fast` and about `slow` steps.

    phase 0   no critic, until the fast average is less than `gain` below the slow one (after `least` steps), or
              `latest` of the progress is done
    phase 1   the critic alone learns, for `alone` steps, or until `latest` + 0.1
    phase 2   both
    """

    fast: int = 100
    slow: int = 500
    least: int = 1000
    gain: float = 0.02
    latest: float = 0.5
    alone: int = 200


class Watch(nn.Module):
    """The rule's memory: buffers, so that a resumed run goes on as the straight one would."""

    phase: Tensor
    steps: Tensor
    since: Tensor
    fast: Tensor
    slow: Tensor

    def __init__(self, rule: Start):
        super().__init__()
        self.rule = rule
        for name in ("phase", "steps", "since"):
            self.register_buffer(name, torch.zeros((), dtype=torch.int64))
        for name in ("fast", "slow"):
            self.register_buffer(name, torch.zeros(()))

    @torch.no_grad()
    def see(self, error: Tensor, progress: float) -> None:
        """After an accepted step. The averages are means while they are young: rate max(1 / n, 1 / horizon)."""
        rule = self.rule
        self.steps += 1
        for average, horizon in ((self.fast, rule.fast), (self.slow, rule.slow)):
            average.lerp_(error.to(average), max(1 / int(self.steps), 1 / horizon))
        phase = int(self.phase)
        if phase == 0:
            settled = int(self.steps) >= rule.least and bool(self.fast > (1 - rule.gain) * self.slow)
            due = settled or progress >= rule.latest
        else:
            self.since += 1
            due = int(self.since) >= rule.alone or progress >= rule.latest + 0.1
        if due and phase < 2:
            self.phase += 1


class AutoEncoder(Codec):
    """`channels`: what the encoder yields and what the decoder wants. `layout` (H, W): of the encoder's features.
    `normalise`: None leaves it to the bottleneck. `last` finds the decoder's last layer for the adaptive weight;
    without it, that is the last of its parameters which is a matrix or a kernel."""

    learned = True
    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        bottleneck: Bottleneck,
        likelihood: Likelihood,
        data: Grid,
        *,
        layout: tuple[int, int],
        channels: tuple[int, int],
        normalise: bool | None = None,
        critic: nn.Module | None = None,
        adversarial: str = "hinge",
        adversarial_weight: float = 0.8,
        ceiling: float = 10.0,
        start: Start = Start(),
        perceptual: nn.Module | None = None,
        perceptual_weight: float = 1.0,
        last: Callable[[nn.Module], nn.Parameter] | None = None,
    ):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.bottleneck, self.likelihood, self.data = bottleneck, likelihood, data
        self.before = nn.Conv2d(channels[0], bottleneck.inputs, 1)
        if bottleneck.embeds and bottleneck.width != channels[1]:
            raise Misfit(
                f"{type(bottleneck).__name__} embeds its letters in {bottleneck.width} channels, but the decoder wants "
                f"{channels[1]}. Give the bottleneck the decoder's width."
            )
        self.after = nn.Identity() if bottleneck.embeds else nn.Conv2d(bottleneck.width, channels[1], 1)
        self.layout, self.space = layout, bottleneck.space(layout)
        self.kind, self.discrete = bottleneck.kind, likelihood.discrete
        self.normalise = not isinstance(self.space, Tokens) and (
            not bottleneck.unit if normalise is None else normalise
        )
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("deviation", torch.ones(()))
        self.critic, self.watch = critic, Watch(start) if critic is not None else None
        self.adversarial = ADVERSARIAL[adversarial]
        self.adversarial_weight, self.ceiling = adversarial_weight, ceiling
        self.perceptual, self.perceptual_weight = perceptual, perceptual_weight
        self._last = last or _last_kernel
        self._dims = size(data)
        self._seen: list[tuple[Tensor, float]] = []
        self._meter = Meter()

    # ── the codec ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _features(self, x: Tensor) -> Tensor:
        h = self.before(self.encoder(x))
        if tuple(h.shape[2:]) != self.layout:
            raise Misfit(f"The encoder yields {tuple(h.shape[2:])} for {tuple(x.shape[2:])}, not {self.layout}.")
        return h

    def _out(self, z: Tensor) -> Tensor:
        """The bottleneck's latent → ours: tokens in a row, numbers normalised."""
        return z.flatten(1) if isinstance(self.space, Tokens) else (z - self.mean) / self.deviation

    def _in(self, z: Tensor) -> Tensor:
        if isinstance(self.space, Tokens):
            return z.unflatten(1, self.layout)
        return z * self.deviation + self.mean

    def encode(self, x: Tensor) -> Tensor:
        return self._out(self.bottleneck.encode(self._features(x)))

    def likely(self, z: Tensor) -> Distribution:
        """p(x|z)."""
        return self.likelihood(self.decoder(self.after(self.bottleneck.embed(self._in(z)))))

    def decode(self, z: Tensor) -> Tensor:
        return self.likely(z).mean

    def lift(self, x: Tensor, noise: Noise | None = None) -> tuple[Tensor, Tensor]:
        """z ~ q(z|x), w = log p(x|z) − log q(z|x). Of normalised latents, q is denser by the deviation a dimension."""
        noise = Noise.ambient(len(x), x.device) if noise is None else noise
        inner, log_q = self.bottleneck.lift(self._features(x), noise)
        z = self._out(inner)
        if not isinstance(self.space, Tokens):
            log_q = log_q + size(self.space) * self.deviation.log()
        return z, per_image(self.likely(z).log_prob(x)) - log_q

    def latent(self, x: Tensor, noise: Noise) -> Tensor:
        if self.kind is None or isinstance(self.space, Tokens):
            return self.encode(x)
        return self._out(self.bottleneck.lift(self._features(x), noise)[0])

    def blend(self, a: Tensor, b: Tensor, weight: float) -> Tensor:
        return self._out(self.bottleneck.blend(self._in(a), self._in(b), weight))

    # ── the objective ────────────────────────────────────────────────────────────────────────────────────────────────

    def players(self) -> list[list[nn.Parameter]]:
        theirs = [] if self.critic is None else list(self.critic.parameters())
        foreign = {id(parameter) for parameter in theirs}
        if self.perceptual is not None:
            foreign |= {id(parameter) for parameter in self.perceptual.parameters()}
        ours = [parameter for parameter in self.parameters() if id(parameter) not in foreign]
        return [ours] if self.critic is None else [ours, theirs]

    def _phase(self) -> int:
        return 0 if self.watch is None else int(self.watch.phase)

    def loss(self, batch: Batch, player: int = 0, noise: Noise | None = None, progress: float = 1.0) -> Terms:
        x = batch["image"]
        noise = Noise.ambient(len(x), x.device) if noise is None else noise
        if player == 1:
            return self._critics(x, noise, progress)
        code, terms = self.bottleneck(self._features(x), noise, progress, self._dims)
        likely = self.likelihood(self.decoder(self.after(code)))
        rec = -per_image(likely.log_prob(x)).mean() / self._dims
        terms = {"reconstruction": rec, **terms}
        made = likely.mean
        error = (made.detach() - x).abs().mean()
        self._meter.add(error=error)
        if self.training and torch.is_grad_enabled():
            self._seen.append((error, progress))
        if self.perceptual is not None:
            terms["perceptual"] = self.perceptual_weight * self.perceptual(made, x).mean()
            rec = rec + terms["perceptual"]
        # λ needs a gradient, so a validation loss has no adversarial term
        if self.critic is not None and self._phase() == 2 and torch.is_grad_enabled():
            real = [self.critic(x)] if self.adversarial.paired else []
            adv = self.adversarial.generator(self.critic(made), *real)
            weight = adaptive_weight(rec, adv, self._last(self.decoder), self.ceiling)
            self._meter.add(adaptive_weight=weight)
            terms["adversarial"] = self.adversarial_weight * weight * adv
        return terms

    def _critics(self, x: Tensor, noise: Noise, progress: float) -> Terms:
        if self.critic is None or self._phase() == 0:
            return {}
        with torch.no_grad():  # so the bottleneck does not count these pictures again
            code, _ = self.bottleneck(self._features(x), noise, progress, self._dims)
            made = self.likelihood(self.decoder(self.after(code))).mean
        return {"critic": self.adversarial.critic(self.critic(x), self.critic(made))}

    def _latents(self, batches: Batches) -> Iterable[Tensor]:
        """The h of every batch, as in evaluation."""
        device, training = self.mean.device, self.training
        self.eval()
        try:
            for batch in batches():
                with torch.no_grad():
                    yield self._features(batch["image"].to(device))
        finally:
            self.train(training)

    def prepare(self, batches: Batches) -> None:
        self.bottleneck.fit(lambda: self._latents(batches))

    def settle(self, noise: Noise | None = None) -> None:
        self.bottleneck.settle(noise)
        seen, self._seen = self._seen, []
        if self.watch is not None and seen:
            sums = over_processes(
                torch.stack([torch.stack([error, torch.ones_like(error)]) for error, _ in seen]).sum(0)
            )
            self.watch.see(sums[0] / sums[1], seen[-1][1])

    def forget(self) -> None:
        self.bottleneck.forget()
        self._seen = []

    def finish(self, batches: Batches) -> None:
        """The mean and deviation of continuous latents over the training set, one number each."""
        if not self.normalise:
            return
        moments = torch.zeros(3, dtype=torch.float64, device=self.mean.device)
        images = 0
        for h in self._latents(batches):
            z = self.bottleneck.encode(h).double()
            moments += torch.stack([z.new_tensor(z.numel()), z.sum(), z.square().sum()])
            images += len(z)
            if images >= ENOUGH:
                break
        count, first, second = over_processes(moments).tolist()
        if count:
            self.mean.fill_(first / count)
            self.deviation.fill_(max(second / count - (first / count) ** 2, 1e-12) ** 0.5)

    def diagnostics(self) -> dict[str, float]:
        found = {**self.bottleneck.diagnostics(), **self._meter.read()}
        if self.watch is not None:
            found["phase"] = float(self.watch.phase)
        return found


def _last_kernel(decoder: nn.Module) -> nn.Parameter:
    return next(p for p in reversed(list(decoder.parameters())) if p.ndim > 1)
