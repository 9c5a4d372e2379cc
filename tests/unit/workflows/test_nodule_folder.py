"""Folders of nodules as many hands make them."""

from pathlib import Path

import numpy as np
import pytest
from tests.support.lung_voxels import lung_hu
from tests.support.scan_factory import random_geometry, write_file

from medai.errors import GeometryError, InputError
from medai.geometry import VolumeGeometry
from medai.workflows.nodule_folder import load_nodule, patient_of, read_nodule_folder

SHAPE = (12, 11, 10)
GEOMETRY = VolumeGeometry(shape_ijk=SHAPE, affine_ijk_to_ras_mm=np.diag([-0.7, -0.8, 2.5, 1.0]))


def put(folder: Path, name: str, *, mask: np.ndarray | None = None, geometry: VolumeGeometry = GEOMETRY) -> None:
    """An image and a mask of one case."""
    if mask is None:
        mask = np.zeros(SHAPE, dtype=np.uint8)
        mask[4:7, 4:7, 4:7] = 1
    for kind, voxels, grid in (("images", lung_hu(SHAPE, -700), GEOMETRY), ("masks", mask, geometry)):
        (folder / kind).mkdir(exist_ok=True, parents=True)
        write_file(voxels, grid, folder / kind / f"{name}.nii.gz")


def test_a_table_with_all_its_columns(tmp_path: Path) -> None:
    put(tmp_path, "a")
    (tmp_path / "nodules.csv").write_text("case_id,patient_id,diameter_mm,malignancy,texture,note\na,p1,6.5,4,nan,x\n")
    (nodule,) = read_nodule_folder(tmp_path).nodules
    assert (nodule.case_id, nodule.patient_id, nodule.diameter_mm) == ("a", "p1", 6.5)
    assert nodule.ratings == {"malignancy": 4.0}
    case = load_nodule(nodule)
    assert int(case.mask.sum()) == 27
    assert case.volume.geometry.is_same_grid(GEOMETRY)


def test_without_a_table_files_are_cases_and_lidc_names_tell_the_patient(tmp_path: Path) -> None:
    for name in ("LIDC-IDRI-0007_R_1", "LIDC-IDRI-0007_R_2", "other"):
        put(tmp_path, name)
    found = read_nodule_folder(tmp_path)
    assert [nodule.patient_id for nodule in found.nodules] == ["LIDC-IDRI-0007", "LIDC-IDRI-0007", "other"]
    assert found.nodules[0].diameter_mm is None
    assert "There is no nodules.csv" in found.warnings[0]
    assert patient_of("LIDC-IDRI-12") == "LIDC-IDRI-12"


@pytest.mark.parametrize("text", ["a;b\n1;2\n", "", "\n\n"])
def test_a_table_without_case_names_is_passed_over(tmp_path: Path, text: str) -> None:
    put(tmp_path, "a")
    (tmp_path / "nodules.csv").write_text(text)
    found = read_nodule_folder(tmp_path)
    assert [nodule.case_id for nodule in found.nodules] == ["a"]
    assert "no column case_id" in found.warnings[0]


def test_odd_rows_and_missing_columns(tmp_path: Path) -> None:
    put(tmp_path, "a")
    put(tmp_path, "b")
    (tmp_path / "list.csv").write_text("\ufeffCase_ID;Diameter_mm\na.nii.gz;-1\na;3\n;5\ngone;5\nb\n")
    found = read_nodule_folder(tmp_path)
    assert [(nodule.case_id, nodule.diameter_mm) for nodule in found.nodules] == [("a", None), ("b", None)]
    assert found.skipped == {"gone": "There is no image images/gone.nii.gz (or .nii, .seg.nrrd, .nrrd, .mha, .mhd)."}
    assert any("listed more than once" in text for text in found.warnings)
    assert any("no column patient_id" in text for text in found.warnings)


