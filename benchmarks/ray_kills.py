"""Kill nodes and drivers of runs on Ray: every file must equal that of `--engine local`, nothing lost, nothing twice.

    python benchmarks/ray_kills.py --model CHECKPOINT [--trials 20] [--drivers 4] [--count 24] [--shard-size 4] [--seed 0]
    python benchmarks/ray_kills.py --what cells [--trials 3] [--drivers 1]

A cluster of a head without CPUs and three raylets of one CPU each. A trial kills a random raylet when a random number of
films is done, in every second trial with all its processes, as a machine that loses power, and adds another raylet. After
these, each of `--drivers` more kills the driver at such a moment and starts the same command again.
A small checkpoint keeps this short: `PYTHONPATH=. python tests/tiny_checkpoint.py FOLDER` writes one; many `--steps` make its
shards last. `--what cells` does the same with the demonstration of `synthaug benchmark`, cut to eight cells of which four train
a small network. The cluster is this machine's alone (127.0.0.2), and its files go with it.
"""

import argparse
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ |= {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_raylet_start_wait_time_s": "300",
    "RAY_agent_register_timeout_ms": "300000",
}

import torch

from synthaug.benchmark.study import DEMONSTRATION, Grid, StudyRecipe, open_study, run_study
from synthaug.diffusion import load_checkpoint
from synthaug.engines import Engine, open_engine
from synthaug.generation import generate, run
from synthaug.generation.place import Place
from synthaug.generation.plan import make_recipe
from synthaug.shards import verify

STORE = 80 << 20

# What is done so far, and tasks begun anew since their worker died.
Act = Callable[[int, int], None]


@dataclass(frozen=True)
class Films:
    """A run of `generate`: its films count."""

    model: str
    count: int
    shard_size: int
    steps: int
    unit = "films"

    @property
    def settings(self) -> dict[str, Any]:
        """Of the recipe."""
        return {"shard_size": self.shard_size, "num_inference_steps": self.steps}

    def run(self, out: Path, engine: Engine | None, act: Act) -> None:
        """In this process, or by the workers of an engine."""
        checkpoint = load_checkpoint(self.model, "cpu")
        recipe = make_recipe("pleural_effusion", self.count, **self.settings)
        place = engine and Place(engine, self.model, "cpu", 1)
        run(
            recipe.resolved(checkpoint),
            checkpoint,
            out,
            4,
            lambda told: act(told.done, told.lost),
            place=place,
        )

    def drive(self, out: Path, address: str, act: Act) -> None:
        """As the command does."""
        generate(
            "pleural_effusion",
            count=self.count,
            model=self.model,
            out=out,
            batch_size=4,
            threads=1,
            device="cpu",
            engine="ray",
            address=address,
            workers=1,
            on_progress=lambda told: act(told.done, told.lost),
            **self.settings,
        )

    def content(self, out: Path) -> dict[str, bytes]:
        """Every file of a finished folder; one that hides is no file of a run."""
        if faults := verify(out):
            return {"faults": "\n".join(map(str, faults)).encode()}
        return {path.name: path.read_bytes() for path in out.iterdir()}

    def there(self, out: Path) -> str:
        """What a driver that was killed has left."""
        return f"{len(list(out.glob('*.tar')))} shards"


@dataclass(frozen=True)
class Cells:
    """A study: its cells count."""

    steps: int
    count: int = 8
    unit = "cells"

    @property
    def recipe(self) -> StudyRecipe:
        """Two arms of two draws, frozen and in full."""
        train = {
            "arch": "test_resnet",
            "image_size": 32,
            "steps": self.steps,
            "validate_every": self.steps // 4,
        }
        changes = {
            "seeds": (0, 1),
            "image_size": 32,
            "extractor": "random:test_resnet",
            "frozen": Grid(arms=("real", "synthetic"), sizes=(5,)),
            "full": Grid(arms=("real", "pretrained"), sizes=(5,)),
            "train": DEMONSTRATION.train.model_copy(update=train),
        }
        return DEMONSTRATION.model_copy(update=changes)

    def run(self, out: Path, engine: Engine | None, act: Act) -> None:
        """In this process, or by the workers of an engine."""
        lost = 0
        for step in run_study(open_study(recipe=self.recipe), out, "cpu", engine, 1):
            lost += "begun anew" in step.note
            act(step.done, lost)

    def drive(self, out: Path, address: str, act: Act) -> None:
        """As the command does."""
        with open_engine("ray", address, 1) as engine:
            self.run(out, engine, act)

    def content(self, out: Path) -> dict[str, bytes]:
        """Every cell."""
        return {path.name: path.read_bytes() for path in (out / "cells").iterdir()}

    def there(self, out: Path) -> str:
        """What a driver that was killed has left."""
        return f"{len(list(out.glob('cells/*.json')))} cells"


def add_node(cluster: Any) -> Any:
    return cluster.add_node(num_cpus=1, wait=False, object_store_memory=STORE, node_ip_address="127.0.0.2")


