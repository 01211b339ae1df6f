"""`synthaug adapt`."""

from pathlib import Path
from typing import Annotated, Any, Literal

from synthaug.cli import flags, terminal
from synthaug.cli.opening import open_films
from synthaug.cli.terminal import say


def adapt(
    *,
    recipe: flags.Recipe,
    data: flags.Data,
    out: Path,
    split: flags.Split = None,
    splits_file: flags.SplitsFile = "nih-sample",
    part: Literal["autoencoder", "unet"] | None = None,
    max_steps: int | None = None,
    save_every: int = 500,
    log_with: str | None = None,
    device: flags.Device = "auto",
    compile: Annotated[bool, flags.Switch] = False,
    overrides: flags.Overrides = None,
    skip_bad: flags.SkipBad = False,
) -> None:
    """Train a checkpoint on real films; the same command resumes.

    Parameters
    ----------
    out
        The checkpoint's folder; the training state is kept in OUT/training.
    part
        Train this part alone, beside another process that trains the other.
    max_steps
        Cut every training short, for a trial.
    save_every
        Steps between saved states and sample grids.
    log_with
        tensorboard or wandb.
    compile
        Compile the networks; pays after some hundred steps.
    """
    from synthaug.adaptation.adapt import adapt as run
    from synthaug.adaptation.from_scratch import FromScratchRecipe
    from synthaug.recipes import parse_overrides

    wanted = FromScratchRecipe.load(recipe, parse_overrides(overrides or []))
    films = open_films(data, split, splits_file, skip_bad)
    how: dict[str, Any] = {"cpu": device == "cpu", "compiled": compile, "log_with": log_with}
    with terminal.bar("adapt", "steps") as advance:
        for progress in run(wanted, films, out, part=part, max_steps=max_steps, save_every=save_every, **how):
            figures = " ".join(
                f"{key.split('/')[-1]} {value:.4f}" for key, value in progress.record.figures.items()
            )
            advance(progress.record.step, progress.steps, f"{progress.part} {figures}")
    use = "" if part else f"; `synthaug generate --model {out} --label {wanted.findings[-1]}` draws from it"
    say(f"{out}: done{use}")
