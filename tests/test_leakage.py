"""Near-duplicates and the leakage guard."""

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from synthaug.datasets import RealRadiographs, leakage, likeness
from synthaug.errors import DataError, ImageError
from synthaug.images import read, resize


def texture(seed: int, size: int = 256) -> np.ndarray:
    """A picture with structure at every scale, as a film has, and its own."""
    rng = np.random.default_rng(seed)
    layers = [
        np.kron(rng.normal(0, 1, (n, n)), np.ones((size // n, size // n))) * 40 / np.sqrt(n)
        for n in (4, 16, 64)
    ]
    blurred = (
        Image.fromarray(np.clip(120 + sum(layers), 0, 255).astype(np.uint8))
        .resize((128, 128))
        .resize((size, size))
    )
    return np.asarray(blurred)


def compressed(film: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(film).save(file, "JPEG", quality=40)
    return read(file.getvalue())


COPIES = {
    "compressed": compressed,
    "resized": lambda film: resize(film, 150),
    "brightened": lambda film: (255 * (film / 255) ** 0.7).astype(np.uint8),
    "shifted": lambda film: np.roll(film, 4, axis=1),
}


def put(root: Path, films: dict[str, np.ndarray]) -> Path:
    for name, film in films.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(film).save(root / name)
    return root


@pytest.mark.parametrize("how", COPIES)
def test_a_copy_is_found_among_strangers(tmp_path: Path, how: str) -> None:
    put(tmp_path / "a", {f"edema/{i}.png": texture(i) for i in range(12)})
    put(tmp_path / "b", {f"edema/{i}.png": texture(100 + i) for i in range(12)})
    put(tmp_path / "b", {"edema/copy.png": COPIES[how](texture(5))})
    one, other = (likeness.prints_of(RealRadiographs(tmp_path / part).films) for part in "ab")
    keys = RealRadiographs(tmp_path / "a").keys, RealRadiographs(tmp_path / "b").keys
    (pair,) = likeness.near_pairs(one, other)
    assert (keys[0][pair.first], keys[1][pair.second]) == ("5", "copy") and pair.correlation >= 0.9
    assert likeness.near_pairs(one) == []


def test_candidates_are_every_pair_within_the_distance() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**63, (40, 4), dtype=np.uint64)
    hashes[7] = hashes[30] ^ np.uint64(0b10110)

    def differing(i: int, j: int) -> int:
        return sum(
            int(a ^ b).bit_count() for a, b in zip(hashes[i].tolist(), hashes[j].tolist(), strict=True)
        )

    expected = {(i, j) for i, j in itertools.product(range(40), repeat=2) if differing(i, j) <= 115}
    assert set(likeness.candidates(hashes, hashes, 115)) == expected and (7, 30) in expected
    assert 40 < len(expected) < 1600


def test_correlation_is_that_of_numpy_at_the_true_shift() -> None:
    whole = np.random.default_rng(1).normal(0, 1, (80, 80)).astype(np.float32)
    a, b = whole[8:72, 8:72], whole[5:69, 10:74]  # b is a, moved by 3 and -2
    assert likeness.aligned_correlation(a, b) == pytest.approx(1.0, abs=1e-5)
    noisy = a + np.random.default_rng(2).normal(0, 0.5, a.shape)
    expected = np.corrcoef(a.ravel(), noisy.ravel())[0, 1]
    assert likeness.aligned_correlation(a, noisy) == pytest.approx(expected, abs=1e-5)
    assert likeness.aligned_correlation(a, np.zeros_like(a)) == 0
    assert abs(likeness.aligned_correlation(a, whole[:64, 16:])) < 0.1  # moved by more than is looked for


def test_a_patient_on_both_sides_is_named_counted_refused_and_dropped(tiny_nih: Path) -> None:
    films = RealRadiographs(tiny_nih)
    parts = {"train": films.subset(range(13)), "test": films.subset(range(13, 24))}
    leaks = leakage.find(parts, images=False)
    assert [(leak.kind, leak.parts, leak.keys) for leak in leaks] == [
        ("patient", ("train", "test"), ("90000007_000", "90000007_001"))
    ]
    assert leakage.counts(leaks)[0]["pairs"] == 1
    with pytest.raises(
        DataError, match=r"1 patient leaks between train and test, such as 90000007_000 and 90000007"
    ):
        leakage.refuse(leaks)
    clean = leakage.without(parts["test"], leaks, "test")
    assert len(clean) == 10 and "7" not in clean.patients
    leakage.refuse(leakage.find({"train": parts["train"], "test": clean}, images=False))


def test_a_copied_film_leaks_over_every_border_that_it_crosses(tmp_path: Path) -> None:
    for part in ("train", "validation", "test"):
        put(tmp_path / part, {f"edema/{part}-{i}.png": texture(1000 * len(part) + i) for i in range(5)})
    for part, how in (("validation", compressed), ("test", COPIES["brightened"])):
        put(tmp_path / part, {"mass/copy.png": how(texture(7))})
    put(tmp_path / "train", {"mass/original.png": texture(7)})
    parts = {part: RealRadiographs(tmp_path / part) for part in ("train", "validation", "test")}
    leaks = leakage.find(parts)
    found = {
        (line["kind"], *line["parts"]): (line["pairs"], *line["films"]) for line in leakage.counts(leaks)
    }
    borders = itertools.combinations(parts, 2)
    assert found == {("near-duplicate", *border): (1, 1, 1) for border in borders}
    assert "copy" not in leakage.without(parts["test"], leaks, "test").keys
    assert len(leakage.without(parts["test"], leaks, "test")) == 5


def test_a_film_that_cannot_be_compared_is_named(tmp_path: Path) -> None:
    put(tmp_path, {"edema/a.png": texture(1)})
    (tmp_path / "edema" / "b.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"b.png: not an image"):
        likeness.prints_of(RealRadiographs(tmp_path).films)
