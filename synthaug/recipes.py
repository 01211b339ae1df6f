"""Recipes: what a run is to do, as strict YAML.

A recipe is the intent; how it is executed (device, threads, batch size) is no part of it. Each room
subclasses `Recipe` with its own frozen fields. Two recipes are the same when their digests are: the
SHA-256 of the resolved values, defaults included, as canonical JSON.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from synthaug.errors import RecipeError, UnknownNameError, nearest


class Recipe(BaseModel):
    """Base of every recipe: frozen, strict, and no key that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def digest(self) -> str:
        """SHA-256 (hex) of the canonical JSON of all values."""
        text = json.dumps(self.values(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def values(self) -> dict[str, Any]:
        """All values as plain JSON ones, in the order of the fields; NaN is None."""
        return _without_nan(self.model_dump(mode="json"))

    def to_yaml(self) -> str:
        """The resolved recipe as YAML; `load` reads it back."""
        return yaml.safe_dump(self.values(), sort_keys=False, allow_unicode=True, width=110)

    @classmethod
    def from_values(cls, values: Mapping[str, Any], source: str = "recipe") -> Self:
        """The recipe of plain values; `source` names them in messages.

        Raises:
            RecipeError: an unknown key (the nearest is suggested) or a value that does not fit.
        """
        try:
            # By way of JSON, so that a YAML list may fill a tuple while numbers stay strict.
            return cls.model_validate_json(json.dumps(values, default=str))
        except ValidationError as error:
            raise RecipeError(f"{source}: " + "; ".join(_reasons(cls, error))) from error

    @classmethod
    def load(cls, name_or_path: str | Path, overrides: Mapping[str, Any] | None = None) -> Self:
        """Read a recipe that travels with the package, by name, or a YAML file, by path.

        Args:
            name_or_path: "embedded" or "my/recipe.yaml".
            overrides: dotted key -> value, set after reading: {"optimizer.lr": 1e-4}.

        Raises:
            UnknownNameError: no recipe of that name.
            RecipeError: not YAML, an unknown key, or a value that does not fit.
        """
        return cls.from_values(_overridden(read_yaml(name_or_path), overrides or {}), str(name_or_path))

    def with_overrides(self, overrides: Mapping[str, Any]) -> Self:
        """This recipe with some values replaced: {"optimizer.lr": 1e-4, "legs.0.steps": 100}.

        Raises:
            RecipeError: an unknown key (the nearest is suggested) or a value that does not fit.
        """
        return self.from_values(_overridden(self.values(), overrides), "--set")


def packaged() -> list[str]:
    """Names of the recipes that travel with the package."""
    folder = _folder()
    if not folder.is_dir():
        return []
    return sorted(
        entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")
    )


def read_yaml(name_or_path: str | Path) -> dict[str, Any]:
    """The plain mapping of a packaged recipe or a YAML file.

    Raises:
        UnknownNameError: no packaged recipe of that name, and no such file.
        RecipeError: the file cannot be read or is not a YAML mapping.
    """
    path = Path(name_or_path)
    try:
        if path.suffix in (".yaml", ".yml") or path.is_file():
            text = path.read_text(encoding="utf-8")
        elif str(name_or_path) in packaged():
            text = _folder().joinpath(f"{name_or_path}.yaml").read_text(encoding="utf-8")
        else:
            raise UnknownNameError("recipe", str(name_or_path), packaged())
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str | bytes, source: str) -> dict[str, Any]:
    """The plain mapping of a YAML text; `source` names it in messages.

    Raises:
        RecipeError: it is not a YAML mapping.
    """
    try:
        values = yaml.load(text, Loader=_Loader)
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"{source}: not YAML: {' '.join(str(error).split())}") from error
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise RecipeError(f"{source}: found {type(values).__name__}, expected `key: value` lines")
    return values


def parse_overrides(texts: Iterable[str]) -> dict[str, Any]:
    """Read `key=value` texts of the command line; values are YAML: "optimizer.lr=1e-4", "findings=[edema]".

    Raises:
        RecipeError: a text without "=", or a value that is not YAML.
    """
    overrides = {}
    for text in texts:
        key, given, value = text.partition("=")
        if not given or not key.strip():
            raise RecipeError(f"override {text!r}: expected key=value, as in optimizer.lr=1e-4")
        try:
            overrides[key.strip()] = yaml.load(value, Loader=_Loader)
        except yaml.YAMLError as error:
            raise RecipeError(f"override {text!r}: the value is not YAML") from error
    return overrides


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Dotted keys whose values differ between two plain mappings: ["plan.0.count", "seed"]."""
    left, right = dict(_leaves(a)), dict(_leaves(b))
    missing = object()
    return [key for key in {**left, **right} if left.get(key, missing) != right.get(key, missing)]


def _folder() -> Traversable:
    return files("synthaug").joinpath("recipes")


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads 1e-4 as a number (YAML 1.2) and refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d[\d_]*(\.[\d_]*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def _reasons(model: type[BaseModel], error: ValidationError) -> list[str]:
    reasons = []
    for fault in error.errors(include_url=False):
        key = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "extra_forbidden":
            near = nearest(str(fault["loc"][-1]), _known_keys(model, fault["loc"][:-1]))
            reasons.append(f"unknown key {key!r}" + (f", did you mean {near!r}?" if near else ""))
        elif fault["type"] == "missing":
            reasons.append(f"the key {key!r} is missing")
        else:
            reasons.append(f"{key or 'values'}: found {fault['input']!r}: {fault['msg']}")
    return reasons


def _known_keys(model: type[BaseModel], parents: Iterable[int | str]) -> list[str]:
    for parent in parents:
        field = model.model_fields.get(str(parent))
        inner = next(_models(field.annotation), None) if field is not None else None
        model = inner or model
    return list(model.model_fields)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _models(argument)


def _overridden(values: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    for dotted, value in overrides.items():
        _set(values, dotted, value)
    return values


def _set(values: dict[str, Any], dotted: str, value: Any) -> None:
    """Set a dotted key in place; a number counts the entries of a list from 0."""
    *parents, last = dotted.split(".")
    inner: Any = values
    for parent, child in zip(parents, [*parents, last][1:], strict=True):
        inner = inner.setdefault(parent, {}) if isinstance(inner, dict) else inner[int(parent)]
        if isinstance(inner, list):
            if not child.isdecimal() or int(child) >= len(inner):
                raise RecipeError(
                    f"override {dotted!r}: {parent!r} is a list of {len(inner)}, expected a number "
                    f"below that, found {child!r}"
                )
        elif not isinstance(inner, dict):
            raise RecipeError(f"override {dotted!r}: {parent!r} holds {inner!r}, not further keys")
    inner[int(last) if isinstance(inner, list) else last] = value


def _leaves(value: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    if isinstance(value, Mapping):
        items: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        yield prefix, None if isinstance(value, float) and math.isnan(value) else value
        return
    empty = True
    for key, item in items:
        empty = False
        yield from _leaves(item, f"{prefix}.{key}" if prefix else str(key))
    if empty and prefix:
        yield prefix, type(value).__name__


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
