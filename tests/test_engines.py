"""Engines without a cluster: the local one, what is refused, what the progress counts."""

import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from generated import content, draw

from synthaug import cli, engines
from synthaug.engines import Done, Local, Moved, open_engine
from synthaug.errors import ClusterError, NotInstalledError, UnknownNameError, UserError
from synthaug.generation.progress import Progress, Told


class Counting:
    """A job: a task n gives 1 ... n and the result n squared."""

    def __init__(self) -> None:
        self.begun: list[int] = []

    def kind(self) -> str:
        return "drawn"

    def open(self) -> engines.Work:
        def work(task: int) -> Iterator[int]:
            self.begun.append(task)
            yield from range(1, task + 1)
            return task * task

        return work


def test_the_local_engine_does_one_task_after_another_and_pulls_them_late() -> None:
    job, pulled = Counting(), []

    def tasks() -> Iterator[int]:
        for task in (2, 0, 1):
            pulled.append((task, list(job.begun)))
            yield task

    with open_engine() as engine:
        events = list(engine.run(job, tasks(), 1, "cpu"))
    assert events == [Moved(2, 1), Moved(2, 2), Done(2, 4), Done(0, 0), Moved(1, 1), Done(1, 1)]
    assert pulled == [(2, []), (0, [2]), (1, [2, 0])]


def test_the_local_engine_is_this_process() -> None:
    engine = Local(lambda: "mps")
    assert (engine.device("auto"), engine.device("cuda:1"), engine.own_device("cuda:1")) == (
        "mps",
        "cuda",
        "cuda:1",
    )
    assert (engine.threads("cpu", 3), engine.places(2, "cpu"), engine.workers, engine.in_order) == (
        3,
        1,
        1,
        True,
    )


@pytest.mark.parametrize(
    ("asked", "error", "said"),
    [
        ({"name": "rya"}, UnknownNameError, "did you mean 'ray'"),
        ({"address": "auto"}, UserError, "--address auto without --engine ray"),
        ({"workers": 3}, UserError, "--workers 3 without --engine ray"),
        ({"name": "ray", "workers": 0}, UserError, "--workers 0: expected 1 or more"),
    ],
)
def test_what_is_refused_before_any_ray(asked: dict, error: type[UserError], said: str) -> None:
    with pytest.raises(error, match=said), open_engine(**asked):
        pass


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(NotInstalledError, match=r"pip install 'synthaug\[ray\]'"), open_engine("ray"):
        pass


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_nothing_listens(scheme: str) -> None:
    pytest.importorskip("ray")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    gone = f"{scheme}127.0.0.1:{port}"
    for address, said in ((gone, f"{gone}: nothing answers there"), (f"{scheme}here", "HOST:PORT")):
        with pytest.raises(ClusterError, match=said), open_engine("ray", address):
            pass


def test_a_gate_that_compares_all_films_needs_them_in_order(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Local, "in_order", False)
    with pytest.raises(UserError, match="`synthaug dedupe` on the finished folder"):
        draw(tiny_checkpoint, tmp_path / "out", gates=("duplicate",))
    assert not (tmp_path / "out").exists()


def test_progress_forgets_the_films_of_a_lost_shard() -> None:
    from synthaug.generation.drawing import ShardTask, Written
    from synthaug.shards import ShardEntry

    seen: list[Progress] = []
    told, (one, two) = Told(10, Local(), seen.append), (ShardTask(0), ShardTask(1))
    entry = ShardEntry("shard-000000.tar", 5, "", "", 0)
    for event in (
        Moved(one, 2),
        Moved(two, 3),
        engines.Lost(one, "gone"),
        Moved(one, 4),
        Done(two, Written(entry, 5)),
        Done(one, Written(entry, 0)),
    ):
        told(event)
    assert [(progress.done, progress.lost) for progress in seen] == [
        (2, 0),
        (5, 0),
        (3, 1),
        (7, 1),
        (9, 1),
        (10, 1),
    ]
    assert seen[-1].seconds_left == 0 and seen[2].seconds_left > 0


def test_a_dry_run_times_a_batch_and_writes_nothing(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(tiny_checkpoint, tmp_path / "out", dry_run=True)
    said = capsys.readouterr().out
    assert "10 films of 32 px, 3 shards, about 0.0 MB" in said
    assert "hours on 1 worker: " in said and "a film, timed on 3" in said
    assert not (tmp_path / "out").exists()


def test_threads_are_part_of_the_execution_and_stay(tiny_checkpoint: Path, tmp_path: Path) -> None:
    out = draw(tiny_checkpoint, tmp_path / "out", count=3, threads=1)
    whole = content(out)
    assert b'"threads": 1' in whole["execution.json"]
    (out / "manifest.json").unlink()
    with pytest.warns(UserWarning, match="began with --threads 1 and goes on with it"):
        draw(tiny_checkpoint, out, count=3, threads=2)
    assert content(out) == whole
    with pytest.raises(UserError, match="--threads 0: expected 1 or more"):
        draw(tiny_checkpoint, tmp_path / "other", threads=0)


def test_a_shard_is_written_apart_and_what_a_killed_writer_left_is_removed(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    whole = content(draw(tiny_checkpoint, out, count=5))
    (out / "manifest.json").unlink()
    (out / ".writer-dead").mkdir()
    (out / ".writer-dead" / ".shard-000001.tar.tmp").write_bytes(b"half")
    assert content(draw(tiny_checkpoint, out, count=5)) == whole


def test_the_command_speaks_of_the_engine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--label", "pleural_effusion", "--out", str(tmp_path / "out"), "--workers", "2"]
    assert cli.main(["generate", *flags]) == 2
    assert "--workers 2 without --engine ray" in capsys.readouterr().err
