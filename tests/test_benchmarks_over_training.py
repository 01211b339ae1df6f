"""`benchmarks/over_training.py`: equal noises at each checkpoint, films that are kept, and a figure over the films seen."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType

import benchmark_scripts
import numpy as np
import pytest
import tiny_checkpoint as tiny
import torch
from conftest import NIH_HEADER, draw_radiograph
from PIL import Image

from synthaug.detection.detector import DetectorConfig, build_detector
from synthaug.diffusion import save_checkpoint
from synthaug.errors import DataError
from synthaug.evaluation.results import Results


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    with benchmark_scripts.script("over_training") as module:
        yield module


def test_checkpoints_are_named_by_the_films_they_have_seen(script: ModuleType) -> None:
    assert script.parsed(["100=a", "2500=b=c"]) == {100: "a", 2500: "b=c"}
    for text in ("a", "ten=a", "10=", "-1=a"):
        with pytest.raises(SystemExit, match="expected FILMS=FOLDER"):
            script.parsed([text])
    for several in (["20=a", "10=b"], ["10=a", "10=b"]):
        with pytest.raises(SystemExit, match="in the order of the films"):
            script.parsed(several)


@pytest.fixture
def later(tmp_path: Path) -> Path:
    """The tiny checkpoint with another U-Net."""
    parts = tiny.tiny_parts()
    with torch.no_grad():
        for weights in parts["unet"].parameters():
            weights.mul_(0.5)
    return save_checkpoint(tmp_path / "later", **parts, card=tiny.tiny_card())


@pytest.fixture
def adults(tmp_path: Path) -> Path:
    """An NIH folder of 40 drawn films of 40 grown-up patients, every other one with an effusion."""
    root, rng = tmp_path / "adults", np.random.default_rng(1)
    (root / "images").mkdir(parents=True)
    lines = [NIH_HEADER]
    for i in range(40):
        found = ("No Finding", "Effusion")[i % 2]
        lines.append(f"9{500 + i:07d}_000.png,{found},0,{500 + i},50,F,PA,64,64,0.1,0.1")
        Image.fromarray(draw_radiograph(rng, 64, i % 2 == 1)).save(root / "images" / lines[-1].split(",")[0])
    (root / "Data_Entry_2017_v2020.csv").write_text("\n".join(lines) + "\n")
    return root


def test_the_whole_runs_resumes_and_takes_one_checkpoint_more(
    script: ModuleType,
    tiny_checkpoint: Path,
    later: Path,
    adults: Path,
    tiny_nih: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(script, "resemblance", partial(script.resemblance, least=8))
    for name, arch in (("a", "test_resnet"), ("b", "test_efficientnet")):
        config = DetectorConfig(arch=arch, findings=("no_finding", "pleural_effusion"), image_size=32)
        build_detector(config, "random", seed=1).save(tmp_path / name)
    out = tmp_path / "out"
    flags = [
        "--real",
        str(adults),
        "--training",
        str(tiny_nih),
        "--count",
        "10",
        "--out",
        str(out),
    ]
    flags += ["--detector", str(tmp_path / "a"), str(tmp_path / "b"), "--extractor", "pixels"]

    def run(*checkpoints: str) -> Results:
        monkeypatch.setattr("sys.argv", ["over_training.py", *checkpoints, *flags])
        script.main()
        return Results.read(out)

    first = run(f"100={tiny_checkpoint}")
    shards = sorted(out.glob("*/*/*.tar"))
    drawn = [path.stat().st_mtime_ns for path in shards]
    found = run(f"100={tiny_checkpoint}", f"200={tiny_checkpoint}", f"3000={later}")
    assert [path.stat().st_mtime_ns for path in shards] == drawn and len(sorted(out.glob("*/*/*.tar"))) == 6
    arms = [f"{number} films seen" for number in ("100", "200", "3,000")]
    for name in script.SHOWN:
        by_arm = [[m for m in found.metrics if m.name == name and m.arm == arm] for arm in arms]
        for one, same, other in zip(*by_arm, strict=True):
            assert one.value is not None and one.low <= one.value <= one.high and one.n == 20
            assert (one.value, one.low, one.high) == (same.value, same.low, same.high), "equal noises"
            assert one in first.metrics and other.value is not None
        assert len(by_arm[0]) == (2 if name.startswith("label") else 1)
    kid = [found.find("KID", arm=arm).value for arm in arms]
    assert kid[2] != kid[0] and found.find("KID", arm=arms[0]).floor is not None
    assert {m.extractor for m in found.metrics if m.arm == "real"} == {"a", "b"}
    assert (out / "over_training.png").read_bytes()[:4] == b"\x89PNG"
    assert "| KID" in capsys.readouterr().out


def test_training_patients_among_the_real_films_are_refused(
    script: ModuleType, tiny_checkpoint: Path, tiny_nih: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--real", str(tiny_nih), "--training", str(tiny_nih), "--out", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", ["over_training.py", f"100={tiny_checkpoint}", *flags])
    with pytest.raises(DataError, match="patients are among the films of --real too"):
        script.main()
    assert not (tmp_path / "out").exists()
