"""`results.json` of evaluate and benchmark: one schema, one writer, one table (docs/results-schema.md).

Conventions: what cannot be computed has `value` null and a `reason`; everything computed has n. Proportions and AUROC are
in [0, 1]. `protocol` of a metric names how it was measured: two values compare only where it is the same. `note` is what
a reader must know beside the value. Nothing here holds a clock, host or path, so equal input gives equal bytes.
"""

import hashlib
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from synthaug.errors import DataError
from synthaug.shards import atomic_write

SCHEMA: Literal["synthaug.results/1"] = "synthaug.results/1"


class Metric(BaseModel):
    """One figure: what it measures, of what, its interval, and how it came about."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    finding: str | None = None
    subgroup: str | None = None
    arm: str | None = None
    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    extractor: str | None = None
    resize: str | None = None
    floor: float | None = None
    reason: str | None = None
    protocol: str | None = None
    note: str | None = None

    @property
    def key(self) -> tuple[str, str | None, str | None, str | None, str | None]:
        """What tells this metric from the others of a file."""
        return self.name, self.finding, self.subgroup, self.arm, self.extractor

    @field_validator("value", "low", "high", "floor")
    @classmethod
    def _finite(cls, value: float | None) -> float | None:
        return None if value is None or not math.isfinite(value) else round(float(value), 6)

    @model_validator(mode="after")
    def _explained(self) -> Self:
        if self.value is None and not self.reason:
            raise ValueError(f"metric {self.name!r} has no value and no reason")
        return self


class Results(BaseModel):
    """The whole file."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_: Literal["synthaug.results/1"] = Field(default=SCHEMA, alias="schema")
    kind: Literal["evaluate", "benchmark"]
    protocol: str
    settings: dict[str, Any]
    metrics: list[Metric]

    def to_json(self) -> str:
        """The file's text: sorted keys, no NaN."""
        return (
            json.dumps(self.model_dump(mode="json", by_alias=True), indent=1, sort_keys=True, allow_nan=False)
            + "\n"
        )

    def write(self, folder: str | Path) -> Path:
        """Write `folder/results.json` whole or not at all."""
        path = Path(folder) / "results.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, self.to_json().encode())
        return path

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read `results.json`, or the one of a folder. Raises `DataError` where it is missing or of another schema."""
        path = Path(path)
        path = path / "results.json" if path.is_dir() else path
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError:
            raise DataError(
                f"{path}: not found; `synthaug evaluate` and `synthaug benchmark` write one"
            ) from None
        except ValidationError as fault:
            first = fault.errors()[0]
            raise DataError(f"{path}: {'.'.join(map(str, first['loc'])) or 'file'}: {first['msg']}") from None

    def find(self, name: str, **facts: str | None) -> Metric:
        """The one metric of that name and those facts. Raises `DataError` where there is none, or more than one."""
        found = [
            m for m in self.metrics if m.name == name and all(getattr(m, k) == v for k, v in facts.items())
        ]
        if len(found) != 1:
            raise DataError(f"metric {name!r} {facts}: found {len(found)}, expected 1")
        return found[0]


def protocol_id(name: str, *facts: Any) -> str:
    """A short name of how a metric was measured: "FID-1-0a1b2c3d", the same for the same facts (plain JSON values)."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, allow_nan=False).encode()).hexdigest()
    return f"{name.replace(' ', '-')}-{digest[:8]}"


def missing(name: str, reason: str, **facts: Any) -> Metric:
    """A metric that could not be computed."""
    return Metric(name=name, reason=reason, **facts)


def table(metrics: Iterable[Metric]) -> str:
    """The metrics as a Markdown table; columns that nothing fills are left out."""
    rows = list(metrics)
    columns: dict[str, list[str]] = {"metric": [m.name for m in rows]}
    for name in ("finding", "subgroup", "arm", "extractor"):
        columns[name] = [getattr(m, name) or "" for m in rows]
    columns["value"] = ["-" if m.value is None else f"{m.value:.3f}" for m in rows]
    columns["95 % interval"] = [
        "" if m.low is None or m.high is None else f"{m.low:.3f} to {m.high:.3f}" for m in rows
    ]
    columns["n"] = ["" if m.n is None else str(m.n) for m in rows]
    columns["floor"] = ["" if m.floor is None else f"{m.floor:.3f}" for m in rows]
    columns["why not"] = [m.reason if m.value is None and m.reason else "" for m in rows]
    columns["note"] = [m.note or "" for m in rows]
    kept = {name: cells for name, cells in columns.items() if any(cells)}
    width = {name: max(len(name), *map(len, cells)) for name, cells in kept.items()} if rows else {}

    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(c.ljust(w) for c, w in zip(cells, width.values(), strict=True)) + " |"

    body = [line(cells) for cells in zip(*kept.values(), strict=True)]
    return (
        "\n".join([line(list(kept)), line(["-" * w for w in width.values()]), *body]) if rows else "no metric"
    )
