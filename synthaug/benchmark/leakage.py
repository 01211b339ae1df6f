"""The guard: no film or patient on two sides that must not meet.

Sides are `training`, `validation`, `judge` (the test films), `generator` (what the generator was trained on) and
`synthetic`. How two films meet is said once, in `synthaug.datasets.leakage`: by their patients where those are known, and by
their images, the same or near-duplicates, at the study's size. Here stands which sides must not, and who gives way.

    transfer    the generator's films meet neither training, validation nor judge
    closed      the generator's films are the training films; they meet neither validation nor judge
"""

from collections.abc import Mapping
from typing import Literal

from synthaug.datasets.leakage import SAME, Leak, Part, between, touched
from synthaug.datasets.likeness import CORRELATION, SIZE, prints_of_images
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


def leaks(sides: Mapping[Side, Films], claim: str) -> list[Leak]:
    """Every meeting that the claim forbids."""
    parts, alike = _parts(sides)
    apart = [*_APART, ("generator", "training")] if claim != "closed" else [*_APART]
    return [
        leak
        for border in apart
        if border[0] in parts and border[1] in parts
        for leak in between(border, parts, alike)
    ]


def own_films(sides: Mapping[Side, Films]) -> tuple[set[int], set[int]]:
    """The generator's films that are training films, and those training films: by their images alone."""
    own: tuple[Side, Side] = ("generator", "training")
    parts, alike = _parts({side: sides[side] for side in own})
    near = [leak.films for leak in between(own, parts, alike) if leak.kind == "near-duplicate"]
    return {here for here, _ in near}, {there for _, there in near}


def _parts(sides: Mapping[Side, Films]) -> tuple[dict[str, Part], float]:
    """What is compared of each side, and from which correlation two films are near-duplicates.

    Films smaller than the thumbnails have lost what tells one chest from another: of them only the same image counts.
    """
    parts: dict[str, Part] = {
        side: Part(known_patients(films), films.keys, prints_of_images(films.images[:, 0]))
        for side, films in sides.items()
    }
    large = all(films.images.shape[-1] >= SIZE for films in sides.values())
    return parts, CORRELATION if large else SAME


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
        inside, _ = own_films(sides)
        if len(inside) < len(sides["generator"]):
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
    yielding: dict[str, list[Leak]] = {}
    for leak in leaks(sides, claim):
        one, other = leak.parts
        if one == "generator" and other == "judge":
            raise DataError(
                f"the generator was trained on a film it is judged by: {leak}; no film can be dropped for that"
            )
        yielding.setdefault(other if one == "generator" else one, []).append(leak)
    kept: dict[Side, Films] = {}
    for side, films in sides.items():
        gone = touched(yielding.get(side, []), side, known_patients(films))
        kept[side] = films.subset([i for i in range(len(films)) if i not in gone])
    return kept, sum(map(len, sides.values())) - sum(map(len, kept.values()))
