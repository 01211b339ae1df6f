"""`synthaug adapt`."""

from pathlib import Path
from typing import Annotated, Any, Literal

from synthaug.cli import flags, terminal
from synthaug.cli.opening import open_films
from synthaug.cli.terminal import say
from synthaug.errors import UserError


def adapt(
    *,
    recipe: flags.Recipe | None = None,
    model: str | None = None,
    revision: str | None = None,
    data: Annotated[list[str] | None, flags.Many] = None,
    out: Path | None = None,
    split: flags.Split = None,
    splits_file: flags.SplitsFile = "nih-sample",
    captions: Path | None = None,
    mend_captions: Annotated[bool, flags.Switch] = False,
    text_encoder: str | None = None,
    patient_key: Path | None = None,
    study: Annotated[bool, flags.Switch] = False,
    compare: Annotated[list[Path] | None, flags.Many] = None,
    part: Literal["autoencoder", "unet"] | None = None,
    max_steps: int | None = None,
    save_every: int = 500,
    log_with: str | None = None,
    device: flags.Device = "auto",
    precision: Literal["float32", "bfloat16", "bfloat16-weights"] | None = None,
    optimizer: Literal["adamw", "adamw8bit"] = "adamw",
    micro_batch: int | None = None,
    checkpointing: Annotated[bool, flags.Switch] = False,
    compile: Annotated[bool, flags.Switch] = False,
    film_memory: float | None = None,
    keep_averages: Annotated[bool, flags.Switch] = False,
    ema_length: float | None = None,
    overrides: flags.Overrides = None,
    skip_bad: flags.SkipBad = False,
) -> None:
    """Train a checkpoint or an adapter on real films; the same command resumes.

    Parameters
    ----------
    model
        What is adapted: "embedded" (the default), a checkpoint or adapter folder, or a hub id.
    revision
        Branch, tag or commit of the hub id.
    data
        Folders of real films, or URLs of folders of shards.
    out
        Folder of the result; the training state is kept in OUT/training. With --compare, a PNG of the losses.
    captions
        A CSV with the columns image and text: films are captioned by their texts, several lines a film allowed.
    mend_captions
        Drop comparisons with earlier films, dates and blanks from the texts of --captions.
    text_encoder
        For the route text_projection: folder or hub id of a Hugging Face text encoder; by default the base's own.
    patient_key
        File with a secret key; hashes of the training patients under it go beside the result. Made if missing.
    study
        For the route vae: measure what the base's autoencoder keeps of the films, and train nothing.
    compare
        Folders of earlier runs: print them side by side, and train nothing.
    part
        Of from_scratch: train this part alone, beside another process that trains the other.
    max_steps
        Cut every training short, for a trial.
    save_every
        Steps between saved states, sample grids and validation.
    log_with
        tensorboard or wandb.
    precision
        By default bfloat16 where the hardware multiplies it; master weights are float32 in any case. With bfloat16-weights
        the networks hold bfloat16 copies of them in place of casting at each use: a little faster with --compile.
    optimizer
        adamw8bit keeps the moments in 8 bits (needs bitsandbytes).
    micro_batch
        Films at once on a device; gradients add up to those of the recipe's batch.
    checkpointing
        Compute activations of the U-Net again instead of keeping them: less memory, more time.
    compile
        Compile the networks; pays after some hundred steps.
    film_memory
        GB that films may take in memory, by default a quarter of the machine's; beyond it they are mapped from disk.
    keep_averages
        Keep the moving average at each saved state, so that its length can be chosen after training.
    ema_length
        Take an average of this length, such as .05 or .1 of the steps, from those kept, in place of the recipe's own. A run
        that is finished is written anew.
    """
    if compare:
        _compare(compare, out)
        return
    missing = [f"--{name}" for name, value in (("recipe", recipe), ("data", data)) if not value]
    missing += [] if out or study else ["--out"]
    if missing or recipe is None or data is None:
        raise UserError(f"adapt: {' and '.join(missing)} missing; see `synthaug adapt --help`")
    from synthaug.adaptation.adapt import adapt as run
    from synthaug.adaptation.averages import Averaging
    from synthaug.adaptation.route import Execution
    from synthaug.adaptation.routes import load_recipe
    from synthaug.diffusion.sources import at_revision
    from synthaug.recipes import parse_overrides

    if revision is not None:
        model = at_revision(model or "embedded", revision)
    wanted = load_recipe(recipe, parse_overrides(overrides or []))
    films = open_films(data, split, splits_file, skip_bad)
    if study:
        _study(wanted, films, model or "embedded", device, out)
        return
    if out is None:
        raise UserError("adapt: --out missing; see `synthaug adapt --help`")
    execution = Execution(
        device=device,
        precision=precision,
        optimizer=optimizer,
        compiled=compile,
        micro_batch=micro_batch,
        checkpointing=checkpointing,
        film_memory=film_memory,
        save_every=save_every,
        max_steps=max_steps,
        part=part,
        averaging=Averaging(keep_averages, ema_length),
    )
    how: dict[str, Any] = {"model": model, "text_encoder": text_encoder, "patient_key": patient_key}
    how |= {"captions": _texts(captions, films, mend_captions), "execution": execution, "log_with": log_with}
    with terminal.bar("adapt", "steps") as advance:
        for progress in run(wanted, films, out, **how):
            figures = " ".join(
                f"{key.split('/')[-1]} {value:.4f}" for key, value in progress.record.figures.items()
            )
            advance(progress.record.step, progress.steps, f"{progress.part} {figures}")
    use = "" if part else f"; `synthaug generate --model {out} --label {wanted.findings[-1]}` draws from it"
    say(f"{out}: done{use}")


