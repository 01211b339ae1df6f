"""Films into shards: packing, merging, and what splitting and de-duplicating write.

    OUT/pack.json              written first: what is packed (a digest of the films) and how
    OUT/shard-000000.tar ...   as `synthaug.shards` lays out; keys are running numbers
    OUT/manifest.json          written last

A shard holds the films of its own range of numbers, so shards are independent of each other and of the number
of processes, and equal films give equal bytes. The same command resumes: shards that are whole are kept, all
others are written again. A film's former key is `provenance["source_key"]`.
"""

import ctypes
import hashlib
import io
import json
import os
import signal
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from synthaug.datasets.formats.listing import AnyFilm
from synthaug.datasets.formats.shards import ShardFilms
from synthaug.errors import DataError, ImageError, OutputFolderError
from synthaug.images import encode, extension, read, resize
from synthaug.record import Record
from synthaug.shards import (
    Manifest,
    ShardEntry,
    Storage,
    existing_shard,
    open_storage,
    read_manifest,
    shard_name,
    write_manifest,
    write_shard,
)
from synthaug.shards.manifest import MANIFEST

PLAN = "pack.json"
SCHEMA = 1

_KEEP = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpg", b"RIFF": "webp"}
_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Packing:
    """How films are packed.

    Args:
        shard_size: films in a shard, before bad ones are left out.
        format: "keep" copies grey 8-bit PNG, JPEG and WebP as they are and turns everything else into PNG;
            "png", "jpeg" and "webp" encode every film.
        image_size: resize to a square of this many pixels; as stored when None.
        fit: how: "crop", "pad" or "squash".
        skip_bad: leave out films that cannot be read; `left_out` of the manifest counts them.
    """

    shard_size: int = 1000
    format: Literal["keep", "png", "jpeg", "webp"] = "keep"
    image_size: int | None = None
    fit: str = "crop"
    skip_bad: bool = False


def pack(
    films: Sequence[AnyFilm],
    out: str | Path,
    packing: Packing | None = None,
    processes: int = 1,
    progress: Callable[[int, int], None] | None = None,
    **facts: Any,
) -> Manifest:
    """Write films as shards; the same call resumes.

    Args:
        films: of a data set: `RealRadiographs(...).films`.
        out: the folder, made if absent; or the URL of one in an object store.
        packing: how.
        processes: shards written at the same time.
        progress: called with (films done, films in all) after each shard.
        facts: plain JSON values for the manifest.

    Raises:
        DataError: no film, or real films among synthetic ones.
        ImageError: a film that cannot be read (without `skip_bad`); the message names it.
        OutputFolderError: the folder holds something else, or another process writes there.
        DiskFullError, StorageError: no room, no answer; what is there is whole, and the same call goes on.
    """
    packing, storage = packing or Packing(), open_storage(out)
    if not len(films):
        raise DataError(f"{out}: no film to pack")
    if packing.shard_size < 1:
        raise DataError(f"--shard-size: found {packing.shard_size}, expected 1 or more")
    with storage.lock():
        plan = {"schema": SCHEMA, "films": len(films), "digest": digest(films), **asdict(packing), **facts}
        begin(storage, plan, PLAN)
        there = storage.names()
        if MANIFEST in there:
            return read_manifest(out)
        tasks = [
            _Shard(
                storage.root,
                number,
                start,
                films[start : start + packing.shard_size],
                packing,
                shard_name(number) in there,
            )
            for number, start in enumerate(range(0, len(films), packing.shard_size))
        ]
        if storage.root.startswith("memory:"):
            processes = 1  # no other process sees what this one remembers
        entries, kinds = [], set()
        for done, (entry, kind) in enumerate(_run(tasks, processes), 1):
            entries.append(entry)
            kinds |= kind
            if len(kinds) > 1:
                raise DataError(f"{out}: found real and synthetic films, expected one kind; pack them apart")
            if progress is not None:
                progress(min(done * packing.shard_size, len(films)), len(films))
        left_out = len(films) - sum(entry.count for entry in entries)
        kept = {key: value for key, value in plan.items() if key not in ("schema", "films", "digest")}
        return write_manifest(
            out,
            entries,
            synthetic=kinds == {True},
            left_out=left_out,
            source_digest=plan["digest"],
            pack=kept,
        )


