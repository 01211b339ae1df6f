"""Where, in which precision and with how many threads a model runs. Part of the execution, never of the recipe.

A container is often given less than the machine has: fewer processors (affinity), or a share of their time (the quota of its
control group, which torch does not look at). More threads than that wait for each other and cost time.
"""

import math
import os
from functools import cache
from pathlib import Path

import torch

from synthaug.errors import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DEVICES = ("auto", "cuda", "mps", "cpu")


def choose_device(device: str = "auto") -> torch.device:
    """The device of that name; "auto" takes the first of cuda, mps, cpu that is there.

    For the CPU, torch is held to the threads that this process may run at once; fewer stay as they are.

    Raises:
        UserError: the device is unknown or not there.
    """
    kind, _, number = device.partition(":")
    if kind not in DEVICES or (number and not number.isdigit()):
        raise UserError(f"--device {device!r}: expected one of {', '.join(DEVICES)}")
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if kind == "auto":
        kind = device = next(name for name in there if there[name])
    if kind == "cpu" and torch.get_num_threads() > usable_processors():
        torch.set_num_threads(usable_processors())
    if not there[kind] or (kind == "cuda" and int(number or 0) >= torch.cuda.device_count()):
        raise UserError(f"--device {device}: this machine has none; use --device auto")
    return torch.device(device)


def choose_dtype(device: torch.device, dtype: str | None = None) -> torch.dtype:
    """The named precision; None takes bfloat16 where the hardware multiplies it, float32 elsewhere."""
    if dtype is not None:
        if dtype not in DTYPES:
            raise UserError(f"dtype {dtype!r}: expected one of {', '.join(DTYPES)}")
        return DTYPES[dtype]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "cpu" and processor_has_bfloat16():
        return torch.bfloat16
    return torch.float32


@cache
def processor_has_bfloat16() -> bool:
    """Whether processor and torch multiply bfloat16 themselves (AMX or AVX-512 BF16); emulation would be slower."""
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False
    return bool(flags & {"amx_bf16", "avx512_bf16"})


def dtype_name(dtype: torch.dtype) -> str:
    """ "float32", as execution.json spells it."""
    return str(dtype).removeprefix("torch.")


@cache
def usable_processors() -> int:
    """How many threads may run at once: the processors of this process, or the quota of its control groups, rounded up."""
    try:
        own = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows know neither
        return os.cpu_count() or 1
    return max(1, math.ceil(min(own, quota())))


def quota(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> float:
    """Processors' worth of time that the control groups allow, the least of a group and those above it; inf without a limit.

    Args:
        root: where the control groups are mounted; version 2, or version 1 with a folder for `cpu`.
        membership: the groups of this process, as `/proc/self/cgroup` lists them.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return math.inf
    least = math.inf
    for _, controllers, group in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if controllers and "cpu" not in controllers.split(","):
            continue
        homes = (root / controllers, root / "cpu") if controllers else (root, root / "unified")
        # Inside a container its own group is mounted as the root, so the path may not be there; the root then is.
        parts = Path(group.lstrip("/")).parts
        for home in homes:
            for depth in range(len(parts) + 1):
                least = min(least, _limit(home.joinpath(*parts[:depth])))
    return least


def _limit(folder: Path) -> float:
    """Quota over period of one control group; inf where there is none."""
    try:
        if (folder / "cpu.max").exists():
            allowed, period = (folder / "cpu.max").read_text().split()
        else:
            allowed = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        share = float(allowed) / float(period)
    except (OSError, ValueError, ZeroDivisionError):  # "max", or no such file
        return math.inf
    return share if share > 0 else math.inf
