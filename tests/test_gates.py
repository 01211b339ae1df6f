"""Quality gates: what each rejects, the quota, the log, and bytes that do not depend on batches or interruptions."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from synthaug import cli, images
from synthaug.detection.detector import DetectorConfig, build_detector
from synthaug.errors import FailureError, LabelError, UnknownNameError, UserError
from synthaug.generation import GenerateRecipe, PlanEntry, generate
from synthaug.generation.duplicates import Fingerprints, fingerprint
from synthaug.generation.gates import (
    GateRecipe,
    Gates,
    Judge,
    Rejection,
    of_record,
    parse_gates,
    rates,
)
from synthaug.shards import ShardSet, verify

room = sys.modules["synthaug.generation.drawing"]
gated_room = sys.modules["synthaug.generation.gated"]
EFFUSION = "pleural_effusion"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def by_noise(films: np.ndarray) -> np.ndarray:
    """Present for about half of all films: a property of the picture alone."""
    return (films.astype(np.int64).sum((1, 2, 3)) % 2).astype(float) - 0.5


def coin(sha256: str = "c" * 64) -> Judge:
    return Judge("coin", sha256, (EFFUSION,), lambda films: {EFFUSION: by_noise(films)})


def draw(checkpoint: Path, out: Path, **changes) -> Path:
    options = {
        "count": 10,
        "shard_size": 4,
        "batch_size": 3,
        "device": "cpu",
        "seed": 5,
        "gates": ("duplicate", "label"),
        "judge": coin(),
    }
    return generate(changes.pop("labels", EFFUSION), out=out, model=checkpoint, **(options | changes))


@pytest.fixture(scope="module")
def gated(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted gated run: 10 films in shards of 4, batches of 3. Do not write into it."""
    return draw(tiny_checkpoint, tmp_path_factory.mktemp("gated") / "whole")


def test_each_gate_rejects_what_it_is_for() -> None:
    rng = np.random.default_rng(0)
    film = rng.integers(40, 200, (64, 64), dtype=np.uint8)
    film[:32] //= 2
    other = np.flipud(film)
    blank = np.full((64, 64), 90, np.uint8)
    white = film.copy()
    white[:, :40] = 255
    again = np.clip(0.9 * film + 8 + rng.normal(0, 2, film.shape), 0, 255).astype(np.uint8)
    films = np.stack([film, blank, white, again, other])[:, None]
    gates = Gates(GateRecipe(names=("blank", "saturated", "duplicate")))
    found = gates.sift(films, range(5), [{}] * 5)
    assert [None if one is None else one.gate for one in found] == [
        None,
        "blank",
        "saturated",
        "duplicate",
        None,
    ]
    assert found[1] == Rejection(1, "blank", 0.0) and found[3] is not None and found[3].value > 0.97
    assert len(gates.accepted) == 2


def test_a_fingerprint_product_is_the_correlation_of_the_small_films() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 256, (2, 64, 64), dtype=np.uint8)
    small = [images.resize(film, 32, "squash").astype(float).ravel() for film in (one, other)]
    assert fingerprint(one) @ fingerprint(other) == pytest.approx(np.corrcoef(small)[0, 1], abs=1e-5)
    assert fingerprint(one) @ fingerprint(one) == pytest.approx(1)
    assert not fingerprint(np.full((64, 64), 7, np.uint8)).any()


@pytest.mark.parametrize(
    ("asked", "passes"), [(1.0, [True, False]), (0.0, [False, True]), (None, [True, True])]
)
def test_the_label_gate_takes_the_detectors_side(asked: float | None, passes: list[bool]) -> None:
    judge = Judge("drawn", "0" * 64, (EFFUSION, "edema"), lambda films: {EFFUSION: np.array([0.2, -0.1])})
    films = np.random.default_rng(0).integers(0, 256, (2, 1, 32, 32), dtype=np.uint8)
    found = Gates(GateRecipe(names=("label",)), judge).sift(films, (0, 1), [{EFFUSION: asked}] * 2)
    assert [one is None for one in found] == passes


def test_gates_of_the_command_line() -> None:
    assert parse_gates(["label,blank", "blank"]) == ("blank", "label") and parse_gates([]) == ()
    with pytest.raises(UnknownNameError, match="did you mean 'saturated'"):
        parse_gates(["saturatd"])


