"""Real processes killed at random moments of submit, publish, rollback, train, evaluate and convert.

After each kill: what answered before answers, nothing that was acknowledged is lost, and nothing half written is used.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.integration.faults.conftest import FEW, MANY
from tests.integration.server.conftest import make_study
from tests.integration.server.test_submit_killed import recorder_of
from tests.support.kills import Victims

from medai.domain import LabelMap, Segment, Volume
from medai.geometry import VolumeGeometry
from medai.networks.checkpoint import load_checkpoint, save_checkpoint
from medai.networks.engine import TorchEngine, load_engine
from medai.networks.factory import build_network, network_tensors, restore_network
from medai.registry import STARTER, ModelRegistry, version_files
from medai.registry.history import EventKind
from medai.store.annotation_files import ABOUT_SUFFIX
from medai.store.study import StudyStore
from medai.volume_io.readers import read_label_map
from medai.volume_io.writers import write_label_map, write_volume
from medai.workflows.training_runs import latest_stats

pytestmark = pytest.mark.timeout(7200)
"""Many kills take longer than other tests may."""

TASK = "nodule_click"
CASE = "case.axial"
WEIGHTS_BYTES = 3_000_000
EPOCHS = 3

GEOMETRY = VolumeGeometry(
    shape_ijk=(40, 44, 30),
    affine_ijk_to_ras_mm=np.array([[-0.8, 0, 0, 5.0], [0, 0.9, 0, -7.0], [0, 0, 1.5, 9.0], [0, 0, 0, 1.0]]),
)


@pytest.fixture(scope="module")
def victims(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victims]:
    """Children that only touch files."""
    with Victims(
        ["medai.server.annotation_recorder", "medai.registry", "medai.evaluation.promotion"],
        environment={"XDG_STATE_HOME": str(tmp_path_factory.mktemp("state"))},
    ) as victims:
        yield victims


@pytest.fixture(scope="module")
def trainers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victims]:
    """Children that train and convert networks: with torch loaded, which takes longer than what they do."""
    modules = [
        "torch",
        "monai.engines",
        "monai.handlers",
        "monai.losses",
        "openvino",
        "medai.workflows.click_challenger",
    ]
    environment = {
        "XDG_STATE_HOME": str(tmp_path_factory.mktemp("state")),
        "MEDAI_REAL_DATA": "",
        # A forked child must not wait for threads that its parent had.
        "OMP_NUM_THREADS": "1",
    }
    with Victims(modules, environment=environment) as victims:
        yield victims


def make_starter(folder: Path) -> Path:
    """A small click network, as the packaged starters lie; returns the folder of starters."""
    import torch

    network = {"channels_in": 5, "channels_out": 2, "channels": [2, 4], "blocks": [1, 1]}
    config = {"network": "residual_unet", "network_options": network, "task": TASK, "patch_shape": [32, 32, 32]}
    config |= {"spacing_mm": 0.9, "fill": 0.55, "finest_mm": 0.5, "coarsest_mm": 2.4}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        save_checkpoint(folder / TASK / "weights.safetensors", network_tensors(build_network(config)), config)
    digest = version_files.sha256_of(folder / TASK / "weights.safetensors")
    (folder / TASK / "card.json").write_text(json.dumps({"weights_sha256": digest}))
    return folder


def make_labelled_study(folder: Path, rng: np.random.Generator) -> Path:
    """Four cases of one nodule each, with their submitted labels."""
    folder.mkdir()
    store = StudyStore(folder)
    points = GEOMETRY.ijk_to_ras(np.stack(np.indices(GEOMETRY.shape_ijk), axis=-1))
    for n in range(4):
        nodule = np.linalg.norm(points - GEOMETRY.ijk_to_ras((20, 22, 15)), axis=-1) <= 5.0 + n
        image_hu = np.where(nodule, 30, -850) + rng.normal(0, 20, GEOMETRY.shape_ijk)
        write_volume(Volume(geometry=GEOMETRY, image_hu=image_hu.astype(np.int16)), folder / f"case{n}.nii.gz")
        label_map = LabelMap(
            geometry=GEOMETRY, labels=nodule.astype(np.uint8), segments=(Segment(value=1, name="nodule"),)
        )
        write_label_map(label_map, folder.parent / "label.nii.gz")
        store.save_label(f"case{n}", folder.parent / "label.nii.gz", "final")
    return folder


def make_nodule_folder(folder: Path) -> Path:
    """Two balls with outlines, in the layout of nodules cut out of their scans."""
    rows = ["case_id,patient_id,texture"]
    for name, centre, radius in (("near", (14, 16, 8), 5), ("far", (20, 22, 12), 7)):
        nodule = np.sum((np.moveaxis(np.indices(GEOMETRY.shape_ijk), 0, -1) - centre) ** 2, axis=-1) <= radius**2
        (folder / "images").mkdir(parents=True, exist_ok=True)
        (folder / "masks").mkdir(exist_ok=True)
        image_hu = np.where(nodule, 30, -850).astype(np.int16)
        write_volume(Volume(geometry=GEOMETRY, image_hu=image_hu), folder / "images" / f"{name}.nii.gz")
        label_map = LabelMap(
            geometry=GEOMETRY, labels=nodule.astype(np.uint8), segments=(Segment(value=1, name="nodule"),)
        )
        write_label_map(label_map, folder / "masks" / f"{name}.nii.gz")
        rows.append(f"{name},{name},5")
    (folder / "nodules.csv").write_text("\n".join(rows) + "\n")
    return folder


def check_served(registry: ModelRegistry) -> str:
    """A new process finds a whole champion, and the history ends with what made it one; returns its version."""
    fresh = ModelRegistry(registry.folder, starter_folder=registry._starter_folder, keep=3)
    champion = fresh.champion(TASK)
    assert version_files.sha256_of(champion.weights_path) == champion.card["weights_sha256"]
    decided = [event.version_id for event in fresh.history(TASK) if event.kind.is_publish]
    assert champion.version_id == (decided[-1] if decided else STARTER)
    return champion.version_id


def check_submitted(study: Path, answered: set[int]) -> None:
    """After a restart every answered label is in the history, once and whole, and the study shows the latest."""
    recorder = recorder_of(study)
    recorder.resume()
    found = recorder.log.of_case(CASE)
    numbers = [int(np.count_nonzero(read_label_map(recorder.log.path(each)).labels)) - 1 for each in found]
    assert len(set(numbers)) == len(numbers)
    assert answered <= set(numbers)
    if found:
        store = StudyStore(study)
        assert store.label_path(CASE, "final").read_bytes() == recorder.log.path(found[-1]).read_bytes()
        assert store.label_info(CASE, "final")["number"] == numbers[-1]
    assert list(recorder.log.folder.glob(f"*/*{ABOUT_SUFFIX}")) == []
    recorder.close()


def test_submissions_killed_lose_no_answered_label(victims, tmp_path, kills, rng):
    study, answered = make_study(tmp_path / "study"), set()
    for kill in itertools.count():
        ended = victims.kill(
            "submit", study=str(study), folder=str(tmp_path), case_id=CASE, first=80 * kill, rng=rng, within_s=0.6
        )
        answered |= set(ended.values("number"))
        check_submitted(study, answered)
        if kill >= kills - 1 and len(answered) >= kills // 2:
            break


def test_publishes_killed_leave_a_whole_champion(victims, tmp_path, kills, rng, caplog):
    registry = ModelRegistry(tmp_path / "models", starter_folder=make_starter(tmp_path / "starters"), keep=3)
    arguments = {
        "models": str(registry.folder),
        "starters": str(tmp_path / "starters"),
        "task": TASK,
        "folder": str(tmp_path),
        "size": WEIGHTS_BYTES,
    }
    number, published = 0, 0
    for kill in itertools.count():
        ended = victims.kill("publish", rng=rng, within_s=0.4, **arguments)
        published += len(ended.values("version_id"))
        served = version_files.version_number(check_served(registry))
        assert served >= max([number, *map(version_files.version_number, ended.values("version_id"))])
        number = served
        if kill >= kills - 1 and published:
            break
    assert "passed over" not in caplog.text
    assert len(registry.versions(TASK)) <= 1 + 3 + 1


def test_rollbacks_killed_leave_a_whole_champion(victims, tmp_path, kills, rng, caplog):
    registry = ModelRegistry(tmp_path / "models", starter_folder=make_starter(tmp_path / "starters"), keep=3)
    arguments = {"models": str(registry.folder), "starters": str(tmp_path / "starters"), "task": TASK}
    while len(registry.versions(TASK)) < 4:
        victims.kill("publish", rng=rng, within_s=2.0, folder=str(tmp_path), size=1000, **arguments)
    on_disk = {version.version_id for version in registry.versions(TASK)}
    rolled = 0
    for kill in itertools.count():
        ended = victims.kill("rollback", rng=rng, within_s=0.2, **arguments)
        rolled += len(ended.values("version_id"))
        assert check_served(registry) in on_disk
        assert {version.version_id for version in registry.versions(TASK)} >= on_disk
        if kill >= kills - 1 and rolled:
            break
    kinds = {event.kind for event in registry.history(TASK)}
    assert EventKind.ROLLED_BACK in kinds
    assert "passed over" not in caplog.text


@pytest.mark.parametrize(
    ("stages", "kills"),
    [
        pytest.param(("judge champion",), 1, id="one"),
        pytest.param(("judge champion", "train", "judge challenger"), FEW, id="few", marks=pytest.mark.slow),
        pytest.param(("train",), MANY, id="many-train", marks=pytest.mark.slow),
        pytest.param(("judge champion", "judge challenger"), MANY, id="many-evaluate", marks=pytest.mark.slow),
    ],
)
def test_trainings_killed_go_on_and_the_champion_stays(trainers, tmp_path, stages, kills, rng, caplog):
    study = make_labelled_study(tmp_path / "study", rng)
    registry = ModelRegistry(tmp_path / "models", starter_folder=make_starter(tmp_path / "starters"))
    arguments = {
        "study": str(study),
        "models": str(registry.folder),
        "starters": str(tmp_path / "starters"),
        "epochs": EPOCHS,
    }
    whole = trainers.run("retrain", seed=1, once=True, **arguments)
    assert whole.code == 0, whole
    began_s = {said["stage"]: said["at_s"] for said in reversed(whole.said) if "stage" in said}
    # However busy the machine is: at any moment of the training, and a little beyond.
    train_s = 1.2 * (began_s["judge challenger"] - began_s["train"])
    resumed, seed = 0, 1
    for kill, stage in enumerate(itertools.islice(itertools.cycle(stages), kills)):
        seed += 1
        before = check_served(registry)
        ended = trainers.kill(
            "retrain",
            seed=seed,
            rng=rng,
            within_s=train_s if stage == "train" else 0.5,
            since=lambda said, stage=stage: said.get("stage") == stage,
            counted_as="train" if stage == "train" else "evaluate",
            **arguments,
        )
        assert ended.values("error") == []
        served = check_served(registry)
        if not ended.values("published"):
            # The one that was cut off while it published may answer, and only then whole.
            assert served == before or "publish" in ended.values("stage")
        if "train" in ended.values("stage"):
            assert latest_stats(study)["stage"] in ended.values("stage")
        if stage != "train" and kill % 4:
            # The next one to be killed begins where this one has left the study.
            continue
        # The same training again: it goes on from the epoch that was last on the disk, or begins anew, and ends.
        seed = ended.values("seed")[-1]
        last_run = ended.said[max(n for n, said in enumerate(ended.said) if "begun" in said) :]
        epochs = [said["epoch"] for said in last_run if said.get("stage") == "train"]
        again = trainers.run("retrain", seed=seed, once=True, **arguments)
        assert again.code == 0, again
        assert again.values("error") == []
        if served == before and max(epochs, default=0) >= 2 and not any("published" in said for said in last_run):
            assert again.values("resumed") == [True]
            resumed += 1
        assert list((study / ".medai" / "training").glob("*/work")) == []
        assert again.values("version_id") == [check_served(registry)]
    assert "passed over" not in caplog.text
    assert resumed or "train" not in stages or kills == FEW


def test_conversions_killed_leave_no_network_that_answers_otherwise(trainers, tmp_path, kills, rng):
    weights = make_starter(tmp_path / "starters") / TASK / "weights.safetensors"
    checkpoint = load_checkpoint(weights)
    batch = np.random.default_rng(0).uniform(-1, 1, (1, 5, 16, 20, 24)).astype(np.float32)
    expected = TorchEngine(restore_network(checkpoint), checkpoint.config, "cpu").run(batch)
    cache, found = tmp_path / "engines", 0
    for _ in range(kills):
        trainers.kill("convert", rng=rng, within_s=0.6, weights=str(weights), cache=str(cache))
        whole = [path for path in cache.glob("[!.]*") if path.is_dir()]
        found += len(whole)
        # One that was cut off while it was forgotten may lack its files; one that has them answers like torch.
        engine = load_engine(weights, device="cpu", cache_folder=cache)
        assert engine.description.startswith("OpenVINO")
        assert np.max(np.abs(engine.run(batch) - expected)) < 1e-3


def test_evaluations_killed_leave_whole_figures_and_pictures(trainers, tmp_path, kills, rng):
    data, target = make_nodule_folder(tmp_path / "data"), tmp_path / "figures.json"
    written = None
    for kill in range(kills + 1):
        # The first one is let come to figures: all later ones have something to lose.
        since = "begun" if written is not None else "seed"
        ended = trainers.kill(
            "measure",
            rng=rng,
            within_s=6.0,
            since=lambda said, since=since: since in said,
            data=str(data),
            target=str(target),
            first=100 * kill,
        )
        told = ended.values("seed")
        figures = json.loads(target.read_text())
        assert figures["n"] == 2
        # A killed run may have written its figures and not told so.
        assert figures["seed"] in ({told[-1], told[-1] + 1} if told else {written, 100 * kill})
        written = figures["seed"]
        assert Image.open(target.with_suffix(".png")).convert("RGB").size[0] > 100
        assert target.with_suffix(".html").read_text().rstrip().endswith("</html>")


@pytest.mark.parametrize("studies", [pytest.param(1, id="few"), pytest.param(20, id="many", marks=pytest.mark.slow)])
def test_a_tracking_store_whose_first_training_was_killed_is_used_by_the_next(victims, tmp_path, studies, rng):
    for number in range(studies):
        study = tmp_path / f"study{number}"
        study.mkdir()
        for _ in range(3):
            victims.kill("track", rng=rng, within_s=6.0, study=str(study))
        assert victims.run("track", study=str(study)).values("tracked") == [True]
