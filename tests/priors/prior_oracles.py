"""Networks that know the answer: the exact denoisers of Gaussians and Gaussian mixtures, for any path and target."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sfumato.core.noise import Noise
from sfumato.priors.diffusion.path import EDM, Level, Path, Rectified, cosine, level, linear, scaled_linear
from sfumato.priors.diffusion.target import combine

PATHS = {
    "linear": linear(),
    "scaled-linear": scaled_linear(),
    "cosine": cosine(),
    "edm": EDM(),
    "rectified": Rectified(),
}
NATIVE = {"linear": "noise", "scaled-linear": "noise", "cosine": "v", "edm": "edm", "rectified": "velocity"}


class PerComponent(Path):
    """γ_i(t) = a_i + b_i t, another for each entry of the latent: what a path that is not scalar looks like."""

    ends = (0.0, 1.0)
    scalar = False

    def __init__(self, first: Tensor, last: Tensor):
        self.first, self.last = first, last

    def __call__(self, t: Tensor) -> Level:
        first, slope = self.first.to(t), (self.last - self.first).to(t)
        gamma = first + slope * t
        alpha, sigma = torch.sigmoid(-gamma).sqrt(), torch.sigmoid(gamma).sqrt()
        # d log α = −σ² dγ / 2,  d log σ = α² dγ / 2
        return Level(alpha, sigma, -alpha * sigma.square() * slope / 2, sigma * alpha.square() * slope / 2)


class Gaussian(nn.Module):
    """x ~ N(mean, C), C of full rank over the entries, or mean and std per entry: E[x | z] in closed form, said in any
    target. Counts its calls and remembers their batch sizes and times."""

    def __init__(self, path: Path, target: str, mean: Tensor, factor: Tensor):
        """`factor` (D, D): C = factor factorᵀ; mean (D,)."""
        super().__init__()
        self.path, self.target, self.mean = path, target, mean
        self.covariance = factor @ factor.T
        self.calls: list[tuple[int, float]] = []

    def clean(self, z: Tensor, at: Level) -> Tensor:
        if torch.equal(self.covariance, self.covariance.diag().diag()):
            mean, variance = (v.to(z).reshape(z.shape[1:]) for v in (self.mean, self.covariance.diag()))
            gain = at.alpha * variance / (at.alpha.square() * variance + at.sigma.square())
            return mean + gain * (z - at.alpha * mean)
        flat = z.flatten(1)
        alpha, sigma = (torch.as_tensor(v).expand_as(z).flatten(1) for v in (at.alpha, at.sigma))
        c, mean = self.covariance.to(z), self.mean.to(z)
        cov_z = alpha[:, :, None] * c * alpha[:, None, :] + torch.diag_embed(sigma.square())
        solved = torch.linalg.solve(cov_z, (flat - alpha * mean)[..., None])[..., 0]
        return (mean + (alpha * solved) @ c).reshape(z.shape)

    def forward(self, z: Tensor, t: Tensor, condition) -> Tensor:
        self.calls.append((len(z), float(t[0])))
        at = level(self.path, t, z)
        z = z * at.std if self.path.scaled else z
        x = self.clean(z, at)
        return combine(self.target, at, x, (z - at.alpha * x) / at.sigma)

    def log_prob(self, x: Tensor) -> Tensor:
        c = self.covariance.to(x)
        return torch.distributions.MultivariateNormal(self.mean.to(x), c).log_prob(x.flatten(1))

    def entropy(self) -> float:
        d = len(self.mean)
        return float(d * (1 + math.log(2 * math.pi)) + torch.logdet(self.covariance)) / 2


def plain(path: Path, target: str, d: int = 4, mean: float = 1.5, std: float = 0.5) -> Gaussian:
    """x ~ N(mean, std²) in each of d entries."""
    return Gaussian(path, target, torch.full((d,), mean, dtype=torch.float64), std * torch.eye(d, dtype=torch.float64))


class Mixture(nn.Module):
    """x ~ Σ w_k N(m_k, s_k²) in the plane (latents (B, 1, 2)): the exact denoiser."""

    weights = torch.tensor([0.3, 0.5, 0.2], dtype=torch.float64)
    means = torch.tensor([[-1.5, 0.0], [1.0, 1.2], [0.8, -1.4]], dtype=torch.float64)
    stds = torch.tensor([0.2, 0.15, 0.3], dtype=torch.float64)

    def __init__(self, path: Path, target: str):
        super().__init__()
        self.path, self.target = path, target

    def clean(self, z: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """E[x | z], z (B, 2); α, σ broadcast against (B, 1)."""
        w, m, s = (v.to(z) for v in (self.weights, self.means, self.stds))
        variance = alpha.square() * s.square() + sigma.square()  # (B, K)
        gap = z[:, None] - alpha[..., None] * m
        responsibility = (w.log() - variance.log() - gap.square().sum(-1) / (2 * variance)).softmax(-1)
        each = m + (alpha * s.square() / variance)[..., None] * gap
        return (responsibility[..., None] * each).sum(1)

    def forward(self, z: Tensor, t: Tensor, condition) -> Tensor:
        at = level(self.path, t, z)
        z = z * at.std if self.path.scaled else z
        x = self.clean(z[:, 0], at.alpha[:, 0], at.sigma[:, 0])[:, None]
        return combine(self.target, at, x, (z - at.alpha * x) / at.sigma)


class Corners(Noise):
    """Normal draws replaced by signs. Over the rows (x, ε) = (±, ±) every quadratic form has its Gaussian expectation,
    so that the mean over rows of a quadratic cost is exact."""

    def __init__(self, repeats: int, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        super().__init__(4 * repeats, generator, torch.device("cpu"), slice(None), 4 * repeats)
        self.repeats = repeats

    def normal(self, *shape: int) -> Tensor:
        signs = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64).repeat(self.repeats)
        return signs.reshape(-1, *[1] * len(shape)).expand(-1, *shape)

    def data(self, mean: float, std: float, *shape: int) -> Tensor:
        signs = torch.tensor([1.0, 1.0, -1.0, -1.0], dtype=torch.float64).repeat(self.repeats)
        return mean + std * signs.reshape(-1, *[1] * len(shape)).expand(-1, *shape)
