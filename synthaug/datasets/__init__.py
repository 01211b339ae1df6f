"""Data sets of radiographs, real, synthetic and mixed, as torchvision data sets.

    films = RealRadiographs("nih-sample", findings=["no_finding", "pleural_effusion"], views="PA", min_age=18)
    image, target = films[0]      # PIL "L" image, float32 tensor: 1 present, 0 absent, NaN unknown

Nothing here imports torch before a data set is opened: `summarise` and the splits work without it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from synthaug.datasets.base import Radiographs
    from synthaug.datasets.formats import FORMATS, Options
    from synthaug.datasets.mixed import MixedRadiographs
    from synthaug.datasets.opening import open_radiographs
    from synthaug.datasets.real import RealRadiographs
    from synthaug.datasets.splits import load_split, split_patients, write_split
    from synthaug.datasets.stream import SyntheticRadiographsStream
    from synthaug.datasets.summary import summarise
    from synthaug.datasets.synthetic import SyntheticRadiographs

__all__ = [
    "FORMATS",
    "MixedRadiographs",
    "Options",
    "Radiographs",
    "RealRadiographs",
    "SyntheticRadiographs",
    "SyntheticRadiographsStream",
    "load_split",
    "open_radiographs",
    "split_patients",
    "summarise",
    "write_split",
]

_HOME = {
    "FORMATS": "formats",
    "MixedRadiographs": "mixed",
    "Options": "formats",
    "Radiographs": "base",
    "RealRadiographs": "real",
    "SyntheticRadiographs": "synthetic",
    "SyntheticRadiographsStream": "stream",
    "load_split": "splits",
    "open_radiographs": "opening",
    "split_patients": "splits",
    "summarise": "summary",
    "write_split": "splits",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
