"""Kill nodes and drivers of runs on Ray: every file must equal that of `--engine local`, nothing lost, nothing twice.

    python benchmarks/ray_kills.py --model CHECKPOINT [--trials 20] [--drivers 4] [--count 24] [--shard-size 4] [--seed 0]

A cluster of a head without CPUs and three raylets of one CPU each. A trial kills a random raylet when a random number of
films is done, in every second trial with all its processes, as a machine that loses power, and adds another raylet. Of the
other trials, `--drivers` in number, each kills the driver at such a moment and starts the same command again.
A small checkpoint keeps this short: `PYTHONPATH=. python tests/tiny_checkpoint.py FOLDER` writes one; many steps make its
shards last. The cluster is this machine's alone (127.0.0.2), and its files go with it.
"""

import argparse
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ |= {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_raylet_start_wait_time_s": "300",
    "RAY_agent_register_timeout_ms": "300000",
}

import torch

from synthaug.diffusion import load_checkpoint
from synthaug.engines import open_engine
from synthaug.generation import GenerateRecipe, Progress, generate, run
from synthaug.generation.place import Place
from synthaug.generation.plan import make_recipe
from synthaug.shards import verify

STORE = 80 << 20


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a finished folder; one that hides is no file of a run."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def add_node(cluster: Any) -> Any:
    return cluster.add_node(num_cpus=1, wait=False, object_store_memory=STORE, node_ip_address="127.0.0.2")


def kill_node(node: Any, all_of_it: bool) -> None:
    """SIGKILL to a raylet, and to every process below it where the whole machine is to go."""
    import psutil

    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    below = raylet.children(recursive=True) if all_of_it else []
    for process in (raylet, *below):
        process.send_signal(signal.SIGKILL)


def node_trial(
    cluster: Any,
    nodes: list[Any],
    recipe: GenerateRecipe,
    checkpoint: Any,
    place: Place,
    out: Path,
    at: int,
    victim: int,
    hard: bool,
) -> Progress:
    """One run that loses a raylet when `at` films are done and gets another one; its last progress."""
    seen: list[Progress] = []
    added: list[Any] = []

    def act(progress: Progress) -> None:
        seen.append(progress)
        if progress.done >= at and not added:
            kill_node(nodes.pop(victim), hard)
            added.append(add_node(cluster))  # here: Ray starts nodes in the main thread only

    run(recipe, checkpoint, out, 4, act, place=place)
    nodes += added
    return seen[-1]


def drive(address: str, model: str, out: Path, settings: dict[str, Any], at: int | None) -> None:
    """A driver; it kills itself when `at` films are done."""

    def act(progress: Progress) -> None:
        if at is not None and progress.done >= at:
            os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(1)
    generate(
        "pleural_effusion", model=model, out=out, engine="ray", address=address, on_progress=act, **settings
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--drivers", type=int, default=4)
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--shard-size", type=int, default=4)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    from ray.cluster_utils import Cluster

    torch.set_num_threads(1)
    chance, processes, wrong, lost, late = (
        random.Random(options.seed),
        multiprocessing.get_context("forkserver"),
        [],
        0,
        0,
    )
    # A process that has spoken to Ray cannot be forked; the server that forks drivers never does, and has imported all.
    processes.set_forkserver_preload(["ray", "synthaug.generation"])
    settings = {"shard_size": options.shard_size, "num_inference_steps": options.steps}
    checkpoint = load_checkpoint(options.model, "cpu")
    recipe = make_recipe("pleural_effusion", options.count, None, None, None, None, **settings)
    recipe = recipe.resolved(checkpoint)
    with tempfile.TemporaryDirectory(prefix="k") as name:
        start = time.monotonic()
        expected = content(run(recipe, checkpoint, Path(name) / "local", 4))
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
                place = Place(engine, options.model, "cpu", 1)
                run(recipe, checkpoint, Path(name) / "warm", 4, place=place)
                for trial in range(options.trials):
                    out, at = Path(name) / f"trial-{trial}", chance.randrange(1, options.count * 3 // 4)
                    begun, hard = time.monotonic(), bool(trial % 2)
                    last = node_trial(
                        cluster, nodes, recipe, checkpoint, place, out, at, chance.randrange(3), hard
                    )
                    equal = content(out) == expected and not verify(out)
                    wrong += [] if equal else [f"trial-{trial}"]
                    lost, late = lost + last.lost, late + (last.lost == 0)
                    print(
                        f"trial {trial}: {'node' if hard else 'raylet'} killed at {at} films, {last.lost} shards begun anew, "
                        f"{time.monotonic() - begun:.0f} s; {'equal' if equal else 'UNEQUAL'}",
                        flush=True,
                    )
                    shutil.rmtree(out)
            more = settings | {
                "count": options.count,
                "batch_size": 4,
                "threads": 1,
                "device": "cpu",
                "workers": 1,
            }
            for trial in range(options.drivers):
                out, at = Path(name) / f"driver-{trial}", chance.randrange(1, options.count)
                process = processes.Process(
                    target=drive, args=(cluster.address, options.model, out, more, at)
                )
                process.start()
                process.join()
                shards = len(list(out.glob("*.tar")))
                again = processes.Process(
                    target=drive, args=(cluster.address, options.model, out, more, None)
                )
                again.start()
                again.join()
                equal = content(out) == expected and not verify(out) and process.exitcode == -9
                wrong += [] if equal else [f"driver-{trial}"]
                print(
                    f"driver {trial}: killed at {at} films, {shards} shards there; {'equal' if equal else 'UNEQUAL'}",
                    flush=True,
                )
                shutil.rmtree(out)
        finally:
            cluster.shutdown()
    print(
        f"{options.trials} node trials ({lost} shards begun anew; in {late} the worker ended its shard all the same or had "
        f"none), {options.drivers} driver trials; {len(wrong)} unequal {wrong or ''}"
    )
    return bool(wrong)


if __name__ == "__main__":
    raise SystemExit(main())
