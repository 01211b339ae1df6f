"""What an autoencoder keeps of real films, measured before anything is trained.

A film is encoded (mean of the posterior) and decoded; both sides are grey levels 0 to 255.

    RMSE       root of the mean squared error, grey levels
    PSNR       20 log10(255 / RMSE) of each film, dB
    SSIM       Wang et al. 2004; 11 x 11 Gaussian window, sigma 1.5
    MS-SSIM    Wang et al. 2003; five scales, so films of more than 160 px

Intervals are 95 % by resampling the films' patients: films of one patient are not independent. A film without a patient
is its own.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from synthaug.adaptation import films
from synthaug.adaptation.vae import VaeRecipe
from synthaug.datasets.base import Radiographs
from synthaug.diffusion.checkpoint import load_checkpoint
from synthaug.errors import NotInstalledError
from synthaug.shards import atomic_write
from synthaug.tables import columns

AT_ONCE = 4
SMALLEST_MS_SSIM = 161
RESAMPLES = 1000

Bands = Callable[[NDArray[np.uint8], NDArray[np.uint8]], Mapping[str, float]]


def study(
    recipe: VaeRecipe,
    data: Sequence[Radiographs],
    model: str = "embedded",
    device: str = "auto",
    bands: Bands | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """One row a measure and view: value, low, high, n, reason.

    Args:
        recipe: its image size, age limit and `per_finding` choose the films.
        data: real films.
        model: whose autoencoder.
        bands: (reconstructions, films) uint8 (n, 1, s, s) -> named figures, without intervals.
        on_progress: called with (films done, films in all).

    Raises:
        DataError: no film fits.
        CheckpointError: the checkpoint cannot be read.
        NotInstalledError: torchmetrics is missing.
    """
    base = load_checkpoint(model, device, "float32")
    size = recipe.image_size or base.image_size
    held = films.load(
        data,
        (size,),
        recipe.minimum_age,
        choose=lambda records: films.for_findings(
            records, recipe.findings, recipe.per_finding, recipe.training.seed
        ),
    )
    real = held.pyramid[size]
    made = reconstruct(base.vae, real, on_progress)
    figures = film_figures(made, real)
    owners = [r.patient or f"film:{r.key}" for r in held.records]
    rows = []
    for view in sorted({r.view or "unknown" for r in held.records}):
        own = np.array([(r.view or "unknown") == view for r in held.records])
        facts = {"view": view, "n": int(own.sum())}
        people = [owner for owner, mine in zip(owners, own, strict=True) if mine]
        for name, values in figures.items():
            if values is None:
                reason = f"films of {size} px; five scales need {SMALLEST_MS_SSIM} or more"
                rows.append(
                    {"name": name, "value": None, "low": None, "high": None, "reason": reason, **facts}
                )
                continue
            low, high = _interval(values[own], people)
            rows.append({"name": name, "value": float(values[own].mean()), "low": low, "high": high, **facts})
        for name, value in (bands(made[own], real[own]) if bands else {}).items():
            rows.append({"name": name, "value": value, "low": None, "high": None, **facts})
    return rows


@torch.no_grad()
def reconstruct(
    vae: Any, images: NDArray[np.uint8], on_progress: Callable[[int, int], None] | None = None
) -> NDArray[np.uint8]:
    """Encoded and decoded films, uint8 (n, 1, s, s)."""
    out = []
    for part in torch.from_numpy(images).split(AT_ONCE):
        pixels = (part.float() / 127.5 - 1).to(vae.device).expand(-1, vae.config.in_channels, -1, -1)
        decoded = vae.decode(vae.encode(pixels).latent_dist.mean).sample.mean(1, keepdim=True)
        out.append(((decoded.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu())
        if on_progress:
            on_progress(sum(map(len, out)), len(images))
    return torch.cat(out).numpy()


def film_figures(made: NDArray[np.uint8], real: NDArray[np.uint8]) -> dict[str, NDArray[np.float64] | None]:
    """RMSE, PSNR, SSIM and MS-SSIM of each film, (n,) each; None where the films are too small for a measure.

    Raises:
        NotInstalledError: torchmetrics is missing.
    """
    try:
        from torchmetrics.functional.image import (
            multiscale_structural_similarity_index_measure as ms_ssim,
        )
        from torchmetrics.functional.image import structural_similarity_index_measure as ssim
    except ImportError as error:
        raise NotInstalledError(
            "--study: torchmetrics is not installed; run `pip install torchmetrics`"
        ) from error
    rmse = np.sqrt(((made.astype(np.float64) - real) ** 2).mean((1, 2, 3)))
    psnr = 20 * np.log10(255 / np.maximum(rmse, 1e-12))
    large = made.shape[-1] >= SMALLEST_MS_SSIM
    structure: list[Any] = []
    scales: list[Any] = []
    for ours, theirs in zip(made, real, strict=True):
        pair = [torch.from_numpy(image).float()[None] for image in (ours, theirs)]
        structure.append(ssim(pair[0], pair[1], data_range=255.0))
        if large:
            scales.append(ms_ssim(pair[0], pair[1], data_range=255.0))
    return {
        "RMSE": rmse,
        "PSNR": psnr,
        "SSIM": np.array(structure, dtype=np.float64),
        "MS-SSIM": np.array(scales, dtype=np.float64) if large else None,
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows for people."""
    lines = []
    for row in rows:
        value = row.get("reason") or f"{row['value']:.4g}"
        interval = f"{row['low']:.4g} to {row['high']:.4g}" if row["low"] is not None else ""
        lines.append([row["view"], row["name"], value, interval, row["n"]])
    return columns(lines, ["view", "measure", "value", "95 %", "films"])


def write(out: Path, rows: Sequence[Mapping[str, Any]], model: str) -> Path:
    """`study.json` in the folder `out`; the base is named without a path of this machine."""
    out.mkdir(parents=True, exist_ok=True)
    name = Path(model).expanduser().resolve().name if Path(model).expanduser().is_dir() else model
    body = {"schema": 1, "kind": "autoencoder study", "model": name, "metrics": list(rows)}
    path = out / "study.json"
    atomic_write(path, (json.dumps(body, indent=1) + "\n").encode())
    return path


def _interval(values: NDArray[np.float64], owners: Sequence[str]) -> tuple[float | None, float | None]:
    """95 % of the mean over resampled patients; None with fewer than two."""
    people = sorted(set(owners))
    if len(people) < 2:
        return None, None
    place = {owner: i for i, owner in enumerate(people)}
    member = np.array([place[owner] for owner in owners])
    sums = np.bincount(member, values, len(people))
    counts = np.bincount(member, minlength=len(people))
    chosen = np.random.default_rng(0).integers(len(people), size=(RESAMPLES, len(people)))
    means = sums[chosen].sum(1) / counts[chosen].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return (float(low), float(high)) if math.isfinite(low) else (None, None)
