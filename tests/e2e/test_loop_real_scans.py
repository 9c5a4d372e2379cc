"""The same loop on two real chest CTs: import, lungs, whole scan, and a click on what a radiologist would click on."""

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from tests.support.server_process import ServerProcess
from tests.support.slicer_annotator import SlicerAnnotator
from tests.support.slicer_checks import assert_shown_as_sent, stored_masks
from tests.support.slicer_client import SlicerScene

from medai.geometry import VolumeGeometry
from medai.geometry.frames import points_lps_to_ras

pytestmark = [pytest.mark.server, pytest.mark.slicer, pytest.mark.real_data]

NODULE_SCAN, MASS_SCAN = "cptac_lscc_C3N-00247", "lung_pet_ct_dx_A0001"
NODULE_RAS_MM = np.array([81.1, 193.0, -192.0])
"""Middle of the ~2 cm nodule in the right lung of C3N-00247: column 110, row 167 of the 33rd slice from the bottom."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RealStudy:
    """The imported study and the DICOM files that it comes from."""

    folder: Path
    dicom: dict[str, Path]
    case_ids: dict[str, str]

    def slices(self, name: str) -> list[pydicom.Dataset]:
        """The slices of a scan from the feet upwards."""
        found = [pydicom.dcmread(path) for path in self.dicom[name].rglob("*.dcm")]
        return sorted(found, key=lambda image: float(image.ImagePositionPatient[2]))


@pytest.fixture(scope="module")
def real_study(_slicer_process: SlicerScene, real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> RealStudy:
    from medai.workflows.import_study import import_scans

    folder, dicom, case_ids = tmp_path_factory.mktemp("real_study"), {}, {}
    for name in (NODULE_SCAN, MASS_SCAN):
        target = tmp_path_factory.mktemp("dicom")
        with tarfile.open(real_data / "dicom" / f"{name}.tar.xz") as archive:
            archive.extractall(target, filter="data")
        report = import_scans([target], folder)
        (case,) = report.imported
        dicom[name], case_ids[name] = target, case.case_id
    return RealStudy(folder=folder, dicom=dicom, case_ids=case_ids)


@pytest.fixture(scope="module")
def real_server(real_study: RealStudy) -> Iterator[ServerProcess]:
    with ServerProcess(real_study.folder) as process:
        yield process


@pytest.fixture
def reader(real_server: ServerProcess, slicer_scene: SlicerScene, tmp_path: Path) -> SlicerAnnotator:
    annotator = SlicerAnnotator(slicer_scene, real_server.url, tmp_path)
    annotator.fetch_info()
    return annotator


def _open(reader: SlicerAnnotator, study: RealStudy, name: str) -> tuple[str, VolumeGeometry]:
    case_id = study.case_ids[name]
    reader.open_case(study.folder, case_id)
    assert reader.geometry is not None
    return case_id, reader.geometry


def _extent_mm(points_ras_mm: NDArray[np.float64], geometry: VolumeGeometry) -> NDArray[np.float64]:
    """Width along the patient's axes, of an axial scan: from the first voxel's outer face to the last one's."""
    return np.ptp(points_ras_mm, axis=0) + np.array(geometry.spacing_mm)