def kill_node(node: Any, all_of_it: bool) -> list[Any]:
    """SIGKILL to a raylet, and to every process below it where the whole machine is to go; the processes that were below."""
    import psutil

    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    below: list[Any] = raylet.children(recursive=True)
    for process in (raylet, *(below if all_of_it else ())):
        process.kill()
    return below


def node_trial(
    work: Films | Cells,
    cluster: Any,
    nodes: list[Any],
    engine: Engine,
    out: Path,
    at: int,
    victim: int,
    hard: bool,
) -> int:
    """One run that loses a raylet when `at` films are done and gets another one; the tasks that were begun anew."""
    import psutil

    most, added, orphans = 0, list[Any](), list[Any]()

    def act(done: int, lost: int) -> None:
        nonlocal most
        most = max(most, lost)
        if done >= at and not added:
            orphans.extend(kill_node(nodes.pop(victim), hard))
            added.append(add_node(cluster))  # here: Ray starts nodes in the main thread only

    work.run(out, engine, act)
    nodes += added
    for process in orphans:  # workers without a raylet stay for minutes; the next trial needs their memory
        with suppress(psutil.NoSuchProcess):
            process.kill()
    return most


def drive(address: str, work: Films | Cells, out: Path, at: int | None) -> None:
    """A driver; it kills itself when `at` films are done."""

    def act(done: int, lost: int) -> None:
        if at is not None and done >= at:
            os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(1)
    work.drive(out, address, act)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--what", choices=("films", "cells"), default="films")
    parser.add_argument("--model")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--drivers", type=int, default=4)
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--shard-size", type=int, default=4)
    parser.add_argument("--steps", type=int, help="of a film (16) or of a network's training (120)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.what == "films" and not options.model:
        parser.error("films need --model CHECKPOINT")
    from ray.cluster_utils import Cluster

    torch.set_num_threads(1)
    chance, processes, wrong, begun_anew, late = (
        random.Random(options.seed),
        multiprocessing.get_context("forkserver"),
        [],
        0,
        0,
    )
    # A process that has spoken to Ray cannot be forked; the server that forks drivers never does, and has imported all.
    processes.set_forkserver_preload(["ray", "synthaug.generation", "synthaug.benchmark.study"])
    work: Films | Cells = Cells(options.steps or 120)
    if options.what == "films":
        work = Films(options.model, options.count, options.shard_size, options.steps or 16)
    with tempfile.TemporaryDirectory(prefix="k") as name:
        start = time.monotonic()
        work.run(Path(name) / "local", None, lambda done, lost: None)
        expected = work.content(Path(name) / "local")
        print(f"local: {time.monotonic() - start:.1f} s, {len(expected)} files", flush=True)
        head = {
            "num_cpus": 0,
            "object_store_memory": STORE,
            "include_dashboard": False,
            "include_log_monitor": False,
        }
        head |= {"node_ip_address": "127.0.0.2", "temp_dir": f"{name}/r"}
        head |= {"_system_config": {"health_check_period_ms": 1000, "health_check_failure_threshold": 3}}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            nodes = [add_node(cluster) for _ in range(3)]
            with open_engine("ray", cluster.address) as engine:
                work.run(Path(name) / "warm", engine, lambda done, lost: None)
                for trial in range(options.trials):
                    out, at = Path(name) / f"trial-{trial}", chance.randrange(1, work.count * 3 // 4)
                    begun, hard = time.monotonic(), bool(trial % 2)
                    lost = node_trial(work, cluster, nodes, engine, out, at, chance.randrange(3), hard)
                    equal = work.content(out) == expected
                    wrong += [] if equal else [f"trial-{trial}"]
                    begun_anew, late = begun_anew + lost, late + (lost == 0)
                    print(
                        f"trial {trial}: {'node' if hard else 'raylet'} killed at {at} {work.unit}, {lost} begun anew, "
                        f"{time.monotonic() - begun:.0f} s; {'equal' if equal else 'UNEQUAL'}",
                        flush=True,
                    )
                    shutil.rmtree(out)
            for trial in range(options.drivers):
                out, at = Path(name) / f"driver-{trial}", chance.randrange(1, work.count)
                process = processes.Process(target=drive, args=(cluster.address, work, out, at))
                process.start()
                process.join()
                there = work.there(out)
                again = processes.Process(target=drive, args=(cluster.address, work, out, None))
                again.start()
                again.join()
                equal = work.content(out) == expected and process.exitcode == -9
                wrong += [] if equal else [f"driver-{trial}"]
                print(
                    f"driver {trial}: killed at {at} {work.unit}, {there} there; {'equal' if equal else 'UNEQUAL'}",
                    flush=True,
                )
                shutil.rmtree(out)
        finally:
            cluster.shutdown()
    print(
        f"{options.trials} node trials ({begun_anew} tasks begun anew; in {late} the worker ended its task all the same or "
        f"had none), {options.drivers} driver trials; {len(wrong)} unequal {wrong or ''}"
    )
    return bool(wrong)


if __name__ == "__main__":
    raise SystemExit(main())
