"""Our study behind MONAI Label's ``Datastore`` interface."""

import json
import zipfile
from pathlib import Path

import pytest
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag

from medai.errors import InputError, NotFoundError
from medai.server.datastore import MedaiDatastore
from medai.store.study import StudyStore


@pytest.fixture
def datastore(tmp_path):
    folder = tmp_path / "study"
    folder.mkdir()
    for name in ("1.2.840.113.nii.gz", "b.nrrd"):
        (folder / name).write_bytes(name.encode())
    return MedaiDatastore(StudyStore(folder))


@pytest.fixture
def upload(tmp_path):
    path = tmp_path / "upload.nii.gz"
    path.write_bytes(b"label")
    return str(path)


def test_it_is_a_complete_datastore(datastore):
    assert isinstance(datastore, Datastore)
    datastore.set_name("lungs")
    datastore.set_description("chest CT")
    assert (datastore.name(), datastore.description()) == ("lungs", "chest CT")


def test_images_are_listed_read_and_described(datastore):
    assert datastore.list_images() == ["1.2.840.113", "b"]
    assert datastore.get_image("b").read() == b"b.nrrd"
    info = datastore.get_image_info("b")
    assert info["path"] == datastore.get_image_uri("b")
    assert Path(info["path"]).name == info["name"] == "b.nrrd"


@pytest.mark.parametrize("tag", [DefaultLabelTag.FINAL, "final", "", None])
def test_a_submitted_label_completes_its_case(datastore, upload, tag):
    assert datastore.save_label("b", upload, tag, {"client_id": "u"}) == "b"
    assert datastore.get_labels_by_image_id("b") == {"final": "b"}
    assert datastore.get_label_by_image_id("b", "final") == "b"
    assert datastore.get_label_by_image_id("b", "original") == ""
    assert datastore.get_label("b", DefaultLabelTag.FINAL).read() == b"label"
    assert datastore.get_label_info("b", "final")["client_id"] == "u"
    assert (datastore.get_labeled_images(), datastore.get_unlabeled_images()) == (["b"], ["1.2.840.113"])
    assert datastore.status() == {"total": 2, "completed": 1, "label_tags": {"final": 1}}
    assert datastore.datalist() == [
        {"image": datastore.get_image_uri("b"), "label": datastore.get_label_uri("b", "final")}
    ]
    datastore.remove_label("b", "final")
    assert datastore.get_labeled_images() == []


def test_a_trainer_is_not_given_a_detection_file(datastore, tmp_path):
    (tmp_path / "rois.json").write_text("{}")
    datastore.save_label("b", str(tmp_path / "rois.json"), "final", {})
    assert datastore.datalist() == []


def test_unknown_names_are_errors_with_what_is_valid(datastore, upload):
    for ask in (
        lambda: datastore.get_image_uri("x"),
        lambda: datastore.get_image_info("x"),
        lambda: datastore.save_label("x", upload, "final", {}),
        lambda: datastore.remove_image("x"),
        lambda: datastore.update_image_info("x", {}),
    ):
        with pytest.raises(NotFoundError, match=r"no case 'x'.*such as"):
            ask()
    for ask in (
        lambda: datastore.get_label_uri("b", "final"),
        lambda: datastore.get_label_info("b", "final"),
        lambda: datastore.update_label_info("b", "final", {}),
        lambda: datastore.remove_label("b", "final"),
    ):
        with pytest.raises(NotFoundError, match="has no label 'final'"):
            ask()
    with pytest.raises(InputError, match="label tag"):
        datastore.save_label("b", upload, "../../evil", {})


def test_images_come_and_go(datastore, tmp_path):
    scan = tmp_path / "1.3.6.1.nii.gz"
    scan.write_bytes(b"scan")
    assert datastore.add_image("", str(scan), {"user": "u"}) == "1.3.6.1"
    assert datastore.add_image("named", str(scan), None) == "named"
    datastore.remove_image("named")
    datastore.refresh()
    assert datastore.list_images() == ["1.2.840.113", "1.3.6.1", "b"]
    datastore.update_image_info("1.3.6.1", {"k": 1})
    assert datastore.json()["objects"]["1.3.6.1"]["image"]["info"]["k"] == 1


def test_the_archive_holds_images_labels_and_the_index(datastore, upload):
    with pytest.raises(NotFoundError, match="nothing to download yet"):
        datastore.get_dataset_archive(None)
    datastore.save_label("b", upload, "final", {})
    datastore.save_label("1.2.840.113", upload, "final", {})
    for limit, count in ((None, 2), (1, 1), (9, 2)):
        path = Path(datastore.get_dataset_archive(limit))
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            assert json.loads(archive.read("metadata.json"))["objects"].keys() == {"1.2.840.113", "b"}
        path.unlink()
        assert sum(name.startswith("image/") for name in names) == count
        assert sum(name.startswith("label/") for name in names) == count
