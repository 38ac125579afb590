"""Our networks against the published implementations, on tiny random models saved to disk.

Outputs agree to 1e-5 at values of order one: the same sums in float32, in another order.
"""

import json

import diffusers
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from sfumato.core.condition import Condition
from sfumato.core.errors import WeightsError
from sfumato.nn import published

CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def randomise(model):
    """Every parameter random, norms and biases too, so that no tensor could be swapped or skipped unseen."""
    generator = torch.Generator().manual_seed(0)
    for p in model.parameters():
        p.data = 0.2 * torch.randn(p.shape, generator=generator) + (p.ndim == 1) * 0.5
    return model.eval()


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


UNETS = {
    "ddpm": {
        "block_out_channels": (16, 32, 32),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 2,
        "attention_head_dim": None,
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "norm_eps": 1e-6,
        "norm_num_groups": 8,
    },
    "adm": {
        "block_out_channels": (16, 48),
        "down_block_types": ("AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D"),
        "layers_per_block": 1,
        "attention_head_dim": 4,
        "norm_num_groups": 4,
        "out_channels": 6,
        "resnet_time_scale_shift": "scale_shift",
        "attn_norm_num_groups": 4,
    },
}


@pytest.mark.parametrize("kind", UNETS)
def test_unet_is_diffusers(kind, tmp_path):
    theirs = randomise(diffusers.UNet2DModel(sample_size=16, **UNETS[kind]))
    theirs.save_pretrained(tmp_path)
    ours = published.unet(tmp_path)
    z, steps = draw(2, 3, 16, 8), torch.tensor([3.0, 871.0])
    assert torch.equal(1000 * (steps / 1000), steps)  # so that both see the same number
    with torch.no_grad():
        wanted = theirs(z, steps).sample
        got = ours(z, steps / 1000, Condition.none(2))
    assert wanted.std() > 0.1  # there is something to compare
    # relative to the largest value: with random weights of 0.2 the outputs are not of order one
    torch.testing.assert_close(got, wanted, atol=1e-5 * wanted.abs().max().item(), rtol=1e-5)


def autoencoder(kind, attended=False):
    down = ["DownEncoderBlock2D", "DownEncoderBlock2D", "AttnDownEncoderBlock2D" if attended else "DownEncoderBlock2D"]
    up = ["AttnUpDecoderBlock2D" if attended else "UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"]
    common = {
        "down_block_types": down,
        "up_block_types": up,
        "block_out_channels": (8, 8, 16),
        "layers_per_block": 2,
        "norm_num_groups": 4,
        "latent_channels": 4,
    }
    if kind == "kl":
        return randomise(diffusers.AutoencoderKL(**common, scaling_factor=0.5))
    return randomise(diffusers.VQModel(**common, num_vq_embeddings=11, vq_embed_dim=3))


@pytest.mark.parametrize("attended", [False, True])
def test_autoencoder_kl_is_diffusers(attended, tmp_path):
    theirs = autoencoder("kl", attended)
    theirs.save_pretrained(tmp_path)
    ours = published.autoencoder_kl(tmp_path)
    x = draw(2, 3, 16, 24)
    with torch.no_grad():
        wanted = theirs.encode(x).latent_dist.parameters
        mean, log_var = ours.quant(ours.encoder(x)).chunk(2, dim=1)
        wanted_mean, wanted_log_var = wanted.chunk(2, dim=1)
        torch.testing.assert_close(mean, wanted_mean, **CLOSE)
        # theirs is clamped to the range in which exp(log σ²) is finite
        torch.testing.assert_close(log_var.clamp(-30, 20), wanted_log_var.clamp(-30, 20), **CLOSE)
        z = draw(2, 4, 4, 6)
        torch.testing.assert_close(ours.decoder(ours.post_quant(z)), theirs.decode(z).sample, **CLOSE)
    assert ours.scale == 0.5
    assert ours.codebook is None


def test_autoencoder_without_its_1x1_convolutions(tmp_path):
    theirs = randomise(
        diffusers.AutoencoderKL(
            block_out_channels=(8,),
            norm_num_groups=4,
            use_quant_conv=False,
            use_post_quant_conv=False,
            shift_factor=0.3,
        )
    )
    theirs.save_pretrained(tmp_path)
    ours = published.autoencoder_kl(tmp_path)
    z = draw(1, 4, 5, 5)
    with torch.no_grad():
        torch.testing.assert_close(ours.decoder(ours.post_quant(z)), theirs.decode(z).sample, **CLOSE)
    assert ours.shift == 0.3


@pytest.mark.parametrize("attended", [False, True])
def test_vq_is_diffusers(attended, tmp_path):
    theirs = autoencoder("vq", attended)
    theirs.save_pretrained(tmp_path)
    ours = published.vq(tmp_path)
    x = draw(2, 3, 16, 16)
    with torch.no_grad():
        h = ours.quant(ours.encoder(x))
        torch.testing.assert_close(h, theirs.encode(x).latents, **CLOSE)
        distance = (h[:, None] - ours.codebook[None, :, :, None, None]).square().sum(2)
        z = ours.codebook[distance.argmin(1)].permute(0, 3, 1, 2)
        torch.testing.assert_close(ours.decoder(ours.post_quant(z)), theirs.decode(h).sample, **CLOSE)


def rename_as_before_2023(folder):
    """diffusers' older files: query, key, value, proj_attn, as 1×1 convolutions."""
    file = folder / "diffusion_pytorch_model.safetensors"
    words = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = {}
    for name, tensor in load_file(file).items():
        for new, word in words.items():
            if f".{new}." in name:
                name = name.replace(f".{new}.", f".{word}.")
                tensor = tensor[:, :, None, None] if name.endswith("weight") else tensor
        old[name] = tensor.contiguous()
    save_file(old, file)


