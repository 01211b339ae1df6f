"""Age, sex, view and patient as a DICOM header gives them."""

from pathlib import Path
from typing import Any

from synthaug.datasets.formats.values import parse_age, parse_sex, parse_view
from synthaug.errors import DataError, ImageError
from synthaug.images.dicom import Header, header


def facts(path: Path) -> dict[str, Any]:
    """What the header says of view, age and sex, by the record's names; a header that cannot be read says nothing.

    Raises:
        NotInstalledError: pydicom is not installed.
    """
    try:
        return facts_of(header(path))
    except ImageError:
        return {}


def facts_of(found: Header) -> dict[str, Any]:
    """View, age and sex of a header, those that it gives in a known spelling."""
    values = found.values
    try:
        age = parse_age(values.get("PatientAge", ""))
    except DataError:
        age = None
    told = {
        "view": parse_view(values.get("ViewPosition", "")),
        "age": age,
        "sex": parse_sex(values.get("PatientSex", "")),
    }
    return {name: value for name, value in told.items() if value is not None}
