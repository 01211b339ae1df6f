"""`synthaug plan`: counts against the table that the films were drawn from, advice against hand-made curves."""

import json
from pathlib import Path

import numpy as np
import pytest

from synthaug import cli
from synthaug.benchmark.planning import Count, Rate, advise, by_study, count, in_words
from synthaug.datasets import RealRadiographs
from synthaug.errors import DataError
from synthaug.evaluation.results import Results

RATE = Rate(seconds=2.0, bytes=40_000, findings=("pleural_effusion",), generator="drawn")


def study(**changes: object) -> Results:
    """A learning curve of three sizes; at 50 films a label, +200 % helped."""
    curve = []
    for size in (10, 50, 100):
        base = {"depth": "frozen", "size": size, "draws": 5}
        curve.append({**base, "arm": "real", "present": size, "absent": size})
        for arm, times, gain in (("real+100%", 2, 0.02), ("real+200%", 3, 0.05), ("generator_films", 9, 0.4)):
            found = {"difference": gain, "difference_low": gain - 0.01, "difference_high": gain + 0.01}
            p = 0.01 if size == 50 else 0.6
            curve.append(
                {**base, "arm": arm, "present": size * times, "absent": size * times, "p_holm": p, **found}
            )
    recipe = {"finding": "pleural_effusion", "judge": "test", "claim": "transfer", **changes}
    return Results(
        kind="benchmark", protocol="drawn", settings={"recipe": recipe, "curve": curve}, metrics=[]
    )


def test_counts_are_those_of_the_table(tiny_nih: Path) -> None:
    """Patients 6-10 of twelve have an effusion, two films each: one PA, one AP; ages 25 + 5 x patient; F when even."""
    found = {(c.finding, c.subgroup): c for c in count(RealRadiographs(tiny_nih), ["pleural_effusion"])}
    assert {name: (c.present, c.absent) for (_, name), c in found.items()} == {
        "": (10, 14),
        "view PA": (5, 7),
        "view AP": (5, 7),
        "sex F": (6, 6),
        "sex M": (4, 8),
        "age 0-17": (0, 2),
        "age 18-39": (0, 4),
        "age 40-59": (2, 6),
        "age 60-79": (8, 0),
        "age 80+": (0, 2),
    }
    every = count(RealRadiographs(tiny_nih))
    assert {c.finding for c in every} == {"no_finding", "atelectasis", "cardiomegaly", "pleural_effusion"}
    assert {c.part for c in every} == {"all"}


def test_without_a_study_the_advice_is_a_rule_that_says_so() -> None:
    counts = [
        Count("no_finding", "detector", "", 40, 60, 0),
        Count("edema", "detector", "", 100, 60, 0),
        Count("edema", "detector", "view AP", 80, 60, 0),
        Count("edema", "detector", "view PA", 20, 60, 0),
        Count("mass", "detector", "", 400, 60, 0),
        Count("edema", "test", "", 3, 60, 0),
    ]
    found = advise(counts, RATE)
    assert [(a.finding, a.subgroup, a.present) for a in found] == [
        ("edema", "", 150),
        ("edema", "view PA", 30),
    ]
    assert all("no evidence" in a.why and not a.drawable for a in found)
    assert found[0].seconds == 300 * 2.0 and found[0].megabytes == pytest.approx(300 * 0.04)
    assert "not by drawn" in in_words(counts, found, RATE)


def test_with_a_study_the_learning_curve_says_how_many() -> None:
    assert by_study(study(), 60) == (
        (100, 100),
        "study, at 50 films with the finding (frozen): real+200% helped by +0.050 AUROC [0.040, 0.060]",
    )
    added, why = by_study(study(judge="validation"), 400)
    assert added == (0, 0) and why.endswith(
        "no arm with synthetic films was shown to help; judged on validation"
    )
    assert "no evidence" in by_study(study(claim="demonstration"), 60)[1]
    bare = study()
    bare.settings["curve"][:] = [point for point in bare.settings["curve"] if point["arm"] == "real"]
    assert by_study(bare, 60)[1].endswith("the study has no arm with synthetic films")
    counts = [Count("edema", "train", "", 10, 90, 0), Count("pleural_effusion", "train", "", 45, 90, 0)]
    first, second = advise(counts, RATE, study())
    assert (first.finding, first.present, first.drawable) == ("pleural_effusion", 100, True)
    assert "rule" in second.why
    other = study().model_copy(update={"kind": "evaluate"})
    with pytest.raises(DataError, match="expected those of `synthaug benchmark`"):
        advise(counts, RATE, other)


def test_the_command_speaks_json_and_words(
    tiny_nih: Path, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study().write(tmp_path)
    flags = ["plan", "--real", str(tiny_nih), "--model", str(tiny_checkpoint), "--device", "cpu"]
    assert cli.main([*flags, "--study", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "no arm with synthetic films was shown to help" in said and "Measure before believing" in said
    assert cli.main([*flags, "--json", "--films-per-second", "4"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["rate"]["seconds"] == 0.25 and value["rate"]["generator"] == "tiny"
    effusion = next(a for a in value["advice"] if a["finding"] == "pleural_effusion")
    assert effusion["present"] == 240 and effusion["drawable"] and np.isclose(effusion["seconds"], 480 / 4)
    assert cli.main([*flags, "--films-per-second", "0"]) == 2
    assert "--films-per-second 0" in capsys.readouterr().err
    assert cli.main([*flags, "--study", str(tiny_nih)]) == 2
