"""Recipes: the only room that marries networks to mathematics. `build(name, **dials)` is the door."""

from sfumato.recipes import autoencoders, latents, pixels  # noqa: F401  # importing them fills the table
from sfumato.recipes.plan import Plan
from sfumato.recipes.table import RECIPES, Dial, Recipe, build, plan

__all__ = ["RECIPES", "Dial", "Plan", "Recipe", "build", "plan"]
