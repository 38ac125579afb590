"""E2 for systems that start knowing nothing: after seconds of AdamW on Gaussian data, a VAE's bound and the nats of an
autoregressive prior and of a flow lie within 0.03 bits a dimension of the truth, and on its right side.

x = W z + s ε, z ~ N(0, I₂), ε ~ N(0, I₄): a factor analysis. Its density N(0, W Wᵀ + s² I) is closed form; a linear
VAE of two latents reaches it exactly; for an autoregressive prior it is a chain of linear regressions, for a flow one
linear map. All are compared with it on the same fresh x, so that the difference is a mean of log ratios with small
spread; "right side" allows four of its standard errors. (The diffusion prior's twin is in tests/priors.)
"""

import math

import pytest
import torch
from torch import nn

from sfumato.codecs.autoencoder import AutoEncoder
from sfumato.codecs.bottlenecks import Gaussian
from sfumato.codecs.pixels import Pixels
from sfumato.core.contracts import Codec
from sfumato.core.noise import Noise
from sfumato.core.space import Grid, Sequence
from sfumato.likelihoods import Normal
from sfumato.nn.pictures.glow import Glow
from sfumato.priors.autoregressive import Autoregressive
from sfumato.priors.flow import Flow
from sfumato.priors.normal import Normal as NormalPrior
from sfumato.recipes import Plan
from sfumato.systems import System
from sfumato.train.fit import fit

W = torch.tensor([[0.5, 0.1], [-0.3, 0.4], [0.2, 0.2], [0.0, -0.6]])
S = 0.2
TRUTH = torch.distributions.MultivariateNormal(torch.zeros(4), W @ W.T + S**2 * torch.eye(4))


class Drawn:
    """Endless fresh data: batch k is a function of k."""

    def at(self, k):
        noise = Noise.shared(k, 256)
        x = noise.normal(2) @ W.T + S * noise.normal(4)
        return {"image": x.reshape(256, 4, 1, 1), "index": torch.arange(256)}


class InARow(Codec):
    """x (B, 4, 1, 1) ↔ z (B, 4, 1), the same numbers."""

    space, data, exact, kind = Sequence(4, 1), Grid(4, 1, 1), True, "exact"

    def encode(self, x):
        return x.flatten(1)[..., None]

    def decode(self, z):
        return z[..., None]

    def lift(self, x, noise=None):
        return self.encode(x), x.new_zeros(len(x))


class LinearCausal(nn.Module):
    """h_i = A_i z_{<i} + b_i: all that a chain of linear regressions needs; two features, a mean and a log-scale."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4, 2, 4))
        self.bias = nn.Parameter(torch.zeros(4, 2))

    def forward(self, z, condition):
        mask = torch.ones(4, 4).tril(-1)[:, None]
        return torch.einsum("ifj,bj->bif", self.weight * mask, z[..., 0]) + self.bias


def vae():
    codec = AutoEncoder(
        nn.Identity(), nn.Identity(), Gaussian(2, warmup=0.0), Normal(), Grid(4, 1, 1), layout=(1, 1), channels=(4, 4)
    )
    return System(codec, NormalPrior(codec.space))


def chain():
    return System(InARow(), Autoregressive(Sequence(4, 1), LinearCausal(), Normal("element")))


def flow():
    space = Grid(4, 1, 1)
    return System(Pixels(space), Flow(space, Glow(space, levels=1, steps=1, width=8)))


@pytest.mark.parametrize("make", [vae, chain, flow])
def test_a_system_learns_the_density_of_gaussian_data(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        system = make()
    (objective,) = system.stages().values()
    for _ in fit(objective, Drawn(), Plan(steps=1500, rate=2e-2, floor=0.005, ema=0.99, clip=100.0)):
        pass
    system.eval()
    x = torch.cat([Drawn().at(10**6 + k)["image"] for k in range(40)])
    behind = (TRUTH.log_prob(x.flatten(1)) - system.log_prob(x)) / (4 * math.log(2))  # bits a dimension
    error = behind.std() / math.sqrt(len(x))
    assert -4 * error < behind.mean() < 0.03
    assert system.log_prob_kind == ("bound" if make is vae else "exact")


def test_raw_pixels_are_the_density_itself():
    """The same through the codec that a pixel model has: nothing is added, nothing is lost."""
    x = Drawn().at(0)["image"]
    z, weight = Pixels(Grid(4, 1, 1)).lift(x)
    assert torch.equal(z, x)
    assert torch.equal(weight, torch.zeros(256))
