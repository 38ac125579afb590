"""Samplers: each is one step from time t to time s < t; the loop is written once.

A denoiser reads (z, t) and predicts (x̂, ε̂) with z = α x̂ + σ ε̂. The probability-flow equation is then

    dz = x̂ dα + ε̂ dσ

    name      step                                                              order   source
    ddim      z_s = α_s x̂ + √(σ_s² − c²) ε̂ + c n,   c = η √β̃                    1       Song 2020, arXiv:2010.02502
    ddpm      z_s = mean of q(z_s | z_t, x̂) + √variance n                       –       Ho 2020, arXiv:2006.11239
    euler     z_s = z + (s − t)(α̇ x̂ + σ̇ ε̂)                                      1       Lipman 2022, arXiv:2210.02747
    heun      z_s = z + (α_s − α_t) x̄ + (σ_s − σ_t) ε̄, means of both ends        2       Karras 2022, arXiv:2206.00364
    dpm++2m   x̂ extrapolated in λ = log α/σ from this and the last step         2       Lu 2022, arXiv:2211.01095
    sde-…     the same in ddpm's step, with its noise                           –       there, section 5

With ρ = SNR_t / SNR_s the posterior q(z_s | z_t, x) has mean α_s x + (α_t σ_s² / α_s σ_t) ε and variance
β̃ = σ_s² (1 − ρ); the forward step from s to t has variance β = σ_t² (1 − ρ). No step puts noise on z at s = 0.

heun does to (α, σ) what the paper does to σ: at α = 1 it is the paper's, on the rectified path it is Heun in t.
ddim with η = 0 is Euler in (α, σ) by the same reading.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from sfumato.core.errors import UsageError
from sfumato.core.registry import Registry
from sfumato.core.tensors import against
from sfumato.priors.diffusion.path import Level, Path, level


class Prediction(NamedTuple):
    """`blend` in [0, 1] is where between β̃ (0) and β (1) the log-variance of a ddpm step lies, if that was learned."""

    x: Tensor
    eps: Tensor
    blend: Tensor | None = None


class State(NamedTuple):
    """The latent z at time t (B,), and of the step that led here: the x̂ it predicted, and the time `before`."""

    z: Tensor
    t: Tensor
    x: Tensor | None = None
    before: Tensor | None = None


Denoise = Callable[[Tensor, Tensor], Prediction]
Draw = Callable[[], Tensor]  # standard normal noise, shaped like z
Step = Callable[[Path, Denoise, State, Tensor, Draw], State]


def fade(at: Level, to: Level) -> Tensor:
    """1 − ρ = 1 − SNR_t / SNR_s, precise for neighbouring levels; 1 where s is data or t is pure noise."""
    return -torch.expm1(to.gamma - at.gamma)


def posterior_mean(at: Level, to: Level, x: Tensor, eps: Tensor) -> Tensor:
    """Of q(z_s | z_t, x), where z_t = α_t x + σ_t ε."""
    return to.alpha * x + at.alpha * to.sigma.square() / (to.alpha * at.sigma) * eps


def log_variances(path: Path, t: Tensor, s: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """(log β̃, log β) of the step from t to s. β̃ = 0 where s is data; there the next noisier step of the same length
    lends its own, as in Nichol & Dhariwal 2021."""
    at, to = level(path, t, z), level(path, s, z)
    fading = fade(at, to)
    small, large = (to.sigma.square() * fading).log(), (at.sigma.square() * fading).log()
    above = level(path, (2 * t - s).clamp(max=1.0), z)
    lent = (at.sigma.square() * fade(above, at)).log()
    return torch.where(to.sigma == 0, lent, small), large


def ddim(path: Path, denoise: Denoise, now: State, s: Tensor, draw: Draw, eta: float = 0.0) -> State:
    """η = 0 is deterministic; η = 1 is ddpm with the variance of the posterior."""
    z, t = now.z, now.t
    x, eps, _ = denoise(z, t)
    at, to = level(path, t, z), level(path, s, z)
    if eta == 0:
        return State(to.alpha * x + to.sigma * eps, s, x, t)
    variance = eta**2 * to.sigma.square() * fade(at, to)
    kept = (to.sigma.square() - variance).clamp(min=0).sqrt()
    return State(to.alpha * x + kept * eps + variance.sqrt() * draw(), s, x, t)


def ddpm(
    path: Path, denoise: Denoise, now: State, s: Tensor, draw: Draw, variance: Literal["small", "large"] = "small"
) -> State:
    """`variance` is "small" (β̃, right for a point of data), or "large" (β, right for unit Gaussian data); a learned
    one, between the two, overrules it."""
    z, t = now.z, now.t
    x, eps, blend = denoise(z, t)
    at, to = level(path, t, z), level(path, s, z)
    small, large = log_variances(path, t, s, z)
    if blend is not None:
        log_variance = blend * large + (1 - blend) * small
    else:
        log_variance = {"small": small, "large": large}[variance]
    std = torch.where(to.sigma == 0, 0.0, (log_variance / 2).exp())
    return State(posterior_mean(at, to, x, eps) + std * draw(), s, x, t)


def euler(path: Path, denoise: Denoise, now: State, s: Tensor, draw: Draw) -> State:
    z, t = now.z, now.t
    x, eps, _ = denoise(z, t)
    at = level(path, t, z)
    return State(z + against(s - t, z) * (at.d_alpha * x + at.d_sigma * eps), s, x, t)


def heun(path: Path, denoise: Denoise, now: State, s: Tensor, draw: Draw) -> State:
    """Two predictions a step; one where s is data, since ε̂ is not defined there."""
    z, t = now.z, now.t
    x, eps, _ = denoise(z, t)
    at, to = level(path, t, z), level(path, s, z)
    ahead = to.alpha * x + to.sigma * eps
    if bool((to.sigma == 0).any()):
        return State(ahead, s, x, t)
    x_ahead, eps_ahead, _ = denoise(ahead, s)
    mean_x, mean_eps = (x + x_ahead) / 2, (eps + eps_ahead) / 2
    return State(z + (to.alpha - at.alpha) * mean_x + (to.sigma - at.sigma) * mean_eps, s, x, t)


def _extrapolated(path: Path, now: State, x: Tensor, at: Level, to: Level) -> Tensor:
    """D = x̂ + (x̂ − x̂_before) h / 2h_before,  h = λ_s − λ_t, λ = log α/σ. In the first step, and in the last onto data,
    D = x̂.

    Where components have schedules of their own one may wake up late in the step before: its h_before is a sliver, and
    h / h_before would blow the difference up a thousandfold. There the ratio is at most 2; even steps have 1.
    """
    if now.x is None or now.before is None:
        return x
    earlier = level(path, now.before, now.z)
    ratio = (at.gamma - to.gamma) / (earlier.gamma - at.gamma)  # h / h_before: λ = −γ/2
    ratio = torch.where(torch.isfinite(to.gamma) & torch.isfinite(ratio), ratio, torch.zeros_like(ratio))
    if not path.scalar:
        ratio = ratio.clamp(max=2)
    return x + (x - now.x) * ratio / 2


def dpm2m(path: Path, denoise: Denoise, now: State, s: Tensor, draw: Draw) -> State:
    """z_s = (σ_s/σ_t) z + (α_s − σ_s α_t/σ_t) D: one prediction a step."""
    z, t = now.z, now.t
    x, _, _ = denoise(z, t)
    at, to = level(path, t, z), level(path, s, z)
    ahead = _extrapolated(path, now, x, at, to)
    return State(to.sigma / at.sigma * z + (to.alpha - to.sigma * at.alpha / at.sigma) * ahead, s, x, t)


def sde_dpm2m(path: Path, denoise: Denoise, now: State, s: Tensor, draw: Draw) -> State:
    """A draw of q(z_s | z_t, D), as ddpm's with D in the place of x̂: noise mends what a net gets wrong on the way."""
    z, t = now.z, now.t
    x, _, _ = denoise(z, t)
    at, to = level(path, t, z), level(path, s, z)
    ahead = _extrapolated(path, now, x, at, to)
    std = to.sigma * fade(at, to).sqrt()
    return State(posterior_mean(at, to, ahead, (z - at.alpha * ahead) / at.sigma) + std * draw(), s, x, t)


