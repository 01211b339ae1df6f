"""Quality gates: which candidates become films of a run. Off by default.

    blank        grey levels that hardly vary
    saturated    too many pixels at 0 or 255
    duplicate    nearly the same as a film accepted before, in this run
    label        a detector, which comes in as a plain callable, disagrees with a label that was asked for

A film has a place (its key) and candidates: candidate k of place i is drawn from noise index k * count + i, so the numbering
goes on beyond the films asked for, and no place takes another's noise. Places without a film are drawn again, in order, until
all have one; each compares with the films of earlier shards and with those of its own shard accepted before. The outcome is
thus the same whatever the batch size and whatever was interrupted. A rejected candidate stays on record with the film that
took its place: index, gate, value.

Defaults: of 700 real frontal films at 256 px the standard deviation is 27.7 or more, the saturated share .24 or less, and the
correlation of any two of different patients on a grid of 32 x 32 is .95 or less; copies shifted by 2 pixels, with noise and
another contrast, correlate by .97 and mostly .99.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from synthaug.errors import FailureError, LabelError, UnknownNameError, UserError
from synthaug.generation.duplicates import Fingerprints, fingerprint
from synthaug.record import Record

GateName = Literal["blank", "saturated", "duplicate", "label"]
GATES: tuple[GateName, ...] = ("blank", "saturated", "duplicate", "label")


class JudgeName(BaseModel):
    """Which detector judged the labels: by name for people, by SHA-256 for certain."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str
    sha256: str


