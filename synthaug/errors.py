"""The one exception tree.

    SynthaugError
    ├── UserError               a user's mistake: exit code 2, no traceback
    │   ├── UnknownNameError    a finding, model, recipe or option that does not exist
    │   ├── LabelError          labels that contradict each other, or a value other than 1, 0 or unknown
    │   ├── RecipeError         a recipe that cannot be read or does not fit
    │   ├── OutputFolderError   an output folder that is taken, or made by another recipe
    │   ├── DataError           a folder or table of films that cannot be used
    │   │   └── ImageError      one image that cannot be read
    │   ├── CheckpointError     a checkpoint with a missing, unsafe or unfit component
    │   ├── DetectorError       a detector folder that cannot be used
    │   ├── ClusterError        a cluster that cannot be reached, or whose workers do not fit the run
    │   └── NotInstalledError   an optional package that is not installed
    └── FailureError            the world failed: exit code 1
        ├── CorruptShardError   a shard, index or manifest that is not what was written
        ├── DiskFullError       no room left where the output goes
        ├── StorageError        a store or server that does not answer, or not as it should
        ├── OutOfMemoryError    the device cannot hold the smallest batch
        └── TrainingDivergedError  the loss is not a number any more

A message names the file or flag, what was found, what was expected and the next command.
"""

from collections.abc import Iterable
from difflib import get_close_matches

_LISTED_BY = {"finding": "`synthaug findings` lists them", "model": "`synthaug models` lists them"}


class SynthaugError(Exception):
    """Base of everything this package raises on purpose; `exit_code` is what the command returns."""

    exit_code = 1


class UserError(SynthaugError):
    """A mistake that the user can mend."""

    exit_code = 2


class UnknownNameError(UserError):
    """A name that is not among the known ones; suggests the nearest.

    Args:
        kind: what the name should have been: "finding", "model", "recipe", "template", ...
        name: what was given.
        known: the names that exist.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name, self.known = kind, name, tuple(known)
        near = nearest(name, self.known)
        suggestion = f"did you mean {near!r}? " if near else ""
        hint = _LISTED_BY.get(kind) or "known: " + (", ".join(self.known) or "none")
        super().__init__(f"unknown {kind} {name!r}; {suggestion}{hint}")

    def __reduce__(self) -> tuple[type, tuple[str, str, tuple[str, ...]]]:
        return type(self), (self.kind, self.name, self.known)


class LabelError(UserError):
    """Labels that contradict each other, or a value other than 1, 0 or unknown."""


class RecipeError(UserError):
    """A recipe that cannot be read, or with a key or value that does not fit."""


class OutputFolderError(UserError):
    """An output folder that cannot be written, is in use, or was made by another recipe."""


class DataError(UserError):
    """A folder, table or record of films that cannot be used."""


class ImageError(DataError):
    """One image that cannot be read."""


class CheckpointError(UserError):
    """A checkpoint with a missing, unsafe or unfit component."""


class DetectorError(UserError):
    """A detector folder that cannot be used."""


class ClusterError(UserError):
    """A cluster that cannot be reached, or whose workers do not fit the run."""


class NotInstalledError(UserError):
    """An optional package that is needed here and not installed."""


class FailureError(SynthaugError):
    """The world failed; the same command may work later or elsewhere."""

    exit_code = 1


class CorruptShardError(FailureError):
    """A shard, index or manifest that is not what was written."""


class DiskFullError(FailureError):
    """No room left where the output goes."""


class StorageError(FailureError):
    """A store or server that does not answer, or not as it should."""


class OutOfMemoryError(FailureError):
    """The device cannot hold even the smallest batch."""


class TrainingDivergedError(FailureError):
    """The training loss is not a finite number any more."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like `name`, whatever its case, or None when nothing is near."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    matches = get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[matches[0]] if matches else None
