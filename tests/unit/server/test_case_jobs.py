"""Work over many cases, one at a time, beside other requests."""

import threading

import pytest

from medai.errors import InputError
from medai.server.case_jobs import CaseJob, CaseJobs, JobBusyError, wanted_record
from medai.server.lanes import Lanes


@pytest.fixture
def jobs() -> CaseJobs:
    return CaseJobs("batch", Lanes(click_workers=1, scan_workers=1))


def test_every_case_is_done_in_order_and_a_broken_one_ends_nothing(jobs: CaseJobs):
    seen = []

    def work(case_id: str) -> dict[str, str]:
        seen.append(case_id)
        if case_id == "b":
            raise InputError("b is broken")
        return {"label": case_id}

    job_id, ended = jobs.start(CaseJob(case_ids=["a", "b", "c"], work=work, request={"model": "m"}))
    ended.result(10)
    record = jobs.record(job_id)
    assert seen == ["a", "b", "c"]
    assert record["status"] == "DONE"
    assert record["result"] == {"a": {"label": "a"}, "b": {"error": "b is broken"}, "c": {"label": "c"}}
    assert record["details"][-2] == "b: b is broken"


def test_a_fault_is_not_told_but_counted(jobs: CaseJobs):
    def work(case_id: str) -> dict[str, str]:
        raise ZeroDivisionError("secret")

    job_id, ended = jobs.start(CaseJob(case_ids=["a"], work=work, request={}))
    ended.result(10)
    assert jobs.record(job_id)["status"] == "ERROR"
    assert "secret" not in str(jobs.record(job_id))


def test_one_at_a_time_and_stopped_after_the_present_case(jobs: CaseJobs):
    begun, go_on = threading.Event(), threading.Event()

    def work(case_id: str) -> dict[str, str]:
        begun.set()
        go_on.wait(10)
        return {}

    job_id, ended = jobs.start(CaseJob(case_ids=["a", "b"], work=work, request={}))
    assert begun.wait(10)
    with pytest.raises(JobBusyError, match="batch runs already"):
        jobs.start(CaseJob(case_ids=["c"], work=work, request={}))
    assert wanted_record(jobs, "batch", every=False, only_running=True)["id"] == job_id
    jobs.stop()
    go_on.set()
    ended.result(10)
    record = jobs.record(job_id)
    assert record["status"] == "STOPPED"
    assert list(record["result"]) == ["a"]
    assert jobs.stop() is None
    assert jobs.start(CaseJob(case_ids=["c"], work=lambda _: {}, request={}))[1].result(10) is None


def test_records_by_what_is_asked(jobs: CaseJobs):
    from fastapi import HTTPException

    with pytest.raises(HTTPException, match="No batch has run"):
        wanted_record(jobs, "batch", every=False, only_running=False)
    for _ in range(2):
        jobs.start(CaseJob(case_ids=[], work=lambda _: {}, request={}))[1].result(10)
    assert len(wanted_record(jobs, "batch", every=True, only_running=False)) == 2
    with pytest.raises(HTTPException, match="No batch runs now"):
        wanted_record(jobs, "batch", every=False, only_running=True)
