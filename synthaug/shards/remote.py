"""A folder in an object store (s3://, gs://, abfs://, memory://), or one that is only read (https://, hf://).

Such stores have no rename, no lock and no file that grows: an object appears as a whole, by one put, or not at all.
So a shard is first written to a temporary file of this machine, and then put. `create` is a put on condition that the
key is free (`If-None-Match: *` in S3). When a put fails, what stands under the key decides: a store may have done what
it did not live to say, and the libraries below ask again. Reference: fsspec's `pipe_file(..., mode="create")`.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO

from synthaug.errors import (
    DataError,
    NotInstalledError,
    OutputFolderError,
    StorageError,
    SynthaugError,
    UnknownNameError,
)
from synthaug.shards import files
from synthaug.shards.storage import BLOCK, Storage
from synthaug.shards.tar import Readable

# Stores where a put shows nothing before the last byte has come.
WHOLE_PUTS = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "memory")
_NO_RIGHT = ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError")


class RemoteStorage(Storage):
    """A folder behind a URL.

    Args:
        root: the URL; credentials and endpoints come from the environment, as its fsspec package reads them.
    """

    remote = True

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/")

    def where(self, name: str) -> str:
        return f"{self.root}/{name}"

    def names(self) -> dict[str, int]:
        system, path = self._system("")
        with _told(self.root, "listed", DataError):
            try:
                entries = system.ls(path.rstrip("/"), detail=True)
            except FileNotFoundError as error:
                if "bucket" in str(error).lower():
                    raise DataError(f"{self.root}: no such bucket ({_words(error)})") from error
                entries = []
            except NotImplementedError:
                entries = []
        sizes = {entry["name"].rstrip("/"): entry["size"] or 0 for entry in entries}
        sizes.pop(path.rstrip("/"), None)  # some stores keep a mark of the folder itself
        return {name.rpartition("/")[2]: size for name, size in sizes.items()}

    @contextmanager
    def open(self, name: str) -> Iterator[Readable]:
        system, path = self._system(name)
        with _told(self.where(name), "read", DataError):
            file = system.open(path, "rb", block_size=BLOCK)
        try:
            yield _Named(file, self.where(name))
        finally:
            file.close()

    def ranges(self, name: str, places: Sequence[tuple[int, int]]) -> list[bytes]:
        system, path = self._system(name)
        wanted = [(offset, offset + size) for offset, size in places if size]
        with _told(self.where(name), "read", DataError):
            found = system.cat_ranges(
                [path] * len(wanted),
                [start for start, _ in wanted],
                [end for _, end in wanted],
                on_error="raise",
            )
        pieces = iter(found)
        return [bytes(next(pieces)) if size else b"" for _, size in places]

    def write(self, name: str, data: bytes) -> None:
        system, path = self._writable(name)
        with _told(self.where(name), "written", OutputFolderError):
            system.pipe_file(path, data)

    def create(self, name: str, data: bytes) -> None:
        system, path = self._writable(name)
        self._create(
            name,
            lambda: system.pipe_file(path, data, mode="create"),
            lambda: hashlib.sha256(data).hexdigest(),
        )

    @contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        system, path = self._writable(name)
        with files.spooled(self.where(name)) as file:
            yield file
            file.flush()
            local = Path(file.name)
            self._create(
                name,
                lambda: system.put_file(str(local), path, mode="create"),
                lambda: files.sha256_of(local),
            )

    def remove(self, name: str) -> None:
        system, path = self._writable(name)
        with _told(self.where(name), "removed", OutputFolderError):
            system.rm_file(path)

    def lock(self) -> AbstractContextManager[None]:
        return nullcontext()

    def _create(self, name: str, put: Callable[[], Any], digest: Callable[[], str]) -> None:
        """Put on condition that the key is free, or holds these very bytes."""
        with _told(self.where(name), "written", OutputFolderError):
            try:
                put()
            except PermissionError:
                raise
            except Exception:
                found = self._digest(name)
                if found is None:
                    raise
                if found != digest():
                    raise OutputFolderError(
                        f"{self.where(name)}: another run has written something else there; choose another --out"
                    ) from None

    def _digest(self, name: str) -> str | None:
        try:
            return self.sha256(name)
        except FileNotFoundError:
            return None

    def _writable(self, name: str) -> tuple[Any, str]:
        protocol = self.root.partition("://")[0]
        if protocol not in WHOLE_PUTS:
            raise OutputFolderError(
                f"{self.root}: {protocol}:// is only read; write to a folder, or to {', '.join(WHOLE_PUTS)}"
            )
        return self._system(name)

    def _system(self, name: str) -> tuple[Any, str]:
        try:
            import fsspec
        except ImportError as error:
            raise NotInstalledError("URLs are read by fsspec; pip install 'synthaug[remote]'") from error
        url = self.where(name)
        try:
            # A listing that was kept may lack what another writer has put since.
            found: tuple[Any, str] = fsspec.core.url_to_fs(url, use_listings_cache=False)
            return found
        except ImportError as error:
            raise NotInstalledError(f"{url}: {error}; s3:// comes with 'synthaug[remote]'") from error
        except ValueError as error:
            protocol = url.partition("://")[0]
            if protocol in fsspec.available_protocols():
                raise DataError(f"{url}: not an address ({_words(error)})") from error
            raise UnknownNameError("protocol", protocol, sorted(fsspec.available_protocols())) from error


class _Named:
    """A remote file whose errors name it, and whose short reads are its end."""

    def __init__(self, file: Any, where: str) -> None:
        self.file, self.where = file, where

    def read(self, size: int, /) -> bytes:
        with _told(self.where, "read", DataError):
            data: bytes = self.file.read(size)
            while len(data) < size and (more := self.file.read(size - len(data))):
                data += more
            return data


@contextmanager
def _told(where: str, done: str, refused: type[SynthaugError]) -> Iterator[None]:
    """What the libraries behind fsspec raise, by trees of their own, as this package's errors."""
    try:
        yield
    except FileNotFoundError as error:
        if done != "read":
            raise refused(f"{where}: no such bucket or folder ({_words(error)})") from error
        if isinstance(error.__cause__, OSError):  # a server that does not answer
            raise _failed(where, done, error.__cause__) from error
        raise
    except Exception as error:
        if isinstance(error, PermissionError) or type(error).__name__ in _NO_RIGHT:
            raise refused(
                f"{where}: cannot be {done}, access denied ({_words(error)}); check the credentials and their rights"
            ) from error
        if not isinstance(error, OSError) and type(error).__module__.split(".")[0] in (
            "synthaug",
            "builtins",
        ):
            raise
        raise _failed(where, done, error) from error


def _failed(where: str, done: str, error: Exception) -> StorageError:
    return StorageError(
        f"{where}: cannot be {done} ({_words(error)}); check the address, the rights and the network, then run the "
        "same command again"
    )


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
