"""The history of annotations: nothing is overwritten, nothing is lost, on SQLite and on PostgreSQL."""

import json
import multiprocessing
import sqlite3

import pytest
from tests.support.postgres import postgres_url

from medai.domain.annotation import Correction, ReviewState
from medai.errors import InputError, NotFoundError, StorageError
from medai.store.annotations import AnnotationLog, Submission, has_history

CORRECTION = Correction(
    dice=0.75, added_path_length_mm=12.5, volume_change_ml=-0.25, nodules_added=1, nodules_removed=2
)

context = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def postgres(tmp_path_factory):
    yield from postgres_url(tmp_path_factory.mktemp("postgres"))


@pytest.fixture(params=["sqlite", "postgresql"])
def open_log(request, tmp_path):
    """Opens the history of one study, again and again, in one kind of database."""
    url = request.getfixturevalue("postgres") if request.param == "postgresql" else None
    opened = []

    def opening(**options):
        opened.append(AnnotationLog(tmp_path, url=url, **options))
        return opened[-1]

    yield opening
    for log in opened:
        log.close()


@pytest.fixture
def label(tmp_path):
    """Writes a label file of some content."""

    def write(content=b"label", name="label.nii.gz"):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


def submission(case_id="case.one", annotator="ann", **known):
    return Submission(case_id=case_id, annotator=annotator, nodules=2, volume_ml=1.5, **known)


def test_every_label_of_a_case_stands_and_the_latest_is_current(open_log, label):
    log = open_log()
    first = log.record(submission(proposal_model="m", proposal_version="7", seconds_spent=61.5), label(b"one"))
    second = log.record(submission(annotator="bob"), label(b"two"))
    assert [log.path(a).read_bytes() for a in log.of_case("case.one")] == [b"one", b"two"]
    assert [a.is_current for a in log.of_case("case.one")] == [False, True]
    assert log.current("case.one") == second
    assert (first.proposal_model, first.proposal_version, first.seconds_spent) == ("m", "7", 61.5)
    assert (first.nodules, first.volume_ml, first.annotator) == (2, 1.5, "ann")
    assert log.current("case.two") is None
    assert open_log().of_case("case.one") == log.of_case("case.one")


def test_boxes_are_current_beside_the_outline(open_log, label):
    log = open_log()
    outline = log.record(submission(), label())
    boxes = log.record(submission(tag="detection"), label(b"{}", "label.json"))
    assert (log.current("case.one"), log.current("case.one", "detection")) == (outline, boxes)
    assert boxes.file_name.endswith(".json")
    assert all(a.is_current for a in log.all())


def test_labels_are_found_by_who_which_and_what_became_of_them(open_log, label):
    log = open_log()
    fine = log.record(submission(), label())
    odd = log.record(submission("case.two", "bob", quarantine_reason="odd"), label())
    log.set_review(fine.annotation_id, ReviewState.APPROVED, "chief")
    assert [a.case_id for a in log.all(annotator="bob")] == ["case.two"]
    assert [a.case_id for a in log.all(case_id="case.one", is_quarantined=False)] == ["case.one"]
    assert [a.annotation_id for a in log.all(is_quarantined=True)] == [odd.annotation_id]
    assert [a.review_by for a in log.all(review=ReviewState.APPROVED)] == ["chief"]
    assert [a.annotation_id for a in log.withheld()] == [odd.annotation_id]


def test_a_flagged_label_does_not_train_until_it_is_approved(open_log, label):
    log = open_log()
    kept = log.record(submission(), label())
    assert kept.trains
    assert not log.set_review(kept.annotation_id, ReviewState.FLAGGED, "chief").trains
    assert log.withheld()[0].review_by == "chief"
    assert log.set_review(kept.annotation_id, ReviewState.APPROVED, "chief").trains
    assert log.withheld() == []


def test_measures_quarantine_but_never_what_somebody_has_released(open_log, label):
    log = open_log()
    kept = log.record(submission(), label())
    assert [a.annotation_id for a in log.unmeasured()] == [kept.annotation_id]
    measured = log.set_measures(kept.annotation_id, CORRECTION, "disagrees")
    assert (measured.correction, measured.quarantine_reason, log.unmeasured()) == (CORRECTION, "disagrees", [])
    assert log.release(kept.annotation_id, "chief").trains
    assert log.set_measures(kept.annotation_id, CORRECTION, "disagrees").trains
    assert log.quarantine(kept.annotation_id, "seen twice").quarantine_reason == "seen twice"


def test_an_earlier_reason_stays(open_log, label):
    log = open_log()
    kept = log.record(submission(quarantine_reason="first sight"), label())
    assert log.set_measures(kept.annotation_id, None, "later").quarantine_reason == "first sight"


