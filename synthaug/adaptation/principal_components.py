"""Principal components of pixel blocks as the encoder of an `AutoencoderKL`.

A small autoencoder that is trained from noise spends most of its life learning the linear part of the job.
The best linear code of B x B blocks is known in closed form: their principal components. This module fits
them and writes them, exactly, into the encoder of a diffusers `AutoencoderKL`; only the decoder is left to
learn, and because the latents are known before the first step, the U-Net can be trained beside it.

Pixels are in [-1, 1], `(B, 1, H, W)`; latents are `(B, C, H/8, W/8)` for three downsampling levels.

Why a network of group norms and SiLUs can hold a linear map exactly:

- a residual block whose second convolution is zero is the identity (or its 1 x 1 shortcut);
- a strided 3 x 3 convolution holds the space-to-depth step 1 -> 4 -> 16 channels, the last one the projection;
- `silu(x) - silu(-x) = x`, so each component travels as a pair;
- a group norm whose group holds `+A, -A` (A large) beside such pairs divides by a constant.
"""

import copy
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor, nn

ANCHOR = 1000.0  # the constant channels that pin the variance of a group, in units of a latent


@dataclass(frozen=True)
class PrincipalComponents:
    """z = filters (x - mean): `filters` is (C, block, block), `bias` (C,), both for pixels in [-1, 1]."""

    filters: Tensor
    bias: Tensor

    @property
    def block(self) -> int:
        """Edge of a block in pixels."""
        return self.filters.shape[-1]

    def encode(self, pixels: Tensor) -> Tensor:
        """(B, 1, H, W) pixels in [-1, 1] -> (B, C, H/block, W/block) latents."""
        filters, bias = self.filters[:, None].to(pixels.device), self.bias.to(pixels.device)
        return nn.functional.conv2d(pixels, filters, bias, stride=self.block)


def fit(
    films: NDArray[np.uint8],
    channels: int,
    *,
    block: int = 8,
    whitening: float = 0.65,
    blocks: int = 400_000,
    seed: int = 0,
) -> PrincipalComponents:
    """Fit the leading `channels` components on random blocks of `films` (N, 1, H, W).

    Component c is divided by std_c ** whitening (1 = white), then all by one number, so that the latents'
    mean square is 1. Jolliffe, "Principal Component Analysis", 2002.
    """
    rng = np.random.default_rng(seed)
    count, _, height, width = films.shape
    which = rng.integers(count, size=blocks)
    top, left = rng.integers(height - block + 1, size=blocks), rng.integers(width - block + 1, size=blocks)
    offset = np.arange(block)
    sample = films[
        which[:, None, None], 0, (top[:, None] + offset)[:, :, None], (left[:, None] + offset)[:, None, :]
    ]
    x = sample.reshape(blocks, -1).astype(np.float64) / 127.5 - 1
    mean = x.mean(0)
    values, vectors = np.linalg.eigh(np.cov(x, rowvar=False))
    order = np.argsort(values)[::-1][:channels]
    std = np.sqrt(values[order])
    basis = vectors[:, order].T / std[:, None] ** whitening
    basis *= np.sign(basis[np.arange(channels), np.abs(basis).argmax(1)])[
        :, None
    ]  # eigh leaves the sign open
    basis /= np.sqrt(np.mean(std ** (2 * (1 - whitening))))
    filters = torch.tensor(basis.reshape(channels, block, block), dtype=torch.float32)
    return PrincipalComponents(filters, torch.tensor(-basis @ mean, dtype=torch.float32))


