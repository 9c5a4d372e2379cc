"""What 3D Slicer saves straight into a study's ``labels/final`` is read on the scan's own voxels, with its names."""

from pathlib import Path

import numpy as np
import pytest
from tests.support.scan_factory import random_geometry, random_labels, right_handed, write_file
from tests.support.slicer_client import SlicerScene

from medai.store.study import StudyStore
from medai.workflows.submitted_label import read_submitted

pytestmark = pytest.mark.slicer


@pytest.mark.parametrize("suffix", [".nii.gz", ".seg.nrrd"])
def test_a_label_saved_into_the_study_lies_on_the_scans_own_voxels(
    slicer_scene: SlicerScene, tmp_path: Path, suffix: str
) -> None:
    handed = set()
    for seed in range(6):
        rng = np.random.default_rng(seed)
        geometry = random_geometry(rng)
        handed.add(right_handed(geometry) is geometry)
        folder = tmp_path / f"study{seed}"
        (folder / "labels" / "final").mkdir(parents=True)
        write_file(rng.integers(-900, 100, size=geometry.shape_ijk, dtype=np.int16), geometry, folder / "p.nii.gz")
        labels = random_labels(geometry, (1, 2), rng)
        write_file(labels, geometry, tmp_path / "drawn.nrrd")
        slicer_scene.load_volume(folder / "p.nii.gz")
        slicer_scene.import_mask(tmp_path / "drawn.nrrd", ["left M2", "right M5"])
        info = slicer_scene.export_label(folder / "labels" / "final" / f"p{suffix}")
        study = StudyStore(folder)
        # As where two segments of scribbles stand before the nodules: idx is not the voxel value.
        study.update_label_info("p", "final", {"label_info": [{**entry, "idx": entry["idx"] + 2} for entry in info]})
        label = read_submitted(study, "p").label_map
        assert np.array_equal(label.labels, labels)
        assert label.label_names == {"left M2": 1, "right M5": 2}
    assert handed == {True, False}
