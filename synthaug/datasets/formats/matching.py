"""Which image a table means by a name.

Public data sets rename extensions (`00000001_000.png` in the table, `.jpg` on the disk) and move folders, so a
name is matched by its stem. Where several images share it (CheXpert's `study1/view1_frontal`), the folders
before it decide, from the last one up. Where several names of the table share it, as many folders must agree
as tell these names apart: half a download must not give one patient's labels to another's film.
"""

import posixpath
from collections.abc import Iterable, Sequence
from pathlib import Path

from synthaug.errors import DataError


class Tails:
    """Items by the end of their path: each is listed under ever longer ends until it stands alone.

    Args:
        ends: item -> its parts, the last one first: ("view1_frontal", "study1", "patient00001", "train").
    """

    def __init__(self, ends: Iterable[tuple[str, tuple[str, ...]]]) -> None:
        self.groups: dict[tuple[str, ...], list[str]] = {}
        self.depth: dict[str, int] = {}
        waiting: list[tuple[tuple[str, ...], list[tuple[str, tuple[str, ...]]]]] = [((), list(ends))]
        while waiting:
            tail, items = waiting.pop()
            split: dict[tuple[str, ...], list[tuple[str, tuple[str, ...]]]] = {}
            for item, parts in items:
                longer = parts[: len(tail) + 1]
                if len(longer) > len(tail):
                    split.setdefault(longer, []).append((item, parts))
            for longer, group in split.items():
                self.groups[longer] = [item for item, _ in group]
                if len(group) > 1:
                    waiting.append((longer, group))
            for item, parts in items:
                if len(parts) == len(tail) or len(split.get(parts[: len(tail) + 1], ())) == 1:
                    self.depth[item] = min(len(tail), len(parts) - 1)

    def narrow(self, parts: Sequence[str]) -> tuple[list[str], int]:
        """The items that share the longest end with `parts`, and how many folders of it that is."""
        group: list[str] = []
        for length in range(1, len(parts) + 1):
            found = self.groups.get(tuple(parts[:length]))
            if found is None:
                return group, length - 2
            group = found
            if len(group) == 1:
                return group, length - 1
        return group, len(parts) - 1


class ImageIndex:
    """Images by name.

    Args:
        root: folder that the images lie under.
        paths: the images.
        names: those that the table will ask for; what they share decides how much of a path must agree.
    """

    def __init__(self, root: Path, paths: Sequence[Path], names: Iterable[str] = ()) -> None:
        self.root = root
        self.paths = {path.relative_to(root).as_posix(): path for path in paths}
        self.stems = {path.stem for path in paths}
        self._images = Tails((item, self._parts(item, path.stem)) for item, path in self.paths.items())
        distinct = {plain for name in names if (plain := _plain(name))}
        self._names = Tails((name, self._ends(name)) for name in distinct)

    def match(self, name: str) -> Path | None:
        """The image that a table calls `name` (with or without folders and suffix), or None.

        Raises:
            DataError: several images fit equally well.
        """
        plain = _plain(name)
        parts = self._ends(plain)
        group, agreed = self._images.narrow(parts)
        if len(group) == 1:
            agreed = self._agreement(group[0], parts)
        if not group or agreed < self._names.depth.get(plain, 0):
            return None
        if len(group) > 1:
            suffix = posixpath.splitext(plain)[1].lower()
            group = [item for item in group if item.lower().endswith(suffix)] or group
        if len(group) > 1:
            raise DataError(
                f"{self.root}: {name!r} fits {len(group)} images ({', '.join(group[:3])}); "
                "give the path in the table"
            )
        return self.paths[group[0]]

    def _ends(self, plain: str) -> tuple[str, ...]:
        base = posixpath.basename(plain)
        return self._parts(plain, base if base in self.stems else posixpath.splitext(base)[0])

    @staticmethod
    def _parts(path: str, stem: str) -> tuple[str, ...]:
        folders = [part for part in posixpath.dirname(path).split("/") if part not in ("", ".")]
        return (stem, *reversed(folders))

    def _agreement(self, item: str, parts: Sequence[str]) -> int:
        """How many folders before the name agree."""
        count = 0
        for mine, theirs in zip(self._parts(item, "")[1:], parts[1:], strict=False):
            if mine != theirs:
                break
            count += 1
        return count


def _plain(name: str) -> str:
    return name.strip().replace("\\", "/")
