"""Kill a run at random moments and start it again: every file must equal that of an uninterrupted run.

    python benchmarks/kill_resume.py --model CHECKPOINT [--trials 50] [--count 24] [--shard-size 6] [--seed 0]

A trial starts `synthaug.generate` in a process of its own, sends SIGKILL after a random time (from the first
import to the last file), and goes on until one run ends by itself. A small checkpoint keeps 50 trials within
minutes: `PYTHONPATH=. python tests/tiny_checkpoint.py FOLDER` writes one.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUN = """
import sys
import torch
torch.set_num_threads(1)
from synthaug.generation import generate
generate("pleural_effusion", model=sys.argv[1], out=sys.argv[2], count=int(sys.argv[3]),
         shard_size=int(sys.argv[4]), batch_size=4, device="cpu")
"""


def start(arguments: argparse.Namespace, out: Path) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-c",
        RUN,
        arguments.model,
        str(out),
        str(arguments.count),
        str(arguments.shard_size),
    ]
    return subprocess.Popen(command, cwd=Path(__file__).parents[1], env={**os.environ, "PYTHONPATH": "."})


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--shard-size", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    kills, in_the_folder, wrong = 0, 0, []
    with tempfile.TemporaryDirectory() as name:
        whole = Path(name) / "whole"
        begun = time.monotonic()
        process = start(arguments, whole)
        while not whole.exists() and process.poll() is None:
            time.sleep(0.005)
        importing = time.monotonic() - begun
        if process.wait():
            raise SystemExit("the uninterrupted run failed")
        working = time.monotonic() - begun - importing
        expected = content(whole)
        print(
            f"uninterrupted: {importing:.1f} s to start, {working:.1f} s of work, {len(expected)} files",
            flush=True,
        )
        for trial in range(arguments.trials):
            out, killed = Path(name) / f"trial-{trial}", 0
            while True:
                process = start(arguments, out)
                if killed < 3:
                    # Three kills at most: one in ten while it starts, the others while it works in the folder.
                    early = chance.random() < 0.1
                    if early:
                        time.sleep(chance.uniform(0, importing))
                    else:
                        while process.poll() is None and not (out / ".synthaug.lock").exists():
                            time.sleep(0.002)
                        time.sleep(chance.uniform(0, working))
                    if process.poll() is None:
                        process.send_signal(signal.SIGKILL)
                if process.wait() == -signal.SIGKILL:
                    killed, in_the_folder = killed + 1, in_the_folder + out.exists()
                    # The lock file of a killed run stays; wait for the next run's own, not this one's.
                    (out / ".synthaug.lock").unlink(missing_ok=True)
                    continue
                break
            kills += killed
            found = content(out)
            differing = sorted(
                name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
            )
            if process.returncode or differing:
                wrong.append((trial, process.returncode, differing))
            print(f"trial {trial}: {killed} kills, {differing or 'equal'}", flush=True)
    print(
        f"{arguments.trials} trials, {kills} kills, {in_the_folder} of them with files in the folder; "
        f"{len(wrong)} trials unequal"
    )
    return bool(wrong)


if __name__ == "__main__":
    raise SystemExit(main())
