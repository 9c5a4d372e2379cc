"""Which labels of a case count where several people have read it."""

import pytest

from medai.domain.annotation import Annotation, ReviewState, standing


def labelled(name, annotator, **known):
    return Annotation(
        annotation_id=name,
        case_id="case",
        tag="final",
        annotator=annotator,
        submitted_at_s=1.0,
        seconds_spent=None,
        proposal_model=None,
        proposal_version=None,
        file_name=f"case/{name}.nii.gz",
        sha256="",
        nodules=1,
        volume_ml=1.0,
        correction=None,
        **known,
    )


ANN = labelled("1", "ann", is_current=False)
BOB = labelled("2", "bob", is_current=False)
MAL = labelled("3", "mal")
FLAGGED, APPROVED = {"review": ReviewState.FLAGGED}, {"review": ReviewState.APPROVED}


@pytest.mark.parametrize(
    ("annotations", "counting"),
    [
        ([], ""),
        ([ANN, BOB, MAL], "123"),
        ([labelled("0", "ann", is_own_latest=False), ANN, BOB], "12"),
        ([ANN, BOB, labelled("3", "mal", quarantine_reason="alone")], "12"),
        ([ANN, labelled("2", "bob", **FLAGGED)], "1"),
        ([labelled("1", "ann", quarantine_reason="alone"), labelled("2", "bob", **FLAGGED)], ""),
        ([ANN, labelled("2", "bob", is_current=False, **APPROVED), MAL], "2"),
        ([labelled("1", "ann", **APPROVED), labelled("2", "bob", **APPROVED), MAL], "2"),
    ],
)
def test_each_annotators_latest_label_counts_unless_somebody_has_doubts_or_settled_it(annotations, counting):
    assert "".join(annotation.annotation_id for annotation in standing(annotations)) == counting
