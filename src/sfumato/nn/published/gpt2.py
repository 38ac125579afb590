"""GPT2LMHeadModel → CausalNet."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from sfumato.core.errors import WeightsError
from sfumato.core.space import Tokens
from sfumato.nn.published.folder import Weights, config_of, empty, expect, fill, weights_of
from sfumato.nn.rows.causal import CausalNet
from sfumato.nn.rows.transformer import Activation


def gpt2(folder: str | Path) -> CausalNet:
    """A GPT2LMHeadModel. `read(ids)` gives its logits for any ids. Our start vector is its begin-of-text token, so that
    net(z, no condition) gives its logits for [begin, z_0, …, z_{n−2}]."""
    config = config_of(folder)
    for key, wanted in {
        "add_cross_attention": False,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "tie_word_embeddings": True,
    }.items():
        expect(config, key, [wanted], wanted)
    name = expect(config, "activation_function", list(GPT2_ACTIVATIONS), "gelu_new")
    width = config["n_embd"]
    net = empty(
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
    weights = _gpt2_weights(weights_of(folder))
    begin = config.get("bos_token_id")
    begin = config.get("eos_token_id") if begin is None else begin
    if begin is None or not 0 <= begin < config["vocab_size"]:
        raise WeightsError(f"config.json names no begin-of-text token within the vocabulary (bos_token_id is {begin}).")
    if "embed.weight" in weights:
        weights["start_vector"] = weights["embed.weight"][begin].clone()
    return fill(net, weights)


GPT2_ACTIVATIONS: dict[str, Activation] = {
    "gelu_new": "gelu_new",
    "gelu_pytorch_tanh": "gelu_new",
    "gelu": "gelu",
    "quick_gelu": "quick",
}


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
