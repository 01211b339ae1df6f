"""How much of an unseen film the autoencoder of a checkpoint keeps, beside the linear code of equal size.

    python benchmarks/autoencoder.py --films NIH [--model embedded] [--part test]

Prints, view by view: PSNR; band power of the reconstruction over the film's own (1 = as sharp); coherence with the
film (1 = the same detail, not only as much of it); and the PSNR of block principal components fitted on the
`generator` part, which is what the same number of channels gives without a network.
"""

import argparse
import json

import numpy as np
import torch

from synthaug.datasets import RealRadiographs
from synthaug.diffusion import load_checkpoint
from synthaug.evaluation.spectrum import BANDS, band_ratios, power

HANN = np.hanning(256)


def psnr(images: np.ndarray, films: np.ndarray) -> float:
    """Mean over films (n, s, s), in dB of 255."""
    error = ((images.astype(np.float64) - films) ** 2).mean((1, 2))
    return float((10 * np.log10(255**2 / error)).mean())


def coherence(images: np.ndarray, films: np.ndarray) -> dict[str, float]:
    """|<A B*>| / sqrt(<|A|^2> <|B|^2>) over films and each band's frequencies; Hann window."""

    def transform(x: np.ndarray) -> np.ndarray:
        x = x.astype(np.float64)
        return np.fft.fft2((x - x.mean((1, 2), keepdims=True)) * HANN * HANN[:, None])

    a, b = transform(images), transform(films)
    frequency = np.fft.fftfreq(256) * 256
    radius = np.hypot(frequency[:, None], frequency)
    found = {}
    for name, (low, high) in BANDS.items():
        ring = (radius > low) & (radius <= high)
        cross = np.abs((a[:, ring] * b[:, ring].conj()).sum(0))
        found[name] = float(
            (cross / np.sqrt((np.abs(a[:, ring]) ** 2).sum(0) * (np.abs(b[:, ring]) ** 2).sum(0))).mean()
        )
    return found


def linear(train: np.ndarray, films: np.ndarray, channels: int) -> np.ndarray:
    """`films` through the leading principal components of 8 x 8 blocks of `train`, both (n, s, s)."""

    def blocks(x: np.ndarray) -> np.ndarray:
        n, s, _ = x.shape
        return x.reshape(n, s // 8, 8, s // 8, 8).transpose(0, 1, 3, 2, 4).reshape(-1, 64).astype(np.float64)

    sample = blocks(train[:300])
    mean = sample.mean(0)
    basis = np.linalg.eigh(np.cov(sample, rowvar=False))[1][:, ::-1][:, :channels]
    flat = (blocks(films) - mean) @ basis @ basis.T + mean
    n, s, _ = films.shape
    return flat.reshape(n, s // 8, s // 8, 8, 8).transpose(0, 1, 3, 2, 4).reshape(n, s, s).clip(0, 255)


@torch.no_grad()
def reconstruct(model: str, films: np.ndarray) -> tuple[np.ndarray, int]:
    """Encoded (mean) and decoded films (n, s, s) uint8, and the number of latent channels."""
    vae = load_checkpoint(model, device="cpu", dtype="float32").vae
    out = []
    for batch in torch.from_numpy(films)[:, None].split(8):
        pixels = batch.float() / 127.5 - 1
        pixels = pixels.expand(-1, vae.config.in_channels, -1, -1)
        decoded = vae.decode(vae.encode(pixels).latent_dist.mean).sample.mean(1)
        out.append(((decoded.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy())
    return np.concatenate(out), vae.config.latent_channels


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--films", required=True)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--part", default="test")
    parser.add_argument("--count", type=int, default=100, help="films a view")
    options = parser.parse_args()
    known = RealRadiographs(options.films, split="generator", splits_file="nih-sample")
    train = known.subset(range(300)).images_array(256, fit="squash")[:, 0]
    for view in ("PA", "AP"):
        unseen = RealRadiographs(options.films, split=options.part, splits_file="nih-sample", views=view)
        films = unseen.subset(range(min(options.count, len(unseen)))).images_array(256, fit="squash")[:, 0]
        images, channels = reconstruct(options.model, films)
        flat = linear(train, films, channels)
        row = {
            "view": view,
            "n": len(films),
            "psnr": round(psnr(images, films), 2),
            "psnr linear": round(psnr(flat, films), 2),
            "power": {
                k: round(v, 3) for k, v in band_ratios(power(images[:, None]), power(films[:, None])).items()
            },
            "coherence": {k: round(v, 3) for k, v in coherence(images, films).items()},
        }
        print(json.dumps(row))


if __name__ == "__main__":
    main()
