"""`generate`: the output folder, word by word; resume; what may not change."""

import gc
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from generated import EFFUSION, content, draw
from tiny_checkpoint import SIZE, build, tiny_card

import synthaug
from synthaug import images
from synthaug.errors import (
    DiskFullError,
    OutOfMemoryError,
    OutputFolderError,
    RecipeError,
    UserError,
)
from synthaug.generation import GenerateRecipe, Progress, execution, generate, writing
from synthaug.shards import ShardSet, lock, verify

room = sys.modules["synthaug.generation.drawing"]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """So small a model loses more to a second thread than it gains."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run: 10 films in shards of 4, batches of 3. Do not write into it."""
    return draw(tiny_checkpoint, tmp_path_factory.mktemp("generated") / "whole")


def test_the_folder_holds_what_the_contract_lists(whole: Path, tiny_checkpoint: Path) -> None:
    shards = [f"shard-00000{n}.{end}" for n in range(3) for end in ("index", "tar")]
    assert sorted(content(whole)) == sorted(
        ["README.md", "execution.json", "manifest.json", "preview.png", "recipe.yaml", *shards]
    )
    assert verify(whole) == []
    manifest = json.loads((whole / "manifest.json").read_text())
    recipe = GenerateRecipe.load(whole / "recipe.yaml")
    assert [shard["count"] for shard in manifest["shards"]] == [4, 4, 2]
    assert manifest["recipe_digest"] == recipe.digest()
    assert manifest["checkpoint"]["name"] == "tiny"
    assert manifest["versions"]["synthaug"] == synthaug.__version__
    assert json.loads((whole / "execution.json").read_text())["batch_size"] == 3
    card = (whole / "README.md").read_text()
    assert "SYNTHETIC" in card and recipe.digest() in card
    assert images.read(whole / "preview.png").std() > 1


def test_no_file_holds_a_path_or_a_host(whole: Path, tiny_checkpoint: Path) -> None:
    import socket

    for name, data in content(whole).items():
        for secret in (str(whole.parent), str(tiny_checkpoint.parent), socket.gethostname()):
            assert len(secret) < 6 or secret.encode() not in data, name


def test_each_record_has_the_fields_of_the_contract(whole: Path) -> None:
    shards = ShardSet(whole)
    assert len(shards) == 10
    for number, (record, data) in enumerate(shards):
        film, fields = images.read(data), record.to_json()
        assert film.shape == (SIZE, SIZE)
        assert record.key == f"{number:09d}" and record.synthetic
        assert fields["labels"] == {EFFUSION: 1.0} and fields["view"] is None
        assert fields["prompt"] == "chest radiograph: pleural effusion" and fields["negative_prompt"] == ""
        assert (fields["seed"], fields["guidance_scale"], fields["num_inference_steps"]) == (5, 2.0, 4)
        assert fields["scheduler"] == "dpmsolver++" and fields["synthaug_version"] == synthaug.__version__
        assert set(fields["checkpoint"]) == {"name", "sha256"}
        assert fields["quality"]["mean"] == pytest.approx(film.mean(), abs=1e-3)
        assert fields["quality"]["std"] == pytest.approx(film.std(), abs=1e-3)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_plain_webdataset_reads_it(whole: Path) -> None:
    urls = sorted(map(str, whole.glob("shard-*.tar")))
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [f"{n:09d}" for n in range(10)]
    assert all(images.read(sample["png"]).shape == (SIZE, SIZE) and sample["json"] for sample in samples)
    gc.collect()  # webdataset leaves its files to the collector, which warns


