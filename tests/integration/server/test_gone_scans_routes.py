"""A scan that is deleted through the server, or replaced behind its back, leaves nothing to the next of its name."""

import json
from pathlib import Path

import numpy as np
from tests.integration.server.conftest import Served
from tests.support.score_factory import candidate, case_score

from medai.domain import LabelMap, Segment
from medai.volume_io.readers import read_geometry, read_volume
from medai.volume_io.writers import write_label_map, write_volume

CASE = "case.axial"


def submit(served: Served, folder: Path) -> None:
    scan = served.study / f"{CASE}.nii.gz"
    geometry = read_geometry(scan)
    labels = np.zeros(geometry.shape_ijk, dtype=np.uint8)
    labels[6:11, 7:12, 8:13] = 1
    path = folder / "label.nii.gz"
    write_label_map(LabelMap(geometry=geometry, labels=labels, segments=(Segment(value=1, name="nodule"),)), path)
    reply = served.client.put(
        f"/datastore/label?image={CASE}&tag=final",
        files={"label": ("label.nii.gz", path.read_bytes())},
        data={"params": json.dumps({"label_info": [{"name": "nodule", "idx": 1}], "client_id": "ann"})},
    )
    assert reply.status_code == 200, reply.text
    served.app.annotations.wait()


def test_deleting_takes_everything_along(served: Served, tmp_path: Path):
    submit(served, tmp_path)
    place = served.app.study.image_path(CASE)
    served.app.scans.get(place, CASE)
    served.app.scores.put(case_score(CASE, candidate(0.5), at=np.zeros(3)))
    served.app.served.path(CASE)
    assert served.client.delete(f"/datastore/image?id={CASE}").status_code == 200
    assert served.app.scores.get(CASE) is None
    assert not list((served.study / "labels").rglob(f"{CASE}.*"))
    assert not list((served.study / ".medai" / "served").glob(f"{CASE}.*"))
    # Another patient's scan of the same name, from here on.
    other = read_volume(served.study / "case_oblique.nii.gz")
    write_volume(other, served.study / f"{CASE}.nii.gz")
    assert served.client.get(f"/datastore/label?label={CASE}&tag=final").status_code == 404
    np.testing.assert_array_equal(served.app.scans.get(place, CASE).image_hu, other.image_hu)
    listed = served.client.get("/medai/annotations").json()["annotations"]
    assert [(each["case_id"], each["is_of_deleted_scan"], each["trains"]) for each in listed] == [(CASE, True, False)]
    assert CASE in served.app.study.unlabeled()


def test_a_scan_replaced_by_hand_loses_its_label_before_anybody_reads_it(served: Served, tmp_path: Path):
    submit(served, tmp_path)
    served.app.scores.put(case_score(CASE, candidate(0.5), at=np.zeros(3)))
    write_volume(read_volume(served.study / "case_flipped.nii.gz"), served.study / f"{CASE}.nii.gz")
    assert served.client.get(f"/datastore/label?label={CASE}&tag=final").status_code == 404
    assert served.app.scores.get(CASE) is None
    assert CASE in served.app.study.unlabeled()
    assert list((served.study / ".medai" / "deleted").glob(f"{CASE}.*/final/{CASE}.nii.gz"))
