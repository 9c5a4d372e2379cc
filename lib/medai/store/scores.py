"""How uncertain the model is about each case: written after an inference, read when the next case is chosen.

One small file in the study. A score belongs to a model version, so that an older model's can be told and redone.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from medai.errors import InputError
from medai.store.atomic import write_json
from medai.store.layout import state_folder
from medai.store.locks import ExclusiveLock
from medai.store.names import check_case_id, check_tag

UNCERTAINTY = "uncertainty"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseScore:
    """One number about one case.

    Attributes:
        value: finite; for ``uncertainty`` 0 (sure) to 1.
        model_version: the version that gave it.
        scored_s: when, seconds since the epoch.
    """

    value: float
    model_version: str
    scored_s: float


class ScoreStore:
    """The scores of one kind in one study; any thread, any process."""

    def __init__(self, studies: Path, *, kind: str = UNCERTAINTY) -> None:
        """Open the scores of a study.

        Args:
            studies: the study folder.
            kind: what is scored; names the file ``.medai/scores/<kind>.json``.
        """
        folder = state_folder(studies) / "scores"
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"{check_tag(kind)}.json"
        self._lock = ExclusiveLock(folder / f"{kind}.lock")

    def read(self) -> dict[str, CaseScore]:
        """The scores by case id."""
        try:
            cases = json.loads(self._path.read_bytes())["cases"]
            return {
                case_id: CaseScore(
                    value=float(record["value"]),
                    model_version=str(record["model_version"]),
                    scored_s=float(record["scored_s"]),
                )
                for case_id, record in cases.items()
            }
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            _logger.warning("%s is unreadable and is started anew; the cases are scored again: %s", self._path, error)
            return {}

    def values(self) -> dict[str, float]:
        """The bare numbers by case id: what a pool takes."""
        return {case_id: score.value for case_id, score in self.read().items()}

    def put(self, values: Mapping[str, float], *, model_version: str) -> None:
        """Add or replace scores.

        Args:
            values: finite numbers by case id.
            model_version: who gave them.

        Raises:
            InputError: a value is not finite.
        """
        for case_id, value in values.items():
            check_case_id(case_id)
            if not math.isfinite(value):
                raise InputError(f"The score of case '{case_id}' is {value}; a score is a finite number.")
        now = time.time()
        with self._lock.hold():
            scores = self.read()
            scores |= {
                case_id: CaseScore(value=float(value), model_version=model_version, scored_s=now)
                for case_id, value in values.items()
            }
            cases = {
                case_id: {"value": s.value, "model_version": s.model_version, "scored_s": s.scored_s}
                for case_id, s in scores.items()
            }
            write_json(self._path, {"cases": cases})

    def outdated(self, case_ids: Iterable[str], *, model_version: str) -> list[str]:
        """The cases that this model version has not scored, the never scored ones first."""
        scores = self.read()
        missing = [
            case_id for case_id in case_ids if case_id not in scores or scores[case_id].model_version != model_version
        ]
        return sorted(missing, key=lambda case_id: (case_id in scores, case_id))
