"""What the text encoder reads while it learns: a caption of one film, different at each draw.

A caption names a random subset of what is known of the film. A prompt may then leave anything out, and what
it leaves out is unknown to the model, not absent. With probability `dropout` the caption is empty, which is
what classifier-free guidance needs (Ho and Salimans 2022, arXiv:2207.12598).

A film that comes with texts of its own is captioned by one of them instead: its `prompt`, or the list under
`captions` in its provenance, which `synthaug adapt --captions` fills from a table.
"""

import math
from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Generator

from synthaug import prompts
from synthaug.findings import NO_FINDING
from synthaug.recipes import Recipe
from synthaug.record import Record

DECISIONS = 8  # about a caption, beside one for each finding


class CaptionRecipe(Recipe):
    """Probabilities of naming what is known."""

    template: str = "radiograph"
    dropout: float = Field(default=0.1, ge=0, le=1)
    name_finding: float = Field(default=0.8, ge=0, le=1)
    name_absent: float = Field(default=0.15, ge=0, le=1)
    name_view: float = Field(default=0.7, ge=0, le=1)
    name_sex: float = Field(default=0.5, ge=0, le=1)
    name_age: float = Field(default=0.5, ge=0, le=1)


def draw(record: Record, recipe: CaptionRecipe, generator: Generator) -> str:
    """One caption of `record`.

    Each positive finding is named with probability `name_finding`; with probability `name_absent` one finding
    that is known to be absent is named too ("no cardiomegaly"). "no finding" stands alone.
    """
    texts = own_texts(record)
    # One call for all that a caption may need: a film's caption must not take longer than a GPU takes to learn from it.
    luck = iter(torch.rand(DECISIONS + len(record.labels), generator=generator).tolist())

    def chance(probability: float) -> bool:
        return next(luck) < probability

    def one(choices: Sequence[str]) -> str:
        return choices[int(next(luck) * len(choices))]

    if chance(recipe.dropout):
        return ""
    if texts:
        return one(texts)
    labels: dict[str, float] = {}
    if record.labels.get(NO_FINDING) == 1:
        if chance(recipe.name_finding):
            labels = {NO_FINDING: 1.0}
    else:
        labels = {f: 1.0 for f, value in record.labels.items() if value == 1 and chance(recipe.name_finding)}
    absent = [f for f, value in record.labels.items() if value == 0 and f != NO_FINDING]
    if absent and chance(recipe.name_absent) and NO_FINDING not in labels:
        labels[one(absent)] = 0.0
    known_age = record.age is not None and not math.isnan(record.age)
    return prompts.render(
        labels,
        view=record.view if chance(recipe.name_view) else None,
        age=record.age if known_age and chance(recipe.name_age) else None,
        sex=record.sex if chance(recipe.name_sex) else None,
        template=recipe.template,
    )


def own_texts(record: Record) -> list[str]:
    """The texts that a film came with."""
    return list(record.provenance.get("captions", ())) or ([record.prompt] if record.prompt else [])
