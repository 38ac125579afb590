"""Diffusion: learn to denoise at every level, then walk from noise to data.

    z_t = α x + σ ε,   loss = E_t w(t) / det² · |p̂(z_t, t, c) − (a x + b ε)|²,   p(z_1) = N(0, terminal²)

One class is DDPM, improved DDPM, DDIM, latent diffusion, EDM, rectified flow, VDM and GUD: they differ in the path
(α, σ), the target (a, b), the weighting w and the solver, and each is a row of a table (path.py, gamma.py, target.py,
solvers.py).

With `learned_variance` the network gives twice the channels; the second half o places the log-variance of a reverse
step between log β̃ and log β, at (o + 1) / 2, and learns by 0.001 · (the discrete bound in nats per entry), through
which the mean gets no gradient (Nichol & Dhariwal 2021, arXiv:2102.09672).

Where the path's ends are learned (VDM) the loss is the whole bound in nats per entry: denoise (by "vlb"), and the two
that hold the ends, decoder −log N(x; z/α, (σ/α)²) at t₀ and terminal KL(q(z_1|x) ‖ p(z_1)).

Where components have schedules of their own (GUD) the net is told their γ instead of the time, and what is `known`
stays nearly clean all the way, instead of being put back at the level of the rest.

Where the length varies, presence is one more channel, ±1 (priors/presence.py), and what is not there is learned as
zeros: the way from noise leads through it. It has no density, so no likelihood is claimed.

Shapes: z (B, C, H, W), (B, N, D), or (B, N, D + 1); net(z, t (B,) or γ like z, condition) → the shape of z, or twice
its channels (the last dimension for sequences).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sfumato.core.condition import Condition
from sfumato.core.contracts import Kind, Known, Latents, Prior, Terms
from sfumato.core.errors import Misfit, UsageError
from sfumato.core.noise import Noise
from sfumato.core.space import Grid, Sequence, carried, check, varies
from sfumato.core.tensors import against, mean_per_image
from sfumato.priors import presence
from sfumato.priors.diffusion import bound
from sfumato.priors.diffusion.gamma import Held, Learned, Staggered, time_of
from sfumato.priors.diffusion.importance import Importance
from sfumato.priors.diffusion.path import Path, begun, level
from sfumato.priors.diffusion.rolling import Move, Rolling, rolling
from sfumato.priors.diffusion.solvers import QUIET, SOLVERS, Denoise, Prediction, State, configure, hold, solve, times
from sfumato.priors.diffusion.target import TARGETS, WEIGHTINGS, combine, determinant, split, weigh
from sfumato.priors.guidance import during, first_half, guide, linear, rescaled

Clamp = Literal["static", "dynamic"]
Estimate = Literal["bound", "steps", "flow", "adaptive"]


class Diffusion(Prior):
    """path: how data becomes noise. target: what the net predicts. weighting: of the errors at each level (target.py).

    levels     T: train on t = k/T alone (DDPM), and sample at such times; None: on all t
    clamp      of x̂ while sampling: "static" to [−1, 1], "dynamic" to a quantile (Imagen); None for latents
    steps, solver, grid    the defaults of `sample`
    estimate   what log_prob gives: "bound" (continuous), "steps" (discrete, T levels), "flow" (exact up to the solver),
               "adaptive" (a flow whose solver chooses its steps; needs the package torchdiffeq)
    points     how many network calls of it, or steps of the flow
    eight_bit  z holds 8-bit values k/127.5 − 1, and log_prob is that of the values rather than a density
    importance buckets of t, drawn in proportion to √E[cost²] so that the loss varies little (arXiv:2102.09672); 0: none
    """

    spaces = (Grid, Sequence)
    varying = True
    space: Grid | Sequence

    def __init__(
        self,
        space: Grid | Sequence,
        net: nn.Module,
        path: Path,
        target: str = "noise",
        weighting: str = "simple",
        *,
        levels: int | None = None,
        learned_variance: bool = False,
        clamp: Clamp | None = None,
        steps: int = 50,
        solver: str = "dpm++2m",
        grid: str | None = None,
        estimate: Estimate = "bound",
        points: int = 64,
        eight_bit: bool = False,
        importance: int = 0,
    ):
        super().__init__()
        self.space, self.net, self.path, self.target, self.weighting = space, net, path, target, weighting
        self.levels, self.learned_variance, self.clamp = levels, learned_variance, clamp
        self.steps, self.solver, self.grid = steps, solver, grid
        self.estimate, self.points, self.eight_bit, self.discrete = estimate, points, eight_bit, eight_bit
        self.kind: Kind | None = None if varies(space) else "exact" if estimate in ("flow", "adaptive") else "bound"
        self.importance = Importance(importance) if importance else None
        self._refuse_misfits()

    def _refuse_misfits(self) -> None:
        for name, table in ((self.target, TARGETS), (self.weighting, WEIGHTINGS), (self.solver, SOLVERS)):
            table[name]
        if self.levels is None and (self.learned_variance or self.estimate == "steps"):
            raise Misfit(
                "A learned variance and the discrete bound belong to a chain of T steps, but levels is None. "
                "Set levels (DDPM has 1000), or learn no variance and take the continuous bound."
            )
        if isinstance(self.path, nn.Module):  # by γ, so α > 0
            return
        # on the CPU, so that a system can be laid out on the meta device
        at = level(self.path, torch.full((1,), self.path.top, device="cpu"), torch.zeros(1, 1, 1, device="cpu"))
        if bool((determinant(self.target, at) == 0).any()):
            raise Misfit(
                f"At the start of sampling {type(self.path).__name__} leaves nothing of the data (α = 0), so a network "
                f"that predicts {self.target!r} cannot tell what to draw. Predict v, velocity or data instead."
            )

    @property
    def channel_dim(self) -> int:
        return 1 if isinstance(self.space, Grid) else -1

    # ---- reading the network ----

    def predict(self, z: Tensor, t: Tensor, condition: Condition, path: Path | None = None) -> Tensor:
        """The network's raw output in z's precision; it sees z at unit variance where the path asks for that."""
        path = self.path if path is None else path
        seen = z / level(path, t, z).std if path.scaled else z
        return self.net(seen, path.told(t, z), condition).to(z.dtype)

    def read(self, z: Tensor, t: Tensor, out: Tensor, path: Path | None = None) -> Prediction:
        """The raw output → (x̂, ε̂, blend)."""
        blend = None
        if self.learned_variance:
            out, rest = out.chunk(2, self.channel_dim)
            blend = (rest + 1) / 2
        return Prediction(*split(self.target, level(path or self.path, t, z), z, out), blend)

    def denoiser(
        self,
        condition: Condition,
        null: Condition | None = None,
        guidance: float = 1.0,
        *,
        interval: tuple[float, float] | None = None,
        rescale: float = 0.0,
        path: Path | None = None,
    ) -> Denoise:
        """(z, t) → (x̂, ε̂) on a path (None: our own): guided in the target, which is affine in x̂ and ε̂, then clamped."""
        on = self.path if path is None else path
        mix = rescaled(rescale) if rescale else linear
        if self.learned_variance:
            mix = first_half(mix, self.channel_dim)
        predict = lambda z, t, condition: self.predict(z, t, condition, on)
        raw = guide(predict, condition, null, guidance, mix)
        if interval is not None:
            raw = during(raw, guide(predict, condition, null, 1.0), interval)

        def denoise(z: Tensor, t: Tensor) -> Prediction:
            found = self.read(z, t, raw(z, t), on)
            if self.clamp is None:
                return found
            x = clamped(found.x, self.clamp)
            at = level(on, t, z)
            return found._replace(x=x, eps=(z - at.alpha * x) / at.sigma)

        return denoise

    # ---- training ----

    def prepare(self, latents: Latents) -> None:
        """Measures the components' variances, where the path's schedules depend on them."""
        if isinstance(self.path, Staggered):
            self.path.fit(presence.signed(self.space, z) for z, _ in latents())

    def draw_times(self, noise: Noise) -> Tensor:
        """(B,) training times, evenly spread over the whole batch."""
        return self._times_of(noise.spread())

    def _times_of(self, u: Tensor) -> Tensor:
        if self.levels is None:
            return self.path.draw(u)
        return ((u * self.levels).floor().clamp(max=self.levels - 1) + 1) / self.levels

    def loss(self, z: Tensor, condition: Condition, noise: Noise, progress: float = 1.0, player: int = 0) -> Terms:
        """denoise: the weighted squared error, mean over all entries (by "vlb" in nats per entry and unit of t);
        variance: 0.001 · the discrete bound in nats per entry, where the variance is learned; decoder and terminal:
        nats per entry, where the path's ends are learned."""
        z = presence.signed(self.space, check(self.space, z))
        path, u = self.path.drawn(noise, z), noise.spread()
        weight: Tensor | None = None
        if self.importance is not None:
            u, weight = self.importance.draw(u)
        t = self._times_of(u)
        at, eps = level(path, t, z), noise.normal(*z.shape[1:]).to(z)
        noisy = at.alpha * z + at.sigma * eps
        out = self.predict(noisy, t, condition, path)
        p = out.chunk(2, self.channel_dim)[0] if self.learned_variance else out
        cost = mean_per_image(weigh(self.weighting, self.target, at, p - combine(self.target, at, z, eps)))
        if self.importance is not None and weight is not None:
            self.importance.see(u, cost, self.training)
            cost = cost * weight
        terms = {"denoise": cost.mean()}
        if self.levels is not None and self.learned_variance:
            found = self.read(noisy, t, out)
            frozen = found._replace(x=found.x.detach(), eps=found.eps.detach())
            before = ((t * self.levels).round() - 1) / self.levels
            terms["variance"] = 0.001 * self.levels * bound.step_cost(path, frozen, z, t, before, self.eight_bit).mean()
        if isinstance(path, Learned):
            path.weigh(cost)
            terms |= self._ends(path, z, noise)
        return terms

    def _ends(self, path: Path, z: Tensor, noise: Noise) -> Terms:
        """What keeps learned ends from running away: without them no noise at all would be cheapest."""
        low, high = (z.new_full((len(z),), end) for end in path.ends)
        at = level(path, low, z)
        around = z + at.sigma / at.alpha * noise.normal(*z.shape[1:]).to(z)
        decoder = bound.decode_cost(z, around, 2 * (at.sigma / at.alpha).log().expand_as(z), self.eight_bit)
        return {"decoder": decoder.mean(), "terminal": bound.terminal_cost(path, z, high).mean()}

    def settle(self, noise: Noise | None = None) -> None:
        if self.importance is not None:
            self.importance.settle()

    def forget(self) -> None:
        if self.importance is not None:
            self.importance.forget()

    # ---- sampling ----

    def trajectory(
        self,
        condition: Condition,
        noise: Noise,
        *,
        null: Condition | None = None,
        guidance: float = 1.0,
        known: Known | None = None,
        steps: int | None = None,
        solver: str | None = None,
        grid: str | None = None,
        eta: float = 0.0,
        variance: Literal["small", "large"] = "small",
        interval: tuple[float, float] | None = None,
        rescale: float = 0.0,
        start: Tensor | None = None,
        rounds: int = 1,
        softness: float | None = None,
        stop: float = 0.0,
    ) -> Iterator[State]:
        """Every state on the way from noise to data, for progress and previews (State.x is the picture so far).

        eta        ddim's noise, 0 to 1                      variance   ddpm's: "small" (β̃) or "large" (β)
        interval   the times within which to guide           rescale    φ of guidance.rescaled
        start      the noise to begin with, of unit variance, instead of a draw: from `invert`, or between two of them.
                   Then our own solver adds none
        known      is put back at each level, newly noised, and exactly at the end; `rounds` > 1 take each step so often
                   that the rest agrees with it (solvers.hold). With a schedule for each component it stays nearly clean
        softness   of such schedules, other than trained with or within the range that was trained (gamma.Staggered.at)
        stop       the time at which to stop, and to take the picture so far: a preview, coarse where size orders
        """
        known = presence.held(self.space, known)
        path = self._path(softness, None if known is None else known[1])
        grid = grid or self.grid or path.grid
        at = times(path, self.steps if steps is None else steps, grid, self.levels)
        denoise = self.denoiser(condition, null, guidance, interval=interval, rescale=rescale, path=path)
        own = self.solver if start is None else QUIET.get(self.solver, self.solver)
        step = configure(solver or own, eta, variance)

        def draw() -> Tensor:
            return noise.normal(*self.space.shape).to(eps)

        eps = noise.normal(*self.space.shape) if start is None else check(carried(self.space), start)
        at = at.to(eps)
        z = begun(path, at[0], eps, known)
        if known is not None and path.scalar:
            step = hold(step, *known, rounds)
        for state in solve(step, path, denoise, z, at, draw):
            yield state
            if float(state.t[0]) <= stop:
                return

    def _path(self, softness: float | None, mask: Tensor | None) -> Path:
        """Our own path, as soft as asked, holding what is known."""
        path = self.path
        if softness is not None:
            if not isinstance(path, Staggered):
                raise UsageError("A softness belongs to schedules of components, and here all share one. Leave it out.")
            path = path.at(softness)
        if mask is None or path.scalar:
            return path
        assert isinstance(path, Staggered)
        return Held(path, mask)

    @torch.no_grad()
    def sample(self, condition: Condition, noise: Noise, **options: Any) -> Tensor:  # type: ignore[override]
        """The end of `trajectory`, whose options these are; the picture so far where it was stopped before."""
        *_, last = self.trajectory(condition, noise, **options)
        z, known = last.x if options.get("stop") else last.z, presence.held(self.space, options.get("known"))
        assert z is not None
        return presence.rounded(self.space, z if known is None else torch.where(known[1], known[0], z))

    # whose signature it has, so that a wrong option is answered with the nearest
    sample.__wrapped__ = trajectory  # type: ignore[attr-defined]

    def rolling(self, move: Move, fresh: Tensor, softness: float | None = None) -> Rolling | None:
        """How our order goes on when the picture moves by a stride; None where it does not (rolling.py)."""
        path = self._path(softness, None)
        return rolling(path, move, fresh) if isinstance(path, Staggered) else None

    @torch.no_grad()
    def roll(
        self,
        rolling: Rolling,
        condition: Condition,
        noise: Noise,
        known: Known,
        *,
        null: Condition | None = None,
        guidance: float = 1.0,
        steps: int | None = None,
        solver: str | None = None,
        eta: float = 0.0,
        variance: Literal["small", "large"] = "small",
        interval: tuple[float, float] | None = None,
        rescale: float = 0.0,
    ) -> Iterator[Tensor]:
        """Draws on and on beside what is known (rolling.py): x̂ at the end of every turn, a stride further on each time,
        of which the components `done` are finished. Options are those of `trajectory`."""
        path, steps = rolling.path, self.steps if steps is None else steps
        guided = lambda path: self.denoiser(condition, null, guidance, interval=interval, rescale=rescale, path=path)
        step, held = configure(solver or self.solver, eta, variance), Held(path, known[1])

        def draw() -> Tensor:
            return noise.normal(*self.space.shape).to(known[0])

        # up to the first turn's end beside the picture, which is held
        last = float(held.last.max())
        at = time_of(rolling.turn(steps, last) / last).to(known[0])
        z = begun(held, at[0], draw(), known)
        *_, now = solve(step, held, guided(held), z, at, draw)
        turn, denoise = time_of(rolling.turn(steps)).to(z), guided(path)
        now = State(now.z, turn[-1].expand(len(z)))
        size = torch.as_tensor(path.terminal).to(z)
        while True:
            yield denoise(now.z, now.t).x
            *_, now = solve(step, path, denoise, rolling.moved(now, size * draw()), turn, draw)

    @torch.no_grad()
    def invert(
        self,
        z: Tensor,
        condition: Condition,
        *,
        steps: int | None = None,
        solver: str = "ddim",
        grid: str | None = None,
    ) -> Tensor:
        """The noise of unit variance from which a deterministic solver comes back to z (DDIM inversion): `sample`'s
        times walked upwards. The lowest level is z_{t₀} = α z + σ ε̂(α z, t₀), since ε̂ is not defined on data."""
        z = presence.signed(self.space, check(self.space, z))
        grid = grid or self.grid or self.path.grid
        up = times(self.path, self.steps if steps is None else steps, grid, self.levels)[:-1].flip(0).to(z)
        denoise = self.denoiser(condition)
        low = up[0].expand(len(z))
        at = level(self.path, low, z)
        z = at.alpha * z + at.sigma * denoise(at.alpha * z, low).eps
        *_, last = solve(configure(solver), self.path, denoise, z, up, lambda: torch.zeros_like(z))
        return last.z / torch.as_tensor(self.path.terminal).to(z)

    # ---- likelihood ----

    def log_prob(self, z: Tensor, condition: Condition, noise: Noise, estimate: Estimate | None = None) -> Tensor:
        """(B,) nats by the `estimate` asked for, or chosen at construction: a sample of a lower bound on log p(z), or
        an unbiased estimate (Hutchinson's trace) of the exact log-density of the flow."""
        check(self.space, z)
        if varies(self.space):
            raise Misfit("A diffusion has no likelihood of how many vectors there are; an Autoregressive has.")
        denoise, estimate = self.denoiser(condition), estimate or self.estimate
        if estimate in ("flow", "adaptive"):
            if self.eight_bit:
                raise UsageError("A flow has a density, and this likelihood is of 8-bit values: take its bound.")
            return bound.flow_log_prob(self.path, denoise, z, noise, self.points if estimate == "flow" else None)
        if estimate == "steps":
            if self.levels is None:
                raise UsageError("The discrete bound belongs to a chain of T steps, and this path has no levels.")
            return bound.discrete(self.path, denoise, z, noise, self.levels, self.eight_bit)
        return bound.continuous(self.path, denoise, z, noise, self.points, self.eight_bit)


def clamped(x: Tensor, kind: Clamp, quantile: float = 0.995) -> Tensor:
    """x̂ within [−1, 1]: cut off, or (Saharia et al. 2022, arXiv:2205.11487) cut off at s and divided by s, where s ≥ 1
    is the quantile of |x̂| in each image, so that strong guidance does not saturate."""
    if kind == "static":
        return x.clamp(-1, 1)
    s = against(torch.quantile(x.flatten(1).abs(), quantile, dim=1).clamp(min=1), x)
    return torch.minimum(torch.maximum(x, -s), s) / s
