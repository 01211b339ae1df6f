"""`synthaug evaluate`: are synthetic films true to their labels, like real ones, and no copies of training films?

One pass over the metrics, each of which says by itself what it needs: what cannot be computed is in the results with its
reason. Real films come from one part of the first-day split where that names them; training films from its part
`generator`. Nothing is chosen here: every threshold belongs to a detector or to a flag.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from synthaug import imagenet
from synthaug.detection.detector import Detector
from synthaug.detection.predict import predict
from synthaug.diffusion import load_checkpoint
from synthaug.errors import DataError, UnknownNameError
from synthaug.evaluation import privacy
from synthaug.evaluation.alignment import alignment, load_text_image_model
from synthaug.evaluation.certifying import certify
from synthaug.evaluation.controls import SCALES, draw, guidance_metrics, recipe_of
from synthaug.evaluation.curves import curves
from synthaug.evaluation.diversity import diversity
from synthaug.evaluation.excluding import write_without
from synthaug.evaluation.features import THUMBNAIL, Extractor, extractor, features
from synthaug.evaluation.label_fidelity import NAMES, Judge, certificate, judges, noise_clusters
from synthaug.evaluation.parts import parts_of, real_part
from synthaug.evaluation.pictures import write_pictures
from synthaug.evaluation.reconstruction import reconstruction
from synthaug.evaluation.resemblance import resemblance
from synthaug.evaluation.results import Metric, Results, missing, protocol_id, table
from synthaug.evaluation.settings import listed, settings_of
from synthaug.evaluation.spectrum import SIZE, spectrum_metrics
from synthaug.evaluation.subgroups import subgroup_metrics
from synthaug.evaluation.together import Together
from synthaug.shards import atomic_write
from synthaug.tables import csv_text

VERSION = 2
VIEWS = ("PA", "AP", "lateral")
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """What is measured besides labels.

    Attributes: `extractors` by name or folder, by default imagenet (where installed) and embedded; `generator_data` the
    films that the generator was trained on; `empty_prompt` films drawn without a prompt; `text_model` a CLIP-like folder;
    `model` the checkpoint that drew the films: its autoencoder is measured; `controls` films a label to draw with it for each
    control, `guidance_scales` those of the curve; `rate` of innocent films that the audit lists; `exclude` a folder for
    shards without the listed films; `cache` a folder for features; `show_real` puts real films into the pictures;
    `spectrum_films` and `reconstructed_films` at most so many a side and view.
    """

    extractors: Sequence[str | Path | Extractor] = ()
    generator_data: Sequence[Any] = ()
    empty_prompt: Any | None = None
    text_model: str | Path | None = None
    model: str | Path | None = None
    controls: int | None = None
    guidance_scales: Sequence[float] = SCALES
    rate: float = privacy.RATE
    exclude: str | Path | None = None
    cache: str | Path | None = None
    device: str = "auto"
    show_real: bool = False
    spectrum_films: int = 400
    reconstructed_films: int = 64
    command: str | None = field(default=None, compare=False)


def evaluate(
    synthetic: Sequence[Any],
    real: Any | None = None,
    detector: Detector | str | Path | Sequence[Detector | str | Path] = "embedded",
    findings: Sequence[str] | None = None,
    out: str | Path | None = None,
    part: str = "validation",
    options: Options | None = None,
    say: Say = lambda step: None,
) -> Results:
    """Evaluate synthetic data sets, which are read as one, and write `results.json` and `results.md` to `out`.

    Arguments: `real` films, restricted to `part` where the first-day split knows them; `findings` default to all that the
    synthetic films show present and a detector knows; `say` is told each step as it begins.
    Raises `DataError` where no finding can be evaluated or an unseen film is a training film, `UnknownNameError` where no
    detector knows a finding.
    """
    options = options or Options()
    drawn = Together(list(synthetic))
    several = detector if isinstance(detector, Sequence) and not isinstance(detector, str) else [detector]
    read = judges(several, options.device)
    wanted = list(findings) if findings is not None else _shown(drawn, read)
    for finding in wanted:
        if not any(finding in judge.detector.findings for judge in read):
            raise UnknownNameError("finding of the detector", finding, read[0].detector.findings)
    chosen, where = (None, "none") if real is None else real_part(real, part)
    unseen = None if chosen is None else Together([chosen])
    training = [_generator_part(one) for one in options.generator_data]
    _check(drawn, training, unseen, options, out)
    say("films of the generator among the unseen")
    thumbnails = _apart(training, unseen)
    empty = options.empty_prompt
    if empty is None and options.controls:
        say("empty prompt")
        empty = Together(_drawn_again(drawn, options, out))
    metrics: list[Metric] = []
    drawable: list[dict[str, Any]] = []
    for judge in read:
        say(f"labels, {judge.name}")
        measured, points = _labels(judge, drawn, unseen, empty, wanted)
        metrics, drawable = metrics + measured, drawable + points
    sources = [extractor(one, options.device) for one in options.extractors or _default_extractors()]
    for source in sources:
        say(f"resemblance, {source.name}")
        metrics += _resemblance(source, drawn, unseen, ["no_finding", *wanted], options)
    if options.controls:
        beside = None
        if unseen is not None:
            beside = features(sources[0], unseen, options.cache), list(noise_clusters(unseen))
        for scale in options.guidance_scales:
            say(f"guidance {scale:g}")
            again = Together(_drawn_again(drawn, options, out, scale))
            metrics += guidance_metrics(scale, again, read, wanted, sources[0], beside, options.cache)
    say("sharpness")
    metrics += _spectrum(drawn, unseen, options.spectrum_films)
    say("diversity")
    metrics += diversity(drawn, unseen)
    if options.text_model is not None:
        say("image-text alignment")
        model = load_text_image_model(options.text_model, options.device)
        metrics += alignment(model, drawn, list(noise_clusters(drawn)))
    if options.model is not None:
        say("autoencoder")
        metrics += _autoencoder(options, unseen)
    say("privacy")
    found, audited = _privacy(sources[0], drawn, training, unseen, options, thumbnails)
    metrics += audited
    settings = settings_of(drawn, read, sources, wanted, where, unseen, training, options.command)
    if found is not None:
        settings["audit"] = listed(found, drawn)
    settings["certificates"] = [certify(metrics, read, finding).to_json() for finding in wanted]
    settings["curves"] = drawable
    networks = [judge.digest for judge in read], [source.digest for source in sources]
    protocol = protocol_id("evaluate", VERSION, where, sorted(unseen.keys) if unseen else [], *networks)
    results = Results(kind="evaluate", protocol=protocol, settings=settings, metrics=metrics)
    if out is not None:
        results.write(out)
        (Path(out) / "results.md").write_text(table(metrics) + "\n")
        write_pictures(
            Path(out), drawn, unseen, Together(training) if training else None, found, options.show_real
        )
        if found is not None:
            atomic_write(Path(out) / "nearest.csv", _nearest(found).encode())
    if options.exclude is not None:
        _exclude(found, drawn, Path(options.exclude), options.rate)
    return results


def _default_extractors() -> list[str]:
    return [*(["imagenet"] if imagenet.available() else []), "embedded"]


def _shown(drawn: Together, read: Sequence[Judge]) -> list[str]:
    present = {
        name for name, column in zip(drawn.findings, drawn.labels.T, strict=True) if (column == 1).any()
    }
    known = list(dict.fromkeys(name for judge in read for name in judge.detector.findings))
    wanted = [name for name in known if name in present and name != "no_finding"]
    if not wanted:
        raise DataError(
            f"nothing to evaluate: the synthetic films show {', '.join(sorted(present)) or 'no finding'}; "
            f"the detectors know {', '.join(known)}"
        )
    return wanted


def _generator_part(data: Any) -> Any:
    """The films of a data set that the generator saw: its part of the split, or all where the split names none."""
    parts = parts_of(data)
    if parts and "generator" not in parts:
        raise DataError(
            f"--generator-data {data.root}: the split names films of it in {', '.join(sorted(parts))} only, none of the "
            "generator's"
        )
    return data.subset(parts["generator"]) if parts else data


def _check(
    drawn: Together,
    training: Sequence[Any],
    unseen: Together | None,
    options: Options,
    out: str | Path | None,
) -> None:
    """What would fail after the work is done fails before it."""
    if options.controls:
        if options.model is None or out is None:
            raise DataError("--controls: pass --model, the checkpoint that drew the films, and --out")
        if options.controls < 2 or any(scale < 1 for scale in options.guidance_scales):
            raise DataError(
                f"--controls {options.controls}, --guidance-scales {list(options.guidance_scales)}: expected 2 or more films, "
                "and scales of 1 (off) or more"
            )
        for one in drawn.sets:
            recipe_of(one)
    if options.exclude is not None and (not training or unseen is None):
        raise DataError("--exclude: nothing is audited without --generator-data and --real")
    if unseen is not None and (both := privacy.shared_patients(training, unseen.sets[0])):
        raise DataError(
            f"privacy: {len(both)} patients are both in the generator's films and among the unseen: "
            f"{', '.join(both[:5])}; choose another --split"
        )


def _apart(training: Sequence[Any], unseen: Together | None) -> list[np.ndarray]:
    """Thumbnails of training and unseen films. Raises `DataError` where a film, or nearly it, is on both sides."""
    if not training or unseen is None:
        return []
    sides = Together(training), unseen
    thumbnails = [side.images_array(THUMBNAIL, "squash") for side in sides]
    if both := privacy.shared_films(thumbnails[0], thumbnails[1], (sides[0].names, sides[1].names)):
        raise DataError(
            f"privacy: {len(both)} pairs of films are both in the generator's films and among the unseen: "
            f"{'; '.join(map(str, both[:3]))}; take them out (`synthaug dedupe REAL --against GENERATOR_DATA`)"
        )
    return thumbnails


def _drawn_again(
    drawn: Together, options: Options, out: str | Path | None, scale: float | None = None
) -> list[Any]:
    """The control of every folder; `_check` has made sure of model and out."""
    count = options.controls or 0
    return list(draw(drawn.sets, options.model or "", Path(out or "."), count, scale, options.device))


def _labels(
    judge: Judge, drawn: Together, unseen: Together | None, empty: Any | None, wanted: Sequence[str]
) -> tuple[list[Metric], list[dict[str, Any]]]:
    """Figures of the labels by one detector, and curves of its scores."""
    out: list[Metric] = []
    points: list[dict[str, Any] | None] = []
    known = [name for name in wanted if name in judge.detector.findings]
    for finding in wanted:
        if finding not in known:
            reason = (
                f"the detector {judge.name} does not know it; it knows {', '.join(judge.detector.findings)}"
            )
            facts: dict[str, Any] = {"finding": finding, "arm": "synthetic", "extractor": judge.name}
            out += [missing(name, reason, **facts) for name in NAMES]
            continue
        out += certificate(judge, [drawn], finding, unseen, empty)
    for arm, data in (("real", unseen), ("synthetic", drawn)):
        if data is None or not known:
            continue
        scores = predict(judge.detector, data)
        for finding in known:
            column = scores[:, judge.detector.findings.index(finding)]
            used = (data.column(finding) == 1) | (data.column("no_finding") == 1)
            truth = (data.column(finding)[used] == 1).astype(float)
            points.append(curves(column[used], truth, finding=finding, arm=arm, extractor=judge.name))
            if any(any(v) for v in (data.views, data.sexes, data.ages)):
                out += subgroup_metrics(judge, data, column, finding, arm)
    return out, [one for one in points if one is not None]


def _resemblance(
    source: Extractor, drawn: Together, unseen: Together | None, wanted: Sequence[str], options: Options
) -> list[Metric]:
    from synthaug.evaluation.resemblance import NAMES as DISTANCES

    if unseen is None:
        facts = {"arm": "synthetic", "extractor": source.name, "resize": source.resize}
        return [missing(name, "no --real: nothing to compare with", **facts) for name in DISTANCES]
    ours, theirs = (features(source, data, options.cache) for data in (drawn, unseen))
    clusters, patients = np.array(noise_clusters(drawn)), np.array(noise_clusters(unseen))
    out = resemblance(ours, clusters.tolist(), theirs, patients.tolist())
    for finding in wanted:
        ones, others = drawn.column(finding) == 1, unseen.column(finding) == 1
        if ones.any():
            mine, real = ours.subset(ones), theirs.subset(others)
            out += resemblance(mine, clusters[ones].tolist(), real, patients[others].tolist(), finding)
    return out


def by_view(data: Together, most: int) -> dict[str, Together]:
    """Films by view, the first so many of each by key; films of unknown view are left out."""
    views = np.array([view or "" for view in data.views])
    out = {}
    for view in VIEWS:
        indices = sorted(np.flatnonzero(views == view), key=lambda i: data.keys[i])[:most]
        if indices:
            out[view] = data.subset(np.array(indices))
    return out


def _spectrum(drawn: Together, unseen: Together | None, most: int) -> list[Metric]:
    if unseen is None:
        return [missing("power 8-32", "no --real: nothing to compare with", arm="synthetic")]
    sides = by_view(drawn, most), by_view(unseen, most)
    if not sides[0]:
        return [
            missing("power 8-32", "no synthetic film has a view; draw with --view PA or AP", arm="synthetic")
        ]
    images = [{view: one.images_array(SIZE, "squash") for view, one in side.items()} for side in sides]
    ours, theirs = ({view: noise_clusters(one) for view, one in side.items()} for side in sides)
    return spectrum_metrics(images[0], images[1], "synthetic", clusters=(ours, theirs))


def _autoencoder(options: Options, unseen: Together | None) -> list[Metric]:
    if unseen is None:
        return [missing("VAE PSNR", "no --real: no film to reconstruct", arm="autoencoder")]
    checkpoint = load_checkpoint(options.model or "embedded", options.device, "float32")
    films = by_view(unseen, options.reconstructed_films)
    if not films:
        return [missing("VAE PSNR", "no real film has a known view", arm="autoencoder")]
    images = {view: one.images_array(SIZE, "squash") for view, one in films.items()}
    patients = {view: list(noise_clusters(one)) for view, one in films.items()}
    return reconstruction(checkpoint.vae, images, patients, checkpoint.sha256)


def _audit_films(
    source: Extractor, data: Together, options: Options, thumbnails: np.ndarray
) -> privacy.Films:
    held = features(source, data, options.cache)
    return privacy.Films(held, thumbnails, tuple(data.names), tuple(noise_clusters(data)))


def _privacy(
    source: Extractor,
    drawn: Together,
    training: Sequence[Any],
    unseen: Together | None,
    options: Options,
    thumbnails: Sequence[np.ndarray],
) -> tuple[privacy.Audit | None, list[Metric]]:
    facts: dict[str, Any] = {"arm": "synthetic", "extractor": source.name}
    names = (*privacy.NAMES, privacy.MEMBERSHIP)
    if not training or unseen is None:
        absent = "--generator-data" if not training else "--real"
        return None, [missing(name, f"no {absent}: not audited", **facts) for name in names]
    held = drawn.images_array(THUMBNAIL, "squash"), *thumbnails
    sides = zip((drawn, Together(training), unseen), held, strict=True)
    ours, known, others = (_audit_films(source, data, options, small) for data, small in sides)
    member = privacy.membership(ours, known, others)
    needed = int(np.ceil(2 / options.rate))
    if len(others) < needed:
        reason = f"{len(others)} unseen real films give no threshold at a rate of {options.rate:g}; {needed} are needed"
        return None, [*(missing(name, reason, **facts) for name in privacy.NAMES), member]
    found = privacy.audit(ours, known, others, options.rate)
    return found, [*privacy.audit_metrics(found, ours), member]


def _nearest(found: privacy.Audit) -> str:
    """Every film's distance to its nearest training film and its highest correlation with one, films not named."""
    rows = [
        [side, f"{distance:.4f}", f"{correlation:.4f}"]
        for side, films in (("synthetic", found.synthetic), ("unseen real", found.unseen))
        for distance, correlation in zip(films.distance, films.correlation, strict=True)
    ]
    return csv_text(rows, ["side", "distance", "correlation"])


def _exclude(found: privacy.Audit | None, drawn: Together, out: Path, rate: float) -> None:
    if found is None:
        raise DataError("--exclude: the audit found no threshold; results.json says why")
    why = f"nearer to a training film of the generator than all but {rate:g} of unseen real films"
    for number, one in enumerate(drawn.sets):
        gone = [one.keys[i] for n, i in (drawn.places[j] for j in found.offenders) if n == number]
        write_without(one.root, gone, out / Path(one.root).name if len(drawn.sets) > 1 else out, why)
