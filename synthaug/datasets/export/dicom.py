"""Synthetic films as DICOM Secondary Capture, which no system and no reader can take for a patient's.

Header: image type DERIVED\\SECONDARY, patient's name and id "SYNTHETIC" and nothing else of the patient module,
a derivation description, findings in the image comments. Visible: an overlay plane that says SYNTHETIC, which
viewers draw over the pixels and which leaves the pixels as they are. Every film is a study of its own with UIDs
of its own, made from the data set's digest and the film's key. No date or time is written: there was no study.

Reference: DICOM PS3.3 A.8.1 (Secondary Capture Image), C.7.6.1 (General Image), C.9.2 (Overlay Plane).
"""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from synthaug import __version__
from synthaug.datasets.base import Radiographs
from synthaug.datasets.export import rows
from synthaug.datasets.formats.dicom_folder import MARK, comments
from synthaug.datasets.packing import digest
from synthaug.errors import DataError, ImageError, NotInstalledError
from synthaug.images import read
from synthaug.record import Record
from synthaug.shards import atomic_write
from synthaug.tables import csv_text

Progress = Callable[[int, int], None]

MAX_COMMENT = 10_240  # letters of an LT value


def dicom(films: Radiographs, out: Path, progress: Progress) -> None:
    """`KEY.dcm` a film, and `index.csv` (file, SOP instance UID), written last.

    Raises:
        DataError: a real film: its DICOM file is the hospital's to make.
        NotInstalledError: pydicom is not installed.
    """
    if not films.synthetic.all():
        raise DataError(
            f"--to dicom: {int((~films.synthetic).sum())} films are real; only synthetic films are written as "
            "DICOM, because each is marked SYNTHETIC"
        )
    whole = digest(films.films)
    lines = []
    for place, stem in enumerate(rows.stems(films)):
        name = f"{stem}.dcm"
        labels = {finding: float("nan") if value is None else float(value)
                  for finding, value in rows.labels(films, place).items()}  # fmt: skip
        source = films.records[place]
        record = Record(source.key, labels, source.view, source.age, source.sex, synthetic=True)
        pixels = read(rows.png(films, place))
        dataset = secondary_capture(pixels, record, f"{whole}:{place}")
        if not (out / name).is_file():
            file = io.BytesIO()
            dataset.save_as(file, enforce_file_format=True)
            rows.put(out / name, file.getvalue())
        lines.append([name, str(dataset.SOPInstanceUID), films.keys[place]])
        progress(place + 1, len(films))
    atomic_write(out / "index.csv", csv_text(lines, ["file", "sop_instance_uid", "source_key"]).encode())


def secondary_capture(pixels: np.ndarray, record: Record, entropy: str) -> Any:
    """One film as a DICOM data set.

    Args:
        pixels: (H, W) uint8.
        record: labels, view, age and sex for the image comments.
        entropy: equal texts give equal UIDs, others give others.

    Raises:
        NotInstalledError: pydicom is not installed.
        ImageError: more labels than an image comment holds.
    """
    try:
        from pydicom.dataset import Dataset, FileMetaDataset
        from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid
    except ImportError as error:
        raise NotInstalledError(
            "DICOM files are written by pydicom; pip install 'synthaug[dicom]'"
        ) from error
    told = comments(record)
    if len(told) > MAX_COMMENT:
        raise ImageError(
            f"{record.key}: its labels take {len(told)} letters, a DICOM comment holds {MAX_COMMENT}"
        )

    def uid(kind: str) -> Any:
        return generate_uid(entropy_srcs=[kind, entropy])

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = uid("instance")
    dataset.SOPClassUID, dataset.SOPInstanceUID = SecondaryCaptureImageStorage, uid("instance")
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uid("study"), uid("series")
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientName = dataset.PatientID = MARK
    # Modules that a Secondary Capture must have, their values empty where they would describe a person.
    for name in ("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "ReferringPhysicianName",
                 "AccessionNumber", "StudyID", "Laterality", "PatientOrientation"):  # fmt: skip
        setattr(dataset, name, "")
    dataset.SeriesNumber = dataset.InstanceNumber = "1"
    dataset.Modality, dataset.ConversionType = "OT", "SYN"
    dataset.StudyDescription = dataset.SeriesDescription = f"{MARK} chest radiograph"
    dataset.Manufacturer, dataset.SoftwareVersions = "synthaug", __version__
    dataset.ImageType = ["DERIVED", "SECONDARY"]
    dataset.DerivationDescription = f"{MARK}: drawn by a generative model; shows no person; not for diagnosis"
    dataset.ImageComments = told
    dataset.BurnedInAnnotation = "NO"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.PixelData = pixels.tobytes() + b"\0" * (pixels.size % 2)
    dataset["PixelData"].VR = "OB"
    _overlay(dataset, pixels.shape)
    return dataset


def _overlay(dataset: Any, shape: tuple[int, ...]) -> None:
    """The word SYNTHETIC along the lower edge, as a one-bit plane beside the pixels."""
    height, width = shape
    text = Image.new("1", (width, height))
    size = max(8, min(width // 8, height // 8))
    font = ImageFont.load_default(size)
    ImageDraw.Draw(text).text((width / 2, height - 2), MARK, fill=1, font=font, anchor="md")
    bits = np.packbits(np.asarray(text, dtype=bool).ravel(), bitorder="little").tobytes()
    group = 0x6000
    dataset.add_new((group, 0x0010), "US", height)
    dataset.add_new((group, 0x0011), "US", width)
    dataset.add_new((group, 0x0022), "LO", f"{MARK} mark")
    dataset.add_new((group, 0x0040), "CS", "G")
    dataset.add_new((group, 0x0050), "SS", [1, 1])
    dataset.add_new((group, 0x0100), "US", 1)
    dataset.add_new((group, 0x0102), "US", 0)
    dataset.add_new((group, 0x3000), "OW", bits + b"\0" * (len(bits) % 2))
