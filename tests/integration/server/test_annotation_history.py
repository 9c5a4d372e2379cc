"""Submissions through the server leave a history: who, from what, how much; and what is doubtful does not train."""

from __future__ import annotations

import json
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from tests.integration.server.conftest import SHAPE_IJK, affines, make_study, serve

from medai.domain.annotation import ReviewState
from medai.errors import InputError
from medai.server.annotation_recorder import AnnotationRecorder
from medai.store.study import StudyStore
from medai.workflows.labelled_nodules import collect_labelled_nodules

OK = HTTPStatus.OK
NODULE = ((6, 11), (7, 12), (8, 13))
AIR_BALL = ((0, 5), (0, 5), (0, 5))


def boxes(*ranges) -> np.ndarray:
    labels = np.zeros(SHAPE_IJK, dtype=np.uint8)
    for value, box in enumerate(ranges, start=1):
        labels[tuple(slice(*ends) for ends in box)] = value
    return labels


def submit(
    served: Any,
    folder: Path,
    labels: np.ndarray,
    *,
    case_id: str = "case.axial",
    client_id: str = "ann",
    names: Sequence[str] = (),
) -> dict[str, Any]:
    path = folder / "label.nii.gz"
    nib.save(nib.Nifti1Image(labels, affines()[case_id]), path)
    named = names or [f"nodule {value}" for value in range(1, int(labels.max()) + 1)]
    label_info = [{"name": name, "idx": value} for value, name in enumerate(named, start=1)]
    with path.open("rb") as file:
        reply = served.client.put(
            f"/datastore/label?image={case_id}",
            data={"params": json.dumps({"label_info": label_info, "client_id": client_id})},
            files={"label": (path.name, file)},
        )
    assert reply.status_code == OK, reply.text
    return reply.json()


def listed(served: Any, query: str = "") -> list[dict[str, Any]]:
    served.app.annotations.wait()
    reply = served.client.get(f"/medai/annotations{query}")
    assert reply.status_code == OK, reply.text
    return reply.json()["annotations"]


def review(served: Any, status: str, case_id: str = "case.axial") -> None:
    meta = {"segmentationMeta": {"status": status, "approvedBy": "chief"}}
    reply = served.client.put(
        f"/datastore/updatelabelinfo?label={case_id}&tag=final", data={"params": json.dumps(meta)}
    )
    assert reply.status_code == OK, reply.text


def test_a_click_accepted_as_it_is_needed_no_correction(served, tmp_path):
    served.client.post("/activelearning/first", json={"client_id": "ann"})
    reply = served.click(client_id="ann")
    assert reply.status_code == OK
    outlined = _label_of(reply, tmp_path)
    submit(served, tmp_path, outlined)
    (found,) = listed(served)
    assert found["annotator"] == "ann"
    assert (found["proposal_model"], found["proposal_version"]) == (
        "nodule_click",
        served.registry.versions["nodule_click"],
    )
    assert found["correction"]["dice"] == 1.0
    assert found["correction"]["added_path_length_mm"] == 0.0
    assert 0.0 <= found["seconds_spent"] < 600
    assert found["trains"]
    assert found["volume_ml"] == pytest.approx(np.count_nonzero(outlined) * 0.8 * 0.9 * 1.5 / 1000)


def test_another_client_has_not_corrected_what_it_was_not_shown(served, tmp_path):
    served.click(client_id="bob")
    submit(served, tmp_path, boxes(NODULE))
    (found,) = listed(served)
    assert (found["proposal_model"], found["correction"], found["seconds_spent"]) == (None, None, None)


def test_the_whole_scans_proposal_with_a_click_over_it_is_what_was_corrected(served, tmp_path):
    params = json.dumps({"client_id": "ann"})
    assert served.client.post("/infer/nodule_segmentation?image=case.axial", data={"params": params}).status_code == OK
    served.click(client_id="ann", label="mine")
    submit(served, tmp_path, boxes(NODULE))
    (found,) = listed(served)
    assert found["proposal_model"] == "nodule_segmentation+nodule_click"
    assert 0.0 < found["correction"]["dice"] <= 1.0


def test_a_case_is_edited_again_and_both_labels_stand(served, tmp_path):
    submit(served, tmp_path, boxes(NODULE))
    submit(served, tmp_path, boxes(NODULE, ((14, 17), (14, 17), (14, 17))), client_id="bob")
    first, second = listed(served, "?case=case.axial")
    assert [first["is_current"], second["is_current"]] == [False, True]
    kept = served.study / ".medai" / "annotations"
    assert nib.load(kept / first["file_name"]).get_fdata().max() == 1
    assert nib.load(kept / second["file_name"]).get_fdata().max() == 2
    final = served.study / "labels" / "final" / "case.axial.nii.gz"
    assert final.read_bytes() == (kept / second["file_name"]).read_bytes()
    assert [a["annotator"] for a in listed(served, "?annotator=bob")] == ["bob"]


