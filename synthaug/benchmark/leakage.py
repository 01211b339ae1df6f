"""The guard: no film or patient on two sides that must not meet.

Sides are `training`, `validation`, `judge` (the test films), `generator` (what the generator was trained on) and
`synthetic`. Two films are the same where their patients are known and equal, or else where their keys belong to one split or
their pixels at the study's size are equal. A patient is never compared with a film of unknown patient.

    transfer    the generator's films meet neither training, validation nor judge
    closed      the generator's films are the training films; they meet neither validation nor judge
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from synthaug.detection.films import Films, known_patients
from synthaug.errors import DataError

Side = Literal["training", "validation", "judge", "generator", "synthetic"]
NAMED = 5

_APART: tuple[tuple[Side, Side], ...] = (
    ("training", "judge"),
    ("training", "validation"),
    ("validation", "judge"),
    ("generator", "judge"),
    ("generator", "validation"),
    ("synthetic", "judge"),
    ("synthetic", "validation"),
)


@dataclass(frozen=True, slots=True)
class Leak:
    """Two films that are on two sides: their sides and keys, their places there, and why they count as the same."""

    sides: tuple[Side, Side]
    keys: tuple[str, str]
    places: tuple[int, int]
    why: str

    def __str__(self) -> str:
        return f"{self.keys[0]} ({self.sides[0]}) and {self.keys[1]} ({self.sides[1]}): {self.why}"


def hashes(films: Films) -> list[str]:
    """A hash of each film's pixels."""
    return [hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest() for image in films.images]


def meetings(one: Side, these: Films, other: Side, those: Films) -> list[Leak]:
    """Pairs of films of two sides that are the same, or of the same patient; one pair for each film of `these`."""
    by_patient = {name: i for i, name in reversed(list(enumerate(known_patients(those)))) if name is not None}
    by_hash = {digest: i for i, digest in reversed(list(enumerate(hashes(those))))}
    found = []
    for index, (patient, digest) in enumerate(zip(known_patients(these), hashes(these), strict=True)):
        if patient is not None and patient in by_patient:
            place, why = by_patient[patient], f"both of patient {patient}"
        elif digest in by_hash:
            place, why = by_hash[digest], "the same image"
        else:
            continue
        found.append(Leak((one, other), (these.keys[index], those.keys[place]), (index, place), why))
    return found


def leaks(sides: Mapping[Side, Films], claim: str) -> list[Leak]:
    """Every meeting that the claim forbids."""
    apart = [*_APART, ("generator", "training")] if claim != "closed" else [*_APART]
    found: list[Leak] = []
    for one, other in apart:
        if one in sides and other in sides:
            found += meetings(one, sides[one], other, sides[other])
    return found


def guard(sides: Mapping[Side, Films], claim: str, adapted_inside: bool = False) -> None:
    """Raise `DataError` naming the pairs that leak, or, for claim "closed", generator films that no arm trains on.

    Arguments: `adapted_inside` where generators are adapted inside the arms; side "generator" then holds what their base saw.
    """
    found = leaks(sides, claim)
    if found:
        named = "; ".join(map(str, found[:NAMED])) + ("; ..." if len(found) > NAMED else "")
        raise DataError(
            f"{len(found)} leaking pairs: {named}. Split the films by patient, or pass --drop-leaks, which leaves such "
            "films out of training and validation"
        )
    if claim == "closed" and not adapted_inside:
        if "generator" not in sides:
            raise DataError(
                "--claim closed: pass --generator-data DIR, the films that the generator was adapted on"
            )
        own = meetings("generator", sides["generator"], "training", sides["training"])
        if len(own) < len(sides["generator"]):
            inside = {leak.places[0] for leak in own}
            outside = [key for i, key in enumerate(sides["generator"].keys) if i not in inside]
            raise DataError(
                f"--claim closed: {len(outside)} of the generator's films are not among the training films "
                f"({', '.join(outside[:NAMED])}{', ...' if len(outside) > NAMED else ''}); closed means that the generator "
                "was adapted on the arm's own films only; else use --claim transfer"
            )


def without_leaks(sides: Mapping[Side, Films], claim: str) -> tuple[dict[Side, Films], int]:
    """The sides without the films that leak, and how many were left out.

    The judge keeps every film; what meets it leaves the other side. Between training and validation, training gives way;
    the generator's films give way to nobody, since they cannot be untaught: what meets them leaves.
    """
    gone: dict[Side, set[int]] = {}
    for leak in leaks(sides, claim):
        (one, other), (here, there) = leak.sides, leak.places
        if one == "generator" and other == "judge":
            raise DataError(
                f"the generator was trained on a film it is judged by: {leak}; no film can be dropped for that"
            )
        side, place = (other, there) if one == "generator" else (one, here)
        gone.setdefault(side, set()).add(place)
    kept = {
        side: films.subset([i for i in range(len(films)) if i not in gone.get(side, ())])
        for side, films in sides.items()
    }
    left_out = sum(map(len, gone.values()))
    if leaks(kept, claim):
        again, more = without_leaks(kept, claim)
        return again, left_out + more
    return kept, left_out
