"""The frozen record: one image's key, labels and provenance, and its flat JSON.

In JSON an unknown label, age or view is `null`, never a missing key and never NaN. The fields below
come first, then whatever else is known of the image (`provenance`), all at one level:

    {"key": "000000000", "labels": {"pleural_effusion": 1.0}, "view": "PA", "age": null, "sex": null,
     "patient": null, "prompt": "chest radiograph, ...", "synthetic": true, "seed": 0, ...}
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

from synthaug.errors import DataError

VIEWS = ("PA", "AP", "lateral")
SEXES = ("F", "M")
_FIELDS = ("key", "labels", "view", "age", "sex", "patient", "prompt", "synthetic")


@dataclass(frozen=True, slots=True)
class Record:
    """One image with its labels and provenance.

    Args:
        key: names the image within its data set: a zero-padded index or the file's stem.
        labels: finding -> 1 present, 0 absent, NaN unknown.
        view: one of `VIEWS`, or None when unknown.
        age: years, or None when unknown.
        sex: "F", "M", or None when unknown.
        patient: an identifier that films of one patient share, or None.
        prompt: the text a synthetic image was drawn from.
        synthetic: whether the image was generated.
        provenance: everything else of the JSON, by its flat name.

    Raises:
        DataError: a field holds something else.
    """

    key: str
    labels: Mapping[str, float]
    view: str | None = None
    age: float | None = None
    sex: str | None = None
    patient: str | None = None
    prompt: str | None = None
    synthetic: bool = False
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.key, str) or not self.key:
            raise DataError(f"record: found the key {self.key!r}, expected a non-empty text")
        set_field = object.__setattr__
        set_field(
            self, "labels", {str(name): self._label(name, value) for name, value in self._mapping("labels")}
        )
        set_field(self, "age", self._number(self.age))
        set_field(self, "provenance", dict(self._mapping("provenance")))
        self._one_of("view", VIEWS)
        self._one_of("sex", SEXES)
        for name in ("patient", "prompt"):
            if not isinstance(getattr(self, name), str | None):
                raise DataError(
                    f"record {self.key}: found {name} {getattr(self, name)!r}, expected a text or null"
                )
        if not isinstance(self.synthetic, bool):
            raise DataError(f"record {self.key}: found synthetic {self.synthetic!r}, expected true or false")
        if taken := sorted(set(self.provenance) & set(_FIELDS)):
            raise DataError(f"record {self.key}: provenance repeats the fields {', '.join(taken)}")

    def to_json(self) -> dict[str, Any]:
        """The flat contract of the module's docstring: plain JSON values, NaN as None."""
        own = {name: getattr(self, name) for name in _FIELDS}
        return _plain({**own, **self.provenance})

    def to_bytes(self) -> bytes:
        """`to_json` as UTF-8: the same record gives the same bytes.

        Raises:
            DataError: the provenance holds something that JSON cannot.
        """
        try:
            return json.dumps(self.to_json(), ensure_ascii=False, allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise DataError(
                f"record {self.key}: its provenance is not plain JSON values ({error})"
            ) from error

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Record":
        """The record of `to_json`'s mapping; only `key` and `labels` must be there.

        Raises:
            DataError: a field is missing or holds something else.
        """
        if not isinstance(value, Mapping):
            raise DataError(f"record: found {type(value).__name__}, expected a JSON object")
        if missing := [name for name in ("key", "labels") if name not in value]:
            raise DataError(f"record {value.get('key', '')}: {' and '.join(missing)} missing")
        own = {name: value[name] for name in _FIELDS if name in value}
        return cls(**own, provenance={name: item for name, item in value.items() if name not in _FIELDS})

    @classmethod
    def from_bytes(cls, data: bytes) -> "Record":
        """The record of `to_bytes`.

        Raises:
            DataError: the bytes are not the JSON of a record.
        """
        try:
            value = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise DataError(f"record: not JSON ({error})") from error
        return cls.from_json(value)

    def _mapping(self, name: str) -> Any:
        value = getattr(self, name)
        if not isinstance(value, Mapping):
            raise DataError(f"record {self.key}: found {name} {value!r}, expected finding: value pairs")
        return value.items()

    def _label(self, name: str, value: object) -> float:
        if value is None:
            return math.nan
        try:
            number = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError):
            number = math.inf
        if math.isnan(number):
            return math.nan  # the one NaN object, so that records with unknown labels compare equal
        if number not in (0.0, 1.0):
            raise DataError(f"record {self.key}: found {name} = {value!r}, expected 1, 0 or null (unknown)")
        return number

    def _number(self, value: object) -> float | None:
        if value is None:
            return None
        try:
            number = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError):
            number = math.inf
        if math.isinf(number):
            raise DataError(f"record {self.key}: found age {value!r}, expected years or null")
        return None if math.isnan(number) else number

    def _one_of(self, name: str, known: tuple[str, ...]) -> None:
        value = getattr(self, name)
        if value is not None and value not in known:
            raise DataError(
                f"record {self.key}: found {name} {value!r}, expected one of {', '.join(known)} or null"
            )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, bool | str) or value is None:
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else None
    return value
