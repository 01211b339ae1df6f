"""How much of a real film the autoencoder of a checkpoint keeps: the ceiling of every film drawn through it.

Conventions: films uint8 (n, 1, s, s), encoded to the mean of the posterior and decoded; RMSE in grey levels, PSNR in dB of 255;
power is that of the reconstruction over the film's own by band (1 = as sharp); coherence is 1 where the detail is the same and
not only as much of it; both at 256 x 256. Views are told apart.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from synthaug.evaluation.intervals import mean_interval
from synthaug.evaluation.results import Metric, missing, protocol_id
from synthaug.evaluation.similarity import SMALLEST, ms_ssim, pyramid, ssim
from synthaug.evaluation.spectrum import BANDS, SIZE, band_ratios, power
from synthaug.images import resize

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


def rmse(images: np.ndarray, films: np.ndarray) -> np.ndarray:
    """Root mean squared error of each film (n,), in grey levels."""
    error = ((images.astype(np.float64) - films) ** 2).reshape(len(films), -1).mean(1)
    return np.asarray(np.sqrt(error))


def psnr(images: np.ndarray, films: np.ndarray) -> np.ndarray:
    """Peak signal over noise of each film (n,), in dB; an exact copy counts as an error of half a grey level's square."""
    return np.asarray(10 * np.log10(255**2 / np.maximum(rmse(images, films) ** 2, 1 / 12)))


def coherence(images: np.ndarray, films: np.ndarray) -> dict[str, float]:
    """|<A B*>| / sqrt(<|A|²> <|B|²>) over films (n, 1, s, s), averaged over the frequencies of each band; Hann window."""
    window = np.hanning(SIZE) * np.hanning(SIZE)[:, None]

    def transform(block: np.ndarray) -> np.ndarray:
        values = np.stack([resize(image[0], SIZE, fit="squash") for image in block]).astype(np.float64)
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
    vae: Any,
    films: Mapping[str, np.ndarray],
    patients: Mapping[str, Sequence[str]],
    identity: str,
    progress: Callable[[int, int], None] | None = None,
) -> list[Metric]:
    """RMSE, PSNR, SSIM, MS-SSIM, power and coherence of each view.

    Arguments: `films` uint8 (n, 1, s, s) and `patients` by view; `identity` names the weights in the protocol; `progress` is
    called with (films done, films in all).
    """
    out: list[Metric] = []
    names = [*MEANS, *(f"VAE {what} {band}" for what in ("power", "coherence") for band in BANDS)]
    done, total = 0, sum(map(len, films.values()))
    for view, block in films.items():
        size = block.shape[-1]
        facts: dict[str, Any] = {
            "subgroup": view,
            "arm": "autoencoder",
            "resize": f"{size} squash",
            "n": len(block),
        }
        if len(block) < LEAST:
            reason = f"{len(block)} real {view} films; {LEAST} are needed"
            out += [missing(name, reason, **facts) for name in names]
            continue
        kept = reconstruct(vae, block)
        for name, measure in MEANS.items():
            if name == "VAE MS-SSIM" and size < SMALLEST:
                out.append(missing(name, f"films of {size} px; five scales need {SMALLEST}", **facts))
                continue
            values = np.concatenate([measure(kept[p], block[p]) for p in _parts(len(block))])
            found = mean_interval(values, patients[view])
            protocol = protocol_id(name, 2, identity, view, size)
            interval: dict[str, Any] = {"value": found.value, "low": found.low, "high": found.high}
            out.append(Metric(name=name, protocol=protocol, **interval, **facts))
        ratios, same = band_ratios(power(kept), power(block)), coherence(kept, block)
        for what, found_by_band in (("power", ratios), ("coherence", same)):
            for band in BANDS:
                name = f"VAE {what} {band}"
                protocol = protocol_id(name, 2, identity, view, size)
                out.append(Metric(name=name, value=found_by_band[band], protocol=protocol, **facts))
        done += len(block)
        if progress is not None:
            progress(done, total)
    return out


def _parts(count: int, batch: int = 16) -> list[slice]:
    return [slice(i, i + batch) for i in range(0, count, batch)]


MEANS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "VAE RMSE": rmse,
    "VAE PSNR": psnr,
    "VAE SSIM": ssim,
    "VAE MS-SSIM": lambda images, films: ms_ssim(pyramid(images), pyramid(films)),
}
