"""The engine on a Ray cluster: a pool of actors, one a GPU or one per so many CPU cores, that take tasks as they get free.

The pool follows the cluster: nodes that join get workers, a worker that dies gives its task back. Ray's own retries are not
used, since a task is bound to no actor. Each actor has two threads, one that works and one that says how far it is; so
nothing here needs Ray's streaming results, which a client at ray://HOST:PORT cannot have.
"""

import time
import warnings
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import synthaug
from synthaug.engines.connection import connected
from synthaug.engines.engine import Done, Event, Job, Lost, Moved
from synthaug.errors import ClusterError, FailureError, UserError

LOOK = 1.0  # seconds between two questions how far a worker is, and how large the cluster is
DEATHS = 4  # of workers whose node lives on, in a row, before their task is to blame


@contextmanager
def open_cluster(address: str | None = None, workers: int | None = None) -> Iterator["Cluster"]:
    """The engine on the cluster at an address; see `synthaug.engines.open_engine`."""
    with connected(address) as ray:
        cluster = Cluster(ray, workers)
        try:
            yield cluster
        finally:
            cluster.dismiss()


def actor() -> type:
    """The class of the actors. Defined in here, Ray sends it whole, so that a node without this package can say so."""

    class Worker:
        def __init__(self) -> None:
            self.task, self.count = None, 0

        def hello(self) -> tuple[str, str, str | None]:
            """Node id, a name for it, and the version of this package there, if any."""
            import ray

            try:
                import synthaug
            except ImportError:
                version = None
            else:
                version = synthaug.__version__
            return ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address(), version

        def open(self, job: Any) -> tuple[Any, Any]:
            """The kind of device of this process; or the error of the package that a job raised."""
            from synthaug.errors import SynthaugError

            try:
                self.work = job.open()
                return job.kind(), None
            except SynthaugError as error:
                return None, error

        def run(self, task: Any) -> tuple[Any, Any]:
            from synthaug.errors import SynthaugError

            self.task, self.count = task, 0
            steps = self.work(task)
            try:
                while True:
                    self.count = next(steps)
            except StopIteration as end:
                return end.value, None
            except SynthaugError as error:
                return None, error

        def look(self, task: Any) -> int:
            """How far that task is."""
            return self.count if self.task == task else 0

    return Worker


@dataclass(eq=False)
class Worker:
    """An actor as the driver sees it."""

    actor: Any
    node: str = ""
    name: str = "?"
    task: Any = None
    busy: bool = False
    count: int = 0
    asked: float = 0.0
    calls: set[Any] = field(default_factory=set)


