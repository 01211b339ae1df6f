"""The command table: help, errors, exit codes, and the quick commands from end to end."""

import ast
import errno
import json
import re
import resource
import subprocess
import sys
import warnings
from inspect import signature
from pathlib import Path

import pytest

from synthaug import cli, embedded, findings
from synthaug.cli import terminal
from synthaug.datasets import RealRadiographs
from synthaug.datasets.splits import part_of, parts_of
from synthaug.errors import DataError, RecipeError, UnknownNameError
from synthaug.recipes import Recipe

README = Path(__file__).parent.parent / "README.md"
COMMANDS = sorted(name for name in cli.app if not name.startswith("-"))
HEAVY = {"torch", "torchvision", "diffusers", "transformers", "timm", "accelerate", "sklearn", "scipy"}


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one command."""
    code = cli.main([str(argument) for argument in arguments])
    spoken = capsys.readouterr()
    return code, spoken.out, spoken.err


def test_the_commands() -> None:
    expected = (
        "adapt benchmark data dedupe evaluate export findings generate insert merge models pack plan predict report "
        "split train verify"
    )
    assert expected.split() == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_flag_has_help_and_the_readme_names_it(command: str) -> None:
    assert f"`synthaug {command}`" in README.read_text()
    assert cli.app[command].help.strip()
    arguments = cli.app[command].assemble_argument_collection(parse_docstring=True)
    described = {a.field_info.name for a in arguments if a.parameter.help}
    assert described == set(signature(cli.app[command].default_command).parameters)


def test_help_is_quick_and_loads_no_heavy_library() -> None:
    code = "import sys; from synthaug.cli import main; main(['--help']); print(sorted(sys.modules))"
    times = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    text, _, modules = done.stdout.rstrip().rpartition("\n")
    assert done.returncode == 0 and not HEAVY & set(ast.literal_eval(modules))
    assert all(command in text for command in COMMANDS)
    # Processor time, which a busy machine hardly changes: 0.35 s here, and torch alone takes more than a second.
    assert min(times) < 0.8


def test_the_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "synthaug", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "synthaug 0.1.0\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generat"], 'Did you mean "generate"'),
        (["generate", "--labl", "edema"], "Did you mean --label"),
        (["generate", "--count", "many"], "--count"),
        (["generate", "--view", "oblique"], "Choose from"),
        (["verify"], "FOLDER requires an argument"),
        (["data", "no/such/folder"], "no/such/folder"),
        (["train", "--data", "x", "--out", "y", "--set", "step=3"], "did you mean 'steps'"),
        (["benchmark", "--out", "x", "--finding", "plural_effusion"], "did you mean 'pleural_effusion'"),
        (["adapt", "--data", "x", "--out", "y", "--recipe", "embeded"], "did you mean 'embedded'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("synthaug: ") and message in err


def test_the_world_fails_with_1_and_an_interrupt_is_130(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fails(error: BaseException) -> int:
        def command() -> int:
            raise error

        return terminal.guarded(command)

    assert fails(OSError(errno.ENOSPC, "No space left on device", "out/shard.tar")) == 1
    assert "out/shard.tar: no space left" in capsys.readouterr().err
    assert fails(PermissionError(errno.EACCES, "Permission denied", "out")) == 2
    assert fails(KeyboardInterrupt()) == 130
    assert "interrupted" in capsys.readouterr().err
    with pytest.raises(OSError, match="odd"):
        fails(OSError(errno.EIO, "odd"))


def test_an_interrupted_command_returns_130() -> None:
    code = (
        "import sys, os, signal; from synthaug import cli, findings\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a parent in the background ignores it
        "@cli.app.command\n"
        "def wait() -> None:\n    'Wait.'\n    os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.exit(cli.main(['wait']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 130 and "interrupted" in done.stderr and "Traceback" not in done.stderr


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    command = f"{sys.executable} -m synthaug findings --json | head -c 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr


def test_warnings_of_this_package_are_lines_and_those_of_libraries_are_silent(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def command() -> None:
        warnings.simplefilter("always")
        warnings.warn_explicit("ours", UserWarning, str(terminal.PACKAGE / "x.py"), 1)
        warnings.warn_explicit("theirs", UserWarning, "/elsewhere/x.py", 1)
        warnings.warn_explicit("old", DeprecationWarning, str(terminal.PACKAGE / "x.py"), 1)

    assert terminal.guarded(command) == 0
    assert capsys.readouterr().err == "synthaug: ours\n"


def test_findings_lists_the_vocabulary(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "findings", "--json")
    assert code == 0 and tuple(json.loads(out)) == findings.FINDINGS
    code, out, _ = run(capsys, "findings")
    assert code == 0 and len(out.splitlines()) == len(findings.FINDINGS) + 1


def test_models_says_what_is_here_and_what_is_absent(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = {"image_size": 256, "findings": ["no_finding", "pleural_effusion"]}
    monkeypatch.setattr(embedded, "checkpoint_facts", lambda: facts)
    monkeypatch.setattr(embedded, "detector_facts", lambda: None)
    code, out, _ = run(capsys, "models")
    assert code == 0 and "embedded checkpoint: 256 px; findings no_finding, pleural_effusion" in out
    assert "embedded detector: absent" in out and "from_scratch_smoke" in out and "nih-sample" in out
    assert json.loads(run(capsys, "models", "--json")[1])["checkpoint"] == facts


def test_data_describes_a_folder(capsys: pytest.CaptureFixture[str], tiny_nih: Path) -> None:
    code, out, _ = run(capsys, "data", tiny_nih)
    assert code == 0 and "24 films of 12 known patients, 0 synthetic" in out
    assert (
        re.search(r"pleural_effusion +10 ", out)
        and "views: PA 12, AP 12" in out
        and "image sizes: 96x96 24" in out
    )
    summary = json.loads(run(capsys, "data", tiny_nih, "--skip-decode", "--json")[1])
    assert summary["format"] == "nih" and summary["unreadable"] is None


def test_verify_finds_a_changed_byte(capsys: pytest.CaptureFixture[str], tiny_shards: Path) -> None:
    assert run(capsys, "verify", tiny_shards)[0] == 0
    path = tiny_shards / "shard-000001.tar"
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)
    code, out, _ = run(capsys, "verify", tiny_shards, "--json")
    assert code == 1 and any("shard-000001.tar" in fault["path"] for fault in json.loads(out))


def test_repeated_labels_are_a_conjunction(
    capsys: pytest.CaptureFixture[str], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "none"
    flags = ["--model", tiny_checkpoint, "--count", 3, "--out", out, "--device", "cpu", "--dry-run"]
    code, text, err = run(
        capsys, "generate", "--label", "pleural_effusion", "--label", "no_finding=0", *flags
    )
    assert code == 0, err
    assert "3 films: " in text and "pleural effusion" in text and not out.exists()


def test_a_part_of_a_split_restricts_the_folders_it_names_films_of(
    tiny_nih: Path, tiny_class_folders: Path, tmp_path: Path
) -> None:
    named, other = RealRadiographs(tiny_nih), RealRadiographs(tiny_class_folders)
    split = tmp_path / "split.csv"
    rows = [f"{key}.png,{'generator' if i < 8 else 'test'}" for i, key in enumerate(named.keys[:12])]
    split.write_text("\n".join(["image,part", *rows, "elsewhere.png,validation"]) + "\n")
    assert part_of(named, "generator", split).keys == named.keys[:8]
    assert part_of(other, "generator", split) is other
    assert {part: len(indices) for part, indices in parts_of(named, split).items()} == {
        "generator": 8,
        "test": 4,
    }
    with pytest.raises(DataError, match="in generator, test only"):
        part_of(named, "validation", split)
    with pytest.raises(UnknownNameError, match="did you mean 'generator'"):
        part_of(named, "generatr", split)


def test_dotted_overrides_reach_into_lists() -> None:
    class Leg(Recipe):
        steps: int = 1

    class Legs(Recipe):
        legs: tuple[Leg, ...] = (Leg(), Leg())

    assert Legs().with_overrides({"legs.1.steps": 5}).legs == (Leg(), Leg(steps=5))
    for wrong in ("legs.2.steps", "legs.one.steps", "legs.0.steps.more", "leg"):
        with pytest.raises(RecipeError, match=r"--set|override"):
            Legs().with_overrides({wrong: 5})
