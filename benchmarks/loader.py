"""Films from disk to batches of tensors: synthaug's shards, and a plain data set of PNG files read by Pillow.

    python benchmarks/loader.py [--count 400] [--size 512] [--image-size 224] [--workers 2] [--rounds 3]

Both stand behind the same torch DataLoader with the same workers, shuffled, and give float batches (B, 1, S, S). The plain one is
what a user writes first: `Image.open(path).convert("L").resize(...)`. Files are in the page cache for both; an epoch is timed
from the first request to the last batch, starting the workers included.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from comparison import Comparison, parser, show, texture
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from synthaug import images, shards
from synthaug.datasets import SyntheticRadiographs
from synthaug.record import Record


class Plain(Dataset[torch.Tensor]):
    """A folder of PNG files."""

    def __init__(self, folder: Path, size: int) -> None:
        self.paths, self.size = sorted(folder.glob("*.png")), size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        image = Image.open(self.paths[index]).convert("L").resize((self.size, self.size))
        return torch.from_numpy(np.array(image, np.float32) / 255)[None]


def as_tensor(image: Image.Image) -> torch.Tensor:
    """The same as `Plain` gives."""
    return torch.from_numpy(np.array(image, np.float32) / 255)[None]


def epoch(films: Any, batch_size: int, workers: int) -> tuple[int, float]:
    """Films and seconds of one pass."""
    begun, count = time.perf_counter(), 0
    for batch in DataLoader(films, batch_size, shuffle=True, num_workers=workers):
        count += len(batch[0] if isinstance(batch, list) else batch)
    return count, time.perf_counter() - begun


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    given = parser(__doc__)
    given.add_argument("--count", type=int, default=400)
    given.add_argument("--size", type=int, default=512, help="pixels a side on disk")
    given.add_argument("--image-size", type=int, default=224, help="pixels a side in a batch")
    given.add_argument("--batch-size", type=int, default=32)
    given.add_argument("--workers", type=int, default=2)
    given.add_argument("--rounds", type=int, default=3)
    return given.parse_args(argv)


def compare(given: argparse.Namespace) -> list[Comparison]:
    rng = np.random.default_rng(0)
    drawn = [texture(rng, given.size) for _ in range(min(given.count, 16))]

    def samples() -> Iterator[tuple[Record, bytes, str]]:
        for i in range(given.count):
            record = Record(f"{i:09d}", {"edema": 1.0}, synthetic=True, provenance={"seed": 0})
            yield record, images.encode(drawn[i % len(drawn)]), "png"

    with tempfile.TemporaryDirectory() as name:
        packed, loose = Path(name) / "shards", Path(name) / "files"
        for folder in (packed, loose):
            folder.mkdir()
        shards.write_manifest(packed, [shards.write_shard(packed, 0, samples())])
        for i in range(given.count):
            Image.fromarray(drawn[i % len(drawn)]).save(loose / f"{i:09d}.png")
        ready = SyntheticRadiographs(packed, transform=as_tensor, image_size=given.image_size)
        sets: dict[str, Any] = {"ours": ready, "plain": Plain(loose, given.image_size)}
        rates: dict[str, list[float]] = {which: [] for which in sets}
        for _ in range(given.rounds):
            for which, films in sets.items():
                count, seconds = epoch(films, given.batch_size, given.workers)
                if count != given.count:
                    raise SystemExit(f"{which} gave {count} films of {given.count}")
                rates[which].append(count / seconds)
    setting = (
        f"{given.count} films of {given.size} px to {given.image_size} px, {given.workers} workers, "
        f"batches of {given.batch_size}"
    )
    return [
        Comparison(
            "loader", "DataLoader + Pillow", "films/s", tuple(rates["ours"]), tuple(rates["plain"]), setting
        )
    ]


if __name__ == "__main__":
    show(compare(arguments()))