def test_the_same_command_gives_the_same_bytes_and_is_idle_when_finished(
    whole: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = draw(tiny_checkpoint, tmp_path / "again")
    assert content(again) == content(whole)
    monkeypatch.setattr(room, "sample", lambda *_, **__: pytest.fail("a finished run draws nothing"))
    stamp = (again / "manifest.json").stat().st_mtime_ns
    assert draw(tiny_checkpoint, again) == again
    assert (again / "manifest.json").stat().st_mtime_ns == stamp


@pytest.mark.parametrize("batches", [0, 1, 2, 3, 4])
def test_an_interrupted_run_ends_in_the_same_bytes(
    whole: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batches: int
) -> None:
    left, real = [batches], room.sample

    def interrupted(*args, **kwargs):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(room, "sample", interrupted)
        with pytest.raises(KeyboardInterrupt):
            draw(tiny_checkpoint, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()
    drawn: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(room, "sample", lambda c, p, *a, **k: drawn.append(len(p)) or real(c, p, *a, **k))
        draw(tiny_checkpoint, tmp_path / "out", batch_size=None)
    assert sum(drawn) == 10 - 4 * (batches // 2)
    assert content(tmp_path / "out") == content(whole)


@pytest.mark.parametrize(
    "victim", ["shard-000001.tar", "shard-000002.index", "preview.png", "execution.json"]
)
def test_a_lost_file_comes_back(whole: Path, tiny_checkpoint: Path, tmp_path: Path, victim: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name, data in content(whole).items():
        if name != victim:
            (out / name).write_bytes(data)
    draw(tiny_checkpoint, out)
    assert content(out) == content(whole)


@pytest.mark.parametrize("batch_size", [1, 10])
def test_batch_size_changes_no_key_prompt_or_picture(
    whole: Path, tiny_checkpoint: Path, tmp_path: Path, batch_size: int
) -> None:
    other = ShardSet(draw(tiny_checkpoint, tmp_path / "out", batch_size=batch_size, shard_size=10))
    for (ours, film), (theirs, their_film) in zip(ShardSet(whole), other, strict=True):
        assert (ours.key, ours.prompt, ours.labels) == (theirs.key, theirs.prompt, theirs.labels)
        assert np.abs(images.read(film).astype(int) - images.read(their_film).astype(int)).max() <= 2


def test_another_recipe_for_the_folder_is_refused(whole: Path, tiny_checkpoint: Path) -> None:
    before = content(whole)
    with pytest.raises(OutputFolderError, match=r"differs in .*seed.*num_inference_steps"):
        draw(tiny_checkpoint, whole, seed=6, num_inference_steps=9)
    with pytest.raises(OutputFolderError, match=r"plan\.0\.count"):
        draw(tiny_checkpoint, whole, count=11, dry_run=True)
    assert content(whole) == before


def test_a_folder_with_other_files_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("words")
    with pytest.raises(OutputFolderError, match=r"thesis\.tex"):
        draw(tiny_checkpoint, tmp_path)
    assert list(content(tmp_path)) == ["thesis.tex"]


def test_two_writers(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with lock(tmp_path / "out"), pytest.raises(OutputFolderError, match="another process"):
        draw(tiny_checkpoint, tmp_path / "out")


def test_a_recipe_of_another_checkpoint(whole: Path, tmp_path: Path) -> None:
    other = build(tmp_path / "other", prediction_type="epsilon")
    with pytest.raises(RecipeError, match="made for checkpoint tiny"):
        generate(recipe=whole / "recipe.yaml", model=other, device="cpu")
    for given in ({"labels": EFFUSION}, {"count": 16}, {"view": "PA"}):
        with pytest.raises(UserError, match="--recipe has its own plan"):
            generate(recipe=whole / "recipe.yaml", model=other, **given)


def test_a_setting_given_beside_a_recipe_replaces_the_recipes_own(
    whole: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    # 0 and "png" are also what no flag means: given, they still count.
    settings = {"seed": 0, "shard_size": 1000, "format": "png", "guidance_scale": 1.0}
    out = generate(
        recipe=whole / "recipe.yaml", model=tiny_checkpoint, out=tmp_path / "out", device="cpu", **settings
    )
    before, after = GenerateRecipe.load(whole / "recipe.yaml"), GenerateRecipe.load(out / "recipe.yaml")
    assert after == before.with_overrides(settings) and before.seed == 5 and before.shard_size == 4
    assert ShardSet(out)[0][0].to_json()["seed"] == 0


def test_progress_counts_to_the_end(tiny_checkpoint: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    draw(tiny_checkpoint, tmp_path / "out", on_progress=seen.append)
    assert [progress.done for progress in seen] == [3, 4, 7, 8, 10]
    assert all(progress.total == 10 and progress.images_per_second > 0 for progress in seen)
    assert seen[-1].seconds_left == 0 < seen[0].seconds_left


def test_encoding_overlaps_sampling(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads, encode = set(), images.encode
    monkeypatch.setattr(
        images, "encode", lambda *a: threads.add(threading.current_thread().name.split("_")[0]) or encode(*a)
    )
    draw(tiny_checkpoint, tmp_path / "out", count=3)
    assert threads == {"shard", "MainThread"}  # films in the thread, the contact sheet in the main one


def test_out_of_memory_halves_the_batch_before_the_run(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried, real = [], execution.sample

    def small(checkpoint, prompts, *args, **kwargs):
        tried.append(len(prompts))
        if len(prompts) > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return real(checkpoint, prompts, *args, **kwargs)

    monkeypatch.setattr(execution, "sample", small)
    with pytest.warns(UserWarning, match="--batch-size 8 does not fit in memory; using 2"):
        out = draw(tiny_checkpoint, tmp_path / "out", batch_size=8, shard_size=10)
    assert tried == [8, 4, 2]
    assert json.loads((out / "execution.json").read_text())["batch_size"] == 2
    monkeypatch.setattr(execution, "sample", lambda *_, **__: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(OutOfMemoryError, match="--image-size") as caught:
        draw(tiny_checkpoint, tmp_path / "other")
    assert caught.value.exit_code == 1


def test_a_full_disk_stops_the_run_and_keeps_what_is_whole(
    whole: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = writing.write_shard

    def full(folder, number, samples):
        if number == 1:
            next(iter(samples))
            raise DiskFullError(f"{folder}: no room left")
        return real(folder, number, samples)

    with monkeypatch.context() as patch:
        patch.setattr(writing, "write_shard", full)
        with pytest.raises(DiskFullError):
            draw(tiny_checkpoint, tmp_path / "out")
    assert (tmp_path / "out" / "shard-000000.tar").exists() and not (
        tmp_path / "out" / "manifest.json"
    ).exists()
    assert content(draw(tiny_checkpoint, tmp_path / "out")) == content(whole)


def test_killed_in_the_middle_it_resumes_to_the_same_bytes(
    whole: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """A real SIGKILL; benchmarks/kill_resume.py does it many times at random moments."""
    out = tmp_path / "out"
    script = (
        "import os, signal, sys, torch; torch.set_num_threads(1)\n"
        "from synthaug.generation import generate\n"
        "kill = lambda progress: progress.done >= 7 and os.kill(os.getpid(), signal.SIGKILL)\n"
        "generate('pleural_effusion', count=10, shard_size=4, batch_size=3, seed=5, device='cpu',"
        " model=sys.argv[1], out=sys.argv[2], on_progress=kill)\n"
    )
    root = Path(synthaug.__file__).parents[1]
    killed = subprocess.run(
        [sys.executable, "-c", script, str(tiny_checkpoint), str(out)], cwd=root, check=False
    )
    assert killed.returncode == -9
    assert not (out / "manifest.json").exists()
    draw(tiny_checkpoint, out)
    assert content(out) == content(whole)


def test_a_run_goes_on_with_the_execution_that_it_began_with(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(tiny_checkpoint, tmp_path / "out")
    (tmp_path / "out" / "manifest.json").unlink()
    with pytest.warns(UserWarning, match="began with --batch-size 3"):
        draw(tiny_checkpoint, tmp_path / "out", batch_size=5)
    (tmp_path / "out" / "manifest.json").unlink()
    monkeypatch.setattr(execution, "versions", lambda: {"torch": "99"})
    with pytest.warns(UserWarning, match="other versions .torch"):
        draw(tiny_checkpoint, tmp_path / "out")


def test_guidance_and_steps_of_the_card_are_resolved_into_the_recipe(whole: Path) -> None:
    recipe, card = GenerateRecipe.load(whole / "recipe.yaml"), tiny_card()
    assert (recipe.guidance_scale, recipe.num_inference_steps) == (
        card.guidance_scale,
        card.num_inference_steps,
    )
    assert recipe.guidance_interval == card.guidance_interval and recipe.image_size == SIZE
    assert [key for key, value in recipe.values().items() if value is None] == ["feature_interval", "gates"]
