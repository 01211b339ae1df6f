"""What goes into an adaptation: films, texts, class films, patients' hashes; and what is refused, by name."""

import hashlib
import hmac
import json
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_checkpoint import build
from transformers import BertConfig, BertModel, T5Config, T5EncoderModel

from synthaug import cli
from synthaug.adaptation import films, patients
from synthaug.adaptation.adapt import adapt
from synthaug.adaptation.caption_table import faults, mended, read_captions
from synthaug.adaptation.prior import PriorRecipe, class_films
from synthaug.adaptation.route import Execution
from synthaug.adaptation.routes import ROUTES, load_recipe, recipe_class, run_class
from synthaug.datasets import RealRadiographs
from synthaug.diffusion import load_checkpoint
from synthaug.diffusion.text_encoders import open_text_encoder
from synthaug.errors import (
    CheckpointError,
    DataError,
    DiskFullError,
    OutputFolderError,
    RecipeError,
    UnknownNameError,
    UserError,
)
from synthaug.evaluation.results import Results
from synthaug.record import Record

CPU = Execution(device="cpu", precision="float32")


def begin(
    tiny_nih: Path, model: Path, out: Path, route: str = "unet", changes: dict | None = None, **more
) -> None:
    """The first step of a route's smoke recipe."""
    recipe = load_recipe(f"{route}_smoke", {"validation": 0.0} | (changes or {}))
    next(adapt(recipe, [RealRadiographs(tiny_nih)], out, model=str(model), execution=CPU, **more))


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
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "xl"))
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "StableDiffusionXLPipeline"}))
    with pytest.raises(
        CheckpointError, match=r"StableDiffusionXLPipeline.*supported is Stable Diffusion 1\.x and 2\.x"
    ):
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
    with pytest.raises(UserError, match="--text-encoder"):
        begin(tiny_nih, tiny_checkpoint, tmp_path / "o", route="text_projection")


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


