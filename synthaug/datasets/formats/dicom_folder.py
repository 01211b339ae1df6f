"""A folder of DICOM radiographs without a table of labels: what a PACS exports.

Films are files with a DICOM preamble, whatever their names ("IM000001"). Patient, age, sex and view come from
the headers; labels are unknown, unless the image comments are those that `synthaug export --to dicom` writes.
Other modalities than radiography, and several frames, are left out and counted; burned-in annotations are
counted in the reading. With a table that names the files, the layout is "csv".
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from synthaug.datasets.formats import dicom_header, files, listing
from synthaug.datasets.formats.listing import Film, Listing, Options
from synthaug.errors import DataError, ImageError
from synthaug.findings import NO_FINDING, check
from synthaug.images.dicom import Header, header
from synthaug.record import VIEWS, Record

SIGN = "files with a DICOM preamble and no table"
RADIOGRAPHY = ("CR", "DX", "DR", "RG", "OT", "")
MARK = "SYNTHETIC"

_PREAMBLE = 128
_TRIED = 50


def detect(root: Path) -> str | None:
    """Why the folder holds DICOM, or None: the first files with a preamble."""
    found = [path for path in _candidates(root)[:_TRIED] if is_dicom(path)]
    return f"DICOM: {found[0].relative_to(root).as_posix()} and others" if found else None


def read(root: Path, options: Options | None = None) -> Listing:
    """The DICOM films below a folder, sorted by path.

    Raises:
        NotInstalledError: pydicom is not installed.
        DataError: no film, or (without `skip_bad`) a header that cannot be read.
    """
    options = options or Options()
    paths = [path for path in _candidates(root) if is_dicom(path)]
    films: list[Film] = []
    dropped: dict[str, list[str]] = {}
    burned = unsaid = 0
    for path, key in zip(paths, files.keys_of(root, paths), strict=True):
        try:
            found = header(path)
            reason = _reason(found)
            record = _record(key, found) if reason is None else None
        except (ImageError, DataError) as error:
            if not options.skip_bad:
                raise DataError(f"{error}; --skip-bad leaves such files out") from error
            reason, record = listing.BAD_ROW, None
        if record is None:
            dropped.setdefault(str(reason), []).append(key)
            continue
        burned += found.burned_in is True
        unsaid += found.burned_in is None
        films.append(Film(path, record))
    left_out = listing.left_out(list(dropped.items()))
    named = {finding for film in films for finding in film.record.labels}
    reading = {"burned-in annotation": f"{burned} films say yes, {unsaid} do not say"}
    kept = listing.some_films(films, root, left_out)
    return Listing("dicom", kept, listing.ordered({NO_FINDING, *named}), left_out, reading)


def is_dicom(path: Path) -> bool:
    """Whether a file has the DICOM preamble."""
    try:
        with open(path, "rb") as file:
            return file.read(_PREAMBLE + 4)[_PREAMBLE:] == b"DICM"
    except OSError:
        return False


def comments(record: Record) -> str:
    """A synthetic film's labels and facts as image comments: "SYNTHETIC; edema=1; mass=unknown; view=PA"."""
    labels = [
        f"{finding}={'unknown' if value != value else f'{value:.0f}'}"
        for finding, value in record.labels.items()
    ]
    facts = [
        f"{name}={getattr(record, name)}"
        for name in ("view", "age", "sex")
        if getattr(record, name) is not None
    ]
    return "; ".join([MARK, *labels, *facts])


def read_comments(text: str) -> dict[str, Any] | None:
    """Labels, view, age and sex of such comments; None when they are somebody else's.

    Raises:
        DataError, LabelError, UnknownNameError: comments that begin as ours and go on otherwise.
    """
    mark, *pairs = [part.strip() for part in text.split(";")]
    if mark != MARK:
        return None
    labels: dict[str, float] = {}
    facts: dict[str, Any] = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        if name == "age":
            facts[name] = float(value)
        elif name in ("view", "sex"):
            if value not in (*VIEWS, "F", "M"):
                raise DataError(f"image comments: found {pair!r}")
            facts[name] = value
        else:
            labels[name] = float("nan") if value == "unknown" else float(value)
    return {"labels": check(labels), **facts}


def _candidates(root: Path) -> list[Path]:
    return files.walk(
        root,
        lambda name: (
            name.lower().endswith(files.DICOM_SUFFIXES)
            or "." not in name
            or name.rpartition(".")[2].isdigit()
        ),
    )


def _reason(found: Header) -> str | None:
    modality = found.values.get("Modality", "").upper()
    if modality not in RADIOGRAPHY:
        return f"modality {modality}"
    frames = found.values.get("NumberOfFrames", "1")
    return None if frames in ("1", "0", "") else "several frames"


def _record(key: str, found: Header) -> Record:
    own = read_comments(found.values.get("ImageComments", ""))
    if own is not None:
        return Record(key, synthetic=True, **own)
    provenance: Mapping[str, Any] = {"source": "DICOM"} | (
        {"burned_in_annotation": found.burned_in} if found.burned_in is not None else {}
    )
    patient = found.values.get("PatientID") or None
    return Record(key, {}, patient=patient, provenance=provenance, **dicom_header.facts_of(found))
