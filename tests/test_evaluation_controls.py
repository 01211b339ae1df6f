"""The certificate's controls: films drawn again without a prompt and at other scales, and what certifies a finding."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from synthaug.datasets import SyntheticRadiographs
from synthaug.detection.detector import Detector, DetectorConfig
from synthaug.detection.films import Films
from synthaug.diffusion import load_checkpoint, sample
from synthaug.errors import DataError, OutputFolderError, RecipeError
from synthaug.evaluation.certifying import certify
from synthaug.evaluation.controls import changed, draw, recipe_of
from synthaug.evaluation.evaluate import Options, evaluate
from synthaug.evaluation.label_fidelity import EMPTY, Judge, certificate, judges, noise_clusters, noise_index
from synthaug.evaluation.results import Metric
from synthaug.evaluation.together import Together
from synthaug.generation import generate
from synthaug.generation.plan import GenerateRecipe
from synthaug.record import Record

torch.set_num_threads(1)
FINDING = "pleural_effusion"


class Mean(torch.nn.Module):
    """The logit of the finding is the film's mean grey value about a half."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(8.0))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        bright = (images.mean((1, 2, 3))) * self.scale
        return torch.stack([-bright, bright], 1)


def judge(arch: str = "mean") -> Judge:
    config = DetectorConfig(arch=arch, findings=("no_finding", FINDING), image_size=32)
    return judges([Detector(config, Mean()).eval()])[0]


