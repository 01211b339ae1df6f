"""How a run is executed: device, precision, threads, batch size; chosen once, kept in `execution.json`."""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import diffusers
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from synthaug import __version__
from synthaug.diffusion import Checkpoint, Settings, sample
from synthaug.diffusion.device import choose_device, dtype_name, processor_has_bfloat16
from synthaug.errors import OutOfMemoryError, OutputFolderError
from synthaug.shards import open_storage

EXECUTION = "execution.json"
# CPU: measured by benchmarks/generate_vs_diffusers.py --batch-size.
BATCH_SIZES = {"cuda": 64, "mps": 8, "cpu": 8}


class Execution(BaseModel):
    """Equal recipe and equal execution give equal bytes; nothing here names a machine."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    device: str
    dtype: str
    threads: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    versions: dict[str, str]

    def to_bytes(self) -> bytes:
        """Content of `execution.json`."""
        return (json.dumps(self.model_dump(), indent=2, sort_keys=True) + "\n").encode()


def versions() -> dict[str, str]:
    """Versions of what decides the numbers, in the order in which `execution.json` gives them back."""
    return {
        "diffusers": diffusers.__version__,
        "synthaug": __version__,
        "torch": str(torch.__version__),
        "transformers": version("transformers"),
    }


def read_execution(folder: str | Path) -> Execution | None:
    """The execution that a run began with, or None.

    Raises:
        OutputFolderError: the file is damaged.
    """
    storage = open_storage(folder)
    try:
        return Execution.model_validate_json(storage.read(EXECUTION))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise OutputFolderError(
            f"{storage.where(EXECUTION)}: not an execution of this version; choose another --out"
        ) from error


def device_kind(device: str) -> str:
    """What decides how this process rounds on a device: "cpu AVX512 bfloat16", "cuda NVIDIA A100-SXM4-40GB"."""
    place = choose_device(device)
    if place.type == "cuda":
        return f"cuda {torch.cuda.get_device_name(place)}"
    if place.type == "cpu":
        return f"cpu {torch.backends.cpu.get_cpu_capability()}" + " bfloat16" * processor_has_bfloat16()
    return place.type


def probe(checkpoint: Checkpoint, settings: Settings, batch_size: int, threads: int) -> Execution:
    """The execution of a checkpoint as it is loaded, with the largest batch that fits, up to `batch_size`.

    Raises:
        OutOfMemoryError: not even one image fits.
    """
    return Execution(
        device=checkpoint.device.type,
        dtype=dtype_name(checkpoint.dtype),
        threads=threads,
        batch_size=fitting_batch(checkpoint, settings, batch_size),
        versions=versions(),
    )


def begun(execution: Execution, batch_size: int | None, threads: int | None) -> None:
    """Warn where a run goes on otherwise than asked, or under other versions than it began with."""
    for flag, asked, begun_with in (
        ("--batch-size", batch_size, execution.batch_size),
        ("--threads", threads, execution.threads),
    ):
        if asked and asked != begun_with:
            warnings.warn(f"the run began with {flag} {begun_with} and goes on with it", stacklevel=3)
    if execution.versions != versions():
        old, new = execution.versions, versions()
        names = ", ".join(
            f"{name} {old.get(name)} -> {new[name]}" for name in new if old.get(name) != new[name]
        )
        warnings.warn(
            f"the run goes on under other versions ({names}); films may differ by rounding", stacklevel=3
        )


def fitting_batch(checkpoint: Checkpoint, settings: Settings, batch_size: int) -> int:
    """Halve a batch size until one guided step and the decoding fit in memory.

    Raises:
        OutOfMemoryError: not even one image fits.
    """
    while True:
        try:
            sample(
                checkpoint,
                [""] * batch_size,
                [(0, 0)] * batch_size,
                guidance_scale=settings.guidance_scale,
                guidance_interval=(0.0, 1.0),
                num_inference_steps=1,
                scheduler="dpmsolver++",
                image_size=settings.image_size,
            )
            return batch_size
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if batch_size == 1:
                raise OutOfMemoryError(
                    f"{checkpoint.device.type}: one image of {settings.image_size} px does not fit; "
                    "try a smaller --image-size or --device cpu"
                ) from error
        batch_size //= 2
        if checkpoint.device.type == "cuda":
            torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; on CPU and MPS torch says so in words only."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


@contextmanager
def running(execution: Execution) -> Iterator[None]:
    """Torch as the execution says: its threads, and algorithms that give the same numbers again."""
    threads, cudnn = torch.get_num_threads(), torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    torch.set_num_threads(execution.threads)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        cudnn.deterministic, cudnn.benchmark = before
