"""What the champions before the present one scored on the old cases, as the registry's history has kept it.

Each verdict keeps the scores of both models case by case, with a digest of the truth they were scored against. The
champions that count are the present one's forefathers: those that it and its predecessors were published in place of.
After a rollback or a promotion by hand the models that were left do not count any more; whoever left them knew why.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from medai.evaluation.drift import FormerScores
from medai.registry.history import EventKind, HistoryEvent

logger = logging.getLogger(__name__)

SAME_JUDGE = 0.01
"""Mean absolute difference of a champion's scores then and now. Two machines differ by less; a release that clicks or
computes otherwise differs by more, and its scores do not compare with those that were kept."""


def former_champions(
    history: Iterable[HistoryEvent],
    champion_id: str,
    *,
    champion_score: Mapping[str, float],
    truth_of_case: Mapping[str, str],
) -> tuple[FormerScores, ...]:
    """The scores of the present champion's forefathers and its own, the first champion first.

    Args:
        history: the registry's.
        champion_id: the present champion.
        champion_score: what it scores today, by case.
        truth_of_case: digest of today's truth, by case.

    Returns:
        Nothing for a champion that no gate has published, and where the judge is not the one of then.
    """
    published = {event.version_id: event for event in history if event.kind is EventKind.PUBLISHED}
    line: list[HistoryEvent] = []
    version_id = champion_id
    while (event := published.pop(version_id, None)) is not None:
        line.append(event)
        version_id = event.former
    if not line:
        return ()
    line.reverse()
    kept = [_scores(line[0], line[0].former, "champion_score", truth_of_case)]
    kept += [_scores(event, event.version_id, "challenger_score", truth_of_case) for event in line]
    then = kept[-1].score
    both = [case_id for case_id in then if case_id in champion_score]
    if both and np.mean([abs(then[case_id] - champion_score[case_id]) for case_id in both]) > SAME_JUDGE:
        logger.warning("Model %s scores otherwise than when it was published: drift is counted from it on", champion_id)
        return ()
    return tuple(former for former in kept if former.score)


def _scores(event: HistoryEvent, version_id: str, name: str, truth_of_case: Mapping[str, str]) -> FormerScores:
    """One model's scores in a verdict; none in one that kept none."""
    old: Mapping[str, Any] = event.verdict.get("old_cases") or {}
    truth = old.get("truth_of_case", {})
    scores = {
        case_id: float(score)
        for case_id, score in old.get(name, {}).items()
        if case_id in truth and truth[case_id] == truth_of_case.get(case_id)
    }
    return FormerScores(version_id=version_id, score=scores)
