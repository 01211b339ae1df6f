"""Which figure stands in which part of the page, and how numbers are written."""

from collections.abc import Sequence
from dataclasses import dataclass

from synthaug.evaluation.results import Metric


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page: its title, what it says in one sentence, and its figures."""

    title: str
    about: str
    metrics: tuple[Metric, ...]


SUBGROUPS = "Subgroups"
DIFFERENCE = "Difference from real films alone"
# Beginnings that a part leaves to a later one.
ELSEWHERE: dict[str, tuple[str, ...]] = {DIFFERENCE: ("AUROC difference, smallest",)}
# Title, what the part says, and how the names of its figures begin.
PARTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        "The arm chosen on validation",
        "For each size the arm with synthetic films of the best AUROC on validation: one comparison, uncorrected.",
        ("AUROC difference, arm chosen",),
    ),
    (
        DIFFERENCE,
        "Paired by film and draw, at the same number of real films. Intervals are 95 % each; the verdicts above hold over all "
        "comparisons together (Holm).",
        ("AUROC difference",),
    ),
    (
        "What could have been shown",
        "The smallest true difference that this design finds with a power of 80 %, over all comparisons together.",
        ("AUROC difference, smallest",),
    ),
    (
        "Each arm",
        "Judged on the same real films; every arm takes the same steps.",
        ("AUROC", "balanced accuracy"),
    ),
    (
        "Labels",
        "Does a detector trained on real films find in synthetic films what their labels say? Arm real is its ceiling, "
        "shuffled labels and the empty prompt are what chance looks like.",
        ("label ", "shuffled label", "empty prompt", "films needed"),
    ),
    (
        "Resemblance",
        "Synthetic films beside as many real ones, in the features of a network. The floor is real films beside other real "
        "films, in the same number: what nobody can be better than.",
        ("FID", "KID", "precision", "recall", "density", "coverage"),
    ),
    ("Sharpness", "Power of synthetic over real films, view by view: 1 is as sharp as real.", ("power ",)),
    (
        "Diversity and text",
        "How alike films of one prompt are (1: the same film), and whether a text-image model finds the prompt in the film.",
        ("MS-SSIM within", "image-text"),
    ),
    ("Autoencoder", "How much of a real film the checkpoint's autoencoder keeps.", ("VAE ",)),
    (
        "Privacy",
        "Are synthetic films nearer to the generator's training films than unseen real films are?",
        ("nearer than", "nearest training", "highest correlation", "membership"),
    ),
)


def sections(metrics: Sequence[Metric]) -> list[Section]:
    """The metrics by part, in the page's order; figures of no known part stand first, under "Figures"."""
    left = list(metrics)
    grouped = [m for m in left if m.subgroup is not None and "=" in m.subgroup and "prompt" not in m.name]
    left = [m for m in left if m not in grouped]
    found = []
    for title, about, starts in PARTS:
        own = [
            m for m in left if m.name.startswith(starts) and not m.name.startswith(ELSEWHERE.get(title, ()))
        ]
        left = [m for m in left if m not in own]
        if own:
            found.append(Section(title, about, tuple(own)))
    if grouped:
        about = (
            "The same figures by view, sex and age. The under-diagnosis gap is a subgroup's miss rate less that of all "
            "others; of many gaps one in twenty leaves 0 out by chance."
        )
        found.append(Section(SUBGROUPS, about, tuple(grouped)))
    if left:
        found.insert(0, Section("Figures", "", tuple(left)))
    return found


def number(value: float | None) -> str:
    """Three digits where they say something: 0.502, 12.3, 1840; an en dash for nothing."""
    if value is None:
        return "–"
    size = abs(value)
    if size < 0.0005:
        return "0.000"
    if size >= 1000:
        return f"{value:.0f}"
    return f"{value:.1f}" if size >= 100 else f"{value:.2f}" if size >= 10 else f"{value:.3f}"


def interval(metric: Metric) -> str:
    """ "0.454 to 0.551", or nothing."""
    return (
        "" if metric.low is None or metric.high is None else f"{number(metric.low)} to {number(metric.high)}"
    )


def row_names(metrics: Sequence[Metric]) -> list[str]:
    """What tells each figure from the others beside it, in words; what all of them share is left out."""
    told = [(m.name, m.finding, m.subgroup, m.arm, m.extractor) for m in metrics]
    varying = [len(set(column)) > 1 for column in zip(*told, strict=True)]
    return [
        " · ".join(part for part, varies in zip(row, varying, strict=True) if varies and part) or row[0]
        for row in told
    ]
