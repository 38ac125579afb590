"""diffusers' U-Net and autoencoders → ours."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from sfumato.core.errors import WeightsError
from sfumato.nn.pictures.pyramid import Decoder, Encoder
from sfumato.nn.pictures.unet import UNet
from sfumato.nn.published.folder import Config, N, Weights, config_of, empty, expect, fill, weights_of


@dataclass(frozen=True)
class Autoencoder:
    """h = quant(encoder(x)); x̂ = decoder(post_quant(z)). A KL one has (μ, log σ²) in h; a VQ one replaces h by the
    nearest row of `codebook` (K, d). A prior works on (z − shift) · scale."""

    encoder: Encoder
    decoder: Decoder
    quant: nn.Module
    post_quant: nn.Module
    scale: float
    shift: float = 0.0
    codebook: Tensor | None = None


def unet(folder: str | Path) -> UNet:
    """A UNet2DModel: DDPM's and its like, without a condition. Its step k of 1000 is our t = k / 1000."""
    config = config_of(folder)
    for key, wanted in {
        "act_fn": "silu",
        "center_input_sample": False,
        "class_embed_type": None,
        "num_class_embeds": None,
        "downsample_type": "conv",
        "upsample_type": "conv",
        "mid_block_scale_factor": 1,
        "mid_block_type": "UNetMidBlock2D",
        "time_embedding_type": "positional",
        "time_embedding_dim": None,
    }.items():
        expect(config, key, [wanted], wanted)
    expect(config, "attn_norm_num_groups", [None, config.get("norm_num_groups", 32)], None)
    expect(config, "downsample_padding", [0, 1], 1)
    expect(config, "resnet_time_scale_shift", ["default", "scale_shift"], "default")
    down, up = config["down_block_types"], config["up_block_types"]
    attention = tuple(_is_attended(name, "AttnDownBlock2D", "DownBlock2D") for name in down)
    if attention != tuple(_is_attended(name, "AttnUpBlock2D", "UpBlock2D") for name in reversed(up)):
        raise WeightsError(f"We build U-Nets with attention at the same sizes on both sides, not {down} and {up}.")
    width, mults = _mults(config)
    net = empty(
        UNet,
        config["in_channels"],
        config["out_channels"],
        width=width,
        mults=mults,
        blocks=config["layers_per_block"],
        attention=attention,
        head=config.get("attention_head_dim", 8),
        middle_attention=config.get("add_attention", True),
        scaled=config.get("resnet_time_scale_shift", "default") == "scale_shift",
        dropout=config.get("dropout", 0.0),
        groups=config.get("norm_num_groups", 32),
        eps=config.get("norm_eps", 1e-5),
        padding="right" if config.get("downsample_padding", 1) == 0 else "both",
        cosine_first=config.get("flip_sin_to_cos", True),
        shift=config.get("freq_shift", 0),
    )
    return fill(net, _convolutional(weights_of(folder)))


def autoencoder_kl(folder: str | Path) -> Autoencoder:
    """An AutoencoderKL: latent diffusion's and Stable Diffusion's first stage."""
    config = config_of(folder)
    z = config["latent_channels"]
    with torch.device("meta"):
        encoder, decoder = kl_pyramid(config)
    quant = empty(nn.Conv2d, 2 * z, 2 * z, 1) if config.get("use_quant_conv", True) else nn.Identity()
    post = empty(nn.Conv2d, z, z, 1) if config.get("use_post_quant_conv", True) else nn.Identity()
    parts = {"encoder": encoder, "decoder": decoder, "quant_conv": quant, "post_quant_conv": post}
    fill(nn.ModuleDict(parts), _convolutional(weights_of(folder)))
    return Autoencoder(
        encoder, decoder, quant, post, config.get("scaling_factor", 0.18215), config.get("shift_factor") or 0.0
    )


def vq(folder: str | Path) -> Autoencoder:
    """A VQModel: taming's VQGAN and latent diffusion's VQ first stages."""
    config = config_of(folder)
    z = config["latent_channels"]
    d = config.get("vq_embed_dim") or z
    with torch.device("meta"):
        encoder, decoder = vq_pyramid(config)
    quant, post = empty(nn.Conv2d, z, d, 1), empty(nn.Conv2d, d, z, 1)
    book = empty(nn.Embedding, config["num_vq_embeddings"], d)
    parts = {"encoder": encoder, "decoder": decoder, "quant_conv": quant, "post_quant_conv": post, "book": book}
    weights = _convolutional(weights_of(folder))
    if "quantize.embedding.weight" in weights:
        weights["book.weight"] = weights.pop("quantize.embedding.weight")
    fill(nn.ModuleDict(parts), weights)
    return Autoencoder(
        encoder, decoder, quant, post, config.get("scaling_factor", 0.18215), codebook=book.weight.detach()
    )


