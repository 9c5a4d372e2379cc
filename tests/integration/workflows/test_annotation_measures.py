"""Whether a label is doubtful is looked at again when others of its case come in."""

import numpy as np
import pytest

from medai.domain import LabelMap, Segment, Volume
from medai.geometry import VolumeGeometry
from medai.store.annotations import AnnotationLog, Submission
from medai.store.study import StudyStore
from medai.volume_io.readers import read_volume
from medai.volume_io.writers import write_label_map, write_volume
from medai.workflows.annotation_measures import AnnotationMeasurer

GEOMETRY = VolumeGeometry(shape_ijk=(30, 31, 20), affine_ijk_to_ras_mm=np.diag([-0.8, -0.9, 1.5, 1.0]))
RIGHT, WRONG, NOWHERE = (4, 5, 6), (20, 20, 10), (20, 4, 10)


class PlainScans:
    def get(self, path, case_id=""):
        return read_volume(path)

    def find_open(self, path, case_id=""):
        return None


def _cube(start):
    return tuple(slice(n, n + 7) for n in start)


@pytest.fixture
def measured(tmp_path):
    """Submits labels of one case and measures each; gives the reasons for quarantine by annotator."""
    folder = tmp_path / "study"
    folder.mkdir()
    image_hu = np.full(GEOMETRY.shape_ijk, -700, np.int16)
    for start in (RIGHT, WRONG):
        image_hu[_cube(start)] = 20
    write_volume(Volume(geometry=GEOMETRY, image_hu=image_hu), folder / "case.nii.gz")
    study, log = StudyStore(folder), AnnotationLog(folder)
    measurer = AnnotationMeasurer(log, study, PlainScans())

    def submit(*labels):
        for annotator, start in labels:
            voxels = np.zeros(GEOMETRY.shape_ijk, dtype=np.uint8)
            voxels[_cube(start)] = 1
            write_label_map(
                LabelMap(geometry=GEOMETRY, labels=voxels, segments=(Segment(value=1, name="nodule"),)),
                tmp_path / "label.nii.gz",
            )
            kept = log.record(Submission(case_id="case", annotator=annotator, nodules=1), tmp_path / "label.nii.gz")
            measurer.measure(kept.annotation_id)
        return {each.annotator: each.quarantine_reason for each in log.of_case("case")}

    submit.log = log
    yield submit
    log.close()


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_label_that_is_alone_is_quarantined_wherever_it_stands_in_the_row(measured, place):
    labels = [("ann", RIGHT), ("bob", RIGHT)]
    labels.insert(place, ("mal", WRONG))
    reasons = measured(*labels)
    assert "agrees with none of the 2 other labels" in reasons["mal"]
    assert (reasons["ann"], reasons["bob"]) == ("", "")


def test_what_somebody_has_released_is_not_quarantined_again_by_a_later_label(measured):
    measured(("mal", WRONG), ("ann", RIGHT), ("bob", RIGHT))
    log = measured.log
    (odd,) = [each for each in log.of_case("case") if each.annotator == "mal"]
    log.release(odd.annotation_id, "chief")
    assert measured(("eve", RIGHT))["mal"] == ""


def test_of_two_that_disagree_neither_is_quarantined(measured):
    assert set(measured(("ann", RIGHT), ("mal", WRONG)).values()) == {""}


def test_a_label_of_nothing_needs_no_peers_to_be_quarantined(measured):
    assert "no denser than what lies within 3 mm around it" in measured(("mal", NOWHERE))["mal"]
