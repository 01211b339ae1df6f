"""Cached latents: every film encoded once for each of a few augmented copies, kept on disk.

The cache is one safetensors file named by a digest of all that its content depends on (films, encoder,
augmentation), so it can never be stale: another digest is another file. Latents are float16 `(N, copies, C, h, w)`,
already multiplied by the scaling factor of the autoencoder. A stochastic encoder may be kept as its moments: mean and
standard deviation, `(N, copies, 2 C, h, w)`, of which each step draws anew. The file is written film by film and mapped when
it is read, so neither has to fit into memory.
"""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from safetensors import safe_open
from torch import Tensor
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample

from synthaug.adaptation.batches import draws
from synthaug.errors import DiskFullError
from synthaug.recipes import Recipe


class AugmentationRecipe(Recipe):
    """Small changes that keep laterality (no flip). Copy 0 of a film is the film itself."""

    copies: int = Field(default=8, gt=0)
    rotation: float = Field(default=4.0, ge=0)
    scale: tuple[float, float] = (0.98, 1.15)
    shift: float = Field(default=0.03, ge=0)
    contrast: float = Field(default=0.05, ge=0)
    brightness: float = Field(default=0.02, ge=0)
    seed: int = 0


def cache(
    folder: Path,
    films: NDArray[np.uint8],
    size: int,
    encode: Callable[[Tensor], Tensor],
    encoder_digest: str,
    recipe: AugmentationRecipe,
    device: torch.device | str = "cpu",
    batch_size: int = 32,
) -> Tensor:
    """Latents of all copies of `films`, read from the cache or computed into it.

    Args:
        folder: where caches live.
        films: uint8 (N, 1, S, S), S >= size; the sharpest source at hand, since copies are resampled from it.
        size: edge of the encoded images in pixels.
        encode: pixels (B, 1, size, size) in [-1, 1] -> scaled latents (B, C, h, w), or moments (B, 2 C, h, w).
        encoder_digest: names the encoder's weights.
        recipe: the copies.
        device: where films are resampled; `encode` is given them there.

    Returns:
        float16 (N, copies, C, h, w), mapped from disk.

    Raises:
        DiskFullError: the disk has no room for them.
    """
    content = hashlib.sha256(np.ascontiguousarray(films).data).hexdigest()
    note = json.dumps([content, size, encoder_digest, recipe.values()], sort_keys=True)
    path = folder / f"latents-{size}-{hashlib.sha256(note.encode()).hexdigest()[:16]}.safetensors"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        held: np.memmap | None = None
        for copy, start in product(range(recipe.copies), range(0, len(films), batch_size)):
            encoded = _encode(films[start : start + batch_size], size, encode, recipe, device, copy, start)
            if held is None:
                shape = (len(films), recipe.copies, *encoded.shape[1:])
                held = half_file(partial, "latents", shape, "--set augmentation.copies=1")
            held[start : start + len(encoded), copy] = encoded.cpu().numpy()
        if held is not None:
            held.flush()
        os.replace(partial, path)
    with safe_open(path, "pt") as stored:
        return stored.get_tensor("latents")


def half_file(path: Path, name: str, shape: tuple[int, ...], instead: str) -> np.memmap:
    """A safetensors file with one float16 tensor, still zero, mapped for writing; `instead` is what needs less room.

    Raises:
        DiskFullError: the disk has no room for it.
    """
    size = 2 * math.prod(shape)
    free = shutil.disk_usage(path.parent).free
    if size > free:
        raise DiskFullError(
            f"{path.parent}: the {name} of the films need {size / 1e9:.2f} GB, found {free / 1e9:.2f} GB free; free some, "
            f"or {instead}"
        )
    header = json.dumps({name: {"dtype": "F16", "shape": shape, "data_offsets": [0, size]}}).encode()
    header += b" " * (-len(header) % 8)
    with open(path, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)
    return np.memmap(path, np.float16, "r+", offset=8 + len(header), shape=shape)


def _encode(
    films: NDArray[np.uint8],
    size: int,
    encode: Callable[[Tensor], Tensor],
    recipe: AugmentationRecipe,
    device: torch.device | str,
    copy: int,
    start: int,
) -> Tensor:
    """One copy of a few films, the first of which is number `start` of all."""
    pixels = torch.from_numpy(np.ascontiguousarray(films)).to(device).float() / 127.5 - 1
    generator = draws(recipe.seed, start, copy)
    pixels = augment(pixels, size, recipe, generator) if copy else resample(pixels, size)
    with torch.no_grad():
        return encode(pixels).half()


def augment(pixels: Tensor, size: int, recipe: AugmentationRecipe, generator: torch.Generator) -> Tensor:
    """Rotated, scaled, shifted and re-exposed copies (B, 1, size, size) of pixels in [-1, 1]."""

    def between(low: float, high: float) -> Tensor:
        drawn = torch.rand(len(pixels), generator=generator) * (high - low) + low
        return drawn.to(pixels.device)

    angle = between(-recipe.rotation, recipe.rotation).deg2rad()
    scale, x, y = between(*recipe.scale), between(-2, 2) * recipe.shift, between(-2, 2) * recipe.shift
    gain = 1 + between(-1, 1) * recipe.contrast
    offset = between(-2, 2) * recipe.brightness
    cos, sin = angle.cos() / scale, angle.sin() / scale
    matrix = torch.stack([torch.stack([cos, -sin, x], 1), torch.stack([sin, cos, y], 1)], 1)
    return (resample(pixels, size, matrix) * gain[:, None, None, None] + offset[:, None, None, None]).clamp(
        -1, 1
    )


def resample(pixels: Tensor, size: int, matrix: Tensor | None = None) -> Tensor:
    """Bicubic resampling to `size` under an affine `matrix` (B, 2, 3) of normalised coordinates."""
    while pixels.shape[-1] >= 2 * size:
        pixels = avg_pool2d(pixels, 2)
    if matrix is None:
        if pixels.shape[-1] == size:
            return pixels
        matrix = torch.eye(2, 3, device=pixels.device).expand(len(pixels), 2, 3)
    grid = affine_grid(matrix, [len(pixels), 1, size, size], align_corners=False)
    return grid_sample(pixels, grid, mode="bicubic", padding_mode="border", align_corners=False).clamp(-1, 1)
