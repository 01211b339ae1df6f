"""How far the power of what was made is from the power that it should have, scale by scale.

A mean squared error is smallest for what is too smooth; the radially averaged power does not ask where detail lies, only that it
is there.
"""

import torch
from torch import Tensor


def power_distance(fake: Tensor, real: Tensor) -> Tensor:
    """Mean |log ratio| of the radially averaged, Hann-windowed power of images (B, 1, S, S), DC left out."""
    size = real.shape[-1]
    hann = torch.hann_window(size, device=real.device)
    window = hann * hann[:, None]
    half = torch.fft.fftfreq(size, device=real.device) * size
    radius = torch.hypot(half[:, None], half[None, : size // 2 + 1]).round().long().flatten()
    keep = radius < size // 2
    spectra = []
    for pixels in (fake, real):
        x = pixels[:, 0].float()
        power = torch.fft.rfft2((x - x.mean((1, 2), keepdim=True)) * window).abs().square().flatten(1)
        rings = power.new_zeros(len(power), size // 2).index_add_(1, radius[keep], power[:, keep])
        spectra.append((rings[:, 1:] + 1e-3).log())
    return (spectra[0] - spectra[1]).abs().mean()
