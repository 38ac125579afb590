"""Published weights in our networks: a folder saved by diffusers or transformers becomes one of ours.

    folder   config.json + *.safetensors
    unet            UNet2DModel                UNet
    gpt2            GPT2LMHeadModel            CausalNet
    autoencoder_kl  AutoencoderKL              Autoencoder, without a codebook
    vq              VQModel                    Autoencoder, with one

A folder is loaded completely or not at all: a tensor too many, one too few, a number that is none or a setting that we
do not compute raises WeightsError and names it. Networks are built on the meta device and compared before anything is
allocated. Only safetensors is read, since a pickle is a program. Weights become float32.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from sfumato.core.errors import WeightsError
from sfumato.core.space import Tokens
from sfumato.nn.pictures.pyramid import Decoder, Encoder
from sfumato.nn.pictures.unet import UNet
from sfumato.nn.rows.causal import CausalNet
from sfumato.nn.rows.transformer import Activation

N = TypeVar("N", bound=nn.Module)
Weights = dict[str, Tensor]
Config = dict[str, Any]


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
    config = _config(folder)
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
        _expect(config, key, [wanted], wanted)
    _expect(config, "attn_norm_num_groups", [None, config.get("norm_num_groups", 32)], None)
    _expect(config, "downsample_padding", [0, 1], 1)
    _expect(config, "resnet_time_scale_shift", ["default", "scale_shift"], "default")
    down, up = config["down_block_types"], config["up_block_types"]
    attention = tuple(_is_attended(name, "AttnDownBlock2D", "DownBlock2D") for name in down)
    if attention != tuple(_is_attended(name, "AttnUpBlock2D", "UpBlock2D") for name in reversed(up)):
        raise WeightsError(f"We build U-Nets with attention at the same sizes on both sides, not {down} and {up}.")
    width, mults = _mults(config)
    net = _empty(
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
    return _fill(net, _convolutional(_weights(folder)))


def autoencoder_kl(folder: str | Path) -> Autoencoder:
    """An AutoencoderKL: latent diffusion's and Stable Diffusion's first stage."""
    config = _config(folder)
    z = config["latent_channels"]
    with torch.device("meta"):
        encoder, decoder = kl_pyramid(config)
    quant = _empty(nn.Conv2d, 2 * z, 2 * z, 1) if config.get("use_quant_conv", True) else nn.Identity()
    post = _empty(nn.Conv2d, z, z, 1) if config.get("use_post_quant_conv", True) else nn.Identity()
    parts = {"encoder": encoder, "decoder": decoder, "quant_conv": quant, "post_quant_conv": post}
    _fill(nn.ModuleDict(parts), _convolutional(_weights(folder)))
    return Autoencoder(
        encoder, decoder, quant, post, config.get("scaling_factor", 0.18215), config.get("shift_factor") or 0.0
    )


def vq(folder: str | Path) -> Autoencoder:
    """A VQModel: taming's VQGAN and latent diffusion's VQ first stages."""
    config = _config(folder)
    z = config["latent_channels"]
    d = config.get("vq_embed_dim") or z
    with torch.device("meta"):
        encoder, decoder = vq_pyramid(config)
    quant, post = _empty(nn.Conv2d, z, d, 1), _empty(nn.Conv2d, d, z, 1)
    book = _empty(nn.Embedding, config["num_vq_embeddings"], d)
    parts = {"encoder": encoder, "decoder": decoder, "quant_conv": quant, "post_quant_conv": post, "book": book}
    weights = _convolutional(_weights(folder))
    if "quantize.embedding.weight" in weights:
        weights["book.weight"] = weights.pop("quantize.embedding.weight")
    _fill(nn.ModuleDict(parts), weights)
    return Autoencoder(
        encoder, decoder, quant, post, config.get("scaling_factor", 0.18215), codebook=book.weight.detach()
    )


def gpt2(folder: str | Path) -> CausalNet:
    """A GPT2LMHeadModel. `read(ids)` gives its logits for any ids. Our start vector is its begin-of-text token, so that
    net(z, no condition) gives its logits for [begin, z_0, …, z_{n−2}]."""
    config = _config(folder)
    for key, wanted in {
        "add_cross_attention": False,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "tie_word_embeddings": True,
    }.items():
        _expect(config, key, [wanted], wanted)
    name = _expect(config, "activation_function", list(GPT2_ACTIVATIONS), "gelu_new")
    width = config["n_embd"]
    net = _empty(
        CausalNet,
        Tokens(config["n_positions"], config["vocab_size"]),
        config["vocab_size"],
        width=width,
        depth=config["n_layer"],
        heads=config["n_head"],
        activation=GPT2_ACTIVATIONS[name],
        expand=(config.get("n_inner") or 4 * width) / width,
        dropout=config.get("resid_pdrop", 0.1),
        tied=True,
        eps=config.get("layer_norm_epsilon", 1e-5),
    )
    weights = _gpt2_weights(_weights(folder))
    begin = config.get("bos_token_id")
    begin = config.get("eos_token_id") if begin is None else begin
    if begin is None or not 0 <= begin < config["vocab_size"]:
        raise WeightsError(f"config.json names no begin-of-text token within the vocabulary (bos_token_id is {begin}).")
    if "embed.weight" in weights:
        weights["start_vector"] = weights["embed.weight"][begin].clone()
    return _fill(net, weights)


GPT2_ACTIVATIONS: dict[str, Activation] = {
    "gelu_new": "gelu_new",
    "gelu_pytorch_tanh": "gelu_new",
    "gelu": "gelu",
    "quick_gelu": "quick",
}


def kl_pyramid(config: Config) -> tuple[Encoder, Decoder]:
    """An AutoencoderKL's networks, untrained."""
    _expect(config, "latents_mean", [None], None)
    _expect(config, "latents_std", [None], None)
    return _pyramid(config, 2 * config["latent_channels"], config["latent_channels"])


