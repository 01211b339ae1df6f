"""Networks cut over processes: what is asked for, what each process holds, and that the state knows nothing of it."""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import noise_training
import pytest
import torch
from accelerate import Accelerator
from noise_training import CUT, WEIGHTS
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import distributed

from synthaug.adaptation import tensor_files
from synthaug.adaptation.loop import STATE, Training
from synthaug.adaptation.route import Execution, Job
from synthaug.adaptation.routes import load_recipe, run_class
from synthaug.adaptation.sharding import Sharding, requested
from synthaug.diffusion.process_group import join
from synthaug.errors import UserError

WORLD = 2


def ask(monkeypatch: pytest.MonkeyPatch, **settings: str) -> None:
    """The environment that `accelerate launch --use_fsdp` makes."""
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    for name, value in settings.items():
        monkeypatch.setenv(f"FSDP_{name}", value)


def test_without_a_launcher_nothing_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    assert requested() is None
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "false")
    assert requested() is None


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, Sharding(True, None)),
        ({"VERSION": "2", "RESHARD_AFTER_FORWARD": "false"}, Sharding(False, None)),
        ({"VERSION": "1", "SHARDING_STRATEGY": "SHARD_GRAD_OP"}, Sharding(False, None)),
        ({"VERSION": "1", "SHARDING_STRATEGY": "1"}, Sharding(True, None)),
        ({"VERSION": "2", "AUTO_WRAP_POLICY": "NO_WRAP"}, Sharding(True, ())),
        (
            {"VERSION": "2", "TRANSFORMER_CLS_TO_WRAP": "A,B", "OFFLOAD_PARAMS": "false"},
            Sharding(True, ("A", "B")),
        ),
    ],
)
def test_accelerates_words_are_followed(
    settings: dict[str, str], expected: Sharding, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(monkeypatch, **settings)
    assert requested() == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"SHARDING_STRATEGY": "HYBRID_SHARD"}, "--fsdp_sharding_strategy HYBRID_SHARD: expected FULL_SHARD"),
        (
            {"VERSION": "2", "RESHARD_AFTER_FORWARD": "FULL_SHARD"},
            "--fsdp_reshard_after_forward FULL_SHARD: expected true or false",
        ),
        ({"OFFLOAD_PARAMS": "true"}, "--fsdp_offload_params true"),
        ({"ACTIVATION_CHECKPOINTING": "true"}, "give --checkpointing"),
        ({"AUTO_WRAP_POLICY": "SIZE_BASED_WRAP"}, "--fsdp_auto_wrap_policy SIZE_BASED_WRAP"),
    ],
)
def test_what_is_not_followed_is_refused_by_its_flag(
    settings: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(monkeypatch, **settings)
    with pytest.raises(UserError, match=message):
        requested()


def test_small_networks_compiled_ones_and_eight_bits_are_not_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(monkeypatch)
    several: Any = SimpleNamespace(num_processes=2)
    for route in ("vae", "from_scratch"):
        job = Job(load_recipe(f"{route}_smoke"), [], tmp_path, several)
        with pytest.raises(UserError, match=f"--use_fsdp: route {route}"):
            run_class(route)(job)
    job = Job(load_recipe("unet_smoke"), [], tmp_path, several, Execution("cpu", "float32", compiled=True))
    with pytest.raises(UserError, match="--compile"):
        run_class("unet")(job)
    with pytest.raises(UserError, match="--optimizer adamw8bit"):
        Training(
            noise_training.Noise(),
            noise_training.RECIPE,
            tmp_path,
            {},
            Accelerator(cpu=True),
            optimizer="adamw8bit",
            sharded=Sharding(),
        )


def test_a_file_written_tensor_by_tensor_is_what_safetensors_writes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensors = {
        "b": torch.randn(3, 5).to(torch.bfloat16),
        "a": torch.randn(2, 3).t(),
        "count": torch.tensor(7),
        "codes": torch.arange(5, dtype=torch.uint8),
        "mask": torch.tensor([True, False]),
        "none": torch.zeros(0, 4),
        "half": torch.randn(3, 2, 2).half().to(memory_format=torch.contiguous_format),
        "double": torch.randn(1, dtype=torch.float64),
        "int": torch.tensor([-3], dtype=torch.int32),
    }
    note = {"step": "4", "identity": '{"recipe": "ü"}'}
    tensor_files.write(tmp_path / "own", tensors, note)
    save_file({name: value.contiguous() for name, value in tensors.items()}, tmp_path / "theirs", note)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["own", "theirs"]
    with safe_open(tmp_path / "own", "pt") as own, safe_open(tmp_path / "theirs", "pt") as theirs:
        assert own.metadata() == theirs.metadata() and set(own.keys()) == set(theirs.keys()) == set(tensors)
        for name in tensors:
            found = own.get_tensor(name)
            assert found.dtype == tensors[name].dtype and torch.equal(found, theirs.get_tensor(name))
    tensor_files.write(tmp_path / "halves", {"a": tensors["a"]}, kind=torch.float16)
    assert torch.equal(load_file(tmp_path / "halves")["a"], tensors["a"].half())


def test_cut_over_two_processes_it_learns_what_one_learns(tmp_path: Path) -> None:
    whole = noise_training.start(tmp_path / "whole")
    before = whole.route.module.unet.state_dict()
    before = {name: value.clone() for name, value in before.items()}
    list(whole.run(save_every=CUT, until=CUT))
    (tmp_path / "handed").mkdir()
    shutil.copy(tmp_path / "whole" / STATE, tmp_path / "handed" / STATE)
    errors = [noise_training.averaged_error(whole)]
    list(whole.run(save_every=CUT))
    errors.append(noise_training.averaged_error(whole))
    of_whole = noise_training.held(whole)
    whole.leave("unet", whole.route.module)
    result = whole.route.module.unet.state_dict()

    run_processes(tmp_path)
    list(noise_training.start(tmp_path / "back").run(save_every=CUT))

    states = {name: load_file(tmp_path / name / STATE) for name in ("whole", "cut", "handed", "back")}
    for name in ("cut", "handed", "back"):
        assert states[name].keys() == states["whole"].keys()
        for key, one in states["whole"].items():
            torch.testing.assert_close(states[name][key], one, atol=5e-5, rtol=1e-3, msg=f"{name}: {key}")
    saved = load_file(tmp_path / WEIGHTS)
    assert saved.keys() == result.keys()
    apart = max(float((saved[name] - result[name]).abs().max()) for name in result)
    assert 20 * apart < max(float((result[name] - before[name]).abs().max()) for name in result)
    facts = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(WORLD)]
    for fact in facts:
        assert fact["errors"] == pytest.approx(errors, rel=1e-4)
    for kind, count in of_whole.items():
        mine = [fact["held"][kind] for fact in facts]
        assert sum(mine) == count and max(mine) < 0.55 * count


