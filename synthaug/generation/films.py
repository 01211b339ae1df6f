"""`synthaug.generate`: the films of a run as a data set."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from synthaug.datasets.synthetic import SyntheticRadiographs
from synthaug.generation.gates import Judge
from synthaug.generation.generate import generate as write
from synthaug.generation.plan import GenerateRecipe
from synthaug.generation.progress import Progress


def generate(
    labels: str | Sequence[str] | Mapping[str, float] | None = None,
    *,
    count: int | None = None,
    out: str | Path | None = None,
    model: str | Path = "embedded",
    quality: str = "best",
    seed: int | None = None,
    shard_size: int | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    batch_size: int | None = None,
    format: str | None = None,
    prompt: str | None = None,
    negative_prompt: str | None = None,
    view: str | None = None,
    age: float | None = None,
    sex: str | None = None,
    image_size: int | None = None,
    device: str = "auto",
    recipe: str | Path | GenerateRecipe | None = None,
    gates: Sequence[str] = (),
    judge: Judge | None = None,
    engine: str = "local",
    address: str | None = None,
    workers: int | None = None,
    threads: int | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> SyntheticRadiographs:
    """Draw labelled radiographs into a folder of shards and open it; the same call resumes.

    Arguments and errors are those of `synthaug.generation.generate.generate`.

    Returns:
        The data set; `.root` is its folder.
    """
    folder = write(
        labels,
        count=count,
        out=out,
        model=model,
        quality=quality,
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
        gates=gates,
        judge=judge,
        engine=engine,
        address=address,
        workers=workers,
        threads=threads,
        on_progress=on_progress,
    )
    return SyntheticRadiographs(folder)
