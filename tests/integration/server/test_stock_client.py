"""What MONAI Label's own client sends and expects, against the real server: answers as the stock server gives them."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monailabel.client import MONAILabelClient
from monailabel.client.client import MONAILabelUtils
from tests.integration.server.conftest import affines, make_study
from tests.support.dicom_factory import SeriesRecipe, show_a_chest, write_series
from tests.support.server_process import ServerProcess

from medai.server.train_task import TRAINERS
from medai.volume_io.readers import read_volume
from medai.volume_io.writers import write_volume

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    study = make_study(tmp_path_factory.mktemp("stock") / "study")
    # A scan in another format beside those in .nii.gz.
    write_volume(read_volume(study / "case_oblique.nii.gz"), study / "in_nrrd.nrrd")
    environment = {"XDG_STATE_HOME": str(tmp_path_factory.mktemp("state"))}
    with ServerProcess(study, conf={"tracking": "off"}, environment=environment) as server:
        yield server
    assert "Traceback" not in server.log


@pytest.fixture
def client(server: ServerProcess, tmp_path: Path) -> MONAILabelClient:
    return MONAILabelClient(server.url, str(tmp_path), "reader")


def test_an_answer_has_the_scans_own_ending(client):
    """``monailabel`` scripts call it ``out.nii.gz`` without looking."""
    for case_id, ending in (("case.axial", ".nii.gz"), ("in_nrrd", ".nrrd")):
        file, params = client.infer("nodule_click", case_id, {"foreground": [[8, 9, 10]], "background": []})
        assert file.endswith(ending)
        assert params["label_names"] == {"nodule": 1}
        if ending == ".nii.gz":
            image = nib.load(file)
            np.testing.assert_allclose(image.affine, affines()[case_id], atol=1e-5)
            assert set(np.unique(np.asarray(image.dataobj))) == {0, 1}


def test_clicks_come_under_the_labels_name_too(client):
    one, _ = client.infer("nodule_click", "case.axial", {"foreground": [[8, 9, 10]], "background": []})
    deepedit = {"nodule": [[8, 9, 10]], "background": [], "label": "nodule"}
    other, params = client.infer("nodule_click", "case.axial", deepedit)
    assert params["label_names"] == {"nodule": 1}
    np.testing.assert_array_equal(np.asarray(nib.load(one).dataobj), np.asarray(nib.load(other).dataobj))


def test_the_last_case_is_offered(client):
    assert "last" in client.info()["strategies"]
    assert client.next_sample("last", {})["id"] == "in_nrrd"


def test_a_session_takes_a_series_and_a_zip(server, client, tmp_path: Path):
    slices = [
        str(path) for path in write_series(tmp_path / "series", SeriesRecipe(shape_ijk=(10, 11, 12)), edit=show_a_chest)
    ]
    status, reply, _ = MONAILabelUtils.http_upload("PUT", server.url, "/session/", {}, slices)
    assert status == 200, reply
    archive = tmp_path / "series.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for path in slices:
            packed.write(path, Path(path).name)
    status, unpacked, _ = MONAILabelUtils.http_upload(
        "PUT", server.url, "/session/?uncompress=true", {}, [str(archive)]
    )
    assert status == 200, unpacked
    for text in (reply, unpacked):
        session_id = json.loads(text)["session_id"]
        file, params = client.infer("nodule_click", "", {"foreground": [[5, 5, 6]]}, session_id=session_id)
        assert nib.load(file).shape == (10, 11, 12)
        assert params["model_version"]
        client.remove_session(session_id)


def test_slices_beside_a_scan_are_taken_one_by_one(server, client, tmp_path: Path):
    (first, *_) = write_series(tmp_path / "series", SeriesRecipe(shape_ijk=(10, 11, 3)))
    scan = tmp_path / "uploaded.nii.gz"
    write_volume(read_volume(server.studies / "case.axial.nii.gz"), scan)
    assert client.upload_image(str(scan), "uploaded")["image"] == "uploaded"
    for _ in range(2):
        assert client.upload_image(str(first), "uploaded")["image"] == "uploaded"
    assert client.datastore()["objects"]["uploaded"]


def test_all_trainers_take_flat_parameters_and_are_waited_for(server):
    """No case is labelled, so that each says what is missing as soon as it has begun."""
    status, reply, _, _ = MONAILabelUtils.http_method(
        "POST", server.url, "/train/?run_sync=true", {"max_epochs": 1, "device": "cpu"}
    )
    assert status == 200
    records = json.loads(reply)
    assert set(records) == {trainer.task for trainer in TRAINERS}
    for record in records.values():
        assert record["result"]["request"]["max_epochs"] == 1
        assert record["result"]["status"] == "ERROR"
        assert "label" in record["result"]["result"]
