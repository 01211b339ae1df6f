"""The leakage guard: no patient and no near-duplicate film on both sides of a border.

A border runs between any two parts: training and test, or a generator's films and a detector's test films.

    leaks = find({"train": train, "test": test})
    test = without(test, leaks, "test")        # drop, or
    refuse(leaks)                              # raise

Patients are compared by identifier, as text: identifiers of two data sets may coincide by chance, and such a
leak is counted too. Films are compared as `synthaug.datasets.likeness` says.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

from synthaug.datasets.base import Radiographs
from synthaug.datasets.likeness import CORRELATION, DISTANCE, near_pairs, prints_of
from synthaug.errors import DataError

SCHEMA = 1
EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Leak:
    """A film of one part that another part knows.

    Args:
        kind: "patient" or "near-duplicate".
        parts: the two parts, in the order given.
        films: index of a film in each.
        keys: their keys.
        correlation: of a near-duplicate, 0 to 1; None for a patient.
    """

    kind: Literal["patient", "near-duplicate"]
    parts: tuple[str, str]
    films: tuple[int, int]
    keys: tuple[str, str]
    correlation: float | None = None


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
    prints = {name: prints_of(films.films) for name, films in parts.items()} if images else {}
    leaks: list[Leak] = []
    for border in combinations(parts, 2):
        one, other = (parts[name] for name in border)
        known = {patient: place for place, patient in enumerate(one.patients) if patient is not None}
        shared: dict[str, int] = {}
        for place, patient in enumerate(other.patients):
            if patient in known:
                shared.setdefault(str(patient), place)
        keys = one.keys, other.keys
        for patient, place in shared.items():
            films = known[patient], place
            leaks.append(Leak("patient", border, films, (keys[0][films[0]], keys[1][films[1]])))
        if images:
            for first, second, value in near_pairs(
                prints[border[0]], prints[border[1]], correlation, distance
            ):
                near = (keys[0][first], keys[1][second])
                leaks.append(Leak("near-duplicate", border, (first, second), near, value))
    return leaks


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
    patients = {
        films.patients[leak.films[leak.parts.index(part)]]
        for leak in leaks
        if leak.kind == "patient" and part in leak.parts
    }
    near = {
        leak.films[leak.parts.index(part)] for leak in leaks if leak.kind != "patient" and part in leak.parts
    }
    return films.subset(
        [
            place
            for place, patient in enumerate(films.patients)
            if place not in near and (patient is None or patient not in patients)
        ]
    )
