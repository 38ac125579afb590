"""Latents that are vectors: an embedding is read, drawn and scored, and handed on to whoever draws a picture of it."""

import math

import pytest
import torch

from sfumato.core.condition import Condition
from sfumato.core.contracts import Codec, Conditioner, Prior
from sfumato.core.errors import Misfit
from sfumato.core.noise import Noise
from sfumato.core.space import Grid, Sequence
from sfumato.likelihoods import Mixture, Normal
from sfumato.nn.rows.causal import CausalNet
from sfumato.nn.rows.vector import VectorNet
from sfumato.priors.autoregressive import Autoregressive
from sfumato.priors.diffusion import Diffusion, cosine
from sfumato.priors.normal import Normal as Standard
from sfumato.systems import Cascade, System
from sfumato.systems.abilities import abilities, in_words

PICTURE, VECTOR = Grid(1, 2, 2), Sequence(1, 3)


class Embedding(Codec):
    """A fixed random projection of the picture, (n, 1, 2, 2) → (n, 1, D)."""

    decodes = False

    def __init__(self, width=3):
        super().__init__()
        self.space, self.data = Sequence(1, width), PICTURE
        self.register_buffer("p", torch.randn(4, width, generator=torch.Generator().manual_seed(0)))

    def encode(self, x):
        return (x.flatten(1) @ self.p)[:, None]


class Square(Embedding):
    """As wide as the picture: nothing is lost, so that it has a likelihood."""

    kind = "exact"

    def __init__(self):
        super().__init__(4)

    def lift(self, x, noise=None):
        return self.encode(x), torch.linalg.slogdet(self.p)[1].expand(len(x))


class Told(Conditioner):
    """The vector, as it is."""

    keys = ("vector",)

    def forward(self, given, noise=None):
        return Condition(len(given["vector"]), vector=given["vector"][:, 0])

    def null(self, rows):
        return Condition(rows, vector=torch.zeros(rows, 3))


class Painted(Prior):
    """Every pixel is half the first entry of the vector that it is told."""

    spaces = (Grid,)

    def __init__(self):
        super().__init__()
        self.space = PICTURE

    def loss(self, z, condition, noise, progress=1.0, player=0):
        return {}

    def sample(self, condition, noise, *, null=None, guidance=1.0, known=None):
        return condition.vector[:, 0, None, None, None].expand(-1, *PICTURE.shape) / 2


class Plain(Codec):
    def __init__(self):
        super().__init__()
        self.space = self.data = PICTURE

    def encode(self, x):
        return x

    def decode(self, z):
        return z


def diffusion(space=VECTOR, vector=None):
    net = VectorNet(space, space.width, width=32, depth=2, vector=vector)
    return Diffusion(space, net, path=cosine(), target="v", levels=1000, steps=25, points=4)


def chain(head, features):
    return Autoregressive(VECTOR, CausalNet(VECTOR, features, width=32, depth=1, heads=2), head)


PRIORS = {
    "diffusion": diffusion,
    "mixture": lambda: chain(Mixture(4), Mixture(4).channels(3)),
    "diffusion head": lambda: chain(diffusion(vector=8), 8),
}


def test_an_embedding_is_read_and_drawn_and_not_decoded():
    system = System(Embedding(), Standard(VECTOR))
    x = torch.linspace(-1, 1, 8).reshape(2, 1, 2, 2)
    z = system.encode(x)
    assert torch.allclose(z[:, 0], x.flatten(1) @ system.codec.p)
    drawn = system.sample(5, seeds=range(5), batch=2)
    assert torch.equal(drawn, torch.cat([Noise.each([seed]).normal(1, 3) for seed in range(5)]))
    assert float(drawn.abs().max()) > 1  # a vector is not clamped, as a picture is
    for asked in (lambda: system.decode(z), lambda: system.reconstruct(x)):
        with pytest.raises(Misfit, match=r"Sequence\(length=1, width=3.*cannot decode. A cascade"):
            asked()
    with pytest.raises(Misfit, match="no density"):
        system.log_prob(x)


def test_what_it_can_is_told():
    assert abilities(System(Embedding(), Standard(VECTOR))) == ("draws", "encodes")
    assert abilities(System(Embedding())) == ("encodes",)
    assert abilities(System(Square(), Standard(Sequence(1, 4)))) == ("draws", "encodes", "scores")
    assert abilities(System(Plain(), Painted())) == ("draws", "encodes", "decodes", "reconstructs")
    assert in_words(("draws", "encodes")) == "draw, encode"


def test_where_nothing_is_lost_it_has_its_likelihood():
    """z = P x with z ~ N(0, I): x ~ N(0, (Pᵀ P)⁻¹); float32, 1e-4."""
    system, x = System(Square(), Standard(Sequence(1, 4))), torch.linspace(-1, 1, 8).reshape(2, 1, 2, 2)
    exact = torch.distributions.MultivariateNormal(torch.zeros(4), precision_matrix=system.codec.p @ system.codec.p.T)
    torch.testing.assert_close(system.log_prob(x), exact.log_prob(x.flatten(1)), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", PRIORS)
def test_priors_over_vectors_learn_their_place(name):
    """Embeddings of one picture and its neighbours, x = m + 0.1 ε: mean of 200 draws within 0.3 of P m, whose entries
    are of size one to two, and which no untrained prior meets."""
    torch.manual_seed(0)
    system = System(Embedding(), PRIORS[name]())
    middle = torch.tensor([0.9, -0.7, 0.5, 0.8]).reshape(1, 1, 2, 2)
    expected = system.encode(middle)[0, 0]
    far = system.sample(200, seeds=range(200), batch=200)[:, 0].mean(0) - expected
    optimiser = torch.optim.Adam(system.prior.parameters(), 3e-3)
    for step in range(400):
        noise = Noise.shared(step, 64)
        x = middle + 0.1 * noise.normal(*PICTURE.shape)
        optimiser.zero_grad()
        sum(system.loss({"image": x}, noise=noise).values()).backward()
        optimiser.step()
    drawn = system.sample(200, seeds=range(200), batch=200)
    assert drawn.shape == (200, 1, 3)
    assert float((drawn[:, 0].mean(0) - expected).abs().max()) < 0.3 < float(far.abs().max())


def test_one_position_has_the_density_of_its_head():
    """N = 1, without a condition: log p(z) of a Normal is that of the net's constant; float32, 1e-5."""
    prior = chain(Normal(0.5), 3).eval()
    z = torch.randn(4, 1, 3)
    mean = prior.net(z, Condition.none(4))[0, 0].detach()
    exact = torch.distributions.Normal(mean, 0.5).log_prob(z[:, 0]).sum(1)
    torch.testing.assert_close(prior.log_prob(z, Condition.none(4), Noise.ambient(4)), exact, rtol=0, atol=1e-5)
    assert math.isfinite(float(exact.sum()))


def test_a_cascade_hands_the_vector_on():
    first, second = System(Embedding(), Standard(VECTOR)), System(Plain(), Painted(), Told())
    drawn = Cascade(vector=first, picture=second).sample(3, seeds=[4, 5, 6])
    vectors = first.sample(3, seeds=[4, 5, 6])
    assert torch.equal(drawn, (vectors[:, 0, :1, None, None] / 2).expand(3, *PICTURE.shape).clamp(-1, 1))
