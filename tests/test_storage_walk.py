"""Commands and data sets over URLs, on an S3 server of this machine."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from generated import content, draw
from torch.utils.data import DataLoader

from synthaug import (
    MixedRadiographs,
    RealRadiographs,
    SyntheticRadiographs,
    SyntheticRadiographsStream,
    shards,
)
from synthaug.cli import main
from synthaug.datasets import open_radiographs
from synthaug.datasets.packing import Packing, pack
from synthaug.errors import DataError, OutputFolderError, StorageError
from synthaug.generation import writing
from synthaug.shards.remote import RemoteStorage

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture
def bucket(s3: str, tmp_path: Path) -> str:
    """An address under which nothing lies."""
    return f"{s3}/{tmp_path.name}"


def held(root: str | Path) -> dict[str, bytes]:
    storage = shards.open_storage(root)
    return {name: storage.read(name) for name in storage.names()}


def copy(folder: Path, root: str) -> str:
    storage = shards.open_storage(root)
    for name, data in content(folder).items():
        storage.write(name, data)
    return root


def test_generate_writes_what_it_writes_here_and_goes_on(
    tiny_checkpoint: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = draw(tiny_checkpoint, tmp_path / "beside")

    def dies(folder: str, number: int, samples: object) -> shards.ShardEntry:
        if number == 1:
            raise StorageError("gone")
        return shards.write_shard(folder, number, samples)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(writing, "write_shard", dies)
        with pytest.raises(StorageError, match="gone"):
            draw(tiny_checkpoint, bucket)  # type: ignore[arg-type]
    assert [fault.what for fault in shards.verify(bucket)] == ["missing"]
    first = held(bucket)
    assert set(first) == {"recipe.yaml", "execution.json", "shard-000000.tar", "shard-000000.index"}
    assert draw(tiny_checkpoint, bucket) == bucket  # type: ignore[arg-type]
    assert held(bucket) == content(beside) and shards.verify(bucket) == []

    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError("a finished run is left alone")

    with monkeypatch.context() as patch:
        for method in ("write", "create", "writing", "remove"):
            patch.setattr(RemoteStorage, method, refuse)
        assert draw(tiny_checkpoint, bucket) == bucket  # type: ignore[arg-type]
    with pytest.raises(OutputFolderError, match=r"another recipe, which differs in seed"):
        draw(tiny_checkpoint, bucket, seed=6)  # type: ignore[arg-type]
    shards.open_storage(bucket).remove("shard-000002.tar")
    assert draw(tiny_checkpoint, bucket) == bucket  # type: ignore[arg-type]
    assert held(bucket) == content(beside)


def test_pack_merge_split_data_and_verify(
    tiny_nih: Path, tiny_class_folders: Path, bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["pack", str(tiny_nih), "--out", f"{bucket}/nih", "--shard-size", "10", "--processes", "2"]) == 0
    )
    pack(RealRadiographs(tiny_nih).films, tmp_path / "nih", Packing(shard_size=10), source_format="nih")
    assert held(f"{bucket}/nih") == content(tmp_path / "nih")
    assert main(["pack", str(tiny_nih), "--out", f"{bucket}/nih", "--shard-size", "10"]) == 0  # finished
    assert main(["pack", str(tiny_nih), "--out", f"{bucket}/nih", "--shard-size", "9"]) == 2
    assert "holds something else: shard_size differ from s3://" in capsys.readouterr().err
    assert main(["merge", f"{bucket}/nih", str(tiny_class_folders), "--out", f"{bucket}/both"]) == 0
    assert main(["verify", f"{bucket}/both"]) == 0
    assert main(["verify", f"{bucket}/neither"]) == 1
    capsys.readouterr()
    assert main(["data", f"{bucket}/both", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["format"], told["films"], told["patients"], told["unreadable"]) == ("shards", 48, 12, [])
    parts = ["--part", "train=0.5", "--part", "test=0.5", "--out", f"{bucket}/parts"]
    assert main(["split", f"{bucket}/nih", *parts]) == 0
    assert len(RealRadiographs(f"{bucket}/parts/train")) == len(RealRadiographs(f"{bucket}/parts/test")) == 12
    assert main(["export", f"{bucket}/nih", "--to", "csv", "--out", bucket]) == 2
    assert "to a folder of this machine" in capsys.readouterr().err


def test_data_sets_have_random_access_over_a_url(tiny_shards: Path, tiny_nih: Path, bucket: str) -> None:
    here, there = (
        SyntheticRadiographs(tiny_shards),
        SyntheticRadiographs(copy(tiny_shards, f"{bucket}/drawn")),
    )
    for i in (23, 0, 9):
        np.testing.assert_array_equal(there.image(i), here.image(i))
        assert there.records[i] == here.records[i]
    np.testing.assert_array_equal(there.labels, here.labels)
    assert there.keys == here.keys and isinstance(open_radiographs(f"{bucket}/drawn"), SyntheticRadiographs)
    assert len(there.with_findings(pleural_effusion=1)) == 12 and f"{bucket}/drawn" in repr(there)
    assert pickle.loads(pickle.dumps(there)).keys == here.keys
    pack(RealRadiographs(tiny_nih).films, f"{bucket}/nih")
    real = RealRadiographs(f"{bucket}/nih", min_age=18)
    assert len(real) == 22 and isinstance(open_radiographs(f"{bucket}/nih"), RealRadiographs)
    mixed = MixedRadiographs(real, there, 0.5, image_size=32)
    assert mixed.image(0).shape == (32, 32) and mixed.synthetic.sum() == 23
    with pytest.raises(DataError, match=rf"{bucket}/nih: film 000000000 is real; open .* as RealRadiographs"):
        SyntheticRadiographs(f"{bucket}/nih")
    with pytest.raises(
        DataError, match=r"by URL only folders of shards are read; `synthaug pack FOLDER --out s3:"
    ):
        RealRadiographs(f"{bucket}/nih", format="nih")


def side(image: object) -> int:
    return int(np.asarray(image).sum())


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_read_the_store_by_index_and_in_a_stream(
    tiny_shards: Path, bucket: str, context: str
) -> None:
    root = copy(tiny_shards, bucket)
    expected = [side(image) for image, _ in SyntheticRadiographs(tiny_shards)]
    films = SyntheticRadiographs(root, transform=side)
    next(iter(films))  # this process has connections of its own by then
    how = {"batch_size": None, "num_workers": 2, "multiprocessing_context": context}
    assert [int(value) for value, _ in DataLoader(films, **how)] == expected  # type: ignore[arg-type]
    stream = SyntheticRadiographsStream(root, transform=side, shuffle=5)
    assert sorted(int(value) for value, _ in DataLoader(stream, **how)) == sorted(expected)  # type: ignore[arg-type]


def test_faults_on_the_way_leave_a_finished_run_or_none(s3: str) -> None:
    script = Path(__file__).parents[1] / "benchmarks" / "s3_faults.py"
    done = subprocess.run(
        [sys.executable, str(script), "--runs", "3", "--seed", "1"],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert "3 runs" in done.stdout and "0 wrong" in done.stdout
