"""Outlines by one click as a simulation of annotation learns them: a small click network, trained on as labels come in.

The network is a tenth of the packaged one and looks at 24³ voxels, so that hundreds of trainings fit into hours on two
CPU cores: what is compared are strategies, each with the same network. Everything else is the packaged model's: how
patches are drawn, how a click is answered, how it is judged.

What the model says of a nodule nobody has outlined yet comes from clicks at its middle, where a detector's candidate
would lie: the present network beside that of the round before (two snapshots of one training make a small ensemble),
and a second click some voxels away.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medai.domain.case_score import CandidateScore, CaseScore
from medai.domain.click_case import ClickCase
from medai.evaluation.dice import dice
from medai.evaluation.information import entropy_bits, mutual_information_bits
from medai.evaluation.simulated_clicks import ClickPlace, first_click, placed_click
from medai.geometry import IndexBox
from medai.inference.click import NO_NODULE, ClickSegmenter
from medai.inference.evaluate_click import case_generator, evaluate_click_model
from medai.preprocessing.patches import PatchGrid
from medai.training.click_trainer import BEST_NAME, STATE_NAME, ClickTrainingConfig, train_click_network
from medai.training.dataset import ClickDataset
from medai.workflows.learning_pool import LearningNodule, read_learning_pool
from medai.workflows.simulated_learning import PoolCase
from medai.workflows.small_click_network import SMALL_NETWORK, SMALL_PATCHES, random_network

PATCHES = replace(SMALL_PATCHES, enlarged_fraction=0.0)
MOST_JUDGED = 60
"""Held-back nodules that each round's model is judged on."""
JUDGE_SEED, LOOK_SEED = 7, 11
MINUTES_A_SCAN, MINUTES_A_NODULE, MINUTES_OF_DOUBT = 1.0, 0.5, 3.0
"""What an outline takes: opening the scan, looking at the proposal, and correcting it as far as it is doubtful."""
SMALL_MM, LARGE_MM = 8.0, 15.0
SUBSOLID_BELOW_HU = -300.0
_EMBEDDING_SIDE = 4
_SIZE_WEIGHT = 2.0
_WEIGHTS = BEST_NAME


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningSteps:
    """How long a round trains.

    Attributes:
        first: batches of the warm start, from random weights.
        further: batches of each round after it.
        batch_size: patches.
    """

    first: int = 160
    further: int = 60
    batch_size: int = 8


