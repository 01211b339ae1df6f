"""`benchmarks/findings.py`: equal views, a large opacity that passes for nothing, and what is asked of each detector."""

import io
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import benchmark_scripts
import numpy as np
import pytest
from rich.console import Console
from sklearn.metrics import roc_auc_score

from synthaug.datasets import SyntheticRadiographs
from synthaug.detection.detector import DetectorConfig, build_detector
from synthaug.evaluation.label_fidelity import Judge, auroc_interval
from synthaug.evaluation.results import Metric, Results
from synthaug.generation import GenerateRecipe, generate

ASKED = ("cardiomegaly", "edema", "pleural_effusion")
ALL = ("no_finding", *ASKED)
EACH = 40


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    with benchmark_scripts.script("findings") as module:
        yield module


@pytest.mark.parametrize("count", [6, 5])
def test_both_arms_have_each_view_equally_often_in_picture_and_record(
    script: ModuleType, tiny_checkpoint: Path, tmp_path: Path, count: int
) -> None:
    for finding in ("cardiomegaly", "no_finding"):  # the first is not offered by the checkpoint
        recipe = GenerateRecipe(plan=script.plan(finding, ("PA", "AP"), count, "radiograph"))
        words = finding.replace("_", " ")
        assert [entry.prompt for entry in recipe.plan] == [
            f"chest radiograph, {view} view: {words}" for view in ("PA", "AP")
        ]
        films = SyntheticRadiographs(
            generate(recipe=recipe, model=tiny_checkpoint, out=tmp_path / finding, device="cpu")
        )
        assert films.views == ["PA"] * 3 + ["AP"] * 3 and films.column(finding).tolist() == [1.0] * 6


def drawn(script: ModuleType, shown: float, opacity: float, seed: int = 0) -> SimpleNamespace:
    """Logits that rise with their own finding by `shown` and with any by `opacity`, and the films that they are of."""
    owner = np.repeat(ALL, EACH)
    scores = np.random.default_rng(seed).normal(size=(len(owner), len(ALL)))
    scores += opacity * (owner != "no_finding")[:, None] + shown * (owner[:, None] == np.array(ALL))
    clusters = [f"{i % EACH}/{i // EACH}" for i in range(len(owner))]
    labels = {finding: (owner == finding).astype(float) for finding in ALL}
    return SimpleNamespace(films=script.Films(scores, labels, clusters), scores=scores, owner=owner)


def read(
    script: ModuleType, synthetic: SimpleNamespace, real: SimpleNamespace, name: str = "a"
) -> list[Metric]:
    """Every figure of a detector whose logits are those of the films."""
    judge = Judge(name, SimpleNamespace(findings=ALL, config=SimpleNamespace(image_size=8, fit="crop")), "0")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(script, "logits", lambda detector, data: data)
        return script.told_apart(judge, synthetic.films, real.films, ASKED)


def one(found: list[Metric], name: str, finding: str, arm: str, other: str | None = None) -> Metric:
    (metric,) = [m for m in found if (m.name, m.finding, m.arm, m.subgroup) == (name, finding, arm, other)]
    return metric


def test_each_pair_is_the_auroc_of_its_films_and_the_mean_that_of_its_pairs(script: ModuleType) -> None:
    films = drawn(script, 1.0, 1.0)
    found = read(script, films, films)
    for place, finding in enumerate(ASKED, 1):
        pairs = []
        for other in (name for name in ALL if name != finding):
            used = np.isin(films.owner, (finding, other))
            scores, labels = films.scores[used, place], films.owner[used] == finding
            metric = one(found, script.PAIR, finding, "synthetic", other)
            assert (
                metric.value == pytest.approx(roc_auc_score(labels, scores), abs=1e-6)
                and metric.n == 2 * EACH
            )
            alone = auroc_interval(scores, labels * 1.0, np.array(films.films.clusters)[used].tolist())
            assert metric.low == pytest.approx(alone.low, abs=0.02)
            assert metric.high == pytest.approx(alone.high, abs=0.02)
            pairs += [metric] * (other != "no_finding")
        mean = one(found, script.MEAN, finding, "synthetic")
        assert mean.value == pytest.approx(np.mean([m.value for m in pairs]), abs=1e-6)
        widest = max(m.high - m.low for m in pairs)
        assert mean.low < mean.value < mean.high and mean.high - mean.low < widest


