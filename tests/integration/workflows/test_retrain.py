"""The retrain workflow on a real study folder and registry; the network is a fake that learns at once."""

import json
import multiprocessing
import os
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
from tests.support.fake_tracker import FakeTracker
from tests.support.lung_voxels import lung_hu

from medai.domain import LabelMap, Segment, Volume
from medai.errors import CancelledByUserError, ConflictError, InputError, ModelError, StorageError
from medai.evaluation.promotion import judge
from medai.geometry import VolumeGeometry
from medai.registry import STARTER, ModelRegistry, version_files
from medai.store.split import FrozenSplit
from medai.store.study import StudyStore
from medai.volume_io.writers import write_label_map, write_volume
from medai.workflows.families import CLICK_TASK, EpochFigures, Family, Lesson, OldExamples, RetrainConfig
from medai.workflows.labelled_nodules import collect_labelled_nodules
from medai.workflows.retrain import retrain
from medai.workflows.training_runs import latest_report, latest_stats

GEOMETRY = VolumeGeometry(
    shape_ijk=(20, 22, 24),
    affine_ijk_to_ras_mm=np.array([[-0.7, 0, 0, 5.0], [0, 0, 2.0, -7.0], [0, 0.8, 0, 9.0], [0, 0, 0, 1.0]]),
)


class FakeNetwork:
    """Trains and scores without a network: weights are a number, the Dice of every nodule."""

    def __init__(self, trained_dice):
        self.trained_dice = trained_dice
        self.trained_on = None
        self.judged_on = []

    def train(self, examples, *, start_from, output_folder, config, on_epoch, should_stop):
        self.trained_on = [example.case_id for example in examples]
        assert start_from.is_file()
        for epoch in range(1, config.epochs + 1):
            if should_stop():
                raise CancelledByUserError("stopped")
            on_epoch(EpochFigures(epoch=epoch, total_epochs=config.epochs, loss=1.0 / epoch))
        output_folder.mkdir(parents=True, exist_ok=True)
        path = output_folder / "challenger.safetensors"
        path.write_text(str(self.trained_dice))
        return path

    def score(self, weights_path, examples, *, device):
        self.judged_on.append([example.case_id for example in examples])
        return {example.case_id: float(weights_path.read_text()) for example in examples}

    @property
    def family(self):
        return Family(
            task=CLICK_TASK,
            measure="Dice",
            collect=collect_labelled_nodules,
            train=self.train,
            score=self.score,
            old_examples=self.old_examples,
        )

    old_examples = None


class ForgetfulNetwork(FakeNetwork):
    """Learns the study and loses the small nodules: the old ones are outlined worse than the champion did."""

    def __init__(self, trained_dice, *, old_dice):
        super().__init__(trained_dice)
        self.old_dice = old_dice

    def score(self, weights_path, examples, *, device):
        scores = super().score(weights_path, examples, device=device)
        is_challenger = weights_path.name == "challenger.safetensors"
        return {
            case_id: self.old_dice if is_challenger and case_id.startswith("old") else score
            for case_id, score in scores.items()
        }

    def old_examples(self, study, held_back, *, should_stop):
        old = tuple(replace(held_back[0], case_id=f"old {n}", patient_id=f"old {n}") for n in range(6))
        groups = {case.case_id: {"size": "<6 mm"} for case in old} | {held_back[0].case_id: {"study size": "<6 mm"}}
        return OldExamples(examples=(*old, held_back[0]), groups_of_case=groups)


