"""Prompts: labels, view, age and sex as text.

A template is text with optional parts in square brackets: `[, {view} view]` is written when the view is
known and left out when it is not, so that what a prompt does not name is unknown, never absent.
Values: {view} "PA"; {sex} "female"; {age} the decade, "60s"; {positives} the findings that are 1, joined by
"and"; {findings} those that are 1, then "no X" for those that are 0, in the vocabulary's order.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence

from synthaug import findings
from synthaug.errors import UnknownNameError
from synthaug.record import VIEWS

TEMPLATES: dict[str, str] = {
    "radiograph": "chest radiograph[, {view} view][, {sex}][, {age}][: {findings}]",
    # Chambon et al., "Adapting Pretrained Vision-Language Foundational Models to Medical Imaging Domains",
    # arXiv:2210.04133, whose film without a finding is "a photo of a lung xray".
    "lung_xray": "a photo of a lung xray[ with a visible {positives}]",
}

BLEND = " | "  # between the parts of a negative prompt
SEX_WORDS = {"F": "female", "M": "male"}
_DECADES = ("under 20", *(f"{decade}s" for decade in range(20, 90, 10)), "90s and over")
_PART = re.compile(r"\[([^\[\]{}]*)\{(view|sex|age|positives|findings|contrary)\}([^\[\]{}]*)\]")


def render(
    labels: Mapping[str, float],
    view: str | None = None,
    age: float | None = None,
    sex: str | None = None,
    template: str = "radiograph",
) -> str:
    """The prompt: "chest radiograph, PA view, female, 60s: pleural effusion, no cardiomegaly".

    Args:
        labels: finding -> 1, 0 or NaN; `no_finding` = 1 reads "no finding" and nothing else.
        view: one of `synthaug.record.VIEWS`, or None.
        age: years, or None.
        sex: "F", "M", or None.
        template: a name of `TEMPLATES`, or a template's own text.

    Raises:
        UnknownNameError: an unknown finding, view, sex or template.
        LabelError: labels that contradict each other.
    """
    if template not in TEMPLATES and not _PART.search(template):
        raise UnknownNameError("template", template, TEMPLATES)
    if view is not None and view not in VIEWS:
        raise UnknownNameError("view", view, VIEWS)
    if sex is not None and sex not in SEX_WORDS:
        raise UnknownNameError("sex", sex, SEX_WORDS)
    known = findings.check(labels)
    positives = [finding for finding, value in known.items() if value == 1.0]
    values = {
        "view": view or "",
        "sex": SEX_WORDS[sex] if sex else "",
        "age": age_words(age),
        "positives": " and ".join(findings.title(f) for f in positives if f != findings.NO_FINDING),
        "findings": ", ".join(_named(known, positives)),
    }

    return _fill(TEMPLATES.get(template, template), values)


def negative(
    text: str,
    view: str | None = None,
    age: float | None = None,
    sex: str | None = None,
    contrary: Sequence[str] = (),
) -> str:
    """What guidance leads away from, for one film: `text` with its optional parts filled in from that film.

    "" leads away from any film. "chest radiograph[, {view} view]" leads away from films of the same view whatever they
    show, so that guidance sharpens the finding alone and does not exaggerate what is typical of a view. With "[: {contrary}]"
    behind it, it leads away from films that show what this one must not, each of `contrary` in a part of its own. Parts between
    " | " are averaged when they are read (`sampler`).
    """
    values = {"view": view or "", "sex": SEX_WORDS[sex] if sex else "", "age": age_words(age)}
    parts = [_fill(text, {**values, "contrary": one}) for one in contrary or ("",)]
    return BLEND.join(dict.fromkeys(parts))


def contrary(labels: Mapping[str, float], offered: Iterable[str]) -> tuple[str, ...]:
    """What films of these labels do not show: "no finding" for those with one; for others each finding that is 0, or, of films
    without a finding, each of `offered`; nothing where nothing is labelled."""
    known = findings.check(labels)
    if any(value == 1.0 for finding, value in known.items() if finding != findings.NO_FINDING):
        return (findings.title(findings.NO_FINDING),)
    absent = offered if known.get(findings.NO_FINDING) == 1.0 else (f for f, v in known.items() if v == 0.0)
    return tuple(findings.title(finding) for finding in absent if finding != findings.NO_FINDING)


def _fill(template: str, values: Mapping[str, str]) -> str:
    def part(match: re.Match[str]) -> str:
        before, name, after = match.groups()
        return f"{before}{value}{after}" if (value := values.get(name)) else ""

    return _PART.sub(part, template)


def age_words(age: float | None) -> str:
    """The decade of an age in years: "under 20", "20s" ... "80s", "90s and over"; "" when unknown."""
    if age is None or math.isnan(age):
        return ""
    return _DECADES[min(max(int(age) // 10 - 1, 0), len(_DECADES) - 1)]


def words() -> list[str]:
    """Every fragment that the templates can write, each once: what a small tokenizer must know."""
    titles = [findings.title(finding) for finding in findings.FINDINGS]
    texts = [part for template in TEMPLATES.values() for part in re.split(r"[\[\]]|\{\w+\}", template)]
    fragments = [
        *texts,
        *VIEWS,
        *SEX_WORDS.values(),
        *_DECADES,
        "and",
        *titles,
        *(f"no {name}" for name in titles[1:]),
    ]
    return list(dict.fromkeys(fragment.strip(" ,:") for fragment in fragments if fragment.strip(" ,:")))


def _named(known: Mapping[str, float], positives: list[str]) -> list[str]:
    if known.get(findings.NO_FINDING) == 1.0:
        return [findings.title(findings.NO_FINDING)]
    zeros = [finding for finding, value in known.items() if value == 0.0 and finding != findings.NO_FINDING]
    return [findings.title(f) for f in positives] + [f"no {findings.title(f)}" for f in zeros]
