"""Averages of another length, made from those that a run kept, against what every step's parameters give."""

from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from test_adaptation import RECIPE, Line

from synthaug.adaptation.averages import FOLDER, Averaging, decay, mixture, wanted, weighting
from synthaug.adaptation.loop import Training
from synthaug.errors import UserError

SLOW = RECIPE.model_copy(update={"ema": 0.95, "learning_rate": 0.01, "decay": 0.0})


def run(folder: Path, averaging: Averaging) -> Training:
    return Training(Line(), SLOW, folder, {}, Accelerator(cpu=True), averaging=averaging)


def test_weighting_is_that_of_the_loops_average() -> None:
    average, steps = np.eye(31)[0], 30
    for step in range(steps):  # the parameters after each step are a direction of their own
        stays = decay(0.9, step)
        average = stays * average + (1 - stays) * np.eye(31)[step + 1]
    np.testing.assert_allclose(weighting(0.9, steps, 30), average, atol=1e-12)
    assert weighting(0.9, 20, 30)[21:].sum() == 0 and weighting(0.9, 20, 30).sum() == pytest.approx(1)


@pytest.mark.parametrize("length, exponent", [(0.05, 16.97), (0.10, 6.94)])  # as in the paper
def test_wanted_is_the_power_function_of_that_length(length: float, exponent: float) -> None:
    steps = 20_000
    weights, time = wanted(length, steps), np.arange(steps + 1) / steps
    mean = float(weights @ time)
    assert float(np.sqrt(weights @ (time - mean) ** 2)) == pytest.approx(length, rel=1e-3)
    assert np.log(weights[-1] / weights[steps // 2]) / np.log(2) == pytest.approx(exponent, abs=0.02)


def test_a_weighting_that_is_there_is_found() -> None:
    kept = np.stack([weighting(0.97, steps, 300) for steps in range(20, 301, 20)])
    target = 0.7 * kept[4] + 0.5 * kept[9] - 0.2 * kept[12]
    found, missed = mixture(kept, target)
    assert missed < 1e-3 and found.sum() == pytest.approx(1)
    np.testing.assert_allclose(found @ kept, target, atol=1e-4)


@pytest.mark.parametrize("length", [0.06, 0.1, 0.2])
def test_an_average_made_afterwards_is_that_of_every_steps_parameters(tmp_path: Path, length: float) -> None:
    training = run(tmp_path, Averaging(keep=True))
    line = training.route.players["line"]
    path = [line.weight.detach().clone()]
    for _ in training.run(save_every=8):
        path.append(line.weight.detach().clone())
    assert len(list((tmp_path / FOLDER).iterdir())) == 25
    every = (torch.cat(path).double() * torch.from_numpy(wanted(length, 200))[:, None]).sum(0)
    made = run(tmp_path, Averaging(length=length)).averaged("line")["weight"][0].double()
    own = training.averaged("line")["weight"][0].double()
    assert (made - every).abs().max() < 0.15 * (own - every).abs().max()
    assert made.shape == every.shape


@pytest.mark.parametrize(
    "kept, length, message",
    [
        (True, 0.5, "between 0 and .28"),
        (False, 0.1, "train with --keep-averages"),
        (True, 0.001, "smaller --save-every"),
    ],
)
def test_a_length_that_cannot_be_made_says_what_to_do(
    tmp_path: Path, kept: bool, length: float, message: str
) -> None:
    list(run(tmp_path, Averaging(keep=kept)).run(save_every=100))
    with pytest.raises(UserError, match=message):
        run(tmp_path, Averaging(length=length)).averaged("line")
