"""The from-scratch route end to end on drawn films, its resume, and what it refuses."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from synthaug.adaptation.adapt import adapt
from synthaug.adaptation.batches import draws
from synthaug.adaptation.films import lacking
from synthaug.adaptation.from_scratch import FromScratchRecipe
from synthaug.adaptation.loop import LoopRecipe, Training
from synthaug.adaptation.route import Execution, Progress
from synthaug.datasets import RealRadiographs
from synthaug.diffusion import load_checkpoint, sample
from synthaug.errors import (
    DataError,
    DiskFullError,
    NotInstalledError,
    OutputFolderError,
    TrainingDivergedError,
    UnknownNameError,
)
from synthaug.prompts import render
from synthaug.record import Record


class Line:
    """y = w x + b by least squares: a route with one player, for the loop's own tests."""

    def __init__(self, poison: int | None = None) -> None:
        torch.manual_seed(3)
        self.players: dict[str, torch.nn.Module] = {"line": torch.nn.Linear(2, 1)}
        self.poison = poison

    def batch(self, step: int, rank: int, world: int) -> torch.Tensor:
        return torch.randn(16, 2, generator=draws(5, step))

    def loss(
        self, player: str, batch: torch.Tensor, step: int
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        target = batch @ torch.tensor([[2.0], [-1.0]]) + 0.5
        loss = (self.players[player](batch) - target).square().mean()
        return (loss * float("nan") if step == self.poison else loss), {}


CPU = Execution(device="cpu", precision="float32", save_every=4)
RECIPE = LoopRecipe(
    steps=200, batch_size=16, learning_rate=0.1, warmup=5, ema=0.8, weight_decay=0.0, clip=100.0
)


@pytest.fixture(autouse=True)
def own_precision() -> None:
    """Accelerate keeps its settings for the whole process: those of an earlier test are not this one's."""
    AcceleratorState._reset_state()


def start(folder: Path, recipe: LoopRecipe = RECIPE, poison: int | None = None) -> Training:
    return Training(Line(poison), recipe, folder, {"recipe": recipe.values()}, Accelerator(cpu=True))


def test_the_loop_finds_the_line_and_its_average_too(tmp_path: Path) -> None:
    training = start(tmp_path)
    losses = [record.figures["line/loss"] for record in training.run()]
    assert losses[-1] < 1e-3 < losses[0]
    averaged = training.averaged("line")
    torch.testing.assert_close(averaged["weight"], torch.tensor([[2.0, -1.0]]), atol=0.05, rtol=0)
    torch.testing.assert_close(averaged["bias"], torch.tensor([0.5]), atol=0.05, rtol=0)


def test_losses_after_a_kill_equal_those_without(tmp_path: Path) -> None:
    whole = [record.figures for record in start(tmp_path / "whole").run()]
    first = start(tmp_path / "cut").run(save_every=10)
    for _ in range(27):  # seven steps beyond the last saved state
        next(first)
    resumed = start(tmp_path / "cut")
    assert resumed.step == 20
    assert [record.figures for record in resumed.run()] == whole[20:]
    whole_average, cut_average = start(tmp_path / "whole").averaged("line"), resumed.averaged("line")
    assert all(torch.equal(whole_average[name], cut_average[name]) for name in whole_average)


def test_pieces_of_a_batch_learn_what_the_whole_learns(tmp_path: Path) -> None:
    whole = [record.figures["line/loss"] for record in start(tmp_path / "whole").run(until=60)]
    route = Line()
    pieces = Training(
        route, RECIPE, tmp_path / "cut", {"recipe": RECIPE.values()}, Accelerator(cpu=True), micro_batch=5
    )
    assert [record.figures["line/loss"] for record in pieces.run(until=60)] == pytest.approx(whole, rel=1e-3)


def test_the_longest_start_of_a_name_decides_its_rate(tmp_path: Path) -> None:
    rates = {"": 0.5, "b": 0.0}
    training = Training(Line(), RECIPE, tmp_path, {}, Accelerator(cpu=True), rates)
    before = copy.deepcopy(training.route.players["line"].state_dict())
    list(training.run(until=3))
    after = training.route.players["line"].state_dict()
    assert torch.equal(after["bias"], before["bias"]) and not torch.equal(after["weight"], before["weight"])
    # The first step of Adam is the rate itself, whatever the gradient.
    single = Training(Line(), RECIPE, tmp_path / "one", {}, Accelerator(cpu=True), rates)
    list(single.run(until=1))
    step = (single.route.players["line"].weight - before["weight"]).abs()
    torch.testing.assert_close(step, torch.full_like(step, 0.5 * 0.1 / 5), rtol=1e-4, atol=0)


def test_a_full_disk_is_said_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = start(tmp_path)
    needed = training.state_bytes()
    assert needed == 16 * 3  # three numbers: weight, average and two moments of each
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2 * needed - 1))
    with pytest.raises(DiskFullError, match=r"found 0\.00 GB free"):
        next(training.run())
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2 * needed))
    next(training.run())


