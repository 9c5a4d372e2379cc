"""Makes DICOM series of every kind the reader must understand, or refuse.

Pixels follow a formula, so the expected volume needs no second reader: ``stored_values``. JPEG 2000 and JPEG lossless
streams are compressed by ITK's GDCM, RLE by pydicom. Neither can write JPEG-LS: the three slices of 13×14 pixels
below were encoded with CharLS (pyjpegls 1.5.1) from the same formula.
"""

import base64
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pydicom
from pydicom import uid
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from tests.support.lung_voxels import lung_hu

_JPEG_LS_SLICES = (
    "/9j/9wALDAAOAA0BAREA/9oACAEBAAAAAAAAypKOioaD/3ffnv15iUmJSQjIiEgfvnrwmCV47dOXDdsVKEyRMZCREgQffeeddcJj"
    "G66444222000TGJtpppppllllkmMLLLLLLLLDDDBMYGWGGGHve97yYvve973vc5ziYvPe97nOc5wAFcC6QQQQQ973mQRE5cIIe97"
    "3vMDC4nLb3ve97zLC5xOWnve97nFxgc4nP/Z",
    "/9j/9wALDAAOAA0BAREA/9oACAEBAAAAAAAAAACWko6KhoP/d9+e/XmJScmJSQjIiEgfvnpOEr568dunLhu2KlCgyFShMkSIkCD7"
    "7xSYyD777zzrrrjhUYnnnXXXHHHAK+nhheeeeddddMAjdLTA888666BTnYnXS4vvvPPOmuJ111wvLzzzrrpUEbrjgFPZdffffJzE"
    "888TGEyLhB989wvPPEhgdMy2+88f4POn2DrpoWn3niEwvOkBfddK4P/Z",
    "/9j/9wALDAAOAA0BAREA/9oACAEBAAAAAAAAAAAbsElHRUNB/3vvz368xKUE5MSkhGREJA/fFASkD989eO3Tlw3bFRkcNyxUoTJk"
    "iJECFQYyhQmTJEiJECFDEheYihQoTJkge9WMmTMTCWKlSpQqMRQmTB2nMBcuWLExhLFShKYDYvlyxY/xlShQiL5M4LxYqVfBIVKP"
    "S8UB2mLpcuJ8Rcs6LpZyXAAAAAAMhIlIpEdhIQ3QSEJyAAA1oqewEMV4yEKsQAACSi8AjbhH3GELcQAiQAAAAAMpoAAAAAMqzy0W"
    "JmsIsP/Z",
)

JPEG_LS_SHAPE_IJK = (13, 14, 3)

SYNTAXES = {
    "implicit": uid.ImplicitVRLittleEndian,
    "explicit": uid.ExplicitVRLittleEndian,
    "big-endian": uid.ExplicitVRBigEndian,
    "deflated": uid.DeflatedExplicitVRLittleEndian,
    "rle": uid.RLELossless,
    "jpeg-lossless": uid.JPEGLosslessSV1,
    "jpeg-2000": uid.JPEG2000Lossless,
    "jpeg-ls": uid.JPEGLSLossless,
}


def stored_values(shape_ijk: tuple[int, int, int], first_slice: int = 0) -> np.ndarray:
    """Stored values indexed [i, j, k], 12 bits, different at every neighbour on every axis."""
    i, j, k = np.meshgrid(*[np.arange(n) for n in shape_ijk], indexing="ij")
    k = k + first_slice
    return ((37 * i + 101 * j + 499 * (k + 1) + (i * j * (k + 1)) % 97) % 3000).astype(np.uint16)


