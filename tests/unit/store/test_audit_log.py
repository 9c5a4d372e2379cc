"""The audit log's files: whose they are, how they turn, what a disk that refuses costs."""

import json
import stat
import threading

import pytest

from medai.errors import NotFoundError
from medai.store import audit_log
from medai.store.audit_log import AuditLog, read_audit


def lines(folder, **wanted):
    return list(read_audit(folder, **wanted))


@pytest.fixture
def log(tmp_path):
    log = AuditLog(tmp_path, largest_bytes=10_000, files=3)
    yield log
    log.close()


def test_lines_are_there_in_order_and_their_owners_alone(log, tmp_path):
    for number in range(30):
        log.write({"user": "anna", "case": "s0001", "number": number})
    assert log.flush()
    assert [line["number"] for line in lines(tmp_path)] == list(range(30))
    folder = tmp_path / ".medai" / "audit"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (folder / "audit.jsonl", folder / "key")} == {0o600}


def test_what_waits_is_written_at_close(tmp_path):
    log = AuditLog(tmp_path, largest_bytes=10_000_000, files=1)
    for number in range(3000):
        log.write({"number": number})
    log.close()
    assert len(lines(tmp_path)) == 3000


def test_full_files_turn_and_the_oldest_falls_away(log, tmp_path):
    for number in range(400):
        log.write({"number": number, "filler": "x" * 200})
        if number % 20 == 0:
            log.flush()
    log.flush()
    files = sorted(path.name for path in (tmp_path / ".medai" / "audit").glob("audit.jsonl*"))
    assert files == ["audit.jsonl", "audit.jsonl.1", "audit.jsonl.2", "audit.jsonl.3"]
    assert all(path.stat().st_size <= 10_000 for path in (tmp_path / ".medai" / "audit").glob("audit.jsonl*"))
    numbers = [line["number"] for line in lines(tmp_path)]
    assert numbers == list(range(numbers[0], 400))
    assert numbers[0] > 0


def test_names_are_replaced_and_found_again(log, tmp_path):
    for case in ("Doe^Jane", "Doe^John", "s0001"):
        log.write({"user": "anna@10.0.0.4", "case": case})
    log.flush()
    text = (tmp_path / ".medai" / "audit" / "audit.jsonl").read_text()
    assert "Doe" not in text
    assert "s0001" in text
    assert len(lines(tmp_path, case="Doe^Jane")) == 1
    assert len(lines(tmp_path, case=lines(tmp_path, case="Doe^Jane")[0]["case"])) == 1
    assert len(lines(tmp_path, user="anna")) == 3
    assert lines(tmp_path, user="ben") == []


def test_two_servers_share_the_key_and_the_file(tmp_path):
    logs = [AuditLog(tmp_path, largest_bytes=50_000, files=50) for _ in range(2)]

    def fill(log):
        for number in range(500):
            log.write({"case": "Doe^Jane", "number": number})

    threads = [threading.Thread(target=fill, args=(log,)) for log in logs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for log in logs:
        log.close()
    found = lines(tmp_path)
    assert len(found) == 1000
    assert len({line["case"] for line in found}) == 1


def test_a_disk_that_refuses_is_told_and_nothing_is_lost_once_it_takes_again(log, tmp_path, monkeypatch, caplog):
    log.write({"number": 0})
    log.flush()
    monkeypatch.setattr(audit_log, "RETRY_S", 0.01)
    append = audit_log._append

    def refuses(path, block):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(audit_log, "_append", refuses)
    for number in range(1, 50):
        log.write({"number": number})
    assert not log.flush(timeout_s=0.2)
    assert "No space left" in log.problem
    assert "Free space" in log.warnings()[0]
    assert len([record for record in caplog.records if "cannot be written" in record.message]) == 1
    monkeypatch.setattr(audit_log, "_append", append)
    assert log.flush()
    assert log.problem == ""
    assert [line["number"] for line in lines(tmp_path)] == list(range(50))


def test_what_has_to_be_dropped_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(audit_log, "MOST_WAITING", 10)
    monkeypatch.setattr(audit_log, "RETRY_S", 0.01)
    append = audit_log._append
    monkeypatch.setattr(audit_log, "_append", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    log = AuditLog(tmp_path, largest_bytes=10_000, files=3)
    log.write({"number": 0})
    while not log.problem:
        pass
    for number in range(1, 31):
        log.write({"number": number})
    monkeypatch.setattr(audit_log, "_append", append)
    log.close()
    found = lines(tmp_path)
    told = sum(line["lines"] for line in found if line.get("event") == "lost")
    assert told == 20
    assert len([line for line in found if "number" in line]) == 11


def test_a_damaged_line_is_passed_over(log, tmp_path):
    log.write({"number": 1})
    log.flush()
    with (tmp_path / ".medai" / "audit" / "audit.jsonl").open("ab") as file:
        file.write(b'{"number": 2, "cut o\n' + json.dumps({"number": 3}).encode() + b"\n")
    assert [line["number"] for line in lines(tmp_path)] == [1, 3]


def test_a_study_without_a_log_says_so(tmp_path):
    with pytest.raises(NotFoundError, match="no audit log"):
        lines(tmp_path)
