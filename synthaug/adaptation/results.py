"""How a result that belongs to a base is written: an adapter folder that `load_checkpoint` resolves."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from synthaug.diffusion.card import CARD, CheckpointCard
from synthaug.shards import atomic_write


def write_adapter(out: Path, card: CheckpointCard, model: str, save: Callable[[], None]) -> None:
    """Write the weights by `save`, then the card, then a relative link to the base where it is a folder.

    Args:
        out: the adapter's folder.
        model: how the user named the base; "embedded" and hub ids need no link.
        save: writes the weights.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / CARD).unlink(missing_ok=True)
    save()
    for path in out.glob("*.safetensors"):
        path.chmod(0o644)
    link, base = out / "base", Path(model).expanduser()
    if base.is_dir() and not link.exists():
        try:
            link.symlink_to(os.path.relpath(base.resolve(), out.resolve()), target_is_directory=True)
        except OSError:  # a file system without links: the base has to lie beside the adapter
            shutil.rmtree(link, ignore_errors=True)
    atomic_write(out / CARD, (json.dumps(card.to_json(), indent=2, sort_keys=True) + "\n").encode())
