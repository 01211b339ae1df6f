"""VinDr-CXR: `image_labels_train.csv` / `image_labels_test.csv` (PhysioNet) or `train.csv` (Kaggle), DICOM films.

Each training film was read by three radiologists, each line being one reader's; the test films carry one line
of consensus. `Options.readers` merges them: "majority" (default: more than half), "any" (one is enough) or
"all"; `no_finding` is merged the other way round, so that it never stands beside a finding. Boxes
(`annotations_*.csv`, Kaggle's own lines) are `provenance["boxes"]` with their reader, in pixels of the film.
VinDr-CXR holds PA films; patients are unknown.

Reference: Nguyen et al., "VinDr-CXR: An open dataset of chest X-rays with radiologist's annotations",
Scientific Data 2022 (arXiv:2012.15029).
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from synthaug.datasets.formats import files, listing
from synthaug.datasets.formats.files import Table
from synthaug.datasets.formats.joining import Line, join
from synthaug.datasets.formats.listing import Listing, Options
from synthaug.datasets.formats.values import parse_value
from synthaug.errors import DataError
from synthaug.findings import NO_FINDING, canonical, check
from synthaug.record import Record

COLUMNS = (
    "Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Clavicle fracture",
    "Consolidation", "Edema", "Emphysema", "Enlarged PA", "ILD", "Infiltration", "Lung Opacity",
    "Lung cavity", "Lung cyst", "Mediastinal shift", "Nodule/Mass", "Pleural effusion",
    "Pleural thickening", "Pneumothorax", "Rib fracture", "Other lesion", "COPD", "Lung tumor",
    "Pneumonia", "Tuberculosis", "Other disease", "No finding",
)  # fmt: skip
SIGN = "image_labels_train.csv with image_id and rad_id"

_KAGGLE = ("image_id", "class_name", "rad_id")


def detect(root: Path) -> str | None:
    """Why the folder is VinDr-CXR, or None."""
    names = [path.relative_to(root).as_posix() for path in (*_physionet(root), *_kaggle(root))]
    return f"VinDr-CXR: {', '.join(names)}" if names else None


def read(root: Path, options: Options | None = None) -> Listing:
    """The films of VinDr-CXR, each once, in the order of their first line.

    Raises:
        DataError: no table, a missing column, a line that cannot be read, no image of the tables.
    """
    options = options or Options()
    images = files.find_images(root)
    paths = _physionet(root)
    if paths:
        tables = [files.read_table(path) for path in paths]
        votes = [vote for table in tables for vote in _votes(table, options)]
    else:
        tables = [files.read_table(path) for path in _kaggle(root)]
        votes = [vote for table in tables for vote in _kaggle_votes(table)]
    if not tables:
        raise DataError(f"{root}: no {SIGN}, and no train.csv with {', '.join(_KAGGLE)}")
    boxes = _boxes(root, [] if paths else tables)
    films, left_out = join(root, _lines(votes, boxes, options), options, images)
    findings = {finding for _, _, _, labels in votes for finding in labels}
    reading = {"labels": ", ".join(table.path.relative_to(root).as_posix() for table in tables)}
    reading |= {"readers": options.readers, "boxes": str(sum(map(len, boxes.values())))}
    return Listing("vindr", films, listing.ordered({NO_FINDING, *findings}), left_out, reading)


def merged(readers: Sequence[Mapping[str, float]], rule: str) -> dict[str, float]:
    """What several readers say of one film, by "majority", "any" or "all" of them; no reader is uncertain.

    Raises:
        LabelError: a single reader contradicts himself.
    """
    findings = {finding for labels in readers for finding in labels}
    result = {}
    for finding in findings:
        share = sum(labels.get(finding) == 1.0 for labels in readers) / len(readers)
        turned = rule if finding != NO_FINDING else {"any": "all", "all": "any"}.get(rule, rule)
        result[finding] = float({"any": share > 0, "all": share == 1}.get(turned, share > 0.5))
    return check(result)


Vote = tuple[str, str, str, dict[str, float]]  # place, image, split, one reader's labels


def _votes(table: Table, options: Options) -> Iterable[Vote]:
    table.need(("image_id", "No finding"), "VinDr-CXR")
    columns = {name: canonical(name) for name in table.columns if name.lower() not in ("image_id", "rad_id")}
    split = "test" if "_test" in table.path.name else "train"
    for place, row in table.rows_with_place():
        try:
            labels = {finding: parse_value(row[name]) for name, finding in columns.items()}
        except DataError as error:
            raise DataError(f"{place}: {error}") from error
        yield place, row["image_id"], split, labels


def _kaggle_votes(table: Table) -> Iterable[Vote]:
    """Kaggle's lines are boxes: one reader's labels are the classes of his boxes."""
    found: dict[tuple[str, str], tuple[str, set[str]]] = {}
    for place, row in table.rows_with_place():
        found.setdefault((row["image_id"], row["rad_id"]), (place, set()))[1].add(
            canonical(row["class_name"])
        )
    named = {finding for _, findings in found.values() for finding in findings}
    for (image, _), (place, findings) in found.items():
        yield place, image, "train", {finding: float(finding in findings) for finding in named}


def _lines(
    votes: Iterable[Vote], boxes: Mapping[str, list[dict[str, Any]]], options: Options
) -> Iterable[Line]:
    films: dict[str, tuple[str, str, list[dict[str, float]]]] = {}
    for place, image, split, labels in votes:
        films.setdefault(image, (place, split, []))[2].append(labels)
    for image, (place, split, readers) in films.items():

        def record(
            key: str, image: str = image, split: str = split, readers: Sequence[dict[str, float]] = readers
        ) -> Record:
            provenance: dict[str, Any] = {"source": "VinDr-CXR", "split": split, "readers": len(readers)}
            if image in boxes:
                provenance["boxes"] = boxes[image]
            return Record(key, merged(readers, options.readers), view="PA", provenance=provenance)

        yield Line(place, image, record)


def _boxes(root: Path, tables: Sequence[Table]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    paths = files.tables(root, "annotations_*.csv", "*/annotations_*.csv")
    for table in [*tables, *(files.read_table(path) for path in paths)]:
        for place, row in table.rows_with_place():
            if not row.get("x_min"):
                continue
            try:
                left, top, right, bottom = (float(row[name]) for name in ("x_min", "y_min", "x_max", "y_max"))
            except (KeyError, ValueError) as error:
                raise DataError(
                    f"{place}: expected x_min, y_min, x_max, y_max as numbers ({error})"
                ) from error
            box = {"finding": canonical(row["class_name"]), "x": left, "y": top}
            box |= {"w": right - left, "h": bottom - top}
            reader = row.get("rad_id") or row.get("rad_ID")
            found[row["image_id"]].append(box | ({"reader": reader} if reader else {}))
    return found


def _physionet(root: Path) -> list[Path]:
    return files.tables(root, "image_labels_*.csv", "*/image_labels_*.csv")[::-1]  # train before test


def _kaggle(root: Path) -> list[Path]:
    return [path for path in files.tables(root, "train.csv") if set(_KAGGLE) <= set(files.header(path))]
