"""Latents of varying length through a system: encoded, kept on disk, written to files, scored, drawn and decoded."""

import json
import math

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from sfumato.checkpoint import hash_tensors
from sfumato.cli import coding, main, sampling
from sfumato.core.condition import Condition
from sfumato.core.contracts import Codec
from sfumato.core.errors import Misfit
from sfumato.core.noise import Noise
from sfumato.core.space import Grid, Sequence, check, pack, presence, unpack
from sfumato.data import Batches, open_data
from sfumato.data.latents import cached_latents
from sfumato.likelihoods import Normal
from sfumato.priors.autoregressive import Autoregressive
from sfumato.priors.masked import Masked
from sfumato.priors.normal import Normal as Standard
from sfumato.recipes.given import Doors
from sfumato.recipes.priors import autoregressive
from sfumato.systems import System


class Columns(Codec):
    """As many vectors as columns of one grey picture before the first that is black, (n, 1, S, S) → (n, S, S + 1); a
    law of values, so that what is black says where the end is."""

    exact, discrete, kind = True, True, "exact"

    def __init__(self, side):
        super().__init__()
        self.space, self.data = Sequence(side, side, varying=True), Grid(1, side, side)

    def encode(self, x):
        columns = x[:, 0].transpose(1, 2)
        there = (columns > -1).any(2).long().cumprod(1).sum(1)
        return pack(self.space, [row[:n] for row, n in zip(columns, there.tolist())])

    def decode(self, z):
        return torch.where(presence(z)[..., None], z[..., :-1], -1).transpose(1, 2)[:, None]

    def lift(self, x, noise=None):
        return self.encode(x), torch.zeros(len(x))


class Level(nn.Module):
    """z_i ~ N(½ z_{i−1}, …) is there with probability ¾."""

    def forward(self, z, condition):
        mean = torch.cat([torch.zeros_like(z[:, :1]), z[:, :-1] / 2], 1)
        return torch.cat([mean, torch.full_like(mean[..., :1], math.log(3))], -1)

    def start(self, condition):
        return condition

    def step(self, state, last):
        mean = torch.zeros(state.rows, 2) if last is None else last / 2
        return torch.cat([mean, torch.full((state.rows, 1), math.log(3))], -1)


def system(side=2):
    codec = Columns(side)
    return System(codec, Autoregressive(codec.space, Level(), Normal(0.5)))


PICTURES = torch.tensor([[[0.5, -1], [-0.25, -1]], [[-1, -1], [-1, -1]], [[0.1, 0.2], [0.3, 0.4]]])[:, None]


def test_pictures_come_back_from_as_many_vectors_as_they_have():
    made = system()
    z = made.encode(PICTURES, batch=2)
    assert [len(item) for item in unpack(z)] == [1, 0, 2]
    assert torch.equal(made.reconstruct(PICTURES, batch=2), PICTURES)
    wrong = z.clone()
    wrong[0, 0, -1] = 0
    with pytest.raises(Misfit, match="is zeros"):
        made.decode(wrong)


