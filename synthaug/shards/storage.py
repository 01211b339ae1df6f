"""Where a folder of shards lies: on this machine, or in a store behind a URL that fsspec knows.

              this machine                            a store (`synthaug.shards.remote`)
    write     temporary name, fsync, rename           one put of the whole object
    create    the same; the lock keeps others away    a conditional put: other bytes under that key stand
    lock      a second writer is refused at once      none: of two writers the first `create` counts

A name that can be seen is a file that is whole, on either. A storage is a plain value: each access opens its own
connection, so that it travels to forked and spawned DataLoader workers.
"""

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO

from synthaug.errors import UserError
from synthaug.shards import files
from synthaug.shards.tar import Readable

BLOCK = 1 << 22  # bytes asked for at a time
_LOCAL = ("file://", "local://")
_FOLDED = re.compile(r"[a-z][a-z0-9+.-]+:/[^/]")


class Storage(ABC):
    """A folder of files with plain names.

    Every method may raise, beside what it says, in a store:
        NotInstalledError, UnknownNameError: the URL needs another package, or has no known protocol.
        StorageError: the store does not answer, or not as it should.
        UserError: no such bucket, or no right to it.
    """

    root: str
    remote: bool

    @abstractmethod
    def where(self, name: str) -> str:
        """The path or URL of a file."""

    @abstractmethod
    def names(self) -> dict[str, int]:
        """What is there, folders too, with sizes in bytes; nothing where there is no such folder."""

    @abstractmethod
    def open(self, name: str) -> AbstractContextManager[Readable]:
        """A file to read from front to back.

        Raises:
            FileNotFoundError: it is not there.
        """

    @abstractmethod
    def ranges(self, name: str, places: Sequence[tuple[int, int]]) -> list[bytes]:
        """Pieces of a file by offset and size.

        Raises:
            FileNotFoundError: it is not there.
        """

    @abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """Write a file in place of the one that is there.

        Raises:
            DiskFullError, OutputFolderError: no room, or no right; what was there is there.
        """

    @abstractmethod
    def create(self, name: str, data: bytes) -> None:
        """Write a file that no other writer may have written otherwise; the caller holds the lock.

        Raises:
            OutputFolderError: in a store, other bytes have that name; and as in `write`.
        """

    @abstractmethod
    def writing(self, name: str) -> AbstractContextManager[BinaryIO]:
        """A file to write from front to back, which is there when the block ends well: `create` for large ones."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file that is there."""

    @abstractmethod
    def lock(self) -> AbstractContextManager[None]:
        """Hold the folder, made if absent, against a second writer; a store cannot.

        Raises:
            OutputFolderError: another process holds it, or it cannot be made.
        """

    def exists(self, name: str) -> bool:
        """Whether a file is there."""
        return name in self.names()

    def read(self, name: str) -> bytes:
        """A small file as a whole.

        Raises:
            FileNotFoundError: it is not there.
        """
        with self.open(name) as file:
            return b"".join(_blocks(file))

    def sha256(self, name: str) -> str:
        """SHA-256 (hex) of a file.

        Raises:
            FileNotFoundError: it is not there.
        """
        with self.open(name) as file:
            return Hashing(file).to_end()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.root!r})"


class LocalStorage(Storage):
    """A folder on this machine."""

    remote = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = str(folder)

    def where(self, name: str) -> str:
        return str(self.folder / name)

    def names(self) -> dict[str, int]:
        if not self.folder.is_dir():
            return {}
        return {path.name: path.lstat().st_size for path in self.folder.iterdir()}

    def exists(self, name: str) -> bool:
        return (self.folder / name).is_file()

    @contextmanager
    def open(self, name: str) -> Iterator[Readable]:
        with open(self.folder / name, "rb") as file:
            yield file

    def ranges(self, name: str, places: Sequence[tuple[int, int]]) -> list[bytes]:
        pieces = []
        with open(self.folder / name, "rb", buffering=0) as file:
            for offset, size in places:
                file.seek(offset)
                pieces.append(file.read(size))
        return pieces

    def write(self, name: str, data: bytes) -> None:
        files.atomic_write(self.folder / name, data)

    def create(self, name: str, data: bytes) -> None:
        self.write(name, data)

    def writing(self, name: str) -> AbstractContextManager[BinaryIO]:
        return files.atomic(self.folder / name)

    def remove(self, name: str) -> None:
        (self.folder / name).unlink()

    def lock(self) -> AbstractContextManager[None]:
        return files.lock(self.folder)


class Hashing:
    """A file read from front to back, with the size and SHA-256 of what was read."""

    def __init__(self, file: Readable) -> None:
        self._file, self._digest, self.size = file, hashlib.sha256(), 0

    def read(self, size: int, /) -> bytes:
        data = self._file.read(size)
        self._digest.update(data)
        self.size += len(data)
        return data

    def to_end(self) -> str:
        """Read what is left; the SHA-256 (hex) of it all."""
        for _ in _blocks(self):
            pass
        return self._digest.hexdigest()


def local_path(root: str | Path) -> Path | None:
    """The folder on this machine that a path or file:// URL names; None for the URL of a store.

    Raises:
        UserError: a `Path` made from a URL, which `pathlib` has mangled.
    """
    text = str(root)
    if isinstance(root, Path):
        if _FOLDED.match(text):
            raise UserError(f"{text}: pathlib drops a slash of URLs; give the URL as text (str)")
        return root
    for protocol in _LOCAL:
        if text.startswith(protocol):
            return Path(text.removeprefix(protocol))
    return None if "://" in text else Path(text)


def open_storage(root: str | Path) -> Storage:
    """The storage of a folder, by path or URL; nothing is looked up yet.

    Raises:
        UserError: a `Path` made from a URL.
    """
    folder = local_path(root)
    if folder is not None:
        return LocalStorage(folder)
    from synthaug.shards.remote import RemoteStorage

    return RemoteStorage(str(root))


def _blocks(file: Readable) -> Iterator[bytes]:
    while data := file.read(BLOCK):
        yield data
