"""ViTForImageClassification → Pooled, the net of the recipe vit.

Its classes are read off config.json's id2label, in order, and its positions are those of the pictures' own side.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch

from sfumato.core.errors import WeightsError
from sfumato.core.space import Grid
from sfumato.nn.published.folder import Config, Weights, config_of, empty, expect, fill, weights_of
from sfumato.nn.rows.encoders import PatchNet, Pooled
from sfumato.nn.rows.transformer import Activation

ACTIVATIONS: dict[str, Activation] = {"gelu": "gelu", "gelu_new": "gelu_new", "quick_gelu": "quick"}
NAMES = {
    "attention.output.dense": "attention.out",
    "intermediate.dense": "mlp.inner",
    "output.dense": "mlp.out",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
}


def vit_net(config: Config) -> Pooled:
    """The network of a config.json, untrained."""
    expect(config, "qkv_bias", [True], True)
    name = expect(config, "hidden_act", list(ACTIVATIONS), "gelu")
    side, width = config["image_size"], config["hidden_size"]
    trunk = PatchNet(
        Grid(config.get("num_channels", 3), side, side),
        patch=config["patch_size"],
        width=width,
        depth=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        activation=ACTIVATIONS[name],
        expand=config["intermediate_size"] / width,
        dropout=config.get("hidden_dropout_prob", 0.0),
        eps=config.get("layer_norm_eps", 1e-12),
    )
    return Pooled(trunk, len(vit_labels(config)))


def vit_labels(config: Config) -> list[str]:
    """The names of the classes, by their numbers."""
    found = config.get("id2label") or {str(i): f"class {i}" for i in range(config.get("num_labels", 2))}
    try:
        return [str(found[key]) for key in sorted(found, key=int)]
    except (TypeError, ValueError, AttributeError) as error:
        raise WeightsError(f"config.json has an id2label that numbers no classes: {error}.") from None


def vit(folder: str | Path) -> Pooled:
    """The network and its weights."""
    config = config_of(folder)
    return fill(empty(vit_net, config), _ours(weights_of(folder), config))


def _ours(theirs: Weights, config: Config) -> Weights:
    """Their tensors under our names, with q, k and v as one matrix, and a convolution of stride P as the matrix
    that it is: (channel, row, column) within a patch, as here."""
    ours: Weights = {}
    for name, tensor in theirs.items():
        name = name.removeprefix("vit.")
        if name.startswith("pooler."):
            continue  # of the plain model; classification does not use it
        if block := re.fullmatch(r"encoder\.layer\.(\d+)\.(.+)\.(weight|bias)", name):
            number, part, kind = block.groups()
            inner = re.fullmatch(r"attention\.attention\.(query|key|value)", part)
            part = f"attention.{inner[1]}" if inner else NAMES.get(part, part)
            ours[f"trunk.trunk.blocks.{number}.{part}.{kind}"] = tensor
            continue
        outer = {
            "embeddings.cls_token": ("trunk.token", lambda t: t.flatten()),
            "embeddings.position_embeddings": ("trunk.positions.table", lambda t: t[0]),
            "embeddings.patch_embeddings.projection.weight": ("trunk.enter.weight", lambda t: t.flatten(1)),
            "embeddings.patch_embeddings.projection.bias": ("trunk.enter.bias", lambda t: t),
            "layernorm.weight": ("trunk.trunk.norm.weight", lambda t: t),
            "layernorm.bias": ("trunk.trunk.norm.bias", lambda t: t),
            "classifier.weight": ("head.weight", lambda t: t),
            "classifier.bias": ("head.bias", lambda t: t),
        }
        new, change = outer.get(name, (name, lambda t: t))
        ours[new] = change(tensor).contiguous()
    for i in range(config["num_hidden_layers"]):
        for kind in ("weight", "bias"):
            stem = f"trunk.trunk.blocks.{i}.attention"
            triple = [f"{stem}.{part}.{kind}" for part in ("query", "key", "value")]
            if all(name in ours for name in triple):
                ours[f"{stem}.qkv.{kind}"] = torch.cat([ours.pop(name) for name in triple])
    return ours
