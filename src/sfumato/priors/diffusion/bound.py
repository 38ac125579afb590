"""How likely a diffusion model finds a latent: two bounds and one equality, in nats.

Discrete, T steps (arXiv:2006.11239):
    −log p(x) ≤ KL(q(z_1|x) ‖ p(z_1)) + Σ_{k=2}^T KL(q(z_{k−1}|z_k, x) ‖ p(z_{k−1}|z_k)) − E log p(x | z_{1/T})

Continuous (arXiv:2107.00630); with a path per component, γ̇ and the sum run over components:
    −log p(x) ≤ KL(q(z_1|x) ‖ p(z_1)) + ½ E ∫ γ̇ |ε − ε̂|² dt − E log p(x | z_{t₀})

Probability flow (arXiv:2011.13456), exact up to the solver and to the noise σ(t₀) that the model's data keeps:
    log p(x) = log p(z_1) + ∫ div v dt + D log α(t₀),   ż = v = α̇ x̂ + σ̇ ε̂,   z(t₀) = α(t₀) x

The decoder p(x | z_{t₀}) is N(x̂, (σ/α)²), the posterior when data varies slowly on the scale σ/α; for 8-bit data it is
the mass of that Gaussian on (x − 1/255, x + 1/255), with open ends at ±1.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from sfumato.core.errors import UsageError
from sfumato.core.noise import Noise
from sfumato.core.tensors import against, per_image
from sfumato.priors.diffusion.path import Path, level
from sfumato.priors.diffusion.solvers import Denoise, Prediction, fade, log_variances

LOG_TAU = math.log(2 * math.pi)
HALF_BIN = 1 / 255


def decode_cost(x: Tensor, mean: Tensor, log_variance: Tensor, eight_bit: bool) -> Tensor:
    """−log p(x | z) elementwise, of a Gaussian density, or of its mass on x's bin where x is 8-bit."""
    std = (log_variance / 2).exp()
    if not eight_bit:
        return ((x - mean) / std).square() / 2 + (log_variance + LOG_TAU) / 2
    far = torch.full_like(x, 1e4)  # an open end: Φ(±10⁴) is 0 or 1, and its logarithm is finite
    upper = torch.where(x > 1 - HALF_BIN, far, (x + HALF_BIN - mean) / std)
    lower = torch.where(x < -1 + HALF_BIN, -far, (x - HALF_BIN - mean) / std)
    # Φ(b) − Φ(a) = Φ(−a) − Φ(−b): taken in the lower tail, where it does not cancel
    flip = lower + upper > 0
    high, low = torch.where(flip, -lower, upper), torch.where(flip, -upper, lower)
    log_high, log_low = torch.special.log_ndtr(high), torch.special.log_ndtr(low)
    return -(log_high + torch.log(-torch.expm1((log_low - log_high).clamp(max=-1e-7))))


def terminal_cost(path: Path, x: Tensor, t: Tensor) -> Tensor:
    """KL(q(z_t|x) ‖ N(0, terminal²)) elementwise."""
    at, std = level(path, t, x), torch.as_tensor(path.terminal).to(x)
    return (((at.alpha * x).square() + at.sigma.square()) / std**2 - 1) / 2 - (at.sigma / std).log()


def step_cost(path: Path, prediction: Prediction, x: Tensor, t: Tensor, s: Tensor, eight_bit: bool = False) -> Tensor:
    """KL(q(z_s|z_t, x) ‖ p(z_s|z_t)) elementwise, and −log p(x|z_t) for rows where s = 0. At a given z_t the means of
    the two differ by α_s (1 − ρ)(x − x̂)."""
    at, to = level(path, t, x), level(path, s, x)
    small, large = log_variances(path, t, s, x)
    last = against(s == 0, x).expand_as(x)
    if prediction.blend is None:
        variance, decoder = small, 2 * (at.sigma / at.alpha).log()
    else:
        variance = prediction.blend * large + (1 - prediction.blend) * small
        decoder = variance
    gap = to.alpha * fade(at, to) * (x - prediction.x)
    kl = (variance - small + (small - variance).exp() - 1 + gap.square() * (-variance).exp()) / 2
    return torch.where(last, decode_cost(x, prediction.x, decoder.expand_as(x), eight_bit), kl)


