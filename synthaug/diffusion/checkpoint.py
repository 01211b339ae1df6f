"""Checkpoints: diffusers Stable-Diffusion folders plus `synthaug.json`, loaded and saved.

    FOLDER/model_index.json  synthaug.json  unet/  vae/  text_encoder/  tokenizer/  scheduler/
    FOLDER/fast/             its few-step variant, if it has one: what the route `distill` made of it, adapter or checkpoint

Weights are fp16 safetensors in shards of at most 15 MB. Latents' channels, scaling and shift are read from
`vae.config`.
"""

import copy
import json
import re
import shutil
import warnings
from dataclasses import dataclass, field, replace
from itertools import count, takewhile
from pathlib import Path
from typing import Any, Self

import diffusers
import torch

from synthaug.diffusion import adapters
from synthaug.diffusion.card import CARD, CheckpointCard
from synthaug.diffusion.components import (
    INDEX,
    check_index,
    identity,
    load_model,
    load_text_encoder,
    load_tokenizer,
    quiet,
    read_json,
)
from synthaug.diffusion.device import choose_device, choose_dtype
from synthaug.diffusion.projected_text_encoder import ProjectedTextEncoder
from synthaug.diffusion.schedule import make_scheduler
from synthaug.diffusion.sources import license_of, locate
from synthaug.errors import CheckpointError
from synthaug.findings import FINDINGS
from synthaug.record import VIEWS
from synthaug.shards import atomic_write

