"""The plan of a run: which films, from which prompts, under one running index.

A recipe is resolved against a checkpoint: what it leaves open (steps, guidance, size, ...) takes the
checkpoint's own value, labels become prompts, and the checkpoint's identity is written in. Equal resolved
recipes mean equal films.

Labels of one entry are a conjunction. A view, age or sex that is not given is left out of the prompt, so that
the film shows whatever mixture the checkpoint learnt, and is recorded as unknown.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field

from synthaug import findings as vocabulary
from synthaug.diffusion import Checkpoint, Given, resolve
from synthaug.errors import LabelError, RecipeError, UnknownNameError, UserError
from synthaug.generation.gates import GateRecipe
from synthaug.images import FORMATS
from synthaug.prompts import SEX_WORDS, contrary, negative, render
from synthaug.recipes import Recipe, differences
from synthaug.record import VIEWS

KEY = "{:09d}"
OLDEST = 120


class PlanEntry(BaseModel):
    """`count` films of one condition; a prompt of its own replaces the one rendered from the labels.

    `negative_prompt` is written when the recipe is resolved: the recipe's, filled in for this condition.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    labels: dict[str, float | None] = {}
    view: str | None = None
    age: float | None = None
    sex: str | None = None
    prompt: str | None = None
    negative_prompt: str | None = None
    count: int = Field(gt=0)


