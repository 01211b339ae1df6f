"""The privacy audit: planted copies, planted leaks, thresholds, membership, and the shards that are left."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from test_leakage import COPIES, put, texture

from synthaug import shards
from synthaug.datasets import RealRadiographs, SyntheticRadiographs
from synthaug.errors import DataError, OutputFolderError
from synthaug.evaluation.evaluate import Options, evaluate
from synthaug.evaluation.excluding import write_without
from synthaug.evaluation.features import callable_extractor, features
from synthaug.evaluation.privacy import (
    MEMBERSHIP,
    Audit,
    Films,
    Nearest,
    aligned_correlation,
    audit,
    audit_metrics,
    membership,
    shared_films,
    shared_patients,
)
from synthaug.evaluation.together import Together
from synthaug.images import resize
from synthaug.shards.manifest import read_manifest

CONTRAST = callable_extractor(
    lambda block: block.reshape(len(block), 8, 8, 8, 8).mean((2, 4)).reshape(len(block), -1), "blocks", 64
)


def smooth(count: int, seed: int) -> np.ndarray:
    """Smooth random films (n, 1, 64, 64), each its own."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 255, (count, 12, 12)).astype(np.uint8)
    return np.stack([resize(film, 64) for film in small])[:, None]


def films(images: np.ndarray, name: str, clusters: list[str] | None = None) -> Films:
    names = tuple(f"{name}-{i}" for i in range(len(images)))
    return Films(features(CONTRAST, images), images, names, tuple(clusters or names))


def test_a_planted_copy_is_found_through_brightness_and_shift() -> None:
    training, unseen, drawn = smooth(80, 1), smooth(240, 2), smooth(60, 3)
    drawn[7] = training[33] // 2 + 40  # darker, half the contrast
    drawn[20] = np.roll(training[50], (2, -3), (1, 2))
    drawn[41] = training[12]
    found = audit(films(drawn, "drawn"), films(training, "training"), films(unseen, "unseen"))
    assert set(found.offenders[:3]) == {7, 20, 41}
    assert found.synthetic.match[[7, 20, 41]].tolist() == [33, 50, 12]
    assert found.synthetic.correlation[[7, 20, 41]].min() > 0.99 > found.correlation_cut
    share, median, peak = audit_metrics(found, films(drawn, "drawn"))
    assert share.value == pytest.approx(len(found.offenders) / 60, abs=1e-6) and share.floor == 0.01
    assert share.low > 0.005 and peak.value > 0.99 > peak.floor and median.floor is not None  # type: ignore[operator]


def test_innocent_films_are_listed_at_the_chosen_rate() -> None:
    listed = []
    training = films(smooth(100, 4), "training")
    unseen = films(smooth(300, 5), "unseen")
    for seed in range(2):
        listed.append(
            audit(films(smooth(150, 10 + seed), "drawn"), training, unseen, rate=0.05).suspicious.mean()
        )
    assert 0.01 < np.mean(listed) < 0.1


def test_the_order_of_films_does_not_matter() -> None:
    training, unseen, drawn = smooth(40, 1), smooth(210, 2), smooth(30, 3)
    whole = audit(films(drawn, "drawn"), films(training, "training"), films(unseen, "unseen"))
    turned = audit(
        films(drawn[::-1], "drawn"), films(training[::-1], "training"), films(unseen[::-1], "unseen")
    )
    np.testing.assert_allclose(turned.synthetic.correlation[::-1], whole.synthetic.correlation)
    np.testing.assert_array_equal(39 - turned.synthetic.match[::-1], whole.synthetic.match)
    assert (turned.distance_cut, turned.correlation_cut) == pytest.approx(
        (whole.distance_cut, whole.correlation_cut)
    )


def test_aligned_correlation_is_numpys_at_the_best_shift() -> None:
    film, other = smooth(1, 6)[0, 0], smooth(1, 7)[0, 0]
    inner = film[4:-4, 4:-4].ravel()
    expected = max(
        np.corrcoef(inner, other[r : r + 56, c : c + 56].ravel())[0, 1] for r in range(9) for c in range(9)
    )
    assert aligned_correlation(film, other[None])[0] == pytest.approx(expected, abs=1e-9)
    assert aligned_correlation(np.zeros((64, 64), np.uint8), other[None])[0] == 0


def test_a_planted_leak_and_too_few_unseen_films_are_named() -> None:
    training, unseen = smooth(20, 1), smooth(210, 2)
    unseen[5] = training[3]
    with pytest.raises(DataError, match=r"1 unseen films are training films.*unseen-5 = training-3"):
        audit(films(smooth(9, 3), "drawn"), films(training, "training"), films(unseen, "unseen"))
    with pytest.raises(DataError, match="200 are needed"):
        audit(films(smooth(9, 3), "drawn"), films(training, "training"), films(unseen[:150], "unseen"))
    with pytest.raises(DataError, match="--rate"):
        audit(films(smooth(9, 3), "drawn"), films(training, "training"), films(unseen, "unseen"), 0.7)


