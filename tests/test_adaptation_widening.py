"""A U-Net with more channels at its finest level: nearly the old function, and room to learn."""

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from tiny_unet import answer, tiny_unet

from synthaug.adaptation import widening
from synthaug.adaptation.adapt import adapt
from synthaug.adaptation.route import Execution
from synthaug.adaptation.routes import load_recipe
from synthaug.adaptation.widening import widen
from synthaug.datasets import RealRadiographs
from synthaug.diffusion import load_checkpoint, sample
from synthaug.errors import UserError


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    return tiny_unet((16, 32), (False, True)).requires_grad_(False)


def test_copies_with_silent_outputs_change_the_function_little(
    unet: UNet2DConditionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = answer(unet)
    monkeypatch.setattr(widening, "APART", 0.0)
    monkeypatch.setattr(widening, "QUIET", 0.0)
    # Twice as wide, every channel has as many copies: groups of norm see the statistics that they saw.
    exact = widen(unet, 48)
    assert exact.config.block_out_channels == (48, 32)
    still = (answer(exact) - before).std() / before.std()
    monkeypatch.undo()
    wide = widen(unet, 48)
    assert float(still) < 0.15
    assert float((answer(wide) - before).std() / before.std()) < 0.5
    other = UNet2DConditionModel.from_config(wide.config).requires_grad_(False)
    assert float((answer(other) - before).std() / before.std()) > 0.9, "the measure can tell a stranger"
    assert all(
        torch.equal(a, b) for a, b in zip(wide.parameters(), widen(unet, 48).parameters(), strict=True)
    )
    assert any(
        (a != b).any() for a, b in zip(wide.parameters(), widen(unet, 48, seed=1).parameters(), strict=True)
    )


@pytest.mark.parametrize("width", [16, 30, 32, 8])
def test_a_width_that_cannot_be_is_named(unet: UNet2DConditionModel, width: int) -> None:
    with pytest.raises(UserError, match=f"widen {width}: expected a multiple of 4"):
        widen(unet, width)


def test_a_recipe_widens_its_base_and_resumes(tiny_checkpoint: Path, tiny_nih: Path, tmp_path: Path) -> None:
    base = load_checkpoint(tiny_checkpoint, "cpu", "float32").unet.config
    width = 3 * base.block_out_channels[0]
    recipe = load_recipe("unet_text_encoder_smoke", {"widen": width})
    how = {"model": str(tiny_checkpoint)}
    for steps, out in ((3, "cut"), (8, "cut"), (8, "whole")):
        execution = Execution(device="cpu", precision="float32", save_every=3, max_steps=steps)
        list(adapt(recipe, [RealRadiographs(tiny_nih)], tmp_path / out, execution=execution, **how))
    cut, whole = (load_checkpoint(tmp_path / name, "cpu", "float32") for name in ("cut", "whole"))
    assert cut.unet.config.block_out_channels[0] == width
    assert all(torch.equal(a, b) for a, b in zip(cut.unet.parameters(), whole.unet.parameters(), strict=True))
    assert sample(cut, ["radiograph"], [(0, 0)], num_inference_steps=2).std() > 0
