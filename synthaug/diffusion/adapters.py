"""Adapters: folders with a few weights and `synthaug.json`, which names the checkpoint that they belong to.

    ADAPTER/synthaug.json                         route, base{name, sha256}, findings, ...
    ADAPTER/pytorch_lora_weights.safetensors      `lora`: diffusers' LoRA, added into the base's weights at load
    ADAPTER/learned_embeds.safetensors            `textual_inversion`: one token a file, `learned_embeds_1...` for more
    ADAPTER/base                                  a link to the base, where that is a folder of this machine

The base is the checkpoint that the adapter lies in (its variant `fast/`), or is looked for by its name (embedded or a hub id),
as ADAPTER/base, and beside the adapter. Its SHA-256 must be that of the training.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from synthaug.diffusion.card import CARD, CheckpointCard
from synthaug.diffusion.components import INDEX, read_json
from synthaug.diffusion.sources import HUB_ID
from synthaug.errors import CheckpointError

LORA = "pytorch_lora_weights.safetensors"
TOKENS = "learned_embeds*.safetensors"
METADATA = "lora_adapter_metadata"  # diffusers' own key: ranks and alphas as JSON


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter rather than a checkpoint."""
    return not (folder / INDEX).exists() and (folder / CARD).exists() and bool(weights(folder))


def weights(folder: Path) -> list[Path]:
    """The files of an adapter, in the order of their numbers."""
    found = [folder / LORA] if (folder / LORA).exists() else []
    return found + sorted(folder.glob(TOKENS), key=lambda path: (len(path.name), path.name))


def read_card(folder: Path) -> CheckpointCard:
    """`synthaug.json` of an adapter.

    Raises:
        CheckpointError: it names no base.
    """
    card = CheckpointCard.from_json(read_json(folder / CARD), folder / CARD)
    if card.base is None:
        raise CheckpointError(
            f"{folder / CARD}: names no base; expected base{{name, sha256}} of the checkpoint"
        )
    return card


def base_of(folder: Path, name: str) -> str | Path:
    """Where the base of an adapter is, as `load_checkpoint` takes it.

    Raises:
        CheckpointError: it is nowhere; the message says where to put it.
    """
    around = folder.resolve().parent
    if (around / INDEX).exists():
        return around
    for place in (folder / "base", around / name):
        if place.is_dir():
            return place
    if name == "embedded" or HUB_ID.fullmatch(name):
        return name
    raise CheckpointError(
        f"{folder}: adapts the checkpoint {name!r}, which is neither {folder / 'base'} nor beside the adapter; "
        f"link it: ln -s /path/to/{name} {folder / 'base'}"
    )


def check_base(folder: Path, wanted: str, found: str, where: str | Path) -> None:
    """Refuse another base than that of the training.

    Raises:
        CheckpointError: the SHA-256 differ.
    """
    if wanted != found:
        raise CheckpointError(
            f"{folder}: was trained on a base with SHA-256 {wanted[:12]}..., found {found[:12]}... at {where}; "
            f"put the right one at {folder / 'base'}"
        )


def identity(base: str, files: list[Path]) -> str:
    """SHA-256 over the base's and the adapter's files."""
    total = hashlib.sha256(f"base {base}\n".encode())
    for path in files:
        with path.open("rb") as stream:
            total.update(f"{path.name} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


@torch.no_grad()
def fuse_lora(path: Path, models: dict[str, torch.nn.Module]) -> int:
    """Add W += (alpha / rank) B A (Hu et al. 2021, arXiv:2106.09685) into the models named by the keys.

    Args:
        path: keys `unet.MODULE.lora_A.weight`, `unet.MODULE.lora_B.weight`, as diffusers writes them.
        models: "unet" and "text_encoder".

    Returns:
        How many layers were changed.

    Raises:
        CheckpointError: a layer that the base lacks, or of another shape; it is named.
    """
    tensors, metadata = _read(path)
    alphas = json.loads(metadata.get(METADATA, "{}"))
    layers = sorted({key.rpartition(".lora_")[0] for key in tensors if ".lora_" in key})
    if not layers or any(key.rpartition(".lora_")[2] not in ("A.weight", "B.weight") for key in tensors):
        raise CheckpointError(f"{path}: expected LoRA weights named *.lora_A.weight and *.lora_B.weight")
    for layer in layers:
        component, _, name = layer.partition(".")
        try:
            weight = models[component].get_submodule(name).weight
            down, up = tensors[f"{layer}.lora_A.weight"], tensors[f"{layer}.lora_B.weight"]
        except (KeyError, AttributeError) as error:
            raise CheckpointError(
                f"{path}: adapts the layer {layer}, which the base does not have or the file only half; "
                "the LoRA belongs to another architecture"
            ) from error
        rank = down.shape[0]
        change = (up.flatten(1).float() @ down.flatten(1).float()) if up.shape[1] == rank else None
        if change is None or change.numel() != weight.numel() or change.shape[0] != weight.shape[0]:
            raise CheckpointError(
                f"{path}: {layer} is of shape {tuple(up.shape)} x {tuple(down.shape)}, "
                f"the base's weight of shape {tuple(weight.shape)}; the LoRA belongs to another base"
            )
        scale = float(alphas.get(f"{component}.lora_alpha", rank)) / rank
        weight += (scale * change).reshape(weight.shape).to(weight)
    return len(layers)


@torch.no_grad()
def add_tokens(files: list[Path], tokenizer: Any, text_encoder: Any) -> list[str]:
    """Give tokenizer and text encoder the learnt tokens; `<x>` with n vectors becomes `<x> <x>_1 ... <x>_(n-1)`.

    Raises:
        CheckpointError: a file that is not one token, a width that is not the encoder's, or a token that is there.
    """
    added = []
    width = text_encoder.get_input_embeddings().weight.shape[1]
    for path in files:
        tensors, _ = _read(path)
        if len(tensors) != 1:
            raise CheckpointError(f"{path}: found {len(tensors)} tokens, expected one in a file")
        ((token, vectors),) = tensors.items()
        vectors = torch.atleast_2d(vectors)
        if vectors.shape[1] != width:
            raise CheckpointError(
                f"{path}: the token {token} has vectors of width {vectors.shape[1]}, the base's text encoder "
                f"{width}; it belongs to another base"
            )
        names = token_names(token, len(vectors))
        if taken := [name for name in names if name in tokenizer.get_vocab()]:
            raise CheckpointError(f"{path}: the base's tokenizer knows {taken[0]} already")
        tokenizer.add_tokens(names)
        text_encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        places = tokenizer.convert_tokens_to_ids(names)
        table = text_encoder.get_input_embeddings().weight
        table[torch.tensor(places)] = vectors.to(table)
        added.append(token)
    return added


def token_names(token: str, count: int) -> list[str]:
    """The tokens of one learnt word, as diffusers names them."""
    return [token, *(f"{token}_{i}" for i in range(1, count))]


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        return load_file(path), metadata
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