def begin(storage: Storage, plan: dict[str, Any], name: str) -> None:
    """Write the plan of a folder, or make sure that the folder has the same one.

    Raises:
        OutputFolderError: another plan, or a folder that something else fills.
    """
    out, path = storage.root, storage.where(name)
    try:
        text = storage.read(name)
    except FileNotFoundError:
        if others := sorted(other for other in storage.names() if not other.startswith(".")):
            raise OutputFolderError(
                f"{out}: found {', '.join(others[:3])}, expected an empty folder; choose another --out"
            ) from None
        storage.create(name, (json.dumps(plan, indent=2, ensure_ascii=False) + "\n").encode())
        return
    try:
        found = json.loads(text)
        differing = sorted(key for key in plan.keys() | found.keys() if plan.get(key) != found.get(key))
    except (ValueError, AttributeError, RecursionError) as error:
        raise OutputFolderError(f"{path}: damaged ({error}); choose another --out") from error
    if differing:
        raise OutputFolderError(
            f"{out}: holds something else: {', '.join(differing)} differ from {path}; choose another --out"
        )


def digest(films: Sequence[AnyFilm]) -> str:
    """SHA-256 (hex) of what is packed: records and file sizes, or the manifests of shards."""
    hashed = hashlib.sha256()
    if isinstance(films, ShardFilms):
        for entry in films.shards.manifest.shards:
            hashed.update(entry.sha256.encode())
        hashed.update(films.numbers.astype("<i8").tobytes())
        return hashed.hexdigest()
    for film in films:
        path = Path(film.path)
        size = path.stat().st_size if path.is_file() else 0
        hashed.update(film.record.to_bytes() + f"\n{size}\n".encode())
    return hashed.hexdigest()


def sample(film: AnyFilm, key: str, packing: Packing) -> tuple[Record, bytes, str]:
    """The record (renamed), image and extension of one film.

    Raises:
        ImageError: it cannot be read; the message names it.
    """
    try:
        source = film.source()
        pixels = read(source)
    except ImageError as error:
        reason = str(error) if film.name in str(error) else f"{film.name}: {error}"
        raise ImageError(f"{reason}; --skip-bad leaves such films out") from error
    old = film.record
    record = replace(old, key=key, provenance={"source_key": old.key, **old.provenance})
    if packing.image_size is not None:
        pixels = resize(pixels, packing.image_size, packing.fit)
    elif packing.format == "keep":
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
        ending = next((name for start, name in _KEEP.items() if data.startswith(start)), None)
        if ending and _is_plain_grey(data):
            return record, data, ending
    format = "png" if packing.format == "keep" else packing.format
    return record, encode(pixels, format), extension(format)


def _is_plain_grey(data: bytes) -> bool:
    """Whether decoding gives the stored pixels: 8-bit grey, not turned by a camera's orientation."""
    with Image.open(io.BytesIO(data)) as image:
        return image.mode == "L" and image.getexif().get(0x0112, 1) == 1


@dataclass(frozen=True, slots=True)
class _Shard:
    folder: str
    number: int
    start: int
    films: Sequence[AnyFilm]
    packing: Packing
    begun: bool  # whether an earlier run has left it


def _write(task: _Shard) -> tuple[ShardEntry, set[bool]]:
    kinds: set[bool] = set()

    def samples() -> Iterable[tuple[Record, bytes, str]]:
        for number, film in enumerate(task.films, task.start):
            try:
                made = sample(film, f"{number:09d}", task.packing)
            except ImageError:
                if not task.packing.skip_bad:
                    raise
                continue
            kinds.add(made[0].synthetic)
            yield made

    whole = existing_shard(task.folder, task.number) if task.begun else None
    if whole is not None:
        return whole, {film.record.synthetic for film in task.films[:1]}
    return write_shard(task.folder, task.number, samples()), kinds


def _run(tasks: Sequence[_Shard], processes: int) -> Iterable[tuple[ShardEntry, set[bool]]]:
    if processes <= 1 or len(tasks) <= 1:
        yield from map(_write, tasks)
        return
    # Spawned, not forked: a fork would hold the folder's lock after this process has died.
    pool = ProcessPoolExecutor(
        min(processes, len(tasks)), get_context("spawn"), initializer=_die_with, initargs=(os.getpid(),)
    )
    with pool:
        futures = [pool.submit(_write, task) for task in tasks]
        try:
            for future in futures:
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _die_with(parent: int) -> None:
    """Be killed when the parent is: the next run must not meet this one's writers."""
    ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
