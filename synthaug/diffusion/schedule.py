"""Schedulers by name, made from the schedule that the checkpoint was trained with."""

import inspect
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import diffusers

from synthaug.errors import UnknownNameError

# name -> diffusers class and the options that make it what the name says
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    # Lu et al., "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models",
    # arXiv:2211.01095
    "dpmsolver++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "sde-dpmsolver++": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver++", "solver_order": 2},
    ),
    # Steps evenly spaced in the logarithm of the signal-to-noise ratio, as Lu et al. have them. Trailing timesteps leave few
    # steps at both ends of a schedule with zero terminal SNR, and large shapes and grain come out with too little variance.
    "dpmsolver++-lu": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++", "solver_order": 2, "use_lu_lambdas": True},
    ),
    "sde-dpmsolver++-lu": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "sde-dpmsolver++", "solver_order": 2, "use_lu_lambdas": True},
    ),
    "ddim": ("DDIMScheduler", {"clip_sample": False}),
    "ddpm": ("DDPMScheduler", {"clip_sample": False}),
    "deis": ("DEISMultistepScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "unipc": ("UniPCMultistepScheduler", {}),
}
AS_SAVED = "checkpoint"


def make_scheduler(config: Mapping[str, Any], name: str = AS_SAVED) -> Any:
    """A diffusers scheduler.

    Args:
        config: `Checkpoint.scheduler_config`.
        name: of `SCHEDULERS`, or "checkpoint" for the one that the checkpoint came with.

    Raises:
        UnknownNameError: there is no scheduler of that name.
    """
    if name != AS_SAVED and name not in SCHEDULERS:
        raise UnknownNameError("scheduler", name, (*SCHEDULERS, AS_SAVED))
    kind, options = (config["_class_name"], {}) if name == AS_SAVED else SCHEDULERS[name]
    with quiet_numpy():
        return getattr(diffusers, kind).from_config(dict(config), **options)


@contextmanager
def quiet_numpy() -> Iterator[None]:
    """Hide that diffusers' schedulers hand tensors to numpy in ways that numpy 2 deprecates."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "__array", DeprecationWarning)
        yield


def takes_generator(scheduler: Any) -> bool:
    """Whether a step may draw noise."""
    return "generator" in inspect.signature(scheduler.step).parameters
