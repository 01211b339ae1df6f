"""How much of a real film the autoencoder of a checkpoint keeps: the ceiling of every film drawn through it.

Conventions: films uint8 (n, 1, s, s), encoded to the mean of the posterior and decoded; PSNR in dB of 255; power is that of
the reconstruction over the film's own by band (1 = as sharp); coherence is 1 where the detail is the same and not only as
much of it. Views are told apart.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from synthaug.evaluation.diversity import ms_ssim, pyramid
from synthaug.evaluation.intervals import mean_interval
from synthaug.evaluation.results import Metric, missing, protocol_id
from synthaug.evaluation.spectrum import BANDS, SIZE, band_ratios, power

LEAST = 16


@torch.no_grad()
def reconstruct(vae: Any, images: np.ndarray, batch_size: int = 8) -> np.ndarray:
    """Encoded and decoded films, uint8 (n, 1, s, s); an autoencoder of colours gets grey in all three."""
    parameter = next(vae.parameters())
    out = []
    for start in range(0, len(images), batch_size):
        pixels = torch.from_numpy(images[start : start + batch_size].copy()).float() / 127.5 - 1
        pixels = pixels.expand(-1, vae.config.in_channels, -1, -1).to(parameter)
        decoded = vae.decode(vae.encode(pixels).latent_dist.mean).sample.float().mean(1, keepdim=True)
        out.append(((decoded.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu().numpy())
    return np.concatenate(out)


def psnr(images: np.ndarray, films: np.ndarray) -> np.ndarray:
    """Peak signal over noise of each film (n,), in dB; an exact copy counts as an error of half a grey level's square."""
    error = ((images.astype(np.float64) - films) ** 2).reshape(len(films), -1).mean(1)
    return np.asarray(10 * np.log10(255**2 / np.maximum(error, 1 / 12)))


def coherence(images: np.ndarray, films: np.ndarray) -> dict[str, float]:
    """|<A B*>| / sqrt(<|A|²> <|B|²>) over films (n, 1, 256, 256), averaged over the frequencies of each band; Hann window."""
    window = np.hanning(SIZE) * np.hanning(SIZE)[:, None]

    def transform(block: np.ndarray) -> np.ndarray:
        values = block[:, 0].astype(np.float64)
        return np.asarray(np.fft.fft2((values - values.mean((1, 2), keepdims=True)) * window))

    a, b = transform(images), transform(films)
    frequency = np.fft.fftfreq(SIZE) * SIZE
    radius = np.hypot(frequency[:, None], frequency)
    found = {}
    for name, (low, high) in BANDS.items():
        ring = (radius > low) & (radius <= high)
        cross = np.abs((a[:, ring] * b[:, ring].conj()).sum(0))
        own = (np.abs(a[:, ring]) ** 2).sum(0) * (np.abs(b[:, ring]) ** 2).sum(0)
        found[name] = float((cross / np.sqrt(np.maximum(own, 1e-30))).mean())
    return found


def reconstruction(
    vae: Any, films: Mapping[str, np.ndarray], patients: Mapping[str, Sequence[str]], identity: str
) -> list[Metric]:
    """PSNR, MS-SSIM, power and coherence of each view.

    Arguments: `films` uint8 (n, 1, 256, 256) and `patients` by view; `identity` names the weights in the protocol.
    """
    out = []
    names = [
        "VAE PSNR",
        "VAE MS-SSIM",
        *(f"VAE {what} {band}" for what in ("power", "coherence") for band in BANDS),
    ]
    for view, block in films.items():
        facts: dict[str, Any] = {
            "subgroup": view,
            "arm": "autoencoder",
            "resize": f"{SIZE} squash",
            "n": len(block),
        }
        if len(block) < LEAST:
            reason = f"{len(block)} real {view} films; {LEAST} are needed"
            out += [missing(name, reason, **facts) for name in names]
            continue
        kept = reconstruct(vae, block)
        for name, values in (("VAE PSNR", psnr(kept, block)), ("VAE MS-SSIM", _similarity(kept, block))):
            found = mean_interval(values, patients[view])
            protocol = protocol_id(name, 1, identity, view)
            interval: dict[str, Any] = {"value": found.value, "low": found.low, "high": found.high}
            out.append(Metric(name=name, protocol=protocol, **interval, **facts))
        ratios, same = band_ratios(power(kept), power(block)), coherence(kept, block)
        for what, found_by_band in (("power", ratios), ("coherence", same)):
            for band in BANDS:
                name = f"VAE {what} {band}"
                protocol = protocol_id(name, 1, identity, view)
                out.append(Metric(name=name, value=found_by_band[band], protocol=protocol, **facts))
    return out


def _similarity(images: np.ndarray, films: np.ndarray, batch: int = 16) -> np.ndarray:
    parts = [slice(i, i + batch) for i in range(0, len(films), batch)]
    return np.concatenate([ms_ssim(pyramid(images[p]), pyramid(films[p])) for p in parts])