# Text encoders ------------------------------------------------------------------------------------------------


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """A BERT of one layer with a word-piece vocabulary, as hospitals' encoders come."""
    folder = tmp_path / "bert"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "chest", "radiograph", "pleural", "effusion"]
    words += ["no", "finding", ",", ":"]
    config = BertConfig(
        vocab_size=len(words), hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=40, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    return folder


def test_the_fit_on_text_is_ridge_regression_as_scikit_learn_does_it() -> None:
    from sklearn.linear_model import Ridge

    from synthaug.diffusion.projected_text_encoder import fit_projection

    class Features(torch.nn.Module):
        """Random states of six texts of nine tokens, in place of an encoder's."""

        def __init__(self) -> None:
            super().__init__()
            self.projection = torch.nn.Linear(12, 5)
            self.states = torch.randn(6, 9, 12, generator=torch.Generator().manual_seed(1)) + 2

        def normalised(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.states[tokens]

    encoder, targets = Features(), torch.randn(6, 9, 5, generator=torch.Generator().manual_seed(2))

    def places(texts: list[str]) -> torch.Tensor:
        return torch.tensor([int(text) for text in texts])

    explained = fit_projection(encoder, places, lambda t: targets[places(t)], "012345", ridge=0.1, batch=4)  # type: ignore[arg-type]
    x, y = encoder.states.flatten(0, 1).double().numpy(), targets.flatten(0, 1).double().numpy()
    reference = Ridge(alpha=0.1 * (x**2).sum(0).mean()).fit(x, y)
    np.testing.assert_allclose(encoder.projection.weight.detach().numpy(), reference.coef_, atol=1e-5)
    np.testing.assert_allclose(encoder.projection.bias.detach().numpy(), reference.intercept_, atol=1e-5)
    left = ((y - reference.predict(x)) ** 2).sum() / ((y - y.mean(0)) ** 2).sum()
    assert explained == pytest.approx(1 - left, abs=1e-2)


def test_a_bert_in_clips_place_generates_from_its_folder_alone(
    bert: Path, tiny_checkpoint: Path, tiny_nih: Path, tmp_path: Path
) -> None:
    from synthaug.diffusion import sample

    recipe = load_recipe("text_projection_smoke", {"trains": "all", "validation": 0.0})
    out = tmp_path / "o"
    how = Execution(device="cpu", precision="float32", max_steps=2)
    list(
        adapt(
            recipe,
            [RealRadiographs(tiny_nih)],
            out,
            model=str(tiny_checkpoint),
            text_encoder=str(bert),
            execution=how,
        )
    )
    shutil.rmtree(bert)
    result = load_checkpoint(out, "cpu", "float32")
    texts = ["chest radiograph: pleural effusion", "chest radiograph: no finding"]
    images = sample(result, texts, [(0, 0)] * 2)
    assert images.shape == (2, 1, 32, 32) and not np.array_equal(images[0], images[1])
    # Padding is masked within the encoder: it does not change the words' states.
    encoder, tokenizer = result.text_encoder, result.tokenizer
    short, long = (
        encoder(tokenizer(texts[0], padding="max_length", max_length=n, return_tensors="pt").input_ids)[0]
        for n in (8, 20)
    )
    torch.testing.assert_close(short[0, :5], long[0, :5], atol=1e-5, rtol=0)


def test_text_encoders_that_are_refused(bert: Path, tmp_path: Path) -> None:
    torch.save(BertModel.from_pretrained(bert).state_dict(), bert / "pytorch_model.bin")
    (bert / "model.safetensors").unlink()
    assert open_text_encoder(str(bert), 16, 77)[0].projection.out_features == 16

    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    torch.save({"weight": Evil()}, bert / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="cannot be read"):
        open_text_encoder(str(bert), 16, 77)
    assert not (tmp_path / "ran").exists()
    (bert / "pytorch_model.bin").unlink()
    with pytest.raises(CheckpointError, match="no weights"):
        open_text_encoder(str(bert), 16, 77)
    t5 = tmp_path / "t5"
    T5EncoderModel(
        T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    ).save_pretrained(t5)
    with pytest.raises(CheckpointError, match="no plain text encoder"):
        open_text_encoder(str(t5), 16, 77)
    with pytest.raises(CheckpointError, match="no such folder"):
        open_text_encoder("/no/such/folder", 16, 77)


# Class films --------------------------------------------------------------------------------------------------


def test_class_films_are_drawn_once_and_a_folder_of_them_takes_their_place(
    tiny_checkpoint: Path, tiny_class_folders: Path, tmp_path: Path
) -> None:
    base = load_checkpoint(tiny_checkpoint, "cpu", "float32")
    recipe = PriorRecipe(count=3)
    drawn = class_films(recipe, base, 48, tmp_path, torch.device("cpu"))
    assert drawn.pyramid[48].shape == (3, 1, 48, 48)
    assert [r.prompt for r in drawn.records] == ["chest radiograph"] * 3 and not any(
        r.labels for r in drawn.records
    )
    (stored,) = tmp_path.glob("prior-*.safetensors")
    before = stored.stat().st_mtime_ns
    again = class_films(recipe, base, 48, tmp_path, torch.device("cpu"))
    assert np.array_equal(again.pyramid[48], drawn.pyramid[48]) and stored.stat().st_mtime_ns == before
    folder = PriorRecipe(folder=str(tiny_class_folders), prompt="a photo of a chest")
    taken = class_films(folder, base, 48, tmp_path, torch.device("cpu"))
    assert len(taken.records) == 24 and {r.prompt for r in taken.records} == {"a photo of a chest"}


def test_the_prior_has_its_share_and_weight_in_every_batch() -> None:
    from tiny_checkpoint import tiny_parts

    from synthaug.adaptation.captions import CaptionRecipe
    from synthaug.adaptation.denoising import DiffusionRecipe, DiffusionRoute, TextToNoise

    parts = tiny_parts()
    latents = torch.arange(10.0)[:, None, None, None, None].expand(10, 1, 4, 8, 8).half()
    records = [Record(str(i), {}) for i in range(6)] + [Record(f"p{i}", {}, prompt="class") for i in range(4)]
    module = TextToNoise(parts["unet"], parts["text_encoder"].requires_grad_(False))
    recipe = DiffusionRecipe(steps=1, batch_size=8, learning_rate=1.0)
    route = DiffusionRoute(
        module, parts["tokenizer"], parts["scheduler"], latents, records, recipe, CaptionRecipe(dropout=0.0),
        train=[0, 1, 2], prior=range(6, 10), prior_share=0.25, prior_weight=0.5,
    )  # fmt: skip
    batches = [route.batch(step, 0, 1) for step in range(40)]
    for batch in batches:
        which = batch.latents[:, 0, 0, 0]
        assert ((which >= 6) == (batch.weights == 0.5)).all() and (which >= 6).sum() == 2
        assert set(which[which < 6].tolist()) <= {0.0, 1.0, 2.0}  # the others are held out
        assert batch.text.is_floating_point()  # a frozen encoder: each text is encoded once
    places = torch.stack([batch.weights == 0.5 for batch in batches]).float().mean(0)
    assert places.min() > 0.05  # anywhere in the batch, so at any noise level
    errors = torch.rand(8)
    route.errors = lambda *_: errors  # type: ignore[method-assign]
    loss, _ = route.loss("unet", batches[0], 0)
    assert float(loss) == pytest.approx(float((errors * batches[0].weights).mean()))


# Texts --------------------------------------------------------------------------------------------------------


def write(path: Path, *rows: tuple[str, str]) -> Path:
    path.write_text("image,text\n" + "".join(f'{image},"{text}"\n' for image, text in rows))
    return path


def test_captions_are_matched_counted_and_mended(tmp_path: Path) -> None:
    table = write(
        tmp_path / "c.csv",
        ("a.png", "Small left effusion. Compared to prior study the edema has improved."),
        ("a", "Film of 2019-03-04 for ___: pneumothorax."),
        ("b.png", "Unchanged."),
    )
    plain = read_captions(table, ["a", "b"])
    assert plain.faults == {"comparison": 2, "blank": 1, "date": 1} and len(plain.texts["a"]) == 2
    assert "--mend-captions" in plain.summary() and "Unchanged." in plain.summary()
    clean = read_captions(table, ["a", "b"], mend=True)
    assert clean.texts == {"a": ["Small left effusion.", "Film of for: pneumothorax."]} and clean.dropped == 1
    assert not any(faults(text) for texts in clean.texts.values() for text in texts)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Large right pleural effusion with mediastinal shift.", []),
        ("No interval change since the film of 3/14/2018", ["date", "comparison"]),
        ("[**Name**] was told", ["blank"]),
        ("Seen on Jan 3, 2020", ["date"]),
    ],
)
def test_what_a_film_cannot_show(text: str, found: list[str]) -> None:
    assert faults(text) == found
    assert not faults(mended(text))


