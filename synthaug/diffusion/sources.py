"""Where a checkpoint comes from: "embedded", a folder, or a hub id; each ends as a folder on this disk.

A hub id is `owner/name`, or `owner/name@revision` for a branch, a tag or a commit. What a download will take is said before
it starts. `/fast` after any of them is the few-step variant in it, `fast/`.
"""

import re
import shutil
import warnings
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from synthaug.diffusion.card import CARD
from synthaug.diffusion.components import CLASSES, INDEX, STEMS, read_json
from synthaug.errors import CheckpointError, DiskFullError, UnknownNameError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?")
README = "README.md"
FAST = "fast"
QUALITIES = ("best", FAST)


def locate(model: str | Path) -> tuple[Path, str]:
    """Folder and public name of a checkpoint; the name never holds a path of this machine.

    Raises:
        CheckpointError: there is no such folder, or the hub does not give it.
        DiskFullError: the disk has no room for the download.
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
        around, name = folder.resolve().parent, folder.resolve().name
        inside = name == FAST and (around / INDEX).exists()
        return folder, f"{around.name}/{FAST}" if inside else name
    whole, slash, last = str(model).rpartition("/")
    if slash and last == FAST and (whole == "embedded" or HUB_ID.fullmatch(whole)):
        folder, name = locate(whole)
        return folder / FAST, f"{name}/{FAST}"
    if isinstance(model, str) and HUB_ID.fullmatch(model):
        return download(model), model
    raise CheckpointError(
        f"--model {model}: no such folder; expected 'embedded', a checkpoint folder or a hub id (owner/name, "
        "owner/name@revision); `synthaug models` lists what is here"
    )


def of_quality(model: str | Path, quality: str) -> str | Path:
    """The checkpoint itself for "best"; its few-step variant for "fast", or itself where it is a few-step one.

    Raises:
        CheckpointError: it has no such variant.
        UnknownNameError: no such quality.
    """
    if quality not in QUALITIES:
        raise UnknownNameError("quality", quality, QUALITIES)
    if quality == "best":
        return model
    folder, name = locate(model)
    if (folder / FAST / CARD).exists():
        return f"{model}/{FAST}"
    if (folder / CARD).exists() and read_json(folder / CARD).get("route") == "distill":
        return model
    raise CheckpointError(
        f"--quality fast: checkpoint {name} has no few-step variant (no {FAST}/{CARD} in it); leave the flag out, or "
        f"make one: `synthaug adapt --recipe distill --model {name} --data FILMS --out STUDENT`, then --model STUDENT"
    )


def at_revision(model: str, revision: str | None) -> str:
    """The hub id with its revision.

    Raises:
        CheckpointError: a revision of something that is no hub id.
    """
    if revision is None:
        return model
    if not HUB_ID.fullmatch(model) or "@" in model or Path(model).expanduser().is_dir():
        raise CheckpointError(
            f"--revision {revision}: belongs to a hub id (owner/name), found --model {model}"
        )
    return f"{model}@{revision}"


def license_of(folder: Path) -> str:
    """The licence that the front matter of a folder's README.md names, as the hub writes it; "" where it names none."""
    try:
        text = (folder / README).read_text(encoding="utf-8")
        front = yaml.safe_load(text.split("---", 2)[1]) if text.startswith("---") else {}
    except (OSError, UnicodeDecodeError, IndexError, yaml.YAMLError):
        return ""
    found = front.get("license_name") or front.get("license") if isinstance(front, dict) else None
    return str(found) if isinstance(found, str) else ""


def download(model: str) -> Path:
    """The safetensors checkpoint of a hub id, from the hub's cache or the network.

    Raises:
        CheckpointError: no network, no such repository or revision, or a licence that was not accepted.
        DiskFullError: the disk has no room for it.
    """
    wanted = [INDEX, "synthaug.json", README, "scheduler/*.json", "tokenizer/*"]
    wanted += [
        f"{component}/{name}"
        for component in STEMS
        for name in ("config.json", "*.safetensors", "*.index.json")
    ]
    wanted += ["fast/*.json", "fast/*.safetensors"]
    unwanted = ["*.fp16.*", "*non_ema*", "*.flax*"]
    folder = _fetch("--model", model, wanted, unwanted, "text_encoder")
    if not (folder / INDEX).exists():
        raise CheckpointError(
            f"--model {model}: holds no {INDEX}; expected a checkpoint with {', '.join(CLASSES)}"
        )
    return folder


