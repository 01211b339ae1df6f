"""The flag that says how a folder of films is read: `--reading KEY=VALUE`."""

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from synthaug.cli.flags import Many

if TYPE_CHECKING:
    from synthaug.datasets.formats import Options

Reading = Annotated[
    list[str] | None,
    Many,
    Parameter(
        help="KEY=VALUE, how the folder is read: uncertain=zeros, readers=any, unlisted=absent, labels_csv=FILE, "
        "column.ROLE=COLUMN, name.FOLDER=FINDING."
    ),
]

_CHOICES = ("uncertain", "readers", "unlisted")


def reading_options(pairs: list[str] | None, skip_bad: bool = False) -> "Options":
    """The options that the pairs say.

    Raises:
        UserError: a pair without "=", an unknown key or an unknown value.
    """
    from synthaug.datasets.formats import Options
    from synthaug.errors import UnknownNameError, UserError

    chosen: dict[str, str] = {}
    columns: dict[str, str] = {}
    names: dict[str, str | None] = {}
    for pair in pairs or []:
        key, given, value = pair.partition("=")
        if not given:
            raise UserError(f"--reading {pair}: found no '=', expected KEY=VALUE such as uncertain=zeros")
        if key.startswith("column."):
            columns[key.removeprefix("column.")] = value
        elif key.startswith("name."):
            names[key.removeprefix("name.")] = value or None
        elif key in (*_CHOICES, "labels_csv"):
            chosen[key] = value
        else:
            raise UnknownNameError("reading", key, (*_CHOICES, "labels_csv", "column.ROLE", "name.FOLDER"))
    return Options(columns=columns, names=names, skip_bad=skip_bad, **chosen)  # type: ignore[arg-type]