@pytest.fixture(scope="module")
def drawn(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> list[SyntheticRadiographs]:
    """Two folders, with the finding (seed 3) and without any (seed 4), six films each."""
    root = tmp_path_factory.mktemp("drawn")
    folders = []
    for seed, (name, label) in enumerate((("present", FINDING), ("absent", "no_finding")), 3):
        generate(label, count=6, seed=seed, out=root / name, model=tiny_checkpoint, device="cpu")
        folders.append(SyntheticRadiographs(root / name))
    return folders


def test_a_control_is_the_same_recipe_with_one_thing_changed(
    drawn: list[SyntheticRadiographs], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(drawn[0])
    same = draw(drawn, tiny_checkpoint, tmp_path, 4, recipe.guidance_scale, "cpu")
    assert [one.root.parent.name for one in same] == [f"guidance-{recipe.guidance_scale:g}"] * 2
    for one, again in zip(drawn, same, strict=True):
        ours = one.subset(range(4)).images_array(32)
        assert np.abs(again.images_array(32).astype(int) - ours).max() <= 1, (
            "the same noise gives the same film"
        )
        assert [r.labels for r in again.records] == [r.labels for r in one.records[:4]]
    assert changed(recipe, 2, 4.0).count == 2 and changed(recipe, 50, 1.0).count == 6
    other = recipe.model_copy(
        update={"checkpoint": recipe.checkpoint.model_copy(update={"sha256": "0" * 64})}
    )
    with pytest.raises(RecipeError, match="made for checkpoint"):
        generate(recipe=changed(other, 2, 4.0), model=tiny_checkpoint, out=tmp_path / "other", device="cpu")


def test_the_empty_prompt_is_asked_for_the_label_of_its_noise(
    drawn: list[SyntheticRadiographs], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    (empty,) = draw(drawn[:1], tiny_checkpoint, tmp_path, 6, None, "cpu")
    both = draw(drawn, tiny_checkpoint, tmp_path, 6, None, "cpu")
    one = certificate(judge(), drawn, FINDING, empty_prompt=empty)
    assert "either label" in next(m.reason or "" for m in one if m.name == EMPTY)
    found = {m.name: m for m in certificate(judge(), drawn, FINDING, empty_prompt=Together(both))}
    called, right = found["empty prompt called present"], found[EMPTY]
    assert called.n == right.n == 12 and right.arm == "empty prompt"
    scored = judge().detector(torch.from_numpy(Together(both).images_array(32)))[:, 1] >= 0
    expected = (scored[:6].float().mean() + 1 - scored[6:].float().mean()) / 2
    assert right.value == pytest.approx(float(expected), abs=1e-6)


@pytest.fixture(scope="module")
def together(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> SyntheticRadiographs:
    """One run of present and absent films, PA and AP: no two of its films share a noise."""
    plan = [
        {"labels": {FINDING: 1.0}, "view": "PA", "count": 3},
        {"labels": {FINDING: 1.0}, "view": "AP", "count": 5},
        {"labels": {"no_finding": 1.0}, "view": "PA", "count": 4},
    ]
    recipe = GenerateRecipe.from_values({"plan": plan, "seed": 11})
    out = tmp_path_factory.mktemp("one") / "run"
    return SyntheticRadiographs(generate(recipe=recipe, out=out, model=tiny_checkpoint, device="cpu"))


def test_an_empty_prompt_has_the_noises_of_present_and_of_absent_films(
    together: SyntheticRadiographs, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    (empty,) = draw([together], tiny_checkpoint, tmp_path, 3, None, "cpu")
    noises = [0, 1, 2, 3, 4, 5, 8, 9, 10]
    assert [int(key) for key in empty.keys] == noises and noise_clusters(empty)[-1] == "11/10"
    checkpoint = load_checkpoint(tiny_checkpoint, "cpu")
    again = sample(
        checkpoint,
        [""],
        [(11, 8)],
        negative_prompts="",
        guidance_scale=1.0,
        scheduler=empty.records[0].provenance["scheduler"],
    )
    pixels = np.asarray(empty[6][0]).astype(int)
    assert np.abs(again[0, 0] - pixels).max() <= 1, "a film is a function of its noise alone"
    assert all(
        r.prompt == "" and r.view is None and np.isnan(list(r.labels.values())).all() for r in empty.records
    )
    before = {path.name: path.stat().st_mtime_ns for path in Path(empty.root).iterdir()}
    draw([together], tiny_checkpoint, tmp_path, 3, None, "cpu")
    assert before == {path.name: path.stat().st_mtime_ns for path in Path(empty.root).iterdir()}
    with pytest.raises(OutputFolderError, match=r"differs in noises"):
        draw([together], tiny_checkpoint, tmp_path, 4, None, "cpu")


def test_of_a_gated_film_the_noise_is_that_of_the_draw_that_passed() -> None:
    kept = Record("000000002", {}, provenance={"seed": 3, "quality": {"index": 26}})
    assert noise_index(kept) == 26 and noise_index(Record("000000002", {}, provenance={"seed": 3})) == 2


def _empty_accuracy(
    films: np.ndarray, labels: Sequence[Sequence[float]], threshold: float
) -> tuple[Metric, Metric]:
    """The control of films (n, 1, s, s) whose noises were drawn with these labels; the judge reads brightness."""
    one = judge()
    config = one.detector.config.model_copy(update={"thresholds": {FINDING: threshold}})
    one = judges([Detector(config, Mean()).eval()])[0]
    names = ("no_finding", FINDING)
    rows = [(i, label) for i, several in enumerate(labels) for label in several]
    clusters = tuple(f"0/{i}" for i, _ in rows)
    values = np.array([[1 - label, label] for _, label in rows], np.float32)
    asked = Films(films[[i for i, _ in rows]], values, names, clusters, clusters)
    drawn = Films(
        films,
        np.full((len(films), 2), np.nan, np.float32),
        names,
        *[tuple(f"0/{i}" for i in range(len(films)))] * 2,
    )
    found = {m.name: m for m in certificate(one, [asked], FINDING, empty_prompt=drawn)}
    return found[EMPTY], found["empty prompt called present"]


def test_guessing_the_labels_of_noises_is_right_half_the_time_whatever_the_threshold() -> None:
    rng = np.random.default_rng(0)
    films = rng.integers(0, 256, (400, 1, 1, 1)).repeat(32, 2).repeat(32, 3).astype(np.uint8)
    labels = [[float(i % 2)] for i in range(400)]
    for threshold in (0.0, 0.02, 0.3, 0.5, 0.9, 1.0):
        right, called = _empty_accuracy(films, labels, threshold)
        assert (
            right.value == pytest.approx(0.5, abs=0.1)
            and right.low is not None
            and right.low < 0.5 < right.high
        )
        assert called.n == right.n == 400
        if called.value in (0.0, 1.0):
            assert right.value == 0.5, "who calls all films alike is right about half of them"
    # Accuracy is a half, and half the difference of how often either kind of noise is called present.
    bright = films[:, 0, 0, 0] / 255 * 8 - 4 >= 0
    shares = [bright[side::2].mean() for side in (0, 1)]
    assert _empty_accuracy(films, labels, 0.5)[0].value == pytest.approx(
        0.5 + (shares[1] - shares[0]) / 2, abs=0.02
    )
    told = [[float(is_bright)] for is_bright in bright]
    assert (_empty_accuracy(films, told, 0.5)[0].value or 0) > 0.9, (
        "a judge that knows the noise is found out"
    )


def test_noises_that_were_drawn_with_and_without_are_asked_for_both() -> None:
    films = np.random.default_rng(1).integers(0, 256, (30, 1, 32, 32)).astype(np.uint8)
    for threshold in (0.2, 0.5, 0.8):
        assert _empty_accuracy(films, [[0.0, 1.0]] * 30, threshold)[0].value == 0.5


def test_evaluate_draws_its_controls_and_says_what_is_not_certified(
    drawn: list[SyntheticRadiographs], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    options = Options(
        model=tiny_checkpoint, controls=3, guidance_scales=(1, 3), extractors=["pixels"], device="cpu"
    )
    two = [judge().detector, judge("other").detector]
    results = evaluate(drawn, None, two, [FINDING], tmp_path, options=options)
    for name in ("mean", "other"):
        for scale in (1, 3):
            found = results.find("label accuracy", arm=f"guidance {scale}", extractor=name)
            assert found.n == 6 and found.value is not None
        assert results.find(EMPTY, extractor=name).n == 6
    (certified,) = results.settings["certificates"]
    assert not certified["certified"] and any("0.95 is needed" in why for why in certified["against"])
    assert {(c["arm"], c["extractor"]) for c in results.settings["curves"]} == {
        ("synthetic", "mean"),
        ("synthetic", "other"),
    }
    with pytest.raises(DataError, match="--controls: pass --model"):
        evaluate(drawn, None, two, [FINDING], tmp_path, options=Options(controls=3, device="cpu"))


def test_controls_of_films_without_a_recipe_are_refused_before_any_work(
    tiny_shards: Path, tmp_path: Path
) -> None:
    options = Options(model="embedded", controls=3, device="cpu")
    with pytest.raises(DataError, match=r"recipe\.yaml: not found.*--empty-prompt"):
        evaluate([SyntheticRadiographs(tiny_shards)], None, judge().detector, None, tmp_path, options=options)


def _figures(name: str, low: float = 0.96, shuffled: float = 0.5, empty: float | None = 0.52) -> list[Metric]:
    facts = {"finding": FINDING, "extractor": name}
    out = [
        Metric(name="label accuracy", arm="synthetic", value=0.98, low=low, high=0.99, n=400, **facts),
        Metric(name="shuffled label accuracy", arm="synthetic", value=shuffled, n=400, **facts),
    ]
    if empty is not None:
        out.append(Metric(name=EMPTY, arm="empty prompt", value=empty, n=400, **facts))
    return out


@pytest.mark.parametrize(
    ("second", "against"),
    [
        ({}, None),
        ({"low": 0.949}, "may be as low as 0.949"),
        ({"low": 0.95}, None),
        ({"shuffled": 0.61}, "shuffled labels at 0.610"),
        ({"empty": 0.39}, "empty prompt at 0.390"),
        ({"empty": None}, "empty prompt was not run"),
    ],
)
def test_a_certificate_needs_every_detector_and_every_control(second: dict, against: str | None) -> None:
    two = [judge("first"), judge("second")]
    found = certify([*_figures("first"), *_figures("second", **second)], two, FINDING)
    assert found.certified == (against is None)
    assert (
        [against] == [None] if against is None else (len(found.against) == 1 and against in found.against[0])
    )


def test_two_detectors_of_one_architecture_certify_nothing() -> None:
    two = judges([judge().detector, judge().detector])
    found = certify([*_figures("mean"), *_figures("mean-2")], two, FINDING)
    assert not found.certified and "one architecture (mean)" in found.against[0]


def test_accuracy_is_told_by_seed_where_there_are_several(
    drawn: list[SyntheticRadiographs], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    more = []
    for seed, label in ((7, FINDING), (8, "no_finding")):
        generate(label, count=4, seed=seed, out=tmp_path / label, model=tiny_checkpoint, device="cpu")
        more.append(SyntheticRadiographs(tmp_path / label))
    by_seed = [m for m in certificate(judge(), [*drawn, *more], FINDING) if m.subgroup]
    assert [m.subgroup for m in by_seed] == ["seeds 3 and 4", "seeds 7 and 8"]
    assert [m.n for m in by_seed] == [12, 8]
    assert not [m for m in certificate(judge(), drawn, FINDING) if m.subgroup]
