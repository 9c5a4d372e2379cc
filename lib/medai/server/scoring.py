"""What the models make of each open case, for the strategies.

MONAI Label starts a process of about 20 s for every method at each Next Sample. Here ``POST /scoring/uncertainty``
scores in this process, on the lane of the whole scans. What an annotator has just been shown is not scored along the
way: that case is about to be labelled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.scoring import ScoringMethod

from medai.server.infer_models import ScanSource
from medai.store.scores import ScoreStore
from medai.store.study import StudyStore
from medai.workflows.score_case import Proposer, score_case


class UncertaintyScoring(ScoringMethod):  # type: ignore[misc]  # monailabel's classes are untyped
    """Scores the open cases that the present models have not seen.

    Args:
        study: where the cases are.
        scores: where their scores are kept.
        scans: decoded scans.
        model: gives the present versions by task and the pipeline that scores.
        versions: the present versions by task; loads nothing.
    """

    def __init__(
        self,
        study: StudyStore,
        scores: ScoreStore,
        *,
        scans: ScanSource,
        model: Callable[[], Proposer],
        versions: Callable[[], Mapping[str, str]],
    ) -> None:
        super().__init__("Runs the whole-scan model on the open cases; what a label of each would teach is read off it")
        self._study = study
        self._scores = scores
        self._scans = scans
        self._model = model
        self._versions = versions

    def open_cases(self) -> list[str]:
        """Unlabelled cases without a score by the present models, the never scored ones first."""
        return self._scores.outdated(self._study.unlabeled(), self._versions())

    def score_case(self, case_id: str) -> dict[str, float]:
        """Score one case."""
        volume = self._scans.get(self._study.image_path(case_id), case_id)
        score = score_case(volume, self._model(), previous=self._scores.get(case_id))
        self._scores.put(score)
        return {
            "uncertainty": max((candidate.entropy for candidate in score.candidates), default=0.0),
            "candidates": float(len(score.candidates)),
            "expected_minutes": score.expected_minutes,
        }

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Score all open cases, one after the other."""
        return {case_id: self.score_case(case_id) for case_id in self.open_cases()}
