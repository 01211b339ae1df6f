"""Two processes over gloo learn what one learns from the same batch: the doubled share of each."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from synthaug.diffusion import load_checkpoint

pytestmark = pytest.mark.long


def start(arguments: list[str], rank: int, world: int, port: int) -> subprocess.Popen[str]:
    """`synthaug adapt` as one of `world` processes."""
    place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "synthaug", "adapt", *arguments]
    environment = {**os.environ, **(place if world > 1 else {})}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_two_processes_learn_what_one_learns_from_the_doubled_batch(
    tiny_nih: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    flags = ["--recipe", "unet_smoke", "--model", str(tiny_checkpoint), "--data", str(tiny_nih)]
    flags += ["--device", "cpu", "--precision", "float32", "--set", "validation=0"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for world in (1, 2):
        out = [*flags, "--out", str(tmp_path / str(world))]
        running = [start(out, rank, world, port) for rank in range(world)]
        for process in running:
            text, _ = process.communicate(timeout=240)
            assert process.returncode == 0, text
    states = [
        load_file(tmp_path / str(world) / "training" / "unet" / "state.safetensors") for world in (1, 2)
    ]
    assert states[0].keys() == states[1].keys()
    before = load_checkpoint(tiny_checkpoint, "cpu", "float32").unet.state_dict()
    apart = moved = 0.0
    for name, one in states[0].items():
        if name.startswith("unet/weight/unet."):
            two = states[1][name]
            torch.testing.assert_close(two, one, atol=2e-4, rtol=1e-3)
            apart = max(apart, float((one - two).abs().max()))
            moved = max(moved, float((one - before[name.removeprefix("unet/weight/unet.")]).abs().max()))
    assert 20 * apart < moved
