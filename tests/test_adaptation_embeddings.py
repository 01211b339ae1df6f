"""Texts that a frozen encoder has read are read from disk after that."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from adaptations import CPU
from tiny_checkpoint import tiny_parts

from synthaug.adaptation import embeddings
from synthaug.adaptation.adapt import adapt
from synthaug.adaptation.captions import CaptionRecipe
from synthaug.adaptation.denoising import DiffusionRecipe, DiffusionRoute, TextToNoise
from synthaug.adaptation.routes import load_recipe
from synthaug.datasets import RealRadiographs
from synthaug.errors import DiskFullError
from synthaug.record import Record

TEXTS = [f"small effusion, film {n}" for n in range(70)]


class Counting:
    """An encoder that keeps count of what it reads, and fails at text number `breaks`."""

    def __init__(self, breaks: int | None = None) -> None:
        self.parts, self.read, self.breaks = tiny_parts(), 0, breaks
        self.tokens = embeddings.reader(self.parts["tokenizer"], 77)

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        self.read += len(tokens)
        if self.breaks is not None and self.read > self.breaks:
            raise KeyboardInterrupt
        return self.parts["text_encoder"](tokens).last_hidden_state


def test_a_second_run_encodes_nothing(tmp_path: Path) -> None:
    first, second = Counting(), Counting()
    made = embeddings.cache(tmp_path, TEXTS, first.tokens, first, "weights")
    again = embeddings.cache(tmp_path, TEXTS, second.tokens, second, "weights")
    assert first.read == len(TEXTS) and second.read == 0 and list(again) == TEXTS
    with torch.no_grad():
        whole = first(first.tokens(TEXTS))
    for text, expected in zip(TEXTS, whole, strict=True):
        assert torch.equal(made[text], again[text]) and made[text].dtype == torch.float32
        torch.testing.assert_close(made[text], expected, atol=1e-5, rtol=2**-10)  # the last bit of float16


def test_other_weights_or_texts_are_another_file(tmp_path: Path) -> None:
    encoder = Counting()
    embeddings.cache(tmp_path, TEXTS, encoder.tokens, encoder, "weights")
    embeddings.cache(tmp_path, TEXTS, encoder.tokens, encoder, "other weights")
    embeddings.cache(tmp_path, TEXTS[1:], encoder.tokens, encoder, "weights")
    assert encoder.read == 3 * len(TEXTS) - 1 and len(list(tmp_path.glob("texts-*.safetensors"))) == 3


def test_a_kill_half_way_leaves_nothing_that_could_be_taken_for_whole(tmp_path: Path) -> None:
    broken, sound = Counting(breaks=40), Counting()
    with pytest.raises(KeyboardInterrupt):
        embeddings.cache(tmp_path, TEXTS, broken.tokens, broken, "weights")
    assert not list(tmp_path.glob("*.safetensors"))
    made = embeddings.cache(tmp_path, TEXTS, sound.tokens, sound, "weights")
    assert sound.read == len(TEXTS) and all(made[text].abs().max() > 0 for text in TEXTS)


def test_texts_that_do_not_fit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    encoder = Counting()
    with pytest.raises(DiskFullError, match=r"embeddings of the films need .* give fewer texts"):
        embeddings.cache(tmp_path, TEXTS, encoder.tokens, encoder, "weights")


def test_batches_hold_what_was_stored_and_read_the_rest(tmp_path: Path) -> None:
    encoder = Counting()
    encoder.parts["text_encoder"].requires_grad_(False)
    stored = embeddings.cache(tmp_path, ["", *TEXTS[:40]], encoder.tokens, encoder, "weights")

    def text(stored: dict | embeddings.TextEmbeddings) -> torch.Tensor:
        parts = encoder.parts
        records = [Record(str(n), {}, prompt=own) for n, own in enumerate(TEXTS)]
        route = DiffusionRoute(
            TextToNoise(parts["unet"], parts["text_encoder"]), parts["tokenizer"], parts["scheduler"],
            torch.zeros(70, 1, 4, 8, 8), records, DiffusionRecipe(steps=1, batch_size=64, learning_rate=1.0),
            CaptionRecipe(), stored=stored,
        )  # fmt: skip
        batch = route.batch(0, 0, 1)
        assert all(kept in TEXTS[40:] for kept in route.embeddings) or not stored
        return batch.text

    with_disk, without = text(stored), text({})
    torch.testing.assert_close(with_disk, without, atol=1e-5, rtol=2**-10)
    assert not torch.equal(with_disk, without)  # 40 of them went through float16


def test_a_run_that_goes_on_does_not_read_its_reports_again(
    tiny_nih: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = RealRadiographs(tiny_nih)
    reports = {key: [f"report {n}", f"also {n}"] for n, key in enumerate(data.keys)}
    recipe = load_recipe("unet_smoke", {"validation": 0.0, "per_finding": None, "captions.dropout": 0.5})

    def step() -> object:
        run = adapt(
            recipe, [data], tmp_path / "o", model=str(tiny_checkpoint), captions=reports, execution=CPU
        )
        return next(run)

    first = step()

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("the text encoder was asked")

    monkeypatch.setattr("transformers.CLIPTextModel.forward", fail)
    assert step() == first
