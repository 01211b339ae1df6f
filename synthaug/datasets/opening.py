"""Open a folder as what it holds: synthetic shards or real radiographs."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from synthaug.datasets.formats.files import existing_folder
from synthaug.datasets.formats.shards import detect
from synthaug.datasets.real import RealRadiographs
from synthaug.datasets.synthetic import SyntheticRadiographs
from synthaug.shards import ShardSet, local_path


def open_radiographs(
    root: str | Path,
    findings: str | Sequence[str] | None = None,
    transform: Callable[[Any], Any] | None = None,
    target_transform: Callable[[Any], Any] | None = None,
    **reading: Any,
) -> RealRadiographs | SyntheticRadiographs:
    """A folder as `SyntheticRadiographs` where its shards are synthetic, else as `RealRadiographs`.

    Args:
        root: the folder, or the URL of a folder of shards.
        findings, transform, target_transform: as in both.
        reading: any other keyword of that class.

    Raises:
        DataError, CorruptShardError, UnknownNameError: as in both.
    """
    folder = str(root) if local_path(root) is None else existing_folder(root)
    if (isinstance(folder, str) or detect(folder)) and any(
        record.synthetic for record in _first(ShardSet(folder))
    ):
        return SyntheticRadiographs(folder, findings, transform, target_transform, **reading)
    return RealRadiographs(
        folder, findings=findings, transform=transform, target_transform=target_transform, **reading
    )


def _first(shards: ShardSet) -> list[Any]:
    return [record for record, _ in zip(shards.records(), range(1), strict=False)]
