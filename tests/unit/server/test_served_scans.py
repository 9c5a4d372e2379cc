"""Left-handed scans are given away right-handed, and indices come back to the file's own."""

import zlib
from pathlib import Path

import numpy as np
import pytest

from medai.domain import Volume
from medai.geometry import IndexBox, VolumeGeometry
from medai.server.served_scans import KEPT_COPIES, ServedScans, box_in_file, index_in_file
from medai.store.study import StudyStore
from medai.volume_io.readers import read_volume
from medai.volume_io.writers import write_volume

SHAPE_IJK = (10, 11, 12)


class Reader:
    """Decodes without a cache."""

    def get(self, path: Path, case_id: str = "") -> Volume:
        return read_volume(path)


def scan(*, left_handed: bool) -> Volume:
    affine = np.diag([-0.7, 0.8 if left_handed else -0.8, 1.25, 1.0])
    affine[:3, 3] = (100, -50, 20)
    image_hu = np.random.default_rng(5).integers(-1000, 400, SHAPE_IJK).astype(np.int16)
    return Volume(geometry=VolumeGeometry(shape_ijk=SHAPE_IJK, affine_ijk_to_ras_mm=affine), image_hu=image_hu)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    write_volume(scan(left_handed=False), tmp_path / "usual.nii.gz")
    write_volume(scan(left_handed=True), tmp_path / "mirrored.nii.gz")
    return tmp_path


def test_a_right_handed_scan_is_its_own_file(study: Path) -> None:
    served = ServedScans(StudyStore(study), Reader(), study / ".medai" / "served")
    assert served.path("usual") == study.resolve() / "usual.nii.gz"


def test_a_left_handed_scan_is_given_with_every_voxel_in_its_place(study: Path) -> None:
    served = ServedScans(StudyStore(study), Reader(), study / ".medai" / "served")
    original = scan(left_handed=True)
    assert not served.expected_path("mirrored").exists()
    copy = read_volume(served.path("mirrored"))
    assert served.expected_path("mirrored").is_file()
    assert not copy.geometry.is_left_handed
    index = (2, 3, 4)
    own = index_in_file(index, original.geometry)
    assert copy.geometry.ijk_to_ras(index) == pytest.approx(original.geometry.ijk_to_ras(own), abs=1e-3)
    assert copy.image_hu[index] == original.image_hu[own]
    assert StudyStore(study).image_ids() == ["mirrored", "usual"]


def test_a_file_that_slicer_misreads_is_given_as_a_copy(study: Path) -> None:
    usual = scan(left_handed=False)
    stored = zlib.compress(usual.image_hu.tobytes(order="F"))
    header = (
        "NDims = 3\nDimSize = 10 11 12\nElementType = MET_SHORT\nElementSpacing = 0.7 0.8 1.25\n"
        "Offset = -100 50 20\nCompressedData = True\nElementDataFile = LOCAL\n"
    )
    (study / "packed.mha").write_bytes(header.encode() + stored)
    served = ServedScans(StudyStore(study), Reader(), study / ".medai" / "served")
    path = served.path("packed")
    assert path.name.endswith(".nii.gz")
    copy = read_volume(path)
    np.testing.assert_array_equal(copy.image_hu, usual.image_hu)
    assert copy.geometry.is_same_grid(usual.geometry)
    index = (2, 3, 4)
    assert index_in_file(index, copy.geometry) == index


def test_a_changed_scan_gets_a_new_copy(study: Path) -> None:
    served = ServedScans(StudyStore(study), Reader(), study / ".medai" / "served")
    before = served.path("mirrored")
    changed = scan(left_handed=True)
    write_volume(Volume(geometry=changed.geometry, image_hu=changed.image_hu + 1), study / "mirrored.nii.gz")
    after = served.path("mirrored")
    assert after != before
    assert read_volume(after).image_hu[0, 0, 0] == changed.image_hu[0, 0, -1] + 1


def test_copies_are_bounded(study: Path) -> None:
    folder = study / ".medai" / "served"
    folder.mkdir(parents=True)
    for number in range(KEPT_COPIES + 5):
        (folder / f"old{number}.nii.gz").touch()
    made = ServedScans(StudyStore(study), Reader(), folder).path("mirrored")
    assert made.is_file()
    assert len(list(folder.iterdir())) == KEPT_COPIES


def test_boxes_turn_with_their_voxels() -> None:
    geometry = scan(left_handed=True).geometry
    box = IndexBox(start_ijk=(1, 2, 3), stop_ijk=(4, 5, 7))
    turned = box_in_file(box, geometry)
    assert turned == IndexBox(start_ijk=(1, 2, 5), stop_ijk=(4, 5, 9))
    assert turned.contains(index_in_file((1, 2, 3), geometry))
    assert not turned.contains(index_in_file((1, 2, 7), geometry))
    assert box_in_file(turned, geometry) == box
    assert box_in_file(box, scan(left_handed=False).geometry) == box
