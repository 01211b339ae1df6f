"""Files that are whole or absent, and one writer a folder."""

import contextlib
import errno
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from synthaug.errors import DiskFullError, OutputFolderError, SynthaugError

TEMPORARY = ".tmp"
LOCK = ".synthaug.lock"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[BinaryIO]:
    """A binary file to write, which takes its name only when the block ends well.

    The temporary name is fixed (`.NAME.tmp`), so that what a killed run left is written over by the next.

    Raises:
        DiskFullError: no room; nothing is left behind.
        OutputFolderError: the folder cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}{TEMPORARY}")
    try:
        try:
            with open(temporary, "wb") as file:
                yield file
                settle(file)
            os.replace(temporary, path)
            fsync_folder(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
    except OSError as error:
        # An error of the block about a file elsewhere is not ours to explain.
        if error.filename is not None and Path(os.fsdecode(error.filename)) not in (temporary, path.parent):
            raise
        raise _translated(path, error) from error


def settle(file: BinaryIO) -> None:
    """Have what was written to a file on the disk."""
    file.flush()
    os.fsync(file.fileno())


def atomic_write(path: str | Path, data: bytes) -> None:
    """Write a file that is either whole or not there.

    Raises:
        DiskFullError: no room; nothing is left behind.
        OutputFolderError: the folder cannot be written.
    """
    with atomic(path) as file:
        file.write(data)


@contextlib.contextmanager
def spooled(where: str) -> Iterator[BinaryIO]:
    """A temporary file of this machine for what then goes elsewhere, to `where`.

    Raises:
        DiskFullError: no room for it.
    """
    try:
        with tempfile.NamedTemporaryFile(prefix="synthaug-") as file:
            yield file  # type: ignore[misc]
    except OSError as error:
        if error.errno not in _FULL or error.filename not in (None, tempfile.gettempdir()):
            raise
        raise DiskFullError(
            f"{tempfile.gettempdir()}: no room left for a shard on its way to {where} ({error.strerror}); free some "
            "space or set TMPDIR, and run the same command again"
        ) from error


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder last a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """SHA-256 (hex) of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def lock(folder: str | Path) -> Iterator[None]:
    """Hold a folder (made if absent) against a second writer; the lock ends with the process, killed or not.

    Raises:
        OutputFolderError: another process writes there, or the folder cannot be made.
        DiskFullError: no room for the folder.
    """
    folder = Path(folder)
    path = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _acquire(path)
    except BlockingIOError as error:
        raise OutputFolderError(
            f"{folder}: another process is writing there; wait for it or choose another --out"
        ) from error
    except OSError as error:
        raise _translated(folder, error) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(descriptor)


def _acquire(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The holder before us may have removed the name between our open and our lock.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _translated(path: Path, error: OSError) -> SynthaugError:
    if error.errno in _FULL:
        return DiskFullError(
            f"{path}: no room left ({error.strerror}); free some space and run the same command again"
        )
    return OutputFolderError(f"{path}: cannot be written ({error.strerror or error}); choose another --out")
