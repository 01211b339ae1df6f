"""The utility study from end to end: cells, resume, figures, cost, and the command."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from benchmark_samples import FINDING, TINY

from synthaug import cli
from synthaug.benchmark import trained
from synthaug.benchmark.arms import stages
from synthaug.benchmark.conclude import conclude, figures, verdict
from synthaug.benchmark.cost import costs, in_words
from synthaug.benchmark.folder import read_scores
from synthaug.benchmark.frozen import Score
from synthaug.benchmark.material import gather, real_parts
from synthaug.benchmark.medmnist import joined, open_medmnist
from synthaug.benchmark.study import (
    STRONG,
    Grid,
    StudyRecipe,
    lay_out,
    open_study,
    run_study,
)
from synthaug.benchmark.toy import toy_films, toy_material
from synthaug.errors import DataError, NotInstalledError, OutputFolderError, RecipeError
from synthaug.evaluation.results import Results


def test_the_demonstration_says_what_it_is_and_resumes_cell_by_cell(tmp_path: Path) -> None:
    study = open_study(recipe=TINY)
    notes = [step.note for step in run_study(study, tmp_path)]
    results = conclude(study, tmp_path)
    names = {cell.name for cell in study.cells}
    assert {p.stem for p in (tmp_path / "cells").glob("*.json")} == names and names <= set(notes)
    assert "no evidence" in results.protocol and "no evidence" in (tmp_path / "results.md").read_text()
    first = (tmp_path / "results.json").read_bytes()
    for name in ("full-pretrained-5-1", "frozen-real-5-0"):
        (tmp_path / "cells" / f"{name}.json").unlink()
    for path in (tmp_path / "detectors" / "full-pretrained-5-1").glob("*.json"):
        path.unlink()
    again = [
        step for step in run_study(open_study(recipe=TINY), tmp_path) if "there already" not in step.note
    ]
    assert {step.note.split(":")[0] for step in again} == {
        "features",
        "full-pretrained-5-1",
        "frozen-real-5-0",
    }
    conclude(study, tmp_path)
    assert (tmp_path / "results.json").read_bytes() == first
    assert Results.read(tmp_path).settings["starts"] == sorted(
        {s.note for c, s in read_scores(study, tmp_path).items() if c.depth == "full"}
    )


def test_cells_of_a_draw_start_alike_and_take_the_same_steps(tmp_path: Path) -> None:
    recipe = TINY.model_copy(
        update={"frozen": None, "seeds": (0,), "full": Grid(arms=("real", "real+100%"), sizes=(5,))}
    )
    list(run_study(open_study(recipe=recipe), tmp_path))
    facts = [json.loads(p.read_text())["training"] for p in (tmp_path / "detectors").glob("*/config.json")]
    assert len(facts) == 2 and facts[0]["recipe"] == facts[1]["recipe"]
    plan = stages("pretrained", 5, 0, toy_films(20, 16, FINDING, 0), toy_films(20, 16, FINDING, 1))
    halves = trained.cell_recipes("pretrained", plan, TINY.train.model_copy(update={"steps": 7}), STRONG)
    assert [half.steps for half in halves] == [3, 4]
    (strong,) = trained.cell_recipes("augmented", plan[:1], TINY.train, STRONG)
    assert strong.augmentation == STRONG and strong.steps == TINY.train.steps


def test_a_folder_of_another_study_is_refused_and_a_study_may_grow(tmp_path: Path) -> None:
    small = TINY.model_copy(update={"full": None, "seeds": (0,), "frozen": Grid(arms=("real",), sizes=(5,))})
    list(run_study(open_study(recipe=small), tmp_path))
    grown = small.model_copy(update={"seeds": (0, 1)})
    assert sum("already" in step.note for step in run_study(open_study(recipe=grown), tmp_path)) == 1
    with pytest.raises(OutputFolderError, match=r"recipe\.strengths"):
        list(run_study(open_study(recipe=small.model_copy(update={"strengths": (0.5,)})), tmp_path))
    with pytest.raises(OutputFolderError, match=r"films\.frozen\.training"):
        changed = toy_material(FINDING, 32)
        changed = replace(changed, training=changed.training.subset(range(40)))
        list(run_study(lay_out(small, {"frozen": changed}), tmp_path))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("words")
    with pytest.raises(OutputFolderError, match="holds no study"):
        list(run_study(open_study(recipe=small), tmp_path / "other"))


def test_figures_pair_arms_and_choose_on_validation_alone() -> None:
    recipe = TINY.model_copy(
        update={
            "full": None,
            "seeds": (0, 1, 2),
            "frozen": Grid(arms=("real", "synthetic", "real+100%", "duplicated"), sizes=(5,)),
        }
    )
    study = lay_out(recipe, {"frozen": toy_material(FINDING, 16)})
    rng = np.random.default_rng(0)
    judge, validation = (study.material["frozen"].sides()[s].labels[:, 0] for s in ("judge", "validation"))
    poor, noise = rng.normal(0, 1, len(judge)), rng.normal(0, 0.01, (4, 3, len(judge)))
    scores = {}
    for cell in study.cells:
        place = ("real", "synthetic", "real+100%", "duplicated").index(cell.arm)
        base = judge + rng.normal(0, 0.3, len(judge)) if cell.arm == "real+100%" else poor
        seen = validation if cell.arm == "synthetic" else rng.normal(0, 1, len(validation))
        scores[cell] = Score(0.5, seen + 0.0, base + noise[place, cell.seed])
    results = figures(study, scores)
    curve = {point["arm"]: point for point in results.settings["curve"]}
    assert curve["real+100%"]["difference_low"] > 0.2 and curve["real+100%"]["p_holm"] < 0.01
    assert abs(curve["duplicated"]["difference"]) < 0.02
    assert results.settings["family"] == 3 and results.settings["chosen"][0]["arm"] == "synthetic"
    said = verdict(results)
    assert "real+100% helps by +0." in said and "duplicated no difference shown" in said
    assert "this design could have shown" in said
    gap = results.find("AUROC difference", arm="real+100%, 5 real films a label - real")
    assert gap.value == pytest.approx(curve["real+100%"]["difference"])
    assert results.settings["films"]["frozen"]["judge"] == {"present": 60, "absent": 60, "patients": 120}


def test_sizes_beyond_the_films_are_reasons_and_none_at_all_is_an_error() -> None:
    recipe = TINY.model_copy(update={"full": None, "frozen": Grid(arms=("real",), sizes=(5, 250))})
    study = lay_out(recipe, {"frozen": toy_material(FINDING, 16)})
    assert study.reasons == {
        ("frozen", "real", 250): "needs 250 real training films of pleural_effusion, found 24"
    }
    with pytest.raises(DataError, match="no size can be run: needs 250"):
        lay_out(
            recipe.model_copy(update={"frozen": Grid(sizes=(250,))}), {"frozen": toy_material(FINDING, 16)}
        )


def test_the_cost_counts_only_what_is_left(tmp_path: Path) -> None:
    study = open_study(recipe=TINY)
    before = {cost.depth: cost for cost in costs(study, tmp_path)}
    assert before["frozen"].cells == 4 * 2 * 2 - 2 and before["full"].cells == 4
    assert all(cost.seconds > 0 for cost in before.values())
    (tmp_path / "cells").mkdir()
    for cell in study.cells:
        (tmp_path / "cells" / f"{cell.name}.json").write_text("{}")
    after = costs(study, tmp_path)
    assert [cost.seconds for cost in after] == [0, 0] and "4 there already" in in_words(after)


def test_utility_needs_real_films() -> None:
    with pytest.raises(DataError, match="--real"):
        open_study(synthetic=[toy_films(4, 16, "edema", 0)])
    with pytest.raises(DataError, match="demonstration"):
        open_study(recipe=StudyRecipe())
    with pytest.raises(RecipeError, match="without a grid"):
        open_study(recipe=TINY.model_copy(update={"frozen": None, "full": None}))


def test_the_command_rehearses_prints_its_cost_and_ends_in_a_verdict(
    tiny_nih: Path, tiny_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [
        "--real",
        str(tiny_nih),
        "--synthetic",
        str(tiny_shards),
        "--extractor",
        "random:test_resnet",
        "--seeds",
        "2",
    ]
    flags += [
        "--arms",
        "real",
        "real+100%",
        "--sizes",
        "2",
        "--set",
        "image_size=32",
        "--out",
        str(tmp_path / "study"),
    ]
    assert cli.main(["benchmark", *flags, "--dry-run"]) == 0
    assert "frozen: 4 cells to train" in capsys.readouterr().out and not (tmp_path / "study").exists()
    assert cli.main(["benchmark", *flags]) == 0
    spoken = capsys.readouterr()
    assert (
        "frozen, 2 real films a label: real+100%" in spoken.out and "the test part was opened" in spoken.err
    )
    command = f"synthaug benchmark --real {tiny_nih.name} --synthetic tiny-shards --arms real real+100% --sizes 2 --seeds 2"
    repeated = Results.read(tmp_path / "study").settings["command"]
    assert repeated == f"{command} --extractor random:test_resnet --set image_size=32"
    assert repeated in (tmp_path / "study" / "report.html").read_text()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--sizes", "1"], "--sizes 1: expected"),
        (["--arms", "real+100"], "did you mean 'real+100%'"),
        (["--real", "medmnist:breastmnist"], "unknown MedMNIST set 'breastmnist'"),
        (["--depth", "half"], "--depth"),
        (["--set", "judge=train"], "judge"),
    ],
)
def test_a_mistake_in_the_command_is_named(
    flags: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["benchmark", *flags, "--out", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_chestmnist_comes_through_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "medmnist", None)
    with pytest.raises(NotInstalledError, match=r"synthaug\[medmnist\]"):
        open_medmnist("medmnist:chestmnist")

    class ChestMNIST:
        """The attributes of the package's class of that name: images, labels and what their columns are."""

        def __init__(self, split: str, download: bool, size: int) -> None:
            rng = np.random.default_rng(len(split))
            self.imgs = rng.integers(0, 256, (30, size, size), dtype=np.uint8)
            self.labels = np.stack([np.arange(30) % 2, np.zeros(30)], 1)
            self.info = {"label": {"0": "effusion", "1": "mass"}}

    monkeypatch.setitem(sys.modules, "medmnist", SimpleNamespace(ChestMNIST=ChestMNIST))
    real = open_medmnist("medmnist:chestmnist", 28)
    assert real.findings == ("no_finding", "pleural_effusion", "mass") and len(real) == 90
    assert real.column(FINDING).sum() == 45 and real.column("no_finding").sum() == 45
    parts, notes = real_parts(real)
    assert {part: len(films) for part, films in parts.items()} == {"train": 24, "validation": 6, "judge": 30}
    assert "patients unknown" in notes[-1]
    material = gather(real, None, None, FINDING, 32, "crop", "transfer")
    assert material.judge.images.shape == (30, 1, 32, 32)
    assert joined({"test": ChestMNIST("test", True, 28)}).keys[0] == "test-000000"
