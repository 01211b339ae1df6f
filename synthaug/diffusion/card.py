"""`synthaug.json`: what a checkpoint knows and how it wants to be sampled."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from synthaug.errors import CheckpointError

CARD = "synthaug.json"
SCHEMA = 1


class Base(BaseModel):
    """The checkpoint that another one was adapted from; `license` as its own card names it, "" where it names none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    sha256: str
    license: str = ""


class CheckpointCard(BaseModel):
    """The facts of a checkpoint that its weights do not tell.

    Attributes:
        findings: canonical names that the training prompts held and whose films are offered, in vocabulary order.
        refused: finding -> why its films are not offered, though the training prompts held it.
        seen: findings that training films showed by their labels, offered or not; `synthaug benchmark --claim closed` asks.
        views: of "PA", "AP", "lateral": those that the training prompts held.
        image_size: side in pixels that the checkpoint was trained at.
        template: name of the prompt template (`synthaug.prompts.TEMPLATES`) that it was trained with.
        route: how it was made: "from_scratch", "unet", "lora", ...; "foreign" without a card.
        base: what it was adapted from, if anything.
        negative_prompt: default of sampling; its optional parts (`synthaug.prompts.negative`) take a film's own values.
        guidance_scale, num_inference_steps: defaults of sampling.
        scheduler: of `synthaug.diffusion.schedule.SCHEDULERS`, likewise.
        guidance_interval: steps with guidance, as [from, to) in fractions of the steps; 0 is the noisy end.
        guidance_rescale: share of a guided prediction that keeps the spread of the prompt's own; 0 is off.
        guidance_mean: share of what guidance changes in the brightness of a whole film that is kept; 0 leaves it to the prompt.
        noise_scale: factor of the noise that an "sde-" scheduler adds.
        attribution: whose data and weights went in, with licences.
        license: of the weights, as the hub writes it ("apache-2.0", "creativeml-openrail-m"); "" where nobody said.
        tokens: words of a prompt -> learnt token that is read in their place.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_: int = Field(default=SCHEMA, alias="schema")
    findings: tuple[str, ...]
    refused: dict[str, str] = Field(default_factory=dict)
    seen: tuple[str, ...] = ()
    views: tuple[str, ...] = ()
    image_size: int = Field(gt=0)
    template: str = "radiograph"
    route: str
    base: Base | None = None
    negative_prompt: str = ""
    guidance_scale: float = Field(default=3.0, ge=1)
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    guidance_rescale: float = Field(default=0.0, ge=0, le=1)
    guidance_mean: float = Field(default=1.0, ge=0, le=1)
    noise_scale: float = Field(default=1.0, ge=0, le=2)
    num_inference_steps: int = Field(default=20, gt=0)
    scheduler: str = "dpmsolver++"
    attribution: str = ""
    license: str = ""
    tokens: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _interval_in_order(self) -> Self:
        low, high = self.guidance_interval
        if not 0 <= low <= high <= 1:
            raise ValueError(f"guidance_interval {[low, high]} is not 0 <= from <= to <= 1")
        return self

    def to_json(self) -> dict[str, Any]:
        """The card as plain JSON values; without what is empty: tokens, refusals, licences that nobody named."""
        values = self.model_dump(mode="json", by_alias=True)
        if self.base is not None and not self.base.license:
            del values["base"]["license"]
        unsaid = [key for key in ("refused", "seen", "tokens", "license") if not values[key]]
        return {key: value for key, value in values.items() if key not in unsaid}

    @classmethod
    def from_json(cls, values: Mapping[str, Any], where: Path | str) -> Self:
        """Read a card; `where` names the file in errors.

        Raises:
            CheckpointError: a field is missing, unknown or of the wrong type, or the schema is a newer one.
        """
        schema = values.get("schema", SCHEMA)
        if schema != SCHEMA:
            raise CheckpointError(
                f"{where}: found schema {schema!r}, expected {SCHEMA}; update with `pip install -U synthaug`"
            )
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"])) or "the card"
            raise CheckpointError(f"{where}: {field}: {first['msg']}") from error
