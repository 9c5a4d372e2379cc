"""Whatever is thrown at a study: what can be used arrives once, the rest is named, nobody's name is kept."""

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from tests.support.dicom_factory import SeriesRecipe, write_series
from tests.support.lung_voxels import lung_hu

from medai.domain import Volume
from medai.errors import InputError, StorageError
from medai.geometry import VolumeGeometry
from medai.store.split import patient_key_of_case
from medai.volume_io.dicom_headers import patient_key_of
from medai.volume_io.options import ReadOptions
from medai.volume_io.readers import read_volume
from medai.volume_io.writers import write_volume
from medai.workflows import import_study
from medai.workflows.import_study import import_scans

RECIPE = SeriesRecipe()


@pytest.fixture
def volume(rng):
    geometry = VolumeGeometry(shape_ijk=(10, 11, 12), affine_ijk_to_ras_mm=np.diag([-0.7, -0.8, 2.5, 1.0]))
    return Volume(
        geometry=geometry,
        image_hu=lung_hu((10, 11, 12), -850) + rng.integers(-60, 20, size=(10, 11, 12)).astype(np.int16),
    )


def visible(folder):
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))


def test_mixed_sources(tmp_path, volume):
    source = tmp_path / "in"
    write_series(source / "Chest CT (1)", RECIPE)
    write_series(source / "tilted", replace(RECIPE, series_uid="1.2.4", tilt_mm_per_mm=0.3))
    write_series(source / "head", replace(RECIPE, series_uid="1.2.5", modality="MR"))
    for name in ("a.nii.gz", "b.nrrd", "c.mha"):
        write_volume(replace(volume, image_hu=volume.image_hu + np.int16(ord(name[0]))), source / name)
    (source / "bad.nii.gz").write_bytes(b"nothing")
    seen = []
    report = import_scans([source], tmp_path / "study", on_progress=lambda *step: seen.append(step))
    ids = [case.case_id for case in report.imported]
    assert ids[1:] == ["a", "b", "c"]
    assert ids[0].startswith("Chest_CT_1_")
    assert len(ids[0]) == len("Chest_CT_1_") + 8
    assert visible(tmp_path / "study") == sorted(f"{case_id}.nii.gz" for case_id in ids)
    reasons = {refusal.source.split(":")[0]: refusal.reason for refusal in report.refused}
    assert sorted(reasons) == ["bad.nii.gz", "head", "tilted"]
    assert "modality 'MR'" in reasons["head"]
    assert "gantry tilt of 16.7°" in reasons["tilted"]
    assert seen[0][:2] == (0, 7)
    assert seen[-1] == (7, 7, "")
    read = read_volume(report.imported[0].path)
    np.testing.assert_array_equal(read.image_hu, RECIPE.expected_hu)
    np.testing.assert_allclose(read.geometry.affine_ijk_to_ras_mm, RECIPE.affine_ras, atol=1e-4)
    assert list((tmp_path / "study" / ".medai" / "incoming").iterdir()) == []
    assert json.loads(json.dumps(report.to_json()))["imported"][0]["shape_ijk"] == [10, 11, 12]


def test_again_changes_nothing(tmp_path, volume):
    source = tmp_path / "in"
    write_series(source / "ct", RECIPE)
    write_volume(volume, source / "a.nii.gz")
    first = import_scans([source], tmp_path / "study")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "study").rglob("*.nii.gz")}
    second = import_scans([source], tmp_path / "study", file_format="nrrd")
    assert second.imported == ()
    assert second.skipped == tuple(case.case_id for case in first.imported)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "study").rglob("*.nii.gz")} == before


def test_options_reach_the_reader(tmp_path):
    write_series(tmp_path / "tilted", replace(RECIPE, tilt_mm_per_mm=0.3))
    report = import_scans([tmp_path / "tilted"], tmp_path / "study", options=ReadOptions(correct_tilt=True))
    assert len(report.imported) == 1
    assert report.imported[0].geometry.shape_ijk[1] > 11


def test_one_dicom_file_stands_for_its_series(tmp_path):
    paths = write_series(tmp_path / "ct", RECIPE)
    for path in write_series(tmp_path / "other", replace(RECIPE, series_uid="1.2.6")):
        path.rename(tmp_path / "ct" / f"other{path.name}")
    report = import_scans([paths[3], paths[4]], tmp_path / "study")
    assert len(report.imported) == 1
    assert report.imported[0].geometry.shape_ijk == (10, 11, 12)


def test_names_that_are_taken(tmp_path, volume):
    for n, folder in enumerate(("x", "y", "z")):
        (tmp_path / folder).mkdir()
        # The third is the same scan as the first.
        write_volume(replace(volume, image_hu=volume.image_hu + np.int16(n % 2)), tmp_path / folder / "scan.nii.gz")
    report = import_scans([tmp_path / "x", tmp_path / "y", tmp_path / "z"], tmp_path / "study")
    ids = [case.case_id for case in report.imported]
    assert ids == ["x", "y"]
    again = import_scans([tmp_path / "y", tmp_path / "x"], tmp_path / "study")
    assert sorted(again.skipped) == sorted(ids)
    write_volume(replace(volume, image_hu=volume.image_hu + np.int16(7)), tmp_path / "y.nii.gz")
    other = import_scans([tmp_path / "y.nii.gz"], tmp_path / "study").imported[0].case_id
    assert other.startswith("y_")
    assert len(other) == len("y_") + 8


