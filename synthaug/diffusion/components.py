"""Reading the components of a Stable-Diffusion folder: known classes, safetensors, no pickle, no remote code."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from synthaug.diffusion.projected_text_encoder import ProjectedTextEncoder
from synthaug.errors import CheckpointError

INDEX = "model_index.json"
SUPPORTED = "Stable Diffusion 1.x and 2.x (StableDiffusionPipeline: UNet2DConditionModel, AutoencoderKL, CLIPTextModel)"
# The second form of text encoder is this package's own; `text_projection` writes it.
PROJECTED = {
    "text_encoder": ["synthaug", "ProjectedTextEncoder"],
    "tokenizer": ["transformers", "AutoTokenizer"],
}
CLASSES = {
    "unet": ("diffusers", ("UNet2DConditionModel",)),
    "vae": ("diffusers", ("AutoencoderKL",)),
    "text_encoder": ("transformers", ("CLIPTextModel",)),
    "tokenizer": ("transformers", ("CLIPTokenizer", "CLIPTokenizerFast")),
    "scheduler": (
        "diffusers",
        (
            "DDIMScheduler",
            "DDPMScheduler",
            "DEISMultistepScheduler",
            "DPMSolverMultistepScheduler",
            "DPMSolverSinglestepScheduler",
            "EulerAncestralDiscreteScheduler",
            "EulerDiscreteScheduler",
            "HeunDiscreteScheduler",
            "LMSDiscreteScheduler",
            "PNDMScheduler",
            "UniPCMultistepScheduler",
        ),
    ),
}
STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
PICKLES = ("*.bin", "*.ckpt", "*.pt", "*.pth", "*.pkl")


def read_json(path: Path) -> dict[str, Any]:
    """One JSON object.

    Raises:
        CheckpointError: the file is missing or holds something else.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: missing; a Stable-Diffusion folder holds it") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: found a {type(values).__name__}, expected a JSON object")
    return values


def check_index(folder: Path) -> dict[str, str]:
    """Class name of each component, from `model_index.json`.

    Raises:
        CheckpointError: no index, a component is not named there, or its class is not one of `CLASSES`.
    """
    if not (folder / INDEX).exists():
        if (folder / "pytorch_lora_weights.safetensors").exists():
            raise CheckpointError(
                f"{folder}: a LoRA without synthaug.json, so nobody knows its base; write one with base{{name, sha256}} "
                "and the findings it draws, as `synthaug adapt --recipe lora` does"
            )
        loose = sorted(path.name for pattern in (*PICKLES, "*.safetensors") for path in folder.glob(pattern))
        found = f"found {loose[0]}, a single-file checkpoint; " if loose else ""
        raise CheckpointError(
            f"{folder}: {INDEX} is missing; {found}expected a diffusers folder. {_how_to_convert(folder)}"
        )
    index = read_json(folder / INDEX)
    if index.get("_class_name") != "StableDiffusionPipeline":
        raise CheckpointError(
            f"{folder / INDEX}: _class_name is {index.get('_class_name')!r}, "
            f"expected 'StableDiffusionPipeline'; supported is {SUPPORTED}"
        )
    names = {}
    for component, (library, known) in CLASSES.items():
        entry = index.get(component)
        if not isinstance(entry, list) or len(entry) != 2 or None in entry:
            raise CheckpointError(
                f"{folder / INDEX}: names no {component}; a checkpoint has {', '.join(CLASSES)}"
            )
        if entry == PROJECTED.get(component):
            pass
        elif entry[0] != library or entry[1] not in known:
            raise CheckpointError(
                f"{folder / INDEX}: {component} is {entry[0]}.{entry[1]}, "
                f"expected {library}.{' or '.join(known)}; "
                "classes outside this list, and remote code, are not loaded"
            )
        names[component] = entry[1]
    return names


def weight_files(folder: Path, component: str) -> tuple[list[Path], str | None]:
    """Files that hold the weights of a component, and their diffusers variant ("fp16") if only that is there.

    Raises:
        CheckpointError: the component, a shard of it, or everything but pickles is missing.
    """
    home, stem = folder / component, STEMS[component]
    if not (home / "config.json").exists():
        raise CheckpointError(
            f"{folder}: component {component} is missing ({home / 'config.json'} not found)"
        )
    for variant, middle in ((None, ""), ("fp16", ".fp16")):
        whole = home / f"{stem}{middle}.safetensors"
        if whole.exists():
            return [whole], variant
        for index in (
            home / f"{stem}.safetensors.index{middle}.json",
            home / f"{stem}{middle}.safetensors.index.json",
        ):
            if index.exists():
                shards = [
                    home / Path(name).name
                    for name in sorted(set(read_json(index).get("weight_map", {}).values()))
                ]
                for shard in shards:
                    if not shard.exists():
                        raise CheckpointError(f"{shard}: missing; {index.name} names it")
                return [index, *shards], variant
    pickle = home / "pytorch_model.bin"
    if component == "text_encoder" and pickle.exists():
        return [pickle], None
    pickles = sorted(path for pattern in PICKLES for path in home.glob(pattern))
    if pickles:
        raise CheckpointError(
            f"{pickles[0]}: pickle weights are not loaded; expected safetensors. {_how_to_convert(folder)}"
        )
    raise CheckpointError(
        f"{folder}: component {component} has no weights ({home / stem}.safetensors not found)"
    )


