"""The engine on a real Ray cluster: a head and three raylets of one CPU each, on the loopback interface.

Half a dozen processes start, which takes a minute where nothing else runs: `pytest -m long tests/test_engines_ray.py`.
benchmarks/ray_kills.py kills nodes and drivers many times at random moments.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmark_samples import TINY
from generated import EFFUSION, content

from synthaug.benchmark.study import Grid, open_study, run_study
from synthaug.diffusion import load_checkpoint
from synthaug.engines import Done, Work, open_engine
from synthaug.engines.cluster import DEATHS, Cluster, _check_version
from synthaug.errors import ClusterError, FailureError, UserError
from synthaug.generation import Progress, run
from synthaug.generation.place import Place
from synthaug.generation.plan import make_recipe
from synthaug.shards import verify

os.environ |= {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_raylet_start_wait_time_s": "300",
    "RAY_agent_register_timeout_ms": "300000",
}
ray = pytest.importorskip("ray", reason="pip install 'synthaug[ray]'")

pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings(
        "ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"
    ),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
NODE = {"object_store_memory": 80 << 20, "node_ip_address": "127.0.0.2"}


class Pool:
    """The cluster, its raylets and the engine on it."""

    def __init__(self, cluster: Any, engine: Cluster) -> None:
        self.cluster, self.engine = cluster, engine
        self.nodes = [self.add() for _ in range(3)]

    def add(self) -> Any:
        return self.cluster.add_node(num_cpus=1, wait=False, **NODE)

    def kill(self) -> None:
        """SIGKILL to a raylet; its workers find out by themselves."""
        os.kill(self.nodes.pop(0).all_processes["raylet"][0].process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    from ray.cluster_utils import Cluster as RayCluster

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    head = {**NODE, "num_cpus": 0, "include_dashboard": False, "include_log_monitor": False}
    head |= {"_system_config": {"health_check_period_ms": 1000, "health_check_failure_threshold": 3}}
    cluster = RayCluster(initialize_head=True, head_node_args=head)
    try:
        with open_engine("ray", cluster.address) as engine:
            assert isinstance(engine, Cluster)
            yield Pool(cluster, engine)
    finally:
        cluster.shutdown()


class Doing:
    """A job that does what its tasks say, once `count` workers have met in the folder `met`."""

    def __init__(self, met: Path | None = None, count: int = 0, kinds: bool = False) -> None:
        self.met, self.count, self.kinds = met, count, kinds

    def kind(self) -> str:
        return f"drawn {os.getpid()}" if self.kinds else "drawn"

    def open(self) -> Work:
        end = time.monotonic() + 60
        if self.met:
            (self.met / str(os.getpid())).touch()
        while self.met and len(list(self.met.iterdir())) < self.count:
            assert time.monotonic() < end, f"fewer than {self.count} workers came"
            time.sleep(0.05)

        def work(task: str) -> Iterator[int]:
            yield 1
            if task == "wait":
                time.sleep(5)  # until the other worker has told its kind
            if task == "die":
                os._exit(1)
            if task == "disk":
                raise FailureError("no room left")
            if task == "mistake":
                raise UserError("no such thing")
            return task.upper()

        return work


def test_every_task_is_done_once_by_several_workers(pool: Pool, tmp_path: Path) -> None:
    tasks = [f"task {n}" for n in range(20)]
    done = [
        event for event in pool.engine.run(Doing(tmp_path, 3), tasks, 1, "cpu") if isinstance(event, Done)
    ]
    assert sorted(event.task for event in done) == sorted(tasks)
    assert all(event.result == event.task.upper() for event in done)
    assert pool.engine.workers == 3 == pool.engine.places(1, "cpu")
    assert (pool.engine.device("auto"), pool.engine.own_device("auto"), pool.engine.threads("cpu", 8)) == (
        "cpu",
        "cpu",
        1,
    )


def test_what_goes_wrong_on_a_worker_is_said_here(pool: Pool, tmp_path: Path) -> None:
    with pytest.raises(FailureError, match=r"^no room left$"):
        list(pool.engine.run(Doing(), ["a", "disk"], 1, "cpu"))
    with pytest.raises(ClusterError, match=r"^worker on 127\.0\.0\.2: no such thing"):
        list(pool.engine.run(Doing(), ["mistake"], 1, "cpu"))
    with pytest.raises(
        ClusterError, match=r"mixed devices in one run: drawn \d+ on 127\.0\.0\.2, drawn \d+ on"
    ):
        list(pool.engine.run(Doing(tmp_path, 2, kinds=True), ["wait", "wait"], 1, "cpu"))
    with pytest.raises(ClusterError, match=r"synthaug is version 0\.0\.9 there, version"):
        _check_version("10.0.0.3", "0.0.9")
    with pytest.raises(ClusterError, match=r"worker on 10\.0\.0\.3: synthaug is not installed there"):
        _check_version("10.0.0.3", None)


def test_a_task_that_no_worker_survives_ends_the_run(pool: Pool) -> None:
    with pytest.raises(FailureError, match=f"{DEATHS} workers in a row died at task die"):
        list(pool.engine.run(Doing(), ["die"], 1, "cpu"))


def test_a_run_that_loses_a_node_and_gains_another_equals_the_local_one(
    pool: Pool, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    checkpoint = load_checkpoint(tiny_checkpoint, "cpu")
    recipe = make_recipe(EFFUSION, 30, shard_size=3, num_inference_steps=20).resolved(checkpoint)
    place = Place(pool.engine, str(tiny_checkpoint), "cpu", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    whole = content(run(recipe, checkpoint, tmp_path / "local", 2))
    torch.set_num_threads(before)
    with pytest.raises(ClusterError, match=r"worker on 127\.0\.0\.2: .*nowhere"):
        run(
            recipe,
            checkpoint,
            tmp_path / "none",
            2,
            place=Place(pool.engine, str(tmp_path / "nowhere"), "cpu", 1),
        )
    seen: list[Progress] = []
    killed: list[None] = []

    def act(progress: Progress) -> None:
        seen.append(progress)
        if progress.done >= 6 and not killed:
            killed.append(pool.kill())
            pool.nodes.append(pool.add())  # here: Ray starts nodes in the main thread only

    out = run(recipe, checkpoint, tmp_path / "out", 2, act, place=place)
    assert content(out) == whole and verify(out) == []
    assert seen[-1].done == 30 and max(progress.workers for progress in seen) > 1


def test_cells_of_a_study_equal_those_of_this_process(pool: Pool, tmp_path: Path) -> None:
    recipe = TINY.model_copy(
        update={"full": None, "seeds": (0, 1), "frozen": Grid(arms=("real", "real+100%"), sizes=(5,))}
    )
    list(run_study(open_study(recipe=recipe), tmp_path / "local"))
    list(run_study(open_study(recipe=recipe), tmp_path / "ray", engine=pool.engine, threads=1))
    assert content(tmp_path / "ray" / "cells") == content(tmp_path / "local" / "cells")
