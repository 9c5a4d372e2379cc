"""A whole small simulation: both arms on the same labels, killed with -9 and gone on with, drawn and told."""

import html
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.small_simulation import CONFIG, make_small, write_data

from medai.errors import ConflictError, InputError
from medai.registry.model_registry import ModelRegistry
from medai.store.layout import models_folder
from medai.workflows.annotators import compare_annotators, open_annotations
from medai.workflows.simulate_retraining import simulate_retraining
from medai.workflows.simulated_session import SessionCases, SessionConfig, play_session, read_rounds
from medai.workflows.simulation_pictures import draw_simulation

ROOT = Path(__file__).resolve().parents[3]
ON, OFF = Path("seed-1") / "gate-on", Path("seed-1") / "gate-off"


def start_and_die(data, out, training):
    program = [sys.executable, "-m", "tests.support.small_simulation", str(data), str(out), str(training)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "lib")])}
    return subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A simulation that was killed while it trained in its second round, and what it had reached."""
    folder = tmp_path_factory.mktemp("simulation")
    data, out = write_data(folder / "data"), folder / "out"
    died = start_and_die(data, out, training=2)
    assert died.returncode == -9, died.stderr
    return data, out, {path.name: path.read_bytes() for path in (out / ON).glob("round-*.json")}


@pytest.fixture(scope="module")
def finished(killed):
    data, out, _ = killed
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        make_small(patch.setattr)
        report = simulate_retraining(data, out, CONFIG, on_progress=seen.append)
    return out, report, seen


def test_it_goes_on_from_the_last_round_that_ended(killed, finished):
    _, _, reached = killed
    out, report, seen = finished
    assert sorted(reached) == ["round-00.json", "round-01.json"]
    for name, content in reached.items():
        assert (out / ON / name).read_bytes() == content
    assert [len(read_rounds(out / arm)) for arm in (ON, OFF)] == [3, 3]
    assert [path.name for path in (out / ON).glob("study-*")] == ["study-02"]
    assert [len(arm.rounds) for arm in report.arms] == [2, 2]
    # The round that was cut off is played once: nobody's label is there twice.
    labels = [(row["case"], row["reader"]) for row in read_rounds(out / ON)[-1]["labels"]]
    assert len(labels) == len(set(labels)) > CONFIG.rounds * CONFIG.cases_per_round
    assert (seen[-1].done, seen[-1].total) == (4, 4)


def test_both_arms_see_the_same_labels_and_only_the_gate_differs(finished):
    out, report, _ = finished
    on, off = (read_rounds(out / arm) for arm in (ON, OFF))
    assert on[0]["figure"] == off[0]["figure"]
    for one, other in zip(on[1:], off[1:], strict=True):
        assert [(row["case"], row["reader"], row["dice_to_truth"]) for row in one["labels"]] == [
            (row["case"], row["reader"], row["dice_to_truth"]) for row in other["labels"]
        ]
    trained = [outcome for outcome in report.of_gate(False)[0].rounds if outcome.change is not None]
    assert trained
    assert all(outcome.published for outcome in trained)
    assert sum(not outcome.published for outcome in report.of_gate(True)[0].rounds) > 0


def test_the_study_that_is_left_is_one_like_any_other(finished):
    out, _, _ = finished
    study = out / OFF / "study-02"
    assert compare_annotators(open_annotations(study)).cases == CONFIG.rounds * CONFIG.cases_per_round
    registry = ModelRegistry(models_folder(study), starter_folder=out / "seed-1" / "start")
    kinds = [event.kind for event in registry.history("nodule_click")]
    assert kinds
    assert set(kinds) == {"published"}


def test_nothing_of_the_figure_patients_is_in_a_study_or_its_old_cases(finished):
    out, _, _ = finished
    figure = set(read_rounds(out / ON)[0]["figure"])
    assert len(figure) == CONFIG.counts.figure
    for study in (out / ON / "study-02", out / OFF / "study-02"):
        regression = json.loads((study / ".medai" / "regression" / "nodule_click" / "set.json").read_text())
        names = {nodule["case_id"].split("#")[0] for nodule in regression["nodules"]}
        assert any(nodule["source"] == "real" for nodule in regression["nodules"])
        assert not figure & {*names, *(path.name.removesuffix(".nii.gz") for path in study.glob("*.nii.gz"))}
    outside = {path.name.removesuffix(".nii.gz") for path in (out / "outside").glob("*/images/*")}
    assert not figure & outside


def test_a_picture_and_a_page_are_drawn(finished, tmp_path):
    _, report, _ = finished
    png, page = draw_simulation(report, tmp_path)
    assert png.read_bytes().startswith(b"\x89PNG")
    text = page.read_text(encoding="utf-8")
    for words in ("malicious Mal", "What was to be shown", *(claim.words for claim in report.claims)):
        assert html.escape(words) in text
    tables = page.with_suffix(".md").read_text(encoding="utf-8")
    for words in ("| malicious Mal |", "## Rounds", *(claim.words for claim in report.claims)):
        assert words in tables
    json.dumps(report.to_json(), allow_nan=True)


def test_another_simulation_does_not_go_on_here(killed, tmp_path):
    data, out, _ = killed
    with pytest.raises(InputError, match=r"other settings \(epochs\)"):
        simulate_retraining(data, out, replace(CONFIG, epochs=2))
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="holds something else"):
        simulate_retraining(data, tmp_path, CONFIG)


def test_one_arm_is_played_by_one_process(tmp_path):
    from filelock import FileLock

    config = SessionConfig(seed=1, gate_is_on=True, epochs=1, starter_folder=tmp_path)
    with FileLock(tmp_path / ".lock"), pytest.raises(ConflictError, match="Another process simulates"):
        play_session(tmp_path, SessionCases(rounds=(), figure=()), config)