def test_caption_rows_that_match_no_film_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"2 lines match no film of --data, the first x\.png, y\.png"):
        read_captions(write(tmp_path / "c.csv", ("a.png", "t"), ("x.png", "t"), ("y.png", "t")), ["a"])
    with pytest.raises(DataError, match=r"line 2: the text of a\.png is empty"):
        read_captions(write(tmp_path / "c.csv", ("a.png", " ")), ["a"])
    (tmp_path / "c.csv").write_text("image,report\na,b\n")
    with pytest.raises(DataError, match="no column 'text'"):
        read_captions(tmp_path / "c.csv", ["a"])


def test_a_film_with_texts_is_captioned_by_them() -> None:
    from synthaug.adaptation import captions
    from synthaug.adaptation.loop import draws

    record = Record("a", {"edema": 1.0}, provenance={"captions": ["one", "two"]})
    drawn = [
        captions.draw(record, captions.CaptionRecipe(dropout=0.2), draws(0, step)) for step in range(200)
    ]
    assert set(drawn) == {"", "one", "two"} and 20 < drawn.count("") < 60


def test_texts_beyond_the_encoder_are_counted(tiny_nih: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    data = RealRadiographs(tiny_nih)
    texts = {data.keys[0]: ["effusion " * 40], data.keys[1]: ["short"]}
    how = Execution(device="cpu", precision="float32", max_steps=1)
    recipe = load_recipe("unet_smoke", {"validation": 0.0, "per_finding": None})
    with pytest.warns(UserWarning, match=r"1 of 2 texts are longer than the 77 tokens .*'effusion eff"):
        list(adapt(recipe, [data], tmp_path / "o", model=str(tiny_checkpoint), captions=texts, execution=how))


# Patients -----------------------------------------------------------------------------------------------------


def test_hashes_of_patients_are_hmac_and_need_the_key(
    tiny_nih: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    key = patients.read_key(tmp_path / "key")
    assert len(key) == 32 and (tmp_path / "key").stat().st_mode & 0o077 == 0
    assert patients.read_key(tmp_path / "key") == key
    recipe = load_recipe("unet_smoke", {"validation": 0.0, "per_finding": None})
    how = Execution(device="cpu", precision="float32", max_steps=1)
    data = RealRadiographs(tiny_nih)
    list(
        adapt(
            recipe,
            [data],
            tmp_path / "o",
            model=str(tiny_checkpoint),
            patient_key=tmp_path / "key",
            execution=how,
        )
    )
    path = tmp_path / "o" / "training_patients.json"
    stored = json.loads(path.read_text())
    known = {r.patient for r in data.records if r.age is not None and r.age >= 18}
    expected = {hmac.new(key, f"patient:{p}".encode(), hashlib.sha256).hexdigest() for p in known}
    assert set(stored["hashes"]) == expected and stored["patients"] == 11
    assert not any(f'"{p}"' in path.read_text() for p in known)
    # The child was left out, so the guard does not know it.
    assert [
        data.records[i].age for i in range(24) if i not in patients.trained_on(path, key, data.records)
    ] == [10, 10]
    with pytest.raises(DataError, match="another key"):
        patients.trained_on(path, b"x" * 32, data.records)
    (tmp_path / "short").write_bytes(b"secret")
    with pytest.raises(UserError, match="holds 6 bytes"):
        patients.read_key(tmp_path / "short")


def test_the_card_says_what_was_trained_on_what(
    tiny_nih: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    recipe = load_recipe("unet_smoke", {"validation": 0.0, "per_finding": None})
    how = Execution(device="cpu", precision="float32", max_steps=1)
    list(
        adapt(recipe, [RealRadiographs(tiny_nih)], tmp_path / "o", model=str(tiny_checkpoint), execution=how)
    )
    text = (tmp_path / "o" / "README.md").read_text()
    base = load_checkpoint(tiny_checkpoint, "cpu")
    for line in (
        "| films with no finding | 10 |",
        "| films with pleural effusion | 10 |",
        "| patients | 11 |",
        f"| recipe digest | {recipe.digest()} |",
        f"| base sha256 | {base.sha256} |",
        "| settings training steps | 8 |",
    ):
        assert line in text
    assert str(tmp_path) not in text and str(tiny_nih) not in text


# Studies and runs compared ------------------------------------------------------------------------------------------------


def test_a_study_trains_nothing_and_writes_results(
    tiny_nih: Path, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "adapt",
        "--study",
        "--model",
        str(tiny_checkpoint),
        "--data",
        str(tiny_nih),
        "--device",
        "cpu",
    ]
    assert cli.main([*command, "--recipe", "vae_smoke", "--out", str(tmp_path / "study")]) == 0
    results = Results.read(tmp_path / "study")
    assert {(m.subgroup, m.n) for m in results.metrics} == {("PA", 11), ("AP", 11)}
    assert all(
        m.value is None and m.reason == f"11 real {m.subgroup} films; 16 are needed" for m in results.metrics
    )
    assert [path.name for path in (tmp_path / "study").iterdir()] == ["results.json"]
    capsys.readouterr()
    assert cli.main([*command, "--recipe", "unet_smoke"]) == 2
    assert "belongs to the route vae" in capsys.readouterr().err


def test_runs_side_by_side(tiny_nih: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    from synthaug.adaptation import runs

    how = Execution(device="cpu", precision="float32", max_steps=4, save_every=2)
    for route in ("unet", "lora"):
        out = tmp_path / route
        list(
            adapt(
                load_recipe(f"{route}_smoke"),
                [RealRadiographs(tiny_nih)],
                out,
                model=str(tiny_checkpoint),
                execution=how,
            )
        )
    rows = [runs.row(tmp_path / route) for route in ("unet", "lora")]
    assert [row["route"] for row in rows] == ["unet", "lora"] and all(row["steps"] == 4 for row in rows)
    assert (
        0
        < rows[1]["trained"]
        < rows[0]["trained"]
        == sum(p.numel() for p in load_checkpoint(tiny_checkpoint, "cpu").unet.parameters())
    )
    log = runs.read_log(tmp_path / "unet")
    assert rows[0]["loss last"] == pytest.approx(np.mean([line["unet/loss"] for line in log]))
    assert rows[0]["validation last"] == log[-1]["unet/validation"] and rows[0]["films/s"] > 0
    # A kill repeats steps and may leave half a line: the last whole one of each step counts.
    with open(tmp_path / "unet" / "training" / "log.jsonl", "a") as file:
        file.write(json.dumps(log[-1] | {"unet/loss": 9.0}) + "\n" + '{"part": "un')
    assert [line["unet/loss"] for line in runs.read_log(tmp_path / "unet")][-1] == 9.0
    table = runs.compare([tmp_path / "unet", tmp_path / "lora"]).splitlines()
    assert len(table) == 3 and table[0].split()[:2] == ["run", "route"] and "films/s" in table[0]
    runs.draw([tmp_path / "unet", tmp_path / "lora"], tmp_path / "losses.png")
    with Image.open(tmp_path / "losses.png") as picture:
        assert picture.size[0] > 500
    with pytest.raises(DataError, match="--compare"):
        runs.compare([tmp_path])
