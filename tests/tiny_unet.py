"""A U-Net of random weights, from one seed, and what it answers to fixed noise: for the tests of networks that grow."""

from collections.abc import Sequence

import torch
from diffusers import UNet2DConditionModel


def tiny_unet(
    widths: Sequence[int], attending: Sequence[bool], layers: int | tuple[int, ...] = 1
) -> UNet2DConditionModel:
    """`widths` of the levels, finest first, and which of them attend to the text."""
    down = tuple("CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in attending)
    up = tuple("CrossAttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(attending))
    with torch.random.fork_rng():
        torch.manual_seed(3)
        made = UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            layers_per_block=layers,
            block_out_channels=tuple(widths),
            down_block_types=down,
            up_block_types=up,
            cross_attention_dim=8,
            attention_head_dim=8,
            norm_num_groups=4,
        )
    return made.eval()


def answer(unet: UNet2DConditionModel) -> torch.Tensor:
    """Its prediction for four noises at four timesteps, (4, 4, 8, 8)."""
    draws = torch.Generator().manual_seed(0)
    latents, text = torch.randn(4, 4, 8, 8, generator=draws), torch.randn(4, 3, 8, generator=draws)
    return unet(latents, torch.tensor([3, 200, 600, 990]), text).sample
