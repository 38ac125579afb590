"""Checkpoints: recipe.json rebuilds, weights.safetensors fill; the training state in the same two formats."""

from sfumato.checkpoint.disk import lock, read_json, verify, write_file, write_json
from sfumato.checkpoint.model import check_model, load_model, read_recipe, recipe_record, save_model, state_once
from sfumato.checkpoint.state import latest, load_state, recover, save_state, steps
from sfumato.checkpoint.tensors import hash_tensors, read_tensors

__all__ = [
    "check_model",
    "hash_tensors",
    "latest",
    "load_model",
    "load_state",
    "lock",
    "read_json",
    "read_recipe",
    "recipe_record",
    "read_tensors",
    "recover",
    "save_model",
    "save_state",
    "state_once",
    "steps",
    "verify",
    "write_file",
    "write_json",
]
