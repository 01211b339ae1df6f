"""Scripts of `benchmarks/` as modules, for their tests."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

HOME = Path(__file__).parents[1] / "benchmarks"


@contextmanager
def script(name: str) -> Iterator[ModuleType]:
    """The module, whose siblings are found as they are when it runs as a script; afterwards they are forgotten."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(HOME)
        yield importlib.import_module(name)
    for other in set(sys.modules) - before:
        if Path(getattr(sys.modules[other], "__file__", None) or "/").parent == HOME:
            del sys.modules[other]