@dataclass(frozen=True, kw_only=True)
class SeriesRecipe:
    """A series to be written; the defaults are a plain axial CT."""

    shape_ijk: tuple[int, int, int] = (10, 11, 12)
    spacing_ijk_mm: tuple[float, float, float] = (0.7, 0.8, 2.5)
    origin_lps_mm: tuple[float, float, float] = (-101.25, -33.5, -250.0)
    orientation: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    tilt_mm_per_mm: float = 0.0
    syntax: str = "explicit"
    slope: float = 1.0
    intercept: float = -1024.0
    modality: str = "CT"
    series_uid: str = "1.2.826.0.1.3680043.8.498.1"
    patient_id: str = "SECRET-ID-4711"
    patient_name: str = "Secret^Person"

    @property
    def normal(self) -> np.ndarray:
        return np.cross(self.orientation[:3], self.orientation[3:])

    def position(self, k: float) -> np.ndarray:
        """First voxel of slice k, LPS mm; a tilt moves it along the columns."""
        along = self.normal * self.spacing_ijk_mm[2] * k
        drift = np.asarray(self.orientation[3:]) * self.tilt_mm_per_mm * self.spacing_ijk_mm[2] * k
        return np.asarray(self.origin_lps_mm) + along + drift

    @property
    def affine_ras(self) -> np.ndarray:
        """ijk→RAS of the (untilted) volume, written down independently of the reader."""
        affine = np.eye(4)
        affine[:3, 0] = np.asarray(self.orientation[:3]) * self.spacing_ijk_mm[0]
        affine[:3, 1] = np.asarray(self.orientation[3:]) * self.spacing_ijk_mm[1]
        affine[:3, 2] = self.normal * self.spacing_ijk_mm[2]
        affine[:3, 3] = self.origin_lps_mm
        return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine

    @property
    def expected_hu(self) -> np.ndarray:
        return stored_values(self.shape_ijk) * self.slope + self.intercept


Edit = Callable[[Dataset, int], None]


def write_series(folder: Path, recipe: SeriesRecipe, *, edit: Edit | None = None, seed: int = 0) -> list[Path]:
    """Write one file a slice, in shuffled order, without endings.

    Args:
        folder: made if absent.
        recipe: what to write.
        edit: called with each dataset and its slice number before it is written.
        seed: of the shuffle.

    Returns:
        The path of each slice, by slice number.
    """
    folder.mkdir(parents=True, exist_ok=True)
    order = np.random.default_rng(seed).permutation(recipe.shape_ijk[2])
    paths = []
    for k in range(recipe.shape_ijk[2]):
        dataset = slice_dataset(recipe, k)
        if edit is not None:
            edit(dataset, k)
        paths.append(folder / f"{recipe.modality}{order[k]:04d}")
        save(dataset, paths[-1])
    return paths


def show_a_chest(dataset: Dataset, k: int) -> None:
    """Edit of ``write_series``: lung and soft tissue in place of the formula's values."""
    shape = (int(dataset.Columns), int(dataset.Rows), k + 1)
    dataset.PixelData = (lung_hu(shape)[:, :, k] + 1024 + k).T.astype("<u2").tobytes()


def slice_dataset(recipe: SeriesRecipe, k: int) -> FileDataset:
    """One slice as a data set, compressed as the recipe says."""
    dataset = _common(recipe, uid.CTImageStorage, f"{recipe.series_uid}.{k + 1}")
    dataset.InstanceNumber = k + 1
    dataset.ImagePositionPatient = [round(float(x), 6) for x in recipe.position(k)]
    dataset.ImageOrientationPatient = list(recipe.orientation)
    dataset.PixelSpacing = [recipe.spacing_ijk_mm[1], recipe.spacing_ijk_mm[0]]
    dataset.SliceThickness = recipe.spacing_ijk_mm[2]
    dataset.RescaleSlope = recipe.slope
    dataset.RescaleIntercept = recipe.intercept
    stored = stored_values((*recipe.shape_ijk[:2], 1), first_slice=k)[:, :, 0].T
    set_pixels(dataset, stored[np.newaxis], recipe.syntax, first_slice=k)
    return dataset


def write_multiframe(path: Path, recipe: SeriesRecipe, *, edit: Callable[[Dataset], None] | None = None) -> None:
    """Write an enhanced CT: one file, its frames in falling order, slope and intercept by frame."""
    count = recipe.shape_ijk[2]
    dataset = _common(recipe, uid.EnhancedCTImageStorage, f"{recipe.series_uid}.1")
    dataset.NumberOfFrames = count
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    shared = Dataset()
    measures = Dataset()
    measures.PixelSpacing = [recipe.spacing_ijk_mm[1], recipe.spacing_ijk_mm[0]]
    measures.SliceThickness = recipe.spacing_ijk_mm[2]
    shared.PixelMeasuresSequence = [measures]
    plane = Dataset()
    plane.ImageOrientationPatient = list(recipe.orientation)
    shared.PlaneOrientationSequence = [plane]
    dataset.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for k in reversed(range(count)):
        group, position, values = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = [round(float(x), 6) for x in recipe.position(k)]
        group.PlanePositionSequence = [position]
        values.RescaleSlope, values.RescaleIntercept = recipe.slope, recipe.intercept - k
        values.RescaleType = "HU"
        group.PixelValueTransformationSequence = [values]
        groups.append(group)
    dataset.PerFrameFunctionalGroupsSequence = groups
    # The intercept falls with k and the stored values rise with it: only the frame's own intercept gives the HU back.
    stored = stored_values(recipe.shape_ijk) + np.arange(count, dtype=np.uint16)
    set_pixels(dataset, np.ascontiguousarray(stored.T[::-1]), recipe.syntax)
    if edit is not None:
        edit(dataset)
    save(dataset, path)


