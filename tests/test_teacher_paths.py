"""The paths of a teacher: where its steps are, what it leads away from, and that they follow the solution on paper."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from teacher_on_paper import SHAPE, drawn, growth

from synthaug.adaptation import teacher_paths
from synthaug.adaptation.distill import find_knots
from synthaug.diffusion import Checkpoint, load_checkpoint
from synthaug.diffusion.schedule import DECIDED, make_scheduler
from synthaug.errors import RecipeError


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint: Path) -> Checkpoint:
    return load_checkpoint(tiny_checkpoint, "cpu", "float32")


def test_the_teachers_paths_follow_the_solution_on_paper(tiny: Checkpoint, tmp_path: Path) -> None:
    knots, paths = drawn(tiny, tmp_path, share=0.0)
    assert paths.states.shape == (48, 9, *SHAPE) and not paths.begins.any()
    start = paths.states[:, 0].float()
    assert abs(float(start.std()) - 1) < 0.02
    for knot in range(1, 9):
        expected = start * growth(knots, 0, knot)
        # Half precision, and the error of the solver, mostly of its first step: 4 % with 50 steps, 1 % with 200.
        torch.testing.assert_close(paths.states[:, knot].float(), expected, atol=2e-3, rtol=0.012)


def test_the_teachers_steps_are_even_between_knots(tiny: Checkpoint) -> None:
    knots = find_knots(make_scheduler(tiny.scheduler_config, "ddim"), 4, 2)
    times = knots.between(3)
    assert times[::3] == knots.times.tolist() and len(times) == 24
    levels = [float(knots.levels[time]) for time in times]
    assert levels[1] == pytest.approx(np.log(DECIDED[0]), abs=0.05)
    assert levels[-1] == pytest.approx(np.log(DECIDED[1]), abs=0.1)
    for knot in range(1, 7):
        here, one, two, there = levels[3 * knot : 3 * knot + 4]
        assert here - one == pytest.approx(one - two, abs=0.02) and one - two == pytest.approx(
            two - there, abs=0.02
        )
    with pytest.raises(RecipeError, match="more than the timesteps between two knots"):
        knots.between(200)


def test_the_teacher_leads_away_from_what_a_text_names(
    tiny: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = tiny.card.model_copy(update={"negative_prompt": "chest radiograph[, {view} view][: {contrary}]"})
    seen: list[str] = []
    read = teacher_paths.blended
    monkeypatch.setattr(
        teacher_paths, "blended", lambda checkpoint, texts: seen.extend(texts) or read(checkpoint, texts)
    )
    _, paths = drawn(replace(tiny, card=card), tmp_path, share=0.0, steps=8)
    named = [text for text in paths.texts if "AP view" in text]
    assert 0 < len(named) < len(paths.texts) == len(seen)
    contrary = {": edema": ": no finding", ": no edema": ": edema", "": ""}
    for text, away in zip(paths.texts, seen, strict=True):
        _, colon, shown = text.partition(":")
        view = "chest radiograph, AP view" if "AP view" in text else "chest radiograph"
        assert away == view + contrary[colon + shown]
    assert {text.partition(":")[2] for text in paths.texts} == {" edema", " no edema", ""}
