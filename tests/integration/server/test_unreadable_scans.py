"""Scans that cannot be read are nobody's next case, are named, and come back when they are mended."""

import errno
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.server.conftest import Served, make_study, serve
from tests.support.dicom_factory import SeriesRecipe, write_series
from typer.testing import CliRunner

from medai.active_learning.strategies import STRATEGIES
from medai.cli.main import app
from medai.errors import InputError
from medai.store.scores import ScoreStore
from medai.store.study import StudyStore
from medai.store.unreadable import UnreadableScans
from medai.workflows.executors import CaseOutcome
from medai.workflows.readable_cases import ReadableCases
from medai.workflows.score_pool import ScoringPool

GOOD = {"case.axial", "case_oblique", "case_flipped"}
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 123\n"


@pytest.fixture
def spoiled(tmp_path: Path) -> Iterator[Served]:
    """Three good scans; a pointer, an empty file, one cut off and one of another format before and behind them."""
    study = make_study(tmp_path / "study")
    whole = (study / "case.axial.nii.gz").read_bytes()
    (study / "a_pointer.nii.gz").write_bytes(POINTER)
    (study / "a_empty.nii.gz").write_bytes(b"")
    (study / "a_cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    (study / "z_wrong.nrrd").write_bytes(whole)
    yield from serve(study)


def next_case(served: Served, strategy: str, client: str) -> dict:
    reply = served.client.post(f"/activelearning/{strategy}", json={"client_id": client})
    assert reply.status_code == 200
    return reply.json()


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_no_strategy_hands_one_out(spoiled: Served, strategy: str):
    given = [next_case(spoiled, strategy, f"annotator {n}").get("id") for n in range(4)]
    assert set(given[:3]) == GOOD
    assert given[3] is None


def test_they_are_counted_apart_and_named(spoiled: Served):
    for n in range(4):
        next_case(spoiled, "default", f"annotator {n}")
    status = spoiled.client.get("/medai/status").json()
    assert (status["total"], status["left"]) == (3, 3)
    assert sorted(status["unreadable"]) == ["a_cut", "a_empty", "a_pointer", "z_wrong"]
    assert "git lfs pull" in status["unreadable"]["a_pointer"]
    assert "damaged or truncated" in status["unreadable"]["a_cut"]
    stats = spoiled.client.get("/info/").json()["datastore"]
    assert stats["total"] == 3
    assert set(stats["unreadable"]) == set(status["unreadable"])
    shown = CliRunner().invoke(app, ["status", str(spoiled.study)]).output
    assert "0 of 3 cases labelled; 3 left" in shown
    assert "4 cannot be read" in shown
    assert "a_empty.nii.gz is empty" in shown


def test_a_mended_scan_comes_back(spoiled: Served):
    for n in range(3):
        next_case(spoiled, "default", f"annotator {n}")
    assert "id" not in next_case(spoiled, "default", "late")
    whole = (spoiled.study / "case.axial.nii.gz").read_bytes()
    (spoiled.study / "a_pointer.nii.gz").write_bytes(whole)
    assert next_case(spoiled, "default", "late")["id"] == "a_pointer"


def test_what_fails_while_it_is_decoded_is_passed_over(spoiled: Served):
    """A scan whose end is damaged looks whole from outside."""
    path = spoiled.study / "case_oblique.nii.gz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 400] = bytes(400)
    path.write_bytes(bytes(content))
    assert spoiled.client.post("/infer/lungs?image=case_oblique").status_code == 422
    assert "case_oblique" in spoiled.client.get("/medai/status").json()["unreadable"]
    given = [next_case(spoiled, "first", f"annotator {n}").get("id") for n in range(3)]
    assert given == ["case.axial", "case_flipped", None]


def test_when_nothing_can_be_read_the_reply_says_why(spoiled: Served):
    for case_id in GOOD:
        (spoiled.study / f"{case_id}.nii.gz").write_bytes(POINTER)
    reply = next_case(spoiled, "default", "annotator")
    assert "id" not in reply
    assert "No case can be labelled: a_cut and 6 more cannot be read" in reply["message"]


def test_scoring_learns_it(tmp_path: Path):
    study = StudyStore(make_study(tmp_path / "study"))
    readable = ReadableCases(study, UnreadableScans(study.folder))
    pool = ScoringPool(study, ScoreStore(study.folder), lambda: {"nodule_click": "v1"}, readable=readable)
    assert len(pool.due()) == 3
    pool.keep(CaseOutcome(case_id="case.axial", error="no chest CT", is_bad_input=True))
    pool.keep(CaseOutcome(case_id="case_flipped", error="a worker died", is_fault=True))
    assert readable.unreadable() == {"case.axial": "no chest CT"}


def test_a_machine_that_fails_says_nothing_of_a_scan(tmp_path: Path):
    study = StudyStore(make_study(tmp_path / "study"))
    readable = ReadableCases(study, UnreadableScans(study.folder))
    error = InputError("case.axial.nii.gz is damaged or truncated (Too many open files).")
    error.__cause__ = OSError(errno.EMFILE, "Too many open files")
    readable.failed("case.axial", error)
    assert readable.unreadable() == {}
    assert readable.can_be_read("case.axial")


def test_many_pointers_are_found_at_once(tmp_path: Path):
    """A checkout without its large files: one Next Sample finds them all, and does not choose two thousand times."""
    study = make_study(tmp_path / "study")
    for n in range(300):
        (study / f"a{n:04d}.nii.gz").write_bytes(POINTER)
    choices: list[int] = []
    for served in serve(study):
        original = served.app.reservations.choose

        def counted(*args: Any, original: Any = original, **kwargs: Any) -> Any:
            choices.append(1)
            return original(*args, **kwargs)

        served.app.reservations.choose = counted  # type: ignore[method-assign]
        assert next_case(served, "first", "annotator")["id"] in GOOD
    assert len(choices) == 2


def test_a_study_of_dicom_alone_names_the_import(tmp_path: Path):
    study = tmp_path / "my study"
    write_series(study / "patient1", SeriesRecipe())
    for served in serve(study):
        reply = next_case(served, "default", "annotator")
        assert "holds DICOM files (patient1/" in reply["message"]
        command = reply["message"].partition("Make cases of them: medai ")[2]
        assert served.client.get("/medai/status").json()["advice"]["summary"] == reply["message"]
        assert CliRunner().invoke(app, shlex.split(command)).exit_code == 0
        assert next_case(served, "default", "annotator")["id"].startswith("patient1_")
    assert len(list(study.glob("*.nii.gz"))) == 1
