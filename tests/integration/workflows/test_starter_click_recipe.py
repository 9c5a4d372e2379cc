"""The recipe of the starter click weights, run for a moment on a folder laid out like the real one."""

import csv

import numpy as np
import pytest

from medai.domain import LabelMap, Segment, Volume
from medai.errors import InputError
from medai.geometry import VolumeGeometry
from medai.inference.evaluate_click import evaluate_click_model
from medai.networks.engine import load_engine
from medai.training.click_sampling import SamplingConfig
from medai.training.click_trainer import ClickTrainingConfig
from medai.training.dataset import is_validation_patient
from medai.training.lidc import lidc_cases
from medai.volume_io.writers import write_label_map, write_volume
from medai.workflows.starter_click import starter_dataset, train_starter_click

TRAINED = next(f"P{n}" for n in range(99) if not is_validation_patient(f"P{n}"))
HELD_BACK = next(f"P{n}" for n in range(99) if is_validation_patient(f"P{n}"))
CONFIG = ClickTrainingConfig(
    epochs=1,
    iterations_per_epoch=1,
    batch_size=2,
    device="cpu",
    sampling=SamplingConfig(patch_shape=(16, 16, 16)),
)


@pytest.fixture(scope="module")
def real_like(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for name, slices in (("lidc_nodules", slice(6, 11)), ("lidc_cubes", slice(None))):
        folder = root / name
        (folder / "images").mkdir(parents=True)
        (folder / "masks").mkdir()
        with (folder / "nodules.csv").open("w", newline="") as stream:
            rows = csv.writer(stream)
            rows.writerow(["case_id", "patient_id", "malignancy"])
            for patient in (TRAINED, HELD_BACK):
                rows.writerow([f"{patient}_1", patient, 3])
                write_nodule(folder, f"{patient}_1", slices)
    return root


def write_nodule(folder, case_id, slices):
    shape, spacing = (26, 27, 18), (0.8, 0.8, 1.25)
    places = np.moveaxis(np.indices(shape), 0, -1) * spacing
    mask = np.linalg.norm(places - np.array([13, 12, 8]) * spacing, axis=-1) < 4.0
    image_hu = np.where(mask, 30, -850).astype(np.int16)[..., slices]
    geometry = VolumeGeometry(shape_ijk=image_hu.shape, affine_ijk_to_ras_mm=np.diag([*spacing, 1.0]))
    labels = mask[..., slices].astype(np.uint8)
    write_volume(Volume(geometry=geometry, image_hu=image_hu), folder / "images" / f"{case_id}.nii.gz")
    label_map = LabelMap(geometry=geometry, labels=labels, segments=(Segment(value=1, name="nodule"),))
    write_label_map(label_map, folder / "masks" / f"{case_id}.nii.gz")


def test_the_recipe_trains_on_patients_that_are_not_held_back(real_like, tmp_path):
    dataset = starter_dataset(real_like, phantoms=0, seed=1)
    assert {case.patient_id for case in dataset.training} == {TRAINED}
    assert {case.patient_id for case in dataset.validation} == {HELD_BACK}
    reports = []
    result = train_starter_click(real_like, tmp_path, CONFIG, phantoms=0, on_epoch=reports.append)
    assert [report.epoch for report in reports] == [1]
    scores = evaluate_click_model(load_engine(result.checkpoint_path, device="cpu"), dataset.validation, seed=1)
    assert len(scores) == 1
    assert 0.0 <= scores[0] <= 1.0


def test_a_crop_is_shown_as_it_is_and_continued(real_like):
    dataset = starter_dataset(real_like, phantoms=0, seed=1)
    slices = {case.mask.shape[2] for case in dataset.training}
    assert 5 in slices  # as it is
    assert any(count > 5 + 2 * 10 for count in slices)  # continued above and below


def test_real_nodules_are_read_by_patient(real_like):
    cases = lidc_cases(real_like / "lidc_nodules", {TRAINED})
    assert [case.patient_id for case in cases] == [TRAINED]
    assert cases[0].mask.any()
    with pytest.raises(InputError, match=r"nodules\.csv does not exist"):
        lidc_cases(real_like)