def test_a_state_of_other_settings_is_refused_by_name(tmp_path: Path) -> None:
    next(start(tmp_path).run(save_every=1))
    with pytest.raises(OutputFolderError, match=r"recipe\.learning_rate"):
        start(tmp_path, RECIPE.model_copy(update={"learning_rate": 0.2}))


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_state(tmp_path: Path) -> None:
    with pytest.raises(TrainingDivergedError, match="step 33"):
        list(start(tmp_path, poison=33).run(save_every=10))
    assert start(tmp_path).step == 30


class Overflowing(Line):
    """A line whose gradient, never its loss, overflows at some steps."""

    def __init__(self, at: range) -> None:
        super().__init__()
        self.at = at

    def loss(
        self, player: str, batch: torch.Tensor, step: int
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        loss, more = super().loss(player, batch, step)
        if step in self.at:
            loss.register_hook(lambda gradient: gradient * float("inf"))
        return loss, more


def test_a_gradient_that_is_not_finite_is_left_out_and_many_in_a_row_end_the_run(tmp_path: Path) -> None:
    def run(at: range, folder: Path) -> Training:
        return Training(Overflowing(at), RECIPE, folder, {"recipe": RECIPE.values()}, Accelerator(cpu=True))

    some = run(range(30, 34), tmp_path / "some")
    list(some.run(until=30))
    before = copy.deepcopy(some.route.players["line"].state_dict())
    with pytest.warns(UserWarning, match=r"of line is left out: .*2 tensors, first weight") as told:
        records = list(some.run(until=34))
    assert str(told[0].message).startswith("step 30 ")
    assert [record.figures["line/skipped"] for record in records] == [1.0] * 4
    assert torch.equal(some.route.players["line"].weight, before["weight"])
    assert "line/skipped" not in next(some.run()).figures
    with (
        pytest.warns(UserWarning, match="left out"),
        pytest.raises(TrainingDivergedError, match="the gradient of line"),
    ):
        list(run(range(30, 90), tmp_path / "many").run())


def test_swapping_in_the_average_leaves_the_weights_as_they_were(tmp_path: Path) -> None:
    training = start(tmp_path)
    list(training.run(until=20))
    module = training.route.players["line"]
    before = copy.deepcopy(module.state_dict())
    with training.swapped("line"):
        assert torch.equal(module.weight, training.averaged("line")["weight"])
        assert not torch.equal(module.weight, before["weight"])
    assert torch.equal(module.weight, before["weight"])


@pytest.fixture(scope="module")
def smoke() -> FromScratchRecipe:
    return FromScratchRecipe.load("from_scratch_smoke")


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, tiny_nih: Path, smoke: FromScratchRecipe
) -> tuple[Path, list]:
    out = tmp_path_factory.mktemp("adapt") / "checkpoint"
    data = [RealRadiographs(tiny_nih)]
    steps = list(adapt(smoke, data, out, execution=CPU, log_with="tensorboard"))
    return out, steps


def test_every_part_is_trained_and_the_checkpoint_generates(
    made: tuple[Path, list], smoke: FromScratchRecipe
) -> None:
    out, steps = made
    assert [progress.part for progress in steps] == ["autoencoder"] * 6 + ["unet 1/2"] * 4 + ["unet 2/2"] * 4
    checkpoint = load_checkpoint(out, device="cpu")
    assert checkpoint.findings == smoke.findings and checkpoint.image_size == 64
    assert checkpoint.card.seen == ("atelectasis", "cardiomegaly", "pleural_effusion")
    images = sample(checkpoint, [render({"pleural_effusion": 1})] * 2, [(0, 0), (0, 1)])
    assert images.shape == (2, 1, 64, 64) and not (images[0] == images[1]).all()
    assert "pleural effusion" in (out / "README.md").read_text()
    assert list((out / "training" / "samples").glob("unet-2-2-000004.png"))
    assert list((out / "training" / "logs").rglob("events.out.tfevents*"))


def test_no_patient_is_named_in_what_is_written(made: tuple[Path, list], tiny_nih: Path) -> None:
    out, _ = made
    texts = [
        path.read_text(errors="ignore") for path in out.rglob("*") if path.suffix in (".md", ".json", ".yaml")
    ]
    assert texts and not any(path.stem in text for path in (tiny_nih / "images").iterdir() for text in texts)


def test_children_stay_out_of_the_adult_model(made: tuple[Path, list]) -> None:
    out, _ = made
    assert "| films | 22 |" in (out / "README.md").read_text()  # 24 films, two of a ten-year-old


