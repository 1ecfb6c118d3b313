"""Writes phantoms as DICOM, so that readers and writers meet files as scanners make them."""

from __future__ import annotations

from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)

from neurovision.scan.phantom import phantom_volume
from neurovision.scan.study import Study

NAME = "Zyxwvut^Qponml"  # a name that must turn up nowhere


@lru_cache(maxsize=1)
def head() -> tuple[Study, np.ndarray]:
    """One head with a glioma and its truth, drawn once: ``(10, 64, 64)``."""
    return phantom_volume("glioma", seed=1, size=64, slices=10)


def stored(study: Study) -> np.ndarray:
    """The study's slices as a scanner would store them: uint16 ``(S, H, W)`` up to 4000."""
    return np.rint(study.pixels[..., 0] * 4000).astype(np.uint16)


def oblique(affine: np.ndarray) -> np.ndarray:
    """The affine turned by 20 degrees about x and 10 about z."""
    a, b = np.deg2rad((20, 10))
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    turned = np.eye(4)
    turned[:3] = z @ x @ affine[:3]
    return turned


def header(uid: str, pixels: np.ndarray, sop_class: str = MRImageStorage) -> Dataset:
    """A valid MR header without geometry; ``uid`` makes its UIDs repeatable."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = sop_class
    dataset.StudyInstanceUID = generate_uid(entropy_srcs=[uid, "study"])
    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=[uid, "series"])
    dataset.FrameOfReferenceUID = generate_uid(entropy_srcs=[uid, "frame"])
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate, dataset.PatientSex = NAME, "PID-4711", "19700102", "O"
    dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = dataset.ContentDate = "20240203"
    dataset.StudyTime = dataset.SeriesTime = dataset.AcquisitionTime = dataset.ContentTime = "101112"
    dataset.AccessionNumber, dataset.StudyID, dataset.ReferringPhysicianName = "A1", "S1", ""
    dataset.Modality, dataset.Manufacturer, dataset.SeriesNumber = "MR", "Phantom", 3
    dataset.PositionReferenceIndicator, dataset.Laterality = "", ""
    dataset.SeriesDescription = "AX T1 POST"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    dataset.ScanningSequence, dataset.SequenceVariant, dataset.ScanOptions = "SE", "NONE", ""
    dataset.MRAcquisitionType, dataset.EchoTime, dataset.RepetitionTime, dataset.EchoTrainLength = "2D", 12, 600, 1
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    return dataset


def geometry(affine: np.ndarray, index: int) -> dict[str, Any]:
    """Position, orientation and spacing of one slice, from an affine as Study keeps it."""
    rows, columns = np.linalg.norm(affine[:3, 1]), np.linalg.norm(affine[:3, 2])
    return {
        "ImagePositionPatient": [f"{v:.9g}" for v in affine[:3, 3] + index * affine[:3, 0]],
        "ImageOrientationPatient": [f"{v:.9g}" for v in (*(affine[:3, 2] / columns), *(affine[:3, 1] / rows))],
        "PixelSpacing": [f"{rows:.9g}", f"{columns:.9g}"],
        "SliceThickness": f"{np.linalg.norm(affine[:3, 0]):.9g}",
    }


def write_series(folder: Path, pixels: np.ndarray, affine: np.ndarray, uid: str = "a", **changes: Any) -> list[Path]:
    """Write ``(S, H, W)`` as one file a slice, in an order that is not the slices'; ``changes`` go into every header."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for k, plane in enumerate(pixels):
        dataset = header(uid, pixels)
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid(
            entropy_srcs=[uid, folder.name, str(k)]
        )
        dataset.InstanceNumber = len(pixels) - k
        for key, value in {**geometry(affine, k), **changes}.items():
            setattr(dataset, key, value)
        dataset.PixelData = plane.tobytes()
        paths.append(folder / f"IM{(k * 7) % len(pixels):04d}-{k}.dcm")
        dataset.save_as(paths[-1], enforce_file_format=True)
    return paths


def write_enhanced(path: Path, pixels: np.ndarray, affine: np.ndarray, uid: str = "e") -> Path:
    """Write ``(S, H, W)`` as one enhanced multi-frame file, its frames from head to feet."""
    dataset = header(uid, pixels, EnhancedMRImageStorage)
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[uid])
    dataset.InstanceNumber, dataset.NumberOfFrames = 1, len(pixels)
    shared, frames = Dataset(), []
    first = geometry(affine, 0)
    shared.PlaneOrientationSequence = [_item(ImageOrientationPatient=first["ImageOrientationPatient"])]
    shared.PixelMeasuresSequence = [_item(PixelSpacing=first["PixelSpacing"], SliceThickness=first["SliceThickness"])]
    shared.PixelValueTransformationSequence = [_item(RescaleSlope="2", RescaleIntercept="-100", RescaleType="US")]
    for k in range(len(pixels))[::-1]:
        frame = Dataset()
        frame.PlanePositionSequence = [_item(ImagePositionPatient=geometry(affine, k)["ImagePositionPatient"])]
        frame.FrameContentSequence = [_item(StackID="1", InStackPositionNumber=k + 1, DimensionIndexValues=[1, k + 1])]
        frames.append(frame)
    dataset.SharedFunctionalGroupsSequence, dataset.PerFrameFunctionalGroupsSequence = [shared], frames
    dataset.PixelData = np.ascontiguousarray(pixels[::-1]).tobytes()
    dataset.save_as(path, enforce_file_format=True)
    return path


def saved(dataset: Dataset) -> bytes:
    """The dataset as a file's bytes."""
    stream = BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _item(**values: Any) -> Dataset:
    item = Dataset()
    for key, value in values.items():
        setattr(item, key, value)
    return item
