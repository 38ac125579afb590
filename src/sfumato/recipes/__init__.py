"""Recipes: the only room that marries networks to mathematics. `build(name, **dials)` is the door."""

from sfumato.recipes import adversarial, autoencoders, classifiers, flows, gud, hierarchical, masked, pixels  # noqa: F401  # importing them fills the table
from sfumato.recipes.latents import codec_spec
from sfumato.recipes.plan import Plan
from sfumato.recipes.published import from_diffusers, from_published
from sfumato.recipes.table import RECIPES, Dial, Recipe, build, plan

__all__ = ["RECIPES", "Dial", "Plan", "Recipe", "build", "codec_spec", "from_diffusers", "from_published", "plan"]
