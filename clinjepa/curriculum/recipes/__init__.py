"""Recipes as data: what each phase trains, towards which targets, by which loss; and the division of the budget among the phases.

| module or file | contents |
|---|---|
| `phases` | `Recipe`, `Phase`, `LossTerm`: a recipe as typed values, and what two of them together must not say |
| `reading` | a recipe's YAML file, of the project or of a user, read and checked |
| `budget` | the budget, matched by steps or encoder tokens; optimizer steps of each phase; the order of phases and latent stores |
| `<name>.yaml` | the project's recipes, one file each; docs/adding_a_recipe.md describes every field |
"""

from clinjepa.curriculum.recipes.budget import Budget, phase_steps, run_order
from clinjepa.curriculum.recipes.phases import EncoderStart, LossTerm, Phase, Recipe
from clinjepa.curriculum.recipes.reading import load_recipe, load_recipes, parse_recipe, recipe_names

__all__ = [
    "Budget",
    "EncoderStart",
    "LossTerm",
    "Phase",
    "Recipe",
    "load_recipe",
    "load_recipes",
    "parse_recipe",
    "phase_steps",
    "recipe_names",
    "run_order",
]
