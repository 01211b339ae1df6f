"""How a run grows: the sampler is replaced by noise, all else is real. Time, memory, manifest, verify, open, resume by count.

    python benchmarks/growth.py --model CHECKPOINT [--counts 10 1000 100000 1000000] [--image-size 256] [--link] [--figure PNG]

Films are noise of a real film's grain (incompressible: as large as a PNG gets), made from one drawn block; the encoding of
each is replaced by one of the block's, encoded once, unless `--encode`: what is measured is the driver and the shards, not
zlib. `--image-size 32` makes a million records fit on a small disk (1.8 KB each in place of 66 KB), and is said in the output.
`--link` draws the first shard only and makes the others hard links of it: what is left is the driver, at a million records in
seconds; what reads every byte (`verify`, a resume after a kill) is left out then.
Every stage runs in a process of its own, whose peak memory is the kernel's figure (ru_maxrss), imports included. Times are of
the clock and, in parentheses, of the processor, which other work on the machine does not change. Slopes are those of log
processor time over log count, from 1000 on and between the last two counts; a straight line through the origin has slope 1.
"""

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np


def measured(target: Callable[..., Any], *arguments: Any) -> dict[str, float]:
    """Seconds and peak memory (MB) of a call, in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_tell, args=(theirs, target, *arguments))
    process.start()
    theirs.close()
    told: dict[str, float] = ours.recv()
    process.join()
    return told


def _tell(pipe: Any, target: Callable[..., Any], *arguments: Any) -> None:
    start = time.perf_counter()
    told = target(*arguments) or {}
    told.setdefault("seconds", time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    pipe.send({"megabytes": peak, **told})


class Clock:
    """Seconds, and processor seconds of this process (which other work on the machine does not change), since it was made."""

    def __init__(self) -> None:
        self.start = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        """Both."""
        return {"seconds": time.perf_counter() - self.start[0], "own": time.process_time() - self.start[1]}


def idle(model: str) -> None:
    from synthaug.diffusion import load_checkpoint

    load_checkpoint(model, "cpu")


def generate(model: str, out: Path, count: int, size: int, encode: bool, link: bool) -> dict[str, float]:
    """A whole run; the seconds are those after the checkpoint is loaded."""
    from synthaug import images
    from synthaug.diffusion import load_checkpoint
    from synthaug.generation import drawing, run
    from synthaug.generation.plan import make_recipe

    block = np.random.default_rng(0).integers(0, 256, (8, 1, size, size), np.uint8)
    encoded = [images.encode(film[0]) for film in block]
    number = iter(range(1 << 62))
    drawing.sample = lambda _, prompts, *__, **___: block[: len(prompts)]
    if not encode:
        drawing.images.encode = lambda *_: encoded[next(number) % 8]
    if link:
        drawing.Drawing._write = linked(drawing.Drawing._write)
    checkpoint = load_checkpoint(model, "cpu")
    recipe = make_recipe("pleural_effusion", count, image_size=size).resolved(checkpoint)
    clock = Clock()
    run(recipe, checkpoint, out, 8)
    return clock.read()


def linked(write: Any) -> Any:
    """`Drawing._write`, but for shards as large as the first: hard links of it."""
    first: list[Any] = []

    def link(job: Any, artist: Any, task: Any, places: range) -> Any:
        if not first or first[0].count != len(places):
            entry = yield from write(job, artist, task, places)
            first[:] = first or [entry]
            return entry
        entry = replace(first[0], name=f"shard-{task.number:06d}.tar")
        for old, new in ((first[0].name, entry.name), (first[0].index_name, entry.index_name)):
            os.link(job.folder / old, job.folder / new)
        yield from range(8, len(places) + 1, 8)
        return entry

    return link


def resume(model: str, out: Path) -> dict[str, float]:
    """The same run again: nothing is left to do."""
    from synthaug.diffusion import load_checkpoint
    from synthaug.generation import GenerateRecipe, run

    checkpoint = load_checkpoint(model, "cpu")
    clock = Clock()
    run(GenerateRecipe.load(out / "recipe.yaml"), checkpoint, out)
    return clock.read()


def unfinished(model: str, out: Path) -> dict[str, float]:
    """A run that was killed before its last shard and its manifest were there: every other shard is read and hashed."""
    (out / "manifest.json").unlink()
    return resume(model, out)


def verify(out: Path) -> dict[str, float]:
    from synthaug.shards import verify

    clock = Clock()
    faults = verify(out)
    if faults:
        raise SystemExit(f"{out}: {faults[0]}")
    return clock.read()


def opened(out: Path) -> dict[str, float]:
    """Open the folder as a data set, and read its last film and every label."""
    from synthaug.datasets import SyntheticRadiographs

    clock = Clock()
    films = SyntheticRadiographs(out)
    films.image(len(films) - 1)
    if len(films.labels) != len(films):
        raise SystemExit(f"{out}: labels are missing")
    return clock.read()


def _time(told: dict[str, float]) -> str:
    return f"{told['seconds']:.2f} ({told['own']:.2f}) s"


def slope(counts: list[int], values: list[float]) -> float:
    """Of log value over log count, by least squares."""
    return float(np.polyfit(np.log(counts), np.log(values), 1)[0])


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Time and memory over count, both axes logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    counts = [row["count"] for row in rows]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    for stage in (stage for stage in STAGES if stage in rows[0]):
        left.loglog(counts, [row[stage]["seconds"] for row in rows], "o-", label=stage)
        right.semilogx(counts, [row[stage]["megabytes"] for row in rows], "o-", label=stage)
    left.set(xlabel="records", ylabel="seconds")
    right.set(xlabel="records", ylabel="peak memory, MB", ylim=(0, None))
    left.legend()
    figure.savefig(path, dpi=110)


STAGES = ("generate", "unfinished", "verify", "resume", "open")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--counts", type=int, nargs="+", default=[10, 1000, 100_000, 1_000_000])
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--link", action="store_true")
    parser.add_argument("--encode", action="store_true")
    parser.add_argument("--folder", type=Path, help="where the runs are written and removed again")
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    multiprocessing.get_context("forkserver").set_forkserver_preload(
        ["synthaug.generation", "synthaug.datasets"]
    )
    base = measured(idle, options.model)
    print(
        f"{options.image_size} px{', linked shards' * options.link}; a process that loads the checkpoint: "
        f"{base['megabytes']:.0f} MB"
    )
    print(
        "| records | generate | a record | driver peak | folder | manifest | kept after a kill | verify | resume | open |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        for count in options.counts:
            out = Path(name) / str(count)
            row: dict[str, Any] = {"count": count}
            row["generate"] = measured(
                generate, options.model, out, count, options.image_size, options.encode, options.link
            )
            if not options.link:
                row["unfinished"], row["verify"] = (
                    measured(unfinished, options.model, out),
                    measured(verify, out),
                )
            row["resume"], row["open"] = measured(resume, options.model, out), measured(opened, out)
            row["manifest"] = (out / "manifest.json").stat().st_size
            row["bytes"] = sum(path.stat().st_size for path in out.iterdir())
            rows.append(row)
            print(
                f"| {count} | {_time(row['generate'])} | {row['generate']['own'] / count * 1e6:.0f} us "
                f"| {row['generate']['megabytes']:.0f} MB | {row['bytes'] / 1e6:.1f} MB | {row['manifest'] / 1e3:.1f} kB "
                + " ".join(
                    f"| {_time(row[stage])}, {row[stage]['megabytes']:.0f} MB" if stage in row else "| -"
                    for stage in STAGES[1:]
                )
                + " |",
                flush=True,
            )
            shutil.rmtree(out)
            if options.json:
                options.json.write_text(json.dumps(rows))
    many = [row for row in rows if row["count"] >= 1000]
    for stage in STAGES:
        if len(many) > 1 and stage in many[0]:
            found = [
                slope([r["count"] for r in part], [r[stage]["own"] for r in part])
                for part in (many, many[-2:])
            ]
            print(
                f"{stage}: slope of processor time {found[0]:.3f} from {many[0]['count']} on, {found[1]:.3f} between the last two"
            )
    if options.figure:
        draw(rows, options.figure)


if __name__ == "__main__":
    main()
