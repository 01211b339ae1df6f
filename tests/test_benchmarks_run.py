"""`benchmarks/run.py`: every row runs at its smallest, and the table lands between its markers."""

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import benchmark_scripts
import pytest

from synthaug.report.curves import ARM


@pytest.fixture
def run() -> Iterator[ModuleType]:
    with benchmark_scripts.script("run") as module:
        yield module


def test_quick_runs_every_row(run: ModuleType, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(benchmark_scripts.HOME.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(benchmark_scripts.HOME / "run.py"), "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    text = (tmp_path / "RESULTS.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert "failed" not in text and [line for line in rows if "not run" in line] == [
        "| generate, GPU | not run: too long for --quick | | | | | |",
        "| adapt, GPU | not run: too long for --quick | | | | | |",
    ]
    peers = (
        "diffusers-cli",
        "diffusers pipeline",
        "train_text_to_image loop",
        "a plain loop",
        "timm's train loop",
    )
    peers += ("Pillow", "webdataset TarWriter", "webdataset, raw bytes", "webdataset, JSON parsed")
    peers += ("DataLoader + Pillow", "scipy sqrtm", "faiss flat")
    assert all(any(f"| {peer} |" in line for line in rows) for peer in peers)
    assert (tmp_path / "speed.png").read_bytes()[:4] == b"\x89PNG"


def test_the_section_is_replaced_and_the_rest_is_left(run: ModuleType, tmp_path: Path) -> None:
    results, made = tmp_path / "RESULTS.md", importlib.import_module("speed_table")
    results.write_text(f"# Results\n\nbefore\n\n{made.BEGIN}\n\nold\n\n{made.END}\n\nafter\n")
    run.write("new", results)
    assert results.read_text() == f"# Results\n\nbefore\n\n{made.BEGIN}\n\nnew\n\n{made.END}\n\nafter\n"
    results.write_text("# Results\n")
    run.write("first", results)
    run.write("second", results)
    text = results.read_text()
    assert text.count(made.BEGIN) == 1 and "second" in text and "first" not in text


def test_a_row_that_fails_is_said_and_stops_no_other(run: ModuleType, tmp_path: Path) -> None:
    def broken(given: object) -> list:
        raise ValueError("no such\nthing")

    script = importlib.import_module("fid_solve")
    ratio = run.Comparison("a", "b", "x/s", (2.0, 4.0, 3.0), (1.0, 2.0), "here")
    assert ratio.ratio == 2.0 and ratio.between == (1.0, 4.0)
    assert replace(ratio, theirs=(1.0, 2.0, 2.0)).between == (1.5, 2.0)
    given = run.arguments(["--quick", "--out", str(tmp_path)])
    compare, script.compare = script.compare, broken
    try:
        outcome = run.measure(run.Row("FID solve", "fid_solve"), given)
    finally:
        script.compare = compare
    assert outcome.failed and outcome.reason == "failed: no such thing"
    other = run.Outcome(
        "loader", (ratio,), command="run it", date="2026-11-26", load=1.25, hardware="a machine"
    )
    table = run.table([outcome, other])
    assert "| FID solve | failed: no such thing |" in table
    assert "| a | 3 (2 to 4) x/s | b | 1.5 (1 to 2) | 2.00 (1 to 4) | here | a |" in table
    assert "- a: `run it`, 2026-11-26, load 1.2 at the end" in table and "- loader: a machine" in table


def test_rows_that_are_not_run_stay(run: ModuleType, tmp_path: Path) -> None:
    asked = ["--quick", "--out", str(tmp_path), "--only", "FID solve", "--with"]
    for films in ("40", "60"):
        assert run.main([*asked, f"--films {films}"]) == 0
    assert run.main(["--quick", "--out", str(tmp_path), "--only", "PNG encode"]) == 0
    text = (tmp_path / "RESULTS.md").read_text()
    assert "| 60 + 60 films" in text and "| 40 + 40 films" not in text
    assert text.index("| PNG encode") < text.index("| FID solve") and "--with '--films 60'" in text


def test_quick_needs_a_folder(run: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run.arguments(["--quick"])
    assert "its figures say nothing" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run.arguments(["--only", "loader", "--only", "generate", "--with", "--rounds 1"])
    assert "arguments are those of one row" in capsys.readouterr().err


def test_settings_of_the_sampler_are_read_and_named(run: ModuleType) -> None:
    parsed = importlib.import_module("sampler_settings").parsed
    whole = parsed("40:8,0.1-0.8/2@other/model:1", "mine")
    assert whole[2:] == (40, 8.0, (0.1, 0.8), 2, "other/model:1")
    assert parsed("4:1@STUDENT", "mine")[2:] == (4, 1.0, None, 1, "STUDENT")
    assert parsed("20:3", "mine")[2:] == (20, 3.0, None, 1, "mine")
    for text in ("40:8,0.1-0.8/2@other", "20:3"):
        assert (found := ARM.match(parsed(text, "mine").arm)) and float(found[2]) == parsed(
            text, "mine"
        ).scale
    with pytest.raises(SystemExit, match="expected STEPS:GUIDANCE"):
        parsed("40:8,0.1", "mine")