class Cluster:
    """See `synthaug.engines.Engine`.

    Args:
        ray: the module, connected.
        wanted: workers to ask for; None takes as many as the nodes hold.
    """

    in_order = False

    def __init__(self, ray: Any, wanted: int | None = None) -> None:
        self._ray, self._wanted = ray, wanted
        self._pool: list[Worker] = []
        self._needs: tuple[int, int] = (1, 0)
        self._calls: dict[Any, tuple[str, Worker]] = {}
        self._looked, self._room = 0.0, 1
        self._kind: tuple[str, str] | None = None
        self._class: Any = None

    @property
    def workers(self) -> int:
        """Workers that have begun a task or stand ready for one."""
        return sum(1 for worker in self._pool if worker.node)

    def device(self, device: str) -> str:
        """See `Engine`: "auto" is "cuda" where any node has a GPU.

        Raises:
            ClusterError: neither of these.
        """
        if device.partition(":")[0] not in ("auto", "cpu", "cuda"):
            raise ClusterError(
                f"--device {device}: workers on Ray compute on cpu or cuda; expected one of these, or auto"
            )
        if device == "auto":
            return "cuda" if any(node.get("GPU", 0) for node in self._nodes()) else "cpu"
        return device.partition(":")[0]

    def own_device(self, device: str) -> str:
        """The CPU: the driver draws nothing."""
        return "cpu"

    def threads(self, device: str, default: int) -> int:
        """What the smallest fitting node can give to each worker, and no more than `default`."""
        shares = [
            int(node.get("CPU", 0) // max(node.get("GPU", 0), 1) if device == "cuda" else node.get("CPU", 0))
            for node in self._nodes()
            if device != "cuda" or node.get("GPU", 0) >= 1
        ]
        return max(min([default, *(share for share in shares if share >= 1)]), 1)

    def places(self, threads: int, device: str) -> int:
        """Workers that the nodes hold, or those asked for."""
        if self._wanted is not None:
            return self._wanted
        return sum(
            int(min(node.get("CPU", 0) // threads, node.get("GPU", 0) if device == "cuda" else float("inf")))
            for node in self._nodes()
        )

    def _nodes(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    def run(self, job: Job, tasks: Iterable[Any], threads: int, device: str) -> Generator[Event, None, None]:
        """See `synthaug.engines.Engine`."""
        needs = (threads, 1 if device == "cuda" else 0)
        for worker in list(self._pool):
            under_way = {self._calls[call][0] for call in worker.calls} - {"look"}
            if needs != self._needs or under_way or not worker.node:
                self._drop(worker)
        self._needs, self._kind, self._looked = needs, None, 0.0
        options = {"num_cpus": needs[0], "num_gpus": needs[1], "max_restarts": 0, "max_concurrency": 2}
        self._class = self._ray.remote(**options)(actor())
        self._warn_unfit(threads, device)
        held, waiting, rest = self._ray.put(job), deque[Any](), iter(tasks)
        deaths: dict[Any, int] = {}
        try:
            for worker in self._pool:
                self._call(worker, "open", held)
            while True:
                self._measure(threads, device)
                waiting.extend(islice(rest, max(self._room - len(waiting), 0)))
                if not waiting and not any(worker.busy for worker in self._pool):
                    return
                self._grow(len(waiting))
                self._assign(waiting)
                self._ask()
                ready, _ = self._ray.wait(list(self._calls), timeout=LOOK, fetch_local=False)
                more, _ = self._ray.wait(
                    list(self._calls), num_returns=len(self._calls), timeout=0, fetch_local=False
                )
                for call in dict.fromkeys([*ready, *more]):
                    if call in self._calls:  # a worker that died has taken its other calls with it
                        yield from self._answer(call, held, waiting, deaths)
        except BaseException:
            self.dismiss()
            raise

    def _warn_unfit(self, threads: int, device: str) -> None:
        if not self.places(threads, device):
            most = max((int(node.get("CPU", 0)) for node in self._nodes()), default=0)
            needed = f"{threads} CPUs" + (" and a GPU" if device == "cuda" else "")
            warnings.warn(
                f"no node of the cluster has {needed} (the largest has {most} CPUs); waiting for one to join; "
                "--threads asks for less",
                stacklevel=2,
            )

    def _measure(self, threads: int, device: str) -> None:
        """How many workers there may be now: at least one, so that an elastic cluster is asked for a node."""
        now = time.monotonic()
        if now - self._looked >= LOOK:
            self._looked, self._room = now, max(self.places(threads, device), 1)

    def _grow(self, tasks: int) -> None:
        """New actors where there is room, and no more than have a task to do."""
        idle = sum(1 for worker in self._pool if not worker.busy)
        for _ in range(min(self._room - len(self._pool), tasks - idle)):
            worker = Worker(self._class.remote())
            self._pool.append(worker)
            self._call(worker, "hello")

    def _call(self, worker: Worker, method: str, *arguments: Any) -> None:
        call = getattr(worker.actor, method).remote(*arguments)
        worker.calls.add(call)
        self._calls[call] = (method, worker)

    def _assign(self, waiting: deque[Any]) -> None:
        for worker in self._pool:
            if waiting and worker.node and not worker.busy and not worker.calls:
                worker.task, worker.busy, worker.count = waiting.popleft(), True, 0
                worker.asked = time.monotonic()
                self._call(worker, "run", worker.task)

    def _ask(self) -> None:
        """How far are those at work? Each is asked again a while after it has answered."""
        now = time.monotonic()
        for worker in self._pool:
            if worker.busy and len(worker.calls) == 1 and now - worker.asked >= LOOK:
                worker.asked = now
                self._call(worker, "look", worker.task)

    def _answer(self, call: Any, job: Any, waiting: deque[Any], deaths: dict[Any, int]) -> Iterator[Event]:
        method, worker = self._calls.pop(call)
        worker.calls.discard(call)
        try:
            value = self._ray.get(call)
        except self._ray.exceptions.RayTaskError:
            raise
        except self._ray.exceptions.RayError as error:
            yield from self._lost(worker, error, waiting, deaths)
            return
        if method == "hello":
            worker.node, worker.name, version = value
            _check_version(worker.name, version)
            self._call(worker, "open", job)
        elif method == "open":
            kind, fault = value
            if fault is not None:
                raise _named(worker.name, fault)
            self._check_kind(worker.name, kind)
        elif method == "look":
            if worker.busy and value > worker.count:
                worker.count = value
                yield Moved(worker.task, value)
        else:
            result, fault = value
            if fault is not None:
                raise _named(worker.name, fault)
            deaths.pop(worker.task, None)
            deaths.pop(None, None)
            worker.busy = False
            yield Done(worker.task, result)

    def _lost(
        self, worker: Worker, error: Exception, waiting: deque[Any], deaths: dict[Any, int]
    ) -> Iterator[Event]:
        """Take a worker out of the pool; its task goes to the front of the queue."""
        self._drop(worker)
        reason = " ".join(str(error).split())[:200]
        task = worker.task if worker.busy else None
        # Of a node that went away nobody can say that the task broke it.
        if not worker.node or any(n["Alive"] and n["NodeID"] == worker.node for n in self._ray.nodes()):
            deaths[task] = deaths.get(task, 0) + 1
            if deaths[task] >= DEATHS:
                what = "as they began" if task is None else f"at task {task}"
                raise FailureError(f"{DEATHS} workers in a row died {what}; the last said: {reason}")
        if worker.busy:
            waiting.appendleft(task)
            yield Lost(task, reason)

    def _drop(self, worker: Worker) -> None:
        self._pool.remove(worker)
        for call in worker.calls:
            self._calls.pop(call, None)
        self._ray.kill(worker.actor)

    def dismiss(self) -> None:
        """End all workers."""
        for worker in list(self._pool):
            self._drop(worker)

    def _check_kind(self, name: str, kind: str) -> None:
        """Another kind of device would round otherwise, and films would depend on who drew them."""
        if self._kind is None:
            self._kind = name, kind
        elif kind != self._kind[1]:
            raise ClusterError(
                f"mixed devices in one run: {self._kind[1]} on {self._kind[0]}, {kind} on {name}, and their films would differ; "
                "use nodes of one kind (--device cpu or cuda, or another cluster)"
            )


def _check_version(name: str, version: str | None) -> None:
    if version != synthaug.__version__:
        there = "not installed" if version is None else f"version {version}"
        raise ClusterError(
            f"worker on {name}: synthaug is {there} there, version {synthaug.__version__} here; install the same on every "
            "node, or pass it with a Ray runtime environment"
        )


def _named(name: str, error: Exception) -> Exception:
    """A mistake that shows on a worker says on which; a failure of the world stays what it is."""
    return ClusterError(f"worker on {name}: {error}") if isinstance(error, UserError) else error
