"""Who asks where there are no logins: names that are checked, and names that tell nobody apart."""

from __future__ import annotations

import json
import logging
from http import HTTPStatus

import pytest
from fastapi import HTTPException
from tests.integration.server.conftest import Served

from medai.server.access import LONGEST_CLIENT_ID
from medai.store.clients import Clients


@pytest.mark.parametrize(
    ("client_id", "words"),
    [
        ("x" * (LONGEST_CLIENT_ID + 1), "121 characters"),
        ("anna\nINFO forged", "character"),
        (["anna"], "name as text"),
        ({"name": "anna"}, "name as text"),
    ],
)
@pytest.mark.parametrize("door", ["next", "infer", "submit"])
def test_a_name_that_cannot_be_is_refused_at_every_door(shared: Served, client_id: object, words: str, door: str):
    if door == "next":
        reply = shared.client.post("/activelearning/first", json={"client_id": client_id})
    elif door == "infer":
        params = {"label": "nodule", "foreground": [[8, 9, 10]], "background": [], "client_id": client_id}
        reply = shared.client.post("/infer/nodule_click?image=case.axial", data={"params": json.dumps(params)})
    else:
        reply = shared.client.put(
            "/datastore/label?image=case.axial",
            data={"params": json.dumps({"client_id": client_id})},
            files={"label": ("label.nii.gz", b"never looked at")},
        )
    assert reply.status_code == 422
    assert words in reply.json()["detail"]


def test_slicers_name_for_everyone_is_warned_of_once_and_shown(served: Served, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            served.client.post("/activelearning/first", json={"client_id": "user-xyz"})
    said = [record.message for record in caplog.records if "user-xyz" in record.message]
    assert len(said) == 1
    assert "Application Settings > MONAI Label > Client/User-ID" in said[0]
    assert said[0] in served.client.get("/medai/status").json()["warnings"]


def test_without_logins_an_approval_says_that_nobody_can_hold_it(served: Served):
    study, client = served.study, served.client
    (study / "labels" / "final").mkdir(parents=True)
    import numpy as np

    from medai.domain import LabelMap, Segment
    from medai.volume_io.readers import read_geometry
    from medai.volume_io.writers import write_label_map

    geometry = read_geometry(study / "case.axial.nii.gz")
    labels = np.zeros(geometry.shape_ijk, dtype=np.uint8)
    labels[6:10, 7:11, 9:12] = 1
    segment = Segment(value=1, name="nodule", colour_rgb=(200, 100, 50))
    path = study.parent / "label.nii.gz"
    write_label_map(LabelMap(geometry=geometry, labels=labels, segments=(segment,)), path)
    sent = {"client_id": "anna", "label_info": [{"name": "nodule", "idx": 1}]}
    reply = client.put(
        "/datastore/label?image=case.axial",
        data={"params": json.dumps(sent)},
        files={"label": ("label.nii.gz", path.read_bytes())},
    )
    assert reply.status_code == 200, reply.text
    meta = {"segmentationMeta": {"status": "approved", "approvedBy": "anna"}}
    reply = client.put(
        "/datastore/updatelabelinfo?label=case.axial&tag=final", data={"params": json.dumps(meta)}
    ).json()
    assert (reply["review"], reply["by"]) == ("approved", "anna")
    assert "no logins" in reply["warning"]


def test_one_name_from_two_addresses_is_warned_of_once_and_remembered(
    tmp_path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / ".medai").mkdir()
    clients = Clients(tmp_path, now=lambda: 1000.0)
    with caplog.at_level(logging.WARNING):
        assert clients.seen("anna", "10.0.0.4")
        assert clients.warnings() == []
        clients.save()
        assert clients.seen("anna", "10.0.0.5")
        assert not clients.seen("anna", "10.0.0.5")
        clients.seen("ben", "10.0.0.6")
    assert [record.message.split()[0] for record in caplog.records] == ["'anna'"]
    clients.save()
    again = Clients(tmp_path, now=lambda: 1000.0)
    assert len(again.warnings()) == 1
    assert "10.0.0.4, 10.0.0.5" in again.warnings()[0]
    assert Clients(tmp_path, now=lambda: 1000.0 + 8 * 24 * 3600).warnings() == []


def test_a_crowd_that_arrives_at_once_is_written_once(tmp_path) -> None:
    (tmp_path / ".medai").mkdir()
    clients = Clients(tmp_path)
    assert [clients.seen(f"reader{number}", "10.0.0.4") for number in range(40)] == [True, *[False] * 39]
    clients.postpone_save()
    assert clients.seen("reader0", "10.0.0.4")
    clients.save()
    assert len(json.loads((tmp_path / ".medai" / "clients.json").read_text())) == 40
    assert not clients.seen("reader0", "10.0.0.4")


def test_nobody_is_refused_because_a_name_cannot_be_written_now(shared: Served, monkeypatch) -> None:
    lanes, clients = shared.state.lanes, shared.app.clients
    submit = lanes.submit

    def refuse_saving(lane, function, *args, **kwargs):
        if function == clients.save:
            raise HTTPException(HTTPStatus.TOO_MANY_REQUESTS, "waiting already")
        return submit(lane, function, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(lanes, "submit", refuse_saving)
        reply = shared.client.post("/activelearning/first", json={"client_id": "newcomer"})
    assert reply.status_code == HTTPStatus.OK
    assert clients.seen("newcomer", "testclient")


def test_names_and_addresses_are_bounded_and_a_damaged_record_is_started_anew(tmp_path) -> None:
    (tmp_path / ".medai").mkdir()
    clients = Clients(tmp_path)
    for number in range(700):
        clients.seen(f"name {number}", "10.0.0.4")
    for number in range(50):
        clients.seen("anna", f"10.0.0.{number}")
    clients.save()
    content = json.loads((tmp_path / ".medai" / "clients.json").read_text())
    assert len(content) == 500
    assert len(content["anna"]) == 20
    (tmp_path / ".medai" / "clients.json").write_text("[1")
    assert Clients(tmp_path).warnings() == []
