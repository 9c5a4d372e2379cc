"""Doubtful labels are left out of a training with their reason, whoever keeps the history."""

from dataclasses import dataclass, field

import pytest

from medai.errors import InputError
from medai.store.split import FrozenSplit
from medai.workflows.labelled_examples import collect_examples


@dataclass(frozen=True)
class OneNodule:
    case_id: str
    patient_id: str


@dataclass
class PlainStudy:
    """A study that keeps no history."""

    folder: object

    def labeled(self, tag="final"):
        return []

    image_path = label_path = label_info = labeled


@dataclass
class StudyWithHistory(PlainStudy):
    withheld: dict = field(default_factory=dict)

    def withheld_labels(self, tag="final"):
        return self.withheld.get(tag, {})


CASES = [f"case{number}" for number in range(12)]


def collect(study, **options):
    def read(case_id):
        return [OneNodule(case_id, case_id)]

    return collect_examples(
        study, CASES, read, nothing="empty", needed="Submit more.", should_stop=lambda: False, **options
    )


def used(found):
    """The cases that train, judge, or are kept for figures alone."""
    return {*found.trained_on, *found.judged_on, *(example.case_id for example in found.test)}


@pytest.fixture
def folder(tmp_path):
    placed = FrozenSplit(tmp_path).place_cases(CASES)
    assert {"train", "validation"} <= set(placed.values())
    return tmp_path


def test_a_study_without_a_history_uses_every_label(folder):
    found = collect(PlainStudy(folder))
    assert used(found) == set(CASES)


def test_a_doubtful_label_is_not_used_at_all(folder):
    found = collect(StudyWithHistory(folder, withheld={"final": {"case3": "flagged by chief"}}))
    assert used(found) == set(CASES) - {"case3"}
    assert found.skipped == {"case3": "flagged by chief"}


def test_a_doubtful_label_of_another_kind_does_not_matter(folder):
    study = StudyWithHistory(folder, withheld={"detection": {"case3": "flagged", "case4": "flagged"}})
    assert collect(study).skipped == {}
    assert collect(study, tag_of=lambda case_id: "detection" if case_id == "case3" else "final").skipped == {
        "case3": "flagged"
    }


def test_where_every_label_is_doubtful_the_refusal_names_the_reasons(folder):
    study = StudyWithHistory(folder, withheld={"final": dict.fromkeys(CASES, "quarantined: odd")})
    with pytest.raises(InputError, match=r"Not used: case case0 \(quarantined: odd\)"):
        collect(study)
