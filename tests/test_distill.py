"""`distill`: the student of a teacher whose ODE is solved on paper, its step as diffusers' DDIM makes it, whole runs, kills."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from teacher_on_paper import SHAPE, SPREAD, OnPaper, drawn, growth
from tiny_checkpoint import SIZE, build
from torch import Tensor, nn

from synthaug import cli
from synthaug.adaptation.adapt import adapt
from synthaug.adaptation.denoising import DiffusionRecipe
from synthaug.adaptation.distill import WindowRoute, find_knots, window_target
from synthaug.adaptation.loop import Training
from synthaug.adaptation.route import Execution, Progress
from synthaug.adaptation.routes import load_recipe
from synthaug.adaptation.teacher_paths import Knots, Paths, read_paths
from synthaug.datasets import RealRadiographs
from synthaug.diffusion import Checkpoint, load_checkpoint, sample
from synthaug.diffusion.schedule import make_scheduler
from synthaug.errors import RecipeError

CPU = Execution(device="cpu", precision="float32", save_every=12)


@pytest.fixture(scope="module")
def tiny(tiny_checkpoint: Path) -> Checkpoint:
    return load_checkpoint(tiny_checkpoint, "cpu", "float32")


def test_power_tells_a_smooth_student_from_one_of_equal_error(tiny: Checkpoint, tmp_path: Path) -> None:
    knots, paths = drawn(tiny, tmp_path, share=0.0, steps=8)
    route = window_route(Linear(knots.times), knots, paths)
    route.power = 0.5
    batch = route.fixed_batch(range(8, 40))
    off = 0.3 * batch.target.std((1, 2, 3), keepdim=True)
    # Wrong by a constant, which is of no frequency, and wrong by as much because every frequency is weaker.
    shifted = batch.target + off
    weaker = (
        batch.alpha / batch.sigma * batch.noisy
        - (1 - 0.3) * (batch.alpha * batch.noisy - batch.sigma * batch.target) / batch.sigma
    )
    for wrong, least, most in (
        (batch.target, 0, 0),
        (shifted, 0, 0.05),
        (weaker, -2 * np.log(0.7) - 0.1, 0.8),
    ):
        route.players["unet"] = Fixed(wrong)
        loss, figures = route.loss("unet", batch, 0)
        assert least <= float(figures["power"]) <= most
        error = float((wrong - batch.target).square().mean())
        assert float(loss) == pytest.approx(error + 0.5 * float(figures["power"]), rel=1e-5)


@pytest.mark.parametrize("knot", range(8))
def test_the_target_is_where_ddim_of_diffusers_lands(tiny: Checkpoint, knot: int) -> None:
    config = tiny.scheduler_config
    ddim = make_scheduler(config, "ddim")
    knots = find_knots(ddim, 8, 1)
    generator = torch.Generator().manual_seed(knot)
    start, end = torch.randn((2, 3, *SHAPE), generator=generator)
    t = torch.full((3,), knot)
    assert torch.equal(knots.end(t), t + 1)
    target = window_target(start, end, t, t + 1, knots)
    ddim.set_timesteps(8)
    landed = ddim.step(target, ddim.timesteps[knot], start, return_dict=False)[0]
    torch.testing.assert_close(landed, end, atol=1e-5, rtol=1e-5)


class Linear(nn.Module):
    """v = a_t z: all that a student of the teacher on paper needs."""

    def __init__(self, times: Tensor):
        super().__init__()
        self.times, self.slopes = times, nn.Parameter(torch.zeros(len(times)))

    def forward(self, z: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
        places = (timesteps[:, None] == self.times).float()
        return (places @ self.slopes)[:, None, None, None] * z


class Fixed(nn.Module):
    """The same prediction whatever it is asked."""

    def __init__(self, prediction: Tensor):
        super().__init__()
        self.prediction = prediction

    def forward(self, *_: Tensor) -> Tensor:
        return self.prediction


def window_route(
    module: nn.Module, knots: Knots, paths: Paths, prediction: str = "v_prediction"
) -> WindowRoute:
    recipe = DiffusionRecipe(steps=120, batch_size=16, learning_rate=0.05, warmup=0, weight_decay=0.0)
    text = torch.zeros((1, 1, 1)), torch.zeros(len(paths.films), dtype=torch.long)
    return WindowRoute(module, prediction, knots, paths, text, range(len(paths.films)), recipe)


def test_a_student_learns_the_map_on_paper_and_draws_the_data(tiny: Checkpoint, tmp_path: Path) -> None:
    knots, paths = drawn(tiny, tmp_path / "paths", share=0.0)
    student = Linear(knots.times)
    route = window_route(student, knots, paths)
    training = Training(route, route.recipe, tmp_path / "state", {}, Accelerator(cpu=True))
    losses = [record.figures["unet/loss"] for record in training.run()]
    assert np.mean(losses[-10:]) < np.mean(losses[:3]) / 20
    for knot in range(8):
        end = int(knots.end(torch.tensor(knot)))
        one = torch.ones((1, 1, 1, 1))
        at, to = torch.tensor([knot]), torch.tensor([end])
        expected = float(window_target(one, one * growth(knots, knot, end), at, to, knots))
        assert abs(student.slopes[knot].item() - expected) < 0.02
    ddim = make_scheduler(tiny.scheduler_config, "ddim")
    ddim.set_timesteps(4)
    z = torch.randn((64, *SHAPE), generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        for time in ddim.timesteps:
            z = ddim.step(student(z, time.expand(len(z)), z), time, z, return_dict=False)[0]
    assert abs(float(z.std()) / SPREAD - 1) < 0.03  # four steps; the same four of the teacher give:
    teacher, w = OnPaper(ddim.alphas_cumprod), torch.ones((1, 1, 1, 1))
    with torch.no_grad():
        for time in ddim.timesteps:
            w = ddim.step(teacher(w, time, w)[0], time, w, return_dict=False)[0]
    assert abs(float(w) / SPREAD - 1) > 0.1


def test_paths_that_begin_at_films_hold_them_under_noise(tiny: Checkpoint, tmp_path: Path) -> None:
    knots, paths = drawn(tiny, tmp_path, share=1.0)
    assert set(paths.begins.tolist()) <= {2, 4, 6} and len(set(paths.begins.tolist())) > 1
    for path, begin in enumerate(paths.begins.tolist()):
        assert not paths.states[path, :begin].any()
        film = 10.0 * paths.films[path]
        noise = (paths.states[path, begin].float() - knots.alpha[begin] * film) / knots.sigma[begin]
        assert abs(float(noise.mean())) < 0.3 and abs(float(noise.std()) - 1) < 0.2
    with pytest.raises(RecipeError, match="too few to have one at every knot"):
        window_route(Linear(knots.times), knots, paths)


def test_a_batch_holds_only_what_is_on_the_paths(tiny: Checkpoint, tmp_path: Path) -> None:
    knots, paths = drawn(tiny, tmp_path, share=0.5)
    assert 0 < int((paths.begins > 0).sum()) < 48
    route = window_route(Linear(knots.times), knots, paths)
    whole = route.batch(3, 0, 1)
    assert sorted(whole.windows.tolist()) == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4
    assert all(part.flatten(1).any(1).all() for part in (whole.noisy,))
    halves = [route.batch(3, rank, 2) for rank in range(2)]
    for ours, theirs in zip(whole, zip(*halves, strict=True), strict=True):
        assert torch.equal(ours, torch.cat(theirs))
    assert not torch.equal(route.batch(4, 0, 1).noisy, whole.noisy)


def test_epsilon_is_read_as_v(tmp_path: Path) -> None:
    base = load_checkpoint(build(tmp_path / "c", prediction_type="epsilon", zero_snr=False), "cpu", "float32")
    config = base.scheduler_config | {"timestep_spacing": "trailing"}
    knots = find_knots(make_scheduler(config, "ddim"), 2, 1)
    states = torch.randn((5, 3, *SHAPE), generator=torch.Generator().manual_seed(0)).half()
    paths = Paths(states, torch.zeros(5), ("",) * 5, torch.zeros(5))
    route = window_route(Linear(knots.times), knots, paths, "epsilon")
    batch = route.fixed_batch([0, 1, 4, 7])
    knot = torch.tensor([0, 1, 0, 1])
    alpha, sigma = (part[knot].float()[:, None, None, None] for part in (knots.alpha, knots.sigma))
    right = alpha * batch.target + sigma * batch.noisy  # e = alpha v + sigma z
    assert route.errors(lambda *_: right, batch).max() < 1e-6
    assert route.errors(lambda *_: right + 1, batch).min() > 0.5


@pytest.fixture(scope="module")
def start(tiny_nih: Path, tiny_checkpoint: Path) -> Callable[..., Iterator[Progress]]:
    """`start(out)` begins the smoke recipe on the drawn films."""

    def run(out: Path, changes: dict | None = None, model: Path | None = None) -> Iterator[Progress]:
        recipe = load_recipe("distill_smoke", changes)
        return adapt(
            recipe, [RealRadiographs(tiny_nih)], out, model=str(model or tiny_checkpoint), execution=CPU
        )

    return run


@pytest.fixture(scope="module")
def made(start: Callable, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, list]]:
    """A finished checkpoint and a finished adapter, with their steps."""
    done = {}
    for name, changes in (("checkpoint", None), ("adapter", {"rank": 4, "training.learning_rate": 3e-3})):
        out = tmp_path_factory.mktemp(name) / "student"
        done[name] = out, list(start(out, changes))
    return done


@pytest.mark.parametrize("kind", ["checkpoint", "adapter"])
def test_the_loss_falls_and_held_out_patients_are_looked_at(made: dict, kind: str) -> None:
    steps = made[kind][1]
    assert [p.part for p in steps] == ["paths"] * 4 + ["distill"] * 24
    checks = [p.record.figures["unet/validation"] for p in steps if "unet/validation" in p.record.figures]
    assert len(checks) == 2 and np.isfinite(checks).all()
    losses = [p.record.figures["unet/loss"] for p in steps if p.part == "distill"]
    assert np.mean(losses[-6:]) < np.mean(losses[:3])


@pytest.mark.parametrize("kind", ["checkpoint", "adapter"])
def test_the_student_generates_in_its_few_steps(
    made: dict, tiny_checkpoint: Path, tmp_path: Path, kind: str
) -> None:
    student, base = load_checkpoint(made[kind][0], "cpu", "float32"), load_checkpoint(tiny_checkpoint, "cpu")
    card = student.card
    assert (card.route, card.num_inference_steps, card.guidance_scale, card.scheduler) == (
        "distill",
        2,
        1.0,
        "ddim",
    )
    assert card.base is not None and card.base.sha256 == base.sha256 != student.sha256
    out = tmp_path / "films"
    command = ["generate", "--model", str(made[kind][0]), "--label", "no_finding", "--count", "2"]
    assert cli.main([*command, "--device", "cpu", "--out", str(out)]) == 0
    recipe = (out / "recipe.yaml").read_text()
    assert "num_inference_steps: 2\n" in recipe and "guidance_scale: 1.0\n" in recipe
    more = sample(student, ["chest radiograph"], [(0, 0)], num_inference_steps=4)
    assert more.shape == (1, 1, SIZE, SIZE) and more.std() > 1
    text = (made[kind][0] / "README.md").read_text()
    assert "guidance folded in" in text


def test_texts_name_the_findings_of_the_recipe_alone(start: Callable, tmp_path: Path) -> None:
    captions = {"name_finding": 1.0, "name_absent": 1.0, "name_view": 0.0, "name_sex": 0.0, "name_age": 0.0}
    named = {}
    for findings in (["pleural_effusion"], ["pleural_effusion", "cardiomegaly", "atelectasis"]):
        out = tmp_path / str(len(findings))
        run = start(out, {"findings": findings, "captions": {**captions, "dropout": 0.0}})
        for progress in run:
            if progress.part == "distill":
                break
        run.close()
        folder = next((out / "training").glob("paths-*"))
        texts = read_paths(folder, 4).texts
        named[len(findings)] = {part for text in texts for part in text.partition(": ")[2].split(", ")}
    assert named[1] <= {"", "pleural effusion", "no pleural effusion"} and "pleural effusion" in named[1]
    assert {"pleural effusion", "cardiomegaly"} <= named[3]


def test_what_was_killed_goes_on_as_if_it_had_not_been(start: Callable, made: dict, tmp_path: Path) -> None:
    whole, steps = made["checkpoint"]
    first = start(tmp_path / "s")
    for _ in range(2):  # while the teacher draws
        next(first)
    first.close()
    kept = next((tmp_path / "s" / "training").glob("paths-*/000000.safetensors"))
    written = kept.stat().st_mtime_ns
    second = start(tmp_path / "s")
    for _ in range(4 + 13):  # one step beyond the saved state
        next(second)
    second.close()
    assert [p.record for p in start(tmp_path / "s")][4:] == [p.record for p in steps[16:]]
    assert kept.stat().st_mtime_ns == written
    for path in whole.glob("unet/*.safetensors"):
        ours, theirs = load_file(tmp_path / "s" / path.relative_to(whole)), load_file(path)
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in theirs)


def test_an_adapters_file_is_half_precision_and_changes_convolutions(
    made: dict, tiny_checkpoint: Path
) -> None:
    factors = load_file(made["adapter"][0] / "pytorch_lora_weights.safetensors")
    assert {t.dtype for t in factors.values()} == {torch.float16}
    assert any("resnets.0.conv1.lora_A" in name for name in factors)
    before = load_checkpoint(tiny_checkpoint, "cpu", "float32").unet
    after = load_checkpoint(made["adapter"][0], "cpu", "float32").unet
    name = "down_blocks.0.resnets.0.conv1"
    down, up = (factors[f"unet.{name}.lora_{side}.weight"].float() for side in "AB")
    change = (up.flatten(1) @ down.flatten(1)).reshape(before.get_submodule(name).weight.shape) * 16 / 4
    expected = before.get_submodule(name).weight + change
    assert change.abs().max() > 0
    torch.testing.assert_close(after.get_submodule(name).weight, expected, atol=1e-6, rtol=0)


def test_a_base_that_predicts_epsilon_with_leading_steps(start: Callable, tmp_path: Path) -> None:
    base = build(tmp_path / "base", prediction_type="epsilon", zero_snr=False)
    with pytest.raises(RecipeError, match="timestep_spacing trailing"):
        next(start(tmp_path / "low", {"rank": 4}, base))
    changes = {"training.learning_rate": 1e-4, "training.steps": 4, "validation": 0.0}
    steps = list(start(tmp_path / "student", changes, base))
    assert np.isfinite(steps[-1].record.figures["unet/loss"])
    student = load_checkpoint(tmp_path / "student", "cpu", "float32")
    index = json.loads((tmp_path / "student" / "scheduler" / "scheduler_config.json").read_text())
    assert (index["_class_name"], index["timestep_spacing"]) == ("DDIMScheduler", "trailing")
    assert sample(student, ["chest radiograph"], [(0, 0)]).shape == (1, 1, SIZE, SIZE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"paths.teacher_steps": 6}, "expected a multiple of windows x knots, 4"),
        ({"offset_noise": 0.1}, "offset_noise has no use"),
        ({"prior": {"count": 4}}, "prior has no use"),
        ({"training.min_snr": 5.0}, "min_snr has no use"),
        ({"windows": 3, "paths.teacher_steps": 6, "knots": 1}, None),
    ],
)
def test_recipes_that_cannot_be(changes: dict, message: str | None) -> None:
    if message is None:
        assert load_recipe("distill_smoke", changes).windows == 3
        return
    with pytest.raises(RecipeError, match=message):
        load_recipe("distill_smoke", changes)


def test_the_packaged_recipe_fits_the_embedded_checkpoint() -> None:
    recipe = load_recipe("distill")
    assert (recipe.windows, recipe.rank) == (4, 20) and "pleural_effusion" in recipe.findings
    checkpoint = load_checkpoint("embedded", "cpu", "float32")
    layers = [
        layer
        for name, layer in checkpoint.unet.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d) and name.endswith(tuple(f".{t}" for t in recipe.targets))
    ]
    size = sum(2 * recipe.rank * (layer.weight[0].numel() + len(layer.weight)) for layer in layers)
    weights = 2 * sum(
        p.numel()
        for part in (checkpoint.unet, checkpoint.vae, checkpoint.text_encoder)
        for p in part.parameters()
    )
    assert len(layers) > 100 and size + weights < 60e6  # bytes in half precision
