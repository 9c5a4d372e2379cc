"""Files that are the old ones or the new ones."""

import json

import pytest

from medai.errors import StorageError
from medai.store.atomic import delete, plain_json, publish, staged_file, write_json


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path):
    path = tmp_path / "new folder" / "a.json"
    write_json(path, {"k": 1})
    write_json(path, {"k": 2})
    assert json.loads(path.read_text()) == {"k": 2}
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_a_writer_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"k": 1})
    with pytest.raises(ValueError, match=r"not JSON compliant"):
        write_json(path, {"k": float("nan")})
    with pytest.raises(RuntimeError, match="interrupted"), staged_file(path) as staged:
        staged.write_bytes(b"half")
        raise RuntimeError("interrupted")
    assert json.loads(path.read_text()) == {"k": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_what_the_disk_refuses_is_told_in_words(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match=r"Cannot write in .*file"):
        write_json(tmp_path / "file" / "a.json", {})
    (tmp_path / "taken").mkdir()
    with (
        pytest.raises(StorageError, match=r"Cannot write .*taken.*unchanged"),
        staged_file(tmp_path / "taken") as staged,
    ):
        publish(staged, tmp_path / "taken")
    with pytest.raises(StorageError, match=r"Cannot delete .*taken"):
        delete(tmp_path / "taken")
    delete(tmp_path / "not there")


def test_info_becomes_what_any_json_reader_accepts(tmp_path):
    info = {"dice": float("nan"), "path": tmp_path, "shape": (1, 2), 3: [float("inf"), True, None]}
    assert plain_json(info) == {"dice": None, "path": str(tmp_path), "shape": [1, 2], "3": [None, True, None]}
