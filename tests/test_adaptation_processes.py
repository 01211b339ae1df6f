"""`synthaug adapt` under torchrun and accelerate's launcher, two processes over gloo: what one process learns, and kills."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from synthaug.diffusion import load_checkpoint

pytestmark = pytest.mark.long

TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--max_restarts", "2"]
FSDP = ["accelerate.commands.launch", "--num_processes", "2", "--use_fsdp", "--fsdp_version", "2"]
FSDP += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
FSDP += ["--rdzv_backend", "c10d", "--main_process_port", "0", "--max_restarts", "2"]
ALONE: list[str] = []


def start(launcher: list[str], arguments: list[str]) -> subprocess.Popen[str]:
    """`synthaug adapt`, by itself or by a launcher."""
    launched = ["-m", *launcher, "-m"] if launcher else ["-m"]
    return subprocess.Popen(
        [sys.executable, *launched, "synthaug", "adapt", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(launcher: list[str], arguments: list[str]) -> None:
    """The same to its end."""
    process = start(launcher, arguments)
    text, _ = process.communicate(timeout=280)
    assert process.returncode == 0, text


def flags(recipe: str, data: Path, model: Path, *more: str) -> list[str]:
    """Arguments of every run here but --out."""
    given = ["--recipe", recipe, "--data", str(data), "--model", str(model), *more]
    return [*given, "--device", "cpu", "--precision", "float32"]


def assert_learnt_alike(one: Path, two: Path, model: Path, part: str = "unet") -> None:
    """The states are equal up to rounding, which is small beside what was learnt."""
    states = [load_file(out / "training" / part / "state.safetensors") for out in (one, two)]
    assert states[0].keys() == states[1].keys()
    before = load_checkpoint(model, "cpu", "float32").unet.state_dict()
    apart = moved = 0.0
    for name, first in states[0].items():
        if name.startswith("unet/weight/unet."):
            second = states[1][name]
            torch.testing.assert_close(second, first, atol=2e-4, rtol=1e-3)
            apart = max(apart, float((first - second).abs().max()))
            moved = max(moved, float((first - before[name.removeprefix("unet/weight/unet.")]).abs().max()))
    assert 20 * apart < moved


def test_two_processes_learn_what_one_learns_from_the_doubled_batch(
    tiny_nih: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    given = flags("unet_smoke", tiny_nih, tiny_checkpoint, "--set", "validation=0")
    for name, launcher in (("one", ALONE), ("two", TORCHRUN)):
        run(launcher, [*given, "--out", str(tmp_path / name)])
    assert_learnt_alike(tmp_path / "one", tmp_path / "two", tiny_checkpoint)


def test_cut_networks_learn_what_one_process_learns_and_go_on_where_it_stopped(
    tiny_nih: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """Pieces, checkpointing, samples, validation and kept averages; each half of a run by another launcher."""
    more = ["--micro-batch", "1", "--checkpointing", "--save-every", "4", "--keep-averages"]
    given = flags("unet_text_encoder_smoke", tiny_nih, tiny_checkpoint, *more)
    halves = {"one": [ALONE, ALONE], "cut": [ALONE, FSDP], "mended": [FSDP, TORCHRUN]}
    for name, (first, second) in halves.items():
        out = [*given, "--out", str(tmp_path / name)]
        run(first, [*out, "--max-steps", "4"])
        run(second, out)
    one = load_checkpoint(tmp_path / "one", "cpu", "float32")
    for name in ("cut", "mended"):
        assert_learnt_alike(tmp_path / "one", tmp_path / name, tiny_checkpoint, "unet_text_encoder")
        other = load_checkpoint(tmp_path / name, "cpu", "float32")
        for part in ("unet", "text_encoder"):
            ours, theirs = getattr(other, part).state_dict(), getattr(one, part).state_dict()
            torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-3)
        files = [
            sorted(p.relative_to(out) for p in out.rglob("*")) for out in (tmp_path / "one", tmp_path / name)
        ]
        assert files[0] == files[1]


@pytest.mark.parametrize(("launcher", "rank"), [(TORCHRUN, "0"), (FSDP, "1")], ids=["whole", "cut"])
def test_a_killed_worker_is_started_again_and_changes_nothing(
    launcher: list[str], rank: str, tiny_nih: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    more = ["--save-every", "20", "--set", "training.steps=60", "--set", "validation=0"]
    given = flags("unet_smoke", tiny_nih, tiny_checkpoint, *more)
    run(launcher, [*given, "--out", str(tmp_path / "quiet")])
    process = start(launcher, [*given, "--out", str(tmp_path / "killed")])
    log = tmp_path / "killed" / "training" / "log.jsonl"
    while not log.exists() or len(log.read_text().splitlines()) < 25:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    worker = next(p for p in psutil.Process(process.pid).children() if p.environ().get("RANK") == rank)
    worker.send_signal(signal.SIGKILL)
    text, _ = process.communicate(timeout=280)
    assert process.returncode == 0, text
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    again = next(at for at in range(1, len(steps)) if steps[at] <= steps[at - 1])
    assert steps[again] in (21, 41) and steps[-1] == 60  # from the last saved state, not from the start
    for path in ("training/unet/state.safetensors", "unet/diffusion_pytorch_model.safetensors"):
        quiet, killed = ((tmp_path / name / path).read_bytes() for name in ("quiet", "killed"))
        assert quiet == killed


WORKER = """
import os, signal, time
import torch
from torch import distributed
from synthaug.diffusion.process_group import join
again, rank = os.environ["TORCHELASTIC_RESTART_COUNT"] != "0", os.environ["RANK"]
if again and rank == "1":
    time.sleep(1)  # so that the other finds what is left of the first start
join(torch.device("cpu"))
if not distributed.is_initialized():
    distributed.init_process_group("gloo")
distributed.barrier()
if not again and rank == "1":
    os.kill(os.getpid(), signal.SIGKILL)
distributed.barrier()
"""


@pytest.mark.parametrize("rendezvous", [[], ["--standalone"]], ids=["static", "c10d"])
def test_new_workers_look_for_each_other_and_not_for_dead_ones(rendezvous: list[str], tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text(WORKER)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launcher = ["torch.distributed.run", *(rendezvous or ["--master_port", port])]
    command = [*launcher, "--nproc_per_node", "2", "--max_restarts", "1", str(tmp_path / "worker.py")]
    subprocess.run(
        [sys.executable, "-m", *command],
        check=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