def test_patients_that_are_in_both_are_named(tiny_nih: Path) -> None:
    data = RealRadiographs(tiny_nih)
    assert shared_patients([data.subset(range(10))], data.subset(range(10, 24))) == []
    found = shared_patients([data.subset(range(11))], data.subset(range(11, 24)))
    assert len(found) == 1 and str(tiny_nih) in found[0]


def test_a_training_film_among_the_unseen_is_named_whatever_it_is_called(
    tiny_shards: Path, tmp_path: Path
) -> None:
    """Folders whose patients are unknown; one film of the first is a film of the second, compressed anew."""
    unseen = put(tmp_path / "real", {f"effusion/{i}.png": texture(i) for i in range(4)})
    training = put(tmp_path / "training", {f"effusion/own-{i}.png": texture(50 + i) for i in range(4)})
    real = RealRadiographs(unseen)
    sides = [Together([data]) for data in (RealRadiographs(training), real)]
    pairs = shared_films(
        *(side.images_array(64, "squash") for side in sides), (sides[0].names, sides[1].names)
    )
    assert pairs == []
    put(training, {"effusion/copy.png": COPIES["compressed"](texture(2))})
    options = Options(generator_data=[RealRadiographs(training)], extractors=["pixels"], device="cpu")
    with pytest.raises(DataError, match=r"1 pairs of films .*training/copy.*real/2 .*dedupe"):
        evaluate([SyntheticRadiographs(tiny_shards)], real, options=options)


def test_membership_is_the_auroc_of_the_distance_to_the_nearest_synthetic_film() -> None:
    training, unseen = films(smooth(50, 1), "training"), films(smooth(60, 2), "unseen")
    drawn = films(np.concatenate([training.thumbnails[:25], smooth(20, 3)]), "drawn")
    found = membership(drawn, training, unseen)

    def least(one: Films) -> np.ndarray:
        return np.linalg.norm(one.features.values[:, None] - drawn.features.values, axis=2).min(1)

    expected = roc_auc_score([1] * 50 + [0] * 60, -np.concatenate([least(training), least(unseen)]))
    assert found.name == MEMBERSHIP and found.value == pytest.approx(expected, abs=1e-6) and found.low > 0.5  # type: ignore[operator]
    assert found.n == 110 and found.note == "no verdict: 45 synthetic films, 200 are needed"
    enough = membership(films(np.tile(drawn.thumbnails, (5, 1, 1, 1)), "drawn"), training, unseen)
    assert enough.note == "no verdict: 110 real films, 1500 are needed" and enough.value == found.value
    many = [films(np.tile(one.thumbnails, (14, 1, 1, 1)), one.names[0]) for one in (training, unseen)]
    assert membership(films(np.tile(drawn.thumbnails, (5, 1, 1, 1)), "drawn"), *many).note is None
    innocent = membership(films(smooth(45, 8), "drawn"), training, unseen)
    assert innocent.low < 0.5 < innocent.high  # type: ignore[operator]


def test_thresholds_are_quantiles_of_the_unseen_films() -> None:
    real = Nearest(np.arange(200.0), np.linspace(0, 1, 200), np.zeros(200, int))
    drawn = Nearest(np.array([0.2, 50.0, 60.0]), np.array([0.1, 0.999, 0.4]), np.zeros(3, int))
    held = Audit(
        drawn,
        real,
        0.01,
        float(np.quantile(real.distance, 0.005)),
        float(np.quantile(real.correlation, 0.995)),
    )
    assert held.suspicious.tolist() == [True, True, False] and held.offenders.tolist() == [1, 0]


def test_cleaned_shards_are_whole_and_say_what_is_gone(tiny_shards: Path, tmp_path: Path) -> None:
    before = SyntheticRadiographs(tiny_shards)
    gone = [*before.keys[8:16], before.keys[0]]  # a whole shard and one film
    out = tmp_path / "clean"
    assert write_without(tiny_shards, gone, out, "nearer than unseen films") == 15
    assert shards.verify(out) == []
    after = SyntheticRadiographs(out)
    assert after.keys == [key for key in before.keys if key not in gone]
    np.testing.assert_array_equal(after.image(3), before.image(before.keys.index(after.keys[3])))
    assert after.records[3] == before.records[before.keys.index(after.keys[3])]
    facts = read_manifest(out).facts
    assert facts["excluded"]["keys"] == sorted(gone) and facts["recipe_digest"] == "0" * 64
    assert "9 of 24 films were left out: nearer than unseen films" in (out / "README.md").read_text()
    with pytest.raises(OutputFolderError, match="--exclude"):
        write_without(tiny_shards, gone, out, "again")
    with pytest.raises(DataError, match="holds no film nobody"):
        write_without(tiny_shards, ["nobody"], tmp_path / "other", "x")
    with pytest.raises(DataError, match="every film"):
        write_without(tiny_shards, before.keys, tmp_path / "other", "x")
