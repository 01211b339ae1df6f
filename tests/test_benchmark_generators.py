"""Studies that draw their own synthetic films: a ready generator, or one adapted inside each arm."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_checkpoint import build, tiny_card

from synthaug import cli
from synthaug.benchmark.drawing import arms_films, open_generator, planned
from synthaug.benchmark.material import real_parts
from synthaug.benchmark.study import Grid, StudyRecipe, open_study
from synthaug.datasets import RealRadiographs
from synthaug.errors import DataError, RecipeError
from synthaug.evaluation.results import Results

torch.set_num_threads(1)
FINDING = "pneumothorax"
SMALL = [
    "--extractor",
    "random:test_resnet",
    "--set",
    "image_size=32",
    "--device",
    "cpu",
    "--finding",
    FINDING,
]
SHORT = [
    "training.steps=2",
    "training.batch_size=2",
    "augmentation.copies=1",
    "sampling={num_inference_steps: 2}",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV folder of 48 drawn films of 48 patients, every other one with the finding; train and test are its own."""
    root = tmp_path_factory.mktemp("real")
    rng = np.random.default_rng(0)
    with open(root / "labels.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "patient", "split", "view", FINDING, "no_finding"])
        for i in range(48):
            picture = rng.integers(0, 200, (32, 32), dtype=np.uint8)
            picture[:, :10] += np.uint8(50 * (i % 2))
            Image.fromarray(picture).save(root / f"film{i:02d}.png")
            split = "train" if i < 32 else "test"
            table.writerow([f"film{i:02d}.png", f"p{i}", split, "PA", i % 2, 1 - i % 2])
    return root


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that knows no_finding and pleural effusion, not the finding of the study."""
    return build(tmp_path_factory.mktemp("base") / "base")


def run(*arguments: object) -> int:
    return cli.main(["benchmark", *map(str, arguments)])


def test_a_closed_claim_adapts_inside_each_arm_and_resumes(
    folder: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--real", folder, "--model", base, "--claim", "closed", "--count", 6, "--adapt", "lora_smoke"]
    command += ["--adapt-set", *SHORT, "--arms", "real", "synthetic", "real+100%", "--sizes", 4, "--seeds", 2]
    command += [*SMALL, "--out", tmp_path / "study"]
    assert run(*command, "--dry-run") == 0
    said = capsys.readouterr().out
    assert "generators: 2 to make, 0 there" in said and not (tmp_path / "study").exists()
    assert run(*command) == 0
    study = tmp_path / "study"
    assert {p.name for p in (study / "generators").iterdir()} == {"4-0", "4-1"}
    results = Results.read(study)
    assert results.protocol.startswith("closed: ") and results.settings["recipe"]["generator"]["count"] == 6
    assert str(tmp_path) not in (study / "results.json").read_text(), "no path may be in the results"
    assert {p.stem for p in (study / "cells").iterdir()} == {
        f"frozen-{arm}-4-{seed}" for arm in ("real", "synthetic", "real+100%") for seed in (0, 1)
    }
    curve = {point["arm"]: point for point in results.settings["curve"]}
    assert (curve["synthetic"]["present"], curve["synthetic"]["absent"]) == (6, 6)
    assert (curve["real+100%"]["present"], curve["real+100%"]["absent"]) == (8, 8)
    before = {p: p.read_bytes() for p in study.rglob("*.tar")}
    assert len(before) == 4
    capsys.readouterr()
    assert run(*command) == 0 and before == {p: p.read_bytes() for p in study.rglob("*.tar")}
    assert run(*command, "--dry-run") == 0
    assert "generators: 0 to make, 2 there" in capsys.readouterr().out


def test_each_generator_learns_from_its_own_arms_films_alone(folder: Path, base: Path) -> None:
    real = RealRadiographs(folder)
    generator = open_generator(base, 6, None, {}, FINDING, "closed")
    recipe = StudyRecipe(
        finding=FINDING,
        claim="closed",
        seeds=(0, 1),
        frozen=Grid(arms=("real", "real+100%"), sizes=(3, 6, 100)),
        extractor="random:test_resnet",
        image_size=32,
        generator=generator,
    )
    arms = dict(arms_films(real, FINDING, "test", recipe.draws))
    assert list(arms) == [(3, 0), (3, 1), (6, 0), (6, 1)], "a size without films has no generator"
    study = open_study(real, planned(FINDING, 6, len(arms)), None, recipe)
    films = study.material["frozen"]
    others = real_parts(real)[0]
    forbidden = {*others["validation"].keys, *others["judge"].keys}
    for cell, plan in study.cells.items():
        used = {films.training.keys[i] for p in plan[0] if p.source == "real" for i in p.indices}
        assert used == set(arms[cell.size, cell.seed].keys) and not used & forbidden
        drawn = {films.synthetic.keys[i] for p in plan[0] if p.source == "synthetic" for i in p.indices}  # type: ignore[union-attr]
        number = list(arms).index((cell.size, cell.seed))
        assert all(key.startswith(f"planned-{number}-") for key in drawn)
        assert len(drawn) == (0 if cell.arm == "real" else 2 * int(cell.size))
    assert "needs 100 real training films" in study.reasons["frozen", "real+100%", 100]
    with pytest.raises(RecipeError, match="drop_leaks"):
        open_study(real, planned(FINDING, 6, 4), None, recipe.model_copy(update={"drop_leaks": True}))


def test_a_base_that_saw_the_finding_serves_no_closed_claim(base: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="was trained on pleural_effusion"):
        open_generator(base, 6, None, {}, "pleural_effusion", "closed")
    for name, card in (
        ("refusing", tiny_card(refused={FINDING: "not clear by eye"})),
        ("seeing", tiny_card(seen=(FINDING,))),
    ):
        with pytest.raises(DataError, match=f"was trained on {FINDING}"):
            open_generator(build(tmp_path / name, card), 6, None, {}, FINDING, "closed")
    with pytest.raises(DataError, match="adapts it inside the arms"):
        open_generator(base, 6, None, {}, FINDING, "transfer")
    assert open_generator(base, 6, "unet_few_shot", {}, FINDING, "closed").adapt == "unet_few_shot"


def test_a_ready_generator_draws_for_the_study(folder: Path, tmp_path: Path) -> None:
    model = build(tmp_path / "model", tiny_card(findings=("no_finding", FINDING), num_inference_steps=2))
    out = tmp_path / "study"
    command = ["--real", folder, "--model", model, "--count", 5, "--arms", "real", "real+100%", "mixed_0.5"]
    command += ["--sizes", 4, 100, "--seeds", 1, *SMALL, "--out", out]
    assert run(*command) == 0
    assert {p.name for p in (out / "synthetic").iterdir()} == {"present", "absent"}
    labels = json.loads((out / "results.json").read_text())["settings"]["films"]["frozen"]["synthetic"]
    assert (labels["present"], labels["absent"]) == (5, 5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--count", "5"], "--count: belongs to --model"),
        (["--model", "embedded"], "pass --real"),
        (["--real", "FOLDER", "--model", "BASE", "--synthetic", "FOLDER"], "leave out --synthetic"),
        (["--real", "FOLDER", "--model", "BASE", "--adapt", "lora_few_shot"], "only --claim closed adapts"),
    ],
)
def test_flags_that_do_not_go_together_say_so(
    folder: Path, base: Path, tmp_path: Path, arguments: list, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [{"FOLDER": str(folder), "BASE": str(base)}.get(word, word) for word in arguments]
    assert run(*given, "--out", tmp_path / "out") == 2
    assert said in capsys.readouterr().err
