"""A hierarchical VAE as a prior: latents z₁ … z_L on a ladder of resolutions explain x, from coarse to fine.

    p(x, z | c) = Π_l p(z_l | z_<l, c) · p(x | z, c)         q(z | x, c) = Π_l q(z_l | z_<l, x, c)        all diagonal

    log p(x | c) ≥ E_q[log p(x | z, c) + Σ_l log p(z_l | z_<l, c) − log q(z_l | z_<l, x, c)]

with x the codec's latent, pixels or not. Per image and in nats the loss is  D + Σ_l w_l KL_l + λ Σ_blocks n ‖W‖,

    D     −log p(x | z), or with `sigma` KL(N(x, σ²) ‖ p(x | z)): the data are a zeroth layer whose posterior has a
          fixed width, without which a density on latents that repeat themselves grows without end
    w_l   1, or a rate schedule (a number, no gradient goes through it): t_l is the share of the whole rate that layer l
          is meant to have, and with a = t_l Σ KL, w rises from 0.1 to 1 up to KL_l = a, is 1 up to 2 a, rises again up
          to 3 a, and is 2 beyond
    λ     spectral regularisation: n cells a side times the top singular value of each prior's and posterior's last W

What is bounded. With w = 1 and without `sigma`, D + R (R = Σ KL_l) bounds −log p(x). With it, take x̃ = x + σ ε, N of
whose entries there are: q(z | x) serves every x̃, so E log p(x̃) ≥ E log p(x̃ | z) − R, and the first term is
−D − N/2 log 2πeσ². Hence

    D + R ≥ KL(N(x, σ²) ‖ p),

a statement on the smoothed x̃ and not on x. `log_prob` makes the other one: it samples the first bound, at x itself.

The condition is dropped (for guidance) in the prior and the generator alone; encoder and posterior hear it always, so
that q need not guess what the data were told. That is what `Condition.full` is for.

    parametrisation   σ of z from the network's s
    log-sigma         log σ = s                                                       VDVAE, arXiv:2011.10650
    softplus          σ² = log(1 + 2^s) / log 2, so that s = 0 is σ = 1               arXiv:2303.13714

Sampling is one pass. Guidance keeps two streams, h_c and h_u, in one batch: each says a Gaussian for z_l,
guidance.apart (or .product) makes one of the two, ONE z_l is drawn from it, and both go on with it. x is h_c's.
Shapes: x (B, C, H, W); z_l (B, *net.shapes[l]).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.core.condition import Condition, stack
from sfumato.core.contracts import Kind, Known, Prior, Terms
from sfumato.core.errors import Misfit, UsageError
from sfumato.core.noise import Noise
from sfumato.core.space import Grid, check, size
from sfumato.core.tensors import per_image
from sfumato.likelihoods import HALF_LOG_TAU, Distribution, Likelihood, NormalOf
from sfumato.priors.guidance import Moments, apart, product

LOG_VAR = (-30.0, 20.0)  # what exp can bear in float32
ACTIVE = 0.01  # nats an entry: a layer that says less is counted as silent
Scales = float | Sequence[float]  # one for all resolutions, or one each, from coarse to fine


class Ladder(Protocol):
    """What the network promises (nn.ladder.Ladder does). `of[i]` is the resolution of layer i, counted from the
    coarsest, and shapes[i] the shape of z_i. `said` is what `hear` makes of a condition."""

    of: Sequence[int]
    shapes: Sequence[tuple[int, ...]]

    def hear(self, condition: Condition) -> Any: ...

    def encode(self, x: Tensor, said: Any) -> Sequence[Tensor]: ...

    def start(self, rows: int) -> Tensor: ...

    def prior(self, i: int, h: Tensor, said: Any) -> tuple[Tensor, Tensor, Tensor]: ...

    def posterior(self, i: int, h: Tensor, a: Tensor, said: Any) -> tuple[Tensor, Tensor]: ...

    def join(self, i: int, h: Tensor, z: Tensor, r: Tensor, said: Any) -> Tensor: ...

    def exit(self, h: Tensor) -> Tensor: ...

    def norms(self) -> Iterator[tuple[int, Tensor]]: ...


def _full(x: Tensor) -> Tensor:
    """Rates are differences of large numbers: float32 at least."""
    return x if x.dtype == torch.float64 else x.float()


def log_sigma(mean: Tensor, s: Tensor) -> Moments:
    return Moments(_full(mean), (2 * _full(s)).clamp(*LOG_VAR))


def softplus(mean: Tensor, s: Tensor) -> Moments:
    variance = F.softplus(_full(s).clamp(min=-60), beta=math.log(2))  # float32 has no 2^s below s = −149
    return Moments(_full(mean), variance.log().clamp(*LOG_VAR))


PARAMETRISATIONS: dict[str, Callable[[Tensor, Tensor], Moments]] = {"log-sigma": log_sigma, "softplus": softplus}


def kl(q: Moments, p: Moments) -> Tensor:
    """KL(q ‖ p), elementwise, in nats."""
    gap = p.log_var - q.log_var
    return (gap + (-gap).exp() + (q.mean - p.mean).square() * (-p.log_var).exp() - 1) / 2


def targets(layers: int, spread: float, shift: float = 10.0, whole: float = 2 / 3) -> list[float]:
    """The L shares t of the rate, from coarse to fine: spread^(l / (L − 1)) + shift, scaled to sum to `whole`. The
    first layers have few entries and the last have many; the third that is left may go where it likes."""
    t = [spread ** (i / max(layers - 1, 1)) + shift for i in range(layers)]
    return [whole * share / sum(t) for share in t]


def schedule(rates: Tensor, shares: Sequence[float]) -> Tensor:
    """Weights (B, L) of the layers' rates (B, L): less where a layer has less than its share of its image's rate, so
    that it is cheap to use, and up to twice as much where it has more than two shares. Numbers, without a gradient."""
    rates = rates.detach()
    x = rates / (rates.new_tensor(shares) * rates.sum(1, keepdim=True)).clamp(min=1e-12)  # in shares
    return torch.where(x < 2, x.clamp(0.1, 1.0), (x - 1).clamp(max=2.0))


class Hierarchical(Prior):
    """likelihood    of x given the ladder's features
    parametrisation  of the layers' deviations, by the table above
    sigma            σ of the zeroth layer, for the likelihood Normal("element"); None: the plain likelihood
    spread           S of the rate schedule, about the ratio of the finest layer's share to the coarsest's; None: w = 1
    spectral         λ
    reach            in training |x| counts as at most that much: a latent far out should not rule the fit
    draw             whether a sample is drawn from the likelihood, or is its mean
    importance       K: log_prob is a sample of log 1/K Σ_k p(x, z_k) / q(z_k | x) (arXiv:1509.00519); 1 is the ELBO
    """

    spaces = (Grid,)
    space: Grid
    kind: Kind | None = "bound"
    hears_all = True

    def __init__(
        self,
        space: Grid,
        net: nn.Module,
        likelihood: Likelihood,
        *,
        parametrisation: Literal["log-sigma", "softplus"] = "softplus",
        sigma: float | None = None,
        spread: float | None = None,
        spectral: float = 0.0,
        reach: float | None = None,
        draw: bool = False,
        importance: int = 1,
    ):
        super().__init__()
        self.space, self.likelihood, self.read = space, likelihood, PARAMETRISATIONS[parametrisation]
        self.discrete = likelihood.discrete
        self.net = cast(Any, net)  # a Ladder, and a module
        self.sigma, self.spectral, self.reach = sigma, spectral, reach
        self.draw, self.importance = draw, importance
        self.sizes = [math.prod(shape) for shape in self.net.shapes]
        self.levels = self.net.of[-1] + 1
        if sigma is not None and (likelihood.discrete or getattr(likelihood, "scale", None) != "element"):
            raise Misfit(
                "A zeroth layer of width sigma is compared with a Gaussian of learned width. "
                'Take the likelihood Normal("element"), or sigma=None.'
            )
        self.shares = None if spread is None else targets(len(self.sizes), spread)
        self._rates: Tensor | None = None
        self._seen = 0

    # ---- one way down ----

    def _split(self, eps: Tensor) -> list[Tensor]:
        """(B, all of z) → every z_l's part."""
        parts = eps.split(self.sizes, 1)
        return [part.unflatten(1, shape) for part, shape in zip(parts, self.net.shapes)]

    def _noise(self, noise: Noise) -> list[Tensor]:
        return self._split(noise.normal(sum(self.sizes)))

    def _inferred(
        self, x: Tensor, full: Condition, told: Condition, eps: Sequence[Tensor]
    ) -> Iterator[tuple[Tensor, Moments, Moments, Tensor]]:
        """Down the ladder by the posterior: (z_l, q, p, h after it) for every layer; eps = 0 takes q's means. `full` is
        what encoder and posterior hear, `told` what the prior and the generator do."""
        net, h = self.net, self.net.start(len(x))
        said = net.hear(full)
        other = said if told is full else net.hear(told)
        a = net.encode(x, said)
        for i, level in enumerate(net.of):
            mean, s, r = net.prior(i, h, other)
            p, q = self.read(mean, s), self.read(*net.posterior(i, h, a[level], said))
            z = q.mean + (q.log_var / 2).exp() * eps[i].to(q.mean)
            h = net.join(i, h, z.to(h), r, other)
            yield z, q, p, h

    # ---- training ----

    def loss(self, z: Tensor, condition: Condition, noise: Noise, progress: float = 1.0, player: int = 0) -> Terms:
        """data: D; rate: Σ w KL; spectral: λ Σ n ‖W‖; each in nats per entry of x, the mean over the batch. Without a
        schedule, data + rate is the bound of this module's docstring."""
        x = check(self.space, z) if self.reach is None else check(self.space, z).clamp(-self.reach, self.reach)
        full = condition if condition.full is None else condition.full
        steps = list(self._inferred(x, full, condition, self._noise(noise)))
        rates = torch.stack([per_image(kl(q, p)) for _, q, p, _ in steps], 1)
        data = self._distortion(self.likelihood(self.net.exit(steps[-1][-1])), x)
        self._meter(rates)
        weighted = rates if self.shares is None else schedule(rates, self.shares) * rates
        dims = size(self.space)
        terms = {"data": data.mean() / dims, "rate": weighted.sum(1).mean() / dims}
        if self.spectral:
            norms = torch.stack([side * norm for side, norm in self.net.norms()])
            terms["spectral"] = self.spectral * norms.sum() / dims
        return terms

    def _distortion(self, likely: Distribution, x: Tensor) -> Tensor:
        """D (B,)."""
        nats = -per_image(likely.log_prob(x))
        if self.sigma is None:
            return nats
        assert isinstance(likely, NormalOf)
        # E −log p(x + σ ε) = −log p(x) + ½ σ² / s², less the entropy of N(x, σ²)
        spare = (self.sigma * (-likely.log_scale).exp()).square() / 2 - (HALF_LOG_TAU + math.log(self.sigma) + 0.5)
        return nats + per_image(spare)

    def _meter(self, rates: Tensor) -> None:
        mean = rates.detach().mean(0)
        self._rates = mean if self._rates is None else self._rates + mean
        self._seen += 1

    def diagnostics(self) -> dict[str, float]:
        """Since the last call: the rate in nats per entry of x, the part of it that each resolution has ("share_8" for
        eight cells a side), and how many layers say more than ACTIVE nats an entry."""
        if self._rates is None:
            return {}
        rates = (self._rates / self._seen).tolist()
        self._rates, self._seen = None, 0
        total = max(sum(rates), 1e-12)
        found = {"rate_nats": total / size(self.space)}
        for rate, shape in zip(rates, self.net.shapes):
            name = f"share_{max(shape[1:])}"
            found[name] = found.get(name, 0.0) + rate / total
        active = sum(rate > ACTIVE * entries for rate, entries in zip(rates, self.sizes))
        return {**found, "active_layers": float(active)}

    # ---- sampling ----

    @torch.no_grad()
    def sample(  # type: ignore[override]  # options are named, so that a wrong one is answered with the nearest
        self,
        condition: Condition,
        noise: Noise,
        *,
        null: Condition | None = None,
        guidance: Scales = 1.0,
        known: Known | None = None,
        variance_guidance: Scales | None = None,
        rule: Literal["apart", "product"] = "apart",
        most: float | None = None,
        temperature: Scales = 1.0,
        start: Tensor | None = None,
    ) -> Tensor:
        """guidance pushes the means apart, variance_guidance the log-variances (unsaid: as much); 1 is unguided for
        both, and a list has one for each resolution, from coarse to fine. rule "product" takes p_c^s / p_u^(s − 1)
        with s = guidance; `most` bounds the log-ratio of the variances (guidance.py). temperature multiplies the
        deviation of every z_l. `start` (B, all entries of z): the noise to draw with, from `invert`."""
        if known is not None:
            raise UsageError(
                "A hierarchical VAE draws a picture from latents each of which is about all of it, so it cannot hold a "
                "part and paint the rest. Train a diffusion or a masked prior for that, for instance ldm."
            )
        if rule not in ("apart", "product"):
            raise UsageError(f"The rule of guidance is apart or product, not {rule!r}.")
        warm = self._scales(temperature, "temperature")
        mean = self._scales(guidance, "guidance")
        variance = mean if variance_guidance is None else self._scales(variance_guidance, "variance_guidance")
        guided = any(s != 1 for s in (*mean, *variance))
        if guided and null is None:
            raise UsageError("Guidance needs the null condition to guide away from; pass `null`, or guidance 1.")
        if null is not None and not any((*mean, *variance)):
            condition, guided = null, False
        eps = self._noise(noise) if start is None else self._split(start)
        rows, net = condition.rows, self.net
        streams = 1 + guided
        said = net.hear(stack([condition, null]) if guided and null is not None else condition)
        h = net.start(rows * streams)
        for i, level in enumerate(net.of):
            m, s, r = net.prior(i, h, said)
            p = self.read(m, s)
            if guided:
                p = self._guide(p, mean[level], variance[level], rule, most)
            z = p.mean + warm[level] * (p.log_var / 2).exp() * eps[i].to(p.mean)
            h = net.join(i, h, z.to(h).repeat(streams, 1, 1, 1), r, said)
        likely = self.likelihood(net.exit(h[:rows]))
        return likely.sample(noise) if self.draw else likely.mean

    @staticmethod
    def _guide(both: Moments, mean: float, variance: float, rule: str, most: float | None) -> Moments:
        """Both streams' Gaussians, one below the other, to the one that z is drawn from."""
        (mean_c, mean_u), (var_c, var_u) = both.mean.chunk(2), both.log_var.chunk(2)
        c, u = Moments(mean_c, var_c), Moments(mean_u, var_u)
        return product(c, u, mean) if rule == "product" else apart(c, u, mean, variance, most)

    def _scales(self, value: Scales, name: str) -> list[float]:
        if isinstance(value, float | int):
            return [float(value)] * self.levels
        if len(value) != self.levels:
            sides = [max(self.net.shapes[self.net.of.index(i)][1:]) for i in range(self.levels)]
            raise UsageError(
                f"{name} is one number, or one for each of the {self.levels} resolutions {sides}, not {len(value)}."
            )
        return [float(v) for v in value]

    @torch.no_grad()
    def invert(self, z: Tensor, condition: Condition) -> Tensor:
        """The noise (B, all entries of z_1 … z_L) with which `sample(start=…)`, unguided, draws what the posterior's
        means decode to: ε_l = (z_l − μ_p) / σ_p along the way."""
        eps = [z.new_zeros(len(z), *shape) for shape in self.net.shapes]
        steps = self._inferred(check(self.space, z), condition, condition, eps)
        return torch.cat([((mean - p.mean) * (-p.log_var / 2).exp()).flatten(1) for mean, _, p, _ in steps], 1)

    # ---- likelihood ----

    def log_prob(self, z: Tensor, condition: Condition, noise: Noise) -> Tensor:
        """(B,) nats: a sample of the lower bound on log p(x | c) at x = z itself, by `importance` draws from q. Where q
        is the exact posterior every sample is log p(x | c). Of 8-bit values where the likelihood is discrete."""
        check(self.space, z)
        draws = []
        for _ in range(self.importance):
            steps = list(self._inferred(z, condition, condition, self._noise(noise)))
            ratios = [per_image(_log_normal(drawn, p) - _log_normal(drawn, q)) for drawn, q, p, _ in steps]
            likely = self.likelihood(self.net.exit(steps[-1][-1]))
            draws.append(torch.stack(ratios).sum(0) + per_image(likely.log_prob(z)))
        return torch.logsumexp(torch.stack(draws), 0) - math.log(self.importance)


def _log_normal(z: Tensor, of: Moments) -> Tensor:
    return NormalOf(of.mean, of.log_var / 2).log_prob(z)
