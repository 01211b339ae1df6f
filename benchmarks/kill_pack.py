"""Kill pack, merge, export, split and dedupe at random moments and start them again: every file must equal an
uninterrupted run's.

    python benchmarks/kill_pack.py --trials 200
    python benchmarks/kill_pack.py --trials 50 --only split dedupe

A trial forks a process for the work and sends it SIGKILL after a random time, up to three times, then lets it end.
After each kill, every visible file must already be whole: equal to the one of the uninterrupted run.
"""

import argparse
import contextlib
import io
import multiprocessing
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from synthaug.cli import move
from synthaug.datasets import RealRadiographs
from synthaug.datasets.export import export
from synthaug.datasets.packing import Packing, pack
from synthaug.datasets.shaping import merge

WORK = ("pack", "merge", "export", "split", "dedupe")


def quiet(command: Callable[..., object], *arguments: str, **flags: object) -> None:
    """A command of the command line, without what it prints."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        command(*arguments, **flags)


def content(folder: Path) -> dict[str, bytes]:
    """Visible files below a folder."""
    if not folder.exists():
        return {}
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=200, help="of each")
    parser.add_argument("--only", nargs="+", choices=WORK, default=WORK)
    parser.add_argument("--films", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance, rng = random.Random(options.seed), np.random.default_rng(options.seed)
    context = multiprocessing.get_context("fork")
    wrong = 0
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for folder in ("edema", "normal"):
            (root / "films" / folder).mkdir(parents=True)
            for i in range(options.films // 2):
                film = rng.integers(0, 256, (96, 96), np.uint8)
                Image.fromarray(film).save(root / "films" / folder / f"{folder}-{i}.png")
        for i in range(options.films // 4):
            twin = root / "films" / "edema" / f"edema-{i}.png"
            shutil.copy(twin, root / "films" / "normal" / f"again-{i}.png")
        data = RealRadiographs(root / "films")
        halves = {"one": data.films[::2], "two": data.films[1::2]}
        films, packing = str(root / "films"), Packing(shard_size=5, image_size=64)
        work: dict[str, Callable[[Path], object]] = {
            "pack": lambda out: pack(data.films, out, packing),
            "merge": lambda out: merge(halves, out, packing=packing),
            "export": lambda out: export(data, out, "csv"),
            "split": lambda out: quiet(
                move.split, films, part=["a=0.5", "b=0.5"], out=str(out), by_film=True, shard_size=5
            ),
            "dedupe": lambda out: quiet(move.dedupe, films, out=str(out), shard_size=5),
        }
        for what in options.only:
            job = work[what]
            start = time.perf_counter()
            job(root / f"{what}-whole")
            lasting = time.perf_counter() - start
            expected = content(root / f"{what}-whole")
            kills = midway = unequal = 0
            for _ in range(options.trials):
                out = root / "trial"
                for _ in range(3):
                    process = context.Process(target=job, args=(out,))
                    process.start()
                    process.join(chance.uniform(0, 1.2 * lasting))
                    process.kill()
                    process.join()
                    killed = process.exitcode == -9
                    kills += killed
                    found = content(out)
                    midway += killed and bool(found) and found != expected
                    unequal += not found.items() <= expected.items()
                job(out)
                unequal += content(out) != expected
                shutil.rmtree(out)
            wrong += unequal
            print(
                f"{what}: {options.trials} trials of {lasting:.2f} s of work, {kills} kills, {midway} of them with some "
                f"but not all files there; {unequal} unequal"
            )
    return bool(wrong)


if __name__ == "__main__":
    raise SystemExit(main())
