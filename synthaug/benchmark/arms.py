"""The arms of a utility study: which films each detector is trained on.

    real               n real films a label, or all of them
    synthetic          every synthetic film, whatever n
    mixed_0.25         as many films as `real`, a quarter of them synthetic in the place of real ones
    real+200%          `real` and twice as many synthetic films, half of them with the finding
    pretrained         trained on every synthetic film first, then on `real`
    duplicated         `real` twice over: at equal steps a null control, its difference from `real` is noise
    augmented          `real` with stronger classical augmentation
    generator_films    `real` and the generator's own training films: what they would do by themselves

Conventions: a draw numbers a random subset and a training seed together. Subsets of one draw are nested: those of 10 films
a label are among those of 25. No film is used twice within an arm, `duplicated` apart; where the films do not suffice, the
arm has no figure and a reason.
"""

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np

from synthaug.detection.films import Films
from synthaug.errors import DataError, UnknownNameError

Size = int | Literal["all"]
Source = Literal["real", "synthetic", "generator", "augmented"]

ARMS = (
    "real",
    "synthetic",
    "mixed_0.25",
    "mixed_0.5",
    "mixed_0.75",
    "real+100%",
    "real+200%",
    "real+500%",
    "pretrained",
    "duplicated",
    "augmented",
    "generator_films",
)
CONTROLS = ("duplicated", "augmented", "generator_films")
_MIXED, _PLUS = re.compile(r"mixed_(0\.\d+)"), re.compile(r"real\+(\d+)%")


@dataclass(frozen=True, slots=True)
class Portion:
    """Films of one source, by index; an index may be there twice."""

    source: Source
    indices: np.ndarray


Stage = tuple[Portion, ...]


class Lacking(DataError):
    """An arm that the films at hand cannot make up; the message is the reason beside its missing figure."""


def check_arm(name: str) -> str:
    """The name, once it is sure that it is one of an arm. Raises `UnknownNameError`."""
    if name not in ARMS and not _MIXED.fullmatch(name) and not _PLUS.fullmatch(name):
        raise UnknownNameError("arm", name, ARMS)
    return name


def uses_synthetic(arm: str) -> bool:
    """Whether any synthetic film is in the arm."""
    return arm != "real" and arm not in CONTROLS


def balanced(films: Films, each: int, draw: int, stream: int, what: str) -> np.ndarray:
    """Indices of `each` present and `each` absent films: the first of a permutation that the draw fixes.

    Raises `Lacking` where there are not so many of a label.
    """
    chosen = []
    for value, name in ((1, films.findings[0]), (0, "no_finding")):
        have = np.flatnonzero(films.labels[:, 0] == value)
        if len(have) < each:
            raise Lacking(f"needs {each} {what} films of {name}, found {len(have)}")
        chosen.append(np.random.default_rng([draw, stream, value]).permutation(have)[:each])
    return np.sort(np.concatenate(chosen))


def subset(real: Films, size: Size, draw: int) -> np.ndarray:
    """Indices of the real films of a draw: `size` a label, or all. Raises `Lacking`."""
    return np.arange(len(real)) if size == "all" else balanced(real, size, draw, 0, "real training")


def stages(
    arm: str,
    size: Size,
    draw: int,
    real: Films,
    synthetic: Films | None = None,
    generator: Films | None = None,
) -> tuple[Stage, ...]:
    """What an arm is trained on, stage by stage; all but `pretrained` have one stage.

    Raises `Lacking` where the films do not suffice, `UnknownNameError` for an unknown arm.
    """
    check_arm(arm)
    if uses_synthetic(arm) and synthetic is None:
        raise Lacking("no synthetic films: pass --synthetic DIR")
    if arm == "generator_films" and generator is None:
        raise Lacking("the generator's training films are not at hand: pass --generator-data DIR")
    if arm == "synthetic" and synthetic is not None:
        return ((Portion("synthetic", np.arange(len(synthetic))),),)
    own = subset(real, size, draw)
    base = Portion("real", own)
    if arm == "duplicated":
        return ((Portion("real", np.concatenate([own, own])),),)
    if arm == "augmented":
        return ((base, Portion("augmented", own)),)
    if arm == "generator_films" and generator is not None:
        return ((base, Portion("generator", np.arange(len(generator)))),)
    if synthetic is None:
        return ((base,),)
    if arm == "pretrained":
        return ((Portion("synthetic", np.arange(len(synthetic))),), (base,))
    if mixed := _MIXED.fullmatch(arm):
        each = round(float(mixed[1]) * len(own) / 2)
        kept = _kept(real, own, len(own) - 2 * each, draw)
        return ((Portion("real", kept), _drawn(synthetic, each, draw)),)
    if plus := _PLUS.fullmatch(arm):
        return ((base, _drawn(synthetic, round(int(plus[1]) / 100 * len(own) / 2), draw)),)
    return ((base,),)


def _drawn(synthetic: Films, each: int, draw: int) -> Portion:
    return Portion("synthetic", balanced(synthetic, each, draw, 1, "synthetic"))


def _kept(real: Films, own: np.ndarray, count: int, draw: int) -> np.ndarray:
    """`count` of the films `own`, with the labels in their proportion."""
    order = np.random.default_rng([draw, 2]).permutation(own)
    present = order[real.labels[order, 0] == 1]
    absent = order[real.labels[order, 0] == 0]
    ones = min(max(1, round(count * len(present) / len(own))), len(present))
    return np.sort(np.concatenate([present[:ones], absent[: count - ones]]))