@pytest.fixture
def registry(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    starter = tmp_path / "starters" / CLICK_TASK
    starter.mkdir(parents=True)
    (starter / "weights.safetensors").write_text("0.7")
    digest = version_files.sha256_of(starter / "weights.safetensors")
    (starter / "card.json").write_text(json.dumps({"weights_sha256": digest}))
    return ModelRegistry(tmp_path / "models", starter_folder=starter.parent)


def add_case(study, tmp_path, case_id, nodules=1, geometry=GEOMETRY):
    write_volume(Volume(geometry=GEOMETRY, image_hu=lung_hu(GEOMETRY.shape_ijk, -800)), tmp_path / f"{case_id}.nii.gz")
    study.add_image(tmp_path / f"{case_id}.nii.gz")
    labels = np.zeros(geometry.shape_ijk, np.uint8)
    for n in range(nodules):
        labels[3 : 7 + n, 2:6, 3 + 8 * n : 7 + 8 * n] = 1
    label_path = tmp_path / "label.nii.gz"
    write_label_map(LabelMap(geometry=geometry, labels=labels, segments=(Segment(value=1, name="nodule"),)), label_path)
    study.save_label(case_id, label_path, "final")


@pytest.fixture
def study(tmp_path):
    folder = tmp_path / "study"
    folder.mkdir()
    return StudyStore(folder)


@pytest.fixture
def labelled_study(study, tmp_path):
    for n in range(6):
        add_case(study, tmp_path, f"case{n}", nodules=1 + n % 2)
    return study


def run(study, registry, network, *, should_stop=lambda: False, on_progress=lambda _: None, epochs=3, tracker=None):
    return retrain(
        study,
        registry,
        RetrainConfig(epochs=epochs),
        on_progress=on_progress,
        should_stop=should_stop,
        family=network.family,
        tracker=tracker,
    )


def test_a_better_model_is_published_and_reported(labelled_study, registry):
    network = FakeNetwork(0.8)
    report = run(labelled_study, registry, network)
    champion = registry.champion(CLICK_TASK)
    assert report.published
    assert (report.former_version, report.version) == (STARTER, champion.version_id)
    assert champion.weights_path.read_text() == "0.8"
    assert report.champion_score == pytest.approx(0.7)
    assert report.challenger_score == pytest.approx(0.8)
    assert report.train_examples + report.held_back_examples == 9
    assert champion.card["trained_from"] == STARTER
    assert champion.verdict["reason"] == report.reason
    assert latest_report(labelled_study.folder) == json.loads(json.dumps(report.to_json()))
    assert latest_stats(labelled_study.folder)["best_metric"] == pytest.approx(0.8)
    assert latest_stats(labelled_study.folder)["stage"] == "done"


def test_a_gain_that_old_nodules_pay_for_is_refused_and_kept_in_the_history(labelled_study, registry):
    report = run(labelled_study, registry, ForgetfulNetwork(0.8, old_dice=0.6))
    assert not report.published
    assert "worse on old cases, size <6 mm: mean Dice 0.700 → 0.600" in report.reason
    (event,) = registry.history(CLICK_TASK)
    assert (str(event.kind), event.former, event.run_id) == ("refused", STARTER, report.run_id)
    assert event.reason == report.reason
    assert event.verdict == json.loads(json.dumps(report.verdict.to_json()))
    assert [(s["by"], s["figures"]["case_count"]) for s in event.verdict["subgroups"]] == [
        ("size", 6),
        ("study size", 1),
    ]


def test_a_gain_without_a_loss_on_old_nodules_is_published(labelled_study, registry):
    network = ForgetfulNetwork(0.8, old_dice=0.69)
    report = run(labelled_study, registry, network)
    assert report.published
    # The old nodules do not count for the mean that is shown, and one that judges today is scored once.
    assert report.challenger_score == pytest.approx(0.8)
    assert len(set(network.judged_on[1])) == len(network.judged_on[1])
    assert [str(event.kind) for event in registry.history(CLICK_TASK)] == ["published"]


class DriftingNetwork(ForgetfulNetwork):
    """Gains on the study and loses a little on the old nodules: its weights are the Dice of both."""

    def train(self, examples, **named):
        path = super().train(examples, **named)
        path.write_text(f"{self.trained_dice} {self.old_dice}")
        return path

    def score(self, weights_path, examples, *, device):
        study, *old = weights_path.read_text().split()
        old_dice = float(old[0]) if old else 0.94
        return {e.case_id: old_dice if e.case_id.startswith("old") else float(study) for e in examples}

    def old_examples(self, study, held_back, *, should_stop):
        found = super().old_examples(study, held_back, should_stop=should_stop)
        return replace(found, truth_of_case={case.case_id: "as it was" for case in found.examples})


def test_losses_that_are_small_each_are_added_up_over_trainings(labelled_study, registry):
    reports = [
        run(labelled_study, registry, DriftingNetwork(0.71 + 0.01 * n, old_dice=0.94 - 0.008 * (n + 1)))
        for n in range(3)
    ]
    assert [report.published for report in reports] == [True, True, False]
    assert "small losses add up on old cases, size <6 mm: mean Dice 0.940 (starter) → 0.916" in reports[2].reason
    told = registry.history(CLICK_TASK)[-1].verdict
    assert told["subgroups"][0]["drift"]["version_id"] == STARTER
    assert told["old_cases"]["truth_of_case"]["old 1"] == "as it was"
    # Going back leaves what was lost behind: the first champion is the present one again.
    registry.rollback(CLICK_TASK)
    registry.rollback(CLICK_TASK)
    assert registry.champion(CLICK_TASK).version_id == STARTER
    assert run(labelled_study, registry, DriftingNetwork(0.72, old_dice=0.93)).published


def test_the_card_names_the_labels_to_the_byte(labelled_study, registry):
    run(labelled_study, registry, FakeNetwork(0.8))
    card = registry.champion(CLICK_TASK).card
    assert set(card["label_sha256"]) == {*card["trained_on"], *card["judged_on"]}
    for case_id, digest in card["label_sha256"].items():
        assert digest == version_files.sha256_of(labelled_study.label_path(case_id, "final"))
    assert card["split_sha256"] == version_files.sha256_of(labelled_study.folder / ".medai" / "split.json")
    assert card["training_config"] == {"epochs": 3, "device": "auto", "seed": 1}


def test_a_tracker_is_told_parameters_curves_and_the_verdict(labelled_study, registry):
    tracker = FakeTracker()
    report = run(labelled_study, registry, FakeNetwork(0.6), tracker=tracker)
    assert tracker.told == ["begin", "curves", "curves", "curves", "verdict", "end finished"]
    assert tracker.run.run_id == report.run_id
    assert tracker.run.parameters["epochs"] == 3
    assert tracker.points[1] == (2, {"train_loss": 0.5})
    assert tracker.figures["challenger_score"] == pytest.approx(0.6)
    assert tracker.tags["verdict"] == "refused"
    assert tracker.verdict_told["reason"] == report.reason


def test_a_tracker_is_told_of_a_stop(labelled_study, registry):
    tracker = FakeTracker()
    with pytest.raises(CancelledByUserError):
        run(labelled_study, registry, FakeNetwork(0.8), tracker=tracker, should_stop=lambda: bool(tracker.points))
    assert tracker.told == ["begin", "curves", "end stopped"]


def test_a_tracker_is_not_told_of_a_training_without_labels(study, registry):
    tracker = FakeTracker()
    with pytest.raises(InputError, match="No case of this study"):
        run(study, registry, FakeNetwork(0.8), tracker=tracker)
    assert tracker.told == []


def test_a_refusal_that_cannot_be_kept_is_in_the_report(labelled_study, registry, monkeypatch, caplog):
    def no_space(*_args, **_named):
        raise StorageError("No space left on device")

    monkeypatch.setattr(registry, "record_refusal", no_space)
    report = run(labelled_study, registry, FakeNetwork(0.6))
    assert not report.published
    assert latest_report(labelled_study.folder)["reason"] == report.reason
    assert "is in the report of run" in caplog.text


@pytest.mark.parametrize(("end", "kept"), [(KeyboardInterrupt, True), (CancelledByUserError, False)])
def test_ctrl_c_keeps_what_the_next_training_goes_on_from(labelled_study, registry, monkeypatch, end, kept):
    def stop(*_args, **_named):
        raise end("stop")

    network = FakeNetwork(0.8)
    monkeypatch.setattr(network, "train", stop)
    with pytest.raises(end):
        run(labelled_study, registry, network)
    trainings = labelled_study.folder / ".medai" / "training"
    assert len(list(trainings.glob("*/work/job.json"))) == kept
    assert run(labelled_study, registry, FakeNetwork(0.8)).resumed == kept
    assert list(trainings.glob("*/work")) == []


def test_no_patient_trains_and_judges(labelled_study, registry):
    network = FakeNetwork(0.8)
    run(labelled_study, registry, network)
    placed = FrozenSplit(labelled_study.folder).place_cases(labelled_study.image_ids())
    assert {placed[nodule.split("#")[0]] for nodule in network.trained_on} == {"train"}
    assert {placed[nodule.split("#")[0]] for nodule in network.judged_on[0]} == {"validation"}
    assert network.judged_on[0] == network.judged_on[1]


def test_the_judges_stay_when_labels_arrive(labelled_study, registry, tmp_path):
    network = FakeNetwork(0.8)
    run(labelled_study, registry, network)
    before = set(network.judged_on[0])
    for n in range(6, 10):
        add_case(labelled_study, tmp_path, f"case{n}")
    again = FakeNetwork(0.9)
    run(labelled_study, registry, again)
    assert before <= set(again.judged_on[0])
    assert not before & set(again.trained_on)


def test_test_patients_neither_train_nor_judge_and_are_reported_apart(labelled_study, registry, tmp_path):
    for n in range(6, 16):
        add_case(labelled_study, tmp_path, f"case{n}")
    placed = FrozenSplit(labelled_study.folder).place_cases(labelled_study.image_ids())
    test = {case_id for case_id, subset in placed.items() if subset == "test"}
    assert test
    network = FakeNetwork(0.8)
    report = run(labelled_study, registry, network)
    champion = registry.champion(CLICK_TASK)
    learned = {nodule.split("#")[0] for nodule in network.trained_on}
    assert not test & (learned | set(champion.card["trained_on"]) | set(champion.card["judged_on"]))
    assert not test & {nodule.split("#")[0] for nodule in report.verdict.challenger_score}
    # Judged twice for the verdict, and only then on the test patients.
    assert [{nodule.split("#")[0] for nodule in asked} == test for asked in network.judged_on] == [False] * 2 + [
        True
    ] * 2
    assert report.test_examples == len(network.judged_on[2])
    assert (report.champion_test_score, report.challenger_test_score) == (pytest.approx(0.7), pytest.approx(0.8))


def test_a_small_study_has_no_test_figures(labelled_study, registry):
    report = run(labelled_study, registry, FakeNetwork(0.8))
    assert (report.test_examples, report.champion_test_score, report.challenger_test_score) == (0, None, None)


def test_the_plan_is_told_what_the_champion_has_learned_from(labelled_study, registry):
    network, told = FakeNetwork(0.8), []

    def plan(examples, *, trained_before, annotation_of, **named):
        told.append((trained_before, annotation_of))
        return Lesson(examples=examples.train[:1], train=network.train)

    for _ in range(2):
        retrain(
            labelled_study,
            registry,
            RetrainConfig(epochs=1),
            on_progress=lambda _: None,
            should_stop=lambda: False,
            family=replace(network.family, plan=plan),
            annotation_of=len,
        )
    assert told[0] == (frozenset(), len)
    assert told[1][0] == set(registry.champion(CLICK_TASK).card["trained_on"])
    assert len(network.trained_on) == 1


@pytest.mark.parametrize("dice", [0.6, 0.7, 0.701])
def test_a_model_that_is_not_better_is_refused(labelled_study, registry, dice):
    report = run(labelled_study, registry, FakeNetwork(dice))
    assert not report.published
    assert report.reason.startswith("Refused")
    assert report.version == report.former_version == STARTER
    assert registry.champion(CLICK_TASK).version_id == STARTER
    assert latest_stats(labelled_study.folder)["best_metric"] == pytest.approx(0.7)


def test_the_next_round_starts_from_the_new_champion(labelled_study, registry):
    first = run(labelled_study, registry, FakeNetwork(0.8))
    second = run(labelled_study, registry, FakeNetwork(0.75))
    assert second.former_version == first.version
    assert not second.published
    assert registry.champion(CLICK_TASK).version_id == first.version


def test_progress_tells_every_stage_and_epoch(labelled_study, registry):
    seen = []
    run(labelled_study, registry, FakeNetwork(0.8), on_progress=seen.append)
    stages = [progress.stage for progress in seen]
    assert stages == ["collect", "judge champion", *["train"] * 4, "judge challenger", "publish", "done"]
    epochs = [progress for progress in seen if progress.stage == "train"]
    assert [progress.epoch for progress in epochs] == [0, 1, 2, 3]
    assert [progress.loss for progress in epochs] == [None, 1.0, 0.5, pytest.approx(1 / 3)]
    assert epochs[-1].eta_s == 0.0
    assert epochs[1].score == pytest.approx(0.7)
    assert seen[-1].score == pytest.approx(0.8)


@pytest.mark.parametrize("stop_after", [*range(9), 13, 14])
def test_stopped_at_any_moment_the_champion_stays(labelled_study, registry, stop_after):
    asked = 0

    def should_stop():
        nonlocal asked
        asked += 1
        return asked > stop_after

    # Asked five times by the stages, six times by the cases and three times by the fake's epochs.
    if stop_after < 5 + 6 + 3:
        with pytest.raises(CancelledByUserError, match="stopped"):
            run(labelled_study, registry, FakeNetwork(0.8), should_stop=should_stop)
        assert registry.champion(CLICK_TASK).version_id == STARTER
        assert latest_report(labelled_study.folder) == {}
    else:
        assert run(labelled_study, registry, FakeNetwork(0.8), should_stop=should_stop).published
    assert not list((labelled_study.folder / ".medai" / "training").glob("*/work"))


def test_without_labels_nothing_is_trained(study, registry):
    network = FakeNetwork(0.8)
    with pytest.raises(InputError, match=r"No case of this study has a usable submitted label.*at least two patients"):
        run(study, registry, network)
    assert network.trained_on is None


def test_one_patient_is_too_few_and_two_are_enough(study, registry, tmp_path):
    add_case(study, tmp_path, "only")
    with pytest.raises(InputError, match=r"1 case has a usable submitted label, but no patient is"):
        run(study, registry, FakeNetwork(0.8))
    add_case(study, tmp_path, "other")
    assert run(study, registry, FakeNetwork(0.8)).published


def test_unusable_labels_are_left_out_with_the_reason(labelled_study, registry, tmp_path):
    elsewhere = VolumeGeometry(shape_ijk=(20, 22, 24), affine_ijk_to_ras_mm=np.diag([3.0, 3.0, 3.0, 1.0]))
    add_case(labelled_study, tmp_path, "other_grid", geometry=elsewhere)
    add_case(labelled_study, tmp_path, "empty", nodules=0)
    add_case(labelled_study, tmp_path, "damaged")
    labelled_study.label_path("damaged", "final").write_bytes(b"not an image")
    add_case(labelled_study, tmp_path, "markup")
    (tmp_path / "markup.json").write_text("{}")
    labelled_study.save_label("markup", tmp_path / "markup.json", "final")
    network = FakeNetwork(0.8)
    report = run(labelled_study, registry, network)
    assert set(report.skipped) == {"other_grid", "empty", "damaged", "markup"}
    assert "another grid" in report.skipped["other_grid"]
    assert "holds no nodule" in report.skipped["empty"]
    assert "detection markup" in report.skipped["markup"]
    assert all(nodule.startswith("case") for nodule in network.trained_on)


def test_a_model_published_meanwhile_is_not_overwritten(labelled_study, registry):
    class Overtaken(FakeNetwork):
        def train(self, examples, **named):
            path = super().train(examples, **named)
            registry.publish(CLICK_TASK, path, {}, judge({"a": 0.7}, {"a": 0.9}, rng=np.random.default_rng(0)))
            return path

    with pytest.raises(ConflictError, match="has been published since"):
        run(labelled_study, registry, Overtaken(0.8))
    assert registry.champion(CLICK_TASK).card["predecessor"] == STARTER


def test_no_champion_is_an_error(labelled_study, tmp_path):
    registry = ModelRegistry(tmp_path / "models", starter_folder=tmp_path / "none")
    with pytest.raises(ModelError, match="no weights"):
        run(labelled_study, registry, FakeNetwork(0.8))


def test_epochs_below_one_are_refused():
    with pytest.raises(InputError, match="0 epochs"):
        RetrainConfig(epochs=0)


def test_a_lung_left_in_the_label_is_not_a_nodule(labelled_study, registry, tmp_path):
    geometry = VolumeGeometry(shape_ijk=(20, 22, 24), affine_ijk_to_ras_mm=np.diag([7.0, 7.0, 7.0, 1.0]))
    write_volume(Volume(geometry=geometry, image_hu=lung_hu((20, 22, 24))), tmp_path / "lung.nii.gz")
    labelled_study.add_image(tmp_path / "lung.nii.gz")
    labels = np.zeros((20, 22, 24), np.uint8)
    labels[1:19, 1:19, 1:19] = 1
    labels[19, 19:21, 19:22] = 2
    segments = (Segment(value=1, name="lung"), Segment(value=2, name="nodule"))
    write_label_map(LabelMap(geometry=geometry, labels=labels, segments=segments), tmp_path / "label.nii.gz")
    labelled_study.save_label("lung", tmp_path / "label.nii.gz", "final")
    report = run(labelled_study, registry, FakeNetwork(0.8))
    assert report.train_examples + report.held_back_examples == 9 + 1


def test_killed_at_random_moments_the_next_training_runs(labelled_study, registry, rng):
    def retrain_without_end():
        # Each champion is beaten by the next one, so that every training publishes.
        while True:
            run(labelled_study, registry, FakeNetwork(_dice_served(registry) + 0.003))

    one_run_s = run(labelled_study, registry, FakeNetwork(0.71)).seconds
    dice, version_ids, kills = _dice_served(registry), set(), 0
    while kills < 12 or len(version_ids) <= 2:
        kills += 1
        assert kills < 60, "nothing is ever published before the kill"
        child = multiprocessing.get_context("fork").Process(target=retrain_without_end)
        child.start()
        # A busy machine takes longer: wait longer as kills go by.
        time.sleep(float(rng.uniform(0.0, 2.5 * one_run_s * max(1.0, kills / 12))))
        os.kill(child.pid, signal.SIGKILL)
        child.join(30)
        fresh = ModelRegistry(registry.folder, starter_folder=registry._starter_folder)
        assert _dice_served(fresh) >= dice
        dice = _dice_served(fresh)
        version_ids.add(fresh.champion(CLICK_TASK).version_id)
    assert run(labelled_study, registry, FakeNetwork(0.99)).published
    assert not list((labelled_study.folder / ".medai" / "training").glob("*/work"))


def _dice_served(registry):
    return float(registry.champion(CLICK_TASK).weights_path.read_text())
