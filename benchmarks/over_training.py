"""What more training gives: resemblance, label fidelity and nearness to training films of several checkpoints of one training.

    python benchmarks/over_training.py 38400=STEP1200 76800=STEP2400 --real NIH [--training NIH] [--finding pleural_effusion]
        [--count 100] [--detector embedded JUDGE ...] [--extractor imagenet] [--part validation] [--out over-training]

Each checkpoint is named by the training films that it has seen, in order. Each draws COUNT films with the finding and COUNT
without, its views equally often, from equal noises and with its own steps and guidance (the same command resumes, and with
more checkpoints draws theirs alone). Prints and draws over the films seen, into `results.json` and `over_training.png`: KID and
coverage beside real films of the part; AUROC and accuracy of each detector, dashed its own on those real films; and, with
--training (folders, cut down to part `generator` where the split knows them), the median distance to the nearest training film.
Dashed elsewhere: other real films in the place of synthetic ones. Intervals are 95 % and each checkpoint's own; since noises are
equal, differences between checkpoints are surer than they look. Choices are made on part `validation`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from findings import plan

from synthaug.datasets import RealRadiographs, SyntheticRadiographs
from synthaug.diffusion import load_checkpoint
from synthaug.errors import DataError, UnknownNameError
from synthaug.evaluation import privacy
from synthaug.evaluation.features import THUMBNAIL, Extractor, extractor, features
from synthaug.evaluation.label_fidelity import (
    Judge,
    fidelity_metrics,
    judges,
    label_fidelity,
    noise_clusters,
    score,
)
from synthaug.evaluation.parts import real_part
from synthaug.evaluation.resemblance import resemblance
from synthaug.evaluation.results import Metric, Results, table
from synthaug.evaluation.together import Together
from synthaug.findings import FINDINGS, NO_FINDING, canonical, title
from synthaug.generation import GenerateRecipe, generate
from synthaug.report.curves import COLOURS
from synthaug.report.figures import INK, axes_of

SHOWN = ("KID", "coverage", "label AUROC", "label accuracy", privacy.NAMES[1])


def parsed(texts: Sequence[str]) -> dict[int, str]:
    """Films seen -> checkpoint folder, of FILMS=FOLDER. Raises `SystemExit` where that is not what they are, or not in order."""
    named = [text.partition("=") for text in texts]
    for text, (films, _, folder) in zip(texts, named, strict=True):
        if not films.isdecimal() or not folder:
            raise SystemExit(
                f"{text}: expected FILMS=FOLDER, the number of training films seen and a checkpoint"
            )
    seen = [int(films) for films, _, _ in named]
    if sorted(set(seen)) != seen:
        raise SystemExit(
            f"{' '.join(map(str, seen))}: expected checkpoints in the order of the films they have seen"
        )
    return dict(zip(seen, (folder for _, _, folder in named), strict=True))


def draw(model: str, labels: Sequence[str], count: int, out: Path) -> list[SyntheticRadiographs]:
    """The films of each label, drawn or resumed."""
    card, sets = load_checkpoint(model).card, []
    for label in labels:
        entries = plan(label, card.views or ("PA", "AP"), count, card.template)
        recipe = GenerateRecipe(plan=entries, seed=FINDINGS.index(label))
        sets.append(
            SyntheticRadiographs(generate(recipe=recipe, model=model, out=out / label), findings=labels)
        )
    return sets


def ceiling(judge: Judge, real: Any, finding: str) -> list[Metric]:
    """The same figures of a detector on real films, all of them. Raises `UnknownNameError` where it does not know the finding."""
    if finding not in judge.detector.findings:
        raise UnknownNameError("finding of the detector", finding, judge.detector.findings)
    scored = score(judge.detector, [real], finding, balance=False)
    return fidelity_metrics(scored, finding, judge.detector.config.threshold(finding), "real", judge=judge)


def audited(source: Extractor, data: Any, cache: Path) -> privacy.Films:
    """Films as the audit looks at them."""
    thumbnails = data.images_array(THUMBNAIL, "squash")
    return privacy.Films(
        features(source, data, cache), thumbnails, tuple(data.keys), tuple(noise_clusters(data))
    )


def chart(metrics: Sequence[Metric], seen: dict[str, int], out: Path) -> None:
    """A panel a figure over the films seen, a colour an extractor or detector; dashed: floors, and detectors on real films."""
    with axes_of(9.5, 5.4, 2, 3) as (figure, panels):
        for axes, name in zip(panels.flat, SHOWN, strict=False):
            mine = [m for m in metrics if m.name == name and m.value is not None]
            for colour, reader in zip(COLOURS, dict.fromkeys(m.extractor for m in mine), strict=False):
                line = [(seen[m.arm], m) for m in mine if m.extractor == reader and m.arm in seen]
                x, values = [place for place, _ in line], [m.value for _, m in line]
                axes.plot(x, values, "o-", color=colour, markersize=4, label=reader)
                for place, m in line:
                    if m.low is not None and m.high is not None:
                        axes.plot([place] * 2, [m.low, m.high], color=colour, linewidth=1.5, alpha=0.5)
                dashes = [m.value for m in mine if m.extractor == reader and m.arm == "real"]
                dashes += [m.floor for _, m in line if m.floor is not None][:1]
                for value in dashes:
                    axes.axhline(value, color=colour, linewidth=0.9, linestyle="--")
            axes.set_title(name, fontsize=10)
            axes.grid(color=INK, alpha=0.12, linewidth=0.6)
            if mine:
                axes.legend(frameon=False, fontsize=8)
        panels.flat[-1].set_visible(False)
        figure.supxlabel("training films seen; dashed: real films", fontsize=9)
        figure.savefig(out, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", nargs="+", metavar="FILMS=FOLDER")
    parser.add_argument("--real", required=True)
    parser.add_argument("--training", nargs="+", default=[])
    parser.add_argument("--finding", default="pleural_effusion")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--detector", nargs="+", default=["embedded"])
    parser.add_argument("--extractor", default="imagenet")
    parser.add_argument("--part", choices=("validation", "test"), default="validation")
    parser.add_argument("--out", type=Path, default=Path("over-training"))
    given = parser.parse_args()

    checkpoints, labels = parsed(given.checkpoint), (canonical(given.finding), NO_FINDING)
    real = real_part(RealRadiographs(given.real, min_age=18, findings=labels), given.part)[0]
    real = real.subset((real.labels == 1).any(1))
    taught = [real_part(RealRadiographs(folder), "generator")[0] for folder in given.training]
    if both := privacy.shared_patients(taught, real):
        raise DataError(
            f"--training: {len(both)} patients are among the films of --real too: {', '.join(both[:5])}"
        )
    readers, network, cache = judges(given.detector), extractor(given.extractor), given.out / "features"
    unseen = audited(network, real, cache)
    training = audited(network, Together(taught), cache) if taught else None
    near = None if training is None else privacy.nearest_training(unseen, training)
    metrics = [m for judge in readers for m in ceiling(judge, real, labels[0])]
    seen, facts = {}, {}
    for number, model in checkpoints.items():
        arm = f"{number:,} films seen"
        drawn = Together(draw(model, labels, given.count, given.out / str(number)))
        seen[arm], facts[arm] = number, drawn.records[0].provenance["checkpoint"]
        films = audited(network, drawn, cache)
        metrics += resemblance(films.features, films.clusters, unseen.features, unseen.clusters, arm=arm)
        metrics += [m for judge in readers for m in label_fidelity(judge, [drawn], labels[0], arm)]
        if training is not None and near is not None:
            metrics.append(
                privacy.median_distance(privacy.nearest_training(films, training), near, films, arm)
            )
        shown = [m for m in metrics if m.arm == arm and m.name in SHOWN]
        said = (f"{m.name} ({m.extractor}) {'-' if m.value is None else f'{m.value:.3f}'}" for m in shown)
        print(f"{arm}: {', '.join(said)}", flush=True)
    protocol = f"{given.count} + {given.count} films a checkpoint ({title(labels[0])}, no finding), equal noises, no gate; "
    protocol += f"{len(real)} real films of part {given.part}"
    results = Results(kind="evaluate", protocol=protocol, settings={"checkpoints": facts}, metrics=metrics)
    results.write(given.out)
    chart(metrics, seen, given.out / "over_training.png")
    print(f"{protocol}\n\n{table(m for m in metrics if m.name in SHOWN)}")


if __name__ == "__main__":
    main()
