"""The whole trip, in order, on a study of its own: next case, propose, click, submit, retrain, click again.

And the same with two annotators at once.
"""

import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from monailabel.client.client import MONAILabelClientException
from tests.support.scan_factory import GRID_NAMES, SyntheticNodule, SyntheticScan, make_scan, named_geometry, write_file
from tests.support.server_process import ServerProcess
from tests.support.slicer_annotator import SlicerAnnotator
from tests.support.slicer_checks import assert_shown_as_sent, dice, stored_masks
from tests.support.slicer_client import SlicerScene

from medai.evaluation.promotion import PromotionRules, judge
from medai.volume_io.readers import read_label_map
from medai.workflows.models import open_registry

pytestmark = [pytest.mark.server, pytest.mark.slicer]
TRAINER = "nodule_click"
GRIDS = {f"case_{n}": grid for n, grid in enumerate((*GRID_NAMES, "mirrored") * 2)}
"""Eight cases: the second annotator of the first tests keeps up to three of them reserved."""


@pytest.fixture(scope="module")
def cases() -> dict[str, SyntheticScan]:
    rng = np.random.default_rng(20240302)
    return {case: make_scan(named_geometry(grid), rng) for case, grid in GRIDS.items()}


@pytest.fixture(scope="module")
def folder(
    _slicer_process: SlicerScene, cases: dict[str, SyntheticScan], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("story")
    for case, scan in cases.items():
        write_file(scan.volume.image_hu, scan.geometry, folder / f"{case}.nii.gz")
    return folder


@pytest.fixture(scope="module")
def story_server(folder: Path) -> Iterator[ServerProcess]:
    with ServerProcess(folder) as process:
        yield process


@pytest.fixture
def ann(story_server: ServerProcess, slicer_scene: SlicerScene, tmp_path: Path) -> SlicerAnnotator:
    annotator = SlicerAnnotator(slicer_scene, story_server.url, tmp_path, client_id="ann")
    annotator.fetch_info()
    return annotator


@pytest.mark.parametrize("strategy", ["random", "first", "uncertainty"])
def test_two_annotators_never_get_the_same_case(ann: SlicerAnnotator, tmp_path: Path, strategy: str) -> None:
    bea = SlicerAnnotator(ann.scene, ann.server_url, tmp_path, client_id=f"bea_{strategy}")
    given: dict[str, str] = {}
    start = threading.Barrier(2)

    def ask(annotator: SlicerAnnotator) -> None:
        client = annotator.client()
        start.wait(timeout=60)
        given[annotator.client_id] = client.next_sample(strategy, {}).get("id", "")

    threads = [threading.Thread(target=ask, args=(annotator,)) for annotator in (ann, bea)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert set(given.values()) <= set(GRIDS)
    assert len(set(given.values())) == 2


def _segment_at(ann: SlicerAnnotator, names: list[str], scan: SyntheticScan, nodule: SyntheticNodule) -> str:
    """The proposed segment that covers most of a nodule."""
    return max(names, key=lambda name: np.count_nonzero(ann.scene.segment_mask(name, scan.geometry) & nodule.mask))


@pytest.mark.timeout(1200)
def test_the_loop(ann: SlicerAnnotator, folder: Path, cases: dict[str, SyntheticScan]) -> None:
    seen: list[str] = []
    while len(seen) < 4:
        sample = ann.next_sample("first")
        assert sample["id"] not in seen, "a labelled case was handed out again"
        seen.append(sample["id"])
        scan = cases[sample["id"]]
        proposal = ann.segment(ann.auto_model())
        # The annotator picks the segment that holds the nodule and clicks into it once more.
        chosen = [_segment_at(ann, proposal.names, scan, nodule) for nodule in scan.nodules]
        assert len(set(chosen)) == len(scan.nodules)
        for name, nodule in zip(chosen, scan.nodules, strict=True):
            reply = ann.click("nodule_click", name, [nodule.centre_ras_mm])
            assert_shown_as_sent(ann, reply, name, 1, scan.geometry)
        ann.submit()
        stored = stored_masks(folder, ann, sample["id"], scan.geometry)
        for name, nodule in zip(chosen, scan.nodules, strict=True):
            assert dice(stored[name], nodule.mask) > 0.6
        assert ann.info["datastore"]["completed"] == len(seen)

    assert not ann.is_training()
    ann.train(TRAINER, max_epochs=1)
    with pytest.raises(MONAILabelClientException) as refusal:
        ann.train(TRAINER, max_epochs=1)
    assert "Status: 4" in refusal.value.msg
    clicked: list[int] = []

    def click_meanwhile() -> None:
        reply = ann.click("nodule_click", "nodule", [cases[seen[-1]].nodules[0].centre_ras_mm])
        clicked.append(int(np.count_nonzero(read_label_map(reply.path).labels)))

    status, percents = ann.watch_training(timeout_s=900, on_poll=click_meanwhile)
    assert status["status"] == "DONE", status
    assert 1.0 in percents
    assert max(percents) <= 100.0
    assert min(clicked) > 0
    stats = ann.info["train_stats"][TRAINER]
    assert stats["total_epochs"] == 1
    assert 0.0 <= stats["best_metric"] <= 1.0

    sample = ann.next_sample("uncertainty")
    assert sample["id"] not in seen
    scan = cases[sample["id"]]
    reply = ann.click("nodule_click", "nodule", [scan.nodules[1].centre_ras_mm])
    assert_shown_as_sent(ann, reply, "nodule", 1, scan.geometry)
    assert dice(ann.scene.segment_mask("nodule", scan.geometry), scan.nodules[1].mask) > 0.6


def test_a_training_can_be_stopped(ann: SlicerAnnotator) -> None:
    # Earlier tests have submitted labels; 500 passes would take hours.
    ann.train(TRAINER, max_epochs=500)
    assert ann.is_training()
    stopped = ann.client().train_stop()
    assert stopped["details"]
    status, _ = ann.watch_training(timeout_s=300)
    assert status["status"] != "DONE", status
    assert not ann.is_training()


def test_the_training_bar_starts_empty(ann: SlicerAnnotator) -> None:
    ann.train(TRAINER, max_epochs=500)
    stats = next(iter(ann.client().info()["train_stats"].values()), {})
    ann.client().train_stop()
    ann.watch_training(timeout_s=300)
    # The module's own arithmetic, with its own defaults.
    current = 0 if stats.get("total_time") else stats.get("epoch", 1)
    assert 100 * current / stats.get("total_epochs", 1) < 1.0
    assert stats["total_epochs"] == 500


def test_a_model_published_meanwhile_answers_the_next_click(
    ann: SlicerAnnotator, folder: Path, cases: dict[str, SyntheticScan]
) -> None:
    ann.open_case(folder, "case_0")
    before = ann.click("nodule_click", "nodule", [cases["case_0"].nodules[0].centre_ras_mm])
    registry = open_registry(folder)
    verdict = judge(
        {"case": 0.6}, {"case": 0.8}, patient_of_case={"case": "patient"}, rules=PromotionRules(),
        rng=np.random.default_rng(1),
    )  # fmt: skip
    better = registry.publish("nodule_click", registry.champion("nodule_click").weights_path, {}, verdict)
    after = ann.click("nodule_click", "nodule", [cases["case_0"].nodules[0].centre_ras_mm])
    assert before.params["model_version"] != better.version_id
    assert after.params["model_version"] == better.version_id
    assert_shown_as_sent(ann, after, "nodule", 1, cases["case_0"].geometry)


def test_answers_kept_for_every_case_are_there_when_it_is_opened(
    ann: SlicerAnnotator, story_server: ServerProcess, folder: Path, cases: dict[str, SyntheticScan]
) -> None:
    request = urllib.request.Request(f"{story_server.url}/batch/infer/lungs?images=all&run_sync=true", method="POST")
    with urllib.request.urlopen(request, timeout=120) as response:
        assert response.status == 200
    for case in ("case_1", "case_3"):
        ann.open_case(folder, case)
        assert ann.scene.segment_names() == ["right lung", "left lung", "nodule"]
        geometry = cases[case].geometry
        for name, value in (("right lung", 1), ("left lung", 2)):
            assert dice(ann.scene.segment_mask(name, geometry), cases[case].lungs == value) > 0.85
