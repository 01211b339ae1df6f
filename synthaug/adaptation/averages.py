"""Moving averages of another length, made after training from averages that were kept on the way.

Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models" (arXiv:2312.02696), "post-hoc EMA": an
average is a weighted sum of what the parameters were after each step, so a sum of kept averages is again one, and a wanted
weighting is met as well as the kept ones allow, in the sense of least squares. Wanted are the paper's power functions

    w(t) ~ t^g,    length = standard deviation of t / T,    length^2 = (g + 1) / ((g + 2)^2 (g + 3))

over T steps: .05 remembers about the last twentieth, .10 the last tenth. Kept is the loop's own exponential average, as float16.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from synthaug.adaptation import tensor_files
from synthaug.errors import UserError

FOLDER = "averages"
BINS = 4000  # of steps, over which weightings are compared
FAR = 0.3  # of the wanted weighting's norm: what the kept averages may miss


class Averaging(NamedTuple):
    """`keep` the average at each saved state; at the end take one of `length` (0 to .28) in place of the recipe's own."""

    keep: bool = False
    length: float | None = None


NONE_KEPT = Averaging()


def decay(ema: float, step: int) -> float:
    """Share of the average that stays at `step`, counted from 0: short at first, so that the start is forgotten."""
    return min(ema, (1 + step) / (10 + step))


def weighting(ema: float, steps: int, until: int) -> np.ndarray:
    """Weight of the parameters after 0, 1, ... `until` steps in the loop's average after `steps` of them; their sum is 1."""
    stays = np.array([decay(ema, step) for step in range(steps)])
    later = np.append(np.cumprod(stays[::-1])[::-1][1:], 1.0)
    out = np.zeros(until + 1)
    out[0], out[1 : steps + 1] = stays.prod(), (1 - stays) * later
    return out


def wanted(length: float, steps: int) -> np.ndarray:
    """The power function of that length over 0, 1, ... `steps`; its sum is 1."""
    exponent = np.roots([1.0, 7.0, 16.0 - length**-2, 12.0 - length**-2]).real.max()
    edges = (np.arange(steps + 1) / steps) ** (exponent + 1)
    return np.append(0.0, np.diff(edges))


def mixture(kept: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, float]:
    """Coefficients (n,) of sum 1 with which the weightings `kept` (n, T) come nearest to `target` (T,), and what they miss.

    What they miss is a share of the target's norm.
    """
    binned = [np.add.reduceat(row, _starts(len(row))) for row in (*kept, target)]
    rows, goal = np.stack(binned[:-1]), binned[-1]
    # The last coefficient is what is left to 1.
    others = np.linalg.lstsq((rows[:-1] - rows[-1]).T, goal - rows[-1], rcond=1e-4)[0]
    found = np.append(others, 1 - others.sum())
    return found, float(np.linalg.norm(found @ rows - goal) / np.linalg.norm(goal))


def _starts(length: int) -> np.ndarray:
    return np.unique(np.linspace(0, length, min(BINS, length), endpoint=False).astype(int))


def keep(folder: Path | None, step: int, averages: dict[str, dict[str, Tensor]]) -> None:
    """Write the players' averages at `step` beside the state; every process calls, without a folder if it is not to write."""
    path = folder / FOLDER / f"{step:08d}.safetensors" if folder else None
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
    named = {f"{player}/{name}": value for player, own in averages.items() for name, value in own.items()}
    tensor_files.write(path, named, kind=torch.float16)


def of_length(folder: Path, player: str, length: float, ema: float, steps: int) -> dict[str, Tensor]:
    """The parameters of `player` averaged over `steps` by the power function of `length`, float32.

    Raises:
        UserError: no such length, or the kept averages cannot make it.
    """
    if not 0 < length < 0.28:
        raise UserError(
            f"--ema-length {length:g}: expected a number between 0 and .28, such as .05 (short) or .1"
        )
    paths = [path for path in sorted((folder / FOLDER).glob("*.safetensors")) if int(path.stem) <= steps]
    if not paths:
        raise UserError(
            f"--ema-length {length:g}: {folder} holds no averages; train with --keep-averages, which writes one at each state"
        )
    rows = np.stack([weighting(ema, int(path.stem), steps) for path in paths])
    coefficients, missed = mixture(rows, wanted(length, steps))
    if missed > FAR:
        raise UserError(
            f"--ema-length {length:g}: the {len(paths)} averages kept in {folder / FOLDER} miss {missed:.0%} of that weighting; "
            "try another length, or train with a smaller --save-every"
        )
    total: dict[str, Tensor] = {}
    for path, coefficient in zip(paths, coefficients, strict=True):
        with safe_open(path, "pt") as stored:
            own = [key for key in list(stored.keys()) if key.startswith(f"{player}/")]
            for key in own:
                part = stored.get_tensor(key).float() * float(coefficient)
                name = key.removeprefix(f"{player}/")
                total[name] = total[name] + part if name in total else part
    return total