def test_a_large_opacity_passes_against_no_finding_and_not_against_findings(script: ModuleType) -> None:
    real, opaque, good = (drawn(script, *shown) for shown in ((1.5, 2.0), (0.0, 4.0), (2.5, 2.0)))
    for synthetic, offered in ((opaque, False), (good, True)):
        found = read(script, synthetic, real)
        for finding in ASKED:
            clear = one(found, script.PAIR, finding, "synthetic", "no_finding")
            assert clear.value > 0.95
            reasons = script.refusals(found, finding, aim=0.9)
            assert (not reasons) == offered
            if not offered:
                asked = one(found, script.MEAN, finding, "real").low
                assert len(reasons) == 1 and f"against other findings, asked {asked:.3f}" in reasons[0]
    found = read(script, drawn(script, 2.5, -1.0), real)  # told from each other, and less from no finding
    clear = one(found, script.PAIR, "edema", "synthetic", "no_finding")
    assert 0.7 < clear.value < 0.95
    assert script.refusals(found, "edema", 0.95, 0.8) == [
        f"a: AUROC {clear.value:.3f} against films without a finding, asked 0.950"
    ]
    assert script.refusals(found, "edema", clear.value, 0.8) == []
    blind = read(script, drawn(script, -0.1, 0.0), drawn(script, 0.0, 0.0, seed=20))
    own, mean = (one(blind, script.MEAN, "pleural_effusion", arm) for arm in ("real", "synthetic"))
    assert own.low < mean.value < 0.5, "a detector that knows nothing asks for chance at least"
    assert "asked 0.500" in script.refusals(blind, "pleural_effusion", 0.0)[0]
    both = [*read(script, good, real), *read(script, opaque, real, "b")]
    (reason,) = script.refusals(both, "edema", 0.9)
    assert reason.startswith("b: "), "every detector has to tell it"
    assert script.refusals(both, "mass", 0.9) == ["no detector knows it"]


def test_real_films_with_both_findings_are_on_neither_side_and_few_are_no_figure(script: ModuleType) -> None:
    real, synthetic = drawn(script, 1.5, 2.0), drawn(script, 2.5, 2.0)
    labels = {name: values.copy() for name, values in real.films.labels.items()}
    effusion = np.flatnonzero(real.owner == "pleural_effusion")
    labels["edema"][effusion[: EACH - 4]] = 1.0  # 4 effusions without edema are left
    labels["cardiomegaly"][effusion[0]] = np.nan  # unknown: on no side of that pair
    real.films = script.Films(real.films.data, labels, real.films.clusters)
    assert real.films.counts("pleural_effusion", "edema") == (4, EACH)
    assert real.films.counts("cardiomegaly", "pleural_effusion") == (EACH, EACH - 1)
    found = read(script, synthetic, real)
    lacking = one(found, script.PAIR, "pleural_effusion", "real", "edema")
    assert lacking.value is None and lacking.reason.startswith("4 and 40 films")
    for arm in ("synthetic", "real"):  # the mean is over the same others in both
        mean = one(found, script.MEAN, "pleural_effusion", arm)
        assert mean.value == one(found, script.PAIR, "pleural_effusion", arm, "cardiomegaly").value
    labels["cardiomegaly"][effusion] = 1.0
    found = read(script, synthetic, real)
    assert one(found, script.MEAN, "pleural_effusion", "real").value is None
    assert "give --between-aim" in script.refusals(found, "pleural_effusion", 0.9)[0]
    assert script.refusals(found, "pleural_effusion", 0.9, 0.7) == []


def test_the_heat_map_has_a_row_and_a_column_for_each_finding(script: ModuleType) -> None:
    found = read(script, drawn(script, 2.5, 2.0), drawn(script, 1.5, 2.0))
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(script.heat_map(found, "a", "synthetic", ASKED))
    lines = console.export_text().splitlines()
    row = next(line for line in lines if "2 edema" in line).split()
    values = [one(found, script.PAIR, "edema", "synthetic", o).value for o in ALL if o != "edema"]
    mean = one(found, script.MEAN, "edema", "synthetic")
    shown = [*(f"{v:.2f}" for v in (*values, mean.value)), f"{mean.low:.2f}-{mean.high:.2f}"]
    assert row[2:] == shown


def test_the_whole_runs_and_writes_what_it_decided(
    script: ModuleType, tiny_checkpoint: Path, tiny_nih: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    config = DetectorConfig(
        arch="test_resnet", findings=("no_finding", "cardiomegaly", "pleural_effusion"), image_size=32
    )
    build_detector(config, "random").save(tmp_path / "judge")
    monkeypatch.setattr(script, "LEAST", 2)
    flags = ["--real", str(tiny_nih), "--model", str(tiny_checkpoint), "--detector", str(tmp_path / "judge")]
    monkeypatch.setattr("sys.argv", ["findings.py", *flags, "--count", "4", "--out", str(tmp_path / "out")])
    script.main()
    results = Results.read(tmp_path / "out")
    refused = results.settings["refused"]
    assert list(refused) == ["cardiomegaly", "pleural_effusion"]
    assert {(m.arm, m.subgroup) for m in results.metrics if m.name == script.PAIR} == {
        (arm, other)
        for arm in ("synthetic", "real")
        for other in ("no_finding", "cardiomegaly", "pleural_effusion")
    }
    assert all(m.n == 8 for m in results.metrics if m.arm == "synthetic" and m.name == script.PAIR)
    said = capsys.readouterr().out
    assert "judge, synthetic films" in said and "judge, real films" in said and "\ncardiomegaly: " in said
