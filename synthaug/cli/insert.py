"""`synthaug insert`."""

from pathlib import Path

from synthaug.cli import flags, terminal
from synthaug.cli.terminal import say


def insert(
    *,
    label: str,
    out: Path,
    count: int = 16,
    model: flags.Model = "embedded",
    seed: flags.Seed = 0,
    strength: float = 0.7,
    area: float = 0.25,
    view: flags.View = None,
    age: flags.Age = None,
    sex: flags.Sex = None,
    image_size: flags.ImageSize = None,
    num_inference_steps: flags.Steps = None,
    guidance_scale: flags.GuidanceScale = None,
    batch_size: int = 4,
    device: flags.Device = "auto",
) -> None:
    """Draw pairs from one seed, with and without a finding, that differ in one region; the same command resumes.

    Parameters
    ----------
    label
        The finding that is inserted.
    out
        Output folder: shards with both members, masks, difference maps.
    count
        Number of pairs.
    strength
        Share of the sampler's steps in which the members may part; the others fix the anatomy.
    area
        Share of the film in which they may differ, before its edge is softened.
    batch_size
        Pairs at once.
    """
    from synthaug.generation.insert import InsertRecipe
    from synthaug.generation.insert import insert as run

    recipe = InsertRecipe(
        label=label,
        count=count,
        seed=seed,
        strength=strength,
        area=area,
        view=view,
        age=age,
        sex=sex,
        image_size=image_size,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
    )
    with terminal.bar("insert", "pairs") as advance:
        run(recipe, out, model, device, batch_size, advance)
    say(f"{out}: done; preview.png shows pairs side by side, masks/ where they may differ")