def test_a_shattered_label_is_stored_quarantined_and_said_so(served, tmp_path):
    shattered = np.zeros(SHAPE_IJK, dtype=np.uint8)
    shattered[::2, ::2, ::2] = 1
    reply = submit(served, tmp_path, shattered)
    assert "is stored, but no training learns from it" in reply["params"]["quarantine"]
    assert "separate parts" in reply["params"]["quarantine"]
    (found,) = listed(served, "?quarantined=true")
    assert not found["trains"]
    assert served.client.head("/datastore/label?image=case.axial&tag=final").status_code == OK
    assert "separate parts" in StudyStore(served.study).withheld_labels()["case.axial"]
    assert listed(served, "?quarantined=false") == []


def test_a_label_in_air_is_quarantined_and_said_so(tmp_path):
    study = make_study(tmp_path / "study")
    path = study / "case.axial.nii.gz"
    image = nib.load(path)
    voxels = np.asarray(image.dataobj).astype(np.int16)
    voxels[:6] = -1000
    nib.save(nib.Nifti1Image(voxels, image.affine), path)
    for served in serve(study):
        reply = submit(served, tmp_path, boxes(AIR_BALL))
        (found,) = listed(served)
        assert "air" in found["quarantine_reason"]
        assert found["quarantine_reason"] in reply["params"]["quarantine"]


def test_a_label_that_does_not_stand_out_is_quarantined_and_said_so(served, tmp_path):
    reply = submit(served, tmp_path, boxes(((13, 18), (14, 19), (14, 18))))
    (found,) = listed(served)
    assert "segment 'nodule 1': it is no denser than what lies within 3 mm around it" in found["quarantine_reason"]
    assert found["quarantine_reason"] in reply["params"]["quarantine"]


def test_an_honest_label_is_answered_without_a_word(served, tmp_path):
    assert submit(served, tmp_path, boxes(NODULE))["params"].keys() == {"annotation_id"}


def test_crumbs_beside_a_nodule_are_told_not_counted_and_do_not_train(served, tmp_path):
    crumb = ((15, 16), (15, 16), (10, 13))
    reply = submit(served, tmp_path, boxes(NODULE, crumb))
    told = "segment 'nodule 2': 3 voxels, too small to be a nodule: not counted, and no training learns from it."
    assert reply["params"]["notes"] == [told]
    assert "quarantine" not in reply["params"]
    (found,) = listed(served)
    assert (found["nodules"], found["trains"]) == (1, True)
    assert StudyStore(served.study).label_info("case.axial", "final")["notes"] == [told]


def test_a_lonely_voxel_is_quarantined(served, tmp_path):
    reply = submit(served, tmp_path, boxes(((8, 9), (8, 9), (8, 9))))
    assert "it holds nothing as large as a nodule: one part of 1 voxel" in reply["params"]["quarantine"]


def test_a_rating_that_is_none_is_told(served, tmp_path):
    reply = submit(served, tmp_path, boxes(NODULE), names=["malignancy 9"])
    (told,) = reply["params"]["notes"]
    assert "'malignancy 9' is not taken as a rating, 9 is none: a rating is a whole number from 1 to 5" in told
    assert listed(served)[0]["trains"]


def test_no_nodules_is_not_quarantined_for_disagreeing_with_what_is_quarantined(served, tmp_path):
    submit(served, tmp_path, np.ones(SHAPE_IJK, dtype=np.uint8), client_id="mal")
    submit(served, tmp_path, boxes(((8, 9), (8, 9), (8, 9))), client_id="eve")
    reply = submit(served, tmp_path, boxes(), client_id="ann", names=["no nodules"])
    assert reply["params"].keys() == {"annotation_id"}
    assert [a["trains"] for a in listed(served)] == [False, False, True]


def test_a_label_emptied_of_its_nodule_waits_for_somebody(served, tmp_path):
    submit(served, tmp_path, boxes(NODULE))
    reply = submit(served, tmp_path, boxes(), names=["no nodules"])
    assert "it says that there is no nodule, but an earlier label of this case shows 1" in reply["params"]["quarantine"]
    assert [a["trains"] for a in listed(served)] == [False, False]


