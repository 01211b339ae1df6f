"""How a checkpoint is sampled: what is given by name, the checkpoint's own settings for the rest, and what no sampler can do.

`synthaug.diffusion.sampler` states what each of them does.
"""

from dataclasses import dataclass, replace
from typing import Any, TypedDict, Unpack

from synthaug.diffusion.checkpoint import Checkpoint
from synthaug.diffusion.schedule import make_scheduler
from synthaug.errors import UserError

SCALED = "sde-"  # solvers whose noise `noise_scale` multiplies


class Given(TypedDict, total=False):
    """Settings by name; None, and what is left out, takes the checkpoint's."""

    guidance_scale: float | None
    guidance_interval: tuple[float, float] | None
    guidance_rescale: float | None
    guidance_mean: float | None
    num_inference_steps: int | None
    scheduler: str | None
    noise_scale: float | None
    image_size: int | None
    feature_interval: int | None


@dataclass(frozen=True)
class Settings:
    """How a checkpoint is sampled; `resolve` fills in the checkpoint's own defaults."""

    guidance_scale: float
    guidance_interval: tuple[float, float]
    num_inference_steps: int
    scheduler: str
    image_size: int
    feature_interval: int = 1
    guidance_rescale: float = 0.0
    guidance_mean: float = 1.0
    noise_scale: float = 1.0

    def guided(self, step: int, steps: int) -> bool:
        """Whether guidance is on at `step` of `steps`."""
        low, high = self.guidance_interval
        return self.guidance_scale != 1 and low <= step / steps < high


def resolve(checkpoint: Checkpoint, **given: Unpack[Given]) -> Settings:
    """The given settings, and the checkpoint's where None.

    Raises:
        UserError: a value that no sampler can work with.
        UnknownNameError: no scheduler of that name.
    """
    card = checkpoint.card
    values: dict[str, Any] = {"feature_interval": 1}
    values |= {name: getattr(card, name) for name in Given.__annotations__ if name not in values}
    values |= {name: value for name, value in given.items() if value is not None}
    settings = Settings(**values)
    if not settings.scheduler.startswith(SCALED) and given.get("noise_scale") is None:
        settings = replace(settings, noise_scale=1.0)  # the checkpoint's is for its own solver
    low, high = settings.guidance_interval
    if not 1 <= settings.guidance_scale < 1000:
        raise UserError(f"--guidance-scale {settings.guidance_scale:g}: expected a number from 1 (off) up")
    if not 0 <= low <= high <= 1:
        raise UserError(f"guidance_interval {low}, {high}: expected 0 <= from <= to <= 1")
    for name in ("guidance_rescale", "guidance_mean"):
        if not 0 <= (share := getattr(settings, name)) <= 1:
            raise UserError(f"{name} {share:g}: expected 0 to 1")
    if not 0 <= settings.noise_scale <= 2:
        raise UserError(f"noise_scale {settings.noise_scale:g}: expected 0 to 2, and 1 as the solver has it")
    if settings.noise_scale != 1 and not settings.scheduler.startswith(SCALED):
        raise UserError(
            f"noise_scale {settings.noise_scale:g}: is for schedulers whose names begin with {SCALED!r}, found "
            f"{settings.scheduler}; expected 1 there"
        )
    if settings.num_inference_steps < 1:
        raise UserError(f"--num-inference-steps {settings.num_inference_steps}: expected 1 or more")
    if settings.feature_interval < 1:
        raise UserError(f"feature_interval {settings.feature_interval}: expected 1 (every step) or more")
    if settings.image_size < 1 or settings.image_size % checkpoint.scale_factor:
        raise UserError(
            f"--image-size {settings.image_size}: expected a multiple of {checkpoint.scale_factor} "
            f"(the checkpoint was trained at {card.image_size})"
        )
    make_scheduler(checkpoint.scheduler_config, settings.scheduler)
    return settings
