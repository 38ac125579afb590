"""Recipes: the only room that marries networks to mathematics. `build(name, **dials)` is the door."""

from sfumato.recipes.plan import Plan
from sfumato.recipes.table import RECIPES, Dial, Recipe, build, plan

__all__ = ["RECIPES", "Dial", "Plan", "Recipe", "build", "plan"]