class GateRecipe(BaseModel):
    """The gates of a run and their limits."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    names: tuple[GateName, ...] = Field(min_length=1)
    least_deviation: float = Field(default=15.0, ge=0, description="blank below it; grey levels")
    most_saturated: float = Field(default=0.4, ge=0, le=1, description="saturated above it; share of pixels")
    most_alike: float = Field(default=0.97, ge=0, le=1, description="duplicate above it; correlation")
    attempts: int = Field(default=20, ge=1, description="candidates of one place before the run gives up")
    judge: JudgeName | None = None


@dataclass(frozen=True, slots=True)
class Judge:
    """A detector as the label gate needs it.

    Args:
        name, sha256: recorded with the run.
        findings: what it knows.
        margins: uint8 images (B, 1, H, W) -> finding -> (B,), above 0 where the finding is called present.
    """

    name: str
    sha256: str
    findings: Sequence[str]
    margins: Callable[[np.ndarray], Mapping[str, np.ndarray]]


@dataclass(frozen=True, slots=True)
class Rejection:
    """A candidate that became no film: its noise index, the gate, and the value that the gate saw."""

    index: int
    gate: GateName
    value: float

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"index": self.index, "gate": self.gate, "value": self.value}


def parse_gates(texts: Iterable[str]) -> tuple[GateName, ...]:
    """Gates of the command line, "blank,saturated" or several texts, each once and in the order of `GATES`.

    Raises:
        UnknownNameError: no such gate.
    """
    asked = {name.strip() for text in texts for name in text.split(",") if name.strip()}
    for name in sorted(asked - set(GATES)):
        raise UnknownNameError("gate", name, GATES)
    return tuple(gate for gate in GATES if gate in asked)


def check_judge(
    recipe: GateRecipe | None, judge: Judge | None, labels: Iterable[Mapping[str, float | None]]
) -> None:
    """Raise unless the label gate has the judge of the recipe, and it knows a finding of every condition.

    Raises:
        UserError: no judge, or another than the run began with.
        LabelError: a condition that the judge cannot judge.
    """
    if recipe is None or "label" not in recipe.names:
        return
    if judge is None:
        raise UserError("the gate `label` needs a detector: pass --detector (judge=)")
    if recipe.judge is not None and recipe.judge.sha256 != judge.sha256:
        raise UserError(
            f"--detector: the run began with {recipe.judge.name} ({recipe.judge.sha256[:8]}), this is another"
        )
    for asked in labels:
        if not any(finding in judge.findings and value is not None for finding, value in asked.items()):
            raise LabelError(
                f"--gate label: detector {judge.name} knows none of {', '.join(asked) or 'no label'}; it knows "
                f"{', '.join(judge.findings)}. Pass another --detector, or leave the gate out"
            )


@dataclass(slots=True)
class Gates:
    """The gates at work on one shard.

    Args:
        recipe: the gates and their limits.
        judge: of the label gate.
        accepted: fingerprints of the films accepted before; grows.
    """

    recipe: GateRecipe
    judge: Judge | None = None
    accepted: Fingerprints = field(default_factory=Fingerprints)

    def sift(
        self, films: np.ndarray, indexes: Sequence[int], labels: Sequence[Mapping[str, float | None]]
    ) -> list[Rejection | None]:
        """Judge candidates (B, 1, H, W) as they are stored, in order; None where one is accepted.

        Args:
            films: the candidates.
            indexes: their noise indexes.
            labels: what each was asked to show.
        """
        margins: Mapping[str, np.ndarray] = {}
        if "label" in self.recipe.names and self.judge is not None:
            margins = self.judge.margins(films)
        out: list[Rejection | None] = []
        for place, (film, index, asked) in enumerate(zip(films[:, 0], indexes, labels, strict=True)):
            views = {finding: float(margin[place]) for finding, margin in margins.items()}
            fault = self._fault(film, asked, views)
            out.append(None if fault is None else Rejection(index, fault[0], round(fault[1], 4)))
            if fault is None and "duplicate" in self.recipe.names:
                self.accepted.add(fingerprint(film))
        return out

    def _fault(
        self, film: np.ndarray, asked: Mapping[str, float | None], views: Mapping[str, float]
    ) -> tuple[GateName, float] | None:
        """The first gate that a candidate fails, and the value that it saw."""
        limits, names = self.recipe, self.recipe.names
        deviation, saturated = float(film.std()), float(np.mean((film == 0) | (film == 255)))
        if "blank" in names and deviation < limits.least_deviation:
            return "blank", deviation
        if "saturated" in names and saturated > limits.most_saturated:
            return "saturated", saturated
        if "duplicate" in names and len(self.accepted):
            alike = self.accepted.most_alike(fingerprint(film))
            if alike > limits.most_alike:
                return "duplicate", alike
        if "label" in names:
            for finding, value in asked.items():
                if value is not None and finding in views and (views[finding] >= 0) != (value == 1):
                    return "label", views[finding]
        return None


def exhausted(key: str, rejected: Sequence[Rejection]) -> FailureError:
    """The error of a place whose every candidate was rejected."""
    faults = ", ".join(f"{gate} {n}" for gate, n in tally(rejected).items())
    return FailureError(
        f"film {key}: {len(rejected)} candidates in a row were rejected ({faults}); leave a gate out, or give "
        "gates.attempts or another limit in --recipe"
    )


def tally(rejected: Iterable[Rejection]) -> dict[str, int]:
    """Rejections by gate, in the order of `GATES`."""
    gates = [one.gate for one in rejected]
    return {gate: gates.count(gate) for gate in GATES if gate in gates}


def of_record(record: Record) -> list[Rejection]:
    """The candidates that a film's record says were rejected in its place."""
    quality = record.provenance.get("quality") or {}
    return [Rejection(one["index"], one["gate"], one["value"]) for one in quality.get("rejected", ())]


def rates(recipe: GateRecipe, accepted: int, rejected: Mapping[str, int]) -> dict[str, Any]:
    """What the manifest and the card say of a gated run: gates, limits, candidates, rejections by gate, share accepted."""
    candidates = accepted + sum(rejected.values())
    return {
        **recipe.model_dump(mode="json"),
        "candidates": candidates,
        "accepted": accepted,
        "rejected": {
            **dict.fromkeys(recipe.names, 0),
            **{gate: rejected[gate] for gate in GATES if gate in rejected},
        },
        "acceptance": round(accepted / candidates, 4),
    }