def vq_pyramid(config: Config) -> tuple[Encoder, Decoder]:
    """A VQModel's networks, untrained."""
    _expect(config, "norm_type", ["group", None], "group")
    _expect(config, "lookup_from_codebook", [False], False)
    return _pyramid(config, config["latent_channels"], config["latent_channels"])


def _pyramid(config: Config, out_channels: int, z: int) -> tuple[Encoder, Decoder]:
    _expect(config, "act_fn", ["silu"], "silu")
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


def _config(folder: str | Path) -> Config:
    path = Path(folder) / "config.json"
    try:
        return _Config(path, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise WeightsError(
            f"{path} cannot be read ({error}). A published model is a folder with config.json and *.safetensors; "
            "in a pipeline it is the subfolder, for example 'unet' or 'vae'."
        ) from error


class _Config(dict):
    """A config.json that says which setting it lacks."""

    def __init__(self, path: Path, settings: Config):
        super().__init__(settings)
        self.path = path

    def __missing__(self, key: str) -> Any:
        raise WeightsError(f"{self.path} lacks {key!r}; it belongs to another kind of model.")


def _expect(config: Config, key: str, allowed: list[Any], default: Any) -> Any:
    value = config.get(key, default)
    if value not in allowed:
        wanted = " or ".join(map(repr, allowed))
        raise WeightsError(f"config.json has {key} = {value!r}; our network computes {wanted} only.")
    return value


def _weights(folder: str | Path) -> Weights:
    folder = Path(folder)
    index = sorted(folder.glob("*.safetensors.index.json"))
    names = ("diffusion_pytorch_model.safetensors", "model.safetensors")
    plain = [folder / name for name in names if (folder / name).is_file()]
    try:
        if plain:
            files = plain[:1]
        elif index:
            shards = json.loads(index[0].read_text(encoding="utf-8"))["weight_map"].values()
            files = [folder / Path(name).name for name in sorted(set(shards))]
        else:
            files = sorted(folder.glob("*.safetensors"))[:1]
        if not files:
            raise WeightsError(
                f"{folder} holds no *.safetensors, and other formats are not read. Save it as safetensors."
            )
        weights: Weights = {}
        for file in files:
            weights.update(load_file(file))
        for name, tensor in weights.items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise WeightsError(f"{folder} is damaged: the tensor {name!r} holds NaN or Inf.")
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"The weights in {folder} cannot be read: {error}. Download them again.") from error
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}


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


GPT2_NAMES = {
    "ln_1": "norm1",
    "attn.c_attn": "attention.qkv",
    "attn.c_proj": "attention.out",
    "ln_2": "norm2",
    "mlp.c_fc": "mlp.inner",
    "mlp.c_proj": "mlp.out",
}


def _gpt2_weights(theirs: Weights) -> Weights:
    ours: Weights = {}
    for name, tensor in theirs.items():
        name = name.removeprefix("transformer.")
        if re.fullmatch(r"h\.\d+\.attn\.(masked_)?bias", name):
            continue  # the causal mask that older files store beside the weights
        if block := re.fullmatch(r"h\.(\d+)\.([a-z_.0-9]+)\.(weight|bias)", name):
            number, part, kind = block.groups()
            matrix = part.split(".")[-1].startswith("c_") and kind == "weight"
            # GPT-2 stores its matrices as (in, out)
            ours[f"trunk.blocks.{number}.{GPT2_NAMES.get(part, part)}.{kind}"] = (
                tensor.T.contiguous() if matrix else tensor
            )
        else:
            outer = {"wte.weight": "embed.weight", "wpe.weight": "positions.table"}
            ours[outer.get(name, name.replace("ln_f", "trunk.norm"))] = tensor
    head = ours.pop("lm_head.weight", None)
    if head is not None and not torch.equal(head, ours.get("embed.weight", head)):
        raise WeightsError("lm_head.weight differs from the token embedding, although config.json says they are tied.")
    return ours


def _empty(kind: Callable[..., N], *sizes: Any, **options: Any) -> N:
    """The network without memory for its weights."""
    with torch.device("meta"):
        return kind(*sizes, **options)


def _fill(net: N, weights: Weights) -> N:
    """All of `weights` become all of `net`'s, or WeightsError. The net comes back in evaluation mode."""
    own = net.state_dict()
    wrong = [
        f"{k} is {tuple(weights[k].shape)}, not {tuple(own[k].shape)}"
        for k in own
        if k in weights and weights[k].shape != own[k].shape
    ]
    problems = {
        "missing": sorted(own.keys() - weights.keys()),
        "not expected": sorted(weights.keys() - own.keys()),
        "of another shape": wrong,
    }
    if any(problems.values()):
        said = "; ".join(f"{what}: {_some(names)}" for what, names in problems.items() if names)
        raise WeightsError(f"The weights do not belong to this {type(net).__name__}. Tensors {said}.")
    net.load_state_dict(weights, assign=True)
    return net.eval()


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
