"""`--quality fast`: a checkpoint's few-step variant is found, recorded and refused where it does not belong."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_checkpoint import build, tiny_card

from synthaug import cli
from synthaug.datasets import SyntheticRadiographs
from synthaug.diffusion import load_checkpoint, resolve
from synthaug.diffusion.card import Base
from synthaug.diffusion.sources import of_quality
from synthaug.errors import CheckpointError, UnknownNameError

LAYER = "mid_block.resnets.0.conv1"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A checkpoint with a few-step variant: an adapter that changes one layer."""
    folder = build(tmp_path / "tiny")
    base = load_checkpoint(folder, "cpu", "float32")
    out, into, *edge = base.unet.get_submodule(LAYER).weight.shape
    fast = folder / "fast"
    fast.mkdir()
    factors = {"A": torch.ones((1, into, *edge)), "B": torch.full((out, 1, 1, 1), 0.01)}
    save_file(
        {f"unet.{LAYER}.lora_{side}.weight": value for side, value in factors.items()},
        fast / "pytorch_lora_weights.safetensors",
    )
    facts = {"route": "distill", "guidance_scale": 1.0, "guidance_interval": (0.0, 1.0)}
    facts |= {"num_inference_steps": 2, "scheduler": "ddim"}
    card = tiny_card(**facts, base=Base(name="tiny", sha256=base.sha256))
    (fast / "synthaug.json").write_text(json.dumps(card.to_json()))
    return folder


def test_the_variant_is_loaded_onto_the_checkpoint_around_it(home: Path) -> None:
    best, fast = load_checkpoint(home, "cpu"), load_checkpoint(of_quality(home, "fast"), "cpu")
    assert (best.name, fast.name) == ("tiny", "tiny/fast") and best.sha256 != fast.sha256
    assert (resolve(fast).num_inference_steps, resolve(fast).guidance_scale) == (2, 1.0)
    assert resolve(best).num_inference_steps == 4
    best, fast = (load_checkpoint(of_quality(home, name), "cpu", "float32") for name in ("best", "fast"))
    change = fast.unet.get_submodule(LAYER).weight - best.unet.get_submodule(LAYER).weight
    torch.testing.assert_close(change, torch.full_like(change, 0.01), atol=1e-6, rtol=0)
    # The variant's own folder opens too, and is its own few-step variant.
    assert of_quality(home / "fast", "fast") == home / "fast"
    assert load_checkpoint(home / "fast", "cpu").sha256 == fast.sha256


def test_what_the_flag_chose_is_recorded(home: Path, tmp_path: Path) -> None:
    command = ["generate", "--model", str(home), "--label", "no_finding", "--count", "2", "--device", "cpu"]
    assert cli.main([*command, "--quality", "fast", "--out", str(tmp_path / "fast")]) == 0
    recipe = (tmp_path / "fast" / "recipe.yaml").read_text()
    for line in ("num_inference_steps: 2", "guidance_scale: 1.0", "scheduler: ddim", "name: tiny/fast"):
        assert line in recipe
    assert cli.main([*command, "--out", str(tmp_path / "fast")]) == 2  # another recipe for the same folder
    assert cli.main([*command, "--quality", "fast", "--out", str(tmp_path / "fast")]) == 0


def test_a_checkpoint_without_a_variant_says_how_to_make_one(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CheckpointError, match=r"no few-step variant .*--recipe distill"):
        of_quality(tiny_checkpoint, "fast")
    with pytest.raises(UnknownNameError, match="did you mean 'fast'"):
        of_quality(tiny_checkpoint, "fasst")
    command = ["generate", "--model", str(tiny_checkpoint), "--label", "no_finding", "--quality", "fast"]
    assert cli.main([*command, "--out", str(tmp_path / "o")]) == 2
    assert "--quality fast" in capsys.readouterr().err and not (tmp_path / "o").exists()


def test_a_variant_of_other_weights_is_refused(home: Path) -> None:
    card = json.loads((home / "fast" / "synthaug.json").read_text())
    card["base"]["sha256"] = "0" * 64
    (home / "fast" / "synthaug.json").write_text(json.dumps(card))
    load_checkpoint(home, "cpu")
    with pytest.raises(CheckpointError, match="was trained on a base with SHA-256"):
        load_checkpoint(of_quality(home, "fast"), "cpu")


def test_a_recipe_keeps_features_and_says_so(tiny_checkpoint: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "plan: [{labels: {no_finding: 1}, count: 1}]\nnum_inference_steps: 4\nfeature_interval: 2\n"
    )
    drawn = {}
    for name, text in (
        ("kept", recipe.read_text()),
        ("plain", recipe.read_text().replace("val: 2", "val: 1")),
    ):
        recipe.write_text(text)
        command = ["generate", "--model", str(tiny_checkpoint), "--recipe", str(recipe), "--device", "cpu"]
        assert cli.main([*command, "--out", str(tmp_path / name)]) == 0
        films = SyntheticRadiographs(tmp_path / name)
        assert films.records[0].provenance["feature_interval"] == (2 if name == "kept" else 1)
        drawn[name] = films.images_array(32)
    assert (drawn["kept"] != drawn["plain"]).any()
