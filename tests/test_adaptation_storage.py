"""Films and latents beyond memory, and latents drawn from what a stochastic encoder says."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_checkpoint import tiny_parts

from synthaug.adaptation import films, latents
from synthaug.adaptation.adapt import adapt
from synthaug.adaptation.captions import CaptionRecipe
from synthaug.adaptation.denoising import DiffusionRecipe, DiffusionRoute, TextToNoise
from synthaug.adaptation.films import Storage
from synthaug.adaptation.latents import AugmentationRecipe
from synthaug.adaptation.route import Execution
from synthaug.adaptation.routes import load_recipe
from synthaug.datasets import RealRadiographs
from synthaug.errors import DiskFullError, UserError
from synthaug.record import Record

CPU = Execution(device="cpu", precision="float32", save_every=4)


def test_films_beyond_the_limit_are_mapped_and_equal(tiny_nih: Path, tmp_path: Path) -> None:
    data = [RealRadiographs(tiny_nih)]
    needed = 24 * (64**2 + 96**2)
    held = films.load(data, (64, 96), storage=Storage(tmp_path / "room", needed))
    mapped = films.load(data, (64, 96), storage=Storage(tmp_path / "room", needed - 1))
    assert not any(isinstance(array, np.memmap) for array in held.pyramid.values())
    assert all(isinstance(array, np.memmap) for array in mapped.pyramid.values())
    assert all(np.array_equal(mapped.pyramid[size], held.pyramid[size]) for size in (64, 96))
    assert mapped.digest == held.digest
    assert list((tmp_path / "room").iterdir()) == []  # nothing is left behind


def test_films_that_fit_nowhere_are_refused(
    tiny_nih: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(DiskFullError, match=r"24 films at 64 px need .* --film-memory"):
        films.load([RealRadiographs(tiny_nih)], (64,), storage=Storage(tmp_path, 0))


def test_a_quarter_of_the_memory_is_a_sensible_number() -> None:
    assert 100e6 < films.quarter_of_memory() < 1e15


def run(tiny_nih: Path, model: Path, out: Path, changes: dict | None = None, **how: object) -> list:
    recipe = load_recipe("unet_smoke", {"validation": 0.0, "training.steps": 5} | (changes or {}))
    data = [RealRadiographs(tiny_nih)]
    steps = adapt(recipe, data, out, model=str(model), execution=replace(CPU, **how))
    return [progress.record.figures["unet/loss"] for progress in steps]


def test_a_run_on_mapped_films_is_the_same(tiny_nih: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    whole = run(tiny_nih, tiny_checkpoint, tmp_path / "held")
    assert run(tiny_nih, tiny_checkpoint, tmp_path / "mapped", film_memory=0.0) == whole
    with pytest.raises(UserError, match="--film-memory -1"):
        run(tiny_nih, tiny_checkpoint, tmp_path / "less", film_memory=-1.0)


@pytest.fixture
def textured() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 1, 48, 48), np.uint8)


def pooled(pixels: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(pixels, 8).expand(-1, 3, -1, -1)


def test_the_cache_is_the_file_that_safetensors_writes(textured: np.ndarray, tmp_path: Path) -> None:
    made = latents.cache(tmp_path, textured, 48, pooled, "p", AugmentationRecipe(copies=2), batch_size=2)
    assert made.shape == (5, 2, 3, 6, 6) and made.dtype == torch.float16
    (path,) = tmp_path.iterdir()
    save_file({"latents": made.clone()}, tmp_path / "theirs.safetensors")
    assert torch.equal(load_file(path)["latents"], made)
    assert path.read_bytes()[-made.nbytes :] == (tmp_path / "theirs.safetensors").read_bytes()[-made.nbytes :]
    torch.testing.assert_close(
        made[:, 0].float(), pooled(torch.from_numpy(textured) / 127.5 - 1), atol=1e-3, rtol=0
    )


def test_latents_that_do_not_fit_are_refused(
    textured: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(DiskFullError, match=r"latents of the films need .* augmentation\.copies"):
        latents.cache(tmp_path, textured, 48, pooled, "p", AugmentationRecipe(copies=2))


@pytest.fixture
def route() -> Callable[..., DiffusionRoute]:
    """`route(stored, moments)`: four films with those latents."""

    def make(stored: torch.Tensor, moments: bool) -> DiffusionRoute:
        parts = tiny_parts()
        module = TextToNoise(parts["unet"], parts["text_encoder"].requires_grad_(False))
        recipe = DiffusionRecipe(steps=1, batch_size=64, learning_rate=1.0)
        records = [Record(str(i), {}) for i in range(len(stored))]
        return DiffusionRoute(
            module, parts["tokenizer"], parts["scheduler"], stored, records, recipe, CaptionRecipe(),
            moments=moments,
        )  # fmt: skip

    return make


def test_latents_are_drawn_anew_from_mean_and_deviation(route: Callable[..., DiffusionRoute]) -> None:
    shape = (4, 1, 3, 8, 8)
    stored = torch.cat([torch.full(shape, 5.0), torch.full(shape, 2.0)], 2).half()
    drawn = route(stored, True)
    first, again, second = (drawn.batch(step, 0, 1).latents for step in (0, 0, 1))
    assert first.shape == (64, 3, 8, 8) and torch.equal(first, again) and not torch.equal(first, second)
    count = first.numel()  # three standard errors of mean and deviation
    assert abs(first.mean().item() - 5) < 3 * 2 / count**0.5
    assert abs(first.std().item() - 2) < 3 * 2 / (2 * count) ** 0.5
    sure = torch.cat([torch.full(shape, 5.0), torch.zeros(shape)], 2).half()
    assert torch.equal(route(sure, True).batch(0, 0, 1).latents, torch.full((64, 3, 8, 8), 5.0))
    assert torch.equal(drawn.fixed_batch([0, 1]).latents, drawn.fixed_batch([0, 1]).latents)


def test_the_posterior_of_the_autoencoder_is_cached_and_resumed(
    tiny_nih: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    mean = run(tiny_nih, tiny_checkpoint, tmp_path / "mean")
    sampled = {"posterior": "sample"}
    whole = run(tiny_nih, tiny_checkpoint, tmp_path / "whole", sampled)
    assert whole != mean
    cut = run(tiny_nih, tiny_checkpoint, tmp_path / "cut", sampled, max_steps=3)
    assert cut + run(tiny_nih, tiny_checkpoint, tmp_path / "cut", sampled) == whole
    (ours,) = (tmp_path / "whole" / "training" / "latents").iterdir()
    (plain,) = (tmp_path / "mean" / "training" / "latents").iterdir()
    moments, means = load_file(ours)["latents"], load_file(plain)["latents"]
    with safe_open(tmp_path / "mean" / "training" / "unet" / "state.safetensors", "pt") as state:
        assert (
            "posterior" not in state.metadata()["identity"]
        )  # older states do not name it, and still resume
    assert torch.equal(moments[:, :, : means.shape[2]], means) and (moments[:, :, means.shape[2] :] > 0).all()
