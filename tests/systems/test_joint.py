"""A codec and its prior in one step: whose gradient reaches whom, and that both learn."""

import pytest
import torch
from torch import nn

from sfumato import recipes
from sfumato.codecs.autoencoder import AutoEncoder
from sfumato.codecs.bottlenecks import Gaussian, Open
from sfumato.codecs.pixels import Pixels
from sfumato.core.condition import Condition
from sfumato.core.contracts import Objective
from sfumato.core.errors import Misfit, UsageError
from sfumato.core.noise import Noise
from sfumato.core.space import Grid, rows
from sfumato.likelihoods import Laplace, Mixture
from sfumato.nn import CausalNet
from sfumato.priors.autoregressive import Autoregressive
from sfumato.priors.normal import Normal
from sfumato.systems import Joint, System

DATA = Grid(1, 4, 4)
X = Noise.shared(5, 8).uniform(1, 4, 4) * 2 - 1
WEIGHTS = {"codec": 2.0, "prior": 0.25}


def continuous(bottleneck, normal=False):
    """An autoencoder of 4 × 4 pixels to 2 × 2 cells, and a chain of vectors over them."""
    torch.manual_seed(0)
    likelihood = Laplace()
    encoder, decoder = nn.Conv2d(1, 6, 2, 2), nn.ConvTranspose2d(5, likelihood.channels(1), 2, 2)
    codec = AutoEncoder(encoder, decoder, bottleneck, likelihood, DATA, layout=(2, 2), channels=(6, 5))
    if normal:
        return System(codec, Normal(codec.space))
    head = Mixture(2)
    net = CausalNet(rows(codec.space), head.channels(3), width=8, depth=1, heads=2)
    with torch.no_grad():  # a net begins by saying nothing of what it reads
        for parameter in net.parameters():
            parameter.normal_(std=0.3)
    return System(codec, Autoregressive(codec.space, net, head))


@pytest.fixture(scope="module")
def tokens():
    torch.manual_seed(0)
    return recipes.build("vqvae+autoregressive", size="xs", side=8, channels=1)


def grads(loss, parameters):
    found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found)]


def noise():
    return Noise.shared(3, 8)


@pytest.mark.parametrize("kind", ["open", "gaussian"])
def test_the_encoder_is_moved_by_the_sum_of_both(kind):
    """z by hand, out of the encoder and the noise of the codec's own pass; float32 sums in another order, 1e-5."""
    system = continuous(Open(3) if kind == "open" else Gaussian(3))
    codec, joint = system.codec, Joint(system, **WEIGHTS).train()
    codec.mean.fill_(0.3)
    codec.deviation.fill_(2.0)
    h = codec.before(codec.encoder(X))
    z = h
    if kind == "gaussian":
        mean, log_var = h.chunk(2, 1)
        z = mean + (log_var / 2).exp() * noise().stream("codec").normal(*mean.shape[1:])
    z = (z - 0.3) / 2.0
    by_codec = sum(codec.loss({"image": X}, 0, noise().stream("codec")).values())
    by_prior = sum(system.prior.loss(z, Condition.none(8), noise().stream("prior")).values())
    terms = joint.loss({"image": X}, noise=noise())
    assert {name.split(".")[0] for name in terms} == {"codec", "prior"}
    (player,) = joint.players()
    found = grads(sum(terms.values()), player)
    for whole, one, two in zip(found, grads(by_codec, player), grads(by_prior, player)):
        torch.testing.assert_close(whole, 2.0 * one + 0.25 * two, rtol=1e-5, atol=1e-6)
    z = codec.latent(X, noise().stream("codec"))
    alone = grads(sum(system.prior.loss(z, Condition.none(8), noise()).values()), list(codec.encoder.parameters()))
    assert all(g.abs().max() > 1e-4 for g in alone)  # the prior does pull at the encoder


def test_prior_and_decoder_see_one_z(monkeypatch):
    system, seen = continuous(Gaussian(3)), {}
    system.codec.after.register_forward_hook(lambda module, inputs, out: seen.update(code=inputs[0]))
    loss = system.prior.loss
    monkeypatch.setattr(system.prior, "loss", lambda z, *rest: seen.update(z=z) or loss(z, *rest))
    Joint(system).train().loss({"image": X}, noise=noise())
    assert torch.equal(seen["z"], seen["code"])


def test_latents_on_disk_are_not_read():
    joint = Joint(continuous(Gaussian(3))).train()
    plain = joint.loss({"image": X}, noise=noise())
    kept = joint.loss({"image": X, "latent": torch.full((8, 3, 2, 2), 9.0)}, noise=noise())
    assert all(torch.equal(plain[name], kept[name]) for name in plain)


