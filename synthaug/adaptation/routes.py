"""The routes by name: `route:` in a recipe picks the recipe class and the run class."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from synthaug.adaptation.route import RouteRecipe, Run
from synthaug.errors import RecipeError, UnknownNameError
from synthaug.recipes import read_yaml

# route -> module, recipe class, run class; loaded at use, so that one route's libraries are not another's.
ROUTES: dict[str, tuple[str, str, str]] = {
    "from_scratch": ("from_scratch", "FromScratchRecipe", "FromScratch"),
    "unet": ("unet", "UNetRecipe", "UNet"),
    "unet_text_encoder": ("unet_text_encoder", "UNetTextEncoderRecipe", "UNetTextEncoder"),
    "lora": ("lora", "LoraRecipe", "Lora"),
    "textual_inversion": ("textual_inversion", "TextualInversionRecipe", "TextualInversion"),
    "text_projection": ("text_projection", "TextProjectionRecipe", "TextProjection"),
    "distill": ("distill", "DistillRecipe", "Distill"),
    "vae": ("vae", "VaeRecipe", "Vae"),
}


def load_recipe(name_or_path: str, overrides: Mapping[str, Any] | None = None) -> RouteRecipe:
    """The recipe of a packaged name or a YAML file, as the class of its route.

    Raises:
        UnknownNameError: no such recipe, or no such route.
        RecipeError: no `route`, an unknown key, or a value that does not fit.
    """
    values = read_yaml(name_or_path)
    if "route" not in values:
        raise RecipeError(f"{name_or_path}: the key 'route' is missing; expected one of {', '.join(ROUTES)}")
    return recipe_class(str(values["route"])).load(name_or_path, overrides)


def recipe_class(route: str) -> type[RouteRecipe]:
    """The recipe class of a route."""
    module, recipe, _ = _route(route)
    return getattr(import_module(f"synthaug.adaptation.{module}"), recipe)


def run_class(route: str) -> type[Run]:
    """The run class of a route."""
    module, _, run = _route(route)
    return getattr(import_module(f"synthaug.adaptation.{module}"), run)


def _route(name: str) -> tuple[str, str, str]:
    if name not in ROUTES:
        raise UnknownNameError("route", name, ROUTES)
    return ROUTES[name]
