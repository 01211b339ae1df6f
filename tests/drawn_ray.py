"""A Ray of threads in this process: what `synthaug.engines` uses of it, with nodes that come and die when a test says so."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from types import SimpleNamespace
from typing import Any


class RayError(Exception):
    """What Ray raises when a worker or its node is gone."""


class RayTaskError(RayError):
    """What Ray raises when a task raised."""


class DrawnRay:
    """Stands in for the module `ray`.

    Args:
        nodes: CPUs of each node, named "0", "1", ...
    """

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def __init__(self, *nodes: int) -> None:
        self.cpus = {str(number): cpus for number, cpus in enumerate(nodes)}
        self.dead: set[str] = set()
        self.actors: list[Actor] = []
        self.here = threading.local()
        self.util = SimpleNamespace(get_node_ip_address=lambda: f"10.0.0.{self.here.node}")
        self.most = 0

    def is_initialized(self) -> bool:
        return True

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {"NodeID": name, "Alive": name not in self.dead, "Resources": {"CPU": cpus}}
            for name, cpus in self.cpus.items()
        ]

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(get_node_id=lambda: self.here.node)

    def put(self, value: Any) -> Any:
        return value

    def remote(self, num_cpus: int = 1, **_: Any) -> Callable[[type], Any]:
        return lambda kind: SimpleNamespace(remote=lambda: self._actor(kind, num_cpus))

    def _actor(self, kind: type, cpus: int) -> "Actor":
        used = {name: 0 for name in self.cpus if name not in self.dead}
        for actor in self.actors:
            if actor.alive and actor.node in used:
                used[actor.node] += cpus
        node = next(name for name in used if used[name] + cpus <= self.cpus[name])
        self.actors.append(Actor(self, kind(), node))
        self.most = max(self.most, sum(actor.alive for actor in self.actors))
        return self.actors[-1]

    def wait(
        self, calls: Sequence[Future[Any]], num_returns: int = 1, timeout: float | None = None, **_: Any
    ) -> tuple[list[Future[Any]], list[Future[Any]]]:
        assert calls, "Ray waits for nothing"
        done, left = wait(calls, timeout, FIRST_COMPLETED)
        return list(done)[:num_returns], list(left)

    def get(self, call: Future[Any]) -> Any:
        return call.result()

    def kill(self, actor: "Actor") -> None:
        actor.die("killed")

    def lose(self, node: str) -> None:
        """A node dies with all its actors."""
        self.dead.add(node)
        for actor in self.actors:
            if actor.node == node:
                actor.die("node died")


class Actor:
    """An object whose methods run in its threads."""

    def __init__(self, ray: DrawnRay, held: Any, node: str) -> None:
        self.ray, self.held, self.node, self.alive = ray, held, node, True
        self.threads = ThreadPoolExecutor(2, thread_name_prefix="actor")
        self.calls: list[Future[Any]] = []

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=lambda *arguments: self._call(name, arguments))

    def _call(self, name: str, arguments: tuple[Any, ...]) -> Future[Any]:
        call: Future[Any] = Future()
        self.calls.append(call)
        if self.alive:
            self.threads.submit(self._run, call, name, arguments)
        else:
            call.set_exception(RayError("the actor is dead"))
        return call

    def _run(self, call: Future[Any], name: str, arguments: tuple[Any, ...]) -> None:
        self.ray.here.node = self.node
        try:
            result = getattr(self.held, name)(*arguments)
        except SystemExit:  # how a job says that its process is gone
            self.die("the process ended")
        except BaseException as error:
            self._settle(call, RayTaskError(repr(error)))
        else:
            self._settle(call, result)

    def _settle(self, call: Future[Any], result: Any) -> None:
        if not self.alive or call.done():
            return
        if isinstance(result, RayError):
            call.set_exception(result)
        else:
            call.set_result(result)

    def die(self, reason: str) -> None:
        """All that it was asked fails; its threads may go on for a while, as processes do."""
        if self.alive:
            self.alive = False
            for call in self.calls:
                if not call.done():
                    call.set_exception(RayError(reason))
            self.threads.shutdown(wait=False)
