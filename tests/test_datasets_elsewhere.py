"""The shards and data sets in other libraries' hands."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from synthaug.datasets import SyntheticRadiographs
from synthaug.datasets.tensors import ForTorchxrayvision


def test_hugging_face_reads_the_shards(tiny_shards: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        read = datasets.load_dataset(
            "webdataset", data_files={"train": str(tiny_shards / "shard-*.tar")}, split="train", streaming=True,
            cache_dir=str(tmp_path),
        )  # fmt: skip
        rows = list(read)
    films = SyntheticRadiographs(tiny_shards)
    assert len(rows) == 24 and rows[5]["__key__"] == films.keys[5]
    assert rows[5]["json"]["labels"] == dict(films.records[5].labels)
    np.testing.assert_array_equal(np.asarray(rows[5]["png"]), films.image(5))


def test_torchvision_v2_transforms_and_a_loader(tiny_shards: Path) -> None:
    transform = v2.Compose(
        [
            v2.ToImage(),
            v2.Resize((32, 32)),
            v2.RandomHorizontalFlip(0.5),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    images, targets = next(
        iter(DataLoader(SyntheticRadiographs(tiny_shards, transform=transform), batch_size=6))
    )
    assert (
        images.shape == (6, 1, 32, 32)
        and images.dtype == torch.float32
        and 0 <= images.min() < images.max() <= 1
    )
    assert targets.shape == (6, 2)


def test_torchxrayvision_takes_the_tensors(tiny_shards: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        xrv = pytest.importorskip("torchxrayvision")
        films = SyntheticRadiographs(tiny_shards, transform=ForTorchxrayvision(64))
        tensor = films[3][0]
        theirs = xrv.datasets.normalize(films.image(3), 255, reshape=True)
        np.testing.assert_allclose(tensor.numpy(), theirs, atol=1e-3)
        cropped = xrv.datasets.XRayCenterCrop()(np.zeros((1, 50, 70), np.float32)).shape
        assert ForTorchxrayvision(50)(Image.new("L", (70, 50))).shape == cropped
        model = xrv.models.DenseNet(num_classes=18, in_channels=1).eval()
        with torch.no_grad():
            assert model(tensor[None]).shape == (1, 18)