def kl_pyramid(config: Config) -> tuple[Encoder, Decoder]:
    """An AutoencoderKL's networks, untrained."""
    expect(config, "latents_mean", [None], None)
    expect(config, "latents_std", [None], None)
    return _pyramid(config, 2 * config["latent_channels"], config["latent_channels"])


def vq_pyramid(config: Config) -> tuple[Encoder, Decoder]:
    """A VQModel's networks, untrained."""
    expect(config, "norm_type", ["group", None], "group")
    expect(config, "lookup_from_codebook", [False], False)
    return _pyramid(config, config["latent_channels"], config["latent_channels"])


def _pyramid(config: Config, out_channels: int, z: int) -> tuple[Encoder, Decoder]:
    expect(config, "act_fn", ["silu"], "silu")
    down, up = config["down_block_types"], config["up_block_types"]
    attention = tuple(_is_attended(name, "AttnDownEncoderBlock2D", "DownEncoderBlock2D") for name in down)
    if attention != tuple(_is_attended(name, "AttnUpDecoderBlock2D", "UpDecoderBlock2D") for name in reversed(up)):
        raise WeightsError(f"We build pyramids with attention at the same sizes on both sides, not {down} and {up}.")
    width, mults = _mults(config)
    blocks, groups = config["layers_per_block"], config.get("norm_num_groups", 32)
    middle = config.get("mid_block_add_attention", True)

    def build(kind: type[N], a: int, b: int) -> N:
        return kind(
            a,
            b,
            width=width,
            mults=mults,
            blocks=blocks,
            attention=attention,
            middle_attention=middle,
            groups=groups,
        )

    return build(Encoder, config["in_channels"], out_channels), build(Decoder, z, config["out_channels"])


def _is_attended(name: str, attended: str, plain: str) -> bool:
    if name not in (attended, plain):
        raise WeightsError(f"The block {name} is none that we build; we build {attended} and {plain}.")
    return name == attended


def _mults(config: Config) -> tuple[int, tuple[int, ...]]:
    widths = config["block_out_channels"]
    if any(w % widths[0] for w in widths):
        raise WeightsError(f"We build levels whose widths are multiples of the first, not {widths}.")
    return widths[0], tuple(w // widths[0] for w in widths)


# diffusers' words to ours, in this order; the first two lines are its words of before 2023
RENAMES: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    (r"\b(query|key|value)\b", lambda m: f"to_{m[1][0]}"),
    (r"\bproj_attn\b", "to_out.0"),
    (r"\btime_embedding\.linear_1\b", "time.inner"),
    (r"\btime_embedding\.linear_2\b", "time.outer"),
    (r"\bconv_norm_out\b", "norm"),
    (r"\bconv_in\b", "enter"),
    (r"\bconv_out\b", "exit"),
    (r"^(en|de)coder\.(down|up)_blocks\b", r"\1coder.levels"),
    (r"\b(down|up)_blocks\b", r"\1"),
    (r"\bmid_block\b", "middle"),
    (r"\bresnets\b", "blocks"),
    (r"\b(down|up)samplers\.0\b", "resample"),
    (r"\btime_emb_proj\b", "embed"),
    (r"\bconv_shortcut\b", "skip"),
    (r"\bgroup_norm\b", "norm"),
    (r"\bto_out\.0\b", "attention.out"),
    (r"\bto_(q|k|v)\b", r"attention.\1"),
]


def _convolutional(theirs: Weights) -> Weights:
    """diffusers' tensors under our names, with q, k and v as one matrix."""
    ours: Weights = {}
    for name, tensor in theirs.items():
        for pattern, word in RENAMES:
            name = re.sub(pattern, word, name)
        ours[name] = tensor.flatten(1) if ".attention." in name and tensor.ndim == 4 else tensor
    for name in [name for name in ours if re.search(r"\.attention\.q\.(weight|bias)$", name)]:
        triple = [name.replace(".attention.q.", f".attention.{part}.") for part in "qkv"]
        if all(part in ours for part in triple):
            ours[name.replace(".attention.q.", ".attention.qkv.")] = torch.cat([ours.pop(part) for part in triple])
    return ours