def test_old_names_are_read(tmp_path):
    theirs = autoencoder("kl")
    theirs.save_pretrained(tmp_path)
    rename_as_before_2023(tmp_path)
    assert "encoder.mid_block.attentions.0.query.weight" in load_file(tmp_path / "diffusion_pytorch_model.safetensors")
    ours = published.autoencoder_kl(tmp_path)
    z = draw(2, 4, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(ours.decoder(ours.post_quant(z)), theirs.decode(z).sample, **CLOSE)


def gpt(**settings):
    config = transformers.GPT2Config(
        vocab_size=23, n_positions=12, n_embd=16, n_layer=2, n_head=4, bos_token_id=22, eos_token_id=22, **settings
    )
    return randomise(transformers.GPT2LMHeadModel(config))


@pytest.mark.parametrize("activation", ["gelu_new", "gelu", "quick_gelu"])
def test_gpt2_is_transformers(activation, tmp_path):
    theirs = gpt(activation_function=activation)
    theirs.save_pretrained(tmp_path)
    ours = published.gpt2(tmp_path)
    ids = torch.randint(0, 23, (3, 12), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(ours.read(ids), theirs(ids).logits, **CLOSE)
        begun = torch.cat([torch.full((3, 1), 22), ids[:, :-1]], dim=1)
        torch.testing.assert_close(ours(ids, Condition.none(3)), theirs(begun).logits, **CLOSE)
        state = ours.start(Condition.none(3))
        steps = [ours.step(state, None if i == 0 else ids[:, i - 1]) for i in range(12)]
        torch.testing.assert_close(torch.stack(steps, 1), theirs(begun).logits, **CLOSE)


def test_shards_are_read(tmp_path):
    theirs = gpt()
    theirs.save_pretrained(tmp_path, max_shard_size="8KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    ids = torch.arange(10)[None]
    with torch.no_grad():
        torch.testing.assert_close(published.gpt2(tmp_path).read(ids), theirs(ids).logits, **CLOSE)


# --- what does not belong is refused, by name


@pytest.fixture
def saved(tmp_path):
    autoencoder("kl").save_pretrained(tmp_path)
    return tmp_path


def rewrite(folder, change):
    file = folder / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file)


def test_a_missing_tensor_is_named(saved):
    rewrite(saved, lambda w: w.pop("decoder.conv_out.bias"))
    with pytest.raises(WeightsError, match=r"missing: decoder\.exit\.bias"):
        published.autoencoder_kl(saved)


def test_a_missing_part_of_an_attention_is_named(saved):
    rewrite(saved, lambda w: w.pop("decoder.mid_block.attentions.0.to_k.weight"))
    with pytest.raises(WeightsError, match=r"attentions\.0\.attention\.qkv\.weight"):
        published.autoencoder_kl(saved)


def test_a_tensor_too_many_is_named(saved):
    rewrite(saved, lambda w: w.update(stranger=torch.zeros(1)))
    with pytest.raises(WeightsError, match="not expected: stranger"):
        published.autoencoder_kl(saved)


def test_a_tensor_of_another_shape_is_named(saved):
    rewrite(saved, lambda w: w.update({"quant_conv.bias": torch.zeros(3)}))
    with pytest.raises(WeightsError, match=r"quant_conv\.bias is \(3,\), not \(8,\)"):
        published.autoencoder_kl(saved)


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("act_fn", "mish", "act_fn = 'mish'"),
        ("block_out_channels", [8, 12, 16], "multiples"),
        ("down_block_types", ["DownEncoderBlock2D"] * 2 + ["Odd2D"], "Odd2D"),
    ],
)
def test_a_setting_that_we_do_not_compute_is_refused(saved, setting, value, said):
    path = saved / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), setting: value}))
    with pytest.raises(WeightsError, match=said):
        published.autoencoder_kl(saved)


def test_another_kind_of_model_is_refused(saved):
    with pytest.raises(WeightsError, match="n_embd|another kind"):
        published.gpt2(saved)


def test_a_damaged_file_is_a_weights_error(saved):
    file = saved / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(WeightsError, match="cannot be read"):
        published.autoencoder_kl(saved)


def test_a_pickle_is_not_opened(saved):
    file = saved / "diffusion_pytorch_model.safetensors"
    file.rename(saved / "diffusion_pytorch_model.bin")
    with pytest.raises(WeightsError, match="other formats are not read"):
        published.autoencoder_kl(saved)


def test_an_empty_folder_is_a_weights_error(tmp_path):
    with pytest.raises(WeightsError, match="subfolder"):
        published.unet(tmp_path)


def test_a_number_that_is_none_is_refused(saved):
    rewrite(saved, lambda w: w["decoder.conv_out.bias"].fill_(torch.nan))
    with pytest.raises(WeightsError, match=r"decoder\.conv_out\.bias.*NaN"):
        published.autoencoder_kl(saved)


def test_nothing_is_allocated_before_the_sizes_agree(saved):
    """A config of 10¹³ numbers would fill any memory; on the meta device it costs nothing."""
    path = saved / "config.json"
    config = {**json.loads(path.read_text()), "block_out_channels": [2**20] * 3}
    path.write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="of another shape"):
        published.autoencoder_kl(saved)


def test_half_precision_becomes_float32(saved):
    rewrite(saved, lambda w: w.update({name: tensor.half() for name, tensor in w.items()}))
    ours = published.autoencoder_kl(saved)
    assert {p.dtype for p in ours.decoder.parameters()} == {torch.float32}
    assert ours.decoder(torch.zeros(1, 4, 2, 2)).isfinite().all()
