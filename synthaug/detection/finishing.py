"""The end of every training: what is chosen on validation films, and the folder."""

import json
from pathlib import Path
from typing import Any

from synthaug.detection.calibration import auroc_by_finding, choose_thresholds, fit_temperature
from synthaug.detection.detector import Detector, DetectorConfig
from synthaug.detection.films import Films
from synthaug.detection.predict import logits, predict
from synthaug.detection.recipe import TrainRecipe


def finish(
    detector: Detector,
    config: DetectorConfig,
    held_out: Films,
    recipe: TrainRecipe,
    out: Path,
    facts: dict[str, Any],
) -> None:
    """Choose temperature and thresholds on validation films, then save the detector to `out`."""
    scores = logits(detector, held_out.images)
    temperature = fit_temperature(scores, held_out.labels)
    detector.config = config.model_copy(update={"temperature": temperature})
    probabilities = predict(detector, held_out.images)
    thresholds = choose_thresholds(probabilities, held_out.labels, held_out.findings, recipe.absent)
    measured = auroc_by_finding(scores, held_out.labels, held_out.findings)
    training = {
        **facts,
        "recipe": json.loads(json.dumps(recipe.values())),
        "validation": {
            "films": len(held_out),
            "patients": len(set(held_out.patients)),
            "auroc": {f: round(v, 4) for f, v in measured.items()},
        },
    }
    detector.config = detector.config.model_copy(update={"thresholds": thresholds, "training": training})
    detector.save(out)
