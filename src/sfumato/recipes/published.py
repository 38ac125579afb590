"""Published autoencoders as codecs: Stable Diffusion's, taming's VQGAN, and their kin as diffusers saves them.

`from_diffusers(folder)` reads config.json and *.safetensors of an AutoencoderKL or a VQModel into our own networks. The
result is a System like any other: it encodes and decodes, is saved with its recipe, and serves a second stage by
`sfumato train dit DATA --from codec=FOLDER`. Its outputs equal diffusers' (tests/recipes). Latents are scaled as
published: z = (mode − shift) · scale.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sfumato.codecs.autoencoder import AutoEncoder
from sfumato.codecs.bottlenecks import Bottleneck, Gaussian
from sfumato.codecs.codebook import Codebook
from sfumato.core.errors import UsageError, WeightsError
from sfumato.core.space import Grid
from sfumato.likelihoods import Laplace
from sfumato.nn import published as theirs
from sfumato.recipes.frame import Frame
from sfumato.recipes.sizes import VIT_PUBLISHED, Trunk, planner
from sfumato.recipes.table import add, build
from sfumato.systems import Classifier, System

KINDS = ("AutoencoderKL", "VQModel")


@add("diffusers", planner("codec"), ("side",))
def diffusers(frame: Frame, config: str = "{}") -> System:
    """An autoencoder of a published shape, AutoencoderKL or VQModel, by its config.json (arXiv:2112.10752)."""
    try:
        settings = json.loads(config)
        kind = settings.get("_class_name")
    except (ValueError, AttributeError) as error:
        raise UsageError(f"--config takes the text of a config.json: {error}.") from None
    if kind not in KINDS:
        raise UsageError(f"A published codec is one of {', '.join(KINDS)}, and this config names {kind!r}.")
    kl = kind == "AutoencoderKL"
    try:
        encoder, decoder = (theirs.kl_pyramid if kl else theirs.vq_pyramid)(settings)
        z = settings["latent_channels"]
    except KeyError as error:
        raise WeightsError(f"The config lacks {error}; it belongs to another kind of model.") from None
    side = settings.get("sample_size") if frame.side is None else frame.side
    side = side if isinstance(side, int) else 256
    width = z if kl else settings.get("vq_embed_dim") or z
    # a KL weight of 1e-6, as these were trained: latents keep their own scale, which is published beside them
    bottleneck: Bottleneck = Gaussian(width, beta=1e-6) if kl else Codebook(settings["num_vq_embeddings"], width)
    codec = AutoEncoder(
        encoder,
        decoder,
        bottleneck,
        Laplace(),
        Grid(settings["in_channels"], side, side),
        layout=(side // encoder.factor, side // encoder.factor),
        channels=(encoder.out_channels, decoder.in_channels),
        normalise=kl,
    )
    if kl and not settings.get("use_quant_conv", True):
        codec.before = nn.Identity()  # type: ignore[assignment]
    if kl and not settings.get("use_post_quant_conv", True):
        codec.after = nn.Identity()  # type: ignore[assignment]
    return System(codec)


@torch.no_grad()
def from_diffusers(folder: str | Path, side: int | None = None) -> System:
    """The system with the weights in `folder`. Raises WeightsError when they are damaged or of another kind."""
    path = Path(folder) / "config.json"
    try:
        config = path.read_text(encoding="utf-8")
        kind = json.loads(config).get("_class_name")
    except (OSError, ValueError, AttributeError) as error:
        raise WeightsError(f"{path} cannot be read ({error}).") from error
    with torch.random.fork_rng([]):
        system = build("diffusers", config=config, side=side)
    assert isinstance(system, System)
    assert isinstance(system.codec, AutoEncoder)
    codec: Any = system.codec
    found = theirs.autoencoder_kl(folder) if kind == "AutoencoderKL" else theirs.vq(folder)
    pairs = ((codec.encoder, found.encoder), (codec.decoder, found.decoder), (codec.before, found.quant))
    for ours, other in (*pairs, (codec.after, found.post_quant)):
        ours.load_state_dict(other.state_dict())
    if found.codebook is None:
        codec.mean.fill_(found.shift)
        codec.deviation.fill_(1 / found.scale)
    else:
        codec.bottleneck.codes.copy_(found.codebook)
        codec.bottleneck.sums.copy_(found.codebook)
        codec.bottleneck.fitted.fill_(True)
    return system.eval()


def from_published(folder: str | Path) -> System | Classifier:
    """Whatever of ours a folder of diffusers or transformers becomes, by its config.json."""
    try:
        settings = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{folder} has no config.json that can be read: {error}.") from error
    if isinstance(settings, dict) and settings.get("model_type") == "vit":
        return from_vit(folder, settings)
    return from_diffusers(folder)


@torch.no_grad()
def from_vit(folder: str | Path, settings: dict[str, Any]) -> Classifier:
    """A ViTForImageClassification of a published shape, with the names of its classes."""
    shape = Trunk(settings["hidden_size"], settings["num_hidden_layers"], settings["num_attention_heads"])
    name = next((name for name, trunk in VIT_PUBLISHED.items() if trunk == shape), None)
    if name is None or settings["intermediate_size"] != 4 * shape.width:
        known = ", ".join(f"{name} ({t.width} × {t.depth})" for name, t in VIT_PUBLISHED.items())
        raise WeightsError(f"{folder} is a ViT of another shape than the published ones: {known}.")
    names = theirs.vit_labels(settings)
    dials = {"trunk": name, "side": settings["image_size"], "patch": settings["patch_size"]}
    with torch.random.fork_rng([]):
        system = build("vit", **dials, channels=settings.get("num_channels", 3), classes=len(names))
    assert isinstance(system, Classifier)
    system.network.load_state_dict(theirs.vit(folder).state_dict())  # type: ignore[attr-defined]
    system.classes = names
    return system.eval()
