"""The end of every training: what is chosen and measured on validation films, the folder, and its card."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from synthaug import __version__
from synthaug.auroc import auroc_interval
from synthaug.cards import model_card
from synthaug.detection.calibration import auroc_by_finding, choose_thresholds, fit_temperature
from synthaug.detection.detector import Detector, DetectorConfig
from synthaug.detection.films import Films
from synthaug.detection.predict import logits, predict
from synthaug.detection.recipe import TrainRecipe
from synthaug.findings import title
from synthaug.shards import atomic_write


def finish(
    detector: Detector,
    config: DetectorConfig,
    held_out: Films,
    recipe: TrainRecipe,
    out: Path,
    facts: dict[str, Any],
) -> None:
    """Choose temperature and thresholds on validation films, then save the detector and its card to `out`."""
    scores = logits(detector, held_out.images)
    temperature = fit_temperature(scores, held_out.labels)
    detector.config = config.model_copy(update={"temperature": temperature})
    probabilities = predict(detector, held_out.images)
    thresholds = choose_thresholds(probabilities, held_out.labels, held_out.findings, recipe.absent)
    training = {
        **facts,
        "recipe": json.loads(json.dumps(recipe.values())),
        "validation": measured(scores, held_out),
    }
    detector.config = detector.config.model_copy(update={"thresholds": thresholds, "training": training})
    out.mkdir(parents=True, exist_ok=True)
    atomic_write(out / "README.md", card(detector.config).encode())
    detector.save(out)


def measured(scores: np.ndarray, films: Films) -> dict[str, Any]:
    """AUROC of each finding that has both labels, with its 95 % interval (patients resampled), and the films it rests on."""
    areas = auroc_by_finding(scores, films.labels, films.findings)
    out: dict[str, Any] = {"films": len(films), "patients": len(set(films.patients)), "auroc": {}}
    for finding, value in areas.items():
        column = films.findings.index(finding)
        known = np.flatnonzero(~np.isnan(films.labels[:, column]))
        labels, owners = films.labels[known, column], [films.patients[i] for i in known]
        _, low, high = auroc_interval(scores[known, column], labels, owners)
        out["auroc"][finding] = round(value, 4)
        ends = [round(end, 4) if np.isfinite(end) else None for end in (low, high)]
        out.setdefault("auroc_interval", {})[finding] = ends
        out.setdefault("present_absent", {})[finding] = [int((labels == 1).sum()), int((labels == 0).sum())]
    return out


def told(validation: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Rows of what was measured: finding, AUROC, interval, "30 present, 177 absent"."""
    rows = []
    for finding, value in validation["auroc"].items():
        low, high = validation.get("auroc_interval", {}).get(finding, (None, None))
        present, absent = validation.get("present_absent", {}).get(finding, (None, None))
        span = "" if low is None or high is None else f"{low:.3f} to {high:.3f}"
        counted = "" if present is None else f"{present} present, {absent} absent"
        rows.append((finding, f"{value:.3f}", span, counted))
    return rows


def card(config: DetectorConfig) -> str:
    """The README.md of a detector's folder."""
    validation = config.training["validation"]
    figures = {
        f"validation AUROC, {title(finding)}": f"{value} ({span}), {counted}"
        if span
        else f"{value}, {counted}"
        for finding, value, span, counted in told(validation)
    }
    recipe = config.training["recipe"]
    return model_card(
        {
            "name": f"Chest radiograph detector, {config.arch}",
            "description": "Scores findings of frontal chest radiographs.",
            "findings": config.findings,
            "arch": config.arch,
            "head": config.head,
            "start": config.start,
            "image_size": config.image_size,
            "fit": config.fit,
            "films": config.training.get("films"),
            "patients": config.training.get("patients"),
            "seed": recipe["seed"],
            "temperature": config.temperature,
            "figures": {
                "validation films": validation["films"],
                "validation patients": validation["patients"],
                **figures,
            },
            "limits": [
                "Temperature and thresholds, and the step of a trained network, were chosen on these validation films: the "
                "figures lie on the high side. Intervals are 95 %, patients resampled.",
                "A finding counts as absent where its films say so, not only in films without any finding.",
            ],
            "versions": {"synthaug": __version__},
        }
    )
