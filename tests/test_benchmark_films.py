"""The films of a utility study: arms, sizes, sides, and the guard against leaks."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmark_samples import FINDING, of_patients, sides
from test_leakage import COPIES, put, texture

from synthaug.benchmark.arms import ARMS, Lacking, stages, uses_synthetic
from synthaug.benchmark.leakage import guard, leaks, own_films, without_leaks
from synthaug.benchmark.material import checked, gather, one_finding, real_parts
from synthaug.benchmark.study import (
    StudyRecipe,
    open_study,
)
from synthaug.benchmark.toy import toy_films, toy_material
from synthaug.datasets import RealRadiographs, SyntheticRadiographs
from synthaug.datasets.leakage import find
from synthaug.detection.films import Films
from synthaug.errors import DataError, RecipeError, UnknownNameError
from synthaug.images import resize

torch.set_num_threads(1)


def test_every_arm_holds_what_its_name_says() -> None:
    real, synthetic = toy_films(60, 16, "edema", 0), toy_films(220, 16, "edema", 1, synthetic=True)
    generator = toy_films(14, 16, "edema", 2)

    def held(arm: str, size: object = 10, draw: int = 0) -> dict[str, int]:
        plan = stages(arm, size, draw, real, synthetic, generator)  # type: ignore[arg-type]
        return {f"{n}-{p.source}": len(p.indices) for n, stage in enumerate(plan) for p in stage}

    assert {arm: held(arm) for arm in ARMS} == {
        "real": {"0-real": 20},
        "synthetic": {"0-synthetic": 220},
        "mixed_0.25": {"0-real": 16, "0-synthetic": 4},
        "mixed_0.5": {"0-real": 10, "0-synthetic": 10},
        "mixed_0.75": {"0-real": 4, "0-synthetic": 16},
        "real+100%": {"0-real": 20, "0-synthetic": 20},
        "real+200%": {"0-real": 20, "0-synthetic": 40},
        "real+500%": {"0-real": 20, "0-synthetic": 100},
        "pretrained": {"0-synthetic": 220, "1-real": 20},
        "duplicated": {"0-real": 40},
        "augmented": {"0-real": 20, "0-augmented": 20},
        "generator_films": {"0-real": 20, "0-generator": 14},
    }
    assert held("real", "all") == {"0-real": 60}
    assert {arm for arm in ARMS if not uses_synthetic(arm)} == {
        "real",
        "duplicated",
        "augmented",
        "generator_films",
    }


def test_subsets_are_balanced_nested_and_drawn_anew() -> None:
    real = toy_films(60, 16, "edema", 0)
    small, large, other = (
        stages("real", size, draw, real)[0][0].indices for size, draw in ((5, 0), (20, 0), (5, 1))
    )
    assert real.labels[small].sum() == 5 and set(small) < set(large) and set(small) != set(other)


def test_an_arm_that_the_films_cannot_make_up_has_a_reason() -> None:
    real, synthetic = toy_films(20, 16, "edema", 0), toy_films(30, 16, "edema", 1, synthetic=True)
    with pytest.raises(Lacking, match="needs 25 real training films of edema, found 10"):
        stages("real", 25, 0, real)
    with pytest.raises(Lacking, match="needs 50 synthetic films of edema, found 15"):
        stages("real+500%", 10, 0, real, synthetic)
    with pytest.raises(Lacking, match="--synthetic"):
        stages("pretrained", 5, 0, real)
    with pytest.raises(Lacking, match="--generator-data"):
        stages("generator_films", 5, 0, real)
    with pytest.raises(UnknownNameError, match=r"real\+100%"):
        stages("real+100", 5, 0, real)


def test_only_films_that_answer_the_question_are_used() -> None:
    labels = np.array([[1, 0], [0, 1], [0, 0], [np.nan, np.nan]], np.float32)
    films = Films(
        np.zeros((4, 1, 8, 8), np.uint8), labels, ("no_finding", "edema"), tuple("abcd"), tuple("wxyz")
    )
    kept = one_finding(films, "edema")
    assert kept.keys == ("w", "x") and kept.labels.tolist() == [[0.0], [1.0]]


@pytest.mark.parametrize(
    ("side", "said"),
    [
        ("judge", "judge films: 0 show"),
        ("training", "training films: 0 show"),
        ("synthetic", "synthetic films: 0"),
    ],
)
def test_a_side_of_one_class_is_named(side: str, said: str) -> None:
    films = sides()
    with pytest.raises(DataError, match=said):
        checked(films | {side: films[side].subset(range(0, 20, 2))})


def test_a_planted_leak_is_found_and_named() -> None:
    films = sides()
    guard(films, "transfer")
    copied = replace(
        films["training"], images=np.concatenate([films["judge"].images[:1], films["training"].images[1:]])
    )
    copied = replace(copied, patients=tuple(f"film:0:{k}" for k in copied.keys))
    with pytest.raises(DataError, match=r"toy-0-0-0 \(training\) and toy-2-0-0 \(judge\): the same image"):
        guard(films | {"training": copied}, "transfer")
    for one, other in (("generator", "judge"), ("training", "validation"), ("generator", "training")):
        met = of_patients(films[one], films[other].patients[3])
        with pytest.raises(DataError, match=f"both of patient {films[other].patients[3]}.*--drop-leaks"):
            guard(films | {one: met}, "transfer")
    stolen = replace(films["synthetic"], images=films["judge"].images)
    with pytest.raises(DataError, match=r"\(synthetic\) and .* \(judge\): the same image"):
        guard(films | {"synthetic": stolen}, "transfer")


@pytest.mark.parametrize("how", ["copied", *COPIES])
def test_copies_meet_by_their_images_on_every_border_of_the_study_and_in_the_data_sets_guard(
    how: str, tmp_path: Path
) -> None:
    """One planted film, copied or changed, of patients who are not known: both guards stand on one rung."""
    film = texture(5)
    copy = film if how == "copied" else resize(COPIES[how](film), 256)
    strangers = toy_material(FINDING, 96).sides()
    for one, other in (("training", "judge"), ("generator", "validation"), ("synthetic", "judge")):
        planted = dict(strangers)
        for side, picture in ((one, film), (other, copy)):
            images = planted[side].images.copy()
            images[3, 0] = resize(picture, 96)
            planted[side] = replace(planted[side], images=images)
        (leak,) = leaks(planted, "transfer")
        assert (leak.parts, leak.films, leak.kind) == ((one, other), (3, 3), "near-duplicate")
        with pytest.raises(DataError, match="the same image" if how == "copied" else "near-duplicates, corr"):
            guard(planted, "transfer")
        kept, left_out = without_leaks(planted, "transfer")
        assert left_out == 1 and leaks(kept, "transfer") == []
    for part, picture in (("train", film), ("test", copy)):
        put(tmp_path / part, {"edema/planted.png": picture, "edema/other.png": texture(90 + len(part))})
    (found,) = find({part: RealRadiographs(tmp_path / part) for part in ("train", "test")})
    assert found.keys == ("planted", "planted") and (found.correlation or 0) >= 0.9
    assert ("same image" in str(found)) == (how == "copied")


def test_films_smaller_than_a_thumbnail_meet_only_as_the_same_image() -> None:
    films = toy_material(FINDING, 48).sides()
    moved = films["training"].images[:1].astype(int) + np.random.default_rng(0).integers(
        -2, 3, (1, 1, 48, 48)
    )
    for picture, met in ((films["training"].images[:1], 1), (moved.clip(0, 255).astype(np.uint8), 0)):
        images = np.concatenate([picture, films["judge"].images[1:]])
        assert len(leaks(films | {"judge": replace(films["judge"], images=images)}, "transfer")) == met


def test_films_of_unknown_patients_meet_only_by_their_pixels() -> None:
    films = sides()
    unknown = {s: replace(f, patients=tuple(f"film:0:{i}" for i in range(len(f)))) for s, f in films.items()}
    assert leaks(unknown, "transfer") == []


def test_leaking_films_can_be_left_out() -> None:
    films = sides()
    films["training"] = of_patients(films["training"], films["judge"].patients[0], "a")
    films["generator"] = of_patients(films["generator"], "a", films["validation"].patients[2])
    kept, left_out = without_leaks(films, "transfer")
    assert left_out == 3 and leaks(kept, "transfer") == []
    assert len(kept["judge"]) == len(films["judge"]) and len(kept["training"]) == len(films["training"]) - 2
    spoilt = of_patients(films["generator"], films["judge"].patients[0])
    with pytest.raises(DataError, match="trained on a film it is judged by"):
        without_leaks(films | {"generator": spoilt}, "transfer")


def test_a_closed_claim_holds_for_the_arms_own_films_only() -> None:
    films = sides()
    with pytest.raises(DataError, match="24 of the generator's films are not among the training films"):
        guard(films, "closed")
    guard(films | {"generator": films["training"].subset(range(20))}, "closed")
    _, own = own_films(films | {"generator": films["training"].subset([3, 17, 5])})
    assert own == {3, 5, 17}
    related = of_patients(films["generator"], *films["training"].patients[:24])
    with pytest.raises(DataError, match="24 of the generator's films are not among the training films"):
        guard(films | {"generator": related}, "closed")
    del films["generator"]
    with pytest.raises(DataError, match="pass --generator-data"):
        guard(films, "closed")
    with pytest.raises(RecipeError, match="--sizes all"):
        open_study(object(), recipe=StudyRecipe(claim="closed"))


def test_the_first_day_split_gives_the_parts_and_a_rehearsal_leaves_the_test_closed(films: Path) -> None:
    real = RealRadiographs(films / "nih-sample").subset(range(0, 3347, 12))
    parts, _ = real_parts(real)
    assert set(parts) == {"train", "validation", "judge", "generator"}
    rehearsed, notes = real_parts(real, "validation")
    assert rehearsed["judge"].keys == parts["validation"].keys and "rehearsal" in " ".join(notes)
    own = {*rehearsed["train"].keys, *rehearsed["validation"].keys}
    assert own == set(parts["train"].keys)
    test = set(parts["judge"].keys)
    assert not test & {key for part in rehearsed.values() for key in part.keys}


def test_a_folder_that_the_split_does_not_know_is_split_by_patient(tiny_nih: Path) -> None:
    parts, _ = real_parts(RealRadiographs(tiny_nih))
    patients = [set(part.patients) for part in parts.values()]
    assert len(patients) == 3 and sum(map(len, patients)) == len(set.union(*patients))


def test_gather_decodes_guards_and_keeps_one_label(tiny_nih: Path, tiny_shards: Path) -> None:
    real, synthetic = RealRadiographs(tiny_nih), SyntheticRadiographs(tiny_shards)
    material = gather(real, [synthetic], None, FINDING, 32, "crop", "transfer")
    assert material.synthetic is not None and material.synthetic.labels.shape == (24, 1)
    assert any("not at hand" in note for note in material.notes)
    with pytest.raises(DataError, match="films: 0 show hernia and"):
        gather(real, [synthetic], None, "hernia", 32, "crop", "transfer")
    with pytest.raises(DataError, match=r"leaking pairs: .* \(generator\) and .* both of patient"):
        gather(real, [synthetic], real, FINDING, 32, "crop", "transfer")
