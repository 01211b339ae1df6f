"""How like films the autoencoder of a checkpoint leaves them, and at which scale of detail likeness is lost.

    python benchmarks/autoencoder_likeness.py --films NIH [--model embedded] [--part detector] [--count 400]

Kernel distance (KID's; Binkowski et al. 2018, arXiv:1801.01401) of ImageNet features between films and their own
reconstructions. Both sides show the same films, so pairs of a film and its own reconstruction are left out, and what the choice
of films adds cancels: with 400 films it is good to .001, where two different halves are good to .02. Then hybrids, the
reconstruction below a frequency and the film above it, and the other way round: where the distance falls is the detail
that is missed.
"""

import argparse

import numpy as np

from synthaug.datasets import RealRadiographs
from synthaug.diffusion import load_checkpoint
from synthaug.evaluation.features import extractor, features
from synthaug.evaluation.kernel import polynomial
from synthaug.evaluation.parts import real_part
from synthaug.evaluation.reconstruction import reconstruct

CYCLES = (16, 32, 64, 80, 100)
SOFT = 1.5  # cycles over which one spectrum gives way to the other
SEED = 0


def paired_distance(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """Unbiased squared distance of features (n, d) of the same n films made two ways, and its jackknife standard error."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    across = polynomial(a, b)
    terms = polynomial(a, a) + polynomial(b, b) - across - across.T
    np.fill_diagonal(terms, 0)
    n, total, own = len(a), terms.sum(), terms.sum(1)
    without = (total - 2 * own) / ((n - 1) * (n - 2))
    return total / (n * (n - 1)), float(np.sqrt((n - 1) * without.var()))


def hybrid(low: np.ndarray, high: np.ndarray, cycles: float) -> np.ndarray:
    """`low` below so many cycles an image, `high` above them; uint8 (n, 1, s, s)."""
    frequency = np.fft.fftfreq(low.shape[-1]) * low.shape[-1]
    share = 1 / (1 + np.exp((np.hypot(frequency[:, None], frequency) - cycles) / SOFT))
    mixed = np.fft.ifft2(np.fft.fft2(low) * share + np.fft.fft2(high) * (1 - share)).real
    return mixed.clip(0, 255).round().astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--films", required=True)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--part", choices=("detector", "validation", "test"), default="detector")
    parser.add_argument("--count", type=int, default=400)
    given = parser.parse_args()
    data = real_part(RealRadiographs(given.films, min_age=18), given.part)[0]
    chosen = np.random.default_rng(SEED).permutation(len(data))[: given.count]
    checkpoint = load_checkpoint(given.model, device="cpu", dtype="float32")
    films = data.subset(chosen).images_array(checkpoint.image_size, "squash")
    made, network = reconstruct(checkpoint.vae, films), extractor("imagenet")
    of_films = features(network, films).values

    def distance(pixels: np.ndarray) -> str:
        value, error = paired_distance(features(network, pixels).values, of_films)
        return f"{value:.4f} (standard error {error:.4f})"

    print(f"{len(films)} films of part {given.part}; reconstructions: {distance(made)}", flush=True)
    for cycles in CYCLES:
        print(
            f"reconstruction below {cycles} cycles, film above: {distance(hybrid(made, films, cycles))}; "
            f"film below, reconstruction above: {distance(hybrid(films, made, cycles))}",
            flush=True,
        )


if __name__ == "__main__":
    main()