SOLVERS: Registry[Step] = Registry("solver")
SOLVERS.add("ddim")(ddim)
SOLVERS.add("ddpm")(ddpm)
SOLVERS.add("euler")(euler)
SOLVERS.add("heun")(heun)
SOLVERS.add("dpm++2m")(dpm2m)
SOLVERS.add("sde-dpm++2m")(sde_dpm2m)
QUIET = {"ddpm": "ddim", "sde-dpm++2m": "dpm++2m"}  # what a solver is without its noise


def solve(step: Step, path: Path, denoise: Denoise, z: Tensor | State, times: Tensor, draw: Draw) -> Iterator[State]:
    """Takes z at times[0], or a state that was come to before, through times[1:]; yields every state on the way."""
    now = z if isinstance(z, State) else State(z, times[0].expand(len(z)))
    for s in times[1:]:
        now = step(path, denoise, now, s.expand(len(now.z)), draw)
        yield now


def hold(step: Step, known: Tensor, mask: Tensor, rounds: int = 1) -> Step:
    """`step`, after which the entries under `mask` are put back to α_s known + σ_s n: inpainting by replacement.

    One round lets the rest follow the known part only loosely. More (RePaint, Lugmayr 2022, arXiv:2201.09865) put
    the step's noise back, z_t = (α_t/α_s) z_s + √β n, and take it again, until the two agree.
    """

    if rounds < 1:
        raise UsageError(f"Each step is taken at least once, not {rounds} times.")

    def held(path: Path, denoise: Denoise, now: State, s: Tensor, draw: Draw) -> State:
        at, to = level(path, now.t, known), level(path, s, known)
        for left in range(rounds - 1, -1, -1):
            after = step(path, denoise, now, s, draw)
            after = after._replace(z=torch.where(mask, to.alpha * known + to.sigma * draw(), after.z))
            if left:
                back = at.alpha / to.alpha * after.z + at.sigma * fade(at, to).sqrt() * draw()
                now = now._replace(z=back)
        return after

    return held


