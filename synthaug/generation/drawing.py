"""What a worker of a run does: try the device, time a few films, or draw and write shards.

A worker loads the checkpoint itself, when it first needs it; one that was loaded already does not travel.
"""

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from synthaug import __version__, images
from synthaug import findings as vocabulary
from synthaug.diffusion import Checkpoint, Settings, load_checkpoint, resolve, sample
from synthaug.diffusion.device import choose_device, dtype_name
from synthaug.engines import Work
from synthaug.errors import CheckpointError, ClusterError, OutOfMemoryError, OutputFolderError
from synthaug.generation.duplicates import Fingerprints
from synthaug.generation.execution import (
    EXECUTION,
    Execution,
    device_kind,
    is_out_of_memory,
    probe,
    running,
    versions,
)
from synthaug.generation.folder import RECIPE
from synthaug.generation.gated import Earlier, batches
from synthaug.generation.gates import Judge, Rejection
from synthaug.generation.plan import KEY, GenerateRecipe
from synthaug.generation.writing import ShardWriter, own_folder, publish
from synthaug.record import Record
from synthaug.shards import ShardEntry, existing_shard, open_storage


@dataclass(frozen=True)
class Artist:
    """A resolved recipe and the checkpoint to draw it with, wherever this is.

    Args:
        recipe: resolved.
        model: what the checkpoint is loaded from.
        device: "cuda", "mps" or "cpu", or one with a number.
        dtype: None takes what the device is quick with.
        loaded: the checkpoint, where this process has it.
    """

    recipe: GenerateRecipe
    model: str
    device: str
    dtype: str | None = None
    loaded: Checkpoint | None = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "loaded": None}

    def ready(self) -> "Artist":
        """With the checkpoint, on its device and in its precision.

        Raises:
            CheckpointError: it is not there, or another than the recipe was resolved against.
        """
        if self.loaded is not None:
            return replace(self, loaded=fitted(self.loaded, self.device, self.dtype))
        checkpoint = load_checkpoint(self.model, self.device, self.dtype)
        named = self.recipe.checkpoint
        if named is not None and checkpoint.sha256 != named.sha256:
            raise CheckpointError(
                f"--model {self.model}: found checkpoint {checkpoint.sha256[:8]} there, the run draws with {named.name} "
                f"({named.sha256[:8]})"
            )
        return replace(self, loaded=checkpoint)

    @property
    def checkpoint(self) -> Checkpoint:
        """The loaded checkpoint."""
        if self.loaded is None:
            raise RuntimeError("the artist is not ready")
        return self.loaded

    @property
    def settings(self) -> Settings:
        """What the sampler is told."""
        return resolve(self.checkpoint, **self.recipe.sampling)

    def draw(self, places: Sequence[int], noise: Sequence[int]) -> np.ndarray:
        """The films of these places, from these noise indexes: uint8 (B, 1, H, W).

        Raises:
            OutOfMemoryError: no room for so many.
        """
        recipe = self.recipe
        entries = list(recipe.entries(places))
        try:
            return sample(
                self.checkpoint,
                [entry.prompt or "" for entry in entries],
                [(recipe.seed, index) for index in noise],
                negative_prompts=[entry.negative_prompt or "" for entry in entries],
                **recipe.sampling,
            )
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemoryError(
                f"{self.checkpoint.device.type}: a batch of {len(places)} no longer fits in memory; free some and run "
                f"the same command again, or delete {EXECUTION} in the output folder and give a smaller --batch-size"
            ) from error


def fitted(checkpoint: Checkpoint, device: str, dtype: str | None) -> Checkpoint:
    """The checkpoint on a device of that kind, in that precision."""
    same = checkpoint.device.type == device.partition(":")[0] and dtype in (
        None,
        dtype_name(checkpoint.dtype),
    )
    return checkpoint if same else checkpoint.to(choose_device(device), dtype and getattr(torch, dtype))


@dataclass(frozen=True)
class Trying:
    """The job that begins a run: its task, a batch size, becomes the execution that fits the device."""

    artist: Artist
    threads: int

    def kind(self) -> str:
        """The device of this process."""
        return device_kind(self.artist.device)

    def open(self) -> Work:
        """See `synthaug.engines.Job`."""
        artist = self.artist.ready()

        def work(batch_size: int) -> Generator[int, None, Execution]:
            yield 0
            return probe(artist.checkpoint, artist.settings, batch_size, self.threads)

        return work


@dataclass(frozen=True)
class Timing:
    """The job of a dry run: draw a batch of as many films as its task says; seconds and stored bytes of one film."""

    artist: Artist
    execution: Execution

    def kind(self) -> str:
        """The device of this process."""
        return device_kind(self.artist.device)

    def open(self) -> Work:
        """See `synthaug.engines.Job`."""
        artist = self.artist.ready()

        def work(count: int) -> Generator[int, None, tuple[float, float]]:
            yield 0
            with running(self.execution):
                artist.draw((0,), (0,))  # the first call pays for what later ones find done
                start = time.perf_counter()
                films = artist.draw(range(count), range(count))
                stored = [images.encode(film, artist.recipe.format) for film in films[:, 0]]
                return (time.perf_counter() - start) / count, sum(map(len, stored)) / count

        return work


