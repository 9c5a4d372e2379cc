"""The regression set from the real generator and from real nodules."""

from collections import Counter

import numpy as np
import pytest

from medai.domain import NoduleKind
from medai.workflows import click_regression
from medai.workflows.segmentation_report import size_class_of


@pytest.mark.parametrize("seed", click_regression.PHANTOM_SEEDS)
def test_a_phantom_has_every_size_and_texture_once(seed):
    found = click_regression.phantom_nodules(seed)
    groups = Counter((size_class_of(diameter_mm), kind) for _, kind, diameter_mm in found)
    sizes = {size for size, _ in groups}
    assert sizes == {"<6 mm", "6-8 mm", "8-15 mm", "15-30 mm"}
    assert groups == Counter({(size, kind): 1 for size in sizes for kind in NoduleKind})
    for case, _, diameter_mm in found:
        voxels = np.count_nonzero(case.mask) * case.volume.geometry.voxel_volume_mm3
        assert (6 * voxels / np.pi) ** (1 / 3) == pytest.approx(diameter_mm, rel=0.1)
        sides_mm = np.multiply(case.mask.shape, case.volume.geometry.spacing_mm)
        assert sides_mm.min() > click_regression.CONTEXT_MM


@pytest.mark.real_data
def test_real_nodules_are_of_held_back_patients_and_of_every_size_and_texture(real_data, monkeypatch):
    from medai.training.dataset import is_validation_patient

    monkeypatch.setenv("MEDAI_REAL_DATA", str(real_data))
    found = list(click_regression._real_nodules())
    assert all(is_validation_patient(case.patient_id) for case, _, _ in found)
    groups = Counter((size_class_of(diameter_mm), kind) for _, kind, diameter_mm in found)
    assert max(groups.values()) <= click_regression.REAL_EACH
    assert {kind for _, kind in groups} == set(NoduleKind)
    assert len({size for size, _ in groups}) >= 4
