"""`synthaug generate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from synthaug.cli import flags, terminal
from synthaug.cli.terminal import say

if TYPE_CHECKING:
    from synthaug.generation.gates import Judge
    from synthaug.generation.progress import Progress


def generate(
    *,
    label: flags.Label = None,
    count: flags.Count | None = None,
    out: str | None = None,
    model: flags.Model = "embedded",
    quality: Literal["fast", "best"] = "best",
    seed: flags.Seed | None = None,
    shard_size: flags.ShardSize | None = None,
    num_inference_steps: flags.Steps = None,
    guidance_scale: flags.GuidanceScale = None,
    batch_size: flags.BatchSize = None,
    format: flags.ImageFormat | None = None,
    prompt: flags.Prompt = None,
    negative_prompt: flags.NegativePrompt = None,
    view: flags.View = None,
    age: flags.Age = None,
    sex: flags.Sex = None,
    image_size: flags.ImageSize = None,
    device: flags.Device = "auto",
    recipe: flags.Recipe | None = None,
    gate: Annotated[list[str] | None, flags.Many] = None,
    detector: flags.DetectorSource = "embedded",
    engine: flags.Engine = "local",
    address: flags.Address = None,
    workers: flags.Workers = None,
    threads: flags.Threads = None,
    dry_run: flags.DryRun = False,
) -> None:
    """Draw labelled radiographs into WebDataset shards; the same command resumes.

    Parameters
    ----------
    out
        Output folder, or its URL in an object store (docs/storage.md); by default ./<label>-<first 8 of the recipe's digest>.
    quality
        fast: the checkpoint's few-step variant, where it has one; best: its own settings.
    gate
        Quality gates, none by default: blank, saturated, duplicate, label. What they reject is drawn again and logged.
    """
    from synthaug.generation.gates import parse_gates
    from synthaug.generation.generate import generate as run

    gates = parse_gates(gate or [])
    with terminal.bar("generate") as advance:
        folder = run(
            label or [],
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
            judge=_judge(detector, device) if "label" in gates or _label_gate_of(recipe) else None,
            engine=engine,
            address=address,
            workers=workers,
            threads=threads,
            dry_run=dry_run,
            on_progress=lambda progress: advance(progress.done, progress.total, _note(progress)),
        )
    if not dry_run:
        say(f"{folder}: done; preview.png shows it, `synthaug verify {folder}` checks it")


def _note(progress: "Progress") -> str:
    """What the bar says beside how many films are done."""
    workers = f", {progress.workers} workers" if progress.workers > 1 else ""
    lost = f", {progress.lost} shards begun anew" if progress.lost else ""
    return f"{progress.images_per_second:.2f} films/s{workers}{lost}"


def _label_gate_of(recipe: str | None) -> bool:
    """Whether a recipe of the command line has the label gate."""
    from synthaug.generation.plan import GenerateRecipe

    gates = GenerateRecipe.load(recipe).gates if recipe else None
    return gates is not None and "label" in gates.names


def _judge(source: str, device: str) -> "Judge":
    """A detector as the label gate needs it: how far each probability is above the detector's threshold."""
    from synthaug.detection.detector import digest_of, load_detector
    from synthaug.detection.predict import predict
    from synthaug.generation.gates import Judge

    detector = load_detector(source, device)
    cuts = [detector.config.threshold(finding) for finding in detector.findings]
    return Judge(
        name=Path(source).name,
        sha256=digest_of(detector),
        findings=detector.findings,
        margins=lambda films: dict(zip(detector.findings, (predict(detector, films) - cuts).T, strict=True)),
    )
