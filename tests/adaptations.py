"""The first step of a route, for the tests of adaptation."""

from pathlib import Path

from synthaug.adaptation.adapt import adapt
from synthaug.adaptation.route import Execution
from synthaug.adaptation.routes import load_recipe
from synthaug.datasets import RealRadiographs

CPU = Execution(device="cpu", precision="float32")


def begin(
    tiny_nih: Path, model: Path, out: Path, route: str = "unet", changes: dict | None = None, **more
) -> None:
    """The first step of a route's smoke recipe."""
    recipe = load_recipe(f"{route}_smoke", {"validation": 0.0} | (changes or {}))
    next(adapt(recipe, [RealRadiographs(tiny_nih)], out, model=str(model), execution=CPU, **more))
