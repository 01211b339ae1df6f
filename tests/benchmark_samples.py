"""Drawn films and a tiny study, for the tests of the benchmark."""

from dataclasses import replace

from synthaug.benchmark.study import (
    DEMONSTRATION,
    Grid,
)
from synthaug.benchmark.toy import toy_material
from synthaug.detection.films import Films

FINDING = "pleural_effusion"
TINY = DEMONSTRATION.model_copy(
    update={
        "seeds": (0, 1),
        "image_size": 32,
        "extractor": "random:test_resnet",
        "strengths": (1e-2, 1.0),
        "frozen": Grid(arms=("real", "synthetic", "real+100%", "pretrained"), sizes=(5, "all")),
        "full": Grid(arms=("real", "pretrained"), sizes=(5,)),
        "train": DEMONSTRATION.train.model_copy(
            update={"arch": "test_resnet", "image_size": 32, "steps": 4, "validate_every": 2}
        ),
    }
)


def sides(**changes: Films) -> dict:
    """Five sides of drawn films that share nothing."""
    return toy_material(FINDING, 16).sides() | changes


def of_patients(films: Films, *names: str) -> Films:
    """The same films, the first of them of these patients."""
    return replace(films, patients=(*names, *films.patients[len(names) :]))