def test_an_unknown_label_is_refused_in_words(open_log):
    with pytest.raises(NotFoundError, match=r"no annotation '2020'.*medai annotations"):
        open_log().release("2020", "chief")


def test_a_clock_set_back_puts_no_label_behind_an_older_one(open_log, label):
    times = iter([2e9, 1e9])
    log = open_log(now=lambda: next(times))
    log.record(submission(), label(b"one"))
    later = log.record(submission(), label(b"two"))
    assert log.current("case.one") == later
    assert later.submitted_at_s > 2e9


def test_two_studies_share_a_database(postgres, tmp_path, label):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    one, other = AnnotationLog(tmp_path / "a", url=postgres), AnnotationLog(tmp_path / "b", url=postgres)
    one.record(submission(), label())
    assert (len(one.all()), other.all()) == (1, [])
    one.close(), other.close()


def test_a_file_whose_row_was_never_written_is_taken_up(open_log, label, monkeypatch):
    log = open_log()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(log, "_insert", _killed)
        log.record(submission(seconds_spent=9.0, info={"label_info": []}), label(b"kept"))
    assert log.all() == []
    again = open_log()
    (found,) = again.all()
    assert (found.annotator, found.seconds_spent, found.nodules) == ("ann", 9.0, 2)
    assert again.path(found).read_bytes() == b"kept"
    assert len(open_log().all()) == 1


def test_a_file_without_anything_known_of_it_is_taken_up(open_log, label):
    log = open_log()
    kept = log.record(submission(), label(b"no label map"))
    stray = log.path(kept).with_name("20260102T030405000006-abcdef.nii.gz")
    stray.write_bytes(b"neither")
    found = {a.annotation_id: a for a in open_log().all()}["20260102T030405000006-abcdef"]
    assert (found.annotator, found.tag, found.nodules) == ("", "final", 0)
    assert found.submitted_at_s == pytest.approx(1767323045.000006)


def test_a_submission_cut_off_before_the_study_had_it_is_finished(open_log, label):
    log = open_log()
    with pytest.raises(KeyboardInterrupt), log.submitting(submission(info={"a": 1}), label(b"late")):
        _killed()
    saved = []
    again = open_log()
    assert again.finish_interrupted(lambda a, path, info: saved.append((a.case_id, path.read_bytes(), info))) == 1
    assert saved == [("case.one", b"late", {"a": 1})]
    assert again.finish_interrupted(lambda *_: saved.append(None)) == 0


def test_a_submission_that_was_replaced_meanwhile_is_not_put_back(open_log, label):
    log = open_log()
    with pytest.raises(KeyboardInterrupt), log.submitting(submission(), label(b"late")):
        _killed()
    log.record(submission(), label(b"newer"))
    assert log.finish_interrupted(lambda *_: pytest.fail("an older label came back")) == 0


def test_a_full_disk_leaves_the_submission_to_be_finished(open_log, label):
    def full(*_):
        raise StorageError("disk full")

    log = open_log()
    with pytest.raises(StorageError, match="disk full"), log.submitting(submission(), label()):
        full()
    assert log.finish_interrupted(full) == 0
    assert log.finish_interrupted(lambda *_: None) == 1


@pytest.mark.parametrize(("case_id", "tag"), [("../evil", "final"), ("case", "../evil")])
def test_names_that_leave_the_study_are_refused(open_log, label, case_id, tag):
    with pytest.raises(InputError):
        open_log().record(submission(case_id, tag=tag), label())


