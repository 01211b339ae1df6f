"""Samples for shards, light enough for a process that is started only to be killed."""

from collections.abc import Iterator

from synthaug.record import Record

LABELS: list[dict] = [{"pleural_effusion": 1.0}, {"no_finding": 1.0, "edema": None}, {}]


def samples(count: int, size: int = 300) -> Iterator[tuple[Record, bytes, str]]:
    """Records with three kinds of labels, each with some bytes in the place of an image."""
    for i in range(count):
        image = bytes((i * 7 + j) % 256 for j in range(size + i))
        yield (
            Record(f"{i:09d}", LABELS[i % 3], view="PA", synthetic=True, provenance={"seed": 0}),
            image,
            "png",
        )
