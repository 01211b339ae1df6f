"""Coverage-guided fuzzing of the readers: only a SynthaugError may come out, in bounded memory.

    python benchmarks/fuzz_readers.py --seconds 25               # each reader in turn
    python benchmarks/fuzz_readers.py --reader dicom FILE        # one input again

atheris (libFuzzer) mutates whole files of each kind, guided by the coverage of synthaug, pydicom and Pillow's Python.
Checksums that would stop every change at the door (tar headers, PNG chunks) are made anew before the reader sees
the bytes. Fails on any other exception, on a run of more than 20 s and on more than 3 GiB of memory: 16 bytes for each
of the 179 million pixels that a film may have, and a few bytes may claim them all.
"""

import argparse
import contextlib
import io
import re
import subprocess
import sys
import tempfile
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["synthaug", "pydicom", "PIL"], enable_loader_override=False):
    import numpy as np
    import pydicom.pixels  # noqa: F401  the reader imports it late, when nothing is instrumented any more
    from PIL import Image

    from synthaug.datasets.formats import read_folder
    from synthaug.errors import SynthaugError
    from synthaug.images import encode, read
    from synthaug.record import Record
    from synthaug.shards import index, read_manifest, verify, write_manifest, write_shard

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
MEMORY, SLOW = 3072, 20  # MiB, seconds


def with_tar_checksums(data: bytes) -> bytes:
    blocks = bytearray(data)
    for start in range(0, len(blocks) - 511, 512):
        if blocks[start + 257 : start + 262] == b"ustar":
            blocks[start + 148 : start + 156] = b" " * 8
            blocks[start + 148 : start + 156] = b"%06o\0 " % (sum(blocks[start : start + 512]) % 0o1000000)
    return bytes(blocks)


def with_png_checksums(data: bytes) -> bytes:
    out, place = [data[:8]], 8
    while place + 12 <= len(data):
        size = int.from_bytes(data[place : place + 4])
        body = data[place + 4 : place + 8 + size]
        out.append(data[place : place + 4] + body + zlib.crc32(body).to_bytes(4))
        place += 12 + size
    return b"".join(out) + data[place:]


def open_folder(root: Path) -> None:
    for film in read_folder(root).films:
        try:
            assert film.record.key
            read(film.source())
        except SynthaugError:
            continue


def in_file(name: str, then: Callable[[Path], object], root: Path) -> Callable[[bytes], object]:
    def reader(data: bytes) -> object:
        (root / name).write_bytes(data)
        return then(root)

    return reader


def tar(data: bytes) -> None:
    data = with_tar_checksums(data)
    index.Index.from_bytes(index.scan(io.BytesIO(data), "shard.tar", "shard.tar").to_bytes(), "shard.index")


def readers(root: Path) -> dict[str, tuple[Callable[[bytes], object], list[bytes]]]:
    """Reader's name -> what it does with bytes, and whole files to begin with."""
    from dicom_samples import put_dicom
    from layout_samples import put_chexpert, put_padchest

    film = np.arange(144, dtype=np.uint8).reshape(12, 12)
    samples = [(Record(f"{i}", {"edema": float(i)}, view="PA"), encode(film), "png") for i in range(2)]
    folder = root / "shards"
    folder.mkdir()
    write_manifest(folder, [write_shard(folder, 0, samples)])
    whole = {path.suffix: path.read_bytes() for path in folder.iterdir()}
    chexpert, padchest = put_chexpert(root / "chexpert"), put_padchest(root / "padchest")
    tables = [chexpert / "train.csv", next(padchest.glob("*.csv"))]
    put_dicom(
        root / "IM1",
        np.arange(64, dtype=np.uint16).reshape(8, 8),
        PatientAge="050Y",
        WindowCenter=30,
        WindowWidth=9,
    )
    medmnist = root / "medmnist"
    medmnist.mkdir()
    arrays = {f"{part}_images": np.zeros((2, 28, 28), np.uint8) for part in ("train", "val", "test")}
    arrays |= {f"{part}_labels": np.ones((2, 1), np.uint8) for part in ("train", "val", "test")}
    stored = io.BytesIO()
    np.savez(stored, **arrays)
    sixteen = io.BytesIO()
    Image.fromarray(film.astype(np.uint16) * 257).save(sixteen, "png")
    jpeg = io.BytesIO()
    Image.fromarray(film).save(jpeg, "jpeg")
    return {
        "tar": (tar, [whole[".tar"]]),
        "index": (lambda data: index.Index.from_bytes(data, "shard.index"), [whole[".index"]]),
        "manifest": (
            in_file("manifest.json", lambda root: (verify(root), read_manifest(root)), folder),
            [whole[".json"]],
        ),
        "chexpert": (in_file("train.csv", open_folder, chexpert), [tables[0].read_bytes()]),
        "padchest": (in_file(tables[1].name, open_folder, padchest), [tables[1].read_bytes()]),
        "png": (lambda data: read(with_png_checksums(data)), [encode(film), sixteen.getvalue()]),
        "jpeg": (read, [jpeg.getvalue()]),
        "dicom": (read, [(root / "IM1").read_bytes()]),
        "npz": (in_file("pneumoniamnist.npz", open_folder, medmnist), [stored.getvalue()]),
    }


def fuzz(name: str, rest: list[str]) -> None:
    """One reader, in this process, which libFuzzer ends."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        reader, seeds = readers(root)[name]
        corpus = root / "corpus"
        corpus.mkdir()
        for number, seed in enumerate(seeds):
            (corpus / str(number)).write_bytes(seed)

        def one(data: bytes) -> None:
            with contextlib.suppress(SynthaugError):
                reader(data)

        warnings.simplefilter("ignore")  # Pillow and pydicom warn of what they mend
        files = [] if any(not word.startswith("-") for word in rest) else [str(corpus)]
        atheris.Setup([sys.argv[0], *rest, *files], one)
        atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=int, default=25, help="for each reader")
    parser.add_argument("--reader", help="this one alone, with libFuzzer's own flags or input files after it")
    options, rest = parser.parse_known_args()
    if options.reader:
        fuzz(options.reader, rest)
        return 0
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        names = list(readers(Path(folder)))
    for name in names:
        limits = [
            f"-max_total_time={options.seconds}",
            f"-timeout={SLOW}",
            f"-rss_limit_mb={MEMORY}",
            "-seed=1",
            f"-artifact_prefix={tempfile.gettempdir()}/fuzz-{name}-",
        ]
        how = [*limits, "-max_len=16384", "-print_final_stats=1", "-verbosity=1"]
        done = subprocess.run(
            [sys.executable, __file__, "--reader", name, *how], capture_output=True, text=True
        )
        figures = dict(re.findall(r"stat::(\w+):\s+(\d+)", done.stderr))
        covered = re.findall(r"cov: (\d+)", done.stderr)
        print(
            f"{name}: {figures.get('number_of_executed_units', '?')} inputs, coverage {covered[0] if covered else '?'} -> "
            f"{covered[-1] if covered else '?'}, peak {figures.get('peak_rss_mb', '?')} MiB, "
            f"{'nothing but SynthaugError' if done.returncode == 0 else 'FAULT'}",
            flush=True,
        )
        if done.returncode:
            bad += 1
            print(done.stdout[-1000:] + done.stderr[-4000:], file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