SHARD_SIZE = "15MB"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A loaded checkpoint, in evaluation mode on one device.

    Attributes:
        unet, vae, text_encoder, tokenizer: the components.
        scheduler_config: as saved; `_class_name` is the scheduler that the checkpoint came with.
        card: the facts of `synthaug.json`.
        name: "embedded", the folder's name or the hub id.
        sha256: identity of weights, configurations, tokenizer and schedule.
        embeddings: text embeddings by prompt, as the sampler needed them.
    """

    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    scheduler_config: dict[str, Any]
    card: CheckpointCard
    name: str
    sha256: str
    embeddings: dict[str, torch.Tensor] = field(default_factory=dict, repr=False)

    @property
    def findings(self) -> tuple[str, ...]:
        """Findings that its prompts may name."""
        return self.card.findings

    @property
    def views(self) -> tuple[str, ...]:
        """Views that its prompts may name."""
        return self.card.views

    @property
    def image_size(self) -> int:
        """Side in pixels that it was trained at."""
        return self.card.image_size

    @property
    def template(self) -> str:
        """Name of its prompt template."""
        return self.card.template

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return next(self.unet.parameters()).dtype

    @property
    def scale_factor(self) -> int:
        """Pixels per latent, along one side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    def spell(self, text: str) -> str:
        """The text with learnt tokens in the place of the words that they stand for, each written out in full.

        `<x>` of three vectors reads `<x> <x>_1 <x>_2`, as in diffusers' `maybe_convert_prompt`.
        """
        words = sorted(self.card.tokens, key=len, reverse=True)
        if words:
            any_word = "|".join(rf"(?<![\w<]){re.escape(word)}(?![\w>])" for word in words)
            text = re.sub(any_word, lambda match: self.card.tokens[match[0]], text)
        known = self.tokenizer.get_added_vocab()
        for token in dict.fromkeys(self.card.tokens.values()):
            more = (f"{token}_{i}" for i in count(1))
            text = text.replace(token, " ".join([token, *takewhile(lambda name: name in known, more)]))
        return text

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move or convert the three models in place, as `torch.nn.Module.to` does."""
        for model in (self.unet, self.vae, self.text_encoder):
            model.to(*args, **kwargs)
        self.embeddings.clear()
        return self

    def pipeline(self) -> "diffusers.StableDiffusionPipeline":
        """The same components as a diffusers pipeline, with the scheduler that the checkpoint came with."""
        scheduler = getattr(diffusers, self.scheduler_config["_class_name"]).from_config(
            self.scheduler_config
        )
        return diffusers.StableDiffusionPipeline(
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            unet=self.unet,
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


def load_checkpoint(
    model: str | Path = "embedded", device: str = "auto", dtype: str | None = None
) -> Checkpoint:
    """Load "embedded", a folder, a hub id, or an adapter's folder together with its base.

    A folder without `synthaug.json` is taken as one that knows every finding, with a warning.

    Args:
        device: "auto" (the first of cuda, mps, cpu that is there), "cuda", "cuda:1", "mps" or "cpu".
        dtype: "float32", "bfloat16" or "float16"; None takes bfloat16 where the hardware multiplies it.

    Raises:
        CheckpointError: something is missing, pickled, damaged or of an unknown class; the message names it.
    """
    place = choose_device(device)
    precision = choose_dtype(place, dtype)
    folder, name = locate(model)
    if adapters.is_adapter(folder):
        with quiet():
            checkpoint = _load_adapter(folder, name).to(dtype=precision)
    else:
        checkpoint = _load_folder(folder, name, precision)
    return checkpoint.to(place, memory_format=torch.channels_last)


def _load_adapter(folder: Path, name: str) -> Checkpoint:
    """The base with the adapter worked into it, float32 on the CPU."""
    card, files = adapters.read_card(folder), adapters.weights(folder)
    where = adapters.base_of(folder, card.base.name if card.base else "")
    base = load_checkpoint(where, "cpu", "float32")
    adapters.check_base(folder, card.base.sha256 if card.base else "", base.sha256, where)
    tokens = [path for path in files if path.name != adapters.LORA]
    for path in files:
        if path not in tokens:
            adapters.fuse_lora(path, {"unet": base.unet, "text_encoder": base.text_encoder})
    adapters.add_tokens(tokens, base.tokenizer, base.text_encoder)
    return replace(base, card=card, name=name, sha256=adapters.identity(base.sha256, files), embeddings={})


def _load_folder(folder: Path, name: str, precision: torch.dtype) -> Checkpoint:
    index = check_index(folder)
    unet, vae = (load_model(folder, component, precision) for component in ("unet", "vae"))
    text_encoder = load_text_encoder(folder, index["text_encoder"], precision)
    scheduler_config = read_json(folder / "scheduler" / "scheduler_config.json")
    scheduler_config["_class_name"] = index["scheduler"]
    checkpoint = Checkpoint(
        unet=unet,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=load_tokenizer(folder, index["text_encoder"]),
        scheduler_config=scheduler_config,
        card=_foreign_card(unet, vae, license_of(folder)),
        name=name,
        sha256=identity(folder),
    )
    _check_fit(checkpoint, folder)
    if (folder / CARD).exists():
        return replace(checkpoint, card=CheckpointCard.from_json(read_json(folder / CARD), folder / CARD))
    warnings.warn(
        f"{name}: has no {CARD}, so nobody knows which findings it can draw; any finding is accepted",
        stacklevel=3,
    )
    return checkpoint


def _check_fit(checkpoint: Checkpoint, folder: Path) -> None:
    """The three models speak the same latents and the same text width, and the image is grey or RGB."""
    unet, vae, text = checkpoint.unet.config, checkpoint.vae.config, checkpoint.text_encoder.config
    if unet.in_channels != vae.latent_channels or unet.out_channels != vae.latent_channels:
        raise CheckpointError(
            f"{folder}: unet has {unet.in_channels} channels in and {unet.out_channels} out, vae has "
            f"{vae.latent_channels} latent channels; expected the same (inpainting checkpoints are not read)"
        )
    if unet.cross_attention_dim != text.hidden_size:
        raise CheckpointError(
            f"{folder}: unet expects text of width {unet.cross_attention_dim}, "
            f"text_encoder gives {text.hidden_size}"
        )
    if vae.out_channels not in (1, 3):
        raise CheckpointError(
            f"{folder}: vae gives {vae.out_channels} channels, expected 1 (grey) or 3 (RGB)"
        )
    if len(checkpoint.tokenizer) > text.vocab_size:
        raise CheckpointError(
            f"{folder}: tokenizer has {len(checkpoint.tokenizer)} tokens, "
            f"text_encoder knows {text.vocab_size}"
        )


def _foreign_card(unet: Any, vae: Any, license: str) -> CheckpointCard:
    size = unet.config.sample_size
    side = size if isinstance(size, int) else min(size or (64, 64))
    return CheckpointCard(
        findings=FINDINGS,
        views=VIEWS,
        image_size=side * 2 ** (len(vae.config.block_out_channels) - 1),
        template="lung_xray",
        route="foreign",
        guidance_scale=4.0,
        num_inference_steps=25,
        attribution="unknown: a checkpoint without synthaug.json",
        license=license,
    )


def save_checkpoint(
    folder: str | Path,
    unet: Any,
    vae: Any,
    text_encoder: Any,
    tokenizer: Any,
    scheduler: Any,
    card: CheckpointCard,
) -> Path:
    """Write a checkpoint that `load_checkpoint` and `StableDiffusionPipeline.from_pretrained` open.

    The modules are left as they are: fp16 copies are written. `model_index.json` comes last, so a folder
    without it is an unfinished one; an older checkpoint there is replaced, other files are left alone.

    Raises:
        CheckpointError: a weight is not finite in fp16.
    """
    folder = Path(folder)
    partial = folder / ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    models = {"unet": unet, "vae": vae, "text_encoder": text_encoder}
    for component, model in models.items():
        half = copy.deepcopy(model).to("cpu").half().eval()
        for name, weight in half.named_parameters():
            if not torch.isfinite(weight).all():
                raise CheckpointError(
                    f"{component}: weight {name} is not finite in fp16; the checkpoint is not written"
                )
        with quiet():
            half.save_pretrained(partial / component, max_shard_size=SHARD_SIZE)
        _forget_origin(partial / component / "config.json")
    _as_made(tokenizer).save_pretrained(partial / "tokenizer")
    scheduler.save_pretrained(partial / "scheduler")
    (folder / INDEX).unlink(missing_ok=True)
    for path in partial.rglob("*.safetensors"):
        path.chmod(0o644)  # safetensors writes 0600, which an installed package could not be read with
    for home in sorted(partial.iterdir()):
        shutil.rmtree(folder / home.name, ignore_errors=True)
        home.rename(folder / home.name)
    partial.rmdir()
    index: dict[str, Any] = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": diffusers.__version__,
    }
    index |= {component: ["diffusers", type(models[component]).__name__] for component in ("unet", "vae")}
    if isinstance(text_encoder, ProjectedTextEncoder):
        index |= {"text_encoder": ["synthaug", "ProjectedTextEncoder"]}
        index |= {"tokenizer": ["transformers", "AutoTokenizer"]}
    else:
        index |= {"text_encoder": ["transformers", "CLIPTextModel"]}
        index |= {"tokenizer": ["transformers", "CLIPTokenizer"]}
    index |= {"scheduler": ["diffusers", type(scheduler).__name__], "requires_safety_checker": False}
    index |= {
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
    }
    atomic_write(folder / CARD, _json(card.to_json()))
    atomic_write(folder / INDEX, _json(index))
    return folder


def save_as_saved(folder: str | Path, checkpoint: Checkpoint) -> Path:
    """Write a loaded checkpoint, with the schedule and the card that it holds.

    Raises:
        CheckpointError: a weight is not finite in fp16.
    """
    return save_checkpoint(
        folder,
        checkpoint.unet,
        checkpoint.vae,
        checkpoint.text_encoder,
        checkpoint.tokenizer,
        make_scheduler(checkpoint.scheduler_config),
        checkpoint.card,
    )


def _as_made(tokenizer: Any) -> Any:
    """A copy without the padding and truncation of its last call, which would be written into `tokenizer.json`."""
    clean = copy.deepcopy(tokenizer)
    if clean.is_fast:  # the others keep none
        clean.backend_tokenizer.no_padding()
        clean.backend_tokenizer.no_truncation()
    return clean


def _forget_origin(config: Path) -> None:
    """A model that was loaded from a folder writes that folder's path into its configuration; a checkpoint travels."""
    values = json.loads(config.read_text(encoding="utf-8"))
    if values.pop("_name_or_path", None):
        config.write_bytes(_json(values))


def _json(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, indent=2, sort_keys=True) + "\n").encode()
