"""Findings: the vocabulary, the aliases of the public data sets, and label vectors.

A finding is a radiographic observation in snake_case. Its label is 1 present, 0 absent, NaN unknown.
`no_finding` = 1 says that every other finding is 0; any other finding = 1 says that `no_finding` is 0.

The vocabulary joins NIH ChestX-ray14 (Wang et al. 2017), CheXpert (Irvin et al. 2019), MIMIC-CXR
(Johnson et al. 2019), PadChest (Bustos et al. 2020), VinDr-CXR (Nguyen et al. 2022) and the RSNA Pneumonia
Challenge (Shih et al. 2019). It is ordered; prompts and label vectors follow its order.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

import numpy as np

from synthaug.errors import LabelError, UnknownNameError

NO_FINDING = "no_finding"

# finding -> other names of the same observation; case, spaces, hyphens and underscores do not count.
ALIASES: dict[str, tuple[str, ...]] = {
    NO_FINDING: ("normal", "healthy", "no findings"),
    # NIH ChestX-ray14
    "atelectasis": ("atelectases", "collapse"),
    "cardiomegaly": ("enlarged heart",),
    "consolidation": ("airspace consolidation",),
    "edema": ("oedema", "pulmonary edema", "pulmonary oedema", "lung edema"),
    "pleural_effusion": ("effusion", "pleural effusions"),
    "emphysema": ("pulmonary emphysema",),
    "fibrosis": ("pulmonary fibrosis", "lung fibrosis"),
    "hernia": ("hiatal hernia", "hiatus hernia", "diaphragmatic hernia"),
    "infiltration": ("infiltrate", "infiltrates"),
    "mass": ("pulmonary mass", "lung mass"),
    "nodule": ("pulmonary nodule", "lung nodule"),
    "pleural_thickening": ("pleura thickening",),
    "pneumonia": ("bacterial pneumonia", "viral pneumonia"),
    "pneumothorax": (),
    # CheXpert and MIMIC-CXR
    "enlarged_cardiomediastinum": ("enlarged cardiac mediastinum", "mediastinal enlargement"),
    "lung_opacity": ("opacity", "airspace opacity", "pulmonary opacity"),
    "lung_lesion": ("nodule/mass", "pulmonary lesion"),
    "pleural_other": ("other pleural finding",),
    "fracture": ("bone fracture",),
    "support_devices": ("support device", "devices"),
    "pneumoperitoneum": ("free air",),
    "pneumomediastinum": (),
    "subcutaneous_emphysema": (),
    "tortuous_aorta": (),
    # VinDr-CXR
    "aortic_enlargement": ("enlarged aorta",),
    "calcification": ("calcified lesion",),
    "clavicle_fracture": ("clavicular fracture",),
    "copd": ("chronic obstructive pulmonary disease", "COPD signs"),
    "enlarged_pulmonary_artery": ("enlarged PA", "pulmonary artery enlargement"),
    "interstitial_lung_disease": ("ILD",),
    "lung_cavity": ("cavitation", "cavity"),
    "lung_cyst": ("pulmonary cyst",),
    "lung_tumor": ("lung tumour",),
    "mediastinal_shift": ("mediastinum shift",),
    "other_disease": ("other diseases",),
    "other_lesion": ("other lesions",),
    "rib_fracture": ("callus rib fracture",),
    "tuberculosis": ("TB", "pulmonary tuberculosis"),
    # PadChest
    "air_trapping": (),
    "alveolar_pattern": (),
    "aortic_atheromatosis": ("aortic calcification", "calcification of the aorta"),
    "aortic_elongation": (),
    "apical_pleural_thickening": (),
    "bronchiectasis": (),
    "bulla": ("bullas", "bullae"),
    "costophrenic_angle_blunting": ("blunted costophrenic angle",),
    "flattened_diaphragm": ("diaphragmatic flattening",),
    "granuloma": ("calcified granuloma",),
    "hemidiaphragm_elevation": ("elevated hemidiaphragm", "raised hemidiaphragm"),
    "hilar_enlargement": ("hilar enlargment",),
    "hyperinflated_lung": ("hyperinflation",),
    "interstitial_pattern": (),
    "kyphosis": (),
    "laminar_atelectasis": ("plate atelectasis", "discoid atelectasis"),
    "pacemaker": (),
    "scoliosis": (),
    "sternotomy": ("median sternotomy",),
    "vascular_redistribution": (),
    "vertebral_degenerative_changes": (),
    "volume_loss": (),
    "covid_19": ("COVID", "SARS-CoV-2"),
}

FINDINGS: tuple[str, ...] = tuple(ALIASES)

_TITLES = {"copd": "COPD", "covid_19": "COVID-19"}
_ORDER = {finding: place for place, finding in enumerate(FINDINGS)}


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


_CANONICAL = {_plain(other): finding for finding, others in ALIASES.items() for other in (finding, *others)}


@lru_cache(maxsize=4096)
def canonical(name: str) -> str:
    """The vocabulary's name of a finding, whatever the case, spaces or source.

    Raises:
        UnknownNameError: the finding is not known; the message suggests the nearest.
    """
    found = _CANONICAL.get(_plain(name))
    if found is None:
        raise UnknownNameError("finding", name, FINDINGS)
    return found


def title(finding: str) -> str:
    """The finding as words of a sentence: "pleural effusion"."""
    finding = canonical(finding)
    return _TITLES.get(finding, finding.replace("_", " "))


def parse_label(text: str) -> tuple[str, float]:
    """Read a label of the command line: "pleural_effusion", "pleural_effusion=1" or "pleural_effusion=0".

    Raises:
        UnknownNameError: the finding is not known.
        LabelError: the value is neither 1 nor 0.
    """
    name, given, value = text.partition("=")
    finding = canonical(name)
    value = value.strip() if given else "1"
    if value not in ("0", "1"):
        raise LabelError(
            f"--label {text}: found {value!r}, expected 1 (present) or 0 (absent), as in {finding}=0"
        )
    return finding, float(value)


def _value(finding: str, value: float | None) -> float:
    try:
        number = math.nan if value is None else float(value)
    except (TypeError, ValueError):
        number = math.inf
    if math.isnan(number):
        return math.nan
    if number not in (0.0, 1.0):
        raise LabelError(
            f"label {finding}: found {value!r}, expected 1 (present), 0 (absent) or NaN (unknown)"
        )
    return number


def check(labels: Mapping[str, float]) -> dict[str, float]:
    """Labels with canonical names, in the vocabulary's order, checked against each other.

    Args:
        labels: finding (any alias) -> 1, 0, NaN or None (unknown).

    Returns:
        The same findings; what `no_finding` settles among them is filled in.

    Raises:
        UnknownNameError: a finding is not known.
        LabelError: a value is none of these, two names of one finding disagree, or `no_finding` is 1
            beside a finding that is 1.
    """
    checked: dict[str, float] = {}
    for name, value in labels.items():
        finding, number = canonical(name), _value(name, value)
        before = checked.get(finding, math.nan)
        if not math.isnan(before) and not math.isnan(number) and before != number:
            raise LabelError(
                f"label {finding}: given both as {before:.0f} and as {number:.0f} (by the name {name!r})"
            )
        checked[finding] = before if math.isnan(number) else number
    positives = sorted(
        (f for f, v in checked.items() if v == 1.0 and f != NO_FINDING), key=_ORDER.__getitem__
    )
    if checked.get(NO_FINDING) == 1.0:
        if positives:
            raise LabelError(
                f"labels contradict each other: {NO_FINDING} is 1 and so is {', '.join(positives)}; drop one"
            )
        checked.update({finding: 0.0 for finding in checked if finding != NO_FINDING})
    elif positives and NO_FINDING in checked:
        checked[NO_FINDING] = 0.0
    return {finding: checked[finding] for finding in sorted(checked, key=_ORDER.__getitem__)}


def vector(labels: Mapping[str, float], findings: Sequence[str]) -> np.ndarray:
    """Labels as a float32 vector over `findings`, NaN where unknown.

    What `no_finding` settles is filled in both ways: its 1 makes every other finding 0, and any
    other finding that is 1 makes it 0.

    Raises:
        UnknownNameError, LabelError: as in `check`.
    """
    names = [canonical(finding) for finding in findings]
    known = check(labels)
    unnamed = math.nan
    if known.get(NO_FINDING) == 1.0:
        unnamed = 0.0
    elif 1.0 in known.values():
        known[NO_FINDING] = 0.0
    return np.array([known.get(name, unnamed) for name in names], dtype=np.float32)


def matrix(rows: Iterable[Mapping[str, float]], findings: Sequence[str]) -> np.ndarray:
    """Label vectors of many films, (n, f) float32, NaN where unknown; see `vector`."""
    vectors = [vector(row, findings) for row in rows]
    return np.stack(vectors) if vectors else np.zeros((0, len(findings)), dtype=np.float32)
