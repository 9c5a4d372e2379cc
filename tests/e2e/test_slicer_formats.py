"""Each way in which a file says where its voxels lie: medai has every voxel where real 3D Slicer libraries have it.

One table, one process of Slicer. Each file is opened as a scan, medai's answer on its grid is drawn over it, and the
same file is opened as a label map.
"""

from pathlib import Path

import numpy as np
import pytest
from tests.support.format_table import VOXELS, FormatCase, meta_cases, misread_by_itk, nifti_cases, nrrd_cases
from tests.support.scan_factory import right_handed
from tests.support.slicer_client import SlicerError, SlicerScene

from medai.domain import LabelMap
from medai.errors import GeometryError, InputError
from medai.geometry import VolumeGeometry
from medai.volume_io.readers import is_for_slicer, read_geometry, read_label_map, read_volume
from medai.volume_io.writers import encode_label_map_nrrd

pytestmark = pytest.mark.slicer
TABLES = {"NIfTI": nifti_cases, "NRRD": nrrd_cases, "MetaImage": meta_cases}
NEAR_MM = 1e-3


def _written(case: FormatCase, folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name, content in case.beside.items():
        (folder / name).write_bytes(content)
    path = folder / f"scan{case.suffix}"
    path.write_bytes(case.content)
    return path


def _opened(scene: SlicerScene, path: Path) -> tuple[bool, VolumeGeometry | None]:
    """Whether Slicer opens a file, and on which grid; None for one that is not at right angles."""
    try:
        return True, scene.load_volume(path)
    except SlicerError:
        return False, None
    except GeometryError:
        return True, None


def _points(label_map: LabelMap, value: int) -> np.ndarray:
    return label_map.geometry.ijk_to_ras(np.argwhere(label_map.labels == value))


def _faults(scene: SlicerScene, path: Path, slicers: VolumeGeometry) -> list[str]:
    """What differs between medai's and Slicer's idea of a file that is open in Slicer."""
    faults = []
    scan = read_volume(path)
    ours = right_handed(scan.geometry)
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in ours.shape_ijk])).reshape(3, -1).T
    if ours.shape_ijk != slicers.shape_ijk:
        return [f"shape {ours.shape_ijk}, Slicer has {slicers.shape_ijk}"]
    off_mm = float(np.max(np.abs(ours.ijk_to_ras(corners) - slicers.ijk_to_ras(corners))))
    if not off_mm < NEAR_MM:
        faults.append(f"scan {off_mm:.3f} mm off")
    image_hu = scan.image_hu if ours is scan.geometry else scan.image_hu[:, :, ::-1]
    if not np.array_equal(image_hu, scene.volume_array()):
        faults.append("other voxels")
    if not read_geometry(path).is_same_grid(scan.geometry, 1e-9):
        faults.append("read_geometry differs from read_volume")

    answer = LabelMap(geometry=scan.geometry, labels=scan.image_hu.astype(np.uint8), segments=())
    answer_path = path.with_name("answer.seg.nrrd")
    answer_path.write_bytes(encode_label_map_nrrd(read_label_map(path)))
    scene.load_segmentation(answer_path)
    for value, segment in enumerate(scene.segment_names(), 1):
        if not np.array_equal(scene.segment_mask(segment, scan.geometry), answer.labels == value):
            faults.append(f"answer {value} elsewhere")

    scene.import_mask(path, ["one", "two"])
    label_map = read_label_map(path)
    for value, segment in enumerate(("one", "two"), 1):
        theirs, own = scene.segment_points_ras_mm(segment), _points(label_map, value)
        if theirs.shape != own.shape or not np.allclose(_sorted(theirs), _sorted(own), atol=NEAR_MM):
            faults.append(f"label {value} elsewhere")
    return faults


def _sorted(points: np.ndarray) -> np.ndarray:
    return points[np.lexsort(np.round(points, 1).T)]


@pytest.mark.parametrize("table", TABLES)
def test_every_voxel_is_where_slicer_has_it(slicer_scene: SlicerScene, tmp_path: Path, table: str) -> None:
    wrong = {}
    for number, case in enumerate(TABLES[table]()):
        path = _written(case, tmp_path / str(number))
        opened, slicers = _opened(slicer_scene, path)
        faults = [] if opened == case.itk_opens else [f"Slicer {'opens' if opened else 'refuses'} it"]
        try:
            read_label_map(path), read_geometry(path)
        except InputError as error:
            if case.medai_opens or case.said not in str(error):
                faults.append(f"medai refuses it: {error}")
            if opened and not case.why:
                faults.append("refused without a reason in the table")
        else:
            faults.extend(_faults(slicer_scene, path, slicers) if slicers and case.medai_opens else [])
            if is_for_slicer(path) == bool(case.beside):
                faults.append("is_for_slicer is wrong")
            if not case.medai_opens:
                faults.append("medai opens it")
            elif not opened:
                faults.append("medai opens it, Slicer does not")
        if faults:
            wrong[case.name] = faults
    assert wrong == {}


@pytest.mark.parametrize("case", misread_by_itk(), ids=lambda case: case.name)
def test_files_that_slicer_misreads_are_read_right(slicer_scene: SlicerScene, tmp_path: Path, case: FormatCase) -> None:
    path = _written(case, tmp_path / "files")
    np.testing.assert_array_equal(read_volume(path).image_hu, VOXELS)
    np.testing.assert_array_equal(read_label_map(path).labels, VOXELS)
    assert not is_for_slicer(path)
    slicer_scene.load_volume(path)
    assert not np.array_equal(slicer_scene.volume_array(), VOXELS)