def set_pixels(dataset: FileDataset, stored: np.ndarray, syntax: str, first_slice: int = 0) -> None:
    """Put stored values [frame, row, column] into a data set in a transfer syntax."""
    dataset.Rows, dataset.Columns = stored.shape[1:]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = 16
    dataset.BitsStored = 16 if stored.dtype == np.int16 else 12
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(stored.dtype == np.int16)
    dataset.file_meta.TransferSyntaxUID = SYNTAXES[syntax]
    if syntax == "jpeg-ls":
        if stored.shape[1:] != (JPEG_LS_SHAPE_IJK[1], JPEG_LS_SHAPE_IJK[0]):
            raise ValueError(f"JPEG-LS is prepared for {JPEG_LS_SHAPE_IJK} only, not {stored.shape}")
        dataset.PixelData = encapsulate([base64.b64decode(_JPEG_LS_SLICES[first_slice])])
    elif syntax in ("jpeg-lossless", "jpeg-2000"):
        frames = [_compressed_by_itk(frame, syntax) for frame in stored]
        dataset.BitsStored, dataset.HighBit = 16, 15
        dataset.PixelData = encapsulate(frames)
    elif syntax == "rle":
        dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
        dataset.PixelData = stored.astype("<u2").tobytes()
        dataset.compress(uid.RLELossless, generate_instance_uid=False)
    else:
        dataset.PixelData = stored.astype(stored.dtype.newbyteorder(">" if syntax == "big-endian" else "<")).tobytes()
    if "PixelData" in dataset:
        dataset["PixelData"].VR = "OB" if SYNTAXES[syntax].is_compressed and syntax != "deflated" else "OW"


def save(dataset: FileDataset, path: Path) -> None:
    """Write a data set with preamble and file meta group."""
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)


def write_report(path: Path, recipe: SeriesRecipe) -> None:
    """Write a file without image: a structured report, an RT structure set."""
    recipe = replace(recipe, series_uid=f"{recipe.series_uid}.99")
    save(_common(recipe, uid.BasicTextSRStorage, f"{recipe.series_uid}.1"), path)


def _common(recipe: SeriesRecipe, sop_class: str, instance: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = instance
    meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = instance
    dataset.StudyInstanceUID = "1.2.826.0.1.3680043.8.498.9"
    dataset.SeriesInstanceUID = recipe.series_uid
    dataset.FrameOfReferenceUID = "1.2.826.0.1.3680043.8.498.8"
    dataset.Modality = recipe.modality
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.PatientID = recipe.patient_id
    dataset.PatientName = recipe.patient_name
    dataset.PatientBirthDate = "19500101"
    dataset.Manufacturer = "ACME"
    dataset.ConvolutionKernel = "B70f"
    dataset.KVP = "120"
    dataset.SeriesNumber = 1
    return dataset


def _compressed_by_itk(frame: np.ndarray, syntax: str) -> bytes:
    import itk

    image_io = itk.GDCMImageIO.New()
    kinds = itk.GDCMImageIOEnums
    image_io.SetCompressionType(kinds.Compression_JPEG2000 if syntax == "jpeg-2000" else kinds.Compression_JPEG)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frame.dcm"
        itk.imwrite(itk.image_from_array(np.ascontiguousarray(frame)), str(path), compression=True, imageio=image_io)
        written = pydicom.dcmread(path)
        if written.file_meta.TransferSyntaxUID != SYNTAXES[syntax]:
            raise ValueError(f"ITK wrote {written.file_meta.TransferSyntaxUID.name}")
        return next(generate_frames(written.PixelData, number_of_frames=1))
