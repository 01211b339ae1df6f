"""The exported surface, and what importing it costs."""

import subprocess
import sys
import tomllib
from inspect import signature
from pathlib import Path

import pytest

import synthaug
from synthaug import cli, generation

HEAVY = ("torch", "torchvision", "diffusers", "transformers", "timm", "accelerate")
LOADED = f"print(sorted(set(sys.modules) & set({HEAVY!r})))"
SURFACE = [
    "FINDINGS",
    "MixedRadiographs",
    "RealRadiographs",
    "SynthaugError",
    "SyntheticRadiographs",
    "SyntheticRadiographsStream",
    "__version__",
    "generate",
    "load_checkpoint",
    "load_detector",
    "predict",
    "sample",
    "train_detector",
]


def test_the_exported_surface() -> None:
    assert sorted(synthaug.__all__) == SURFACE == sorted(dir(synthaug))
    assert all(getattr(synthaug, name) is not None for name in SURFACE)
    assert synthaug.generate.__annotations__["return"] is synthaug.SyntheticRadiographs
    with pytest.raises(AttributeError, match="no attribute 'generat'"):
        synthaug.generat  # noqa: B018


def test_the_version_is_that_of_the_distribution() -> None:
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    assert synthaug.__version__ == project["version"]


def test_importing_the_package_loads_no_heavy_library() -> None:
    code = (
        f"import sys, synthaug, synthaug.recipes, synthaug.shards, synthaug.cards, synthaug.images; {LOADED}"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_three_ways_to_generate_take_the_same_arguments() -> None:
    written, opened, command = (
        {name: (one.kind, one.default) for name, one in signature(way).parameters.items()}
        for way in (generation.generate, synthaug.generate, cli.app["generate"].default_command)
    )
    assert opened == {name: one for name, one in written.items() if name != "dry_run"}
    renamed = {"label": "labels", "gate": "gates", "detector": "judge"}
    assert {renamed.get(name, name) for name in command} | {"on_progress"} == written.keys()
    same = command.keys() & written.keys()
    assert {name: command[name] for name in same} == {name: written[name] for name in same}


def test_generate_opens_what_it_wrote(tiny_checkpoint: Path, tmp_path: Path) -> None:
    steps: list[generation.Progress] = []
    films = synthaug.generate(
        "pleural_effusion",
        count=2,
        out=tmp_path / "drawn",
        model=tiny_checkpoint,
        num_inference_steps=2,
        device="cpu",
        on_progress=steps.append,
    )
    assert isinstance(films, synthaug.SyntheticRadiographs)
    assert len(films) == 2 and films.root == tmp_path / "drawn" and steps[-1].done == 2
    image, target = films[0]
    assert image.mode == "L" and target[films.findings.index("pleural_effusion")] == 1
