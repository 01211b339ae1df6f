"""PadChest: `PADCHEST_chest_x_ray_images_labels_160K_*.csv[.gz]` and 16-bit PNG in folders `0/` ... `50/`.

Labels are lists of terms ("['cardiomegaly', 'pleural effusion']"). A report names what is seen, so a finding
that the vocabulary shares with PadChest and that is not listed is 0; "normal" is `no_finding`; "unchanged"
and "suboptimal study" alone say nothing (unknown), and "exclude" leaves the film out. Terms are known in
English, as published, and in Spanish, the language of the reports. The age is the year of the study less the
year of birth. Films of the projections EXCLUDE and COSTAL are left out.

Reference: Bustos et al., "PadChest: A large chest x-ray image dataset with multi-label annotated reports",
Medical Image Analysis 2020 (arXiv:1901.07441).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from synthaug.datasets.formats import files, listing
from synthaug.datasets.formats.joining import Line, join
from synthaug.datasets.formats.joining import labels_of as with_absent
from synthaug.datasets.formats.listing import Listing, Options
from synthaug.datasets.formats.values import MAX_AGE, parse_sex, parse_view
from synthaug.errors import DataError, UnknownNameError
from synthaug.findings import NO_FINDING, canonical, check
from synthaug.record import Record

# finding -> PadChest's terms for it, English and Spanish; what shares its name with the vocabulary needs none.
TERMS: dict[str, tuple[str, ...]] = {
    NO_FINDING: ("normal", "sin hallazgos", "sin hallazgos patológicos"),
    "air_trapping": ("air trapping", "atrapamiento aéreo"),
    "alveolar_pattern": ("alveolar pattern", "patrón alveolar", "air bronchogram", "broncograma aéreo"),
    "aortic_atheromatosis": ("aortic atheromatosis", "calcified aorta", "ateromatosis aórtica"),
    "aortic_elongation": ("aortic elongation", "supra aortic elongation", "elongación aórtica"),
    "apical_pleural_thickening": ("apical pleural thickening", "engrosamiento pleural apical"),
    "atelectasis": ("atelectasis", "lobar atelectasis", "segmental atelectasis", "total atelectasis",
                    "round atelectasis", "atelectasia"),
    "bronchiectasis": ("bronchiectasis", "bronquiectasias"),
    "bulla": ("bullas", "bulla"),
    "cardiomegaly": ("cardiomegaly", "cardiomegalia"),
    "consolidation": ("consolidation", "consolidación"),
    "costophrenic_angle_blunting": ("costophrenic angle blunting", "pinzamiento del ángulo costofrénico"),
    "edema": ("pulmonary edema", "edema pulmonar"),
    "emphysema": ("emphysema", "enfisema"),
    "fibrosis": ("pulmonary fibrosis", "fibrosis pulmonar", "post radiotherapy changes"),
    "flattened_diaphragm": ("flattened diaphragm", "aplanamiento diafragmático"),
    "fracture": ("fracture", "rib fracture", "clavicle fracture", "humeral fracture", "vertebral fracture",
                 "callus rib fracture", "fractura"),
    "granuloma": ("granuloma", "calcified granuloma"),
    "hemidiaphragm_elevation": ("hemidiaphragm elevation", "elevación hemidiafragmática"),
    "hernia": ("hiatal hernia", "hernia de hiato"),
    "hilar_enlargement": ("hilar enlargement", "vascular hilar enlargement", "agrandamiento hiliar"),
    "hyperinflated_lung": ("hyperinflated lung", "hiperinsuflación pulmonar"),
    "infiltration": ("infiltrates", "infiltrado", "infiltrados"),
    "interstitial_pattern": ("interstitial pattern", "ground glass pattern", "reticular interstitial pattern",
                             "reticulonodular interstitial pattern", "miliary opacities",
                             "patrón intersticial"),
    "kyphosis": ("kyphosis", "cifosis"),
    "laminar_atelectasis": ("laminar atelectasis", "atelectasia laminar"),
    "mass": ("mass", "pulmonary mass", "masa"),
    "nodule": ("nodule", "multiple nodules", "nódulo", "nódulos"),
    "pacemaker": ("pacemaker", "single chamber device", "dual chamber device", "marcapasos"),
    "pleural_effusion": ("pleural effusion", "loculated pleural effusion", "derrame pleural"),
    "pleural_thickening": ("pleural thickening", "engrosamiento pleural"),
    "pneumonia": ("pneumonia", "atypical pneumonia", "neumonía"),
    "pneumothorax": ("pneumothorax", "hydropneumothorax", "neumotórax"),
    "scoliosis": ("scoliosis", "escoliosis"),
    "sternotomy": ("sternotomy", "esternotomía"),
    "subcutaneous_emphysema": ("subcutaneous emphysema", "enfisema subcutáneo"),
    "support_devices": ("central venous catheter", "endotracheal tube", "nsg tube", "nasogastric tube",
                        "chest drain tube", "tracheostomy tube",
                        "central venous catheter via jugular vein",
                        "central venous catheter via subclavian vein", "catheter", "electrical device",
                        "artificial heart valve", "catéter venoso central", "tubo endotraqueal"),
    "tuberculosis": ("tuberculosis", "tuberculosis sequelae"),
    "vascular_redistribution": ("vascular redistribution", "redistribución vascular"),
    "vertebral_degenerative_changes": ("vertebral degenerative changes", "cambios degenerativos vertebrales"),
    "volume_loss": ("volume loss", "pérdida de volumen"),
}  # fmt: skip
FINDINGS = listing.ordered(TERMS)
SIGN = "PADCHEST_chest_x_ray_images_labels_160K_*.csv[.gz]"

_PATTERN = "PADCHEST_chest_x_ray_images_labels*.csv"
_NEEDED = ("ImageID", "PatientID", "Projection", "Labels")
_KEPT = (*_NEEDED, "StudyID", "StudyDate_DICOM", "PatientBirth", "PatientSex_DICOM", "Report", "MethodLabel")
_SILENT = {"unchanged", "suboptimal study", "sin cambios", ""}
_LEFT_OUT = ("EXCLUDE", "COSTAL")
_BY_TERM = {term: finding for finding, terms in TERMS.items() for term in terms}


def detect(root: Path) -> str | None:
    """Why the folder is PadChest, or None."""
    tables = files.tables(root, _PATTERN)
    return f"PadChest: {tables[-1].name}" if tables else None


def read(root: Path, options: Options | None = None) -> Listing:
    """The films of PadChest, in the table's order.

    Raises:
        DataError: no table, a missing column, a line that cannot be read, no image of the table.
    """
    options = options or Options()
    tables = files.tables(root, _PATTERN)
    if not tables:
        raise DataError(f"{root}: no {SIGN}, expected the PadChest layout")
    table = files.read_table(tables[-1], _KEPT)
    table.need(_NEEDED, "PadChest")
    lines = (_line(place, row) for place, row in table.rows_with_place())
    films, left_out = join(root, lines, options)
    return Listing("padchest", films, FINDINGS, left_out, {"labels": table.path.name})


def labels_of(text: str) -> dict[str, float]:
    """The labels of a list of terms.

    Raises:
        LabelError: "normal" beside a finding.
    """
    terms = [" ".join(term.strip(" '\"").lower().split()) for term in text.strip("[] ").split(",")]
    said = [term for term in terms if term not in _SILENT]
    if not said:
        return dict.fromkeys(FINDINGS, float("nan"))
    found = {finding for term in said if (finding := _finding(term))}
    if found == {NO_FINDING}:
        return check({NO_FINDING: 1.0, **dict.fromkeys(set(FINDINGS) - {NO_FINDING}, 0.0)})
    return check(with_absent(dict.fromkeys(found - {NO_FINDING}, 1.0), FINDINGS))


def _finding(term: str) -> str | None:
    if term in _BY_TERM:
        return _BY_TERM[term]
    try:
        return found if (found := canonical(term)) in FINDINGS else None
    except UnknownNameError:
        return None


def _line(place: str, row: Mapping[str, str]) -> Line:
    def record(key: str) -> Record:
        provenance: dict[str, Any] = {"source": "PadChest", "study": row.get("StudyID", "")}
        provenance["labelled_by"] = row.get("MethodLabel", "")
        if row.get("Report"):
            provenance["report"] = {"text": row["Report"], "language": "es"}
        return Record(
            key,
            labels_of(row["Labels"]),
            view=parse_view(row["Projection"] or "unknown"),
            age=_age(row),
            sex=parse_sex(row.get("PatientSex_DICOM", "")),
            patient=row["PatientID"] or None,
            provenance={name: value for name, value in provenance.items() if value},
        )

    reason = None
    if row["Projection"] in _LEFT_OUT:
        reason = f"projection {row['Projection']}"
    elif "'exclude'" in row["Labels"].lower():
        reason = "labelled 'exclude'"
    return Line(place, row["ImageID"], record, reason)


def _age(row: Mapping[str, str]) -> float | None:
    date, birth = row.get("StudyDate_DICOM", ""), row.get("PatientBirth", "")
    if not date or not birth:
        return None
    try:
        years = int(date[:4]) - int(float(birth))
    except ValueError as error:
        raise DataError(
            f"found the study date {date!r} and birth {birth!r}, expected 20150312 and 1950"
        ) from error
    return float(years) if 0 <= years <= MAX_AGE else None
