"""Why a case comes next, in words that an annotator can check against what is on the screen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medai.active_learning.pool import Pool
from medai.domain.case_score import CandidateScore, CaseScore

UNCERTAIN_PROBABILITY = (0.2, 0.8)
"""Between these a candidate may be a nodule or not: an entropy of at least 0.72 bits."""
LIKELY_FROM = 0.8
DOUBTFUL_OUTLINE_FROM = 0.3
"""An expected Dice of 0.7 or less."""
DIFFERENT_FROM = 0.4
"""Of how much two models differ about a case."""
UNLIKE_FROM, LIKE_TO = 1.4, 0.6
"""Of a case's distance to the nearest labelled one over the median of the pool."""


def explain(pool: Pool, case_id: str) -> str:
    """Say in words what the models make of a case, whatever strategy chose it.

    Args:
        pool: with the case in it or just taken out of it.
        case_id: the case.

    Returns:
        Such as "2 uncertain nodules, 4–6 mm, unlike the 37 labelled so far; about 5 min".
    """
    score = pool.scores.case(case_id)
    if score is None:
        return "not looked at by the model yet"
    parts = [_found(score.candidates)]
    if _is_outline_doubtful(score):
        parts.append("outline in doubt")
    if (score.disagreement or 0.0) >= DIFFERENT_FROM:
        parts.append("the last two models differ")
    if pool.reader_disagreement.get(case_id, 0.0) >= DIFFERENT_FROM:
        parts.append("its readers differ")
    parts.append(_likeness(pool, case_id))
    minutes = score.expected_minutes
    if pool.cost is not None:
        minutes = pool.cost.minutes(nodules=score.expected_nodules, volume_ml=score.expected_volume_ml)
    return ", ".join(part for part in parts if part) + f"; about {max(1, round(minutes))} min"


def _found(candidates: Sequence[CandidateScore]) -> str:
    """What is there, the uncertain before the likely."""
    low, high = UNCERTAIN_PROBABILITY
    uncertain = [c for c in candidates if low <= c.probability < high]
    likely = [c for c in candidates if c.probability >= LIKELY_FROM]
    words = [_counted(uncertain, "uncertain")] if uncertain else []
    if likely:
        words.append(_counted(likely, "likely"))
    if words:
        return " and ".join(words)
    return "only unlikely candidates" if candidates else "no candidate nodule"


def _counted(candidates: Sequence[CandidateScore], word: str) -> str:
    smallest, largest = (round(f(c.diameter_mm for c in candidates)) for f in (min, max))
    size = f"{smallest} mm" if smallest == largest else f"{smallest}–{largest} mm"
    return f"{len(candidates)} {word} nodule{'s' if len(candidates) > 1 else ''}, {size}"


def _is_outline_doubtful(score: CaseScore) -> bool:
    known = [c.outline_doubt for c in score.candidates if c.outline_doubt is not None and c.probability >= LIKELY_FROM]
    return max(known, default=0.0) >= DOUBTFUL_OUTLINE_FROM


def _likeness(pool: Pool, case_id: str) -> str:
    """Whether the case is like anything labelled, beside how the others of the pool are."""
    labelled = int((pool.scores.rows(pool.labelled) >= 0).sum())
    row = pool.scores.row(case_id)
    if not labelled or row is None:
        return ""
    distances = pool.nearest.distances(pool.scores, pool.labelled, pool.in_work)
    own, rows = float(distances[row]), pool.rows[pool.rows >= 0]
    others = distances[rows]
    others = others[np.isfinite(others)]
    if not np.isfinite(own) or not others.size:
        return ""
    ratio = own / max(float(np.median(others)), 1e-6)
    if ratio >= UNLIKE_FROM:
        return f"unlike the {labelled} labelled so far" if labelled > 1 else "unlike the one labelled so far"
    return "much like a labelled one" if ratio <= LIKE_TO else ""