def test_the_same_call_resumes_and_another_recipe_is_refused(
    made: tuple[Path, list], smoke: FromScratchRecipe, tiny_nih: Path
) -> None:
    out, _ = made
    data = [RealRadiographs(tiny_nih)]
    before = (out / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    assert list(adapt(smoke, data, out, execution=CPU)) == []
    assert (out / "unet" / "diffusion_pytorch_model.safetensors").read_bytes() == before
    other = FromScratchRecipe.load("from_scratch_smoke", {"captions.dropout": 0.2})
    with pytest.raises(OutputFolderError, match=r"captions\.dropout"):
        next(adapt(other, data, out, execution=CPU))


def test_parts_trained_apart_give_the_checkpoint_of_one_run(
    made: tuple[Path, list], smoke: FromScratchRecipe, tiny_nih: Path, tmp_path: Path
) -> None:
    data = [RealRadiographs(tiny_nih)]
    for part in ("unet", "autoencoder", None):
        list(adapt(smoke, data, tmp_path / "apart", execution=replace(CPU, part=part)))
    for component in ("unet", "vae"):
        name = f"{component}/diffusion_pytorch_model.safetensors"
        apart, together = load_file(tmp_path / "apart" / name), load_file(made[0] / name)
        different = [key for key, weight in together.items() if not torch.equal(apart[key], weight)]
        assert not different


def test_folders_without_a_fitting_film_are_refused(
    smoke: FromScratchRecipe, tiny_nih: Path, tmp_path: Path
) -> None:
    children = RealRadiographs(tiny_nih, max_age=17)
    with pytest.raises(DataError, match="no frontal film of a patient of 18 years"):
        next(adapt(smoke, [children], tmp_path / "out", execution=CPU))


def test_films_that_show_what_a_base_must_not_see_are_left_out(tiny_nih: Path, tmp_path: Path) -> None:
    recipe = FromScratchRecipe.load(
        "from_scratch_smoke", {"findings": ["no_finding"], "without": ["Effusion", "edema"]}
    )
    assert recipe.without == ("pleural_effusion", "edema")
    for _ in adapt(recipe, [RealRadiographs(tiny_nih)], tmp_path / "base", execution=CPU):
        pass
    card = load_checkpoint(tmp_path / "base", device="cpu").card
    assert (card.findings, card.seen) == (("no_finding",), ("cardiomegaly",))
    assert "| films | 12 |" in (tmp_path / "base" / "README.md").read_text()


def test_films_of_which_it_is_not_known_are_left_out_too(tiny_nih: Path, tmp_path: Path) -> None:
    records = [
        Record("a", {"edema": 0.0, "mass": 1.0}),
        Record("b", {"mass": 1.0}),
        Record("c", {"no_finding": 1.0}),
        Record("d", {"edema": 1.0}),
    ]
    assert lacking(records, ["edema"]) == [0, 2]
    assert lacking(records, []) == [0, 1, 2, 3]
    recipe = FromScratchRecipe.load("from_scratch_smoke", {"without": ["hernia", "scoliosis"]})
    ill = RealRadiographs(tiny_nih, findings=["pleural_effusion"])
    ill = ill.subset([i for i, label in enumerate(ill.labels[:, 0]) if label == 1])
    with pytest.raises(DataError, match=r"without: none of the 10 films .* scoliosis"):
        next(adapt(recipe, [ill], tmp_path / "none", execution=CPU))


def test_an_unknown_tracker_is_refused(smoke: FromScratchRecipe, tiny_nih: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="tensorboard"):
        next(
            adapt(smoke, [RealRadiographs(tiny_nih)], tmp_path / "out", execution=CPU, log_with="tensorbord")
        )


def test_a_tracker_that_is_not_installed_is_named(
    smoke: FromScratchRecipe, tiny_nih: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accelerate.utils.is_wandb_available", lambda: False)
    with pytest.raises(NotInstalledError, match="pip install wandb"):
        next(adapt(smoke, [RealRadiographs(tiny_nih)], tmp_path / "out", execution=CPU, log_with="wandb"))


def test_the_embedded_recipe_is_valid() -> None:
    recipe = FromScratchRecipe.load("embedded")
    assert recipe.legs[-1].image_size == recipe.image_size == 256
    assert recipe.film_sizes() == (256, 320, 384)


def test_a_kill_while_the_adversary_learns_changes_no_loss(
    smoke: FromScratchRecipe, tiny_nih: Path, tmp_path: Path
) -> None:
    data = [RealRadiographs(tiny_nih)]

    def run(name: str) -> Iterator[Progress]:
        how = replace(CPU, part="autoencoder", save_every=1)
        return adapt(smoke, data, tmp_path / name, execution=how)

    whole = [progress.record for progress in run("whole")]
    assert "adversary/loss" in whole[-2].figures
    first = run("cut")
    cut = [next(first).record for _ in range(5)]
    first.close()
    assert cut + [progress.record for progress in run("cut")] == whole
