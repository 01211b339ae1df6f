"""What goes into an adaptation, and what is refused before it starts: recipes, films, bases, adapters."""

import json
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from adaptations import CPU, begin
from adapted import UNSUPPORTED, of_another_architecture
from safetensors.torch import load_file, save_file
from tiny_checkpoint import build

from synthaug.adaptation import films
from synthaug.adaptation.adapt import adapt
from synthaug.adaptation.route import Execution
from synthaug.adaptation.routes import ROUTES, load_recipe, recipe_class, run_class
from synthaug.datasets import RealRadiographs
from synthaug.diffusion import load_checkpoint
from synthaug.errors import (
    CheckpointError,
    DataError,
    DiskFullError,
    OutputFolderError,
    RecipeError,
    UnknownNameError,
    UserError,
)
from synthaug.record import Record


def test_every_route_has_a_recipe_class_and_a_run_class_of_its_name() -> None:
    for route in ROUTES:
        assert recipe_class(route).model_fields["route"].default == route
        assert run_class(route).__module__ == f"synthaug.adaptation.{route}"
        assert load_recipe(f"{route}_smoke").route == route


@pytest.mark.parametrize(
    "name", ["unet", "unet_text_encoder", "lora", "textual_inversion", "text_projection", "vae"]
)
def test_the_packaged_recipes_are_valid(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.route == name and recipe.training.steps >= 1000
    if name != "vae":
        few = load_recipe(f"{name}_few_shot")
        assert (
            few.route == name
            and few.per_finding == 5
            and set(few.findings) == {"no_finding", "pleural_effusion"}
        )


def test_an_unknown_route_and_a_recipe_of_another_command(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("route: lorra\n")
    with pytest.raises(UnknownNameError, match="did you mean 'lora'"):
        load_recipe(str(tmp_path / "r.yaml"))
    with pytest.raises(RecipeError, match="'route' is missing"):
        load_recipe("embedded_detector")


def test_a_finding_without_a_film_is_named_with_what_there_is(
    tiny_nih: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    changes = {"findings": ["no_finding", "hernia"], "per_finding": None}
    with pytest.raises(DataError, match=r"hernia, found 0 .*pleural_effusion 10"):
        begin(tiny_nih, tiny_checkpoint, tmp_path / "o", changes=changes)
    with pytest.raises(DataError, match=r"asks for 30 films of no_finding, found 10"):
        begin(tiny_nih, tiny_checkpoint, tmp_path / "o", changes={"per_finding": 30})
    # Nothing was started: the right recipe is not refused as another one.
    begin(tiny_nih, tiny_checkpoint, tmp_path / "o")


def test_few_films_of_each_finding_do_not_depend_on_the_order() -> None:
    records = [Record(str(i), {"no_finding": float(i % 2), "edema": float(i % 2 == 0)}) for i in range(40)]
    chosen = films.for_findings(records, ("no_finding", "edema"), 5, seed=3)
    assert len(chosen) == 10
    backwards = films.for_findings(records[::-1], ("no_finding", "edema"), 5, seed=3)
    assert {records[i].key for i in chosen} == {records[::-1][i].key for i in backwards}
    assert films.for_findings(records, ("edema",), None, seed=3) == list(range(40))


def test_no_patient_is_on_both_sides_of_the_validation() -> None:
    records = [Record(str(i), {}, patient=str(i // 4)) for i in range(40)]
    out = films.held_out(records, 0.3, seed=0)
    inside = {r.patient for i, r in enumerate(records) if i not in out}
    assert len(out) == 12 and not inside & {records[i].patient for i in out}
    with pytest.raises(DataError, match="of one patient"):
        films.held_out(records[:4], 0.3, seed=0)


def test_another_recipe_in_the_same_folder_is_refused_by_key(
    tiny_nih: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    begin(tiny_nih, tiny_checkpoint, tmp_path / "o")
    with pytest.raises(OutputFolderError, match=r"training\.learning_rate"):
        begin(tiny_nih, tiny_checkpoint, tmp_path / "o", changes={"training.learning_rate": 1e-4})
    with pytest.raises(OutputFolderError, match=r"differs in .*route"):
        begin(tiny_nih, tiny_checkpoint, tmp_path / "o", route="lora")


def test_another_base_is_no_resume(tiny_nih: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    how = Execution(device="cpu", precision="float32", save_every=1)
    recipe, data = load_recipe("unet_smoke", {"validation": 0.0}), [RealRadiographs(tiny_nih)]
    next(adapt(recipe, data, tmp_path / "o", model=str(tiny_checkpoint), execution=how))
    other = build(tmp_path / "other", zero_snr=False)
    with pytest.raises(OutputFolderError, match="base"):
        next(adapt(recipe, data, tmp_path / "o", model=str(other), execution=how))


def test_a_base_of_another_architecture_says_what_is_supported(
    tiny_nih: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    folder = of_another_architecture(tiny_checkpoint, tmp_path / "xl")
    with pytest.raises(CheckpointError, match=UNSUPPORTED):
        begin(tiny_nih, folder, tmp_path / "o")
    sample = build(tmp_path / "sample", prediction_type="sample", zero_snr=False)
    with pytest.raises(CheckpointError, match="epsilon or v_prediction"):
        begin(tiny_nih, sample, tmp_path / "o")
    epsilon = build(tmp_path / "epsilon", prediction_type="epsilon", zero_snr=False)
    with pytest.raises(UserError, match="zero_terminal_snr"):
        begin(tiny_nih, epsilon, tmp_path / "o", changes={"zero_terminal_snr": True})


def test_a_disk_without_room_is_refused_before_the_first_step(
    tiny_nih: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("synthaug.adaptation.loop.shutil.disk_usage", lambda _: usage(10, 9, 1_000_000))
    with pytest.raises(DiskFullError, match=r"needs 0\.0\d GB, found 0\.00 GB free"):
        begin(tiny_nih, tiny_checkpoint, tmp_path / "o")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 30}, "expected a multiple of 4"),
        ({"targets": ["to_z"]}, "has no layer named to_z; its linear layers end in .*to_k"),
    ],
)
def test_values_that_do_not_fit_the_base(
    tiny_nih: Path, tiny_checkpoint: Path, tmp_path: Path, changes: dict, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        begin(tiny_nih, tiny_checkpoint, tmp_path / "o", route="lora", changes=changes)


def test_flags_of_another_route_are_refused(tiny_nih: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    data = [RealRadiographs(tiny_nih)]
    with pytest.raises(UserError, match="starts from nothing"):
        next(adapt(load_recipe("from_scratch_smoke"), data, tmp_path / "o", model="embedded", execution=CPU))
    parted = Execution(device="cpu", part="unet")
    with pytest.raises(UserError, match="has no parts"):
        next(adapt(load_recipe("unet_smoke"), data, tmp_path / "o", execution=parted))
    with pytest.raises(UserError, match="--micro-batch 0"):
        next(
            adapt(load_recipe("unet_smoke"), data, tmp_path / "o", execution=Execution("cpu", micro_batch=0))
        )


# Adapters that do not fit -------------------------------------------------------------------------------------


@pytest.fixture
def adapter(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A LoRA of one layer beside its base."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    shutil.copytree(tiny_checkpoint, folder / "base")
    base = load_checkpoint(tiny_checkpoint, "cpu")
    layer = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    factors = {f"{layer}.lora_A.weight": torch.ones(2, 32), f"{layer}.lora_B.weight": torch.ones(32, 2)}
    save_file(factors, folder / "pytorch_lora_weights.safetensors")
    card = base.card.model_copy(update={"route": "lora"}).to_json()
    card |= {"base": {"name": "tiny", "sha256": base.sha256}}
    (folder / "synthaug.json").write_text(json.dumps(card))
    return folder


def test_a_lora_of_the_wrong_shape_or_architecture_names_the_layer(adapter: Path) -> None:
    load_checkpoint(adapter, "cpu")
    path = adapter / "pytorch_lora_weights.safetensors"
    factors = load_file(path)
    narrow = {
        name: weight[:, :8].contiguous() if "lora_A" in name else weight for name, weight in factors.items()
    }
    save_file(narrow, path)
    with pytest.raises(CheckpointError, match=r"mid_block.*to_q is of shape .*belongs to another base"):
        load_checkpoint(adapter, "cpu")
    save_file({name.replace("mid_block", "top_block"): w for name, w in factors.items()}, path)
    with pytest.raises(CheckpointError, match=r"top_block.*another architecture"):
        load_checkpoint(adapter, "cpu")
    save_file({"lora_unet_mid.alpha": torch.ones(1)}, path)
    with pytest.raises(CheckpointError, match="expected LoRA weights"):
        load_checkpoint(adapter, "cpu")


def test_a_lora_that_names_no_base_is_told_from_a_checkpoint(adapter: Path) -> None:
    (adapter / "synthaug.json").unlink()
    with pytest.raises(CheckpointError, match=r"a LoRA without synthaug\.json, so nobody knows its base"):
        load_checkpoint(adapter, "cpu")


def test_an_adapter_without_its_base_says_where_to_put_it(adapter: Path, tmp_path: Path) -> None:
    (adapter / "base").rename(tmp_path / "tiny")
    assert load_checkpoint(adapter, "cpu").card.route == "lora"  # beside the adapter, by its name
    (tmp_path / "tiny").rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="ln -s /path/to/tiny"):
        load_checkpoint(adapter, "cpu")
    build(adapter / "base", zero_snr=False)
    with pytest.raises(CheckpointError, match="was trained on a base with SHA-256"):
        load_checkpoint(adapter, "cpu")


def test_a_token_of_another_width_or_a_known_one_is_refused(adapter: Path) -> None:
    (adapter / "pytorch_lora_weights.safetensors").unlink()
    path = adapter / "learned_embeds.safetensors"
    save_file({"<x>": torch.ones(2, 24)}, path)
    with pytest.raises(CheckpointError, match="width 24, the base's text encoder 16"):
        load_checkpoint(adapter, "cpu")
    save_file({"x</w>": torch.ones(1, 16)}, path)
    with pytest.raises(CheckpointError, match="knows x</w> already"):
        load_checkpoint(adapter, "cpu")
    save_file({"<x>": torch.ones(1, 16), "<y>": torch.ones(1, 16)}, path)
    with pytest.raises(CheckpointError, match="found 2 tokens"):
        load_checkpoint(adapter, "cpu")
