"""What the scripts of this folder that measure speed have in common: one comparison with a named peer, as value and as text.

A script gives `arguments(argv)` and `compare(arguments) -> list[Comparison]`, in turns with its peer wherever it can; `run.py`
calls them all and writes the table.
"""

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Comparison:
    """Rates of the same work by this package and by a peer, one a round; more is better.

    Attributes:
        what: the work.
        peer: the named peer.
        unit: of the rates, "films/s".
        ours, theirs: the rounds; no `theirs` where the peer was not asked for.
        setting: what a reader has to know to repeat it.
        notes: further figures, printed by the script alone.
    """

    what: str
    peer: str
    unit: str
    ours: tuple[float, ...]
    theirs: tuple[float, ...]
    setting: str
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """Our median over the peer's."""
        return statistics.median(self.ours) / statistics.median(self.theirs)

    @property
    def between(self) -> tuple[float, float]:
        """The lowest and the highest ratio of a round; of any two rounds where these are not paired."""
        if len(self.ours) == len(self.theirs):
            ratios = [our / their for our, their in zip(self.ours, self.theirs, strict=True)]
            return min(ratios), max(ratios)
        return min(self.ours) / max(self.theirs), max(self.ours) / min(self.theirs)


def spread(rates: Sequence[float]) -> str:
    """Median and range."""
    return f"{number(statistics.median(rates))} ({number(min(rates))} to {number(max(rates))})"


def number(value: float) -> str:
    """Three digits that count."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser that prints the script's docstring as it stands."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def show(comparisons: Sequence[Comparison]) -> None:
    """Print them."""
    for one in comparisons:
        print(f"{one.what}: {one.setting}")
        print(f"  synthaug   {spread(one.ours)} {one.unit}")
        if one.theirs:
            print(f"  {one.peer:10} {spread(one.theirs)} {one.unit}")
            print(f"  ratio      {one.ratio:.2f}")
        for name, text in one.notes.items():
            print(f"  {name}: {text}")


def texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """Film-like noise, (size, size) uint8: the power of radiographs falls as 1/f^3; grain lies over it."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    spectrum = np.fft.rfft2(rng.normal(size=(size, size)))
    smooth = np.fft.irfft2(spectrum / np.maximum(frequency, 1 / size) ** 1.5, s=(size, size))
    film = 128 + 45 * (smooth - smooth.mean()) / smooth.std() + rng.normal(0, 1.5, (size, size))
    return np.clip(film, 0, 255).astype(np.uint8)


def draw_folders(root: Path, count: int, size: int) -> None:
    """Class folders of drawn texture, as timm's image folders and `RealRadiographs` read them."""
    rng = np.random.default_rng(0)
    for number in range(count):
        home = root / ("effusion", "normal")[number % 2]
        home.mkdir(parents=True, exist_ok=True)
        Image.fromarray(texture(rng, size)).save(home / f"{number:06d}.png")
