"""Start-up time of the command: `synthaug --help` beside `diffusers-cli --help`.

    python benchmarks/start_up.py [--rounds 5]

Each is a new process, in turns, after one that is not counted where there are several rounds. `python -c pass` is printed
beside them: what no command can be faster than.
"""

import argparse
import subprocess
import sys
import time

from comparison import Comparison, number, parser, show

CODE = {
    "synthaug": "from synthaug.cli import main; import sys; sys.exit(main(['--help']))",
    "diffusers-cli": "import sys; sys.argv = ['diffusers-cli', '--help']\n"
    "from diffusers.commands.diffusers_cli import main; main()",
    "python": "pass",
}


def seconds(code: str) -> float:
    """Of one process.

    Raises:
        SystemExit: the command failed.
    """
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"a command failed: {done.stderr[-400:]}")
    return time.perf_counter() - begun


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    given = parser(__doc__)
    given.add_argument("--rounds", type=int, default=5)
    return given.parse_args(argv)


def compare(given: argparse.Namespace) -> list[Comparison]:
    rates: dict[str, list[float]] = {name: [] for name in CODE}
    warm = int(given.rounds > 1)
    for count in range(given.rounds + warm):
        for name, code in CODE.items():
            taken = 1 / seconds(code)
            if count >= warm:
                rates[name].append(taken)
    notes = {"python -c pass": f"{number(max(rates['python']))} starts/s"}
    ours, theirs = tuple(rates["synthaug"]), tuple(rates["diffusers-cli"])
    return [Comparison("start-up", "diffusers-cli", "starts/s", ours, theirs, "--help, a new process", notes)]


if __name__ == "__main__":
    show(compare(arguments()))