def _compare(runs: list[Path], out: Path | None) -> None:
    from synthaug.adaptation import runs as room

    say(room.compare(runs))
    if out is not None:
        room.draw(runs, out)
        say(f"{out}: written")


def _study(recipe: Any, data: list[Any], model: str, device: str, out: Path | None) -> None:
    import numpy as np

    from synthaug.adaptation import films
    from synthaug.diffusion.checkpoint import load_checkpoint
    from synthaug.evaluation.reconstruction import reconstruction
    from synthaug.evaluation.results import Results, table

    if recipe.route != "vae":
        raise UserError(f"--study: belongs to the route vae, found a recipe of route {recipe.route}")
    base = load_checkpoint(model, device, "float32")
    size = recipe.image_size or base.image_size
    held = films.load(
        data,
        (size,),
        recipe.minimum_age,
        choose=lambda records: films.for_findings(
            records, recipe.findings, recipe.per_finding, recipe.training.seed
        ),
    )
    views = np.array([record.view or "unknown" for record in held.records])
    owners = np.array([record.patient or f"film:{record.key}" for record in held.records])
    chosen = {str(view): views == view for view in sorted(set(views))}
    with terminal.bar("study") as advance:
        metrics = reconstruction(
            base.vae,
            {view: held.pyramid[size][own] for view, own in chosen.items()},
            {view: owners[own].tolist() for view, own in chosen.items()},
            base.sha256,
            advance,
        )
    say(table(metrics))
    if out is not None:
        settings = {"checkpoint": {"name": base.name, "sha256": base.sha256}, "recipe": recipe.values()}
        results = Results(
            kind="evaluate",
            protocol="autoencoder: real films encoded and decoded, nothing trained",
            settings=settings,
            metrics=metrics,
        )
        say(f"{results.write(out)}: written")


def _texts(table: Path | None, films: list[Any], mend: bool) -> dict[str, list[str]]:
    if table is None:
        if mend:
            raise UserError("--mend-captions: there are no texts to mend; give --captions")
        return {}
    from synthaug.adaptation.caption_table import read_captions

    read = read_captions(table, [key for part in films for key in part.keys], mend)
    say(read.summary())
    return read.texts
