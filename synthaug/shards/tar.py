"""The one tar dialect of shards: ustar headers, plain files, plain names, two zero blocks at the end.

Reading is stricter than `tarfile`, which stops without a word at the first damaged header.
Reference: POSIX.1-1988 (ustar); `tarfile.TarInfo` packs and checks the headers.
"""

import tarfile
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from synthaug.errors import CorruptShardError, DataError

BLOCK = tarfile.BLOCKSIZE
END = bytes(2 * BLOCK)
MAX_MEMBER = 1 << 28


class Readable(Protocol):
    """Anything that can be read from front to back."""

    def read(self, size: int, /) -> bytes: ...


class Member(NamedTuple):
    """One file of a tar: its name, where its bytes begin, and the bytes."""

    name: str
    offset: int
    data: bytes


def pack(name: str, data: bytes) -> bytes:
    """Header, bytes and padding of one member, the same bytes every time.

    Raises:
        DataError: the name does not fit a ustar header.
    """
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = 0o644
    try:
        header = info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict")
    except ValueError as error:
        raise DataError(
            f"{name}: too long a name for a shard ({error}); use keys under 90 letters"
        ) from error
    return header + data + bytes(-len(data) % BLOCK)


def members(file: Readable, path: str) -> Iterator[Member]:
    """The members of a tar, in order, read from front to back without seeking.

    Args:
        file: open for reading at the tar's begin.
        path: names the tar in messages.

    Raises:
        CorruptShardError: truncated, a damaged header, a link or device, or an unsafe name.
    """
    offset = 0
    while True:
        header = _take(file, BLOCK, path, offset)
        if header == bytes(BLOCK):
            if _take(file, BLOCK, path, offset) != header or file.read(1):
                raise CorruptShardError(f"{path}: bytes after the end of the tar, at {offset}")
            return
        info = _checked(header, path, offset)
        data = _take(file, info.size, path, offset)
        yield Member(info.name, offset + BLOCK, data)
        padding = -info.size % BLOCK
        if _take(file, padding, path, offset) != bytes(padding):
            raise CorruptShardError(f"{path}: {info.name}: found bytes in its padding, expected zeros")
        offset += BLOCK + info.size + padding


def _checked(header: bytes, path: str, offset: int) -> tarfile.TarInfo:
    try:
        info = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
    except (tarfile.HeaderError, ValueError) as error:
        raise CorruptShardError(f"{path}: damaged tar header at byte {offset} ({error})") from error
    if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
        raise CorruptShardError(
            f"{path}: {info.name!r} is not a plain file (a link, device or folder); refused"
        )
    if "/" in info.name or "\\" in info.name or info.name in ("", ".", ".."):
        raise CorruptShardError(
            f"{path}: {info.name!r} is not a plain name (absolute, or with folders); refused"
        )
    if not 0 <= info.size <= MAX_MEMBER:
        raise CorruptShardError(
            f"{path}: {info.name!r} claims {info.size} bytes, expected at most {MAX_MEMBER}"
        )
    return info


def _take(file: Readable, size: int, path: str, offset: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise CorruptShardError(f"{path}: truncated: ends inside the member at byte {offset}")
    return data
