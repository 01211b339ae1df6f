"""Which findings a checkpoint draws so that detectors tell them from films without any: the test that decides what it offers.

    python benchmarks/findings.py --real NIH --model CHECKPOINT --detector JUDGE [JUDGE2 ...] [--finding cardiomegaly ...]
        [--count 40] [--aim 0.9] [--part validation] [--out findings]

Draws COUNT films of each finding (by default every one that the first detector knows and real films of the part show) and COUNT
without a finding, noises not shared, and prints for each finding and detector its AUROC and accuracy on them, with the
detector's own on real films of the part beside. A finding is offered when the AUROC of each detector reaches the aim and its
films look right; the checkpoint's card says of every other one why it is refused (`refused`). Findings that the card does not
offer are drawn by prompt. The same command resumes.
"""

import argparse
from pathlib import Path

import numpy as np

from synthaug.datasets import RealRadiographs, SyntheticRadiographs
from synthaug.detection import load_detector
from synthaug.diffusion import load_checkpoint
from synthaug.evaluation.label_fidelity import label_fidelity
from synthaug.evaluation.parts import real_part
from synthaug.evaluation.results import Metric, Results, table
from synthaug.findings import NO_FINDING
from synthaug.generation import generate
from synthaug.generation.plan import make_recipe
from synthaug.prompts import render

SHOWN = ("AUROC", "accuracy")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--real", required=True)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--detector", nargs="+", default=["embedded"])
    parser.add_argument("--finding", nargs="+")
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--aim", type=float, default=0.9)
    parser.add_argument("--part", choices=("validation", "test"), default="validation")
    parser.add_argument("--out", type=Path, default=Path("findings"))
    given = parser.parse_args()

    judges = [load_detector(path, device="auto") for path in given.detector]
    real = real_part(RealRadiographs(given.real, min_age=18), given.part)[0]
    absent = real.labels[:, real.findings.index(NO_FINDING)] == 1

    def positives(finding: str) -> np.ndarray:
        return real.labels[:, real.findings.index(finding)] == 1

    asked = given.finding or [
        f for f in judges[0].findings if f != NO_FINDING and f in real.findings and positives(f).any()
    ]
    template = load_checkpoint(given.model).template

    def drawn(finding: str, seed: int) -> SyntheticRadiographs:
        out = given.out / finding
        prompt = render({finding: 1.0}, template=template)
        recipe = make_recipe([finding], given.count, prompt, None, None, None, seed=seed)
        generate(recipe=recipe, model=given.model, out=out)
        return SyntheticRadiographs(out, findings=(finding, NO_FINDING))

    metrics: list[Metric] = []
    clear = drawn(NO_FINDING, 0)
    for seed, finding in enumerate(asked, 1):
        films = [drawn(finding, seed), clear]
        kept = real.subset(np.flatnonzero(positives(finding) | absent))
        worst = 1.0
        for judge in judges:
            if finding not in judge.findings:
                continue
            found = label_fidelity(judge, films, finding, "synthetic")
            worst = min([worst, *(m.value for m in found if m.name == "AUROC" and m.value is not None)])
            found += label_fidelity(judge, [kept], finding, "real")
            metrics += [m for m in found if m.name in SHOWN]
        print(
            f"{finding}: lowest AUROC {worst:.3f}, {'reaches' if worst >= given.aim else 'misses'} the aim",
            flush=True,
        )
    protocol = f"{given.count} + {given.count} films a finding, no gate; real films of part {given.part}"
    results = Results(kind="evaluate", protocol=protocol, settings={"model": given.model}, metrics=metrics)
    results.write(given.out)
    print(f"{protocol}\n\n{table(metrics)}")


if __name__ == "__main__":
    main()
