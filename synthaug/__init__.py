"""synthaug: label-conditioned synthetic chest radiographs, and the figures that say whether they help.

import synthaug
films = synthaug.generate("pleural_effusion", count=16)
image, target = films[0]
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from synthaug.datasets import (
        MixedRadiographs,
        RealRadiographs,
        SyntheticRadiographs,
        SyntheticRadiographsStream,
    )
    from synthaug.detection import load_detector, train_detector
    from synthaug.detection.predict import predict
    from synthaug.diffusion import load_checkpoint, sample
    from synthaug.errors import SynthaugError
    from synthaug.findings import FINDINGS
    from synthaug.generation.films import generate

__version__ = "0.1.0"

# Every public name and the module it comes from; loaded at first use, so that `import synthaug` stays quick.
_EXPORTS = {
    "FINDINGS": "synthaug.findings",
    "MixedRadiographs": "synthaug.datasets",
    "RealRadiographs": "synthaug.datasets",
    "SyntheticRadiographs": "synthaug.datasets",
    "SyntheticRadiographsStream": "synthaug.datasets",
    "SynthaugError": "synthaug.errors",
    "generate": "synthaug.generation.films",
    "load_checkpoint": "synthaug.diffusion",
    "load_detector": "synthaug.detection",
    "predict": "synthaug.detection",
    "sample": "synthaug.diffusion",
    "train_detector": "synthaug.detection",
}
__all__ = [
    "FINDINGS",
    "MixedRadiographs",
    "RealRadiographs",
    "SynthaugError",
    "SyntheticRadiographs",
    "SyntheticRadiographsStream",
    "__version__",
    "generate",
    "load_checkpoint",
    "load_detector",
    "predict",
    "sample",
    "train_detector",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'synthaug' has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return __all__