def download_text_encoder(model: str) -> Path:
    """A text encoder and its tokenizer from the hub's cache or the network.

    Raises:
        CheckpointError, DiskFullError: as in `download`.
    """
    wanted = ["config.json", "*.safetensors", "model.safetensors.index.json", "vocab.*", "merges.txt"]
    wanted += ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]
    return _fetch("--text-encoder", model, wanted, [], "")


def _fetch(flag: str, model: str, wanted: list[str], unwanted: list[str], text_encoder: str) -> Path:
    """Download what fits the patterns; a text encoder without safetensors in folder `text_encoder` comes pickled."""
    from huggingface_hub import hf_hub_download, snapshot_download

    # HTTPError: the root of whichever client this version of the hub speaks through (requests, httpx, httpx2).
    from huggingface_hub.errors import DryRunError, HfHubHTTPError, HTTPError, LocalEntryNotFoundError

    repository, _, revision = model.partition("@")
    how: dict[str, Any] = {"revision": revision or None}
    patterns: dict[str, Any] = {"allow_patterns": wanted, "ignore_patterns": unwanted}
    try:
        with suppress(DryRunError):  # the hub is not reached; its cache may hold everything
            _announce(flag, model, snapshot_download(repository, dry_run=True, **how, **patterns))
        folder = Path(snapshot_download(repository, **how, **patterns))
        if not any((folder / text_encoder).glob("*.safetensors")):
            hf_hub_download(repository, f"{text_encoder}/pytorch_model.bin".lstrip("/"), **how)
    except (HfHubHTTPError, LocalEntryNotFoundError, HTTPError, OSError) as error:
        raise CheckpointError(_refused(flag, model, _status(error))) from error
    return folder


def _announce(flag: str, model: str, planned: list[Any]) -> None:
    """Say how much is downloaded and where to; nothing where the cache holds it.

    Raises:
        DiskFullError: the cache's disk has less room.
    """
    from huggingface_hub.constants import HF_HUB_CACHE

    size = sum(file.file_size for file in planned if file.will_download)
    if not size:
        return
    cache = Path(HF_HUB_CACHE)
    there = next((place for place in (cache, *cache.parents) if place.exists()), Path.cwd())
    free = shutil.disk_usage(there).free
    if size > free:
        raise DiskFullError(
            f"{flag} {model}: a download of {_in_words(size)}, found {_in_words(free)} free at {there}; free some, "
            "or set HF_HOME to a folder of another disk"
        )
    warnings.warn(f"{flag} {model}: downloading {_in_words(size)} into {cache}", stacklevel=4)


def _in_words(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.2f} MB"


def _status(error: BaseException | None) -> int | None:
    """The hub's HTTP status, if it was reached: of the error or of what caused it."""
    while error is not None:
        response = getattr(error, "response", None)
        if response is not None:
            return response.status_code
        error = error.__cause__
    return None


def _refused(flag: str, model: str, status: int | None) -> str:
    repository, _, revision = model.partition("@")
    if status is None:
        return (
            f"{flag} {model}: no folder of that name here, and the hub cannot be reached "
            "(no network?); give a folder, or download it once where there is a network"
        )
    if status in (401, 403):
        return (
            f"{flag} {model}: the hub refuses ({status}): no such repository, or a gated one. Accept its "
            f"licence at https://huggingface.co/{repository} and set HF_TOKEN to a token of that account"
        )
    if status == 404:
        also = f", or no revision {revision} of it" if revision else ""
        return f"{flag} {model}: no such folder here and no such repository on the hub{also}"
    return f"{flag} {model}: the hub answers with status {status}; try again later or give a folder"
