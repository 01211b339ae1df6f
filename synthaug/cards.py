"""Cards: the README.md of a data set or a checkpoint, as deterministic Markdown.

A card is made from plain facts, and what is not among them is left out:

    data set    name, count, image_size, format, findings, plan, views, checkpoint{name, sha256}, command,
                recipe_digest, settings{...}, counts{finding: n}, quality{...}, limits[...], data_terms,
                attribution[...], versions{...}
    model       name, description, findings, views, image_size, route, base, data, attribution[...], recipe,
                duration, figures{...}, limits[...], license, versions{...}
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from synthaug.findings import title

NOT_FOR_DIAGNOSIS = "For research. Not for diagnosis, nor for any decision about a patient."
SYNTHETIC = "**SYNTHETIC.** Every image here was drawn by a generative model. No image shows a person."

_DATASET_LIMITS = (
    "A label says what the image was asked to show; a part of the images does not show it.",
    "The generator repeats biases of the films that it was trained on, and can come close to single ones.",
    "Test detectors on real radiographs only.",
)


def dataset_card(facts: Mapping[str, Any]) -> str:
    """The card of a folder of synthetic radiographs: what it is, how it was made, limits, data terms.

    Args:
        facts: see the module's docstring; keys that it does not name are listed under "How it was made".
    """
    own = ("name", "findings", "counts", "plan", "quality", "limits", "data_terms", "attribution", "versions")
    made = _others(facts, *own, "command")
    return _card(
        facts.get("name", "Synthetic chest radiographs"),
        [f"{SYNTHETIC} {NOT_FOR_DIAGNOSIS}"],
        [
            ("Findings", _findings(facts)),
            ("Plan", _plan(facts.get("plan", ()))),
            ("How it was made", [*_command(facts), *_table("setting", made)]),
            ("Quality", _table("measure", facts.get("quality", {}))),
            ("Limits", _bullets([*_DATASET_LIMITS, *_texts(facts.get("limits"))])),
            ("Data terms", _bullets([*_texts(facts.get("data_terms")), *_texts(facts.get("attribution"))])),
            ("Reading it", _READING),
            ("Versions", _table("package", facts.get("versions", {}))),
        ],
        ["synthetic", "chest-radiograph", "webdataset"],
    )


def model_card(facts: Mapping[str, Any]) -> str:
    """The card of a checkpoint or detector: what it knows, its training, figures, limits, attribution.

    Args:
        facts: see the module's docstring; keys that it does not name are listed under "Training".
    """
    own = ("name", "description", "findings", "figures", "limits", "attribution", "license", "versions")
    trained = _others(facts, *own, "command")
    return _card(
        facts.get("name", "Chest radiograph model"),
        [*_texts(facts.get("description")), NOT_FOR_DIAGNOSIS],
        [
            ("Findings", _findings(facts)),
            ("Training", [*_command(facts), *_table("setting", trained)]),
            ("Figures", _table("measure", facts.get("figures", {}))),
            ("Limits", _bullets(_texts(facts.get("limits")))),
            ("Attribution", _bullets(_texts(facts.get("attribution")))),
            ("License", _texts(facts.get("license"))),
            ("Versions", _table("package", facts.get("versions", {}))),
        ],
        ["chest-radiograph"],
        facts.get("license") or "",
    )


_READING = [
    "```python",
    "import synthaug",
    "",
    'films = synthaug.SyntheticRadiographs("PATH/OF/THIS/FOLDER")',
    'image, target = films[0]  # PIL "L" image, label vector',
    "```",
    "",
    "Any WebDataset reader opens the `shard-*.tar` too; `synthaug verify` checks the folder.",
]


def _card(
    name: str,
    opening: list[str],
    sections: Iterable[tuple[str, list[str]]],
    tags: list[str],
    license: str = "",
) -> str:
    # The hub knows licences by such ids; any other is told in the text alone.
    name_of_it = license.lower()
    known = [f"license: {name_of_it}"] if re.fullmatch(r"[a-z0-9][a-z0-9.-]*", name_of_it) else []
    front = ["---", *known, "tags:", *(f"- {tag}" for tag in tags), "---", "", f"# {name}", ""]
    body = [line for text in opening for line in (text, "")]
    for heading, lines in sections:
        if lines:
            body += [f"## {heading}", "", *lines, ""]
    return "\n".join([*front, *body]).rstrip() + "\n"


def _others(facts: Mapping[str, Any], *own: str) -> dict[str, Any]:
    return {key: value for key, value in facts.items() if key not in own}


def _findings(facts: Mapping[str, Any]) -> list[str]:
    counts = facts.get("counts", {})
    names = facts.get("findings") or counts
    return [
        f"- {title(name)} (`{name}`)" + (f": {_text(counts[name])}" if name in counts else "")
        for name in names
    ]


def _plan(entries: Iterable[Mapping[str, Any]]) -> list[str]:
    rows = [
        f"| {_cell(entry.get('count'))} | {_cell(entry.get('labels'))} | {_cell(entry.get('prompt'))} |"
        for entry in entries
    ]
    return ["| images | labels | prompt |", "|---|---|---|", *rows] if rows else []


def _command(facts: Mapping[str, Any]) -> list[str]:
    return ["```", str(facts["command"]), "```", ""] if facts.get("command") else []


def _table(kind: str, values: Mapping[str, Any]) -> list[str]:
    rows = [f"| {_cell(name)} | {_cell(value)} |" for name, value in _flat(values) if value is not None]
    return [f"| {kind} | value |", "|---|---|", *rows] if rows else []


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}".replace("_", " "), value


def _bullets(texts: Iterable[str]) -> list[str]:
    return [f"- {text}" for text in texts]


def _texts(value: Any) -> list[str]:
    if not value:
        return []
    return [value] if isinstance(value, str) else [str(item) for item in value]


def _cell(value: Any) -> str:
    return _text(value).replace("|", "\\|").replace("\n", " ")


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_text(item) for item in value)
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else str(value)