class SegmentationLearning:
    """The ``LearningTask`` of outlines by one click.

    Args:
        folder: outlined nodules.
        steps: how long a round trains.
        most_judged: held-back nodules to judge on; 0: all.
        threads: of the networks; simulations run side by side instead.
        on_progress: told while nodules are read.
    """

    name = "segmentation"
    measure = "Dice"

    def __init__(
        self,
        folder: Path,
        *,
        steps: LearningSteps | None = None,
        most_judged: int = MOST_JUDGED,
        threads: int = 1,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self._steps = steps or LearningSteps()
        self._threads = threads
        self._pool = read_learning_pool(folder, most_judged=most_judged, on_progress=on_progress)
        self._judged = [self._pool.nodules[name].case for name in self._pool.judged]

    @property
    def pool(self) -> Mapping[str, PoolCase]:
        """The patients that may be labelled."""
        return self._pool.pool

    @property
    def judged_nodules(self) -> int:
        """Nodules that the Dice is taken on."""
        return len(self._judged)

    def train(self, labelled: Sequence[str], *, before: Path | None, folder: Path, seed: int) -> None:
        """Train on from the network before, on all that is labelled."""
        cases = tuple(nodule.case for nodule in self._pool.nodules_of(labelled))
        batches = self._steps.further if before else self._steps.first
        config = ClickTrainingConfig(
            epochs=1,
            iterations_per_epoch=batches,
            batch_size=self._steps.batch_size,
            learning_rate=1.5e-3 if before else 4e-3,
            weight_decay=5e-3,
            warmup_iterations=max(1, batches // 10),
            correction_shares=(),
            replay_fraction=0.0,
            average_decay=0.97,
            device="cpu",
            keep="last",
            seed=seed,
            sampling=PATCHES,
        )
        start = (
            before / _WEIGHTS
            if before
            else random_network(folder / "start.safetensors", SMALL_NETWORK, PATCHES, seed=seed)
        )
        # A training validates; nothing is chosen by it here, so that any nodule will do.
        watched = (replace(cases[0], patient_id=f"{cases[0].patient_id} watched"),)
        dataset = ClickDataset(training=cases, validation=watched)
        train_click_network(dataset, config, start_from=start, output_folder=folder)
        (folder / STATE_NAME).unlink(missing_ok=True)

    def judge(self, model: Path) -> float:
        """Mean Dice after one careful click."""
        return float(np.mean(evaluate_click_model(self._engine(model), self._judged, JUDGE_SEED)))

    def score(self, model: Path, before: Path | None, cases: Sequence[str]) -> list[CaseScore]:
        """Doubt about the outline of each nodule of some patients."""
        segmenter = ClickSegmenter(self._engine(model))
        earlier = ClickSegmenter(self._engine(before)) if before else None
        return [self._case_score(case_id, segmenter, earlier) for case_id in cases]

    def embedding(self, case_id: str) -> NDArray[np.float32]:
        """The patient's largest nodule, by its true outline."""
        largest = max(self._pool.nodules_of([case_id]), key=lambda nodule: nodule.millilitres)
        return _embedding(largest.case, largest.case.mask, _middle_of(largest.case))

    def _case_score(self, case_id: str, segmenter: ClickSegmenter, earlier: ClickSegmenter | None) -> CaseScore:
        nodules = self._pool.nodules_of([case_id])
        looks = [_look(nodule, segmenter, earlier) for nodule in nodules]
        largest = max(looks, key=lambda look: look.candidate.volume_ml)
        moved = [look.disagreement for look in looks if look.disagreement is not None]
        return CaseScore(
            case_id=case_id,
            model_versions={self.name: "simulated"},
            scored_at_s=0.0,
            candidates=tuple(look.candidate for look in looks),
            embedding=largest.embedding,
            expected_minutes=MINUTES_A_SCAN + sum(look.minutes for look in looks),
            disagreement=max(moved) if moved else None,
        )

    def _engine(self, model: Path) -> Any:
        from medai.networks.engine import load_engine

        return load_engine(model / _WEIGHTS, device="cpu", cache_folder=model / "engine", threads=self._threads)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Look:
    """What the networks make of one nodule."""

    candidate: CandidateScore
    embedding: NDArray[np.float32]
    disagreement: float | None
    minutes: float


def _look(nodule: LearningNodule, segmenter: ClickSegmenter, earlier: ClickSegmenter | None) -> _Look:
    """Click on a nodule as a candidate would lie, and see how sure the answer is."""
    case = nodule.case
    rng = case_generator(LOOK_SEED, case.case_id)
    click, other_click = (first_click(case, rng, careful=True) for _ in range(2))
    ask = partial(_answer, case)
    probability, mask, doubt = ask(segmenter, click)
    _, other_mask, _ = ask(segmenter, other_click)
    former_probability, former_mask, _ = ask(earlier, click) if earlier else (probability, mask, doubt)
    mean = (probability + former_probability) / 2
    around = mean > NO_NODULE
    if not around.any():
        around = np.ones_like(around)
    entropy = float(entropy_bits(mean[around]).mean())
    members = np.stack([probability[around], former_probability[around]])
    volume_ml = float(np.count_nonzero(mask)) * case.volume.geometry.voxel_volume_mm3 / 1000
    diameter_mm = float((6000 * volume_ml / np.pi) ** (1 / 3))
    x, y, z = (float(value) for value in case.volume.geometry.ijk_to_ras(click))
    return _Look(
        candidate=CandidateScore(
            centre_ras_mm=(x, y, z),
            diameter_mm=diameter_mm,
            volume_ml=volume_ml,
            probability=1.0,
            predicted_class=_class(case, mask, diameter_mm),
            entropy=entropy,
            mutual_information=float(mutual_information_bits(members).mean()) if earlier else None,
            test_time_variation=1.0 - dice(mask, other_mask),
            outline_doubt=doubt,
        ),
        embedding=_embedding(case, mask, click),
        disagreement=1.0 - dice(mask, former_mask) if earlier else None,
        minutes=MINUTES_A_NODULE + MINUTES_OF_DOUBT * doubt,
    )


def _answer(
    case: ClickCase, segmenter: ClickSegmenter, click: tuple[int, int, int]
) -> tuple[NDArray[np.float64], NDArray[np.bool_], float]:
    """Probability and outline on the case's grid, and how doubtful the outline is."""
    result = segmenter.segment(case.volume, foreground_ijk=[click])
    probability, mask = np.zeros(case.mask.shape), np.zeros(case.mask.shape, dtype=bool)
    probability[result.box.slices] = result.probability
    mask[result.box.slices] = result.mask
    return probability, mask, result.uncertainty


def _class(case: ClickCase, mask: NDArray[np.bool_], diameter_mm: float) -> str:
    """What the network takes a nodule for: how large, how dense."""
    size = "small" if diameter_mm < SMALL_MM else "large" if diameter_mm >= LARGE_MM else "middle-sized"
    inside_hu = np.asarray(case.volume.image_hu, dtype=np.float32)[mask]
    dense = inside_hu.size == 0 or float(np.mean(inside_hu)) >= SUBSOLID_BELOW_HU
    return f"{size}, {'solid' if dense else 'subsolid'}"


def _embedding(case: ClickCase, mask: NDArray[np.bool_], click: tuple[int, int, int]) -> NDArray[np.float32]:
    """A coarse picture of the outlined nodule scaled to one size, and how large it is; no label is needed."""
    box = IndexBox.of_mask(mask)
    spacing = case.volume.geometry.spacing_mm
    extent_mm = max((n * s for n, s in zip(box.shape_ijk, spacing, strict=True)), default=4.0) if box else 4.0
    side = 2 * _EMBEDDING_SIDE
    grid = PatchGrid.around(
        case.volume.geometry, list(click), shape=(side, side, side), spacing_mm=max(0.5, 1.5 * extent_mm / side)
    )
    image = np.clip(np.asarray(grid.extract(case.volume.image_hu), dtype=np.float32), -1000, 400) / 700 + 0.5
    half = _EMBEDDING_SIDE
    coarse = image.reshape(half, 2, half, 2, half, 2).mean(axis=(1, 3, 5)).ravel()
    size = _SIZE_WEIGHT * np.log(max(extent_mm, 1.0))
    return np.append(coarse, size).astype(np.float32)


def _middle_of(case: ClickCase) -> tuple[int, int, int]:
    """Where a nodule is deepest."""
    return placed_click(case, ClickPlace.INNERMOST, np.random.default_rng(0))
