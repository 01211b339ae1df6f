"""Where a checkpoint comes from: "embedded", a folder, or a hub id; each ends as a folder on this disk."""

import re
from importlib import resources
from pathlib import Path

from synthaug.diffusion.components import CLASSES, INDEX, STEMS
from synthaug.errors import CheckpointError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def locate(model: str | Path) -> tuple[Path, str]:
    """Folder and public name of a checkpoint; the name never holds a path of this machine.

    Raises:
        CheckpointError: there is no such folder, or the hub does not give it.
    """
    if model == "embedded":
        folder = Path(str(resources.files("synthaug") / "assets" / "embedded"))
        if not folder.is_dir():
            raise CheckpointError(
                "--model embedded: this installation has no embedded checkpoint; reinstall synthaug"
            )
        return folder, "embedded"
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder, folder.resolve().name
    if isinstance(model, str) and HUB_ID.fullmatch(model):
        return download(model), model
    raise CheckpointError(
        f"--model {model}: no such folder; expected 'embedded', a checkpoint folder or a hub id (owner/name); "
        "`synthaug models` lists what is here"
    )


def download(repository: str) -> Path:
    """The safetensors checkpoint of a hub id, from the hub's cache or the network.

    Raises:
        CheckpointError: no network, no such repository, or a licence that was not accepted.
    """
    from huggingface_hub import hf_hub_download, snapshot_download

    # HTTPError: the root of whichever client this version of the hub speaks through (requests, httpx, httpx2).
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalEntryNotFoundError

    wanted = [INDEX, "synthaug.json", "scheduler/*.json", "tokenizer/*"]
    wanted += [
        f"{component}/{name}"
        for component in STEMS
        for name in ("config.json", "*.safetensors", "*.index.json")
    ]
    wanted += ["fast/*.json", "fast/*.safetensors"]
    unwanted = ["*.fp16.*", "*non_ema*", "*.flax*"]
    try:
        folder = Path(snapshot_download(repository, allow_patterns=wanted, ignore_patterns=unwanted))
        if not any((folder / "text_encoder").glob("*.safetensors")):
            hf_hub_download(repository, "text_encoder/pytorch_model.bin")
    except (HfHubHTTPError, LocalEntryNotFoundError, HTTPError, OSError) as error:
        raise CheckpointError(_refused(repository, _status(error))) from error
    if not (folder / INDEX).exists():
        raise CheckpointError(
            f"--model {repository}: holds no {INDEX}; expected a checkpoint with {', '.join(CLASSES)}"
        )
    return folder


def download_text_encoder(repository: str) -> Path:
    """A text encoder and its tokenizer from the hub's cache or the network.

    Raises:
        CheckpointError: no network, no such repository, or a licence that was not accepted.
    """
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalEntryNotFoundError

    wanted = ["config.json", "*.safetensors", "model.safetensors.index.json", "vocab.*", "merges.txt"]
    wanted += ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]
    try:
        folder = Path(snapshot_download(repository, allow_patterns=wanted))
        if not any(folder.glob("*.safetensors")):
            hf_hub_download(repository, "pytorch_model.bin")
    except (HfHubHTTPError, LocalEntryNotFoundError, HTTPError, OSError) as error:
        message = _refused(repository, _status(error))
        raise CheckpointError(message.replace("--model", "--text-encoder", 1)) from error
    return folder


def _status(error: BaseException | None) -> int | None:
    """The hub's HTTP status, if it was reached: of the error or of what caused it."""
    while error is not None:
        response = getattr(error, "response", None)
        if response is not None:
            return response.status_code
        error = error.__cause__
    return None


def _refused(repository: str, status: int | None) -> str:
    if status is None:
        return (
            f"--model {repository}: no folder of that name here, and the hub cannot be reached "
            "(no network?); give a folder, or download it once where there is a network"
        )
    if status in (401, 403):
        return (
            f"--model {repository}: the hub refuses ({status}): no such repository, or a gated one. Accept its "
            f"licence at https://huggingface.co/{repository} and set HF_TOKEN to a token of that account"
        )
    if status == 404:
        return f"--model {repository}: no such folder here and no such repository on the hub"
    return f"--model {repository}: the hub answers with status {status}; try again later or give a folder"