def configure(solver: str, eta: float = 0.0, variance: Literal["small", "large"] = "small") -> Step:
    """The named step with the options that it knows."""
    step = SOLVERS[solver]
    return {"ddim": partial(ddim, eta=eta), "ddpm": partial(ddpm, variance=variance)}.get(solver, step)


def times(path: Path, steps: int, grid: str | None = None, levels: int | None = None) -> Tensor:
    """steps + 1 times (float64) from the path's top down to 0.

    uniform    even in t                    quadratic   even in √t
    logsnr     even in log SNR, then 0      karras      even in (σ/α)^{1/7}, then 0

    With `levels` T, times are moved onto k/T, the only ones that a network trained on T levels has seen; steps that
    fall together are taken once.
    """
    if steps < 1:
        raise UsageError(f"Sampling takes at least one step, not {steps}.")
    grid = grid or path.grid
    if grid in ("uniform", "quadratic"):
        even = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        grown = path.top * (even if grid == "uniform" else even.square())
    else:
        low, high = path(torch.tensor(path.ends, dtype=torch.float64)).gamma
        grown = torch.cat([path.time(GRIDS[grid](low, high, steps)), torch.zeros(1, dtype=torch.float64)])
        grown[0] = path.ends[1]
    if levels is None:
        return grown
    inner = (grown[:-1] * levels).round().clamp(min=1) / levels
    return torch.cat([inner.unique_consecutive(), grown[-1:]])


def _karras(low: Tensor, high: Tensor, steps: int, rho: float = 7.0) -> Tensor:
    ratio = [(end / (2 * rho)).exp() for end in (high, low)]  # (σ/α)^{1/ρ} = e^{γ/2ρ}
    return 2 * rho * (ratio[0] + torch.linspace(0, 1, steps, dtype=low.dtype) * (ratio[1] - ratio[0])).log()


GRIDS: Registry[Callable[[Tensor, Tensor, int], Tensor]] = Registry("time grid")
GRIDS.add("karras")(_karras)
GRIDS.add("logsnr")(lambda low, high, steps: high + torch.linspace(0, 1, steps, dtype=low.dtype) * (low - high))
