"""Where a run is executed, and the execution that fits there."""

import warnings
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from synthaug.diffusion import Checkpoint
from synthaug.engines import Engine, Event, Job, Local, only_result
from synthaug.generation.drawing import Artist, Trying
from synthaug.generation.execution import BATCH_SIZES, Execution


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run is executed: the engine, what its workers load, their device, and their threads (None: by default)."""

    engine: Engine
    model: str
    device: str
    threads: int | None = None

    def all_threads(self) -> int:
        """Threads of a worker."""
        return self.threads or self.engine.threads(self.device, torch.get_num_threads())

    def run(self, job: Job, tasks: Iterable[Any], threads: int) -> Generator[Event, None, None]:
        """The events of a job."""
        return self.engine.run(job, tasks, threads, self.device)


def here(checkpoint: Checkpoint, threads: int | None = None) -> Place:
    """This process."""
    return Place(Local(), checkpoint.name, checkpoint.device.type, threads)


def fitting_execution(artist: Artist, place: Place, batch_size: int | None) -> Execution:
    """The execution of a new run, tried on a worker.

    Raises:
        OutOfMemoryError: not even one image fits.
    """
    wanted = batch_size or BATCH_SIZES[place.device]
    wanted = min(wanted, artist.recipe.count, artist.recipe.shard_size)
    threads = place.all_threads()
    execution: Execution = only_result(place.run(Trying(artist, threads), [wanted], threads))
    if batch_size and execution.batch_size < wanted:
        warnings.warn(
            f"--batch-size {wanted} does not fit in memory; using {execution.batch_size}", stacklevel=3
        )
    return execution
