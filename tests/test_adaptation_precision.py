"""Networks that hold bfloat16 copies of float32 masters, and moments of 8 bits."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from synthaug.adaptation.adapt import adapt
from synthaug.adaptation.batches import draws
from synthaug.adaptation.loop import LoopRecipe, Training
from synthaug.adaptation.masters import Masters
from synthaug.adaptation.route import HALF, Execution, Progress
from synthaug.adaptation.routes import load_recipe
from synthaug.datasets import RealRadiographs
from synthaug.diffusion import load_checkpoint
from synthaug.errors import NotInstalledError, OutputFolderError, UnknownNameError, UserError

Start = Callable[..., Iterator[Progress]]


@pytest.fixture
def start(tiny_nih: Path, tiny_checkpoint: Path) -> Start:
    """`start(route, out, precision)` begins the smoke recipe of a route on the drawn films."""

    def run(
        route: str, out: Path, precision: str, changes: dict | None = None, **how: Any
    ) -> Iterator[Progress]:
        recipe = load_recipe(f"{route}_smoke", changes)
        encoder = str(tiny_checkpoint / "text_encoder") if route == "text_projection" else None
        execution = replace(Execution("cpu", precision, save_every=4), **how)
        data = [RealRadiographs(tiny_nih)]
        return adapt(recipe, data, out, model=str(tiny_checkpoint), text_encoder=encoder, execution=execution)

    return run


def state(out: Path, route: str) -> dict[str, torch.Tensor]:
    return load_file(out / "training" / route / "state.safetensors")


@pytest.mark.parametrize("route", ["unet_text_encoder", "lora", "textual_inversion", "text_projection"])
def test_halved_networks_learn_what_autocast_learns(start: Start, tmp_path: Path, route: str) -> None:
    losses = {}
    for precision in ("float32", "bfloat16", HALF):
        steps = list(start(route, tmp_path / precision, precision))
        losses[precision] = torch.tensor([p.record.figures["unet/loss"] for p in steps])
    torch.testing.assert_close(losses[HALF], losses["float32"], rtol=1e-2, atol=0)
    # Autocast is no nearer to float32 than that either.
    torch.testing.assert_close(losses["bfloat16"], losses["float32"], rtol=1e-2, atol=0)
    whole, half = state(tmp_path / "float32", route), state(tmp_path / HALF, route)
    assert whole.keys() == half.keys()
    assert {value.dtype for key, value in half.items() if "/buffer/" not in key} == {torch.float32}


@pytest.mark.parametrize("route", ["unet", "lora"])
def test_a_kill_of_a_halved_run_changes_nothing(start: Start, tmp_path: Path, route: str) -> None:
    whole = [p.record for p in start(route, tmp_path / "whole", HALF)]
    first = start(route, tmp_path / "cut", HALF)
    cut = [next(first).record for _ in range(5)]  # one step beyond the last saved state
    first.close()
    assert cut[:4] + [p.record for p in start(route, tmp_path / "cut", HALF)] == whole
    ours, theirs = state(tmp_path / "cut", route), state(tmp_path / "whole", route)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_a_run_may_go_on_in_another_precision(start: Start, tmp_path: Path) -> None:
    list(start("unet", tmp_path, "bfloat16", max_steps=4))
    assert [p.record.step for p in start("unet", tmp_path, HALF)] == [5, 6, 7, 8]


def test_what_is_frozen_comes_back_to_the_bit(start: Start, tiny_checkpoint: Path, tmp_path: Path) -> None:
    list(start("unet", tmp_path, HALF))
    before = load_checkpoint(tiny_checkpoint, "cpu", "float32")
    after = load_checkpoint(tmp_path, "cpu", "float32")
    for name, weight in before.text_encoder.state_dict().items():
        assert torch.equal(after.text_encoder.state_dict()[name], weight), name
    moved = [n for n, w in before.unet.state_dict().items() if not torch.equal(after.unet.state_dict()[n], w)]
    assert moved


def test_masters_keep_steps_that_bfloat16_would_round_away() -> None:
    module = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(module.weight)
    held = Masters(module, half=True)
    optimizer = torch.optim.SGD(held.weights.values(), lr=1e-3)
    for _ in range(100):  # each step is an eighth of what bfloat16 can show beside 1
        optimizer.zero_grad()
        module(torch.ones(1, 1, dtype=torch.bfloat16)).sum().backward()
        held.collect()
        optimizer.step()
        held.publish()
    torch.testing.assert_close(held.weights["weight"].data, torch.tensor([[0.9]]), atol=1e-5, rtol=0)
    assert module.weight.dtype == torch.bfloat16 and abs(module.weight.item() - 0.9) < 2**-9
    held.restore()
    assert module.weight.dtype == torch.float32
    torch.testing.assert_close(module.weight.data, torch.tensor([[0.9]]), atol=1e-5, rtol=0)


def test_gradients_of_pieces_are_added_up_in_float32() -> None:
    module = torch.nn.Linear(1, 1, bias=False)
    held = Masters(module, half=True)
    for value in (1.0, 2.0**-10):  # their sum is 1 in bfloat16
        module(torch.full((1, 1), value, dtype=torch.bfloat16)).sum().backward()
        held.collect()
    assert held.weights["weight"].grad is not None
    assert held.weights["weight"].grad.item() == 1 + 2.0**-10 and module.weight.grad is None


class Line:
    """y = w x by least squares."""

    def __init__(self) -> None:
        torch.manual_seed(3)
        self.players: dict[str, torch.nn.Module] = {"line": torch.nn.Linear(64, 64, bias=False)}

    def batch(self, step: int, rank: int, world: int) -> torch.Tensor:
        return torch.randn(8, 64, generator=draws(5, step))

    def loss(self, player: str, batch: torch.Tensor, step: int) -> tuple[torch.Tensor, dict]:
        return (self.players[player](batch) - batch).square().mean(), {}


RECIPE = LoopRecipe(steps=60, batch_size=8, learning_rate=0.01, warmup=5, ema=0.8, weight_decay=0.0)


def training(folder: Path, **how: Any) -> Training:
    return Training(Line(), RECIPE, folder, {}, Execution("cpu", "float32").accelerator(), **how)


def test_halved_networks_are_for_one_process(tmp_path: Path) -> None:
    two: Any = SimpleNamespace(num_processes=2)
    with pytest.raises(UserError, match=r"bfloat16-weights: for one process, found 2"):
        Training(Line(), RECIPE, tmp_path, {}, two, half=True)


def test_an_optimizer_that_is_not_installed_or_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(NotInstalledError, match="pip install bitsandbytes"):
        training(tmp_path, optimizer="adamw8bit")
    with pytest.raises(UnknownNameError, match="adamw8bit"):
        training(tmp_path, optimizer="adamw8bits")


class Stand(torch.optim.Optimizer):
    """In bitsandbytes' place: signs of momentum in 8 bits, a number that counts steps, a table."""

    def __init__(self, groups: Any, lr: float, betas: tuple[float, float], weight_decay: float):
        super().__init__(groups, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                held = self.state[p]
                if not held:
                    held |= {"step": 0, "state1": torch.full_like(p, 8, dtype=torch.uint8)}
                    held["qmap1"] = torch.linspace(-1, 1, 17)
                held["step"] += 1
                old = held["qmap1"][held["state1"].int()]
                new = 0.9 * old + 0.1 * p.grad.sign()
                held["state1"] = ((new.clamp(-1, 1) + 1) * 8).round().to(torch.uint8)
                p -= group["lr"] * held["qmap1"][held["state1"].int()]


@pytest.fixture(params=["stand-in", "bitsandbytes"])
def eight_bits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The real library where it is installed, and always something that keeps its state as it does."""
    if request.param == "bitsandbytes":
        pytest.importorskip("bitsandbytes")
        return "real"
    room: Any = ModuleType("bitsandbytes.optim")
    room.AdamW8bit = Stand
    monkeypatch.setitem(sys.modules, "bitsandbytes", ModuleType("bitsandbytes"))
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", room)
    return "stand-in"


@pytest.mark.usefixtures("eight_bits")
def test_moments_of_eight_bits_are_saved_and_resumed(tmp_path: Path) -> None:
    whole = [r.figures["line/loss"] for r in training(tmp_path / "whole", optimizer="adamw8bit").run()]
    assert whole[-1] < 0.7 * whole[0]
    first = training(tmp_path / "cut", optimizer="adamw8bit").run(save_every=10)
    for _ in range(27):
        next(first)
    resumed = training(tmp_path / "cut", optimizer="adamw8bit")
    assert resumed.step == 20
    assert [r.figures["line/loss"] for r in resumed.run()] == whole[20:]
    assert load_file(tmp_path / "cut" / "state.safetensors")["line/state1/weight"].dtype == torch.uint8
    with pytest.raises(OutputFolderError, match="optimizer"):
        training(tmp_path / "cut")
