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
# Title, what the part says, and how the names of its figures begin.
PARTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
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
        own = [m for m in left if m.name.startswith(starts)]
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
    if size >= 1000:
        return f"{value:.0f}"
    return f"{value:.1f}" if size >= 100 else f"{value:.2f}" if size >= 10 else f"{value:.3f}"


def interval(metric: Metric) -> str:
    """ "0.454 to 0.551", or nothing."""
    return (
        "" if metric.low is None or metric.high is None else f"{number(metric.low)} to {number(metric.high)}"
    )


def row_name(metric: Metric) -> str:
    """What tells a figure from the others of its part, in words."""
    told = (metric.finding, metric.subgroup, metric.arm if metric.arm != "synthetic" else None)
    return " · ".join([metric.name, *(part for part in told if part)])
