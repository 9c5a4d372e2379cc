"""The app that MONAI Label loads: what is served, by explicit dicts, over one study.

``apps/medai/main.py`` re-exports ``MedaiApp``; MONAI Label takes the first class whose direct base is named
``MONAILabelApp``, so there is exactly one here. Its constructor is the only place where ``conf`` strings are read.

Threads: an app is built once and used by all; what changes (loaded models, decoded scans, kept predictions, the study)
is guarded in its own module.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy

import medai
from medai.domain import LabelMap, Volume
from medai.errors import InputError, ModelError, NotFoundError, StorageError
from medai.registry.model_registry import ModelRegistry
from medai.registry.version_files import ModelVersion
from medai.server.annotation_recorder import AnnotationRecorder
from medai.server.background import Trainings
from medai.server.case_jobs import CaseJobs
from medai.server.classification_task import NoduleClassificationTask
from medai.server.click_task import NoduleClickTask
from medai.server.datastore import MedaiDatastore
from medai.server.infer_request import MedaiInferTask
from medai.server.lanes import Lanes
from medai.server.model_shelf import ModelShelf
from medai.server.scan_tasks import LungsTask, NoduleDetectionTask, NoduleSegmentationTask, ScanPredictions
from medai.server.scoring import GivingWay, PoolScoring, UncertaintyScoring, lanes_are_busy
from medai.server.scribbles_task import scribbles_tasks
from medai.server.served_scans import ServedScans
from medai.server.settings import ServerSettings
from medai.server.strategies import build_strategies
from medai.server.train_policy import TrainPolicy
from medai.server.train_task import TRAINERS, NoduleTrainTask
from medai.store.audit_log import AuditLog
from medai.store.clients import Clients
from medai.store.layout import engines_folder, models_folder, state_folder
from medai.store.patients import PatientIndex
from medai.store.reservations import Reservations
from medai.store.scores import ScoreStore
from medai.store.scoring_turn import ScoringTurn
from medai.store.study import FINAL, StudyStore
from medai.store.unreadable import UnreadableScans
from medai.volume_io.plausibility import check_chest_ct
from medai.volume_io.scan_cache import ScanCache
from medai.workflows.annotation_cost import LearntCost
from medai.workflows.case_queue import CaseQueue
from medai.workflows.classify_case import NoduleAssessor
from medai.workflows.families import ALIASES, CLASSIFICATION_TASK, CLICK_TASK, DETECTION_TASK
from medai.workflows.readable_cases import ReadableCases
from medai.workflows.score_case import scored_versions, scoring_pipeline
from medai.workflows.submitted_label import read_submitted
from medai.workflows.training_policy import TrainingPolicy
from medai.workflows.training_queue import TrainingQueue

if TYPE_CHECKING:
    from medai.inference.click import ClickSegmenter
    from medai.inference.scan import ScanPipeline
    from medai.workflows.executors import CaseExecutor

logger = logging.getLogger(__name__)

APP_LABELS = ("nodule",)
"""The empty segments that the Slicer plugin makes for a new scan, and the key by which it finds the task that runs by
itself on Next Sample: the first one in ``info.models`` with this label."""

MB = 1 << 20

REPLACED_LOOK_S = 10.0
"""How often a running server looks for scans that were replaced by hand, beside each label that is asked for."""


class MedaiApp(MONAILabelApp):  # type: ignore[misc]  # monailabel's classes are untyped
    """Lung-nodule annotation over one study folder.

    Args:
        app_dir: folder of ``main.py``; nothing is written there.
        studies: study folder in MONAI Label's local layout.
        conf: ``--conf`` strings, see ``ServerSettings``.

    Raises:
        InputError: a setting is wrong, or the study is no folder.
        NotFoundError: there is no such study folder.
    """

    def __init__(self, app_dir: str, studies: str, conf: Mapping[str, str] | None) -> None:
        self.options = ServerSettings.from_conf(conf)
        if studies.startswith(("http://", "https://")):
            raise InputError(f"medai serves a folder of scans; '{studies}' is an address, which is not supported yet.")
        self.study = StudyStore(Path(studies))
        folder = self.study.folder
        self.state_folder = state_folder(folder)
        self.reservations = Reservations(folder, ttl_s=self.options.reservation_minutes * 60)
        self.clients = Clients(folder)
        self.audit = (
            None
            if self.options.audit == "off"
            else AuditLog(folder, largest_bytes=self.options.audit_mb * MB, files=self.options.audit_files)
        )
        self.scores = ScoreStore(folder)
        self.readable = ReadableCases(self.study, UnreadableScans(folder), decode=self._decoded)
        self.scans = ScanCache(
            self.state_folder / "scans",
            memory_bytes=self.options.cache_memory_mb * MB,
            disk_bytes=self.options.cache_disk_mb * MB,
            check=check_chest_ct,
            budget=self.options.read_budget,
            on_unreadable=self.readable.failed_file,
        )
        self.scans.keep_off_disk(self.state_folder / "tmp")
        self.annotations = AnnotationRecorder(self.study, self.reservations, self.scans, self.scores.get)
        self.annotations.resume()
        self.cost = LearntCost(self.annotations.log.all)
        self.queue = CaseQueue(
            study=self.study,
            reservations=self.reservations,
            scores=self.scores,
            patients=PatientIndex(folder),
            cost=lambda: self.cost.present,
            readable=self.readable,
            shows_paths=self.options.share_paths,
        )
        self.served = ServedScans(self.study, self.scans, self.state_folder / "served")
        self.models = ModelRegistry(
            models_folder(folder), keep=self.options.keep_models, keep_mb=self.options.keep_models_mb or None
        )
        self.shelf = ModelShelf(
            self.models,
            {
                CLICK_TASK: self._load_click,
                DETECTION_TASK: self._load_detector,
                CLASSIFICATION_TASK: self._load_classifier,
            },
        )
        queue = TrainingQueue(folder)
        self.trainings = Trainings(queue=queue)
        self.train_policy = TrainPolicy(
            TrainingPolicy(after_labels=self.options.train_after, every_minutes=self.options.train_every_minutes),
            self.trainings,
            queue,
            lambda request: self.trainer(CLICK_TASK).job(request),
            task=CLICK_TASK,
        )
        self._looked_at_s = time.monotonic()
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf={key: str(value) for key, value in (conf or {}).items()},
            name="medai",
            description="Lung-nodule annotation on chest CT: propose, outline by click, retrain.",
            version=medai.__version__,
            labels=list(APP_LABELS),
        )
        sessions = self.sessions()
        if sessions is not None:
            self.scans.keep_off_disk(Path(sessions.store_path))
        self.study.on_gone.append(self._forget_scan)

    # -- what is served ------------------------------------------------------------------------------------------------

    def init_datastore(self) -> MedaiDatastore:
        """Our store behind MONAI Label's interface."""
        return MedaiDatastore(self.study, self.readable)

    def init_infers(self) -> dict[str, InferTask]:
        """The tasks, in the order in which the plugin lists them; the first runs by itself on Next Sample."""
        self.predictions = predictions = ScanPredictions(self.scans, self._scan_model)
        return {
            "nodule_segmentation": NoduleSegmentationTask(predictions),
            "nodule_click": NoduleClickTask(self.scans, self._click_model, self._loaded_classifier),
            "nodule_detection": NoduleDetectionTask(predictions),
            "nodule_classification": NoduleClassificationTask(
                self.scans, predictions, self._submitted_label, self._classifier_model
            ),
            "lungs": LungsTask(self.scans),
            **scribbles_tasks(self.scans),
        }

    def init_trainers(self) -> dict[str, NoduleTrainTask]:
        """One trainer a model family; the plugin shows the progress of the first."""
        return {
            trainer.task: NoduleTrainTask(
                trainer, self.study.folder, self.options, self.trainings, self.train_policy.view
            )
            for trainer in TRAINERS
        }

    def init_strategies(self) -> dict[str, Strategy]:
        """How the next case is chosen."""
        return build_strategies(
            self.queue,
            rng=np.random.default_rng(self.options.seed),
            share_paths=self.options.share_paths,
        )

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        """What the strategy ``uncertainty`` goes by."""
        return {
            "uncertainty": UncertaintyScoring(
                self.study,
                self.scores,
                model=self.scoring_model,
                versions=lambda: scored_versions(self.shelf.registry),
                readable=self.readable,
            )
        }

    def init_batch_infer(self) -> None:
        """None of MONAI Label's: it starts a process a batch; see ``case_jobs``."""

    def on_init_complete(self) -> None:
        """Nothing: sessions are cleaned and models warmed by the server's own tasks, not by a polling thread."""

    # -- looked up by name ---------------------------------------------------------------------------------------------

    def infer_task(self, model: str) -> MedaiInferTask:
        """The inference task of that name.

        Raises:
            NotFoundError: there is none; the message lists what there is.
        """
        return cast(MedaiInferTask, _named(self._infers, model, "model"))

    def trainer(self, model: str) -> NoduleTrainTask:
        """The trainer of that name, or NotFoundError with those there are."""
        return cast(NoduleTrainTask, _named(self._trainers, ALIASES.get(model, model), "trainer"))

    def strategy(self, name: str) -> Strategy:
        """The strategy of that name, or NotFoundError with those there are."""
        return _named(self._strategies, name, "strategy")

    def scoring_method(self, name: str) -> UncertaintyScoring:
        """The scoring method of that name, or NotFoundError with those there are."""
        return cast(UncertaintyScoring, _named(self._scoring_methods, name, "scoring method"))

    @property
    def batch_executor(self) -> CaseExecutor | None:
        """Who predicts the scans of a batch; None: this server."""
        if self.options.batch_executor != "ray":
            return None
        from medai.workflows.ray_executor import RayExecutor

        return RayExecutor(address=self.options.ray_address or None, use_gpus=self.options.device != "cpu")

    def pool_scoring(self, lanes: Lanes) -> PoolScoring:
        """Scoring as jobs that give way to the lanes."""
        giving_way = GivingWay(lambda: lanes_are_busy(lanes))
        turn = ScoringTurn(self.study.folder)
        return PoolScoring(self.scoring_method("uncertainty"), CaseJobs("scoring", None), turn, giving_way)

    @property
    def scoring_methods(self) -> tuple[str, ...]:
        """Names of the scoring methods."""
        return tuple(self._scoring_methods)

    @property
    def trainer_names(self) -> tuple[str, ...]:
        """Names of the trainers."""
        return tuple(self._trainers)

    def model_version(self, model: str) -> ModelVersion:
        """The weights behind a task.

        Raises:
            NotFoundError: no such task, or one without weights.
        """
        self.infer_task(model)
        task = {"nodule_segmentation": DETECTION_TASK}.get(model, model)
        if task not in (CLICK_TASK, DETECTION_TASK, CLASSIFICATION_TASK):
            raise NotFoundError(f"'{model}' uses no weights.")
        return self.shelf.registry.champion(task)

    # -- what happens around a request ---------------------------------------------------------------------------------

    def warm_up(self) -> None:
        """Load the models, what writes an answer and whose the cases are, so that the first annotator does not wait."""
        from medai.volume_io import writers  # noqa: F401  # for its import time alone

        self.queue.patients.learn(self.study.image_ids())
        self.scores.table()
        self.cost.learn(len(self.study.labeled()))
        for task in (CLICK_TASK, DETECTION_TASK, CLASSIFICATION_TASK):
            try:
                self.shelf.get(task)
            except ModelError as error:
                logger.warning("%s", error)
        self.scans.keep_only(self.study.scan_files().values())
        self.readable.look_through(self.study.image_ids(), thoroughly=True)

    def prepare_case(self, case_id: str) -> None:
        """Decode ahead what an annotator has just been given; slow only where a copy has to be made for 3D Slicer."""
        self.look_for_replaced()
        if self.options.prefetch:
            self.scans.prefetch(self.study.image_path(case_id), case_id)
        self.served.path(case_id)

    def on_save_label(self, image_id: str, label_id: str) -> None:
        """After a label was submitted: the case is free, and the next one is decoded meanwhile."""
        try:
            self.reservations.submitted(image_id)
        except StorageError as error:
            # The label is kept: that the case stays reserved for an hour is no reason to say otherwise.
            logger.warning("Case %s stays reserved for a while: %s", image_id, error)
        self.cost.learn(len(self.study.labeled()))
        if not self.options.prefetch:
            return
        held = {reservation.case_id for reservation in self.reservations.active()}
        left = [case_id for case_id in self.queue.open_cases() if case_id not in held]
        siblings = self.queue.patients.siblings(image_id)
        # A patient's other study comes next; whatever else does is not known before it is asked for.
        upcoming = next((case_id for case_id in left if case_id in siblings), next(iter(left), None))
        if upcoming is not None:
            self.scans.prefetch(self.study.image_path(upcoming), upcoming)

    def scoring_model(self) -> ScanPipeline:
        """The present models as scoring wants them: less likely candidates too."""
        versions, click, detection, classifier = self._scan_parts()
        return scoring_pipeline(detection, click.from_all_sides(), classifier, versions)

    def close(self) -> None:
        """End the training (the next server goes on with it) and the background threads."""
        self.train_policy.close()
        self.trainings.close()
        self.annotations.close()
        self.scans.close()
        self.scores.close()
        if self.audit is not None:
            self.audit.close()

    def look_for_replaced(self) -> None:
        """Take labels off scans that were replaced by hand; a few thousand stats, so now and then only."""
        now = time.monotonic()
        if now - self._looked_at_s > REPLACED_LOOK_S:
            self._looked_at_s = now
            self.study.set_aside_replaced()

    def _forget_scan(self, case_id: str, scan_path: Path) -> None:
        """A scan is gone: what was decoded, copied, predicted, scored and proposed of it goes with it."""
        self.scans.forget(scan_path)
        self.served.forget(case_id)
        self.predictions.forget(scan_path)
        self.scores.remove(case_id)
        self.annotations.forget_case(case_id)

    def _decoded(self, scan_path: Path) -> Volume:
        return self.scans.get(scan_path)

    # -- models --------------------------------------------------------------------------------------------------------

    def _click_model(self) -> tuple[str, ClickSegmenter]:
        loaded = self.shelf.get(CLICK_TASK)
        return loaded.version_id, loaded.model

    def _scan_model(self) -> tuple[dict[str, str], ScanPipeline]:
        from medai.inference.scan import ScanPipeline

        versions, click, detection, classifier = self._scan_parts()
        return versions, ScanPipeline(detection, click, classifier=classifier)

    def _scan_parts(self) -> tuple[dict[str, str], ClickSegmenter, Any, NoduleAssessor | None]:
        """The versions by task and the loaded models that outline, find and, where there is one, rate."""
        click, detection = self.shelf.get(CLICK_TASK), self.shelf.get(DETECTION_TASK)
        versions = {CLICK_TASK: click.version_id, DETECTION_TASK: detection.version_id}
        try:
            classifier = self.shelf.get(CLASSIFICATION_TASK)
        except ModelError as error:
            # Nodules without a rating are of more use than none.
            logger.warning("Nodules are proposed without malignancy: %s", error)
            return versions, click.model, detection.model, None
        versions[CLASSIFICATION_TASK] = classifier.version_id
        return versions, click.model, detection.model, classifier.model

    def _classifier_model(self) -> tuple[str, NoduleAssessor]:
        loaded = self.shelf.get(CLASSIFICATION_TASK)
        return loaded.version_id, loaded.model

    def _loaded_classifier(self) -> NoduleAssessor | None:
        """The classifier if it is there already: a click does not wait for it."""
        loaded = self.shelf.get_loaded(CLASSIFICATION_TASK)
        return loaded.model if loaded else None

    def _submitted_label(self, case_id: str) -> LabelMap | None:
        """What was submitted for a case, with its annotator's names; None where nothing was, or boxes alone."""
        self.annotations.look([case_id])
        path = self.study.labels(case_id).get(FINAL)
        return None if path is None or path.suffix == ".json" else read_submitted(self.study, case_id).label_map

    def _load_click(self, version: ModelVersion) -> ClickSegmenter:
        from medai.inference.click import ClickSegmenter
        from medai.networks.committee import load_committee

        engine = load_committee(version.weights_path, device=self.options.device, cache_folder=self._engines)
        return ClickSegmenter(engine)

    def _load_detector(self, version: ModelVersion) -> Any:
        from medai.inference.detect import load_detector

        return load_detector(version.weights_path, device=self.options.device, cache_folder=self._engines)

    def _load_classifier(self, version: ModelVersion) -> NoduleAssessor:
        from medai.inference.classify import NoduleClassifier
        from medai.networks.engine import load_engine

        return NoduleClassifier.of_checkpoint(
            load_engine(version.weights_path, device=self.options.device, cache_folder=self._engines)
        )

    @property
    def _engines(self) -> Path:
        """Converted networks, named by their weights' digest: one folder for all studies of this user."""
        return engines_folder()


def _named(served: Mapping[str, Any], name: str, kind: str) -> Any:
    if name not in served:
        raise NotFoundError(f"There is no {kind} '{name}'. The server has: {', '.join(served) or 'none'}.")
    return served[name]
