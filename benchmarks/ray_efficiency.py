"""Shards a second by the number of workers on Ray: with `sleep` in place of sampling, and with a real checkpoint.

    python benchmarks/ray_efficiency.py --workers 8 64 --seconds 2 0.5 0.1      # simulated: sleeping costs no core
    python benchmarks/ray_efficiency.py --model CHECKPOINT --workers 1 2        # real: needs a free core a worker

Simulated workers are threads of the engine's own actors: they sleep, and tell how far they are, so that the driver and Ray do
all they do in a run. Efficiency is the tasks' own seconds / (workers x seconds from the first task to the last), after the
workers have started. It falls where the driver cannot hand out tasks fast enough. Real: shards a second of n single-thread
workers / (n x those of one), with the first run's start-up apart.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}

from synthaug.engines import Done, Work, open_engine
from synthaug.engines.cluster import Cluster


class Sleeping:
    """A job whose tasks are (number, seconds); it tells ten times how far it is."""

    def kind(self) -> str:
        return "asleep"

    def open(self) -> Work:
        def work(task: tuple[int, float]) -> Iterator[int]:
            for step in range(10):
                time.sleep(task[1] / 10)
                yield step
            return None

        return work


def simulated(workers: int, seconds: float, tasks: int) -> tuple[float, float]:
    """Efficiency, and tasks a second."""
    with open_engine("ray", None, workers) as engine:
        assert isinstance(engine, Cluster)
        list(
            engine.run(Sleeping(), [(-1 - n, 1.0) for n in range(workers)], 0, "cpu")
        )  # until all have begun
        start, done = time.perf_counter(), 0
        for event in engine.run(Sleeping(), ((n, seconds) for n in range(tasks)), 0, "cpu"):
            done += isinstance(event, Done)
        spent = time.perf_counter() - start
    return done * seconds / (workers * spent), done / spent


def real(model: str, workers: int, shards: int, shard_size: int) -> float:
    """Shards a second."""
    import torch

    from synthaug.diffusion import load_checkpoint
    from synthaug.generation import run
    from synthaug.generation.place import Place
    from synthaug.generation.plan import make_recipe

    torch.set_num_threads(1)
    checkpoint = load_checkpoint(model, "cpu")
    source = str(Path(model).resolve()) if Path(model).exists() else model
    with tempfile.TemporaryDirectory() as name, open_engine("ray", None, workers) as engine:
        speeds = []
        for number, count in enumerate((workers, shards * workers)):
            recipe = make_recipe(
                "pleural_effusion",
                count * shard_size,
                None,
                None,
                None,
                None,
                shard_size=shard_size,
                seed=number,
            ).resolved(checkpoint)
            start = time.perf_counter()
            run(recipe, checkpoint, Path(name) / str(number), place=Place(engine, source, "cpu", 1))
            speeds.append(count / (time.perf_counter() - start))
    return speeds[-1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model")
    parser.add_argument("--workers", type=int, nargs="+", default=[8, 64])
    parser.add_argument(
        "--seconds", type=float, nargs="+", default=[2, 0.5, 0.1], help="of a simulated shard"
    )
    parser.add_argument("--rounds", type=int, default=10, help="shards a worker")
    parser.add_argument("--shard-size", type=int, default=16)
    options = parser.parse_args()
    if options.model:
        one = real(options.model, 1, options.rounds, options.shard_size)
        print(f"1 worker: {one:.3f} shards/s")
        for workers in options.workers:
            if workers > 1:
                speed = real(options.model, workers, options.rounds, options.shard_size)
                print(
                    f"{workers} workers: {speed:.3f} shards/s, efficiency {speed / (workers * one):.3f}",
                    flush=True,
                )
        return
    print("| workers | seconds a shard | efficiency | shards/s |\n|---|---|---|---|")
    for workers in options.workers:
        for seconds in options.seconds:
            share, rate = simulated(workers, seconds, options.rounds * workers)
            print(f"| {workers} | {seconds:g} | {share:.3f} | {rate:.1f} |", flush=True)


if __name__ == "__main__":
    main()
