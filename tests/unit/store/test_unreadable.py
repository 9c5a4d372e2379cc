"""What is remembered of scans that cannot be read."""

import json

from medai.store.unreadable import UnreadableScans, file_state


def test_noted_by_one_and_seen_by_another(tmp_path):
    scan = tmp_path / "a.nii.gz"
    scan.write_bytes(b"x")
    first, second = UnreadableScans(tmp_path), UnreadableScans(tmp_path)
    assert second.entries() == {}
    first.note({"a": (file_state(scan), "it is damaged")})
    assert second.entries() == {"a": (file_state(scan), "it is damaged")}
    second.forget({"a", "b"})
    assert first.entries() == {}


def test_the_state_of_a_file_changes_with_it(tmp_path):
    scan = tmp_path / "a.nii.gz"
    assert file_state(scan) is None
    scan.write_bytes(b"x")
    before = file_state(scan)
    scan.write_bytes(b"xy")
    assert file_state(scan) != before


def test_another_version_looks_again(tmp_path):
    scan = tmp_path / "a.nii.gz"
    scan.write_bytes(b"x")
    UnreadableScans(tmp_path).note({"a": (file_state(scan), "odd")})
    path = tmp_path / ".medai" / "unreadable.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": "0.0.1"}))
    assert UnreadableScans(tmp_path).entries() == {}


def test_a_damaged_record_is_started_anew(tmp_path, caplog):
    (tmp_path / ".medai").mkdir()
    (tmp_path / ".medai" / "unreadable.json").write_text("{half")
    assert UnreadableScans(tmp_path).entries() == {}
    assert "started anew" in caplog.text


def test_where_nothing_can_be_written_it_is_remembered_in_memory(tmp_path, caplog):
    (tmp_path / ".medai").write_text("a file where the folder should be")
    scan = tmp_path / "a.nii.gz"
    scan.write_bytes(b"x")
    record = UnreadableScans(tmp_path)
    record.note({"a": (file_state(scan), "odd")})
    assert record.entries()["a"][1] == "odd"
    assert "until this process ends" in caplog.text
