"""What a user does with a data set, and what he hears when he holds the wrong thing."""

import json
import math
import zipfile
from pathlib import Path

import numpy as np
import pytest
from layout_samples import put_chexpert, put_image, put_table
from PIL import Image

from synthaug import cli
from synthaug.datasets import RealRadiographs, SyntheticRadiographs, summarise
from synthaug.datasets.selection import BLANK, LATERAL
from synthaug.errors import DataError, UnknownNameError


def test_totals_count_each_value(tiny_nih: Path) -> None:
    films = RealRadiographs(tiny_nih, findings=["no_finding", "pleural_effusion", "fracture"])
    assert films.totals() == {
        "no_finding": {"present": 12, "absent": 12, "unknown": 0},
        "pleural_effusion": {"present": 10, "absent": 14, "unknown": 0},
        "fracture": {"present": 0, "absent": 12, "unknown": 12},
    }


def test_relabel_changes_the_columns_alone(tiny_nih: Path, tiny_shards: Path) -> None:
    films = RealRadiographs(tiny_nih)
    other = films.relabel(["cardiomegaly", "effusion"])
    assert other.findings == ("cardiomegaly", "pleural_effusion") and len(films.findings) == 15
    np.testing.assert_array_equal(other.labels[:, 1], films.column("pleural_effusion"))
    assert other.keys == films.keys and other[3][1].shape == (2,)
    made = SyntheticRadiographs(tiny_shards).subset([3, 1, 2]).relabel("effusion")
    np.testing.assert_array_equal(made.labels, [[1], [1], [0]])
    with pytest.raises(UnknownNameError):
        films.relabel("efusion")


def test_two_data_sets_add_up(tiny_nih: Path, tiny_class_folders: Path) -> None:
    a, b = RealRadiographs(tiny_nih), RealRadiographs(tiny_class_folders)
    both = a + b
    assert len(both) == 48 and both.keys == a.keys + b.keys and both.format == "nih + class_folders"
    assert both.findings == a.findings  # those of the class folders are among NIH's
    np.testing.assert_array_equal(both.image(30), b.image(6))
    np.testing.assert_array_equal(both.labels[:24], a.labels)
    assert math.isnan(both.column("mass")[24]) and both.column("effusion")[24] == 1
    with pytest.raises(DataError, match="found other transforms, image_size or fit"):
        a + RealRadiographs(tiny_class_folders, image_size=32)
    with pytest.raises(DataError, match="found list after"):
        a.__add__([1])  # type: ignore[arg-type]


def test_a_frame_holds_what_is_known(tiny_nih: Path) -> None:
    pandas = pytest.importorskip("pandas")
    films = RealRadiographs(tiny_nih)
    frame = films.frame()
    assert isinstance(frame, pandas.DataFrame) and len(frame) == 24
    assert list(frame.columns[:8]) == ["key", "path", "patient", "view", "age", "sex", "synthetic", "split"]
    assert frame["pleural_effusion"].sum() == 10 and frame.groupby("patient").size().eq(2).all()
    assert frame.loc[0, "key"] == films.keys[0] and not frame["synthetic"].any()


def test_lateral_films_are_kept_apart(tmp_path: Path) -> None:
    root = put_chexpert(tmp_path)
    films = RealRadiographs(root)
    assert len(films) == 4 and "lateral" not in films.views
    assert films.left_out[LATERAL] == ("train/patient00002/study2/view2_lateral",)
    assert RealRadiographs(root, views="lateral").views == ["lateral"]
    assert len(RealRadiographs(root, views="all")) == 5
    lateral = RealRadiographs(root, views="lateral").films[0].path
    for path in root.glob("*/*/*/*frontal.jpg"):
        path.unlink()
    with pytest.raises(DataError, match="every film is a lateral one; views='lateral'"):
        RealRadiographs(root)
    assert lateral.exists()


