"""Augmentation of a whole batch at once. No flip: a chest has a left and a right.

Conventions: images go in as uint8 (B, 1, H, W) and come out as float32 in [0, 1] of the same shape; every random number
comes from the generator that is passed in.
"""

import math

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field


class Augmentation(BaseModel):
    """How far each film may be moved; all zero (and `scale` 1 to 1) turns augmentation off."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rotation: float = Field(default=7.0, ge=0, description="degrees, either way")
    scale: tuple[float, float] = Field(
        default=(0.9, 1.15), strict=False, description="zoom, smallest and largest"
    )
    shift: float = Field(default=0.05, ge=0, description="fraction of the side, either way")
    contrast: float = Field(default=0.25, ge=0, description="relative, either way")
    brightness: float = Field(default=0.1, ge=0, description="fraction of the grey range, either way")
    gamma: float = Field(default=0.2, ge=0, description="log of the exponent, either way")
    blur: float = Field(default=0.0, ge=0, le=1, description="chance of losing the fine detail of a film")


def affine(images: torch.Tensor, rule: Augmentation, generator: torch.Generator) -> torch.Tensor:
    """Rotate, zoom and shift float images (B, 1, H, W) about their centres; what enters from outside is black."""

    def draw(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(len(images), generator=generator)

    angle = draw(-rule.rotation, rule.rotation) * math.pi / 180
    zoom = draw(*rule.scale)
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    across, down = (draw(-2 * rule.shift, 2 * rule.shift) for _ in range(2))
    matrix = torch.stack([torch.stack([cos, -sin, across], 1), torch.stack([sin, cos, down], 1)], 1)
    grid = F.affine_grid(matrix.to(images.device), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def tones(images: torch.Tensor, rule: Augmentation, generator: torch.Generator) -> torch.Tensor:
    """Change contrast, brightness and gamma of float images (B, 1, H, W) in [0, 1], film by film."""

    def draw(reach: float) -> torch.Tensor:
        return (reach * (2 * torch.rand(len(images), 1, 1, 1, generator=generator) - 1)).to(images.device)

    images = images.clamp(0, 1) ** torch.exp(draw(rule.gamma))
    centre = images.mean((2, 3), keepdim=True)
    return ((images - centre) * (1 + draw(rule.contrast)) + centre + draw(rule.brightness)).clamp(0, 1)


def soften(images: torch.Tensor, rule: Augmentation, generator: torch.Generator) -> torch.Tensor:
    """Take the fine detail from a random part of the films, so that sharpness alone decides nothing."""
    chosen = (torch.rand(len(images), 1, 1, 1, generator=generator) < rule.blur).to(images.device)
    if not chosen.any():
        return images
    height, width = images.shape[-2:]
    small = F.interpolate(images, size=(height // 2, width // 2), mode="bilinear", antialias=True)
    return torch.where(chosen, F.interpolate(small, size=(height, width), mode="bilinear"), images)


def augment(images: torch.Tensor, rule: Augmentation, generator: torch.Generator) -> torch.Tensor:
    """The augmented batch: geometry, then tones, then softening."""
    floats = images.float() / 255
    return soften(tones(affine(floats, rule, generator), rule, generator), rule, generator)
