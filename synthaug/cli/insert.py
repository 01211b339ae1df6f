"""`synthaug insert`."""

from pathlib import Path
from typing import Annotated, Literal

from synthaug.cli import flags, terminal
from synthaug.cli.terminal import say
from synthaug.errors import UserError


def insert(
    *,
    label: str,
    out: Path,
    into: Path | None = None,
    split: flags.Split = None,
    splits_file: flags.SplitsFile = "nih-sample",
    count: int | None = None,
    model: flags.Model = "embedded",
    revision: str | None = None,
    seed: flags.Seed = 0,
    strength: float | None = None,
    threshold: float = 0.5,
    area: float = 0.4,
    side: Literal["left", "right"] | None = None,
    zone: Literal["lower", "upper", "any"] | None = None,
    mask: Path | None = None,
    method: Literal["inpaint", "img2img", "inversion"] | None = None,
    view: flags.View = None,
    age: flags.Age = None,
    sex: flags.Sex = None,
    image_size: flags.ImageSize = None,
    num_inference_steps: flags.Steps = None,
    guidance_scale: flags.GuidanceScale = None,
    batch_size: int = 4,
    detector: Annotated[list[str] | None, flags.Many] = None,
    boxes: Path | None = None,
    device: flags.Device = "auto",
) -> None:
    """Pairs with and without a finding that differ in one region: drawn, or films given; the same command resumes.

    Parameters
    ----------
    label
        The finding that is inserted.
    out
        Output folder: shards with both members, masks, difference maps.
    into
        Insert into these films, real or synthetic: a folder, or one file. By default pairs are drawn.
    revision
        Branch, tag or commit of the hub id.
    count
        Number of pairs; by default 16, or every film of --into.
    strength
        Share of the sampler's steps in which the members may part; the others fix the anatomy. By default 0.85, 0.75
        to inpaint, 1 for the other methods.
    zone
        The part of the film that may change. By default where the finding usually lies, if one zone is known for it (pleural
        effusion: lower), and else any: where the prompts' films differ most.
    threshold
        In any zone, a place may change where the prompts' films differ by this share of their largest difference.
    area
        In any zone, share of the film that may change, at most.
    side
        Change the patient's left (at the image's right) or right alone.
    mask
        A picture whose bright pixels alone may change.
    method
        How a finding enters a given film. inpaint draws the zone or mask anew beside what stays, and is the default where there
        is one. inversion and img2img (with noise of the seed) change the film by what the prompts differ in.
    batch_size
        Pairs at once.
    detector
        Measure the pairs with these detectors, "embedded" or folders, into results.json.
    boxes
        NIH folder whose radiologists' boxes say where the finding usually lies; part test is left out.
    """
    from synthaug.diffusion.sources import at_revision
    from synthaug.generation.insert import InsertRecipe
    from synthaug.generation.insert import insert as run

    if boxes and not detector:
        raise UserError(f"--boxes {boxes}: is used in measuring; add --detector embedded")
    recipe = InsertRecipe(
        label=label,
        count=count,
        seed=seed,
        strength=strength,
        threshold=threshold,
        area=area,
        side=side,
        zone=zone,
        method=method,
        view=view,
        age=age,
        sex=sex,
        image_size=image_size,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
    )
    model = at_revision(model, revision)
    with terminal.bar("insert", "pairs") as advance:
        run(recipe, out, model, device, batch_size, advance, into, mask, split, splits_file)
    if detector:
        _measure(out, detector, boxes, into, device)
    say(f"{out}: done; preview.png shows pairs side by side, masks/ where they may differ")


def _measure(out: Path, detectors: list[str], boxes: Path | None, into: Path | None, device: str) -> None:
    from synthaug.evaluation.insertion import measure
    from synthaug.evaluation.results import table

    results = measure(out, detectors, boxes, into, device)
    results.write(out)
    say(table(results.metrics))
