"""The pictures of a checkpoint's page: contact sheet, sharpness beside real films, loss over its training, what guidance does.

    python benchmarks/model_page.py --real NIH [--model embedded] [--finding pleural_effusion ...] [--count 100]
        [--part validation] [--log TRAINING/log.jsonl ...] [--guided REPORT ...] [--out model-page]

Draws COUNT films of each finding (by default all that the checkpoint offers) and view into OUT/films/FINDING (the same command
resumes), prints their band power over that of real films of the part, view by view, and writes `sheet.png`, `sharpness.png`
and, from the logs of `synthaug adapt` in the order of their legs, `training.png`; from folders that `synthaug evaluate` wrote of
films drawn at several guidance scales, `guidance.png`. No picture holds a real film.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

from synthaug import findings
from synthaug.datasets import RealRadiographs, SyntheticRadiographs
from synthaug.diffusion import load_checkpoint
from synthaug.evaluation.results import Metric, Results
from synthaug.evaluation.spectrum import BANDS, band_ratios, power, profiles
from synthaug.generation import generate
from synthaug.generation.plan import GenerateRecipe, PlanEntry
from synthaug.images import contact_sheet

SIZE, SHOWN, SMOOTH = 256, 6, 50
SEED, SHARD = 500, 100


def draw(model: str, asked_for: list[str] | None, count: int, out: Path) -> dict[tuple[str, str], np.ndarray]:
    """(finding, view) -> films (count, 1, 256, 256), from one run a finding."""
    card, drawn = load_checkpoint(model).card, {}
    for number, finding in enumerate(asked_for or card.findings):
        plan = tuple(PlanEntry(labels={finding: 1.0}, view=view, count=count) for view in card.views)
        recipe = GenerateRecipe(plan=plan, seed=SEED + number, shard_size=SHARD)
        generate(recipe=recipe, model=model, out=out / finding)
        films = SyntheticRadiographs(out / finding).images_array(SIZE, "squash")
        parts = np.split(films, len(card.views))
        drawn |= {(finding, view): part for view, part in zip(card.views, parts, strict=True)}
    return drawn


def sheet(drawn: dict[tuple[str, str], np.ndarray]) -> np.ndarray:
    """The first films of each condition, a row each."""
    films = np.concatenate([images[:SHOWN] for images in drawn.values()])
    captions = [f"{findings.title(finding)}, {view}" for finding, view in drawn for _ in range(SHOWN)]
    return contact_sheet(films, columns=SHOWN, captions=captions)


def sharpness(drawn: dict[tuple[str, str], np.ndarray], real: dict[str, np.ndarray], out: Path) -> None:
    """Ratio of median power by frequency, one panel a view; 1 is as sharp as real films."""
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(real), figsize=(9, 3.2), sharey=True, squeeze=False)
    for panel, (view, films) in zip(panels[0], real.items(), strict=True):
        seen = np.median(profiles(power(films)).rings, 0)
        for (finding, shown), images in drawn.items():
            if shown == view:
                ratio = np.median(profiles(power(images)).rings, 0) / seen
                panel.loglog(np.arange(1, 128), ratio, label=findings.title(finding))
        for _, edge in BANDS.values():
            panel.axvline(edge, color="grey", linewidth=0.5)
        panel.axhline(1, color="black", linewidth=0.8)
        panel.set(title=view, xlabel="cycles per image", ylim=(0.05, 3))
        panel.legend()
    panels[0][0].set_ylabel("power, synthetic over real")
    figure.tight_layout()
    figure.savefig(out, dpi=110)


def training(logs: list[Path], out: Path) -> None:
    """The loss of each leg, averaged over 50 of its logged steps."""
    from matplotlib import pyplot

    figure, panel = pyplot.subplots(figsize=(6, 3))
    before = 0
    for log in logs:
        rows = [json.loads(line) for line in log.read_text().splitlines()]
        loss = np.array([row["unet/loss"] for row in rows])
        steps = np.array([row["step"] for row in rows])
        width = min(SMOOTH, len(loss))
        panel.plot(before + steps[width - 1 :], np.convolve(loss, np.ones(width) / width, "valid"))
        before += int(steps[-1])
    panel.set(xlabel="step", ylabel="loss")
    figure.tight_layout()
    figure.savefig(out, dpi=110)


def guidance(reports: list[Path], out: Path) -> None:
    """Label accuracy by each detector, coverage and KID over the guidance scale, with their intervals.

    Raises:
        SystemExit: films of several scales in one report, or reports of other protocols beside each other.
    """
    from matplotlib import pyplot

    lines: dict[tuple[str, str], list[tuple[float, Metric]]] = {}
    for report in reports:
        results = Results.read(report)
        scales = results.settings.get("guidance_scale") or []
        if len(scales) != 1:
            raise SystemExit(f"{report}: films at guidance {scales}; expected a report of one scale")
        for metric in results.metrics:
            whole = metric.arm == "synthetic" and metric.subgroup is None and metric.value is not None
            if whole and (metric.name == "label accuracy" or metric.finding is None):
                lines.setdefault((metric.name, metric.extractor or ""), []).append((scales[0], metric))
    figure, panels = pyplot.subplots(1, 3, figsize=(10, 3.2))
    for panel, shown in zip(panels, ("label accuracy", "coverage", "KID"), strict=True):
        for (name, extractor), points in lines.items():
            if name != shown:
                continue
            scale, metrics = zip(*sorted(points, key=lambda point: point[0]), strict=True)
            if len({metric.protocol for metric in metrics}) > 1:
                raise SystemExit(f"--guided: {name} by {extractor} of several protocols; expected one")
            low, value, high = (
                np.array([getattr(metric, end) for metric in metrics], float)
                for end in ("low", "value", "high")
            )
            panel.plot(scale, value, marker="o", markersize=3, label=extractor)
            panel.fill_between(scale, low, high, alpha=0.2)
            if metrics[0].floor is not None:
                panel.plot(
                    scale, [metric.floor for metric in metrics], "--", color="grey", label="real films"
                )
        panel.set(title=shown, xlabel="guidance scale")
        panel.legend()
    panels[0].axhline(0.95, color="grey", linewidth=0.8)
    for panel in panels[1:]:
        panel.set_ylim(bottom=0)
    figure.tight_layout()
    figure.savefig(out, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--real", required=True)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--finding", nargs="+")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--part", choices=("validation", "test"), default="validation")
    parser.add_argument("--log", type=Path, nargs="*", default=[])
    parser.add_argument("--guided", type=Path, nargs="*", default=[])
    parser.add_argument("--out", type=Path, default=Path("model-page"))
    given = parser.parse_args()

    import matplotlib

    matplotlib.use("Agg")
    drawn = draw(given.model, given.finding, given.count, given.out / "films")
    real = {}
    for view in dict.fromkeys(view for _, view in drawn):
        part = RealRadiographs(given.real, split=given.part, splits_file="nih-sample", views=view, min_age=18)
        real[view] = part.images_array(SIZE, "squash")
    for (finding, view), films in drawn.items():
        values = band_ratios(power(films), power(real[view]))
        row = {"finding": finding, "view": view, "n": len(films), "real": len(real[view])}
        print(json.dumps(row | {name: round(value, 3) for name, value in values.items()}))
    Image.fromarray(sheet(drawn)).save(given.out / "sheet.png")
    sharpness(drawn, real, given.out / "sharpness.png")
    if given.guided:
        guidance(given.guided, given.out / "guidance.png")
    if given.log:
        training(given.log, given.out / "training.png")


if __name__ == "__main__":
    main()
