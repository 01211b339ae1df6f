"""How much of an unseen film the autoencoder of a checkpoint keeps, beside the linear code of equal size.

    python benchmarks/autoencoder.py --films NIH [--model embedded] [--part test]

Prints, view by view: PSNR; band power of the reconstruction over the film's own (1 = as sharp); coherence with the
film (1 = the same detail, not only as much of it); and the PSNR of block principal components fitted on the
`generator` part, which is what the same number of channels gives without a network.
"""

import argparse
import json

import numpy as np

from synthaug.datasets import RealRadiographs
from synthaug.diffusion import load_checkpoint
from synthaug.evaluation.reconstruction import coherence, psnr, reconstruct
from synthaug.evaluation.spectrum import band_ratios, power


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
    vae = load_checkpoint(options.model, device="cpu", dtype="float32").vae
    for view in ("PA", "AP"):
        unseen = RealRadiographs(options.films, split=options.part, splits_file="nih-sample", views=view)
        films = unseen.subset(range(min(options.count, len(unseen)))).images_array(256, fit="squash")[:, 0]
        images = reconstruct(vae, films[:, None])[:, 0]
        flat = linear(train, films, vae.config.latent_channels)
        row = {
            "view": view,
            "n": len(films),
            "psnr": round(float(psnr(images, films).mean()), 2),
            "psnr linear": round(float(psnr(flat, films).mean()), 2),
            "power": {
                k: round(v, 3) for k, v in band_ratios(power(images[:, None]), power(films[:, None])).items()
            },
            "coherence": {k: round(v, 3) for k, v in coherence(images[:, None], films[:, None]).items()},
        }
        print(json.dumps(row))


if __name__ == "__main__":
    main()