def test_a_black_film_and_a_photograph_are_told(tmp_path: Path) -> None:
    film = np.arange(1024, dtype=np.uint8).reshape(32, 32)
    (tmp_path / "edema").mkdir()
    Image.fromarray(film).save(tmp_path / "edema" / "film.png")
    Image.fromarray(film * 0).save(tmp_path / "edema" / "black.png")
    Image.fromarray(np.stack([film, film // 2, 255 - film], -1)).save(tmp_path / "edema" / "cat.jpg")
    summary = summarise(tmp_path)
    assert [Path(name).name for name in summary["blank"]] == ["black.png"]
    assert [Path(name).name for name in summary["colour"]] == ["cat.jpg"]
    assert any("1 images of a single grey value, such as" in remark for remark in summary["remarks"])
    assert any("1 images in colour: photographs, not films" in remark for remark in summary["remarks"])
    assert RealRadiographs(tmp_path, skip_bad=True).left_out == {BLANK: ("black",)}


def test_mixed_views_are_told_with_the_next_step(
    tmp_path: Path, tiny_nih: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["data", str(tiny_nih), "--skip-decode"]) == 0
    assert "note: views are mixed (PA 12, AP 12) and often go with the finding; views='PA'" in (
        capsys.readouterr().out
    )
    assert cli.main(["data", str(put_chexpert(tmp_path)), "--skip-decode"]) == 0
    assert "note: 1 lateral films are kept apart; views='lateral' or 'all' reads them" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize(
    "command",
    [
        ["pack", "{}", "--out", "{}-out"],
        ["dedupe", "{}"],
        ["split", "{}", "--part", "a=1", "--out", "{}.csv"],
    ],
    ids=lambda command: command[0],
)
def test_commands_say_it_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    archive = tmp_path / "films.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.png", b"")
    assert cli.main([word.format(archive) for word in command]) == 2
    said = capsys.readouterr().err
    assert (
        said.count("\n") == 1 and "films.zip: an archive, expected a folder of radiographs; unpack it" in said
    )
    assert [path.name for path in tmp_path.iterdir()] == ["films.zip"]


def test_half_a_download_is_counted_and_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = put_chexpert(tmp_path / "set")
    (root / "train/patient00001/study1/view1_frontal.jpg").unlink()
    (root / "train/patient00002/study2/view1_frontal.jpg").rename(root / "train/half.jpg.part")
    listed = tmp_path / "missing.csv"
    assert cli.main(["data", str(root), "--left-out", str(listed)]) == 0
    said = capsys.readouterr().out
    assert "note: 2 label rows (40%) have no image: is the download complete?" in said
    assert "note: 1 unfinished downloads such as half.jpg.part" in said
    lines = listed.read_text().splitlines()
    assert lines[0] == "key,reason" and len(lines) == 3
    assert lines[1].endswith("patient00001/study1/view1_frontal.jpg,label row without an image")


def test_the_wrong_thing_is_one_sentence_and_the_next_step(tmp_path: Path) -> None:
    archive = tmp_path / "films.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.png", b"")
    with pytest.raises(DataError, match=r"films.zip: an archive, expected a folder.*\(unzip -d .*films\)"):
        RealRadiographs(archive)
    folder = tmp_path / "folder"
    folder.mkdir()
    archive.rename(folder / "films.zip")
    with pytest.raises(DataError, match=r"films.zip: an archive, and 0 images outside it; unpack it"):
        RealRadiographs(folder)
    put_image(folder / "a.png")
    workbook = folder / "labels.xlsx"
    (folder / "films.zip").rename(workbook)
    with pytest.raises(
        DataError, match=r"labels.xlsx: an Excel workbook, expected a CSV table; save it as CSV"
    ):
        RealRadiographs(folder)
    with pytest.raises(DataError, match=r"labels.xlsx: an Excel workbook"):
        RealRadiographs(folder, labels_csv="labels.xlsx")
    workbook.rename(folder / "labels.csv")
    with pytest.raises(DataError, match=r"labels.csv: .*it is an Excel workbook: save it as CSV"):
        RealRadiographs(folder, labels_csv="labels.csv")
    put_table(folder / "labels.csv", ("image", "edema"), ["elsewhere-1.png", 1])
    with pytest.raises(
        DataError, match=r"names 1 images such as elsewhere-1.png and none of them is in the folder"
    ):
        RealRadiographs(folder)
    put_table(folder / "more.csv", ("image", "edema"), ["elsewhere-2.png", 1])
    with pytest.raises(
        DataError, match=r"labels.csv, more.csv, which name none of the 1 images \(called like a.png\)"
    ):
        RealRadiographs(folder)
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "images_001.tar.gz.crdownload").touch()
    with pytest.raises(DataError, match=r"1 unfinished downloads such as images_001"):
        RealRadiographs(empty)


def test_how_a_folder_is_read_is_said_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = put_chexpert(tmp_path / "set")
    command = ["data", str(root), "--skip-decode", "--json"]
    assert cli.main(command) == 0
    unknown = json.loads(capsys.readouterr().out)
    assert cli.main([*command, "--reading", "uncertain=ones"]) == 0
    ones = json.loads(capsys.readouterr().out)
    counts = [told["findings"]["lung_opacity"]["present"] for told in (unknown, ones)]
    assert counts == [0, 1] and unknown["views"]["lateral"] == 1
    for wrong, message in (
        ("uncertain", "expected KEY=VALUE"),
        ("uncertain=one", "did you mean 'ones'"),
        ("uncertian=ones", "did you mean 'uncertain'"),
    ):
        assert cli.main([*command, "--reading", wrong]) == 2
        assert message in capsys.readouterr().err


def test_names_in_utf8_with_spaces_and_255_bytes(tmp_path: Path) -> None:
    names = ["Röntgen Thorax ß.png", "胸部 レントゲン.png", "n" * 251 + ".png", "a'b;c&d.png"]
    for name in names:
        put_image(tmp_path / "edema" / name)
    (tmp_path / "edema" / "loop").symlink_to(tmp_path)
    films = RealRadiographs(tmp_path)
    assert sorted(film.path.name for film in films.films) == sorted(names)
    put_table(tmp_path / "labels.csv", ("image", "edema"), *([name, 1] for name in names))
    assert len(RealRadiographs(tmp_path, format="csv")) == 4