def test_two_processes_lose_no_row(open_log, label, tmp_path):
    log = open_log()
    url = log._engine.url.render_as_string(hide_password=False)
    log.close()
    workers = [context.Process(target=_record_many, args=(tmp_path, url, name, label())) for name in ("a", "b")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    found = log.all()
    assert {name: sum(a.annotator == name for a in found) for name in ("a", "b")} == {"a": 20, "b": 20}
    assert len({a.annotation_id for a in found}) == 40
    assert sum(a.is_current for a in found) == 1


def _record_many(studies, url, annotator, path):
    for _ in range(20):
        log = AnnotationLog(studies, url=url)
        log.record(submission(annotator=annotator), path)
        log.close()


def test_the_default_is_a_sqlite_file_that_readers_do_not_block(tmp_path, label):
    assert not has_history(tmp_path)
    log = AnnotationLog(tmp_path)
    log.record(submission(), label())
    assert has_history(tmp_path)
    with sqlite3.connect(tmp_path / ".medai" / "annotations.db") as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    log.close()


def test_the_environment_names_another_database(tmp_path, label, monkeypatch):
    monkeypatch.setenv("MEDAI_ANNOTATIONS_URL", f"sqlite:///{tmp_path / 'elsewhere.db'}")
    log = AnnotationLog(tmp_path)
    assert (tmp_path / "elsewhere.db").is_file()
    log.close()


def test_a_newer_form_is_left_alone(tmp_path):
    AnnotationLog(tmp_path).close()
    with sqlite3.connect(tmp_path / ".medai" / "annotations.db") as database:
        database.execute("UPDATE medai_schema SET version = 99")
    with pytest.raises(StorageError, match=r"form 99.*Update medai"):
        AnnotationLog(tmp_path)


NAMED = {"label_info": [{"name": "nodule malignancy 4", "idx": 1}, {"name": "Knoten – M2", "idx": 3}]}
NAMES = ((1, "nodule malignancy 4"), (3, "Knoten – M2"))


def test_the_names_of_the_segments_stay_with_every_label(open_log, label):
    log = open_log()
    first = log.record(submission(info=NAMED), label(b"one"))
    log.record(submission(annotator="bob"), label(b"two"))
    assert [each.segment_names for each in log.of_case("case.one")] == [NAMES, ()]
    assert open_log().get(first.annotation_id).segment_names == NAMES


def test_the_names_of_a_label_that_lost_its_row_are_taken_up(open_log, label, monkeypatch):
    log = open_log()
    with monkeypatch.context() as patch, pytest.raises(StorageError):
        patch.setattr(log, "_insert", _no_space)
        log.record(submission(info=NAMED), label(b"one"))
    assert [each.segment_names for each in open_log().all()] == [NAMES]


def test_a_database_of_before_the_names_is_brought_up_and_keeps_its_rows(open_log, label):
    log = open_log()
    kept = log.record(submission(info=NAMED), label(b"one"))
    _as_form_1(log)
    again = open_log()
    old = again.get(kept.annotation_id)
    assert (old.segment_names, old.sha256, old.annotator) == ((), kept.sha256, "ann")
    named = again.record(submission(annotator="bob", info=NAMED), label(b"two"))
    # A second opening finds nothing left to do.
    assert [each.segment_names for each in open_log().all()] == [(), NAMES]
    assert open_log().get(named.annotation_id).annotator == "bob"


def test_processes_that_open_an_old_database_at_once_bring_it_up_once(tmp_path, label):
    log = AnnotationLog(tmp_path)
    kept = log.record(submission(info=NAMED), label(b"one"))
    _as_form_1(log)
    log.close()
    # Past the study's lock: two studies may share a database.
    url = f"sqlite:///{tmp_path / '.medai' / 'annotations.db'}"
    folders = [tmp_path / f"study{n}" for n in range(4)]
    processes = [context.Process(target=_open_and_close, args=(folder, url)) for folder in folders]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * len(processes)
    log = AnnotationLog(tmp_path)
    assert log.get(kept.annotation_id).annotator == "ann"
    log.close()


def _no_space(*_args, **_named):
    raise StorageError("database or disk is full")


def _open_and_close(folder, url):
    AnnotationLog(folder, url=url).close()


def _as_form_1(log):
    with log._engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE medai_annotations DROP COLUMN segment_names")
        connection.exec_driver_sql("UPDATE medai_schema SET version = 1")
    log._engine.dispose()


@pytest.mark.parametrize(
    ("url", "words"), [("no address with secret", "cannot be read"), ("nosuch://host/db", "no driver.*'nosuch'")]
)
def test_an_address_that_cannot_be_used_is_refused_without_showing_it(tmp_path, url, words):
    with pytest.raises(InputError, match=words) as raised:
        AnnotationLog(tmp_path, url=url)
    assert "secret" not in str(raised.value)


def test_a_damaged_database_is_said_and_kept(tmp_path):
    (tmp_path / ".medai").mkdir()
    (tmp_path / ".medai" / "annotations.db").write_bytes(b"no database" * 1000)
    with pytest.raises(StorageError, match=r"could not be opened: .*not a database"):
        AnnotationLog(tmp_path)
    assert (tmp_path / ".medai" / "annotations.db").read_bytes().startswith(b"no database")


def test_about_files_go_when_the_submission_is_complete(open_log, label):
    log = open_log()
    with log.submitting(submission(), label()) as annotation:
        (about,) = log.folder.glob("*/*.about.json")
        assert json.loads(about.read_text())["sha256"] == annotation.sha256
    assert list(log.folder.glob("*/*.about.json")) == []


def _killed(*_, **__):
    raise KeyboardInterrupt
