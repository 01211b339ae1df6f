"""`synthaug report`, and the command line as a report repeats it."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from synthaug.cli.terminal import say


def report(
    folders: Annotated[list[Path], Parameter(help="Folders with results.json.")],
    /,
    *,
    out: Path | None = None,
) -> None:
    """Write the page of a run anew, or compare several runs that were measured alike.

    Parameters
    ----------
    out
        Folder for the comparison; by default ./comparison. The page of one run stands beside its results.
    """
    from synthaug.errors import UserError
    from synthaug.report.comparing import compare
    from synthaug.report.page import write_page

    if not folders:
        raise UserError("report: name one or more folders with results.json")
    if len(folders) == 1 and out is not None:
        raise UserError(
            "--out: the page of one run stands beside its results; name several runs to compare them"
        )
    say(
        f"{write_page(folders[0]) if len(folders) == 1 else compare(folders, out or Path('comparison'))}: written"
    )


def command_line(command: str, given: Mapping[str, Any]) -> str:
    """A command as it can be typed again: flags that hold something, folders by their name alone."""
    words = ["synthaug", command]
    for flag, value in given.items():
        values = value if isinstance(value, list) else [] if value is None else [value]
        if values:
            words += [flag, *(shlex.quote(str(one)) for one in values)]
    return " ".join(words)
