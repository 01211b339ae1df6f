"""Targets of Parquet files: images and labels in one table, with or without Hugging Face's features."""

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from synthaug.datasets.base import Radiographs
from synthaug.datasets.export import rows
from synthaug.errors import NotInstalledError
from synthaug.shards import atomic_write

Progress = Callable[[int, int], None]

ROWS = (
    1000  # in a file; a file is one row group for every hundred, so that one film is read without many others
)
GROUP = 100
SPLITS = ("train", "validation", "test")

_TEXTS = ("key", "patient", "sex", "view", "split", "prompt")


def parquet(films: Radiographs, out: Path, progress: Progress) -> None:
    """`films-00000.parquet`, ...: image {bytes, path}, facts, and a nullable int8 column a finding."""
    pieces = [range(start, min(start + ROWS, len(films))) for start in range(0, len(films), ROWS)]
    done = 0
    for number, places in enumerate(pieces):
        rows.put(out / f"films-{number:05d}.parquet", _file(films, places, {}))
        progress(done := done + len(places), len(films))


def hf(films: Radiographs, out: Path, progress: Progress) -> None:
    """`data/train-00000-of-00001.parquet`, ... by split, features declared in the files and in `README.md`.

    A film without a split, or of another one than train, validation and test, is in train.
    """
    done, splits = 0, [record.provenance.get("split") for record in films.records]
    present = []
    for split in SPLITS:
        chosen = [place for place, own in enumerate(splits) if (own if own in SPLITS else "train") == split]
        pieces = [chosen[start : start + ROWS] for start in range(0, len(chosen), ROWS)]
        for number, places in enumerate(pieces):
            name = f"{split}-{number:05d}-of-{len(pieces):05d}.parquet"
            data = _file(films, places, {"huggingface": json.dumps({"info": {"features": features(films)}})})
            rows.put(out / "data" / name, data)
            progress(done := done + len(places), len(films))
        if chosen:
            present.append(split)
    atomic_write(out / "README.md", _card(films, present).encode())


def features(films: Radiographs) -> dict[str, Any]:
    """The columns as Hugging Face `datasets` declares them; findings are int8, null where unknown."""
    kinds = {**dict.fromkeys(rows.FACTS, "string"), "age": "float64", "synthetic": "bool"}
    values = {**kinds, **dict.fromkeys(films.findings, "int8")}
    return {"image": {"_type": "Image"}} | {
        name: {"dtype": kind, "_type": "Value"} for name, kind in values.items()
    }


def _file(films: Radiographs, places: Sequence[int], metadata: dict[str, str]) -> bytes:
    pyarrow = _pyarrow()
    from pyarrow.parquet import write_table

    names = rows.stems(films)
    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    kinds = {
        **dict.fromkeys(_TEXTS, pyarrow.string()),
        "age": pyarrow.float64(),
        "synthetic": pyarrow.bool_(),
    }
    fields = [pyarrow.field("image", image)]
    fields += [pyarrow.field(name, kinds[name]) for name in rows.FACTS]
    fields += [pyarrow.field(finding, pyarrow.int8()) for finding in films.findings]
    lines = [
        {
            "image": {"bytes": rows.png(films, place), "path": f"{names[place]}.png"},
            **rows.facts(films, place),
            **rows.labels(films, place),
        }
        for place in places
    ]
    table = pyarrow.Table.from_pylist(lines, schema=pyarrow.schema(fields, metadata=metadata))
    file = io.BytesIO()
    write_table(table, file, row_group_size=GROUP, compression="none", write_statistics=False)
    return file.getvalue()


def _card(films: Radiographs, splits: Sequence[str]) -> str:
    """The data set card: splits for the loader, and what the films are for the reader."""
    import yaml

    head = {
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}-*.parquet"} for split in splits],
            }
        ],
        "task_categories": ["image-classification"],
        "tags": ["chest-x-ray", *(["synthetic"] if films.synthetic.all() else [])],
    }
    kind = "SYNTHETIC chest radiographs" if films.synthetic.all() else "Chest radiographs"
    return (
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n\n# {kind}\n\n{len(films)} films with the findings "
        f"{', '.join(films.findings)}: 1 present, 0 absent, null unknown. For research, not for diagnosis. The "
        "films keep the terms of their source.\n"
    )


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise NotInstalledError(
            "Parquet files are written by pyarrow; pip install 'synthaug[export]'"
        ) from error
    return pyarrow
