"""Training of a linear head: a frozen network reads every film once, then one logistic regression a finding.

Conventions: nothing but the head is learnt. The penalty of each finding is chosen inside the training films, by the mean AUROC
over folds that share no patient; validation films choose what they choose for every detector, temperature and thresholds. Both
labels weigh equally in the fit; the intercept is then moved back to how often the finding is among the films (King and Zeng
2001), so that probabilities mean what they say. The network is rounded as it is stored before it reads, so the detector that
is loaded is the one that was fitted.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from synthaug.detection.calibration import auroc_by_finding
from synthaug.detection.depths import MultiDepth
from synthaug.detection.detector import DetectorConfig, build_detector, on_disk
from synthaug.detection.films import Films
from synthaug.detection.finishing import finish
from synthaug.detection.logistic import fit_logistic
from synthaug.detection.predict import logits
from synthaug.detection.processes import Processes
from synthaug.detection.recipe import StepRecord, TrainRecipe
from synthaug.errors import DataError

FOLDS = 5
CHUNK = 64


def train_linear(
    train: Films,
    held_out: Films,
    recipe: TrainRecipe,
    out: Path,
    place: Processes,
    facts: dict[str, Any],
) -> Iterator[StepRecord]:
    """Fit a linear head and write the detector to `out`; of several processes the first does the work.

    Raises `DataError` where no finding is both present and absent.
    """
    if place.first:
        yield from _fit(train, held_out, recipe, out, place.device, facts)
    place.wait()


def _fit(
    train: Films, held_out: Films, recipe: TrainRecipe, out: Path, device: torch.device, facts: dict[str, Any]
) -> Iterator[StepRecord]:
    config = DetectorConfig(
        arch=recipe.arch,
        head="linear",
        findings=train.findings,
        image_size=recipe.image_size,
        fit=recipe.fit,
        normalisation=recipe.normalisation,
        mean=0.5,
        std=0.5,
    )
    detector = build_detector(config, recipe.start, recipe.seed).eval().requires_grad_(False)
    network = cast(MultiDepth, detector.network)
    network.load_state_dict(
        {name: on_disk(value).to(value.dtype) for name, value in network.state_dict().items()}
    )
    detector.to(device, memory_format=torch.channels_last)
    chunks = range(0, len(train), CHUNK)
    steps, blocks = len(chunks) + len(train.findings), []
    for number, start in enumerate(chunks):
        batch = torch.from_numpy(train.images[start : start + CHUNK]).to(device)
        with torch.no_grad():
            blocks.append(network.pooled(detector.normalise(batch)).float().cpu().numpy())
        yield StepRecord(number + 1, steps, None, None)
    pooled = np.concatenate(blocks)
    mean, deviation = pooled.mean(0), pooled.std(0) + 1e-6
    standard = ((pooled - mean) / deviation).astype(np.float64)
    # A fit never leaves the span of the films: there it is searched, and brought back at the end.
    span = np.linalg.qr(standard.T)[0] if len(standard) < standard.shape[1] else None
    inside = standard if span is None else standard @ span
    weights = np.zeros((len(train.findings), standard.shape[1] + 1))
    chosen: dict[str, float] = {}
    for row, finding in enumerate(train.findings):
        films, labels = _asked(train, finding, recipe.absent)
        if len(set(labels)) == 2:
            owners = [train.patients[i] for i in films]
            chosen[finding] = choose_strength(inside[films], labels, owners, recipe.strengths, recipe.seed)
            found = fit_logistic(inside[films], labels, chosen[finding])
            weights[row, :-1] = found[:-1] if span is None else span @ found[:-1]
            weights[row, -1] = found[-1] + np.log(labels.sum() / (1 - labels).sum())
        if row < len(train.findings) - 1:
            yield StepRecord(len(chunks) + row + 1, steps, None, None)
    if not chosen:
        raise DataError(
            f"nothing to learn: none of {', '.join(train.findings)} is both present and absent in the films"
        )
    for name, value in (("mean", mean), ("deviation", deviation)):
        getattr(network, name).copy_(torch.from_numpy(value))
    network.head.weight.copy_(torch.from_numpy(weights[:, :-1]))
    network.head.bias.copy_(torch.from_numpy(weights[:, -1]))
    measured = auroc_by_finding(logits(detector, held_out.images), held_out.labels, held_out.findings)
    seen = {"films": len(train), "patients": len(set(train.patients)), "strengths": chosen}
    finish(detector, detector.config, held_out, recipe, out, {**facts, **seen})
    yield StepRecord(steps, steps, None, None, measured, True)


def _asked(train: Films, finding: str, absent: str) -> tuple[np.ndarray, np.ndarray]:
    """The films that tell a finding from its absence, and their labels."""
    labels = train.column(finding)
    used = ~np.isnan(labels)
    if absent == "no_finding" and finding != "no_finding" and "no_finding" in train.findings:
        used &= (labels == 1) | (train.column("no_finding") == 1)
    films = np.flatnonzero(used)
    return films, labels[films]


def choose_strength(
    features: np.ndarray,
    labels: np.ndarray,
    patients: Sequence[str],
    strengths: Sequence[float],
    seed: int = 0,
) -> float:
    """The inverse penalty of the best mean AUROC over folds without a common patient; the smallest of equals.

    Arguments: `features` (n, d) standardised, `labels` (n,) of 1 and 0, both present. With fewer than two patients of either
    label nothing can be chosen: the middle one.
    """
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedGroupKFold

    ordered = sorted(strengths)
    owners = np.asarray(patients)
    folds = min(FOLDS, *(len(set(owners[labels == value])) for value in (0, 1)))
    if folds < 2 or len(ordered) == 1:
        return ordered[len(ordered) // 2]
    parts = StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(features, labels, owners)
    usable = [(i, j) for i, j in parts if len(set(labels[i])) == 2 and len(set(labels[j])) == 2]
    if not usable:
        return ordered[len(ordered) // 2]
    means = []
    for strength in ordered:
        fits = [(fit_logistic(features[i], labels[i], strength), j) for i, j in usable]
        means.append(np.mean([roc_auc_score(labels[j], features[j] @ w[:-1]) for w, j in fits]))
    return ordered[int(np.argmax(means))]
