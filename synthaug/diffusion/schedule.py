"""Schedulers by name, made from the schedule that the checkpoint was trained with."""

import inspect
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import diffusers
import numpy as np
import torch

from synthaug.errors import UnknownNameError, UserError

DECIDED = (100.0, 0.04)  # sigma / alpha: above it nothing of a film is decided yet, below it nothing more


class ClippedDPMSolver(diffusers.DPMSolverMultistepScheduler):
    """`DPMSolverMultistepScheduler` with `clipped_timesteps`."""

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Choose the timesteps of that many steps."""
        times = clipped_timesteps(self.alphas_cumprod, num_inference_steps)
        super().set_timesteps(timesteps=times, device=device)


def clipped_timesteps(alphas_cumprod: torch.Tensor, steps: int) -> list[int]:
    """One step out of pure noise, then steps even in the logarithm of the signal-to-noise ratio over `DECIDED` alone.

    A schedule with zero terminal SNR reaches sigma / alpha = 4096: of forty steps that are even over the whole of it, thirteen
    lie above 100, where even the brightness of a radiograph, its widest component, is a third of the noise or less. Different
    timesteps, noisiest first.

    Raises:
        UserError: more steps than timesteps.
    """
    if steps > len(alphas_cumprod):
        raise UserError(f"--num-inference-steps {steps}: expected at most {len(alphas_cumprod)}")
    levels = log_levels(alphas_cumprod)
    high, low = np.log(DECIDED)
    pure = 1 if levels[-1] > high else 0
    wanted = [levels[-1]] * pure + [*np.linspace(min(high, levels[-1]), low, max(steps - pure, 0))]
    return nearest_timesteps(levels, wanted[:steps])


def log_levels(alphas_cumprod: torch.Tensor) -> np.ndarray:
    """Natural logarithm of sigma / alpha at every timestep; where alpha is 0, as diffusers' solvers have it."""
    kept = alphas_cumprod.double().clamp(min=2**-24).numpy()
    return np.asarray(0.5 * np.log((1 - kept) / kept))


def nearest_timesteps(levels: np.ndarray, wanted: Sequence[float] | np.ndarray) -> list[int]:
    """Different timesteps near the wanted `log_levels`, which fall."""
    times = np.rint(np.interp(wanted, levels, np.arange(len(levels)))).astype(int)
    count = np.arange(len(times))
    times = np.minimum.accumulate(times + count) - count  # no timestep twice ...
    return [int(time) for time in np.maximum(times, count[::-1])]  # ... and room for those to come


CLIPPED = "clipped"
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
    # As many where they are needed in fewer steps: see `clipped_timesteps`.
    "dpmsolver++-clipped": (CLIPPED, {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "sde-dpmsolver++-clipped": (CLIPPED, {"algorithm_type": "sde-dpmsolver++", "solver_order": 2}),
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
        made = ClippedDPMSolver if kind == CLIPPED else getattr(diffusers, kind)
        return made.from_config(dict(config), **options)


def without_noise(name: str) -> str:
    """The solver of that name that adds no noise of its own, on the timesteps of the schedule."""
    return name.removeprefix("sde-").removesuffix("-lu").removesuffix("-clipped")


@contextmanager
def quiet_numpy() -> Iterator[None]:
    """Hide that diffusers' schedulers hand tensors to numpy in ways that numpy 2 deprecates."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "__array", DeprecationWarning)
        yield


def takes_generator(scheduler: Any) -> bool:
    """Whether a step may draw noise."""
    return "generator" in inspect.signature(scheduler.step).parameters
