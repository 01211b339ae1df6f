"""Shards a second by the number of workers on Ray: with `sleep` in place of sampling, and with a real checkpoint.

    python benchmarks/ray_efficiency.py --workers 8 64 --seconds 2 0.5 0.1      # simulated: sleeping costs no core
    python benchmarks/ray_efficiency.py --drawn --workers 8 64 --seconds 5 1    # the driver alone: a Ray of threads
    python benchmarks/ray_efficiency.py --model CHECKPOINT --workers 1 2        # real: needs a free core a worker

Simulated workers sleep and tell how far they are, so that the driver and Ray do all they do in a run; `--drawn` leaves Ray
out and measures the driver's own loop (tests/drawn_ray.py). Efficiency is the tasks' own seconds / (workers x seconds from
the first task to the last), after the workers have started. It falls where the driver cannot hand out tasks fast enough: at
1000 / (its processor ms a shard) shards a second, whatever the workers. Real: shards a second of n single-thread workers /
(n x those of one), with the first run's start-up apart.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}

from synthaug.engines import Done, Work, open_engine


class Sleeping:
    """A job whose tasks are (number, seconds); it tells ten times how far it is."""

    def kind(self) -> str:
        return "asleep"

    def open(self) -> Work:
        def work(task: tuple[int, float]) -> Iterator[int]:
            start = time.perf_counter()
            for step in range(10):
                time.sleep(task[1] / 10)
                yield step
            return time.perf_counter() - start

        return work


def simulated(workers: int, seconds: float, tasks: int) -> tuple[float, float, float]:
    """Efficiency, tasks a second, and processor seconds of this process a task."""
    with open_engine("ray", None, workers) as engine:
        first = [(-1 - n, 1.0) for n in range(workers)]  # until all workers have begun
        list(engine.run(Sleeping(), first, 0, "cpu"))
        start, before, done, own = time.perf_counter(), time.process_time(), 0, 0.0
        for event in engine.run(Sleeping(), ((n, seconds) for n in range(tasks)), 0, "cpu"):
            if isinstance(event, Done):
                done, own = done + 1, own + event.result
        spent = time.perf_counter() - start
    return own / (workers * spent), done / spent, (time.process_time() - before) / done


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
                "pleural_effusion", count * shard_size, shard_size=shard_size, seed=number
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
    parser.add_argument("--drawn", action="store_true")
    options = parser.parse_args()
    if options.drawn:
        sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
        from drawn_ray import DrawnRay

        sys.modules["ray"] = DrawnRay(max(options.workers))  # type: ignore[assignment]
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
    print(
        "| workers | seconds a shard | efficiency | shards/s | driver, processor ms a shard |\n|---|---|---|---|---|"
    )
    for workers in options.workers:
        for seconds in options.seconds:
            share, rate, own = simulated(workers, seconds, options.rounds * workers)
            print(f"| {workers} | {seconds:g} | {share:.3f} | {rate:.1f} | {own * 1e3:.2f} |", flush=True)


if __name__ == "__main__":
    main()
