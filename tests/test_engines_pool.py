"""The pool of workers against a Ray of threads: joins, deaths, refusals, and runs of `generate` and `benchmark` on it.

tests/test_engines_ray.py does the same on real Ray, where it is installed (-m long).
"""

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmark_samples import TINY
from drawn_ray import DrawnRay
from generated import content, draw

from synthaug.benchmark.study import Grid, open_study, run_study
from synthaug.engines import Done, Lost, Moved, Work, cluster, open_engine
from synthaug.errors import ClusterError, FailureError, UserError
from synthaug.generation import Progress
from synthaug.shards import verify


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look around often, since these tasks are short."""
    monkeypatch.setattr(cluster, "LOOK", 0.01)


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> DrawnRay:
    """Three nodes of one CPU."""
    drawn = DrawnRay(1, 1, 1)
    monkeypatch.setitem(sys.modules, "ray", drawn)
    return drawn


class Doing:
    """A job that does what its tasks say."""

    def __init__(self, kinds: Iterator[str] | None = None, die: tuple[str, ...] = ()) -> None:
        self.kinds, self.to_die, self.go = kinds, list(die), threading.Event()

    def kind(self) -> str:
        return next(self.kinds) if self.kinds else "drawn"

    def open(self) -> Work:
        def work(task: str) -> Iterator[int]:
            yield 1
            if task == "wait":
                self.go.wait(10)
            if task in self.to_die:
                self.to_die.remove(task)
                raise SystemExit
            if task == "disk":
                raise FailureError("no room left")
            if task == "mistake":
                raise UserError("no such thing")
            if task == "bug":
                raise ZeroDivisionError
            return task.upper()

        return work


def run(job: Any, tasks: Any, **options: Any) -> list[Any]:
    with open_engine("ray", None, options.pop("workers", None)) as engine:
        return list(engine.run(job, tasks, options.pop("threads", 1), "cpu"))


def done(events: list[Any]) -> list[tuple[str, str]]:
    return sorted((event.task, event.result) for event in events if isinstance(event, Done))


def test_tasks_are_spread_and_each_is_done_once(ray: DrawnRay) -> None:
    tasks = [f"task {n}" for n in range(50)]
    assert done(run(Doing(), tasks)) == sorted((task, task.upper()) for task in tasks)
    assert ray.most == 3 and not any(actor.alive for actor in ray.actors)


def test_no_more_workers_than_tasks_places_or_asked_for(ray: DrawnRay) -> None:
    run(Doing(), ["one"])
    assert ray.most == 1
    run(Doing(), list("abcdefgh"), workers=2)
    assert ray.most == 2


def test_tasks_are_pulled_as_workers_get_free(ray: DrawnRay) -> None:
    pulled: list[int] = []
    tasks = (pulled.append(n) or str(n) for n in range(200))
    with open_engine("ray") as engine:
        events = (event for event in engine.run(Doing(), tasks, 1, "cpu") if isinstance(event, Done))
        for finished, _ in enumerate(events):
            # For 3 workers: one task each, as many held ready, as many done and not yet told of.
            assert len(pulled) - finished <= 3 * 3
    assert len(pulled) == 200


def test_a_task_that_goes_on_says_how_far_it_is(ray: DrawnRay) -> None:
    job, seen = Doing(), []
    with open_engine("ray") as engine:
        for event in engine.run(job, ["wait"], 1, "cpu"):
            seen.append(event)
            job.go.set()
    assert seen == [Moved("wait", 1), Done("wait", "WAIT")]


def test_workers_stay_for_the_next_job_and_open_it(ray: DrawnRay) -> None:
    with open_engine("ray") as engine:
        list(engine.run(Doing(), list("abc"), 1, "cpu"))
        first = len(ray.actors)
        assert done(list(engine.run(Doing(), ["x"], 1, "cpu"))) == [("x", "X")]
    assert len(ray.actors) == first


def test_a_lost_task_is_done_by_another_and_a_node_that_joins_works_too(ray: DrawnRay) -> None:
    job, events = Doing(), []
    with open_engine("ray") as engine:
        for event in engine.run(job, ["wait", *"abcdefghijkl"], 1, "cpu"):
            if not events:  # the first task is under way, on the first node
                busy = next(actor.node for actor in ray.actors if getattr(actor.held, "count", 0))
                ray.lose(busy)
                ray.cpus["3"] = 1
            events.append(event)
            job.go.set()
    assert [task for task, _ in done(events)] == sorted(["wait", *"abcdefghijkl"])
    assert any(isinstance(event, Lost) for event in events) or "wait" not in events[0].task
    assert "3" in {actor.node for actor in ray.actors}


def test_a_task_that_kills_its_workers_ends_the_run_but_not_one_that_recovers(ray: DrawnRay) -> None:
    events = run(Doing(die=("a",) * (cluster.DEATHS - 1)), list("abc"))
    assert len(done(events)) == 3 and sum(isinstance(event, Lost) for event in events) == cluster.DEATHS - 1
    with pytest.raises(FailureError, match=r"4 workers in a row died at task a; .* the process ended"):
        run(Doing(die=("a",) * cluster.DEATHS), list("abc"))
    assert not any(actor.alive for actor in ray.actors)


@pytest.mark.parametrize(
    ("task", "error", "said"),
    [
        ("disk", FailureError, r"^no room left$"),
        ("mistake", ClusterError, r"^worker on 10\.0\.0\.\d: no such thing$"),
        ("bug", Exception, "ZeroDivisionError"),
    ],
)
def test_what_goes_wrong_on_a_worker_is_said_here(
    ray: DrawnRay, task: str, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        run(Doing(), ["a", task, "b"])
    assert not any(actor.alive for actor in ray.actors)


def test_devices_of_two_kinds_are_refused(ray: DrawnRay) -> None:
    kinds = iter(["cpu AVX512", "cpu AVX2", "cpu AVX2"])
    with pytest.raises(
        ClusterError, match=r"mixed devices in one run: cpu AVX\d+ on 10\.0\.0\.\d, cpu AVX\d+ on 10"
    ):
        run(Doing(kinds), ["wait"] * 9)


@pytest.mark.parametrize(
    ("version", "said"), [("0.0.9", "version 0.0.9 there"), (None, "not installed there")]
)
def test_a_worker_with_another_version_is_named(ray: DrawnRay, version: str | None, said: str) -> None:
    held = DrawnRay._actor

    def other(self: DrawnRay, kind: type, cpus: int) -> Any:
        actor = held(self, kind, cpus)
        actor.held.hello = lambda: ("0", "10.0.0.7", version)
        return actor

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DrawnRay, "_actor", other)
        with pytest.raises(ClusterError, match=f"worker on 10.0.0.7: synthaug is {said}, version"):
            run(Doing(), ["a"])


def test_a_need_that_no_node_has_is_said_and_waited_for(ray: DrawnRay) -> None:
    timer = threading.Timer(0.3, ray.cpus.update, [{"3": 4}])
    timer.start()
    with (
        pytest.warns(
            UserWarning, match=r"no node of the cluster has 4 CPUs .the largest has 1 CPUs.*--threads"
        ),
        pytest.MonkeyPatch.context() as patch,
    ):
        held = DrawnRay._actor

        def patient(self: DrawnRay, kind: type, cpus: int) -> Any:
            while "3" not in self.cpus:
                time.sleep(0.02)
            return held(self, kind, cpus)

        patch.setattr(DrawnRay, "_actor", patient)
        assert done(run(Doing(), ["a"], threads=4)) == [("a", "A")]


def test_places_threads_and_devices_are_those_of_the_nodes(ray: DrawnRay) -> None:
    ray.cpus = {"0": 8, "1": 6}
    with open_engine("ray") as engine:
        assert (engine.places(4, "cpu"), engine.places(2, "cpu"), engine.places(1, "cuda")) == (3, 7, 0)
        assert (engine.threads("cpu", 4), engine.threads("cpu", 16)) == (4, 6)
        assert (engine.device("auto"), engine.device("cuda:1"), engine.own_device("cuda")) == (
            "cpu",
            "cuda",
            "cpu",
        )
        assert not engine.in_order


def test_generate_on_workers_equals_generate_here_whatever_dies(
    ray: DrawnRay, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    whole = content(draw(tiny_checkpoint, tmp_path / "here"))
    seen: list[Progress] = []

    def lose_one(progress: Progress) -> None:
        seen.append(progress)
        if progress.done >= 3 and not ray.dead:
            ray.lose(next(actor.node for actor in ray.actors if actor.alive))
            ray.cpus["3"] = 1

    out = draw(tiny_checkpoint, tmp_path / "there", engine="ray", on_progress=lose_one)
    torch.set_num_threads(before)
    time.sleep(0.2)  # the thread that was taken for dead may still hold its own folder
    files = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    assert files == whole and verify(out) == []
    assert seen[-1].done == seen[-1].total == 10 and ray.dead


def test_the_worker_that_tried_the_device_draws_too(
    ray: DrawnRay, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    draw(tiny_checkpoint, tmp_path / "out", engine="ray")
    assert len(ray.actors) == 3, "one a node, and each began once"


def test_workers_say_what_is_wrong_with_their_checkpoint_or_folder(
    ray: DrawnRay, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from synthaug.generation import drawing

    real = drawing.Artist.ready
    gone = lambda self: real(drawing.replace(self, loaded=None, model=str(tmp_path / "gone")))  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr(drawing.Artist, "ready", gone)
        with pytest.raises(ClusterError, match=r"^worker on 10\.0\.0\.\d: .*gone"):
            draw(tiny_checkpoint, tmp_path / "out", engine="ray")
    with monkeypatch.context() as patch:
        patch.setattr(drawing, "RECIPE", "elsewhere.yaml")
        with pytest.raises(
            ClusterError, match="not seen here; --out must be a folder that all workers share"
        ):
            draw(tiny_checkpoint, tmp_path / "out", engine="ray")
    with monkeypatch.context() as patch:
        patch.setattr(drawing, "versions", lambda: {"torch": "1.0"})
        with pytest.raises(ClusterError, match=r"torch is 1\.0 there, .* here"):
            draw(tiny_checkpoint, tmp_path / "out", engine="ray")
    with pytest.raises(UserError, match="--gate duplicate"):
        draw(tiny_checkpoint, tmp_path / "out", engine="ray", gates=("duplicate",))


def test_cells_of_a_study_equal_those_of_this_process(ray: DrawnRay, tmp_path: Path) -> None:
    arms = Grid(arms=("real", "real+100%"), sizes=(5,))
    recipe = TINY.model_copy(update={"full": None, "seeds": (0, 1), "frozen": arms})
    list(run_study(open_study(recipe=recipe), tmp_path / "here"))
    with open_engine("ray") as engine:
        notes = [
            step.note for step in run_study(open_study(recipe=recipe), tmp_path / "there", engine=engine)
        ]
    assert content(tmp_path / "there" / "cells") == content(tmp_path / "here" / "cells")
    assert set(notes) >= {path.stem for path in (tmp_path / "here" / "cells").iterdir()}
