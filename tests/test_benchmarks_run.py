"""`benchmarks/run.py`: every row runs at its smallest, and the table lands between its markers."""

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

HOME = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module, whose siblings are found as they are when it runs as a script."""
    monkeypatch.syspath_prepend(HOME)
    before = set(sys.modules)
    yield importlib.import_module("run")
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == HOME:
            del sys.modules[name]


def test_quick_runs_every_row(run: ModuleType, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(HOME.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HOME / "run.py"), "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    text = (tmp_path / "RESULTS.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert "failed" not in text and [line for line in rows if "not run" in line] == [
        "| generate, GPU | not run: too long for --quick | | | | |",
        "| adapt, GPU | not run: too long for --quick | | | | |",
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
    results = tmp_path / "RESULTS.md"
    results.write_text(f"# Results\n\nbefore\n\n{run.BEGIN}\n\nold\n\n{run.END}\n\nafter\n")
    run.write("new", results)
    assert results.read_text() == f"# Results\n\nbefore\n\n{run.BEGIN}\n\nnew\n\n{run.END}\n\nafter\n"
    results.write_text("# Results\n")
    run.write("first", results)
    run.write("second", results)
    text = results.read_text()
    assert text.count(run.BEGIN) == 1 and "second" in text and "first" not in text


def test_a_row_that_fails_is_said_and_stops_no_other(run: ModuleType, tmp_path: Path) -> None:
    def broken(given: object) -> list:
        raise ValueError("no such\nthing")

    script = importlib.import_module("fid_solve")
    ratio = run.Comparison("a", "b", "x/s", (2.0, 4.0, 3.0), (1.0, 2.0), "here")
    assert ratio.ratio == 2.0
    given = run.arguments(["--quick", "--out", str(tmp_path)])
    compare, script.compare = script.compare, broken
    try:
        outcome = run.measure(run.Row("FID solve", "fid_solve"), given)
    finally:
        script.compare = compare
    assert outcome.failed and outcome.reason == "failed: no such thing"
    table = run.table([outcome, run.Outcome(run.ROWS[0], (ratio,))], "command")
    assert "| FID solve | failed: no such thing |" in table
    assert "| a | 3 (2 to 4) x/s | b | 1.5 (1 to 2) | 2.00 | here |" in table


def test_quick_needs_a_folder(run: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run.arguments(["--quick"])
    assert "its figures say nothing" in capsys.readouterr().err
