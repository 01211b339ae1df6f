"""Events of an engine as the progress of a run."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from synthaug.engines import Done, Engine, Event, Lost, Moved


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is, over all workers; films of an earlier, interrupted run count as done but not for the speed.

    Args:
        done, total: films.
        images_per_second: drawn in this run.
        seconds_left: infinite as long as nothing is drawn.
        workers: at present.
        lost: shards that were begun anew, because their worker died.
    """

    done: int
    total: int
    images_per_second: float
    seconds_left: float
    workers: int = 1
    lost: int = 0


class Told:
    """Events of the engine as the progress of a run.

    Args:
        total: films.
        engine: whose workers are counted.
        on_progress: called when the number of films that are done has changed, or a worker was lost.
    """

    def __init__(self, total: int, engine: Engine, on_progress: Callable[[Progress], None] | None) -> None:
        self._total, self._engine, self._on_progress = total, engine, on_progress
        self._start = time.monotonic()
        self._whole = self._drawn = self._lost = 0
        self._under_way: dict[int, int] = {}
        self._last = (0, 0)

    def __call__(self, event: Event) -> None:
        """Take an event, and tell of it where it says something new."""
        number = event.task.number
        if isinstance(event, Moved):
            self._under_way[number] = event.count
        else:
            self._under_way.pop(number, None)
        if isinstance(event, Done):
            self._whole += event.result.entry.count
            self._drawn += event.result.drawn
        self._lost += isinstance(event, Lost)
        under_way = sum(self._under_way.values())
        done, drawn = self._whole + under_way, self._drawn + under_way
        if self._on_progress is None or (done, self._lost) == self._last:
            return
        self._last = done, self._lost
        speed = drawn / max(time.monotonic() - self._start, 1e-9)
        left = (self._total - done) / speed if speed else float("inf")
        self._on_progress(Progress(done, self._total, speed, left, self._engine.workers, self._lost))