def test_the_quota_is_filled_and_every_reject_is_on_record(gated: Path, tiny_checkpoint: Path) -> None:
    assert verify(gated) == []
    records = list(ShardSet(gated).records())
    assert [record.key for record in records] == [f"{n:09d}" for n in range(10)]
    shown = np.stack([images.read(data)[None] for _, data in ShardSet(gated)])
    assert (by_noise(shown) > 0).all(), "every film that was kept passed"
    lines = [json.loads(line) for line in (gated / "rejected.jsonl").read_text().splitlines()]
    assert lines and {line["gate"] for line in lines} <= {"label", "duplicate"}
    for place, record in enumerate(records):
        history = of_record(record)
        assert [one.index for one in history] == [10 * attempt + place for attempt in range(len(history))]
        assert record.provenance["quality"]["index"] == 10 * len(history) + place
        assert [one.to_json() for one in history] == [
            {k: line[k] for k in ("index", "gate", "value")} for line in lines if line["key"] == record.key
        ]
    facts = json.loads((gated / "manifest.json").read_text())
    assert facts["gates"]["candidates"] == 10 + len(lines) and "rejected.jsonl" in facts["files"]
    assert sum(facts["gates"]["rejected"].values()) == len(lines)
    assert facts["gates"]["acceptance"] == pytest.approx(10 / (10 + len(lines)), abs=1e-4)
    card = (gated / "README.md").read_text()
    assert "GATED (duplicate, label)" in card and "measured by that detector says nothing" in card
    assert "acceptance" in card


