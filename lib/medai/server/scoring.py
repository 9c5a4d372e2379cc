"""How uncertain the model is about each case, for the strategy ``uncertainty``.

MONAI Label starts a process of about 20 s for every method at each Next Sample. Here a score is a by-product of the
whole-scan inference that an annotator asked for, and ``POST /scoring/uncertainty`` does the rest in the background.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.scoring import ScoringMethod

from medai.server.infer_request import InferRequest, MedaiInferTask
from medai.store.scores import ScoreStore
from medai.store.study import StudyStore


class UncertaintyScoring(ScoringMethod):  # type: ignore[misc]  # monailabel's classes are untyped
    """Scores the open cases that the present models have not seen.

    Args:
        study: where the cases are.
        scores: where their scores are kept.
        task: whole-scan inference; it keeps the score of each new prediction itself.
        version_id: the present versions.
    """

    def __init__(
        self, study: StudyStore, scores: ScoreStore, *, task: MedaiInferTask, version_id: Callable[[], str]
    ) -> None:
        super().__init__("Runs the whole-scan model on the open cases; the most doubtful ones come first")
        self._study = study
        self._scores = scores
        self._task = task
        self._version_id = version_id

    def open_cases(self) -> list[str]:
        """Unlabelled cases without a score by the present models."""
        present = self._version_id()
        scored = {case_id for case_id, score in self._scores.read().items() if score.model_version == present}
        return [case_id for case_id in self._study.unlabeled() if case_id not in scored]

    def score_case(self, case_id: str) -> dict[str, float]:
        """Score one case."""
        self._task.answer(InferRequest(scan_path=self._study.image_path(case_id), case_id=case_id))
        return {"uncertainty": self._scores.values().get(case_id, 0.0)}

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Score all open cases, one after the other."""
        return {case_id: self.score_case(case_id) for case_id in self.open_cases()}
