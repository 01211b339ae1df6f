"""The `settings` of an evaluation's results: everything a reader needs to know what was measured."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from synthaug.evaluation.features import Extractor
from synthaug.evaluation.label_fidelity import Judge
from synthaug.evaluation.privacy import Audit
from synthaug.evaluation.together import Together
from synthaug.shards.manifest import read_manifest


def settings_of(
    drawn: Together,
    read: Sequence[Judge],
    sources: Sequence[Extractor],
    wanted: Sequence[str],
    where: str,
    unseen: Together | None,
    training: Sequence[Any],
    command: str | None,
) -> dict[str, Any]:
    """What was asked for and found: of the films, the detectors and the extractors."""
    drawn_by = [record.provenance for record in drawn.records]
    gates = _gates(drawn)

    def values(name: str) -> list[Any]:
        return sorted({p[name] for p in drawn_by if isinstance(p.get(name), int | float | str)})

    checkpoints = sorted({p["checkpoint"]["name"] for p in drawn_by if isinstance(p.get("checkpoint"), dict)})
    return {
        "command": command,
        "findings": list(wanted),
        "synthetic_films": len(drawn),
        "checkpoints": checkpoints,
        "guidance_scale": values("guidance_scale"),
        "num_inference_steps": values("num_inference_steps"),
        "gated": list(gates),
        "gates": gates,
        "seeds": values("seed"),
        "real_films": 0 if unseen is None else len(unseen),
        "real_part": where,
        "generator_films": sum(len(one) for one in training),
        "detectors": [
            {
                "name": judge.name,
                "arch": judge.detector.config.arch,
                "image_size": judge.detector.config.image_size,
                "start": judge.detector.config.start,
                "sha256": judge.digest[:16],
                "thresholds": {
                    f: judge.detector.config.threshold(f) for f in wanted if f in judge.detector.findings
                },
            }
            for judge in read
        ],
        "extractors": [
            {"name": s.name, "resize": s.resize, "sha256": (s.digest or "")[:16]} for s in sources
        ],
    }


def _gates(drawn: Together) -> dict[str, Any]:
    """What the manifests say of quality gates that discarded films, by folder."""
    found = {}
    for one in drawn.sets:
        if getattr(one, "format", None) == "shards":
            facts = read_manifest(one.root).facts
            if isinstance(facts.get("gates"), dict):
                found[Path(one.root).name] = facts["gates"]
    return found


def listed(found: Audit, drawn: Together) -> dict[str, Any]:
    """The audit for the settings: its rate and thresholds, and the films it lists."""
    names = drawn.names
    return {
        "rate": found.rate,
        "distance below": round(found.distance_cut, 6),
        "correlation above": round(found.correlation_cut, 6),
        "listed": [names[i] for i in found.offenders],
    }
