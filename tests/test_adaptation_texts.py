"""What films are captioned by: text encoders, class films, tables of texts."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, T5Config, T5EncoderModel

from synthaug.adaptation.adapt import adapt
from synthaug.adaptation.caption_table import faults, mended, read_captions
from synthaug.adaptation.prior import PriorRecipe, class_films
from synthaug.adaptation.route import Execution
from synthaug.adaptation.routes import load_recipe
from synthaug.datasets import RealRadiographs
from synthaug.diffusion import load_checkpoint
from synthaug.diffusion.text_encoders import open_text_encoder
from synthaug.errors import (
    CheckpointError,
    DataError,
)
from synthaug.record import Record

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


def test_the_base_s_own_encoder_is_the_one_where_none_is_named(
    tiny_nih: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    data, named = [RealRadiographs(tiny_nih)], str(tiny_checkpoint / "text_encoder")
    losses = []
    for number, source in enumerate((None, named)):
        steps = adapt(
            load_recipe("text_projection_smoke"),
            data,
            tmp_path / str(number),
            model=str(tiny_checkpoint),
            text_encoder=source,
            execution=Execution("cpu", "float32"),
        )
        losses.append([progress.record.figures for progress in steps])
    assert losses[0] == losses[1]
    # What came of it has a projection already: the next one takes its place.
    recipe, how = load_recipe("text_projection_smoke"), Execution("cpu", "float32")
    again = adapt(recipe, data, tmp_path / "2", model=str(tmp_path / "0"), execution=how)
    next(again)
    again.close()


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
    from synthaug.adaptation.batches import draws

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
