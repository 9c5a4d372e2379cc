"""The study store on a folder of tiny stand-in files: it never looks inside a scan."""

import itertools
import json
import os
import time

import pytest

from medai.errors import ConflictError, InputError, NotFoundError, StorageError
from medai.store.listing import FINE_TICK_S, FolderListing
from medai.store.study import StudyStore


@pytest.fixture
def folder(tmp_path):
    study = tmp_path / "study"
    study.mkdir()
    for name in ("b.nii.gz", "1.2.840.113.nii.gz", "a.nrrd"):
        (study / name).write_bytes(f"scan {name}".encode())
    return study


@pytest.fixture
def store(folder):
    return StudyStore(folder)


@pytest.fixture
def label(tmp_path):
    path = tmp_path / "upload.nii.gz"
    path.write_bytes(b"label one")
    return path


def index_of(folder):
    return json.loads((folder / "datastore_v2.json").read_text())


def files_below(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


class TestCases:
    def test_scans_are_cases_and_dots_stay_in_their_ids(self, store):
        assert store.image_ids() == ["1.2.840.113", "a", "b"]
        assert store.image_path("1.2.840.113").name == "1.2.840.113.nii.gz"
        assert store.image_info("a")["name"] == "a.nrrd"

    def test_own_state_labels_and_other_files_are_no_cases(self, folder):
        for name in (
            ".medai/x.nii.gz",
            ".hidden.nii.gz",
            "labels/final/a.nii.gz",
            "sub/x.nii.gz",
            "notes.txt",
            "a.seg.nrrd",
        ):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(b"x")
        assert StudyStore(folder).image_ids() == ["1.2.840.113", "a", "b"]

    def test_a_new_scan_appears_and_a_removed_one_goes_without_restart(self, store, folder):
        (folder / "c.nii.gz").write_bytes(b"new")
        assert "c" in store.image_ids()
        (folder / "c.nii.gz").unlink()
        assert "c" not in store.image_ids()
        with pytest.raises(NotFoundError, match=r"no case 'c'\. It has 3 cases"):
            store.image_path("c")

    def test_a_scan_that_is_away_keeps_its_labels_info(self, store, folder, label):
        store.save_label("a", label, "final", {"label_info": [{"name": "n", "idx": 1}]})
        (folder / "a.nrrd").rename(folder / "away")
        store.refresh()
        assert store.image_ids() == ["1.2.840.113", "b"]
        (folder / "away").rename(folder / "a.nrrd")
        assert StudyStore(folder).label_info("a", "final")["label_info"] == [{"name": "n", "idx": 1}]

    def test_an_unknown_case_is_told_with_near_names(self, store):
        with pytest.raises(NotFoundError, match=r"no case '1.2.840.114'.*1\.2\.840\.113"):
            store.image_path("1.2.840.114")

    def test_a_study_that_is_not_there_is_not_made(self, tmp_path):
        with pytest.raises(NotFoundError, match="no study folder"):
            StudyStore(tmp_path / "typo")
        assert not (tmp_path / "typo").exists()

    def test_monai_labels_patterns_do_as_extensions(self, folder):
        assert StudyStore(folder, extensions=["*.nrrd"]).image_ids() == ["a"]

    def test_an_index_with_another_images_folder_is_honoured(self, tmp_path):
        (tmp_path / "scans").mkdir()
        (tmp_path / "scans" / "x.nii").write_bytes(b"x")
        (tmp_path / "datastore_v2.json").write_text('{"name": "n", "description": "d", "images_dir": "scans"}')
        store = StudyStore(tmp_path)
        assert store.image_path("x") == (tmp_path / "scans" / "x.nii").resolve()
        assert (store.name, store.description) == ("n", "d")


class TestLabels:
    def test_a_label_is_stored_with_its_info(self, store, folder, label):
        path = store.save_label("1.2.840.113", label, "final", {"client_id": "u", "dice": float("nan")})
        assert path == folder / "labels/final/1.2.840.113.nii.gz"
        assert path.read_bytes() == b"label one"
        info = store.label_info("1.2.840.113", "final")
        assert (info["client_id"], info["name"], info["dice"]) == ("u", "1.2.840.113.nii.gz", None)
        assert abs(info["ts"] - time.time()) < 60
        assert store.labeled() == ["1.2.840.113"]
        assert store.unlabeled() == ["a", "b"]
        assert store.status() == {"total": 3, "completed": 1, "label_tags": {"final": 1}}

    def test_a_second_label_of_the_tag_replaces_the_first_whatever_its_format(self, store, folder, label, tmp_path):
        store.save_label("a", label, "final", {"by": "first"})
        second = tmp_path / "second.seg.nrrd"
        second.write_bytes(b"label two")
        store.save_label("a", second, "final", {"by": "second"})
        assert [p.name for p in (folder / "labels/final").iterdir()] == ["a.seg.nrrd"]
        assert store.label_info("a", "final")["by"] == "second"

    def test_labels_of_different_tags_live_beside_each_other(self, store, label):
        store.save_label("a", label, "original")
        store.save_label("a", label, "final")
        assert sorted(store.labels("a")) == ["final", "original"]
        store.remove_label("a", "original")
        assert sorted(store.labels("a")) == ["final"]

    def test_a_label_dropped_into_the_folder_appears(self, store, folder):
        (folder / "labels/reader-2").mkdir(parents=True)
        (folder / "labels/reader-2/a.seg.nrrd").write_bytes(b"x")
        (folder / "labels/reader-2/nobody.nii.gz").write_bytes(b"x")
        assert store.labeled("reader-2") == ["a"]

    @pytest.mark.parametrize("tag", ["../../evil", "a/b", ""])
    def test_a_tag_that_leaves_the_study_is_refused_and_writes_nothing(self, store, folder, label, tag):
        before = files_below(folder.parent)
        with pytest.raises(InputError, match="label tag"):
            store.save_label("a", label, tag)
        assert files_below(folder.parent) == before

    @pytest.mark.parametrize("case_id", ["../a", "/a", "a\x00"])
    def test_an_id_that_leaves_the_study_is_refused(self, store, label, case_id):
        with pytest.raises(InputError, match="case id cannot"):
            store.save_label(case_id, label, "final")

    def test_a_label_for_no_case_leaves_nothing_behind(self, store, folder, label):
        before = files_below(folder)
        with pytest.raises(NotFoundError, match="no case 'z'"):
            store.save_label("z", label, "new-tag")
        assert files_below(folder) == before
        assert not (folder / "labels" / "new-tag").exists()

    def test_a_file_that_is_no_label_is_refused(self, store, tmp_path):
        (tmp_path / "label.exe").write_bytes(b"x")
        with pytest.raises(InputError, match=r"label\.exe. must end in one of \.seg\.nrrd"):
            store.save_label("a", tmp_path / "label.exe")

    def test_label_info_is_merged(self, store, label):
        store.save_label("a", label, "final", {"client_id": "u"})
        store.update_label_info("a", "final", {"segmentationMeta": {"status": "approved"}})
        info = store.label_info("a", "final")
        assert (info["client_id"], info["segmentationMeta"]) == ("u", {"status": "approved"})
        with pytest.raises(NotFoundError, match=r"no label 'original'\. It has final"):
            store.update_label_info("a", "original", {})


class TestImages:
    def test_an_upload_without_an_id_keeps_its_dots(self, store, tmp_path):
        upload = tmp_path / "1.3.6.1.4.1.nii.gz"
        upload.write_bytes(b"scan")
        assert store.add_image(upload, info={"user": "u"}) == "1.3.6.1.4.1"
        assert store.image_info("1.3.6.1.4.1")["user"] == "u"

    def test_the_same_scan_again_is_no_error_and_another_one_is(self, store, tmp_path):
        upload = tmp_path / "b.nii.gz"
        upload.write_bytes(b"scan b.nii.gz")
        assert store.add_image(upload) == "b"
        upload.write_bytes(b"another")
        with pytest.raises(ConflictError, match="another scan named 'b'"):
            store.add_image(upload)
        assert store.image_path("b").read_bytes() == b"scan b.nii.gz"

    def test_adding_a_known_scan_again_keeps_its_labels(self, store, label, tmp_path):
        store.save_label("b", label, "final", {"client_id": "u"})
        upload = tmp_path / "b.nii.gz"
        upload.write_bytes(b"scan b.nii.gz")
        store.add_image(upload)
        assert store.label_info("b", "final")["client_id"] == "u"

    def test_a_removed_image_takes_its_labels_with_it(self, store, folder, label):
        store.save_label("a", label, "final")
        store.remove_image("a")
        assert store.image_ids() == ["1.2.840.113", "b"]
        assert not list((folder / "labels/final").iterdir())
        assert "a" not in index_of(folder)["objects"]

    def test_a_format_the_study_does_not_take_is_refused(self, store, tmp_path):
        (tmp_path / "x.dcm").write_bytes(b"x")
        with pytest.raises(InputError, match=r"must end in one of \.nii\.gz"):
            store.add_image(tmp_path / "x.dcm")

    def test_image_info_is_merged(self, store, folder):
        store.update_image_info("a", {"strategy": {"first": {"ts": 1}}})
        assert StudyStore(folder).image_info("a")["strategy"] == {"first": {"ts": 1}}


class TestIndex:
    def test_unknown_keys_survive_a_write(self, folder, label):
        index = {
            "name": "n", "description": "d", "future": [1],
            "objects": {"a": {"image": {"ext": ".nrrd", "info": {}, "x": 1}, "labels": {}, "y": 2}},
        }  # fmt: skip
        (folder / "datastore_v2.json").write_text(json.dumps(index))
        store = StudyStore(folder)
        store.save_label("a", label, "final")
        store.update_image_info("a", {"k": 1})
        written = index_of(folder)
        assert (written["future"], written["objects"]["a"]["y"], written["objects"]["a"]["image"]["x"]) == ([1], 2, 1)

    def test_a_damaged_index_is_set_aside_and_its_backup_returns(self, store, folder, label):
        store.save_label("a", label, "final", {"client_id": "u"})
        (folder / "datastore_v2.json").write_text('{"name": "half')
        again = StudyStore(folder)
        assert again.label_info("a", "final")["client_id"] == "u"
        kept = list(folder.glob("datastore_v2.json.damaged-*"))
        assert [p.read_text() for p in kept] == ['{"name": "half']

    @pytest.mark.parametrize("content", ["", "[]", '{"objects": []}', '{"objects": {"a": {}}}', "\x00\x00"])
    def test_a_damaged_index_without_backup_is_told_and_left(self, folder, content):
        (folder / "datastore_v2.json").write_text(content)
        with pytest.raises(StorageError, match="damaged and there is no usable backup"):
            StudyStore(folder)
        assert (folder / "datastore_v2.json").read_text() == content

    def test_an_index_damaged_while_open_is_never_overwritten(self, store, folder, label):
        store.save_label("a", label, "final", {"client_id": "u"})
        (folder / "datastore_v2.json").write_text("{")
        assert store.label_info("a", "final")["client_id"] == "u"
        with pytest.raises(StorageError, match="damaged and was left as it is"):
            store.save_label("b", label, "final")
        assert (folder / "datastore_v2.json").read_text() == "{"
        assert store.labeled() == ["a"]

    def test_ids_in_the_index_that_leave_the_study_are_not_served(self, folder):
        (folder.parent / "evil.nii.gz").write_bytes(b"x")
        entry = {"image": {"ext": ".nii.gz", "info": {}}, "labels": {}}
        (folder / "datastore_v2.json").write_text(json.dumps({"objects": {"../evil": entry}}))
        assert "../evil" not in StudyStore(folder).image_ids()

    def test_another_process_change_is_seen(self, store, folder, label):
        StudyStore(folder).save_label("a", label, "final", {"client_id": "other"})
        assert store.label_info("a", "final")["client_id"] == "other"

    def test_as_json_shows_what_is_there(self, store, folder, label):
        store.save_label("a", label, "original", {"params": {"label_names": {"n": 1}}})
        (folder / "b.nii.gz").unlink()
        shown = store.as_json()
        assert sorted(shown["objects"]) == ["1.2.840.113", "a"]
        assert shown["objects"]["a"]["labels"]["original"]["info"]["params"] == {"label_names": {"n": 1}}
        assert shown["objects"]["a"]["image"]["ext"] == ".nrrd"

    def test_read_only_writes_nothing(self, folder, label):
        before = files_below(folder)
        store = StudyStore(folder, read_only=True)
        assert store.image_ids() == ["1.2.840.113", "a", "b"]
        store.refresh()
        for write in (
            lambda: store.save_label("a", label),
            lambda: store.remove_image("a"),
            lambda: store.update_image_info("a", {}),
            lambda: store.set_name("x"),
        ):
            with pytest.raises(StorageError, match="reading only"):
                write()
        assert files_below(folder) == before


class TestListing:
    def test_a_settled_folder_is_not_listed_again(self, tmp_path, monkeypatch):
        (tmp_path / "a").write_bytes(b"")
        long_ago = time.time() - 60
        os.utime(tmp_path, (long_ago, long_ago))
        listing = FolderListing(tmp_path)
        first = listing.files()
        monkeypatch.setattr(os, "scandir", lambda _: pytest.fail("listed again"))
        assert listing.files() is first

    def test_a_folder_that_changes_all_the_time_is_listed_once_a_change(self, tmp_path, monkeypatch):
        listing = FolderListing(tmp_path)
        clock_s = itertools.count(1000.0, 2 * FINE_TICK_S)
        monkeypatch.setattr("medai.store.listing.time.monotonic", lambda: next(clock_s))
        for name in ("a", "b", "c"):
            (tmp_path / name).write_bytes(b"")
            stamp_ns = 1_700_000_000_000_000_001 + (4 << 40) + ord(name)
            os.utime(tmp_path, ns=(stamp_ns, stamp_ns))
            assert name in listing.files()
            listing.files()
            with monkeypatch.context() as patch:
                patch.setattr(os, "scandir", lambda _: pytest.fail("listed again"))
                assert name in listing.files()

    def test_a_change_within_the_clock_tick_of_a_listing_is_seen(self, tmp_path):
        (tmp_path / "a").write_bytes(b"")
        stamp = tmp_path.stat()
        listing = FolderListing(tmp_path)
        assert listing.files() == {"a"}
        (tmp_path / "b").write_bytes(b"")
        os.utime(tmp_path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        assert listing.files() == {"a", "b"}

    def test_a_folder_that_is_not_there_is_empty(self, tmp_path):
        assert FolderListing(tmp_path / "none").files() == frozenset()
