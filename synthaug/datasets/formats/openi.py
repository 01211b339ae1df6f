"""OpenI, the Indiana University collection: reports and PNG films.

`indiana_reports.csv` (a line a study: uid, MeSH, Problems, findings, impression) with
`indiana_projections.csv` (a line a film: uid, filename, projection). Labels are the terms of "Problems", which
coders gave to the whole report: a finding that the collection knows and a study does not name is 0; "No
Indexing" is unknown. The report is `provenance["report"]`. A frontal film's direction, PA or AP, is unknown.

Reference: Demner-Fushman et al., "Preparing a collection of radiology examinations for distribution and
retrieval", JAMIA 2016.
"""

import math
from collections.abc import Mapping
from pathlib import Path

from synthaug.datasets.formats import files, listing
from synthaug.datasets.formats.joining import Line, join, labels_of
from synthaug.datasets.formats.listing import Listing, Options
from synthaug.datasets.formats.values import parse_view
from synthaug.errors import DataError, UnknownNameError
from synthaug.findings import NO_FINDING, canonical, check
from synthaug.record import Record

# The MeSH and RadLex terms that the vocabulary names otherwise.
TERMS = {
    "pulmonary atelectasis": "atelectasis",
    "opacity": "lung_opacity",
    "calcified granuloma": "granuloma",
    "granulomatous disease": "granuloma",
    "calcinosis": "calcification",
    "hernia, hiatal": "hernia",
    "hernia hiatal": "hernia",
    "fractures, bone": "fracture",
    "thickening": "pleural_thickening",
    "pulmonary edema": "edema",
    "hyperdistention": "hyperinflated_lung",
    "implanted medical device": "support_devices",
    "medical device": "support_devices",
    "catheters, indwelling": "support_devices",
    "aorta, thoracic": "tortuous_aorta",
    "costophrenic angle": "costophrenic_angle_blunting",
    "diaphragmatic eventration": "hemidiaphragm_elevation",
    "spondylosis": "vertebral_degenerative_changes",
    "osteophyte": "vertebral_degenerative_changes",
    "bronchiectasis": "bronchiectasis",
    "pulmonary disease, chronic obstructive": "copd",
    "pulmonary fibrosis": "fibrosis",
}
FINDINGS = listing.ordered(
    {NO_FINDING, "cardiomegaly", "consolidation", "pleural_effusion", "emphysema", "infiltration", "mass",
     "nodule", "pneumonia", "pneumothorax", "scoliosis", "kyphosis", *TERMS.values()}
)  # fmt: skip
SIGN = "indiana_reports.csv and indiana_projections.csv"

_REPORTS = ("uid", "Problems", "findings", "impression")
_FILMS = ("uid", "filename", "projection")
_UNCODED = {"no indexing", ""}


def detect(root: Path) -> str | None:
    """Why the folder is OpenI's Indiana collection, or None."""
    found = files.tables(root, "indiana_reports.csv"), files.tables(root, "indiana_projections.csv")
    return "OpenI (Indiana): indiana_reports.csv, indiana_projections.csv" if all(found) else None


def read(root: Path, options: Options | None = None) -> Listing:
    """The films of the collection, in the order of the projections.

    Raises:
        DataError: a missing table or column, a line that cannot be read, no image of the table.
    """
    options = options or Options()
    if detect(root) is None:
        raise DataError(f"{root}: no {SIGN}")
    reports = files.read_table(files.tables(root, "indiana_reports.csv")[0], _REPORTS)
    projections = files.read_table(files.tables(root, "indiana_projections.csv")[0])
    reports.need(_REPORTS, "OpenI (Indiana)")
    projections.need(_FILMS, "OpenI (Indiana)")
    studies = {row["uid"]: row for _, row in reports.rows}
    lines = (_line(place, row, studies) for place, row in projections.rows_with_place())
    films, left_out = join(root, lines, options)
    reading = {"labels": "Problems of indiana_reports.csv", "views": "indiana_projections.csv"}
    return Listing("openi", films, FINDINGS, left_out, reading)


def problems(text: str) -> dict[str, float]:
    """The labels of a study's "Problems": terms separated by semicolons."""
    terms = {" ".join(term.lower().split()) for term in text.split(";")}
    if terms <= _UNCODED:
        return dict.fromkeys(FINDINGS, math.nan)
    found = {finding for term in terms if (finding := _finding(term))}
    if found == {NO_FINDING}:
        return check({NO_FINDING: 1.0, **dict.fromkeys(set(FINDINGS) - {NO_FINDING}, 0.0)})
    return check(labels_of(dict.fromkeys(found - {NO_FINDING}, 1.0), FINDINGS))


def _finding(term: str) -> str | None:
    if term in TERMS:
        return TERMS[term]
    try:
        return found if (found := canonical(term)) in FINDINGS else None
    except UnknownNameError:
        return None


def _line(place: str, row: Mapping[str, str], studies: Mapping[str, Mapping[str, str]]) -> Line:
    def record(key: str) -> Record:
        if row["uid"] not in studies:
            raise DataError(f"the study {row['uid']} has no report in indiana_reports.csv")
        study = studies[row["uid"]]
        report = {name: study[name] for name in ("findings", "impression") if study[name]}
        provenance = {"source": "OpenI (Indiana)"} | ({"report": report} if report else {})
        view = parse_view(row["projection"] or "unknown")
        return Record(key, problems(study["Problems"]), view=view, patient=row["uid"], provenance=provenance)

    return Line(place, row["filename"].removesuffix(".png"), record)
