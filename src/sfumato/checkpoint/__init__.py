"""Checkpoints: recipe.json rebuilds, weights.safetensors fill; the training state in the same two formats."""

from sfumato.checkpoint.disk import lock, read_json, verify, write_file, write_json
from sfumato.checkpoint.model import load_model, read_recipe, recipe_record, save_model
from sfumato.checkpoint.state import latest, load_state, recover, save_state, steps

__all__ = [
    "latest",
    "load_model",
    "load_state",
    "lock",
    "read_json",
    "read_recipe",
    "recipe_record",
    "recover",
    "save_model",
    "save_state",
    "steps",
    "verify",
    "write_file",
    "write_json",
]
