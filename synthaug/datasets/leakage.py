"""The leakage guard: no patient and no near-duplicate film on both sides of a border.

A border runs between any two parts: training and test, or a generator's films and a detector's test films.

    leaks = find({"train": train, "test": test})
    test = without(test, leaks, "test")        # drop, or
    refuse(leaks)                              # raise

`between` is the one rung below: a border of parts whose films may have been decoded elsewhere; the guard of a
utility study (`synthaug.benchmark.leakage`) stands on it too.

Patients are compared by identifier, as text: identifiers of two data sets may coincide by chance, and such a
leak is counted too. Films are compared as `synthaug.datasets.likeness` says.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

from synthaug.datasets.base import Radiographs
from synthaug.datasets.likeness import CORRELATION, DISTANCE, Prints, near_pairs, prints_of
from synthaug.errors import DataError

EXAMPLES = 3
SAME = 0.9995  # the correlation from which two films are called the same image


@dataclass(frozen=True, slots=True)
class Part:
    """What of a part is compared.

    Args:
        patients: of each film, None where unknown.
        keys: of each film.
        prints: of each film; None compares patients alone.
    """

    patients: Sequence[str | None]
    keys: Sequence[str]
    prints: Prints | None = None


@dataclass(frozen=True, slots=True)
class Leak:
    """A film of one part that another part knows.

    Args:
        kind: "patient" or "near-duplicate".
        parts: the two parts, in the order given.
        films: index of a film in each.
        keys: their keys.
        patient: whose films they are; None for a near-duplicate.
        correlation: of a near-duplicate, 0 to 1; None for a patient.
    """

    kind: Literal["patient", "near-duplicate"]
    parts: tuple[str, str]
    films: tuple[int, int]
    keys: tuple[str, str]
    patient: str | None = None
    correlation: float | None = None

    def __str__(self) -> str:
        one, other = (f"{key} ({part})" for key, part in zip(self.keys, self.parts, strict=True))
        if self.correlation is None:
            return f"{one} and {other}: both of patient {self.patient}"
        same = self.correlation >= SAME
        return f"{one} and {other}: " + (
            "the same image" if same else f"near-duplicates, correlation {self.correlation:.3f}"
        )


def find(
    parts: Mapping[str, Radiographs],
    correlation: float = CORRELATION,
    distance: int = DISTANCE,
    images: bool = True,
) -> list[Leak]:
    """Every leak between the parts, border by border: patients (each once a border), then near-duplicates.

    Args:
        parts: name -> films.
        correlation: least correlation of a near-duplicate.
        distance: most bits by which the hashes of a proposed pair differ.
        images: compare the images too; every film is decoded once.

    Raises:
        ImageError: a film cannot be read.
    """
    compared = {
        name: Part(films.patients, films.keys, prints_of(films.films) if images else None)
        for name, films in parts.items()
    }
    borders = combinations(parts, 2)
    return [leak for border in borders for leak in between(border, compared, correlation, distance)]


def between(
    border: tuple[str, str],
    parts: Mapping[str, Part],
    correlation: float = CORRELATION,
    distance: int = DISTANCE,
) -> list[Leak]:
    """The leaks of one border: each patient of both parts once, by a first film of either, then near-duplicates."""
    one, other = (parts[name] for name in border)
    firsts: list[dict[str, int]] = [{}, {}]
    for first, part in zip(firsts, (one, other), strict=True):
        for place, patient in enumerate(part.patients):
            if patient is not None:
                first.setdefault(str(patient), place)

    def leak(kind: Literal["patient", "near-duplicate"], here: int, there: int, **how: Any) -> Leak:
        return Leak(kind, border, (here, there), (one.keys[here], other.keys[there]), **how)

    leaks = [
        leak("patient", firsts[0][patient], place, patient=patient)
        for patient, place in firsts[1].items()
        if patient in firsts[0]
    ]
    if one.prints is not None and other.prints is not None:
        for here, there, value in near_pairs(one.prints, other.prints, correlation, distance):
            leaks.append(leak("near-duplicate", here, there, correlation=value))
    return leaks


def touched(leaks: Sequence[Leak], part: str, patients: Sequence[str | None]) -> set[int]:
    """The films of a part that leak: near-duplicates, and every film of a patient that leaks."""
    mine = [leak for leak in leaks if part in leak.parts]
    near = {leak.films[leak.parts.index(part)] for leak in mine if leak.kind == "near-duplicate"}
    known = {leak.patient for leak in mine if leak.kind == "patient"}
    return near | {i for i, patient in enumerate(patients) if patient is not None and str(patient) in known}


def counts(leaks: Sequence[Leak]) -> list[dict[str, Any]]:
    """What leaks over each border: pairs, and how many films of either part they touch."""
    by_border: dict[tuple[str, tuple[str, str]], list[Leak]] = defaultdict(list)
    for leak in leaks:
        by_border[leak.kind, leak.parts].append(leak)
    return [
        {
            "kind": kind,
            "parts": list(parts),
            "pairs": len(found),
            "films": [len({leak.films[side] for leak in found}) for side in (0, 1)],
            "examples": [list(leak.keys) for leak in found[:EXAMPLES]],
        }
        for (kind, parts), found in by_border.items()
    ]


def refuse(leaks: Sequence[Leak]) -> None:
    """Nothing when nothing leaks.

    Raises:
        DataError: something does; the message counts and names it.
    """
    told = [
        f"{line['pairs']} {line['kind']} leaks between {line['parts'][0]} and {line['parts'][1]}, such as "
        f"{line['examples'][0][0]} and {line['examples'][0][1]}"
        for line in counts(leaks)
    ]
    if told:
        raise DataError(
            f"{'; '.join(told)}; drop them (leakage.without) or split by patient (`synthaug split`)"
        )


def without(films: Radiographs, leaks: Sequence[Leak], part: str) -> Radiographs:
    """The films of one part that no other part knows: a leaking patient goes with all his films."""
    gone = touched(leaks, part, films.patients)
    return films.subset([place for place in range(len(films)) if place not in gone])
