"""The protocol of engines, what they tell, and the engine of this process."""

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from synthaug.errors import UnknownNameError, UserError

ENGINES = ("local", "ray")

# A task in, how far it is (any count that grows) as it goes on, and its result.
Work = Callable[[Any], Generator[int, None, Any]]


class Job(Protocol):
    """What is done with each task; pickled where workers are elsewhere."""

    def kind(self) -> str:
        """The kind of device that this process computes on; the same in every worker of a run."""

    def open(self) -> Work:
        """Make ready, once in each worker."""


@dataclass(frozen=True, slots=True)
class Moved:
    """A task is under way: the count that its work gave last."""

    task: Any
    count: int


@dataclass(frozen=True, slots=True)
class Done:
    """A task is done; of each task there is one."""

    task: Any
    result: Any


@dataclass(frozen=True, slots=True)
class Lost:
    """The worker of a task died; another one begins it anew."""

    task: Any
    reason: str


Event = Moved | Done | Lost


class Engine(Protocol):
    """An executor of tasks."""

    @property
    def in_order(self) -> bool:
        """Whether a task is pulled only when all earlier ones are done."""

    def run(self, job: Job, tasks: Iterable[Any], threads: int, device: str) -> Generator[Event, None, None]:
        """Do every task (any hashable value), each by one worker of `threads` CPU threads, and tell of it as it comes.

        Args:
            job: what to do.
            tasks: pulled one by one, when there is a worker for the next.
            threads: of each worker.
            device: "cuda" reserves one GPU for each worker; "cpu" none.

        Raises:
            SynthaugError: what a task raised, from any worker; the others are stopped.
            ClusterError: the workers do not fit the run.
            FailureError: a task that its workers do not survive.
        """

    @property
    def workers(self) -> int:
        """Workers at present."""

    def places(self, threads: int, device: str) -> int:
        """Workers that it would have for tasks without end."""

    def device(self, device: str) -> str:
        """The device that a worker computes on when asked for this one ("auto" included), without a number."""

    def own_device(self, device: str) -> str:
        """The device for what this process must have loaded itself."""

    def threads(self, device: str, default: int) -> int:
        """Threads of a worker when nobody has said how many; `default` is what this process takes."""


class Local:
    """One task after another, in this process."""

    workers, in_order = 1, True

    def __init__(self, auto: Callable[[], str] = lambda: "cpu") -> None:
        """`auto` names the device that "auto" stands for."""
        self._auto = auto

    def run(self, job: Job, tasks: Iterable[Any], threads: int, device: str) -> Generator[Event, None, None]:
        """See `Engine`. The next task is pulled when the one before is done and told of."""
        work = job.open()
        for task in tasks:
            steps = work(task)
            while True:
                try:
                    count = next(steps)
                except StopIteration as end:
                    yield Done(task, end.value)
                    break
                yield Moved(task, count)

    def places(self, threads: int, device: str) -> int:
        """One."""
        return 1

    def device(self, device: str) -> str:
        """See `Engine`."""
        return self._auto() if device == "auto" else device.partition(":")[0]

    def own_device(self, device: str) -> str:
        """The same: this process is the worker."""
        return device

    def threads(self, device: str, default: int) -> int:
        """What this process takes."""
        return default


def only_result(events: Iterable[Event]) -> Any:
    """The result of the one task of a run, which is followed to its end: workers of one that is broken off are ended."""
    results = [event.result for event in events if isinstance(event, Done)]
    if len(results) != 1:
        raise RuntimeError(f"a run of {len(results)} tasks, expected one")
    return results[0]


def open_engine(
    name: str = "local",
    address: str | None = None,
    workers: int | None = None,
    auto: Callable[[], str] = lambda: "cpu",
) -> AbstractContextManager[Engine]:
    """The engine of that name, for a `with` block; its workers end with the block.

    Args:
        name: "local" or "ray".
        address: of the Ray cluster: None starts one on this machine, "auto" finds the running one, "HOST:PORT" or
            "ray://HOST:PORT" names one.
        workers: to ask the cluster for; None takes as many as its nodes hold, those that join later included.
        auto: names the device that "auto" stands for in this process.

    Raises:
        UnknownNameError: no such engine.
        UserError: an address or workers for the local engine.
        NotInstalledError: Ray is not installed.
        ClusterError: no cluster at the address, or another version of Ray.
    """
    if name not in ENGINES:
        raise UnknownNameError("engine", name, ENGINES)
    if workers is not None and workers < 1:
        raise UserError(f"--workers {workers}: expected 1 or more")
    if name == "ray":
        from synthaug.engines.cluster import open_cluster

        return open_cluster(address, workers)
    for flag, value in (("--address", address), ("--workers", workers)):
        if value is not None:
            raise UserError(f"{flag} {value} without --engine ray: the local engine is this process alone")
    return _local(auto)


@contextmanager
def _local(auto: Callable[[], str]) -> Iterator[Local]:
    yield Local(auto)