def _noisy(path: Path, x: Tensor, t: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    at, eps = level(path, t, x), noise.normal(*x.shape[1:]).to(x)
    return at.alpha * x + at.sigma * eps, eps


def discrete(path: Path, denoise: Denoise, x: Tensor, noise: Noise, levels: int, eight_bit: bool = False) -> Tensor:
    """(B,) a sample of the discrete bound on log p(x); `levels` T network calls."""
    one = x.new_ones(len(x))
    cost = per_image(terminal_cost(path, x, one).expand_as(x))
    for k in range(levels, 0, -1):
        t, s = one * k / levels, one * (k - 1) / levels
        z, _ = _noisy(path, x, t, noise)
        cost = cost + per_image(step_cost(path, denoise(z, t), x, t, s, eight_bit))
    return -cost


def continuous(
    path: Path, denoise: Denoise, x: Tensor, noise: Noise, points: int = 64, eight_bit: bool = False
) -> Tensor:
    """(B,) a sample of the continuous bound on log p(x); points + 1 network calls.

    A scalar path is integrated in γ, where the integrand is even: ½ (γ₁ − γ₀) E|ε − ε̂|². One point falls in each of
    `points` equal stretches, so that the estimate has little variance and no bias.
    """
    low, high = (x.new_full((len(x),), end) for end in path.ends)
    z, _ = _noisy(path, x, low, noise)
    at = level(path, low, x)
    decoder = 2 * (at.sigma / at.alpha).log()
    cost = per_image(decode_cost(x, denoise(z, low).x, decoder.expand_as(x), eight_bit))
    cost = cost + per_image(terminal_cost(path, x, high).expand_as(x))
    u = (torch.arange(points, device=x.device) + noise.uniform(points).to(x)) / points
    if path.scalar:
        first, last = path(low).gamma[:, None], path(high).gamma[:, None]
        t, rate = path.time(first + (last - first) * u), last - first
    else:
        t, rate = low[:, None] + (high - low)[:, None] * u, (high - low)[:, None]
    for i in range(points):
        z, eps = _noisy(path, x, t[:, i], noise)
        error = (eps - denoise(z, t[:, i]).eps).square()
        if not path.scalar:
            error = error * level(path, t[:, i], x).d_gamma
        cost = cost + per_image(error) * rate[:, 0] / (2 * points)
    return -cost


Flow = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # (t (B,), z) -> (dz/dt, div (B,))


def _flow(path: Path, denoise: Denoise, probes: list[Tensor]) -> Flow:
    """The velocity of the probability flow and its divergence, as the mean of vᵀ J v over the probes v; without probes
    the exact trace, by one derivative for each of the D entries."""

    def flow(t: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        at = level(path, t, z)
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            x, eps, _ = denoise(z, t)
            velocity = at.d_alpha * x + at.d_sigma * eps
            used = probes or _units(z)
            traces = []
            for i, v in enumerate(used):
                (pulled,) = torch.autograd.grad(velocity, z, v, retain_graph=i + 1 < len(used))
                traces.append(per_image(pulled * v))
        total = torch.stack(traces).sum(0)
        return velocity.detach(), total / len(probes) if probes else total

    return flow


def _units(z: Tensor) -> list[Tensor]:
    basis = torch.eye(z[0].numel(), dtype=z.dtype, device=z.device)
    return [row.reshape(z.shape[1:]).expand_as(z) for row in basis]


def _times(path: Path, steps: int, x: Tensor) -> Tensor:
    """From the lower end up, even in γ for a scalar path, in t for others."""
    ends = torch.tensor(path.ends, dtype=torch.float64)
    share = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    if not path.scalar:
        return (ends[0] + share * (ends[1] - ends[0])).to(x)
    low, high = path(ends).gamma
    grown = path.time(low + share * (high - low))
    grown[0], grown[-1] = ends
    return grown.to(x)


def _rk4(flow: Flow, t: Tensor, s: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """One step of the classical Runge–Kutta method for z and for ∫ div: increments, order 4."""
    h = against(s - t, z)
    v1, d1 = flow(t, z)
    v2, d2 = flow((t + s) / 2, z + h / 2 * v1)
    v3, d3 = flow((t + s) / 2, z + h / 2 * v2)
    v4, d4 = flow(s, z + h * v3)
    return h / 6 * (v1 + 2 * v2 + 2 * v3 + v4), (s - t) / 6 * (d1 + 2 * d2 + 2 * d3 + d4)


def _adaptive(flow: Flow, ends: Tensor, z: Tensor, tolerance: float = 1e-5) -> tuple[Tensor, Tensor]:
    """z and ∫ div at the upper end. All rows share their steps, so a row's last digits depend on its mates."""
    try:
        from torchdiffeq import odeint
    except ImportError:
        raise UsageError(
            "The adaptive flow needs the package torchdiffeq: `pip install torchdiffeq`. "
            'The estimate "flow" takes fixed steps and needs nothing.'
        ) from None

    def slope(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return flow(t.expand(len(z)), state[0])

    path = odeint(slope, (z, z.new_zeros(len(z))), ends, rtol=tolerance, atol=tolerance, method="dopri5")
    return path[0][-1], path[1][-1]


def flow_log_prob(
    path: Path,
    denoise: Denoise,
    x: Tensor,
    noise: Noise,
    steps: int | None = 64,
    trace: str = "rademacher",
    probes: int = 1,
) -> Tensor:
    """(B,) log p(x) by the probability flow, integrated with RK4 (4 network calls and their derivatives a step), or
    with `steps` None by torchdiffeq's Dormand–Prince of order 5, which chooses its steps for an error of 1e-5.

    trace: "rademacher" or "normal" estimate the divergence by random probes, the same along one path, so the estimate
    is unbiased; "exact" takes it entry by entry, for small latents.
    """
    if trace not in ("rademacher", "normal", "exact"):
        raise UsageError(f'The trace is "rademacher", "normal" or "exact", not {trace!r}.')
    drawn: list[Tensor] = []
    for _ in range(0 if trace == "exact" else probes):
        v = noise.normal(*x.shape[1:]).to(x)
        drawn.append(torch.where(v < 0, -torch.ones_like(v), torch.ones_like(v)) if trace == "rademacher" else v)
    flow = _flow(path, denoise, drawn)
    times = _times(path, steps or 1, x)
    first = level(path, times[0].expand(len(x)), x)
    z, divergence = first.alpha * x, x.new_zeros(len(x))
    if steps is None:
        z, divergence = _adaptive(flow, times, z)
    else:
        for t, s in itertools.pairwise(times):
            dz, d_div = _rk4(flow, t.expand(len(x)), s.expand(len(x)), z)
            z, divergence = z + dz, divergence + d_div
    std = torch.as_tensor(path.terminal).to(z)
    prior = -per_image((z / std).square() + LOG_TAU + 2 * std.log()) / 2
    return prior + divergence + per_image(first.alpha.log().expand_as(x))
