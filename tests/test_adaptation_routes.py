"""Every route on drawn films: the loss falls, a kill changes nothing, the result generates."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from adapted import remembered
from safetensors import safe_open
from safetensors.torch import load_file
from tiny_checkpoint import SIZE, build

from synthaug.adaptation.adapt import adapt
from synthaug.adaptation.route import Execution, Progress
from synthaug.adaptation.routes import ROUTES, load_recipe
from synthaug.datasets import RealRadiographs
from synthaug.diffusion import load_checkpoint, sample

CPU = Execution(device="cpu", precision="float32", save_every=4)
DIFFUSION = [route for route in ROUTES if route not in ("from_scratch", "vae", "distill")]
PROMPT, SEED = ["chest radiograph: pleural effusion"], [(0, 0)]
Start = Callable[..., Iterator[Progress]]


@pytest.fixture(scope="module")
def start(tiny_nih: Path, tiny_checkpoint: Path) -> Start:
    """`start(route, out)` begins the smoke recipe of a route on the drawn films."""

    def run(route: str, out: Path, changes: dict | None = None, **how: object) -> Iterator[Progress]:
        recipe = load_recipe(f"{route}_smoke", changes)
        encoder = str(tiny_checkpoint / "text_encoder") if route == "text_projection" else None
        execution = replace(CPU, **how)
        return adapt(
            recipe,
            [RealRadiographs(tiny_nih)],
            out,
            model=str(tiny_checkpoint),
            text_encoder=encoder,
            execution=execution,
        )

    return run


@pytest.fixture(scope="module")
def made(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, list]]:
    """`made(route)` -> folder and steps of one finished run, shared by the tests of this file."""
    return remembered(start, tmp_path_factory)


@pytest.mark.parametrize("route", DIFFUSION)
def test_the_loss_on_held_out_patients_falls(made: Callable, route: str) -> None:
    _, steps = made(route)
    checks = [p.record.figures["unet/validation"] for p in steps if "unet/validation" in p.record.figures]
    assert [p.part for p in steps] == [route] * 8 and len(checks) == 2
    assert checks[1] < checks[0]


@pytest.mark.parametrize("route", [*DIFFUSION, "vae"])
def test_the_result_generates_and_is_not_the_base(made: Callable, tiny_checkpoint: Path, route: str) -> None:
    out, _ = made(route)
    base = load_checkpoint(tiny_checkpoint, "cpu", "float32")
    result = load_checkpoint(out, "cpu", "float32")
    assert result.card.route == route and result.findings == ("no_finding", "pleural_effusion")
    assert set(result.card.seen) >= {"pleural_effusion", *base.card.seen}
    assert result.card.base is not None
    assert (result.card.base.name, result.card.base.sha256) == (base.name, base.sha256)
    assert result.sha256 != base.sha256
    ours, before = sample(result, PROMPT, SEED), sample(base, PROMPT, SEED)
    assert ours.shape == (1, 1, SIZE, SIZE) and not np.array_equal(ours, before)


@pytest.mark.parametrize("route", [*DIFFUSION, "vae"])
def test_losses_after_a_kill_equal_those_without(
    start: Start, made: Callable, tmp_path: Path, route: str
) -> None:
    out, whole = made(route)
    first = start(route, tmp_path / "cut")
    for _ in range(5):  # one step beyond the last saved state
        next(first)
    first.close()
    resumed = [p.record for p in start(route, tmp_path / "cut")]
    assert resumed == [p.record for p in whole[4:]]
    for path in [*out.glob("*.safetensors"), *out.glob("unet/*.safetensors")]:
        ours, theirs = load_file(tmp_path / "cut" / path.relative_to(out)), load_file(path)
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in theirs)


def test_the_lora_file_is_the_one_that_diffusers_fuses(
    start: Start, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    list(start("lora", tmp_path / "lora", {"text_encoder": False, "validation": 0.0}))
    ours = load_checkpoint(tmp_path / "lora", "cpu", "float32").unet.state_dict()
    base = load_checkpoint(tiny_checkpoint, "cpu", "float32")
    before = {name: weight.clone() for name, weight in base.unet.state_dict().items()}
    pipeline = base.pipeline()
    pipeline.load_lora_weights(tmp_path / "lora")
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    theirs = pipeline.unet.state_dict()
    changed = [name for name in ours if not torch.equal(before[name], ours[name])]
    assert changed and all(
        name.endswith(("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight")) for name in changed
    )
    for name, weight in theirs.items():
        torch.testing.assert_close(ours[name], weight, atol=1e-6, rtol=0)


def test_the_text_encoder_gets_alpha_over_rank_times_the_product(
    made: Callable, tiny_checkpoint: Path
) -> None:
    out, _ = made("lora")
    factors = load_file(out / "pytorch_lora_weights.safetensors")
    name = "encoder.layers.1.self_attn.q_proj"
    down, up = (factors[f"text_encoder.{name}.lora_{side}.weight"].float() for side in "AB")
    before = load_checkpoint(tiny_checkpoint, "cpu", "float32").text_encoder.get_submodule(name).weight
    after = load_checkpoint(out, "cpu", "float32").text_encoder.get_submodule(name).weight
    assert up.abs().max() > 0
    torch.testing.assert_close(after, before + 8 / 4 * up @ down, atol=1e-6, rtol=0)


def test_frozen_embeddings_stay_to_the_bit_and_diffusers_reads_the_new_ones(
    made: Callable, tiny_checkpoint: Path
) -> None:
    out, _ = made("textual_inversion")
    base = load_checkpoint(tiny_checkpoint, "cpu", "float32")
    result = load_checkpoint(out, "cpu", "float32")
    before = base.text_encoder.get_input_embeddings().weight.clone()
    after = result.text_encoder.get_input_embeddings().weight
    assert torch.equal(after[: len(before)], before) and len(after) == len(before) + 3 + 2
    for name, weight in base.unet.state_dict().items():
        assert torch.equal(weight, result.unet.state_dict()[name])
    with safe_open(out / "learned_embeds.safetensors", "pt") as file:
        assert list(file.keys()) == ["<effusion>"] and file.get_tensor("<effusion>").shape == (3, 16)

    pipeline = base.pipeline()
    files = [out / "learned_embeds.safetensors", out / "learned_embeds_1.safetensors"]
    pipeline.load_textual_inversion([load_file(path) for path in files])
    prompt = "<lung-xray>, PA view: <effusion>"
    theirs = pipeline.tokenizer(pipeline.maybe_convert_prompt(prompt, pipeline.tokenizer)).input_ids
    assert theirs == result.tokenizer(result.spell(prompt)).input_ids
    assert theirs == result.tokenizer(result.spell("chest radiograph, PA view: pleural effusion")).input_ids
    assert torch.equal(pipeline.text_encoder.get_input_embeddings().weight, after)


def test_a_word_within_a_word_is_not_replaced(made: Callable) -> None:
    result = load_checkpoint(made("textual_inversion")[0], "cpu")
    assert result.spell("subpleural effusions") == "subpleural effusions"
    assert result.spell("no pleural effusion.") == "no <effusion> <effusion>_1 <effusion>_2."


def test_an_adapter_of_an_adapter_is_resolved(
    made: Callable, tiny_nih: Path, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    first, _ = made("textual_inversion")
    recipe = load_recipe("lora_smoke", {"validation": 0.0, "text_encoder": False})
    list(adapt(recipe, [RealRadiographs(tiny_nih)], tmp_path / "second", model=str(first), execution=CPU))
    second = load_checkpoint(tmp_path / "second", "cpu", "float32")
    assert second.card.tokens == load_checkpoint(first, "cpu").card.tokens
    assert "<effusion>_2" in second.spell("pleural effusion")
    layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    base = load_checkpoint(tiny_checkpoint, "cpu", "float32")
    assert not torch.equal(second.unet.get_submodule(layer).weight, base.unet.get_submodule(layer).weight)


@pytest.mark.parametrize(("prediction", "channels"), [("epsilon", 3), ("v_prediction", 3)])
def test_bases_of_both_predictions_and_three_channels(
    tiny_nih: Path, tmp_path: Path, prediction: str, channels: int
) -> None:
    base = build(tmp_path / "base", image_channels=channels, prediction_type=prediction, zero_snr=False)
    (base / "synthaug.json").unlink()  # a foreign one, as the hub has them
    (base / "README.md").write_text("---\nlicense: creativeml-openrail-m\n---\n")
    changes = {"offset_noise": 0.1, "findings": ["effusion"], "training.min_snr": 5.0}
    if prediction == "v_prediction":
        changes["zero_terminal_snr"] = True
    recipe = load_recipe("unet_smoke", changes)
    with pytest.warns(UserWarning, match="any finding is accepted"):
        steps = list(
            adapt(recipe, [RealRadiographs(tiny_nih)], tmp_path / "out", model=str(base), execution=CPU)
        )
    assert steps[-1].record.figures["unet/validation"] < steps[3].record.figures["unet/validation"]
    result = load_checkpoint(tmp_path / "out", "cpu")
    # Nobody knows what a foreign base can draw: its successor claims what it learnt.
    assert result.card.base is not None and result.card.base.license == "creativeml-openrail-m"
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlicense: creativeml-openrail-m\n")
    assert "| base license | creativeml-openrail-m |" in card
    assert result.findings == ("pleural_effusion",) and result.vae.config.in_channels == 3
    assert result.scheduler_config["rescale_betas_zero_snr"] is (prediction == "v_prediction")
    assert result.scheduler_config["prediction_type"] == prediction
    assert sample(result, PROMPT, SEED).shape == (1, 1, SIZE, SIZE)


def test_the_text_encoder_has_a_rate_of_its_own(start: Start, tmp_path: Path, tiny_checkpoint: Path) -> None:
    base = load_checkpoint(tiny_checkpoint, "cpu", "float32").text_encoder.state_dict()
    moved = []
    for rate in (1.0, 1e-3):
        out = tmp_path / str(rate)
        list(start("unet_text_encoder", out, {"text_encoder_rate": rate, "validation": 0.0}))
        after = load_checkpoint(out, "cpu", "float32").text_encoder.state_dict()
        moved.append(sum(float((after[name] - base[name]).abs().sum()) for name in base))
    assert moved[1] < moved[0] / 5  # what is left of the slow one is rounding to fp16


def test_pieces_of_a_batch_add_up_to_the_batch(start: Start, made: Callable, tmp_path: Path) -> None:
    whole = [p.record.figures["unet/loss"] for p in made("unet")[1]]
    cut = [p.record.figures["unet/loss"] for p in start("unet", tmp_path / "pieces", micro_batch=3)]
    np.testing.assert_allclose(cut, whole, rtol=1e-4)


def test_bfloat16_keeps_master_weights_in_float32(start: Start, made: Callable, tmp_path: Path) -> None:
    whole = [p.record.figures["unet/loss"] for p in made("unet")[1]]
    half = [p.record.figures["unet/loss"] for p in start("unet", tmp_path / "half", precision="bfloat16")]
    assert half != whole
    np.testing.assert_allclose(half, whole, rtol=0.05)
    with safe_open(tmp_path / "half" / "training" / "unet" / "state.safetensors", "pt") as state:
        kinds = {key: state.get_slice(key).get_dtype() for key in state.keys() if "/buffer/" not in key}  # noqa: SIM118
    assert len(kinds) > 100 and set(kinds.values()) == {"F32"}


def test_decoder_only_leaves_the_encoder_to_the_bit_and_all_does_not(
    start: Start, made: Callable, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    def encoder(folder: Path) -> dict[str, torch.Tensor]:
        return load_checkpoint(folder, "cpu", "float32").vae.encoder.state_dict()

    before, decoder_only = encoder(tiny_checkpoint), encoder(made("vae")[0])
    assert all(torch.equal(before[name], decoder_only[name]) for name in before)
    steps = list(start("vae", tmp_path / "all", {"trains": "all"}))
    assert "autoencoder/divergence" in steps[-1].record.figures
    after = encoder(tmp_path / "all")
    assert not all(torch.equal(before[name], after[name]) for name in before)
    assert "the U-Net no longer fits" in (tmp_path / "all" / "README.md").read_text()


def test_the_reconstruction_loss_falls(start: Start, tmp_path: Path) -> None:
    changes = {"training.steps": 30, "training.adversary": 0.0, "training.batch_size": 4}
    changes |= {"training.learning_rate": 1e-2}
    steps = list(start("vae", tmp_path / "v", changes))
    loss = [p.record.figures["autoencoder/loss"] for p in steps]
    assert np.mean(loss[-10:]) < 0.85 * np.mean(loss[:3])