def test_bits_count_how_many_there_are():
    """By hand: −log₂ of ¾ for each vector that is there and ¼ for the first that is not, beside its density."""
    nats = system().log_prob(PICTURES, batch=2)
    at = lambda z, mean: float(torch.distributions.Normal(torch.tensor(mean), 0.5).log_prob(torch.tensor(z)).sum())
    yes, no = math.log(3 / 4), math.log(1 / 4)
    one = yes + at([0.5, -0.25], [0.0, 0.0]) + no
    two = 2 * yes + at([0.1, 0.3], [0.0, 0.0]) + at([0.2, 0.4], [0.05, 0.15])
    by_hand = torch.tensor([one, no, two])
    torch.testing.assert_close(nats, by_hand, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(system().bits_per_dim(PICTURES), -by_hand / (4 * math.log(2)), rtol=1e-5, atol=1e-5)
    assert "scores" not in system().lacks


def test_what_is_drawn_is_a_function_of_its_seed_in_any_batch():
    made = system()
    drawn = made.sample(40, seeds=range(40), batch=8)
    assert torch.equal(drawn[[31, 3]], made.sample(2, seeds=[31, 3], batch=8))
    n = presence(made.encode(drawn)).sum(1)
    assert set(n.tolist()) == {0, 1, 2}


def test_a_batch_of_latents_is_learned_from_as_one_of_pictures():
    made = system()
    latent = {"latent": made.encode(PICTURES)}
    ours, theirs = (made.loss(batch, noise=Noise.each(range(3))) for batch in ({"image": PICTURES}, latent))
    assert {name: float(term) for name, term in ours.items()} == {name: float(term) for name, term in theirs.items()}
    assert float(sum(ours.values())) == pytest.approx(-float(made.log_prob(PICTURES).mean()) / 2, rel=1e-5)


def test_latents_on_disk_are_bit_for_bit_those_of_the_codec(tmp_path):
    """Of digits, each cut off after a number of columns of its own: read back, shuffled and cut into batches."""
    source, codec = open_data("digits", side=8, channels=1).subset(range(12)), Columns(8)

    def encode(images):
        x = images.clamp(min=-0.99)
        for row in x:
            row[..., int((row > 0).sum()) % 8 :] = -1
        return codec.encode(x)

    kept = cached_latents(encode, source, tmp_path, "key", batch=5)
    assert kept.shape == (8, 9)
    again = cached_latents(lambda images: pytest.fail("encoded anew"), source, tmp_path, "key", batch=5)
    z = check(codec.space, again.batch(range(12))["latent"])
    assert torch.equal(z, encode(source.batch(range(12))["image"]))
    assert len(set(presence(z).sum(1).tolist())) > 3
    batch = next(iter(Batches(again, 4, seed=0)))
    assert torch.equal(check(codec.space, batch["latent"]), z[batch["index"]])


def test_files_of_latents_are_written_and_read(tmp_path, monkeypatch, capsys):
    made = system(8)
    monkeypatch.setattr(coding, "open_run", lambda run, device, ability: made)
    picture = torch.full((8, 8), 255, dtype=torch.uint8)
    picture[:, 5:] = 0
    Image.fromarray(picture.numpy()).save(tmp_path / "five.png")
    file = tmp_path / "z.safetensors"
    assert main(["encode", "run", str(tmp_path / "five.png"), "--out", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["shape"] == [1, 8, 9]
    z = load_file(file)["latent"]
    assert [tuple(item.shape) for item in unpack(z)] == [(5, 8)]
    with safe_open(file, "pt") as opened:
        about = opened.metadata()
    assert "varying=True" in about["space"]
    assert about["codec"] == hash_tensors(made.codec.state_dict())
    assert main(["decode", "run", str(file), "--out", str(tmp_path / "out")]) == 0
    (shown,) = (tmp_path / "out").iterdir()
    assert Image.open(shown).convert("L").tobytes() == Image.open(tmp_path / "five.png").convert("L").tobytes()
    z[0, 2, -1] = 0
    save_file({"latent": z}, file, about)
    assert main(["decode", "run", str(file), "--out", str(tmp_path / "wrong")]) != 0
    assert "come first" in capsys.readouterr().err


class Vectors(Codec):
    decodes = False

    def __init__(self):
        super().__init__()
        self.space, self.data = Sequence(1, 2), Grid(1, 2, 2)

    def encode(self, x):
        return x.flatten(1)[:, None, :2]


def test_what_draws_vectors_draws_no_picture_file(tmp_path, monkeypatch, capsys):
    vectors = System(Vectors(), Standard(Sequence(1, 2)))
    monkeypatch.setattr(sampling, "open_run", lambda run, device, ability: vectors)
    assert main(["sample", "run", "-n", "2", "--out", str(tmp_path / "x.png")]) != 0
    assert "Draw from a cascade" in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize("make", [Standard, lambda space: Masked(space, nn.Identity(), Normal(0.5), order="random")])
def test_a_prior_of_one_length_is_refused(make):
    codec = Columns(2)
    with pytest.raises(Misfit, match=r"one length.*Columns yields, varies. An Autoregressive prior or a Diffusion"):
        System(codec, make(codec.space))


@pytest.mark.parametrize("head", ["mixture", "diffusion"])
def test_the_recipes_chain_goes_over_a_varying_sequence(head):
    """The net of a recipe has a feature more, and draws, learns and scores."""
    space = Sequence(3, 2, varying=True)
    prior = autoregressive(space, "xs", Doors(), head=head)
    z = check(space, prior.sample(Condition.none(4), Noise.each(range(4))))
    terms = prior.loss(z, Condition.none(4), Noise.each(range(4)))
    assert "presence" in terms
    sum(terms.values()).backward()
    assert torch.isfinite(prior.log_prob(z, Condition.none(4), Noise.each(range(4)))).all()
