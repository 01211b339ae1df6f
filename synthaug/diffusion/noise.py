"""Noise as a function of (recipe seed, index) alone: never of batch, rank, worker, device or resume."""

import hashlib

import torch


def generator(seed: int, index: int, purpose: str = "latents") -> torch.Generator:
    """A CPU generator for one image; each purpose ("latents", "steps") has a stream of its own."""
    digest = hashlib.sha256(f"{seed}/{index}/{purpose}".encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def noise(seed: int, index: int, shape: tuple[int, ...]) -> torch.Tensor:
    """Standard normal noise of one image, float32 on the CPU.

    Args:
        seed: of the recipe.
        index: of the image in the recipe's plan.
        shape: (channels, height, width) of the latents.
    """
    return torch.randn(shape, generator=generator(seed, index), dtype=torch.float32)
