"""What a listing holds, for the tests of layouts."""

import math

from synthaug.datasets.formats import (
    Listing,
)
from synthaug.record import Record


def records(listing: Listing) -> dict[str, Record]:
    return {film.record.key: film.record for film in listing.films}


def known(record: Record) -> dict[str, float]:
    """The labels that are not unknown."""
    return {finding: value for finding, value in record.labels.items() if not math.isnan(value)}


def present(record: Record) -> set[str]:
    return {finding for finding, value in record.labels.items() if value == 1}
