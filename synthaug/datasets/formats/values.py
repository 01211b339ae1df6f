"""Values as public tables write them: ages (years), sexes, views, labels and names of splits."""

import math
import re
from collections.abc import Mapping

from synthaug.errors import DataError
from synthaug.findings import NO_FINDING

MAX_AGE = 120.0

_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*([YMWD]?)", re.IGNORECASE)
_YEARS = {"": 1.0, "Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}
_UNKNOWN = {"", "nan", "none", "null", "na", "n/a", "unknown"}
_SEXES = {"f": "F", "female": "F", "woman": "F", "m": "M", "male": "M", "man": "M"}
_SPLITS = {
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "dev": "validation",
    "validate": "validation",
    "testing": "test",
}
_PRESENT, _ABSENT = {"1", "true", "yes", "present", "positive"}, {"0", "false", "no", "absent", "negative"}


def parse_age(text: str) -> float | None:
    """Years of "58", "58.0" or DICOM's "058Y", "013M", "002W", "009D"; None when unknown.

    An age above `MAX_AGE` is a known slip of the pen in NIH's table ("412"): unknown.

    Raises:
        DataError: something else.
    """
    if text.lower() in _UNKNOWN:
        return None
    match = _AGE.fullmatch(text)
    if match is None:
        raise DataError(f"found the age {text!r}, expected years such as 58 or 058Y")
    years = float(match[1]) * _YEARS[match[2].upper()]
    return years if years <= MAX_AGE else None


def parse_sex(text: str) -> str | None:
    """ "F" or "M" of the usual spellings; None for anything else."""
    return _SEXES.get(text.lower())


def parse_view(text: str) -> str | None:
    """ "PA", "AP" or "lateral" of the usual spellings ("AP_SUPINE", "LL"); None for anything else."""
    words = re.split(r"[\s_\-/]+", text.strip().lower())
    if words[0] in ("pa", "ap"):
        return words[0].upper()
    return "lateral" if words[0] in ("l", "ll", "rl", "lat", "lateral", "xtable") else None


# What CheXpert's -1 ("uncertain") becomes.
UNCERTAIN = {"unknown": math.nan, "zeros": 0.0, "ones": 1.0}


def parse_value(text: str, uncertain: str = "unknown") -> float:
    """1, 0 or NaN (unknown) of a finding's own column; -1 is CheXpert's "uncertain".

    Args:
        text: the cell.
        uncertain: what -1 becomes: a name of `UNCERTAIN`.

    Raises:
        DataError: something else.
    """
    plain = text.strip().lower().removesuffix(".0")
    if plain in _PRESENT:
        return 1.0
    if plain in _ABSENT:
        return 0.0
    if plain in ("-1", "uncertain"):
        return UNCERTAIN[uncertain]
    if plain in _UNKNOWN:
        return math.nan
    raise DataError(f"found the label {text!r}, expected 1, 0, -1 (uncertain) or nothing (unknown)")


def chexpert_labels(labels: Mapping[str, float]) -> dict[str, float]:
    """Labels of the CheXpert labeller in this vocabulary.

    Its "No Finding" allows support devices, this `no_finding` does not: a film with both has `no_finding` = 0,
    and 0 for the other findings that are left empty, which is what its "No Finding" meant.
    """
    positives = {finding for finding, value in labels.items() if value == 1.0}
    if positives != {NO_FINDING, "support_devices"}:
        return dict(labels)
    return {finding: float(finding == "support_devices") for finding in labels}


def split_name(text: str) -> str:
    """The plain name of a split: "train", "validation", "test", or any other as it is, in lower case."""
    plain = text.strip().lower()
    return _SPLITS.get(plain, plain)


def is_split(text: str) -> bool:
    """Whether a folder's name says train, validation or test."""
    return split_name(text) in ("train", "validation", "test")