def test_a_scan_the_study_had_before_is_not_overwritten(tmp_path, volume):
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "scan.nrrd").write_bytes(b"somebody's")
    write_volume(volume, tmp_path / "scan.nii.gz")
    report = import_scans([tmp_path / "scan.nii.gz"], tmp_path / "study")
    assert report.imported[0].case_id.startswith("scan_")
    assert (tmp_path / "study" / "scan.nrrd").read_bytes() == b"somebody's"


def test_no_identifier_is_kept(tmp_path):
    write_series(tmp_path / "SECRET_PERSON secret-id-4711 CT", RECIPE)
    report = import_scans([tmp_path / "SECRET_PERSON secret-id-4711 CT"], tmp_path / "study")
    case = report.imported[0]
    assert case.case_id.startswith("CT_")
    facts_text = (tmp_path / "study" / ".medai" / "cases" / f"{case.case_id}.json").read_text()
    for secret in ("secret", "4711", "person", "1950"):
        assert secret not in facts_text.lower()
        assert secret not in str(nib.load(case.path).header).lower()
    facts = json.loads(facts_text)
    assert facts["header"]["ConvolutionKernel"] == "B70f"
    assert facts["header"]["SeriesInstanceUID"] == RECIPE.series_uid
    assert facts["patient_key"] == patient_key_of("SECRET-ID-4711")
    assert patient_key_of_case(tmp_path / "study", case.case_id) == facts["patient_key"]


def test_patient_keys(tmp_path, volume):
    write_series(tmp_path / "in" / "ct", replace(RECIPE, patient_id="LIDC-IDRI-0001"))
    for n, name in enumerate(("LIDC-IDRI-0001_R_1", "LIDC-IDRI-0001_R_2", "LIDC-IDRI-0010", "case_7", "A-1")):
        write_volume(replace(volume, image_hu=volume.image_hu + np.int16(n)), tmp_path / "in" / f"{name}.nii.gz")
    keys = {c.case_id: c.patient_key for c in import_scans([tmp_path / "in"], tmp_path / "study").imported}
    dicom_key = next(key for case_id, key in keys.items() if case_id.startswith("ct_"))
    assert keys["LIDC-IDRI-0001_R_1"] == keys["LIDC-IDRI-0001_R_2"] == dicom_key == patient_key_of("LIDC-IDRI-0001")
    assert keys["LIDC-IDRI-0010"] not in ("", dicom_key)
    assert keys["case_7"] == keys["A-1"] == ""


def test_bad_sources_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no")
    report = import_scans([tmp_path / "empty", tmp_path / "absent", tmp_path / "notes.txt"], tmp_path / "study")
    assert [refusal.source for refusal in report.refused] == ["empty", "absent", "notes.txt"]
    assert "holds no scan" in report.refused[0].reason
    assert "no file or folder" in report.refused[1].reason
    with pytest.raises(InputError, match=r"cannot be stored as 'dcm'; choose one of nii\.gz"):
        import_scans([], tmp_path / "study", file_format="dcm")
    with pytest.raises(StorageError, match="cannot be made"):
        import_scans([], tmp_path / "notes.txt" / "study")


@pytest.mark.parametrize("step", ["write_volume", "write_json"])
def test_a_kill_leaves_no_half_case(tmp_path, volume, monkeypatch, step):
    write_volume(volume, tmp_path / "scan.nii.gz")
    original = getattr(import_study, step)

    def killed(*args):
        original(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(import_study, step, killed)
    with pytest.raises(KeyboardInterrupt):
        import_scans([tmp_path / "scan.nii.gz"], tmp_path / "study")
    assert visible(tmp_path / "study") == []
    monkeypatch.undo()
    report = import_scans([tmp_path / "scan.nii.gz"], tmp_path / "study")
    assert [case.case_id for case in report.imported] == ["scan"]


def test_a_scan_whose_two_forms_differ_is_imported_where_slicer_has_it_and_the_report_says_so(tmp_path, volume):
    source = tmp_path / "apart.nii.gz"
    affine = volume.geometry.affine_ijk_to_ras_mm
    moved = affine.copy()
    moved[:3, 3] += (0.0, 6.0, 8.0)
    image = nib.Nifti1Image(volume.image_hu, affine)
    image.set_qform(affine, 1)
    image.set_sform(moved, 2)
    nib.save(image, source)
    report = import_scans([source], tmp_path / "study")
    (case,) = report.imported
    assert case.geometry.is_same_grid(volume.geometry)
    stored = nib.load(case.path)
    np.testing.assert_allclose(stored.get_qform(), stored.get_sform(), atol=1e-5)
    (note,) = report.to_json()["imported"][0]["notes"]
    assert "its sform has it up to 10.0 mm away" in note
