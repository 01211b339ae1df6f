"""How commands speak: bars on a terminal only, tables, errors with their exit code.

Progress goes to the standard error stream, results to the standard output, so that `--json` can be piped.
"""

import errno
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from cyclopts import App, CycloptsError

from synthaug.errors import DiskFullError, SynthaugError

Advance = Callable[..., None]

PACKAGE = Path(__file__).parent.parent
# Read by the libraries when they are imported.
QUIET = {"DIFFUSERS_VERBOSITY": "error", "TRANSFORMERS_VERBOSITY": "error", "TORCH_CPP_LOG_LEVEL": "ERROR"}


@contextmanager
def bar(title: str, unit: str = "films") -> Iterator[Advance]:
    """`advance(done, total, note="")` moves a bar with rate and time left; silent when nobody watches."""
    if not sys.stderr.isatty():
        yield lambda done, total, note="": None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=False) as progress:
        task = progress.add_task(title, total=None, note="")

        def advance(done: int, total: int, note: str = "") -> None:
            progress.update(task, completed=done, total=total, note=note)

        yield advance


def say(text: str = "") -> None:
    """A result, on the standard output."""
    print(text)


def note(text: str) -> None:
    """A remark, on the standard error stream."""
    print(text, file=sys.stderr)


def show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A warning of this package as one line; those of libraries are not for the user and are dropped."""
    if issubclass(category, UserWarning) and Path(filename).is_relative_to(PACKAGE):
        note(f"synthaug: {message}")


def run(app: App, tokens: Sequence[str]) -> int:
    """Parse the tokens of a command line, run its command, and return the exit code."""

    def command() -> int:
        try:
            result = app(list(tokens), exit_on_error=False, print_error=False, result_action="return_value")
        except CycloptsError as error:
            wrong = " ".join(str(error).split()).partition(" Available commands")[0].rstrip(".")
            asked = " ".join(["synthaug", *(error.command_chain or ()), "--help"])
            note(f"synthaug: {wrong}; see `{asked}`")
            return 2
        return result if isinstance(result, int) else 0

    return guarded(command)


def guarded(command: Callable[[], int | None]) -> int:
    """Run a command; what goes wrong on purpose becomes one line and the exit code of DESIGN's contract.

    0 done, 1 failure of the world, 2 a user's mistake, 130 interrupted. Anything else is a bug and keeps its
    traceback.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        warnings.showwarning = show_warning
        try:
            code = command() or 0
            sys.stdout.flush()
            return code
        except SynthaugError as error:
            note(f"synthaug: {error}")
            return error.exit_code
        except KeyboardInterrupt:
            note("synthaug: interrupted; the same command goes on from here")
            return 130
        except BrokenPipeError:
            # The reader went away: what is still buffered must not raise again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except (PermissionError, NotADirectoryError, IsADirectoryError) as error:
            note(f"synthaug: {error.filename}: {error.strerror}; choose another path")
            return 2
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            full = DiskFullError(
                f"{error.filename or '.'}: no space left; free some and run the same command again"
            )
            note(f"synthaug: {full}")
            return full.exit_code