def test_names_of_other_programs(tmp_path: Path) -> None:
    for folder, name in (("images", "a_0000.nii.gz"), ("labels", "a.nrrd")):
        (tmp_path / folder).mkdir()
        write_file(
            lung_hu(SHAPE) if folder.startswith("im") else np.ones(SHAPE, np.int16), GEOMETRY, tmp_path / folder / name
        )
    (nodule,) = read_nodule_folder(tmp_path).nodules
    assert (nodule.case_id, nodule.image_path.name, nodule.mask_path.name) == ("a", "a_0000.nii.gz", "a.nrrd")
    assert load_nodule(nodule).mask.all()


@pytest.mark.parametrize("seed", range(6))
def test_a_mask_with_turned_axes_comes_back_to_the_images(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    geometry = random_geometry(rng)
    mask = (rng.random(geometry.shape_ijk) < 0.2).astype(np.uint8)
    order = rng.permutation(3).tolist()
    turned = VolumeGeometry(
        shape_ijk=tuple(geometry.shape_ijk[axis] for axis in order),
        affine_ijk_to_ras_mm=geometry.affine_ijk_to_ras_mm[:, [*order, 3]],
    ).with_axis_reversed(seed % 3)
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    write_file(lung_hu(geometry.shape_ijk), geometry, tmp_path / "images" / "a.nii.gz")
    write_file(np.flip(mask.transpose(order), seed % 3), turned, tmp_path / "masks" / "a.nii.gz")
    (nodule,) = read_nodule_folder(tmp_path).nodules
    np.testing.assert_array_equal(load_nodule(nodule).mask, mask != 0)


def test_a_mask_without_a_place_is_taken_voxel_by_voxel(tmp_path: Path) -> None:
    put(tmp_path, "a", geometry=VolumeGeometry(shape_ijk=SHAPE, affine_ijk_to_ras_mm=np.eye(4)))
    assert load_nodule(read_nodule_folder(tmp_path).nodules[0]).mask[5, 5, 5]


def test_masks_that_cannot_be_used(tmp_path: Path) -> None:
    put(tmp_path, "empty", mask=np.zeros(SHAPE, np.uint8))
    other = VolumeGeometry(shape_ijk=(5, 6, 7), affine_ijk_to_ras_mm=np.diag([3.0, 3.0, 3.0, 1.0]))
    put(tmp_path, "shape", mask=np.ones((5, 6, 7), np.uint8), geometry=other)
    put(tmp_path, "torn")
    (tmp_path / "images" / "torn.nii.gz").write_bytes(b"no scan")
    nodules = {nodule.case_id: nodule for nodule in read_nodule_folder(tmp_path).nodules}
    with pytest.raises(InputError, match=r"empty\.nii\.gz is empty"):
        load_nodule(nodules["empty"])
    with pytest.raises(GeometryError, match=r"shape \(5, 6, 7\), its image \(12, 11, 10\)"):
        load_nodule(nodules["shape"])
    with pytest.raises(InputError, match="The image cannot be used"):
        load_nodule(nodules["torn"])


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        ((), "no folder images/"),
        (("images",), "no scan: medai reads|no folder masks/"),
        (("lidc/images", "lidc/masks"), "Did you mean .*lidc"),
    ],
)
def test_folders_that_cannot_be_used(tmp_path: Path, folders: tuple[str, ...], words: str) -> None:
    for name in folders:
        (tmp_path / name).mkdir(parents=True)
    with pytest.raises(InputError, match=words):
        read_nodule_folder(tmp_path)
    with pytest.raises(InputError, match="There is no folder"):
        read_nodule_folder(tmp_path / "none")


def test_a_table_of_other_cases_names_the_first(tmp_path: Path) -> None:
    put(tmp_path, "a")
    (tmp_path / "nodules.csv").write_text("case_id\nb\n")
    with pytest.raises(InputError, match=r"No nodule in .* has both.*b: There is no image"):
        read_nodule_folder(tmp_path)