def test_a_film_is_that_of_its_noise_index(gated: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """An ungated run that is long enough holds the very candidates."""
    plain = draw(tiny_checkpoint, tmp_path / "plain", count=60, shard_size=60, gates=(), judge=None)
    candidates = ShardSet(plain)
    assert "index" not in candidates[0][0].provenance["quality"]
    assert not (plain / "rejected.jsonl").exists()
    for record, data in ShardSet(gated):
        index = record.provenance["quality"]["index"]
        if index < 60:
            theirs = images.read(candidates[index][1]).astype(int)
            assert np.abs(images.read(data).astype(int) - theirs).max() <= 2


@pytest.mark.parametrize("batches", [0, 1, 3, 5, 8])
def test_an_interrupted_gated_run_ends_in_the_same_bytes(
    gated: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batches: int
) -> None:
    left, real = [batches], room.sample

    def interrupted(*args, **kwargs):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(room, "sample", interrupted)
        with pytest.raises(KeyboardInterrupt):
            draw(tiny_checkpoint, tmp_path / "out")
    assert content(draw(tiny_checkpoint, tmp_path / "out")) == content(gated)


@pytest.mark.parametrize("victim", ["shard-000000.tar", "shard-000001.tar", "rejected.jsonl"])
def test_a_lost_file_of_a_gated_run_comes_back(
    gated: Path, tiny_checkpoint: Path, tmp_path: Path, victim: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name, data in content(gated).items():
        if name != victim:
            (out / name).write_bytes(data)
    assert content(draw(tiny_checkpoint, out)) == content(gated)


def test_a_lossy_format_is_judged_as_it_is_stored(tiny_checkpoint: Path, tmp_path: Path) -> None:
    whole = draw(tiny_checkpoint, tmp_path / "whole", format="jpeg")
    shown = np.stack([images.read(data)[None] for _, data in ShardSet(whole)])
    assert (by_noise(shown) > 0).all()
    again = draw(tiny_checkpoint, tmp_path / "again", format="jpeg", count=10)
    (again / "shard-000002.tar").unlink()
    assert content(draw(tiny_checkpoint, again, format="jpeg")) == content(whole)


def test_duplicates_are_found_across_shards(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sampler that draws place 7 as it drew place 1, once."""
    real = room.sample

    def repeating(checkpoint, prompts, noises, *args, **kwargs):
        noises = [(seed, 1 if index == 7 else index) for seed, index in noises]
        return real(checkpoint, prompts, noises, *args, **kwargs)

    monkeypatch.setattr(room, "sample", repeating)
    limits = GateRecipe(names=("duplicate",), most_alike=0.9999)
    recipe = GenerateRecipe(
        plan=(PlanEntry(labels={EFFUSION: 1.0}, count=10),), seed=5, shard_size=4, gates=limits
    )
    out = draw(
        tiny_checkpoint, tmp_path / "out", labels=None, recipe=recipe, gates=(), judge=None, count=None
    )
    lines = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    assert [(line["key"], line["index"], line["gate"]) for line in lines] == [("000000007", 7, "duplicate")]


@pytest.mark.parametrize("format", ["png", "jpeg"])
def test_earlier_shards_are_read_once_and_only_where_they_were_there(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    """Twelve shards of two films; the first candidates of places 4 and 23 are drawn as the first film was."""
    real, read, rows = room.sample, list[str](), list[np.ndarray]()
    encoded, most_alike = gated_room.encoded, Fingerprints.most_alike

    def repeating(checkpoint, prompts, noises, *args, **kwargs):
        noises = [(seed, 0 if index in (4, 23) else index) for seed, index in noises]
        return real(checkpoint, prompts, noises, *args, **kwargs)

    def reading(folder, entries):
        read.extend(entry.name for entry in entries)
        return encoded(folder, entries)

    def comparing(known, row):
        rows[:] = [known._room[: len(known)].copy()]
        return most_alike(known, row)

    monkeypatch.setattr(room, "sample", repeating)
    monkeypatch.setattr(gated_room, "encoded", reading)
    monkeypatch.setattr(Fingerprints, "most_alike", comparing)
    limits = GateRecipe(names=("duplicate",), most_alike=0.9999)
    recipe = GenerateRecipe(
        plan=(PlanEntry(labels={EFFUSION: 1.0}, count=24),), seed=5, shard_size=2, gates=limits, format=format
    )
    how = {"labels": None, "recipe": recipe, "gates": (), "judge": None, "count": None}
    how |= {"shard_size": None, "batch_size": 2}
    out = draw(tiny_checkpoint, tmp_path / "out", **how)
    whole, compared = content(out), rows[0]
    lines = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    assert [(line["key"], line["index"]) for line in lines] == [("000000004", 4), ("000000023", 23)]
    assert read == [] and len(compared) == 23
    for lost in (5, 11):
        (out / f"shard-{lost:06d}.tar").unlink()
    assert content(draw(tiny_checkpoint, out, **how)) == whole
    assert sorted(read) == [f"shard-{number:06d}.tar" for number in range(11) if number != 5]
    assert np.array_equal(rows[0], compared)


def test_fingerprints_grow_and_are_cut_and_arranged() -> None:
    rng = np.random.default_rng(0)
    films = rng.integers(0, 256, (300, 8, 8), dtype=np.uint8)
    rows, known = np.stack([fingerprint(film) for film in films]), Fingerprints()
    assert known.most_alike(rows[0]) == -1
    for row in rows:
        known.add(row)
    assert len(known) == 300 and known.most_alike(rows[299]) == pytest.approx(1)
    known.arrange(298, np.array([1, 0]))
    known.cut(299)
    known.cut(400)
    assert len(known) == 299 and known.most_alike(rows[299]) == pytest.approx(1)
    assert known.most_alike(rows[298]) == pytest.approx((rows[np.arange(300) != 298] @ rows[298]).max())


def test_a_place_that_no_candidate_fills_is_named(tiny_checkpoint: Path, tmp_path: Path) -> None:
    never = Judge("never", "d" * 64, (EFFUSION,), lambda films: {EFFUSION: np.full(len(films), -1.0)})
    with pytest.raises(
        FailureError, match=r"film 000000000: 20 candidates in a row were rejected .label 20."
    ) as caught:
        draw(tiny_checkpoint, tmp_path / "out", judge=never, count=2)
    assert caught.value.exit_code == 1 and not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"judge": None}, UserError, "needs a detector"),
        ({"gates": ("blnk",)}, UnknownNameError, "blank"),
        (
            {"labels": "no_finding"},
            LabelError,
            "detector coin knows none of no_finding; it knows pleural_eff",
        ),
    ],
)
def test_bad_gates_are_named_and_nothing_is_written(
    tiny_checkpoint: Path, tmp_path: Path, changes: dict, error: type[UserError], said: str
) -> None:
    with pytest.raises(error, match=said):
        draw(tiny_checkpoint, tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_another_judge_or_other_gates_are_another_run(gated: Path, tiny_checkpoint: Path) -> None:
    before = content(gated)
    with pytest.raises(UserError, match=r"gates\.judge\.sha256"):
        draw(tiny_checkpoint, gated, judge=coin("e" * 64))
    with pytest.raises(UserError, match=r"gates\.names"):
        draw(tiny_checkpoint, gated, gates=("label",))
    with pytest.raises(UserError, match="began with coin"):
        draw(
            tiny_checkpoint,
            gated,
            labels=None,
            recipe=gated / "recipe.yaml",
            gates=(),
            judge=coin("e" * 64),
            count=None,
        )
    assert content(gated) == before


def test_rates_count_every_gate_asked_for() -> None:
    found = rates(GateRecipe(names=("blank", "label")), 6, {"label": 2})
    assert found["rejected"] == {"blank": 0, "label": 2} and found["acceptance"] == 0.75


def test_the_command_gates_by_a_detector_folder(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = DetectorConfig(
        arch="test_resnet", findings=(EFFUSION,), image_size=32, thresholds={EFFUSION: 1e-6}
    )
    build_detector(config, seed=0).save(tmp_path / "judge")
    flags = ["--model", tiny_checkpoint, "--count", 3, "--device", "cpu", "--out", tmp_path / "out"]
    flags += ["--gate", "blank,label", "--detector", tmp_path / "judge", "--label", EFFUSION]
    assert cli.main(["generate", *map(str, flags), "--dry-run"]) == 0
    assert "gates blank, label" in capsys.readouterr().out
    assert cli.main(["generate", *map(str, flags)]) == 0
    recipe = GenerateRecipe.load(tmp_path / "out" / "recipe.yaml")
    assert recipe.gates is not None and recipe.gates.judge is not None and recipe.gates.judge.name == "judge"
    config = config.model_copy(update={"findings": ("edema",)})
    build_detector(config, seed=0).save(tmp_path / "other")
    flags[flags.index(tmp_path / "judge")] = tmp_path / "other"
    assert cli.main(["generate", *map(str, flags)]) == 2
    assert "detector other knows none of pleural_effusion; it knows edema" in capsys.readouterr().err
