"""Where and in which precision a checkpoint runs. Part of the execution, never of the recipe."""

from functools import cache
from pathlib import Path

import torch

from synthaug.errors import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DEVICES = ("auto", "cuda", "mps", "cpu")


def choose_device(device: str = "auto") -> torch.device:
    """The device of that name; "auto" takes the first of cuda, mps, cpu that is there.

    Raises:
        UserError: the device is unknown or not there.
    """
    kind, _, number = device.partition(":")
    if kind not in DEVICES or (number and not number.isdigit()):
        raise UserError(f"--device {device!r}: expected one of {', '.join(DEVICES)}")
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if kind == "auto":
        return torch.device(next(name for name in there if there[name]))
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
    """Whether the processor multiplies bfloat16 itself (AMX or AVX-512 BF16); emulation would be slower."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False
    return bool(flags & {"amx_bf16", "avx512_bf16"})


def dtype_name(dtype: torch.dtype) -> str:
    """ "float32", as execution.json spells it."""
    return str(dtype).removeprefix("torch.")