@pytest.mark.parametrize("name", [NODULE_SCAN, MASS_SCAN])
def test_the_imported_scan_is_the_dicom_series_voxel_by_voxel(
    reader: SlicerAnnotator, real_study: RealStudy, name: str
) -> None:
    _, geometry = _open(reader, real_study, name)
    image_hu = reader.scene.volume_array()
    slices = real_study.slices(name)
    assert geometry.shape_ijk == (slices[0].Columns, slices[0].Rows, len(slices))
    for image in slices[:: len(slices) // 5]:
        x_mm, y_mm, z_mm = (float(value) for value in image.ImagePositionPatient)
        row_mm, column_mm = (float(value) for value in image.PixelSpacing)
        for row, column in ((0, 0), (100, 300), (image.Rows - 1, image.Columns - 1)):
            point_lps_mm = [x_mm + column * column_mm, y_mm + row * row_mm, z_mm]
            index = geometry.ras_to_ijk(points_lps_to_ras(point_lps_mm))
            assert np.allclose(index, np.rint(index), atol=0.01)
            stored = float(image.pixel_array[row, column])
            i, j, k = np.rint(index).astype(int)
            assert image_hu[i, j, k] == stored * float(image.RescaleSlope) + float(image.RescaleIntercept)


@pytest.mark.parametrize("name", [NODULE_SCAN, MASS_SCAN])
def test_lungs_of_real_scans(reader: SlicerAnnotator, real_study: RealStudy, name: str) -> None:
    _, geometry = _open(reader, real_study, name)
    reply = reader.segment("lungs")
    assert reply.names == ["right lung", "left lung"]
    litres = {}
    for side in reply.names:
        points = reader.scene.segment_points_ras_mm(side)
        litres[side] = len(points) * geometry.voxel_volume_mm3 / 1e6
        middle = geometry.ijk_to_ras((np.array(geometry.shape_ijk) - 1) / 2)
        assert (points[:, 0].mean() > middle[0]) == (side == "right lung")
    assert all(0.8 < litre < 5.0 for litre in litres.values()), litres


def test_the_nodule_is_among_those_proposed(reader: SlicerAnnotator, real_study: RealStudy) -> None:
    _, geometry = _open(reader, real_study, NODULE_SCAN)
    proposal = reader.segment("nodule_segmentation")
    (index,) = np.rint(geometry.ras_to_ijk(NODULE_RAS_MM[None])).astype(int)
    proposed = [name for name in proposal.names if reader.scene.segment_mask(name, geometry)[tuple(index)]]
    assert proposed, f"the nodule is in none of {proposal.names}"
    assert "right" in proposed[0]


def test_one_click_outlines_the_nodule(reader: SlicerAnnotator, real_study: RealStudy) -> None:
    case_id, geometry = _open(reader, real_study, NODULE_SCAN)
    (index,) = np.rint(geometry.ras_to_ijk(NODULE_RAS_MM[None])).astype(int)
    reply = reader.click("nodule_click", "nodule", [NODULE_RAS_MM])
    assert_shown_as_sent(reader, reply, "nodule", 1, geometry)
    outlined = reader.scene.segment_mask("nodule", geometry)
    assert outlined[tuple(index)]
    extent_mm = _extent_mm(reader.scene.segment_points_ras_mm("nodule"), geometry)
    assert np.all((extent_mm > 10.0) & (extent_mm < 35.0)), extent_mm
    image_hu = reader.scene.volume_array()[outlined]
    assert -100 < np.median(image_hu) < 150
    assert np.mean(image_hu > -400) > 0.8
    reader.submit()
    assert np.array_equal(stored_masks(real_study.folder, reader, case_id, geometry)["nodule"], outlined)


def _boxes_ras_mm(study: RealStudy, real_data: Path) -> NDArray[np.float64]:
    """Corners of the annotated boxes of the mass, shape (n, 2, 3): a box a slice that this series holds."""
    folder = real_data / "dicom" / f"{MASS_SCAN}_boxes"
    found = []
    for image in study.slices(MASS_SCAN):
        path = folder / f"{image.SOPInstanceUID}.xml"
        if not path.is_file():
            continue
        x_mm, y_mm, z_mm = (float(value) for value in image.ImagePositionPatient)
        row_mm, column_mm = (float(value) for value in image.PixelSpacing)
        for box in ElementTree.parse(path).getroot().iter("bndbox"):
            side = {part.tag: float(part.text or 0) for part in box}
            corners = [
                [x_mm + side[f"x{end}"] * column_mm, y_mm + side[f"y{end}"] * row_mm, z_mm] for end in ("min", "max")
            ]
            found.append(points_lps_to_ras(corners))
    return np.array(found)


@pytest.mark.xfail(
    reason="a mass of 7 cm is larger than anything the click network learned from: 72 % of its outline is denser than "
    "-400 HU, 80 % is wanted (decision 0007)",
    strict=True,
)
def test_the_mass_is_outlined_where_its_boxes_are(
    reader: SlicerAnnotator, real_study: RealStudy, real_data: Path
) -> None:
    _, geometry = _open(reader, real_study, MASS_SCAN)
    boxes = _boxes_ras_mm(real_study, real_data)
    low, high = boxes.min(axis=(0, 1)), boxes.max(axis=(0, 1))
    middle = boxes[len(boxes) // 2].mean(axis=0)
    reader.click("nodule_click", "nodule", [middle])
    points = reader.scene.segment_points_ras_mm("nodule")
    found_low, found_high = points.min(axis=0), points.max(axis=0)
    shared = np.prod(np.clip(np.minimum(high, found_high) - np.maximum(low, found_low), 0.0, None))
    union = np.prod(high - low) + np.prod(found_high - found_low) - shared
    assert shared / union > 0.3, (shared / union, found_high - found_low, high - low)
    image_hu = reader.scene.volume_array()[reader.scene.segment_mask("nodule", geometry)]
    assert np.mean(image_hu > -400) > 0.8
