"""A guide: a worse version of a checkpoint's U-Net, for guidance to lead away from (autoguidance).

Karras et al. 2024, "Guiding a Diffusion Model with a Bad Version of Itself" (arXiv:2406.02507): what a network and a less trained
one disagree about is what training still improves, so leading away from the latter makes films better and not only more typical.
Here the guide answers the negative prompt, so that it costs no time beside classifier-free guidance:

    v = v_guide(negative) + w (v(prompt) - v_guide(negative))

and it is stored as a step back from the U-Net to its earlier weights, of low rank (Hu et al. 2021, arXiv:2106.09685):

    FOLDER/guide/pytorch_lora_weights.safetensors
"""

import copy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from synthaug.diffusion.adapters import LORA, fuse_lora

GUIDE = "guide"


def guide_file(folder: Path) -> Path:
    """Where the guide of a checkpoint lies."""
    return folder / GUIDE / LORA


def load_guide(folder: Path, unet: Any) -> Any | None:
    """The guide of the checkpoint in `folder`, made from its U-Net; None where it has none.

    Raises:
        CheckpointError: the file is damaged or of another U-Net.
    """
    if not guide_file(folder).exists():
        return None
    guide = copy.deepcopy(unet)
    fuse_lora(guide_file(folder), {"unet": guide})
    return guide


def write_guide(folder: Path, unet: nn.Module, earlier: nn.Module, rank: int) -> Path:
    """Write the guide of the checkpoint in `folder`: of each layer of `unet` the best step of `rank` toward `earlier`, fp16."""
    path = guide_file(folder)
    path.parent.mkdir(exist_ok=True)
    save_file(low_rank_step(unet, earlier, rank), path)
    path.chmod(0o644)  # safetensors writes 0600
    return path


@torch.no_grad()
def low_rank_step(unet: nn.Module, earlier: nn.Module, rank: int) -> dict[str, Tensor]:
    """For each linear and convolutional layer the B A of `rank` that is nearest to earlier - now, as diffusers names a LoRA."""
    then = dict(earlier.named_modules())
    out: dict[str, Tensor] = {}
    for name, layer in unet.named_modules():
        if not isinstance(layer, nn.Linear | nn.Conv2d):
            continue
        step = (then[name].weight.float() - layer.weight.float()).cpu()
        left, values, right = torch.linalg.svd(step.flatten(1), full_matrices=False)
        kept = min(rank, len(values))
        half = values[:kept].sqrt()
        up, down = left[:, :kept] * half, half[:, None] * right[:kept]
        if isinstance(layer, nn.Conv2d):
            up, down = up[:, :, None, None], down.view(kept, *step.shape[1:])
        out[f"unet.{name}.lora_A.weight"] = down.half().contiguous()
        out[f"unet.{name}.lora_B.weight"] = up.half().contiguous()
    return out
