"""Films as the tensors that other libraries' models expect: `SyntheticRadiographs(root, transform=...)`."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from synthaug.images import resize


class ForTorchxrayvision:
    """A PIL "L" film as torchxrayvision's models take it: float32 (1, size, size) from -1024 (black) to 1024 (white).

    The square is the centre crop, as `XRayCenterCrop` and `XRayResizer` make it.

    Args:
        size: pixels a side; 224 for the DenseNets, 512 for the ResNet.
    """

    def __init__(self, size: int = 224) -> None:
        self.size = size

    def __call__(self, image: Image.Image) -> Tensor:
        pixels = resize(np.asarray(image.convert("L")), self.size, "crop").astype(np.float32)
        return torch.from_numpy((2 * (pixels / 255) - 1) * 1024)[None]

    def __repr__(self) -> str:
        return f"ForTorchxrayvision(size={self.size})"
