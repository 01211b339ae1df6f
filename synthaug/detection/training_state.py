"""What a training run needs to go on after it was cut off: weights, their average, the best so far, AdamW's moments.

One safetensors file in the output folder, `training.safetensors`; its metadata holds the step and what the run was made of.
It is removed when the detector is written.
"""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from synthaug.detection.detector import Detector
from synthaug.errors import OutputFolderError
from synthaug.shards import atomic_write

FILE = "training.safetensors"


class TrainingState:
    """The moving parts of a run."""

    def __init__(self, detector: Detector, optimizer: torch.optim.Optimizer) -> None:
        self.detector = detector
        self.optimizer = optimizer
        self.averaged = copy.deepcopy(detector).eval().requires_grad_(False)
        self.best: dict[str, Tensor] | None = None
        self.best_score = -1.0
        self.step = 0

    def consider(self, score: float) -> bool:
        """Keep the averaged weights where validation has not seen better ones."""
        if score <= self.best_score:
            return False
        self.best_score = score
        self.best = {k: v.clone() for k, v in self.averaged.state_dict().items()}
        return True

    def kept(self) -> Detector:
        """The averaged detector at its best validation."""
        if self.best is not None:
            self.averaged.load_state_dict(self.best)
        return self.averaged

    def discard(self, out: Path) -> None:
        """Remove the file of an ended run."""
        (out / FILE).unlink(missing_ok=True)


@torch.no_grad()
def average(averaged: Detector, detector: Detector, decay: float) -> None:
    """Exponential moving average of weights and running statistics; counters are copied."""
    for own, new in zip(averaged.state_dict().values(), detector.state_dict().values(), strict=True):
        if own.is_floating_point():
            own.lerp_(new, 1 - decay)
        else:
            own.copy_(new)


def _moments(optimizer: torch.optim.Optimizer) -> list[tuple[str, Tensor]]:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return [
        (f"optimizer.{i}.{name}", value)
        for i, parameter in enumerate(parameters)
        for name, value in optimizer.state[parameter].items()
    ]


def save_state(out: Path, state: TrainingState, identity: dict[str, str]) -> None:
    """Write the state whole or not at all."""
    out.mkdir(parents=True, exist_ok=True)
    tensors = {f"detector.{k}": v for k, v in state.detector.state_dict().items()}
    tensors |= {f"averaged.{k}": v for k, v in state.averaged.state_dict().items()}
    tensors |= {f"best.{k}": v for k, v in (state.best or {}).items()}
    tensors |= dict(_moments(state.optimizer))
    meta = {**identity, "step": state.step, "best_score": state.best_score}
    whole = {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in tensors.items()}
    atomic_write(out / FILE, save(whole, {"run": json.dumps(meta)}))


def load_state(out: Path, state: TrainingState, identity: dict[str, str]) -> bool:
    """Bring a run back to where it was saved. Raises `OutputFolderError` where the folder holds another run."""
    path = out / FILE
    if not path.is_file():
        return False
    with safe_open(path, framework="pt") as stored:
        meta: dict[str, Any] = json.loads(stored.metadata()["run"])
        other = [key for key, value in identity.items() if meta.get(key) != value]
        if other:
            raise OutputFolderError(
                f"{path}: an unfinished run with another {', '.join(other)}; choose a new --out, or remove that file"
            )
        tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
    part = lambda name: {k.removeprefix(name): v for k, v in tensors.items() if k.startswith(name)}  # noqa: E731
    state.detector.load_state_dict(part("detector."))
    state.averaged.load_state_dict(part("averaged."))
    device = next(state.detector.parameters()).device
    state.best = {k: v.to(device) for k, v in part("best.").items()} or None
    parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in part("optimizer.").items():
        index, name = key.split(".")
        moments.setdefault(int(index), {})[name] = value
    for index, values in moments.items():
        parameter = parameters[index]
        state.optimizer.state[parameter] = {
            # The fused optimizer counts its steps on the parameter's device.
            name: value.to(parameter.device) if name == "step" else torch.empty_like(parameter).copy_(value)
            for name, value in values.items()
        }
    state.step, state.best_score = meta["step"], meta["best_score"]
    return True
