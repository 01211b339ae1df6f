"""A guide: a step of low rank back to earlier weights, and what guidance does with it."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from synthaug.diffusion import load_checkpoint, sample
from synthaug.diffusion.checkpoint import Checkpoint, save_as_saved
from synthaug.diffusion.guide import guide_file, load_guide, low_rank_step, write_guide
from synthaug.diffusion.sampler import embed, predict, predict_pair
from synthaug.errors import CheckpointError

PROMPTS, SEEDS = ["radiograph: pleural effusion", "radiograph: no finding"], [(0, 0), (0, 1)]
HOW = {"guidance_scale": 3.0, "num_inference_steps": 3}


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Checkpoint:
    """A copy in `tmp_path / "checkpoint"`, float32."""
    folder = save_as_saved(tmp_path / "checkpoint", load_checkpoint(tiny_checkpoint, "cpu", "float32"))
    return load_checkpoint(folder, "cpu", "float32")


def earlier(unet: torch.nn.Module) -> torch.nn.Module:
    """The same network with every layer's weight moved."""
    draws, moved = torch.Generator().manual_seed(1), copy.deepcopy(unet)
    with torch.no_grad():
        for p in moved.parameters():
            p += 0.05 * torch.randn(p.shape, generator=draws)
    return moved


def test_a_step_of_full_rank_arrives(checkpoint: Checkpoint, tmp_path: Path) -> None:
    then = earlier(checkpoint.unet)
    write_guide(tmp_path / "checkpoint", checkpoint.unet, then, rank=10_000)
    guide = load_guide(tmp_path / "checkpoint", checkpoint.unet)
    for name, layer in guide.named_modules():
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
            torch.testing.assert_close(
                layer.weight, then.get_submodule(name).weight, atol=1e-3, rtol=0, msg=name
            )


def test_a_step_of_low_rank_is_the_nearest_one(checkpoint: Checkpoint) -> None:
    then, rank = earlier(checkpoint.unet), 3
    step = low_rank_step(checkpoint.unet, then, rank)
    name = "mid_block.resnets.0.conv1"
    wanted = (then.get_submodule(name).weight - checkpoint.unet.get_submodule(name).weight).flatten(1)
    made = step[f"unet.{name}.lora_B.weight"].float().flatten(1) @ step[
        f"unet.{name}.lora_A.weight"
    ].float().flatten(1)
    values = torch.linalg.svdvals(wanted)
    assert float((wanted - made).norm()) == pytest.approx(float(values[rank:].norm()), rel=1e-3)


def test_guidance_leads_away_from_the_guide(checkpoint: Checkpoint, tmp_path: Path) -> None:
    plain = sample(checkpoint, PROMPTS, SEEDS, **HOW)
    write_guide(tmp_path / "checkpoint", checkpoint.unet, checkpoint.unet, rank=2)  # a step of nothing
    same = load_checkpoint(tmp_path / "checkpoint", "cpu", "float32")
    assert np.abs(sample(same, PROMPTS, SEEDS, **HOW).astype(int) - plain).max() <= 2
    write_guide(tmp_path / "checkpoint", checkpoint.unet, earlier(checkpoint.unet), rank=4)
    guided = load_checkpoint(tmp_path / "checkpoint", "cpu", "float32")
    assert len({checkpoint.sha256, same.sha256, guided.sha256}) == 3
    latents, time = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor(500)
    text, negative = embed(guided, PROMPTS), embed(guided, ["", ""])
    away, toward = predict_pair(guided, latents, time, negative, text)
    assert torch.equal(toward, predict(checkpoint, latents, time, text))
    torch.testing.assert_close(away, guided.guide(latents, time, negative).sample)
    assert not torch.allclose(away, checkpoint.unet(latents, time, negative).sample, atol=1e-3)
    assert (sample(guided, PROMPTS, SEEDS, **HOW) != plain).any()
    # Without guidance, and where the numbers of diffusers' pipeline are asked for, there is no guide.
    off = {**HOW, "guidance_scale": 1.0}
    assert (sample(guided, PROMPTS, SEEDS, **off) == sample(checkpoint, PROMPTS, SEEDS, **off)).all()
    exact = {**HOW, "exact": True}
    assert (sample(guided, PROMPTS, SEEDS, **exact) == sample(checkpoint, PROMPTS, SEEDS, **exact)).all()


def test_a_checkpoint_with_other_weights_has_not_the_old_guide(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoint"
    write_guide(folder, checkpoint.unet, earlier(checkpoint.unet), rank=1)
    guided = load_checkpoint(folder, "cpu", "float32")
    assert guided.guide is not None
    save_as_saved(folder, replace(guided, unet=earlier(guided.unet)))
    assert load_checkpoint(folder, "cpu", "float32").guide is None


def test_a_guide_of_another_network_is_named(checkpoint: Checkpoint, tmp_path: Path) -> None:
    other = torch.nn.Module()
    other.add_module("stranger", torch.nn.Linear(3, 3))
    write_guide(tmp_path / "checkpoint", other, copy.deepcopy(other), rank=1)
    with pytest.raises(CheckpointError, match=r"guide.*stranger"):
        load_checkpoint(tmp_path / "checkpoint", "cpu")
    guide_file(tmp_path / "checkpoint").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(tmp_path / "checkpoint", "cpu")
