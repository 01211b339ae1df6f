"""Which real films may be used for what: the parts of the first-day split, matched by image stem.

Conventions: parts are `generator`, `detector`, `validation`, `test`; a film that the split does not name
is in none.
"""

from typing import Any

import numpy as np

from synthaug.datasets import splits
from synthaug.errors import DataError

SPLIT = "nih-sample"


def parts_of(data: Any, split: str = SPLIT) -> dict[str, np.ndarray]:
    """Indices of each part of a real data set; empty where the split names none of its films."""
    return splits.parts_of(data, split)


def real_part(data: Any, part: str) -> tuple[Any, str]:
    """The films of one part and its name; the whole data set, called "all", where the split does not know it.

    Raises `DataError` where the split knows the data set and this part of it is empty.
    """
    parts = parts_of(data)
    if not parts or part == "all":
        return data, "all"
    if part not in parts:
        raise DataError(f"no film of part {part!r} in the data set; its parts are {', '.join(sorted(parts))}")
    return data.subset(parts[part]), part