def test_one_against_two_peers_is_quarantined_and_released(served, tmp_path):
    # Something else that is dense: a label of nothing would be quarantined for that.
    path = served.study / "case.axial.nii.gz"
    scan = nib.load(path)
    image_hu = np.asarray(scan.dataobj).copy()
    image_hu[14:18, 14:18, 14:18] = 30
    nib.save(nib.Nifti1Image(image_hu, scan.affine, scan.header), path)
    for client in ("ann", "bob"):
        submit(served, tmp_path, boxes(NODULE), client_id=client)
        served.app.annotations.wait()
    submit(served, tmp_path, boxes(((14, 18), (14, 18), (14, 18))), client_id="mallory")
    *honest, odd = listed(served)
    assert [a["quarantine_reason"] for a in honest] == ["", ""]
    assert "agrees with none of the 2 other labels of this case (Dice 0.00 at best)" in odd["quarantine_reason"]
    served.app.annotations.log.release(odd["annotation_id"], "chief")
    assert StudyStore(served.study).withheld_labels() == {}


def test_a_flagged_label_does_not_train_until_approved(served, tmp_path):
    submit(served, tmp_path, boxes(NODULE))
    review(served, "flagged")
    (found,) = listed(served, "?review=flagged")
    assert (found["review_by"], found["trains"]) == ("chief", False)
    study = StudyStore(served.study)
    assert "flagged by chief" in study.withheld_labels()["case.axial"]
    with pytest.raises(InputError, match=r"Not used: case case.axial \(flagged by chief in review"):
        collect_labelled_nodules(study)
    info = served.client.get("/datastore/label/info?label=case.axial&tag=final").json()
    assert info["segmentationMeta"]["status"] == "flagged"
    review(served, "approved")
    assert study.withheld_labels() == {}


def test_a_label_from_before_the_history_can_be_flagged(served, tmp_path):
    path = tmp_path / "label.nii.gz"
    nib.save(nib.Nifti1Image(boxes(NODULE), affines()["case.axial"]), path)
    served.app.study.save_label("case.axial", path)
    review(served, "flagged")
    assert "case.axial" in StudyStore(served.study).withheld_labels()
    # A better one replaces it and trains.
    submit(served, tmp_path, boxes(NODULE))
    assert StudyStore(served.study).withheld_labels() == {}
    assert [a["review"] for a in listed(served)] == [ReviewState.FLAGGED, ReviewState.OPEN]


def test_what_was_not_measured_before_a_kill_is_measured_at_the_next_start(tmp_path, monkeypatch):
    study = make_study(tmp_path / "study")
    with monkeypatch.context() as patch:
        patch.setattr("medai.server.annotation_recorder.AnnotationRecorder._measure", lambda *_: None)
        for served in serve(study):
            outlined = _label_of(served.click(client_id="ann"), tmp_path)
            submit(served, tmp_path, outlined)
            assert listed(served)[0]["correction"] is None
    recorder = AnnotationRecorder(served.app.study, served.app.reservations, served.app.scans)
    recorder.resume()
    recorder.wait()
    (found,) = recorder.log.all()
    assert found.correction is not None
    assert found.correction.dice == 1.0
    recorder.close()


def test_filters_that_say_nothing_are_refused(served):
    assert served.client.get("/medai/annotations?review=maybe").status_code == HTTPStatus.UNPROCESSABLE_ENTITY


def _label_of(reply: Any, folder: Path) -> np.ndarray:
    """The label map of an inference's answer, on the scan's voxels."""
    from medai.volume_io.readers import read_label_map

    content = reply.content
    start = content.index(b"NRRD")
    boundary = reply.headers["content-type"].partition("boundary=")[2].encode()
    (folder / "answer.nrrd").write_bytes(content[start : content.rindex(b"\r\n--" + boundary)])
    return np.asarray(read_label_map(folder / "answer.nrrd").labels).astype(np.uint8)


def test_files_that_lay_side_by_side_are_kept_when_a_label_takes_their_place(served, tmp_path):
    folder = served.study / "labels" / "final"
    folder.mkdir(parents=True)
    nib.save(nib.Nifti1Image(boxes(NODULE), affines()["case.axial"]), folder / "case.axial.nii.gz")
    nib.save(nib.Nifti1Image(boxes(((5, 9), (7, 12), (9, 12))), affines()["case.axial"]), folder / "case.axial.nii")
    submit(served, tmp_path, boxes(NODULE))
    first, second, latest = listed(served)
    assert all("it lay beside another file" in each["quarantine_reason"] for each in (first, second))
    assert (latest["annotator"], latest["quarantine_reason"]) == ("ann", "")
    assert [path.name for path in folder.iterdir()] == ["case.axial.nii.gz"]
