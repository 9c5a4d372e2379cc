"""Malignancy as a simulation of annotation learns it: from the measurements of the nodules rated so far.

The measurements are most of what the packaged classifier goes by, and a model on them is trained in milliseconds, so
that every strategy can be played with many seeds. It is an ensemble of ridge regressions, each on patients drawn again
(bagging by patient): where its members differ, a rating would teach something.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medai.domain.assessment import MALIGNANCY
from medai.domain.case_score import CandidateScore, CaseScore
from medai.errors import InputError
from medai.evaluation.information import entropy_bits, mutual_information_bits
from medai.evaluation.roc import roc_auc
from medai.geometry import IndexBox
from medai.preprocessing.nodule_features import nodule_features
from medai.training.classification_fit import SUSPICIOUS_FROM
from medai.training.classification_samples import changed_outline
from medai.volume_io.atomic import atomic_path
from medai.workflows.learning_pool import LearningNodule, LearningPool, read_learning_pool
from medai.workflows.nodule_folder import FolderNodule
from medai.workflows.simulated_learning import PoolCase

MEMBERS = 12
PENALTY = 100.0
"""Of the ridge; chosen on the pool's patients with 12 to 96 of them labelled."""
MIDDLE = 0.5
UNDECIDED, SLOPE = 3.0, 2.0
"""The rating at which suspicious is as likely as not, and how steeply the probability rises there."""
EMBEDDING_SIZE = 12
MINUTES_A_NODULE, MINUTES_A_SCAN = 0.5, 1.0
"""What a rating takes: opening the scan, and looking at each nodule."""
_LEAST_SCALE = 0.05
"""Standard deviations below this are of a column that hardly differs between the nodules seen so far."""
_MODEL = "model.npz"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What an outline shows of a nodule before anybody rates it."""

    centre_ras_mm: tuple[float, float, float]
    diameter_mm: float
    volume_ml: float


class ClassificationLearning:
    """The ``LearningTask`` of malignancy.

    Args:
        folder: outlined nodules with ratings of malignancy.
        cache_folder: keeps the measurements, which take most of the time.
        on_progress: told while they are taken.
    """

    name = "classification"
    measure = "AUC"

    def __init__(
        self,
        folder: Path,
        cache_folder: Path,
        *,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self._pool = read_learning_pool(folder, keep=_is_rated)
        self._rating = {name: _rating(nodule) for name, nodule in self._pool.nodules.items()}
        self._features, self._changed = _measured(self._pool, cache_folder, on_progress)
        self._known = {name: _what_is_seen(nodule) for name, nodule in self._pool.nodules.items()}
        judged = [name for name in self._pool.judged if self._rating[name] != UNDECIDED]
        self._judged = judged
        self._is_suspicious = np.array([self._rating[name] >= SUSPICIOUS_FROM for name in judged])
        if self._is_suspicious.all() or not self._is_suspicious.any():
            raise InputError(
                f"The {len(judged)} held-back nodules with a decided rating are all of one kind: an AUC needs both."
            )
        self._axes = _axes(np.stack([self._features[name] for case in self.pool.values() for name in case.nodule_ids]))

    @property
    def pool(self) -> Mapping[str, PoolCase]:
        """The patients that may be labelled."""
        return self._pool.pool

    @property
    def judged_nodules(self) -> int:
        """Nodules that the AUC is taken on: those rated suspicious or benign."""
        return len(self._judged)

    def train(self, labelled: Sequence[str], *, before: Path | None, folder: Path, seed: int) -> None:
        """Fit the ensemble on everything labelled; nothing of the model before is needed."""
        rng = np.random.default_rng(seed)
        nodules = [self.pool[name].nodule_ids for name in labelled]
        members = []
        for _ in range(MEMBERS):
            drawn = [name for index in rng.integers(len(nodules), size=len(nodules)) for name in nodules[index]]
            members.append(self._fitted(drawn))
        rows = {key: np.stack([member[key] for member in members]) for key in members[0]}
        with atomic_path(folder / _MODEL) as temporary, temporary.open("wb") as stream:
            np.savez(stream, **rows)

    def judge(self, model: Path) -> float:
        """AUC of the mean rating: suspicious against benign."""
        rating = self._ratings(model, self._features, self._judged).mean(axis=0)
        return roc_auc(rating, self._is_suspicious)

    def score(self, model: Path, before: Path | None, cases: Sequence[str]) -> list[CaseScore]:
        """Entropy and disagreement of the members about each nodule of some patients."""
        names = [nodule_id for case_id in cases for nodule_id in self.pool[case_id].nodule_ids]
        ratings = dict(zip(names, self._ratings(model, self._features, names).T, strict=True))
        changed = dict(zip(names, self._ratings(model, self._changed, names).T, strict=True))
        earlier = dict(zip(names, self._ratings(before, self._features, names).T, strict=True)) if before else {}
        return [self._case_score(case_id, ratings, changed, earlier) for case_id in cases]

    def _case_score(
        self,
        case_id: str,
        ratings: Mapping[str, NDArray[np.float64]],
        changed: Mapping[str, NDArray[np.float64]],
        earlier: Mapping[str, NDArray[np.float64]],
    ) -> CaseScore:
        own = self.pool[case_id].nodule_ids
        moved = [
            abs(_probability(ratings[name]).mean() - _probability(earlier[name]).mean()) for name in own if earlier
        ]
        return CaseScore(
            case_id=case_id,
            model_versions={self.name: "simulated"},
            scored_at_s=0.0,
            candidates=tuple(self._candidate(name, ratings[name], changed[name]) for name in own),
            embedding=self.embedding(case_id),
            expected_minutes=MINUTES_A_SCAN + MINUTES_A_NODULE * len(own),
            disagreement=float(max(moved)) if moved else None,
        )

    def _candidate(self, name: str, rating: NDArray[np.float64], changed: NDArray[np.float64]) -> CandidateScore:
        members = _probability(rating)
        mean = float(members.mean())
        known = self._known[name]
        return CandidateScore(
            centre_ras_mm=known.centre_ras_mm,
            diameter_mm=known.diameter_mm,
            volume_ml=known.volume_ml,
            probability=1.0,
            predicted_class="suspicious" if mean >= MIDDLE else "benign",
            malignancy=mean,
            entropy=float(entropy_bits(mean)),
            mutual_information=float(mutual_information_bits(members)),
            test_time_variation=abs(mean - float(_probability(changed).mean())),
        )

    def embedding(self, case_id: str) -> NDArray[np.float32]:
        """The patient's largest nodule along the main axes of all measurements."""
        largest = max(self.pool[case_id].nodule_ids, key=lambda name: self._known[name].volume_ml)
        mean, scale, axes = self._axes
        return np.asarray(((self._features[largest] - mean) / scale) @ axes, dtype=np.float32)

    def _fitted(self, names: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        """One ridge regression of the rating on the standardised measurements."""
        columns = np.stack([self._features[name] for name in names])
        rating = np.array([self._rating[name] for name in names])
        mean, scale = columns.mean(axis=0), columns.std(axis=0) + _LEAST_SCALE
        moved = (columns - mean) / scale
        gram = moved.T @ moved + PENALTY * np.eye(columns.shape[1])
        weights = np.linalg.solve(gram, moved.T @ (rating - rating.mean()))
        return {"mean": mean, "scale": scale, "weights": weights, "level": np.array([rating.mean()])}

    def _ratings(
        self, model: Path, features: Mapping[str, NDArray[np.float64]], names: Sequence[str]
    ) -> NDArray[np.float64]:
        """Each member's rating of each nodule, shape (members, nodules)."""
        with np.load(model / _MODEL, allow_pickle=False) as rows:
            columns = (np.stack([features[name] for name in names]) - rows["mean"][:, None]) / rows["scale"][:, None]
            return np.asarray(np.einsum("mnf,mf->mn", columns, rows["weights"]) + rows["level"])


def _what_is_seen(nodule: LearningNodule) -> _Seen:
    box = IndexBox.of_mask(nodule.case.mask) or IndexBox.of_shape(nodule.case.mask.shape)
    middle = (np.asarray(box.start_ijk) + np.asarray(box.stop_ijk) - 1) / 2
    x, y, z = (float(value) for value in nodule.case.volume.geometry.ijk_to_ras(middle))
    return _Seen(centre_ras_mm=(x, y, z), diameter_mm=nodule.diameter_mm, volume_ml=nodule.millilitres)


def _probability(rating: NDArray[np.float64]) -> NDArray[np.float64]:
    """That readers call it suspicious."""
    return np.asarray(1.0 / (1.0 + np.exp(-SLOPE * (rating - UNDECIDED))))


def _is_rated(nodule: FolderNodule) -> bool:
    return MALIGNANCY in nodule.ratings


def _rating(nodule: LearningNodule) -> float:
    return float(nodule.listed.ratings[MALIGNANCY])


def _axes(features: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Mean, scale and main axes of the pool's measurements: no label is needed for them."""
    mean, scale = features.mean(axis=0), features.std(axis=0) + _LEAST_SCALE
    _, _, rows = np.linalg.svd((features - mean) / scale, full_matrices=False)
    return mean, scale, np.asarray(rows[:EMBEDDING_SIZE].T)


def _measured(
    pool: LearningPool, cache_folder: Path, on_progress: Callable[[int, int], None]
) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.float64]]]:
    """Measurements of every nodule with its outline, and with one that is changed at random."""
    names = sorted(pool.nodules)
    digest = hashlib.sha256()
    for name in names:
        digest.update(name.encode() + np.packbits(pool.nodules[name].case.mask).tobytes())
    path = cache_folder / f"measurements-{digest.hexdigest()[:16]}.npz"
    if not path.is_file():
        rows, changed = [], []
        for number, name in enumerate(names):
            on_progress(number, len(names))
            own, other = _described(pool.nodules[name], np.random.default_rng(_seed(name)))
            rows.append(own)
            changed.append(other)
        cache_folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, own=np.array(rows), changed=np.array(changed))
    with np.load(path, allow_pickle=False) as kept:
        return dict(zip(names, kept["own"], strict=True)), dict(zip(names, kept["changed"], strict=True))


def _described(nodule: LearningNodule, rng: np.random.Generator) -> tuple[list[float], list[float]]:
    """Measurements with the outline as it is, and as another reader might draw it."""
    mask = nodule.case.mask
    other = changed_outline(mask, nodule.case.volume.geometry.spacing_mm, rng)
    outlines = (mask, other if other.any() else mask)
    described = []
    for outline in outlines:
        box = IndexBox.of_mask(outline) or IndexBox.of_shape(outline.shape)
        described.append(list(nodule_features(nodule.case.volume, box, outline[box.slices]).values()))
    return described[0], described[1]


def _seed(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
