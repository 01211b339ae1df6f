"""Whether labels are certified: what has to hold together, and what does not.

A finding is certified where all of this holds; a gated set is certified as gated only, which its verdict says.

    two detectors or more, of different architectures, know it
    each of them: the lower bound of its accuracy (Wilson, present and absent films half the weight each) is BOUND or more
    each of them: accuracy with shuffled labels, and on films of an empty prompt, lies in CHANCE
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from synthaug.evaluation.label_fidelity import BOUND, EMPTY, Judge
from synthaug.evaluation.results import Metric

CHANCE = (0.40, 0.60)
CONTROLS = (
    ("shuffled label accuracy", "synthetic", "shuffled labels"),
    (EMPTY, "empty prompt", "empty prompt"),
)


@dataclass(frozen=True, slots=True)
class Certificate:
    """Whether a finding's labels are certified; `against` says what is not fulfilled, nothing where they are."""

    finding: str
    certified: bool
    against: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values, for the settings of the results."""
        return asdict(self) | {"against": list(self.against)}


def certify(metrics: Sequence[Metric], judges: Sequence[Judge], finding: str) -> Certificate:
    """The certificate of a finding from figures that are there already."""
    known = [judge for judge in judges if finding in judge.detector.findings]
    architectures = {judge.detector.config.arch for judge in known}
    against = []
    if len(architectures) < 2:
        named = ", ".join(sorted(architectures)) or "none"
        against.append(f"detectors of one architecture ({named}), two are needed")
    for judge in known:
        accuracy = _of(metrics, "label accuracy", "synthetic", finding, judge)
        if accuracy is None or accuracy.low is None:
            against.append(f"{judge.name}: no accuracy")
        elif accuracy.low < BOUND:
            against.append(f"{judge.name}: accuracy may be as low as {accuracy.low:.3f}, {BOUND:g} is needed")
        for name, arm, words in CONTROLS:
            control = _of(metrics, name, arm, finding, judge)
            if control is None or control.value is None:
                against.append(f"{judge.name}: control {words} was not run")
            elif not CHANCE[0] <= control.value <= CHANCE[1]:
                against.append(
                    f"{judge.name}: control {words} at {control.value:.3f}, outside {CHANCE[0]:g} to {CHANCE[1]:g}"
                )
    return Certificate(finding, not against, tuple(against))


def _of(metrics: Sequence[Metric], name: str, arm: str, finding: str, judge: Judge) -> Metric | None:
    wanted = (name, finding, None, arm, judge.name)
    return next((metric for metric in metrics if metric.key == wanted), None)
