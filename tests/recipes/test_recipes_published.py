"""Parity: published autoencoders, tiny and random, saved here by diffusers, give the same numbers through ours."""

import json

import pytest
import torch

from sfumato import recipes
from sfumato.checkpoint import load_model, save_model
from sfumato.core.errors import UsageError, WeightsError
from sfumato.core.noise import Noise
from sfumato.train.run import train

TINY = dict(
    in_channels=3,
    out_channels=3,
    down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
    up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
    block_out_channels=(16, 32),
    layers_per_block=1,
    norm_num_groups=8,
    sample_size=16,
)


@pytest.fixture(scope="module")
def images():
    return Noise.each(range(2)).uniform(3, 16, 16) * 2 - 1


def published(kind, folder, **options):
    import diffusers

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = getattr(diffusers, kind)(**TINY, **options).eval()
    model.save_pretrained(folder)
    return model


@torch.no_grad()
def test_a_kl_autoencoder_gives_the_same_latents_and_pictures(tmp_path, images):
    theirs = published("AutoencoderKL", tmp_path / "kl", latent_channels=4, scaling_factor=0.3)
    ours = recipes.from_diffusers(tmp_path / "kl")
    z = theirs.encode(images).latent_dist.mode() * 0.3
    torch.testing.assert_close(ours.encode(images), z, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.codec.decode(z), theirs.decode(z / 0.3).sample, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_vq_autoencoder_gives_the_same_tokens_and_pictures(tmp_path, images):
    theirs = published("VQModel", tmp_path / "vq", latent_channels=4, num_vq_embeddings=32, vq_embed_dim=4)
    ours = recipes.from_diffusers(tmp_path / "vq")
    quantised, _, (_, _, tokens) = theirs.quantize(theirs.encode(images).latents)
    z = ours.encode(images)
    assert torch.equal(z.flatten(), tokens)
    decoded = theirs.decode(quantised, force_not_quantize=True).sample
    torch.testing.assert_close(ours.codec.decode(z), decoded, atol=1e-5, rtol=1e-5)


def test_it_is_saved_and_serves_a_second_stage_like_any_codec(tmp_path, images):
    published("AutoencoderKL", tmp_path / "kl", latent_channels=4, scaling_factor=0.3)
    ours = recipes.from_diffusers(tmp_path / "kl")
    save_model(tmp_path / "model", ours)
    again = load_model(tmp_path / "model")
    assert torch.equal(again.encode(images), ours.encode(images))
    run = train(
        "dit", "digits", out=tmp_path / "run", size="xs", steps=2, from_={"codec": tmp_path / "kl"}, quiet=True
    ).load()
    assert torch.equal(run.encode(images), ours.encode(images))


def test_what_is_no_published_codec_is_refused(tmp_path):
    with pytest.raises(UsageError, match="AutoencoderKL, VQModel.*'UNet2DModel'"):
        recipes.build("diffusers", config=json.dumps({"_class_name": "UNet2DModel"}))
    with pytest.raises(UsageError, match="text of a config.json"):
        recipes.build("diffusers", config="not json")
    with pytest.raises(WeightsError, match="config.json cannot be read"):
        recipes.from_diffusers(tmp_path)
