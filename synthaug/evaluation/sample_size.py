"""How many films show an accuracy: the number for which Wilson's lower bound lies above a bound, with a chosen power."""

import numpy as np
from scipy.stats import binom

from synthaug.errors import UserError
from synthaug.evaluation.intervals import wilson

MOST = 1_000_000


def films_needed(accuracy: float, bound: float, power: float = 0.8, confidence: float = 0.95) -> int | None:
    """The films from which on the lower bound exceeds `bound` in a share `power` of the studies, or more.

    Arguments: `accuracy` the true share of films that are right; films are independent (one a noise seed). Returns None
    where the accuracy is not above the bound, or more than a million films would be needed. Binomial steps make the power
    rise and fall with n: the number returned holds for it and for the hundred that follow.
    """
    for name, value in (("accuracy", accuracy), ("bound", bound), ("power", power)):
        if not 0 < value <= 1 or (name != "accuracy" and value == 1):
            raise UserError(f"{name} {value}: expected a share between 0 and 1")
    if accuracy <= bound:
        return None
    low, high = 1, 1
    while not _holds(high, accuracy, bound, power, confidence):
        low, high = high, high * 2
        if high > MOST:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        if _holds(middle, accuracy, bound, power, confidence):
            high = middle
        else:
            low = middle
    return high


def least_right(n: int, bound: float, confidence: float = 0.95) -> int | None:
    """The fewest right films of n whose Wilson lower bound exceeds `bound`; None where even all n do not."""
    low, high = 0, n + 1
    while high - low > 0:
        middle = (low + high) // 2
        if middle > n or wilson(middle, n, confidence)[0] > bound:
            high = middle
        else:
            low = middle + 1
    return None if high > n else high


def _holds(n: int, accuracy: float, bound: float, power: float, confidence: float) -> bool:
    """Whether n and the numbers after it have the power."""
    for number in np.unique(np.linspace(n, n + 100, 12).astype(int)):
        least = least_right(int(number), bound, confidence)
        if least is None or binom.sf(least - 1, int(number), accuracy) < power:
            return False
    return True
