"""The route `lora`: low-rank changes of the attention layers (Hu et al. 2021, arXiv:2106.09685) through peft.

    W' = W + (alpha / rank) B A

The base stays as it is; the result is an adapter folder with diffusers' `pytorch_lora_weights.safetensors`, which
`StableDiffusionPipeline.load_lora_weights` reads and `--model` fuses into the base.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, inject_adapter_in_model
from pydantic import Field
from safetensors.torch import save_file
from torch import nn

from synthaug.adaptation.denoising import TextToNoise
from synthaug.adaptation.fine_tuning import FineTuning, FineTuningRecipe
from synthaug.adaptation.results import write_adapter
from synthaug.diffusion.adapters import LORA, METADATA
from synthaug.errors import RecipeError

UNET_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
TEXT_TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj")


class LoraRecipe(FineTuningRecipe):
    """`targets`: ends of the names of the U-Net's layers; `text_encoder`: whether its attention is adapted too."""

    route: Literal["lora"] = "lora"
    rank: int = Field(default=16, gt=0)
    alpha: int = Field(default=16, gt=0)
    targets: tuple[str, ...] = UNET_TARGETS
    text_encoder: bool = False
    text_encoder_targets: tuple[str, ...] = TEXT_TARGETS
    text_encoder_rate: float = Field(default=1.0, gt=0)


class Lora(FineTuning):
    """Trains the factors A and B alone; B starts at zero, so the first step is the base's."""

    def prepare(self) -> TextToNoise:
        recipe = self.recipe
        self.rates = {"text_encoder.": recipe.text_encoder_rate}
        with torch.random.fork_rng():
            torch.manual_seed(recipe.training.seed)
            inject(self.base.unet, recipe.targets, recipe.rank, recipe.alpha)
            if recipe.text_encoder:
                inject(self.base.text_encoder, recipe.text_encoder_targets, recipe.rank, recipe.alpha)
        return TextToNoise(self.base.unet, self.base.text_encoder, self.job.execution.compiled)

    def write(self) -> None:
        write_adapter(self.job.out, self.card(), self.job.model, self._save)

    def _save(self) -> None:
        configs = {"unet": config(self.recipe.targets, self.recipe.rank, self.recipe.alpha)}
        if self.recipe.text_encoder:
            targets = self.recipe.text_encoder_targets
            configs["text_encoder"] = config(targets, self.recipe.rank, self.recipe.alpha)
        save_factors(self.job.out / LORA, self.module, configs)


def config(targets: Sequence[str], rank: int, alpha: int) -> LoraConfig:
    """Factors of `rank` in the layers whose names end in `targets`."""
    return LoraConfig(r=rank, lora_alpha=alpha, target_modules=sorted(targets), init_lora_weights="gaussian")


def save_factors(path: Path, module: TextToNoise, configs: Mapping[str, LoraConfig]) -> None:
    """Write the factors of each component (`unet`, `text_encoder`) in fp16, named as diffusers names them."""
    tensors: dict[str, torch.Tensor] = {}
    facts: dict[str, Any] = {}
    for component, settings in configs.items():
        tensors |= {
            f"{component}.{name.replace('.default.', '.')}": p.detach().cpu().half().contiguous()
            for name, p in getattr(module, component).named_parameters()
            if p.requires_grad
        }
        values = settings.to_dict()
        facts |= {f"{component}.{key}": _plain(value) for key, value in values.items() if value is not None}
    metadata = {"format": "pt", METADATA: json.dumps(facts, indent=2, sort_keys=True)}
    save_file(tensors, path, metadata=metadata)


def inject(model: nn.Module, targets: Sequence[str], rank: int, alpha: int) -> None:
    """Put the factors into the layers; only they are free.

    Raises:
        RecipeError: no layer of the model has such a name.
    """
    known = {name.rpartition(".")[2] for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    if not any(name.endswith(tuple(targets)) for name, _ in model.named_modules()):
        raise RecipeError(
            f"targets: {type(model).__name__} has no layer named {', '.join(targets)}; "
            f"its linear layers end in {', '.join(sorted(known))}"
        )
    inject_adapter_in_model(config(targets, rank, alpha), model)
    for name, p in model.named_parameters():
        p.requires_grad_(".lora_" in name)


def _plain(value: Any) -> Any:
    if isinstance(value, set | frozenset):
        return sorted(value)
    return value if isinstance(value, str | int | float | bool | list | dict) else str(value)
