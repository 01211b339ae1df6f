"""What a run leaves: hashes of patients, the card, studies, runs side by side."""

import hashlib
import hmac
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from synthaug import cli
from synthaug.adaptation import patients
from synthaug.adaptation.adapt import adapt
from synthaug.adaptation.route import Execution
from synthaug.adaptation.routes import load_recipe
from synthaug.datasets import RealRadiographs
from synthaug.diffusion import load_checkpoint
from synthaug.errors import (
    DataError,
    UserError,
)
from synthaug.evaluation.results import Metric, Results

# Patients -----------------------------------------------------------------------------------------------------


def test_hashes_of_patients_are_hmac_and_need_the_key(
    tiny_nih: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    key = patients.read_key(tmp_path / "key")
    assert len(key) == 32 and (tmp_path / "key").stat().st_mode & 0o077 == 0
    assert patients.read_key(tmp_path / "key") == key
    recipe = load_recipe("unet_smoke", {"validation": 0.0, "per_finding": None})
    how = Execution(device="cpu", precision="float32", max_steps=1)
    data = RealRadiographs(tiny_nih)
    list(
        adapt(
            recipe,
            [data],
            tmp_path / "o",
            model=str(tiny_checkpoint),
            patient_key=tmp_path / "key",
            execution=how,
        )
    )
    path = tmp_path / "o" / "training_patients.json"
    stored = json.loads(path.read_text())
    known = {r.patient for r in data.records if r.age is not None and r.age >= 18}
    expected = {hmac.new(key, f"patient:{p}".encode(), hashlib.sha256).hexdigest() for p in known}
    assert set(stored["hashes"]) == expected and stored["patients"] == 11
    assert not any(f'"{p}"' in path.read_text() for p in known)
    # The child was left out, so the guard does not know it.
    assert [
        data.records[i].age for i in range(24) if i not in patients.trained_on(path, key, data.records)
    ] == [10, 10]
    with pytest.raises(DataError, match="another key"):
        patients.trained_on(path, b"x" * 32, data.records)
    (tmp_path / "short").write_bytes(b"secret")
    with pytest.raises(UserError, match="holds 6 bytes"):
        patients.read_key(tmp_path / "short")


def test_the_card_says_what_was_trained_on_what(
    tiny_nih: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    recipe = load_recipe("unet_smoke", {"validation": 0.0, "per_finding": None})
    how = Execution(device="cpu", precision="float32", max_steps=1)
    list(
        adapt(recipe, [RealRadiographs(tiny_nih)], tmp_path / "o", model=str(tiny_checkpoint), execution=how)
    )
    text = (tmp_path / "o" / "README.md").read_text()
    base = load_checkpoint(tiny_checkpoint, "cpu")
    for line in (
        "| films with no finding | 10 |",
        "| films with pleural effusion | 10 |",
        "| patients | 11 |",
        f"| recipe digest | {recipe.digest()} |",
        f"| base sha256 | {base.sha256} |",
        "| settings training steps | 8 |",
    ):
        assert line in text
    assert str(tmp_path) not in text and str(tiny_nih) not in text


# Studies and runs compared ------------------------------------------------------------------------------------------------


def test_a_study_trains_nothing_and_writes_results(
    tiny_nih: Path, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "adapt",
        "--study",
        "--model",
        str(tiny_checkpoint),
        "--data",
        str(tiny_nih),
        "--device",
        "cpu",
    ]
    assert cli.main([*command, "--recipe", "vae_smoke", "--out", str(tmp_path / "study")]) == 0
    results = Results.read(tmp_path / "study")
    assert {(m.subgroup, m.n) for m in results.metrics} == {("PA", 11), ("AP", 11)}
    assert all(
        m.value is None and m.reason == f"11 real {m.subgroup} films; 16 are needed" for m in results.metrics
    )
    assert [path.name for path in (tmp_path / "study").iterdir()] == ["results.json"]
    capsys.readouterr()
    assert cli.main([*command, "--recipe", "unet_smoke"]) == 2
    assert "belongs to the route vae" in capsys.readouterr().err


def test_runs_side_by_side(tiny_nih: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    from synthaug.adaptation import runs

    how = Execution(device="cpu", precision="float32", max_steps=4, save_every=2)
    for route in ("unet", "lora"):
        out = tmp_path / route
        list(
            adapt(
                load_recipe(f"{route}_smoke"),
                [RealRadiographs(tiny_nih)],
                out,
                model=str(tiny_checkpoint),
                execution=how,
            )
        )
    rows = [runs.row(tmp_path / route) for route in ("unet", "lora")]
    # The same call on a finished run does nothing, and its rate and memory stay what they were.
    data, recipe = [RealRadiographs(tiny_nih)], load_recipe("lora_smoke")
    again = adapt(recipe, data, tmp_path / "lora", model=str(tiny_checkpoint), execution=how)
    assert list(again) == [] and runs.row(tmp_path / "lora") == rows[1]
    assert [row["route"] for row in rows] == ["unet", "lora"] and all(row["steps"] == 4 for row in rows)
    assert (
        0
        < rows[1]["trained"]
        < rows[0]["trained"]
        == sum(p.numel() for p in load_checkpoint(tiny_checkpoint, "cpu").unet.parameters())
    )
    log = runs.read_log(tmp_path / "unet")
    assert rows[0]["loss last"] == pytest.approx(np.mean([line["unet/loss"] for line in log]))
    assert rows[0]["validation last"] == log[-1]["unet/validation"] and rows[0]["films/s"] > 0
    # A kill repeats steps and may leave half a line: the last whole one of each step counts.
    with open(tmp_path / "unet" / "training" / "log.jsonl", "a") as file:
        file.write(json.dumps(log[-1] | {"unet/loss": 9.0}) + "\n" + '{"part": "un')
    assert [line["unet/loss"] for line in runs.read_log(tmp_path / "unet")][-1] == 9.0
    table = runs.compare([tmp_path / "unet", tmp_path / "lora"]).splitlines()
    assert len(table) == 3 and table[0].split()[:2] == ["run", "route"] and "films/s" in table[0]
    facts = {"finding": "pleural_effusion", "low": 0.5, "high": 0.75}
    metrics = [
        Metric(name="label accuracy", arm="real", value=0.9, **facts),
        Metric(name="label accuracy", arm="synthetic", subgroup="PA", value=0.8, **facts),
        Metric(name="label accuracy", arm="synthetic", value=0.625, **facts),
        Metric(name="KID", arm="synthetic", reason="too few"),
    ]
    Results(kind="evaluate", protocol="p", settings={}, metrics=metrics).write(
        tmp_path / "lora" / "evaluation"
    )
    measured = [runs.row(tmp_path / route) for route in ("unet", "lora")]
    assert [row["label accuracy"] for row in measured] == [None, "0.625 (0.500 to 0.750)"]
    assert measured[1]["KID"] is None
    (tmp_path / "unet" / "evaluation").mkdir()
    (tmp_path / "unet" / "evaluation" / "results.json").write_text("{}")
    with pytest.raises(DataError, match="not what `synthaug evaluate` writes"):
        runs.row(tmp_path / "unet")
    (tmp_path / "unet" / "evaluation" / "results.json").unlink()
    runs.draw([tmp_path / "unet", tmp_path / "lora"], tmp_path / "losses.png")
    with Image.open(tmp_path / "losses.png") as picture:
        assert picture.size[0] > 500
    with pytest.raises(DataError, match="--compare"):
        runs.compare([tmp_path])
