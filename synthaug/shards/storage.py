"""Where a folder of shards lies: on this machine, or behind any URL that fsspec knows (s3://, gs://, hf://, https://).

A remote folder is only ever read, from front to back. Each access opens its own connection lazily, so that a
storage travels to forked and spawned DataLoader workers like a plain value.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from synthaug.errors import CorruptShardError, DataError, NotInstalledError, UnknownNameError
from synthaug.shards.tar import Readable

BLOCK = 1 << 22  # bytes asked for at a time


class Storage:
    """A folder of shards by path or URL.

    Args:
        root: a folder, or a URL.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = str(root)
        self.remote = "://" in self.root

    def where(self, name: str) -> str:
        """The path or URL of a file."""
        return f"{self.root.rstrip('/')}/{name}" if self.remote else str(Path(self.root) / name)

    def read(self, name: str) -> bytes:
        """A small file as a whole.

        Raises:
            FileNotFoundError: it is not there.
            CorruptShardError: it cannot be read.
            NotInstalledError, UnknownNameError: the URL needs another package, or has no known protocol.
        """
        with self.open(name) as file:
            return b"".join(iter(lambda: file.read(BLOCK), b""))

    @contextmanager
    def open(self, name: str) -> Iterator[Readable]:
        """A file to read from front to back.

        Raises:
            FileNotFoundError, CorruptShardError, NotInstalledError, UnknownNameError: as in `read`.
        """
        if not self.remote:
            with open(self.where(name), "rb") as local:
                yield local
            return
        try:
            system, path = self._filesystem(name)
            with system.open(path, "rb", block_size=BLOCK) as file:
                yield _Named(file, self.where(name))
        except FileNotFoundError as error:
            if self.remote and isinstance(error.__cause__, OSError):  # a server that does not answer
                raise _unreachable(self.where(name), error.__cause__) from error
            raise
        except OSError as error:
            raise _unreachable(self.where(name), error) from error
        except Exception as error:
            # The libraries behind fsspec have exception trees of their own.
            if type(error).__module__.split(".")[0] in ("synthaug", "builtins"):
                raise
            raise _unreachable(self.where(name), error) from error

    def _filesystem(self, name: str) -> tuple[Any, str]:
        try:
            import fsspec
        except ImportError as error:
            raise NotInstalledError("URLs are read by fsspec; pip install 'synthaug[remote]'") from error
        url = self.where(name)
        try:
            found: tuple[Any, str] = fsspec.core.url_to_fs(url)
            return found
        except ImportError as error:
            raise NotInstalledError(f"{url}: {error}") from error
        except ValueError as error:
            protocol = url.partition("://")[0]
            raise UnknownNameError("protocol", protocol, sorted(fsspec.available_protocols())) from error


class _Named:
    """A remote file whose errors name it."""

    def __init__(self, file: Any, where: str) -> None:
        self.file, self.where = file, where

    def read(self, size: int, /) -> bytes:
        try:
            data: bytes = self.file.read(size)
            while len(data) < size and (more := self.file.read(size - len(data))):
                data += more
            return data
        except Exception as error:
            raise _unreachable(self.where, error) from error


def _unreachable(where: str, error: Exception) -> CorruptShardError:
    told = " ".join(str(error).split())[:200] or type(error).__name__
    return CorruptShardError(
        f"{where}: cannot be read ({told}); check the address, the rights and the network"
    )


def missing(where: str) -> DataError:
    """No manifest at an address."""
    return DataError(
        f"{where}: missing: not a folder of shards, or an unfinished run (run its command again)"
    )