class CheckpointName(BaseModel):
    """Which checkpoint: by name for people, by SHA-256 for certain."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str
    sha256: str


class GenerateRecipe(Recipe):
    """What to draw. None takes the checkpoint's value when the recipe is resolved; no `feature_interval` is 1."""

    plan: tuple[PlanEntry, ...] = Field(min_length=1)
    seed: int = Field(default=0, ge=0)
    shard_size: int = Field(default=1000, gt=0)
    format: Literal["png", "jpeg", "webp"] = "png"
    image_size: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    guidance_interval: tuple[float, float] | None = None
    guidance_rescale: float | None = None
    guidance_mean: float | None = None
    scheduler: str | None = None
    noise_scale: float | None = None
    feature_interval: int | None = None
    negative_prompt: str | None = None
    checkpoint: CheckpointName | None = None
    gates: GateRecipe | None = None

    @property
    def count(self) -> int:
        """Films in all."""
        return sum(entry.count for entry in self.plan)

    @property
    def shards(self) -> int:
        """How many shards hold the films."""
        return -(-self.count // self.shard_size)

    def shard(self, number: int) -> range:
        """The indexes of a shard's films."""
        return range(number * self.shard_size, min((number + 1) * self.shard_size, self.count))

    @property
    def sampling(self) -> Given:
        """What the sampler is told; None takes the checkpoint's."""
        return cast(Given, {name: getattr(self, name) for name in Given.__annotations__})

    def sampling_facts(self) -> dict[str, Any]:
        """How a resolved recipe's films are drawn, as their records and their card tell; the size aside."""
        return {
            name: value for name, value in self.sampling.items() if name != "image_size" and value is not None
        }

    @property
    def findings(self) -> tuple[str, ...]:
        """Every finding that an entry labels, in the vocabulary's order: the label keys of each record."""
        named = {name for entry in self.plan for name in entry.labels}
        return tuple(finding for finding in vocabulary.FINDINGS if finding in named)

    def entries(self, indexes: Sequence[int]) -> Iterator[PlanEntry]:
        """The entry of each index; the indexes ascend."""
        wanted, end = iter(indexes), 0
        index = next(wanted, None)
        for entry in self.plan:
            end += entry.count
            while index is not None and index < end:
                yield entry
                index = next(wanted, None)

    def resolved(self, checkpoint: Checkpoint) -> "GenerateRecipe":
        """The recipe with everything decided.

        Raises:
            LabelError: labels that contradict each other, or a finding that the checkpoint lacks.
            RecipeError: the recipe names another checkpoint.
            UserError: a view, age, size or setting that cannot be.
        """
        name = CheckpointName(name=checkpoint.name, sha256=checkpoint.sha256)
        if self.checkpoint is not None and self.checkpoint.sha256 != name.sha256:
            raise RecipeError(
                f"the recipe was made for checkpoint {self.checkpoint.name} ({self.checkpoint.sha256[:8]}), "
                f"--model is {name.name} ({name.sha256[:8]}); give that one, or drop the key `checkpoint`"
            )
        settings = resolve(checkpoint, **self.sampling)
        away = checkpoint.card.negative_prompt if self.negative_prompt is None else self.negative_prompt
        return self.model_copy(
            update={
                "plan": tuple(_resolved(entry, checkpoint, away) for entry in self.plan),
                **{
                    name: getattr(settings, name)
                    for name in Given.__annotations__
                    if name != "feature_interval"
                },
                "negative_prompt": away,
                "checkpoint": self.checkpoint or name,
            }
        )

    def folder_name(self) -> str:
        """The default output folder: the first entry's findings and the start of the digest."""
        labels = self.plan[0].labels
        parts = [name for name, value in labels.items() if value == 1]
        parts = parts or [f"no_{name}" for name, value in labels.items() if value == 0]
        return f"{'-'.join(parts) or 'prompt'}-{self.digest()[:8]}"


def make_recipe(
    labels: str | Sequence[str] | Mapping[str, float] | None,
    count: int,
    prompt: str | None = None,
    view: str | None = None,
    age: float | None = None,
    sex: str | None = None,
    **settings: Any,
) -> GenerateRecipe:
    """The recipe of one condition.

    Raises:
        LabelError, UnknownNameError: labels that are unknown or contradict each other.
        UserError: nothing to draw.
    """
    if count < 1:
        raise UserError(f"--count {count}: expected 1 or more films")
    conjunction = parse_labels(labels)
    if not conjunction and prompt is None:
        raise UserError(
            "nothing to draw: give --label FINDING or --prompt TEXT; `synthaug findings` lists the findings"
        )
    entry = {"labels": conjunction, "view": view, "age": age, "sex": sex, "prompt": prompt, "count": count}
    if settings.get("format", "png") not in FORMATS:
        raise UnknownNameError("format", settings["format"], FORMATS)
    return GenerateRecipe.from_values({"plan": [entry], **settings}, "generate")


def parse_labels(labels: str | Sequence[str] | Mapping[str, float] | None) -> dict[str, float]:
    """Labels of one film, however they are given: "edema", ["edema", "mass=0"] or {"edema": 1}.

    Raises:
        LabelError, UnknownNameError: as in `findings.check`.
    """
    if isinstance(labels, Mapping):
        return vocabulary.check(labels)
    parsed: dict[str, float] = {}
    for text in [labels] if isinstance(labels, str) else labels or []:
        finding, value = vocabulary.parse_label(text)
        if parsed.setdefault(finding, value) != value:
            raise LabelError(f"--label {finding} is given both as 1 and as 0; a film shows one of them")
    return vocabulary.check(parsed)


def changed(before: GenerateRecipe, after: GenerateRecipe) -> list[str]:
    """Dotted keys in which two recipes differ; how their checkpoints are called does not count."""
    return [key for key in differences(before.values(), after.values()) if key != "checkpoint.name"]


def _resolved(entry: PlanEntry, checkpoint: Checkpoint, negative_prompt: str) -> PlanEntry:
    labels = vocabulary.check(
        {name: float("nan") if value is None else value for name, value in entry.labels.items()}
    )
    if entry.view is not None and entry.view not in VIEWS:
        raise UnknownNameError("view", entry.view, VIEWS)
    if entry.sex is not None and entry.sex not in SEX_WORDS:
        raise UnknownNameError("sex", entry.sex, SEX_WORDS)
    if entry.age is not None and not 0 <= entry.age <= OLDEST:
        raise UserError(f"--age {entry.age:g}: expected years, 0 to {OLDEST}")
    prompt = entry.prompt
    if prompt is None:
        lacking = [
            name for name, value in labels.items() if value == value and name not in checkpoint.findings
        ]
        if lacking:
            reason = checkpoint.card.refused.get(lacking[0])
            raise LabelError(
                f"--label {lacking[0]}: checkpoint {checkpoint.name} "
                f"{f'does not offer it: {reason}' if reason else 'was not trained on it'}; "
                f"it knows {', '.join(checkpoint.findings)}. Give another --model, or try --prompt TEXT"
            )
        if entry.view is not None and entry.view not in checkpoint.views:
            known = ", ".join(checkpoint.views) or "none"
            raise UserError(
                f"--view {entry.view}: checkpoint {checkpoint.name} was not trained on it; it knows {known}"
            )
        prompt = render(labels, entry.view, entry.age, entry.sex, checkpoint.template)
    values = {name: None if value != value else value for name, value in labels.items()}
    not_shown = contrary(labels, checkpoint.findings)
    away = negative(negative_prompt, entry.view, entry.age, entry.sex, not_shown)
    return entry.model_copy(update={"labels": values, "prompt": prompt, "negative_prompt": away})
