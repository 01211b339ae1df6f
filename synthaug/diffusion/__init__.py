"""Checkpoints in Stable-Diffusion layout, and images from them: prompts + seeds -> uint8 (B, 1, H, W)."""

from synthaug.diffusion.card import Base, CheckpointCard
from synthaug.diffusion.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from synthaug.diffusion.noise import noise
from synthaug.diffusion.sampler import sample
from synthaug.diffusion.settings import Given, Settings, resolve

__all__ = [
    "Base",
    "Checkpoint",
    "CheckpointCard",
    "Given",
    "Settings",
    "load_checkpoint",
    "noise",
    "resolve",
    "sample",
    "save_checkpoint",
]