@torch.no_grad()
def write_encoder(vae: AutoencoderKL, components: PrincipalComponents) -> None:
    """Make `vae.encoder` compute `components` exactly (mean; the log-variance is at its floor of -30).

    Args:
        vae: one pixel channel, no quant convolutions, no attention in the middle, three downsamplings of
            widths that hold 4, 16 and C channels, and a last width of at least 2 C + 2 a group.

    Raises:
        ValueError: the autoencoder's shape cannot hold the components.
    """
    encoder, channels = vae.encoder, len(components.filters)
    widths, last, groups = (
        vae.config.block_out_channels,
        vae.config.block_out_channels[-1],
        vae.config.norm_num_groups,
    )
    pairs = last // groups // 2 - 1  # (+x, -x) pairs a group can carry beside its (+A, -A)
    if 2 ** (len(widths) - 1) != components.block or components.block != 8:
        raise ValueError(f"{len(widths) - 1} downsamplings cannot hold blocks of {components.block} pixels")
    if widths[0] < 4 or widths[1] < 16 or widths[2] < channels or pairs * groups < channels or vae.quant_conv:
        raise ValueError(f"an encoder of widths {tuple(widths)} cannot hold {channels} components")

    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.zero_()
            module.bias.zero_()
    encoder.conv_in.weight[0, 0, 1, 1] = 1
    for level in range(len(widths) - 1):
        shortcut = encoder.down_blocks[level].resnets[0].conv_shortcut
        if shortcut is not None:
            _identity(shortcut, 4**level)
        down = encoder.down_blocks[level].downsamplers[0].conv
        if level < 2:
            for channel in range(4**level):
                for k in range(4):
                    down.weight[4 * channel + k, channel, k // 2, k % 2] = 1
    # After two space-to-depth steps channel 4 (2 a + b) + (2 c + d) holds, at (y, x), pixel (4 y + 2 c + a, 4 x + 2 d + b).
    for a, b, c, d, e, f in np.ndindex(2, 2, 2, 2, 2, 2):
        channel = 4 * (2 * a + b) + 2 * c + d
        down.weight[:channels, channel, e, f] = components.filters[:, 4 * e + 2 * c + a, 4 * f + 2 * d + b]
    down.bias[:channels] = components.bias

    spread = encoder.down_blocks[3].resnets[0].conv_shortcut
    size = last // groups
    gain = ANCHOR * (2 / size) ** 0.5
    encoder.conv_norm_out.weight.zero_()
    encoder.conv_norm_out.bias.zero_()
    for channel in range(channels):
        group, slot = divmod(channel, pairs)
        plus, minus = group * size + 2 * slot, group * size + 2 * slot + 1
        spread.weight[plus, channel], spread.weight[minus, channel] = 1, -1
        encoder.conv_norm_out.weight[[plus, minus]] = gain
        encoder.conv_out.weight[channel, plus, 1, 1], encoder.conv_out.weight[channel, minus, 1, 1] = 1, -1
    for group in range(groups):
        spread.bias[(group + 1) * size - 2], spread.bias[(group + 1) * size - 1] = ANCHOR, -ANCHOR
    encoder.conv_out.bias[channels:] = -30


def read_encoder(vae: AutoencoderKL) -> PrincipalComponents | None:
    """The components that `write_encoder` wrote, of weights rounded to half precision too; None for any other encoder.

    One convolution then gives the latents that the network of the encoder gives, at a hundredth of the work.
    """
    channels = vae.config.latent_channels
    if len(vae.config.block_out_channels) != 4 or vae.config.in_channels != 1 or vae.quant_conv is not None:
        return None
    down = vae.encoder.down_blocks[2].downsamplers[0].conv
    if len(down.bias) < channels or down.weight.shape[1] < 16:
        return None
    filters = torch.empty(channels, 8, 8)
    for a, b, c, d, e, f in np.ndindex(2, 2, 2, 2, 2, 2):
        channel = 4 * (2 * a + b) + 2 * c + d
        filters[:, 4 * e + 2 * c + a, 4 * f + 2 * d + b] = down.weight[:channels, channel, e, f].float().cpu()
    found = PrincipalComponents(filters, down.bias[:channels].detach().float().cpu().clone())
    expected = copy.deepcopy(vae).cpu().float()
    try:
        write_encoder(expected, found)
    except ValueError:
        return None
    written = expected.encoder.state_dict()
    same = all(
        torch.allclose(weight.float().cpu(), written[name], rtol=2**-10, atol=0.0)
        for name, weight in vae.encoder.state_dict().items()
    )
    return found if same else None


def _identity(conv: nn.Conv2d, channels: int) -> None:
    conv.weight[range(channels), range(channels), 0, 0] = 1
