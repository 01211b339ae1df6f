"""Dropout of the U-Net: in the steps of a training, and in nothing else."""

from dataclasses import replace
from pathlib import Path

import pytest
from adaptations import CPU

from synthaug.adaptation.adapt import adapt
from synthaug.adaptation.routes import load_recipe
from synthaug.datasets import RealRadiographs


def figures(tiny_nih: Path, model: Path, out: Path, dropout: float, checkpointing: bool = False) -> dict:
    """Training and validation losses of two steps that hardly move a weight."""
    training = {"training.dropout": dropout, "training.learning_rate": 1e-12, "training.steps": 2}
    recipe = load_recipe("unet_smoke", training)
    how = replace(CPU, checkpointing=checkpointing, save_every=1)
    steps = list(adapt(recipe, [RealRadiographs(tiny_nih)], out, model=str(model), execution=how))
    return {name: [step.record.figures[f"unet/{name}"] for step in steps] for name in ("loss", "validation")}


def test_films_are_learnt_with_dropout_and_validated_without(
    tiny_nih: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    whole = figures(tiny_nih, tiny_checkpoint, tmp_path / "whole", 0.0)
    dropped = figures(tiny_nih, tiny_checkpoint, tmp_path / "dropped", 0.5)
    again = figures(tiny_nih, tiny_checkpoint, tmp_path / "again", 0.5)
    assert dropped == again  # masks depend on the step
    assert dropped["validation"] == pytest.approx(whole["validation"], rel=1e-5)
    assert all(abs(a - b) > 1e-3 for a, b in zip(dropped["loss"], whole["loss"], strict=True))


def test_what_is_computed_again_drops_the_same(tiny_nih: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    kept = figures(tiny_nih, tiny_checkpoint, tmp_path / "kept", 0.5)
    assert figures(tiny_nih, tiny_checkpoint, tmp_path / "again", 0.5, checkpointing=True) == kept
