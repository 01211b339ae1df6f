"""Films drawn to judge others by: the same noises with an empty prompt, and with other guidance scales.

    OUT/controls/empty-prompt/FOLDER   no prompt: whoever finds the asked labels here finds them in the noise
    OUT/controls/guidance-4/FOLDER     the same labels at another scale: fidelity beside coverage, 1 is off

Conventions: the recipe of a folder is drawn again by the checkpoint that drew it, `count` films of each entry of its plan, with
one thing changed and without quality gates. Films of an empty prompt have the very noises (seed, index) of labelled films
(`empty_prompt`), whose labels a detector is asked for. The same call resumes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from synthaug.datasets.synthetic import SyntheticRadiographs
from synthaug.errors import DataError
from synthaug.evaluation.empty_prompt import draw_empty
from synthaug.evaluation.features import Extractor, Features, features
from synthaug.evaluation.label_fidelity import Judge, label_fidelity, noise_clusters
from synthaug.evaluation.resemblance import resemblance
from synthaug.evaluation.results import Metric
from synthaug.evaluation.together import Together
from synthaug.generation.generate import generate
from synthaug.generation.plan import GenerateRecipe

CONTROLS = "controls"
SCALES = (1.0, 2.0, 4.0, 8.0)


def recipe_of(data: Any) -> GenerateRecipe:
    """The recipe that a folder of synthetic films was drawn by. Raises `DataError` where it holds none."""
    path = Path(data.root) / "recipe.yaml"
    if not path.is_file():
        raise DataError(
            f"{path}: not found; controls are drawn by the recipe of `synthaug generate`. Leave out --controls, and pass films "
            "of an empty prompt as --empty-prompt DIR"
        )
    return GenerateRecipe.load(path)


def changed(recipe: GenerateRecipe, count: int, guidance_scale: float) -> GenerateRecipe:
    """The recipe of a control: `count` films of each entry at another scale."""
    plan = tuple(entry.model_copy(update={"count": min(count, entry.count)}) for entry in recipe.plan)
    return recipe.model_copy(update={"plan": plan, "gates": None, "guidance_scale": guidance_scale})


def draw(
    sets: Sequence[Any],
    model: str | Path,
    out: Path,
    count: int,
    guidance_scale: float | None = None,
    device: str = "auto",
) -> list[SyntheticRadiographs]:
    """The control of each folder of synthetic films.

    Arguments: `sets` data sets of shards; `model` the checkpoint that drew them; `guidance_scale` None empties the prompt.
    Raises `DataError` for a folder without a recipe, `RecipeError` where another checkpoint drew it.
    """
    kind = "empty-prompt" if guidance_scale is None else f"guidance-{guidance_scale:g}"
    names = [Path(one.root).name for one in sets]
    if len(set(names)) < len(names):
        names = [f"{number}-{name}" for number, name in enumerate(names)]
    drawn = []
    for one, name in zip(sets, names, strict=True):
        recipe, folder = recipe_of(one), out / CONTROLS / kind / name
        if guidance_scale is None:
            drawn.append(draw_empty(one, recipe, model, folder, count, device))
            continue
        generate(recipe=changed(recipe, count, guidance_scale), model=model, out=folder, device=device)
        drawn.append(SyntheticRadiographs(folder))
    return drawn


def guidance_metrics(
    scale: float,
    drawn: Together,
    judges: Sequence[Judge],
    findings: Sequence[str],
    source: Extractor,
    real: tuple[Features, Sequence[str]] | None,
    cache: str | Path | None = None,
) -> list[Metric]:
    """Label fidelity by every judge and resemblance of films drawn at one scale, arm "guidance 4".

    Arguments: `real` features of real films and their patients; without them there is no resemblance.
    """
    arm = f"guidance {scale:g}"
    out: list[Metric] = []
    for judge in judges:
        for finding in findings:
            if finding in judge.detector.findings:
                out += label_fidelity(judge, [drawn], finding, arm)
    if real is not None:
        ours = features(source, drawn, cache)
        out += resemblance(ours, list(noise_clusters(drawn)), real[0], real[1], arm=arm)
    return out
