"""`synthaug plan`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from synthaug import findings
from synthaug.cli import flags
from synthaug.cli.terminal import say

if TYPE_CHECKING:
    from synthaug.benchmark.planning import Rate


def plan(
    *,
    real: str,
    study: Path | None = None,
    finding: flags.Findings = None,
    model: flags.Model = "embedded",
    films_per_second: float | None = None,
    device: flags.Device = "auto",
    as_json: flags.Json = False,
) -> None:
    """What do the real films lack: counts by finding, part and subgroup; where synthetic films may help, and their cost.

    Parameters
    ----------
    real
        Folder of real films, or URL of a folder of shards.
    study
        Output of `synthaug benchmark`: its learning curve says how many films; without it, a rule of thumb.
    films_per_second
        How fast --model draws; by default one film is drawn to find out.
    """
    from synthaug.benchmark.planning import advise, count, in_words, to_json
    from synthaug.datasets import RealRadiographs
    from synthaug.errors import UserError
    from synthaug.evaluation.results import Results

    if films_per_second is not None and films_per_second <= 0:
        raise UserError(f"--films-per-second {films_per_second:g}: expected more than 0")
    films = RealRadiographs(real)
    shown = Results.read(study) if study else None
    counts = count(films, [findings.canonical(name) for name in finding] if finding else None)
    rate = _rate(model, films_per_second, device)
    advice = advise(counts, rate, shown)
    if as_json:
        say(json.dumps(to_json(counts, advice, rate), indent=2, ensure_ascii=False))
    else:
        say(in_words(counts, advice, rate))


def _rate(model: str, films_per_second: float | None, device: str) -> "Rate":
    """What a film of a checkpoint costs here: by one film that is drawn and thrown away, if nobody says."""
    from synthaug.benchmark.drawing import seconds_a_film
    from synthaug.benchmark.planning import Rate
    from synthaug.diffusion import load_checkpoint, resolve
    from synthaug.generation.estimate import BYTES_PER_PIXEL, BYTES_PER_RECORD

    checkpoint = load_checkpoint(model, device)
    seconds = seconds_a_film(checkpoint) if films_per_second is None else 1 / films_per_second
    size = resolve(checkpoint).image_size ** 2 * BYTES_PER_PIXEL["png"] + BYTES_PER_RECORD
    return Rate(seconds, size, tuple(checkpoint.findings), checkpoint.name)
