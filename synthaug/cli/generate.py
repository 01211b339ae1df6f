"""`synthaug generate`."""

from pathlib import Path

from synthaug.cli import flags, terminal
from synthaug.cli.terminal import say


def generate(
    *,
    label: flags.Label = None,
    count: flags.Count = None,
    out: Path | None = None,
    model: flags.Model = "embedded",
    seed: flags.Seed = None,
    shard_size: flags.ShardSize = None,
    num_inference_steps: flags.Steps = None,
    guidance_scale: flags.GuidanceScale = None,
    batch_size: flags.BatchSize = None,
    format: flags.ImageFormat = None,
    prompt: flags.Prompt = None,
    negative_prompt: flags.NegativePrompt = None,
    view: flags.View = None,
    age: flags.Age = None,
    sex: flags.Sex = None,
    image_size: flags.ImageSize = None,
    device: flags.Device = "auto",
    recipe: flags.Recipe | None = None,
    dry_run: flags.DryRun = False,
) -> None:
    """Draw labelled radiographs into WebDataset shards; the same command resumes.

    Parameters
    ----------
    out
        Output folder; by default ./<label>-<first 8 of the recipe's digest>.
    """
    from synthaug.generation.generate import generate as run

    with terminal.bar("generate") as advance:
        folder = run(
            label or [],
            count=count,
            out=out,
            model=model,
            seed=seed,
            shard_size=shard_size,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            batch_size=batch_size,
            format=format,
            prompt=prompt,
            negative_prompt=negative_prompt,
            view=view,
            age=age,
            sex=sex,
            image_size=image_size,
            device=device,
            recipe=recipe,
            dry_run=dry_run,
            on_progress=lambda p: advance(p.done, p.total, f"{p.images_per_second:.2f} films/s"),
        )
    if not dry_run:
        say(f"{folder}: done; preview.png shows it, `synthaug verify {folder}` checks it")