@dataclass(frozen=True, slots=True)
class ShardTask:
    """One shard to be there: its number, and the earlier shards where films are compared with theirs."""

    number: int
    before: tuple[ShardEntry, ...] = ()

    def __str__(self) -> str:
        return f"shard {self.number}"


@dataclass(frozen=True, slots=True)
class Written:
    """A shard that is there, and how many of its films were drawn for it now: all, or none."""

    entry: ShardEntry
    drawn: int


@dataclass(frozen=True)
class Drawing:
    """The job of a run: its tasks are shards. A whole one that lies there is kept; any other is drawn anew."""

    artist: Artist
    execution: Execution
    folder: str | Path
    versions: Mapping[str, str]
    judge: Judge | None = None

    def kind(self) -> str:
        """The device of this process."""
        return device_kind(self.artist.device)

    def open(self) -> Work:
        """See `synthaug.engines.Job`.

        Raises:
            ClusterError: other versions here than where the run was begun.
            OutputFolderError: the folder of the run is not seen here.
        """
        here = versions()
        differing = [
            f"{name} is {here.get(name)} there, {there} here"
            for name, there in self.versions.items()
            if here.get(name) != there
        ]
        if differing:
            raise ClusterError(f"{', '.join(differing)}; install the same versions on every node")
        if not open_storage(self.folder).exists(RECIPE):
            raise OutputFolderError(
                f"{self.folder}: not seen here; --out must be a folder that all workers share, or the URL of a store"
            )
        ready, earlier = list[Artist](), Earlier(self.folder)

        def work(task: ShardTask) -> Generator[int, None, Written]:
            places = self.artist.recipe.shard(task.number)
            entry = existing_shard(self.folder, task.number)
            if entry is not None and entry.count == len(places):
                return Written(entry, 0)
            if not ready:
                ready.append(self.artist.ready())
            with running(self.execution):
                entry = yield from self._write(ready[0], task, places, earlier.of(task.before))
            earlier.written()
            return Written(entry, entry.count)

        return work

    def _write(
        self, artist: Artist, task: ShardTask, places: range, earlier: Fingerprints
    ) -> Generator[int, None, ShardEntry]:
        """Draw and write one shard; yields how many of its films are drawn."""
        rejected: dict[int, list[Rejection]] = {}
        films = batches(
            artist.recipe,
            places,
            self.execution.batch_size,
            artist.draw,
            rejected,
            earlier,
            self.judge,
        )
        with own_folder(self.folder) as own:
            with ShardWriter(own, task.number, partial(_samples, artist.recipe, rejected)) as writer:
                for part, block in films:
                    writer.put(part, block)
                    yield part.stop - places.start
                entry = writer.finish()
            publish(own, self.folder, entry.index_name, entry.name)
        return entry


def _samples(
    recipe: GenerateRecipe, rejected: Mapping[int, list[Rejection]], indexes: range, films: np.ndarray
) -> Iterator[tuple[Record, bytes, str]]:
    ending = images.extension(recipe.format)
    for index, entry, film in zip(indexes, recipe.entries(indexes), films[:, 0], strict=True):
        known = {name: float("nan") if value is None else value for name, value in entry.labels.items()}
        values = vocabulary.vector(known, recipe.findings)
        measured: dict[str, Any] = quality(film)
        if recipe.gates is not None:
            measured["index"] = len(rejected.get(index, ())) * recipe.count + index
            measured["rejected"] = [one.to_json() for one in rejected.get(index, ())]
        record = Record(
            key=KEY.format(index),
            labels=dict(zip(recipe.findings, values.tolist(), strict=True)),
            view=entry.view,
            age=entry.age,
            sex=entry.sex,
            prompt=entry.prompt,
            synthetic=True,
            provenance={
                "negative_prompt": entry.negative_prompt,
                "seed": recipe.seed,
                **recipe.sampling_facts(),
                "checkpoint": recipe.checkpoint.model_dump() if recipe.checkpoint else None,
                "quality": measured,
                "synthaug_version": __version__,
            },
        )
        yield record, images.encode(film, recipe.format), ending


def quality(film: np.ndarray) -> dict[str, float]:
    """Grey levels of one film (H, W) uint8: mean, standard deviation, share of pixels at 0 or 255."""
    saturated = np.mean((film == 0) | (film == 255))
    return {
        "mean": round(float(film.mean()), 3),
        "std": round(float(film.std()), 3),
        "saturated": round(float(saturated), 5),
    }
