"""merge, split and dedupe, and their commands from end to end."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from test_leakage import COPIES, put, texture

from synthaug import cli, shards
from synthaug.datasets import RealRadiographs, SyntheticRadiographs, load_split, shaping
from synthaug.datasets.likeness import Pair
from synthaug.datasets.packing import Packing
from synthaug.errors import DataError


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = cli.main([str(argument) for argument in arguments])
    spoken = capsys.readouterr()
    return code, spoken.out, spoken.err


def test_merging_keeps_every_film_and_asks_about_patients(tmp_path: Path, tiny_nih: Path) -> None:
    films = RealRadiographs(tiny_nih)
    parts = {"a": films.subset(range(13)).films, "b": films.subset(range(13, 24)).films}
    with pytest.raises(
        DataError, match=r"1 patient ids, such as 7, stand both in a and in b; --patients same"
    ):
        shaping.merge(parts, tmp_path / "refused")
    shaping.merge(parts, tmp_path / "same", "same", Packing(shard_size=10))
    same = RealRadiographs(tmp_path / "same")
    assert len(same) == 24 and same.patients == films.patients and shards.verify(tmp_path / "same") == []
    np.testing.assert_array_equal(same.image(20), films.image(20))
    shaping.merge(parts, tmp_path / "apart", "apart")
    apart = RealRadiographs(tmp_path / "apart").patients
    assert apart[12:14] == ["0-7", "1-7"] and len(set(apart)) == 13
    with pytest.raises(DataError, match="found 1 data sets"):
        shaping.merge({"a": parts["a"]}, tmp_path / "one")


def test_synthetic_shards_merge_and_keep_their_seeds(tmp_path: Path, tiny_shards: Path) -> None:
    films = SyntheticRadiographs(tiny_shards)
    shaping.merge({"one": films.films, "two": films.films}, tmp_path / "out", processes=2)
    merged = SyntheticRadiographs(tmp_path / "out")
    assert len(merged) == 48 and merged.records[30].provenance["source_key"] == films.keys[6]
    assert merged.records[30].provenance["seed"] == 0 and merged.records[30].prompt == films.records[6].prompt
    assert merged.films[30].source() == films.films[6].source()
    with pytest.raises(DataError, match="found real and synthetic films"):
        shaping.merge(
            {"one": films.films, "real": RealRadiographs(_real(tmp_path)).films}, tmp_path / "mixed"
        )


def _real(folder: Path) -> Path:
    return put(folder / "real", {"edema/a.png": texture(1)})


def test_groups_are_connected() -> None:
    pairs = [Pair(4, 2, 1.0), Pair(0, 4, 0.95), Pair(5, 6, 0.91)]
    assert shaping.groups(8, pairs) == [[0, 2, 4], [5, 6]]
    assert shaping.groups(3, []) == []


def test_the_commands_that_write(tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny_nih: Path) -> None:
    out = tmp_path / "shards"
    code, said, _ = run(capsys, "pack", tiny_nih, "--out", out, "--shard-size", 10, "--image-size", 32)
    assert code == 0 and "24 films" in said
    assert run(capsys, "verify", out)[0] == 0
    assert RealRadiographs(out).image(3).shape == (32, 32)
    code, said, _ = run(
        capsys, "export", out, "--to", "csv", "--out", tmp_path / "csv", "--finding", "effusion"
    )
    assert code == 0 and RealRadiographs(tmp_path / "csv").totals()["pleural_effusion"]["present"] == 10
    other = shutil.copytree(out, tmp_path / "other")
    code, said, _ = run(capsys, "merge", out, other, "--patients", "same", "--out", tmp_path / "twice")
    assert code == 0 and "48 films" in said
    code, _, err = run(capsys, "merge", out, other, "--out", tmp_path / "asked")
    assert code == 2 and "12 patient ids" in err and err.count("\n") == 1
    code, _, err = run(capsys, "pack", tiny_nih, "--out", out)
    assert code == 2 and "shard_size" in err and "choose another --out" in err


def test_split_writes_a_file_or_folders_by_patient(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny_nih: Path, tiny_class_folders: Path
) -> None:
    shares = ["--part", "train=0.75", "--part", "test=0.25"]
    code, said, _ = run(capsys, "split", tiny_nih, *shares, "--out", tmp_path / "parts.csv")
    parts = load_split(tmp_path / "parts.csv")
    assert (
        code == 0
        and "train 18, test 6 films" in said
        and {k: len(v) for k, v in parts.items()} == {"train": 18, "test": 6}
    )
    assert run(capsys, "split", tiny_nih, *shares, "--out", tmp_path / "folders")[0] == 0
    opened = {part: RealRadiographs(tmp_path / "folders" / part) for part in ("train", "test")}
    assert not set(opened["train"].patients) & set(opened["test"].patients)
    source = [r.provenance["source_key"] for r in opened["test"].records]
    assert sorted(source) == sorted(parts["test"])
    code, _, err = run(capsys, "split", tiny_class_folders, *shares, "--out", tmp_path / "x.csv")
    assert code == 2 and "24 films have no patient" in err
    assert run(capsys, "split", tiny_class_folders, *shares, "--by-film", "--out", tmp_path / "x.csv")[0] == 0
    code, _, err = run(capsys, "split", tiny_nih, "--part", "train=most", "--out", tmp_path / "y.csv")
    assert code == 2 and "expected NAME=SHARE" in err


def test_parts_of_shards_hold_their_own_films(tmp_path: Path, tiny_shards: Path) -> None:
    films = SyntheticRadiographs(tiny_shards)
    part = films.subset([20, 3, 11, 7])
    assert [film.record.key for film in part.films[1:3]] == [films.keys[3], films.keys[11]]
    parts = ["--part", "a=0.5", "--part", "b=0.5", "--by-film", "--shard-size", "5"]
    assert cli.main(["split", str(tiny_shards), *parts, "--out", str(tmp_path / "parts")]) == 0
    written = [SyntheticRadiographs(tmp_path / "parts" / name).records for name in "ab"]
    sources = [{record.provenance["source_key"] for record in records} for records in written]
    assert list(map(len, sources)) == [12, 12] and sources[0] | sources[1] == set(films.keys)


def test_dedupe_names_and_drops(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    films = {f"edema/{i}.png": texture(i) for i in range(6)}
    copies = {
        "mass/6.png": COPIES["compressed"](films["edema/2.png"]),
        "mass/7.png": COPIES["resized"](films["edema/2.png"]),
    }
    root = put(tmp_path / "set", films | copies)
    code, said, _ = run(capsys, "dedupe", root)
    assert code == 0 and said.splitlines()[0] == "2 = 6 = 7" and "8 films, 2 of them near-duplicates" in said
    out = tmp_path / "out"
    code, said, _ = run(capsys, "dedupe", root, "--out", out, "--json")
    assert json.loads(said) == {"films": 8, "near_duplicates": [["2", "6", "7"]], "dropped": 2}
    assert [r.provenance["source_key"] for r in RealRadiographs(out).records] == list("012345")
    train = put(tmp_path / "train", {"edema/x.png": COPIES["brightened"](films["edema/4.png"])})
    code, said, _ = run(capsys, "dedupe", root, "--against", train, "--out", tmp_path / "clean")
    assert code == 0 and said.startswith("4 = x\n") and len(RealRadiographs(tmp_path / "clean")) == 7