@pytest.mark.parametrize("player", ["codec", "prior"])
def test_tokens_carry_no_gradient(tokens, player):
    """The codec learns as it does alone, and the prior as over a frozen codec; they share no parameter's gradient."""
    joint, x = Joint(tokens).train(), Noise.shared(5, 8).uniform(1, 8, 8) * 2 - 1
    terms = joint.loss({"image": x}, noise=noise())
    part = list(getattr(tokens, player).parameters())
    whole = grads(sum(terms.values()), part)
    own = grads(sum(value for name, value in terms.items() if name.startswith(player)), part)
    assert any(g.any() for g in whole)
    assert all(torch.equal(g, h) for g, h in zip(whole, own))
    if player == "codec":
        alone = grads(sum(tokens.codec.loss({"image": x}, 0, noise().stream("codec")).values()), part)
    else:
        z = tokens.codec.encode(x)
        alone = grads(sum(tokens.prior.loss(z, Condition.none(8), noise().stream("prior")).values()), part)
    for g, h in zip(whole, alone):
        torch.testing.assert_close(g, h, rtol=1e-5, atol=1e-6)
    tokens.codec.forget()


def test_a_few_steps_lower_both():
    """1.2 → −0.05 nats a pixel and 4.9 → 2.9 nats a cell. At a weight of 1 the prior wins, and pictures get worse."""
    joint = Joint(continuous(Gaussian(3, beta=0.1, warmup=0.0)), prior=0.02).train()
    optimizer = torch.optim.Adam(joint.players()[0], 1e-2)
    sums = []
    for step in range(150):
        terms = joint.loss({"image": X}, noise=Noise.shared(step, 8))
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
        joint.settle(Noise.shared(step, 8))
        sums.append([sum(float(v.detach()) for k, v in terms.items() if k.startswith(p)) for p in ("codec", "prior")])
    first, last = torch.tensor(sums[:5]).mean(0), torch.tensor(sums[-5:]).mean(0)
    assert (last < first - torch.tensor([1.0, 0.02])).all()  # a nat a pixel, and a nat a cell at its weight


def test_codes_settle_and_are_forgotten(tokens):
    joint, x = Joint(tokens).train(), Noise.shared(5, 8).uniform(1, 8, 8) * 2 - 1
    before = tokens.codec.bottleneck.codes.clone()
    joint.loss({"image": x}, noise=noise())
    joint.forget()
    joint.settle(noise())
    assert torch.equal(tokens.codec.bottleneck.codes, before)
    joint.loss({"image": x}, noise=noise())
    joint.settle(noise())
    assert not torch.equal(tokens.codec.bottleneck.codes, before)
    assert "codec.perplexity" in joint.diagnostics()


def test_parameters_stand_once_and_every_player_has_its_turn():
    """A VQGAN's critic is the second player; what it learns is its own."""
    system = recipes.build("vqgan", size="xs", side=16, channels=1)
    joint = Joint(system).train()
    first, critic = joint.players()
    assert isinstance(joint, Objective)
    assert {id(p) for p in critic} == {id(p) for p in system.codec.critic.parameters()}
    ids = [id(p) for player in joint.players() for p in player]
    assert len(ids) == len(set(ids))
    wanted = {id(p) for p in (*system.codec.players()[0], *system.prior.parameters())}
    assert {id(p) for p in first} == wanted
    system.codec.watch.phase.fill_(2)
    x = Noise.shared(5, 8).uniform(1, 16, 16) * 2 - 1
    assert list(joint.loss({"image": x}, 1, noise())) == ["codec.critic"]


def test_the_scale_of_the_latents_is_measured_before_and_stays():
    """An open bottleneck's latents have unit deviation when the first step is done, and the same two numbers after."""
    system = continuous(Open(3))
    joint = Joint(system)
    joint.prepare(lambda: [{"image": X}])
    z = system.codec.encode(X)
    torch.testing.assert_close(z.std(correction=0), torch.tensor(1.0), rtol=1e-4, atol=0)
    before = (float(system.codec.mean), float(system.codec.deviation))
    with torch.no_grad():
        system.codec.before.weight.mul_(3)
    joint.finish(lambda: [{"image": X}])
    assert (float(system.codec.mean), float(system.codec.deviation)) == before


def test_the_codec_is_in_training_mode_and_goes_back():
    joint = Joint(continuous(Gaussian(3)))
    assert joint.train().system.codec.training
    assert not joint.eval().system.codec.training


def test_a_prior_with_nothing_to_learn_leaves_the_codec_alone():
    joint = Joint(continuous(Gaussian(3), normal=True)).train()
    terms = joint.loss({"image": X}, noise=noise())
    alone = joint.system.codec.loss({"image": X}, 0, noise().stream("codec"))
    assert {name.removeprefix("codec."): value for name, value in terms.items()} == alone


def test_what_has_not_both_is_refused():
    with pytest.raises(Misfit, match="no codec that learns"):
        Joint(System(Pixels(DATA), Normal(DATA)))
    with pytest.raises(Misfit, match="no prior"):
        Joint(System(continuous(Open(3)).codec))
    with pytest.raises(UsageError, match="weight of the prior"):
        Joint(continuous(Open(3)), prior=-1.0)