def run_processes(folder: Path) -> None:
    """`noise_training.py` in two processes over gloo, cut over them.

    Blocks stay gathered after a forward pass: what is written into the weights then must still be seen.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"WORLD_SIZE": str(WORLD), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    place |= {
        "OMP_NUM_THREADS": "1",
        "PYTHONFAULTHANDLER": "1",
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_SHARDING_STRATEGY": "SHARD_GRAD_OP",
    }
    command = [sys.executable, noise_training.__file__, str(folder)]
    running = [
        subprocess.Popen(
            command,
            env={**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(WORLD)
    ]
    outcomes = [(process.communicate(timeout=200)[0], process.returncode) for process in running]
    assert [code for _, code in outcomes] == [0] * WORLD, "\n".join(text for text, _ in outcomes)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The second start of the only worker of one machine, and its launcher's store."""
    server = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(server.port), "RANK": "0", "WORLD_SIZE": "1"}
    told |= {
        "GROUP_WORLD_SIZE": "1",
        "TORCHELASTIC_RESTART_COUNT": "1",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    yield
    if distributed.is_initialized():
        distributed.destroy_process_group()


def test_a_worker_that_was_started_again_joins_the_others_of_that_start(launched: None) -> None:
    join(torch.device("cpu"))
    assert distributed.is_initialized() and distributed.get_world_size() == 1
    join(torch.device("cpu"))  # as every route of a process calls it


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TORCHELASTIC_RESTART_COUNT", "0"),
        ("TORCHELASTIC_USE_AGENT_STORE", "False"),
        ("GROUP_WORLD_SIZE", "2"),
    ],
)
def test_a_first_start_or_a_new_store_is_left_to_the_launcher(
    name: str, value: str, launched: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    join(torch.device("cpu"))
    assert not distributed.is_initialized()