def _how_to_convert(folder: Path) -> str:
    return (
        'Convert it where you trust the file: python -c "from diffusers import StableDiffusionPipeline as P; '
        f"P.from_pretrained('{folder}').save_pretrained('{folder}-safe')\" (from_single_file for one file)"
    )


def load_model(folder: Path, component: str, dtype: torch.dtype) -> torch.nn.Module:
    """One of unet, vae, text_encoder, every weight of it read from the folder.

    Raises:
        CheckpointError: a file is missing, damaged, pickled, or does not fit the configuration.
    """
    files, variant = weight_files(folder, component)
    _, (name, *_) = CLASSES[component]
    kind = transformers.CLIPTextModel if component == "text_encoder" else getattr(diffusers, name)
    options: dict[str, Any] = {"variant": variant, "local_files_only": True, "output_loading_info": True}
    options["use_safetensors"] = files[0].suffix != ".bin"
    if component == "text_encoder":
        options |= {"dtype": dtype, "weights_only": True}
    else:
        options |= {"torch_dtype": dtype, "low_cpu_mem_usage": True}
    try:
        with quiet():
            model, report = kind.from_pretrained(folder / component, **options)
    except Exception as error:  # diffusers, transformers and safetensors raise each their own
        raise CheckpointError(
            f"{folder / component}: cannot be read: {str(error).strip().splitlines()[0]}"
        ) from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise CheckpointError(f"{files[0]}: {len(missing)} weights are missing, the first is {missing[0]}")
    return model.eval().requires_grad_(False)


def load_text_encoder(folder: Path, kind: str, dtype: torch.dtype) -> torch.nn.Module:
    """The text encoder of the class that the index names: CLIP's, or another one behind a projection.

    Raises:
        CheckpointError: as in `load_model`.
    """
    if kind != "ProjectedTextEncoder":
        return load_model(folder, "text_encoder", dtype)
    weight_files(folder, "text_encoder")
    try:
        with quiet():
            model, report = ProjectedTextEncoder.from_pretrained(
                folder / "text_encoder",
                dtype=dtype,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
            )
    except Exception as error:  # transformers and safetensors raise each their own
        raise CheckpointError(
            f"{folder / 'text_encoder'}: cannot be read: {str(error).strip().splitlines()[0]}"
        ) from error
    if missing := sorted(report["missing_keys"]):
        raise CheckpointError(
            f"{folder / 'text_encoder'}: {len(missing)} weights are missing, the first is {missing[0]}"
        )
    return model.to(dtype).eval().requires_grad_(False)


def load_tokenizer(folder: Path, encoder: str = "CLIPTextModel") -> Any:
    """The tokenizer of a folder: CLIP's, or that of a projected text encoder."""
    home = folder / "tokenizer"
    if encoder == "ProjectedTextEncoder":
        return any_tokenizer(home)
    if not (home / "tokenizer.json").exists() and not (
        (home / "vocab.json").exists() and (home / "merges.txt").exists()
    ):
        raise CheckpointError(
            f"{folder}: component tokenizer is missing (no tokenizer.json, no vocab.json and merges.txt)"
        )
    try:
        with quiet():
            return transformers.CLIPTokenizer.from_pretrained(home, local_files_only=True)
    except Exception as error:
        raise CheckpointError(f"{home}: cannot be read: {str(error).strip().splitlines()[0]}") from error


def any_tokenizer(home: Path) -> Any:
    """The tokenizer in a folder, of any class that transformers itself knows.

    Raises:
        CheckpointError: there is none, or it asks for code of its own.
    """
    try:
        with quiet():
            return transformers.AutoTokenizer.from_pretrained(
                home, local_files_only=True, trust_remote_code=False
            )
    except Exception as error:
        raise CheckpointError(
            f"{home}: no tokenizer can be read: {str(error).strip().splitlines()[0]}"
        ) from error


def identity(folder: Path) -> str:
    """SHA-256 over all that decides the numbers: weights, configurations, tokenizer, schedule; not the card."""
    files = [folder / "scheduler" / "scheduler_config.json"]
    for component in STEMS:
        files += [folder / component / "config.json", *weight_files(folder, component)[0]]
    files += [path for name in TOKENIZER_FILES if (path := folder / "tokenizer" / name).exists()]
    total = hashlib.sha256()
    for path in sorted(files):
        if not path.exists():
            raise CheckpointError(f"{path}: missing; a Stable-Diffusion folder holds it")
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        total.update(f"{path.relative_to(folder).as_posix()} {digest}\n".encode())
    return total.hexdigest()


@contextmanager
def quiet() -> Iterator[None]:
    """Neither progress bars nor load reports: the caller owns what is printed."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries = (diffusers_logging, transformers_logging)
    before = [(one, one.get_verbosity(), one.is_progress_bar_enabled()) for one in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, verbosity, bars in before:
            library.set_verbosity(verbosity)
            if bars:
                library.enable_progress_bar()
