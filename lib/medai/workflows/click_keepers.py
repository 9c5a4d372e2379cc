"""How much of a training a click challenger keeps: as much as leaves its old skills whole.

A network that is fine-tuned on a handful of labels learns them and forgets something else, replay or not: on four
phantom cases the packaged one gained 0.050 on held-back nodules and lost 0.076 on part-solid ones. Weights on the line
between the champion and what the training made of it do both by degrees, and the gain outlasts the loss (WiSE-FT,
Wortsman et al., CVPR 2022): half way it was 0.027 and 0.012. So the challenger lies as far along that line as the old
nodules that are asked here allow.

They are none of those that judge, train, or are replayed: real nodules of patients that no starter was trained on and
who are in neither the study nor its regression set, where ``MEDAI_REAL_DATA`` names enough of them; else a phantom of a
seed of its own, every size and texture once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medai.domain import NoduleKind
from medai.domain.click_case import ClickCase
from medai.errors import CancelledByUserError, MedaiError
from medai.networks.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from medai.networks.mean_weights import KEPT_SHARE, mean_weights
from medai.store.split import FrozenSplit
from medai.workflows.click_regression import judging_patients, phantom_nodules, unlearned_nodules

logger = logging.getLogger(__name__)

SHARES = (1.0, 0.7, 0.5, 0.35, 0.25)
"""Of the way from the champion to the trained network, tried in this order; the last one is taken untried."""
TOLERATED_LOSS = 0.01
"""Mean Dice that a texture may lose: half of what the gate accepts of a subgroup, whose nodules are others. A larger
loss within its own standard error counts for none: a nodule goes up and down by itself in every training."""
FEWEST_OF_TEXTURE = 4
"""With fewer nodules of a texture they are asked with all others alone."""
EACH = 3
"""Real nodules of each size and texture."""
FEWEST_REAL = 8
PHANTOM_SEED = 20240303
"""Neither a judge's nor the replay's."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Keeper:
    """An old nodule that decides.

    Attributes:
        case: the nodule.
        texture: by its readers, or as its phantom was made.
    """

    case: ClickCase
    texture: NoduleKind


Scorer = Callable[[Path, Sequence[ClickCase]], Mapping[str, float]]


def keep_old_skills(
    champion_path: Path,
    trained_path: Path,
    keepers: Sequence[Keeper],
    score: Scorer,
    *,
    should_stop: Callable[[], bool] = lambda: False,
) -> Path:
    """Write the challenger: the trained network, or one between it and the champion.

    Args:
        champion_path: where the training began.
        trained_path: what it made.
        keepers: old nodules that neither train nor judge.
        score: Dice of a network's answer by nodule.
        should_stop: asked between two shares.

    Returns:
        The challenger's file, beside ``trained_path``; its configuration tells the share.

    Raises:
        CancelledByUserError: ``should_stop`` said so.
        StorageError: it cannot be written.
    """
    champion, trained = load_checkpoint(champion_path), load_checkpoint(trained_path)
    path = trained_path.with_name("challenger.safetensors")
    nodules = [keeper.case for keeper in keepers]
    before = score(champion_path, nodules)
    for share in SHARES:
        if should_stop():
            raise CancelledByUserError("The training was stopped (train); the model in use stays.")
        blended = _blended(champion, trained, share)
        save_checkpoint(path, blended.tensors, blended.config)
        if share == SHARES[-1]:
            break
        lost = lost_of_texture(before, score(path, nodules), keepers)
        if not lost:
            break
        logger.info("With %g of the training the old nodules lose: %s", share, lost)
    return path


def lost_of_texture(
    before: Mapping[str, float], after: Mapping[str, float], keepers: Sequence[Keeper]
) -> dict[str, float]:
    """Textures, and "all", that lose more mean Dice than is tolerated, with the loss."""
    groups: dict[str, list[float]] = {}
    for keeper in keepers:
        change = after[keeper.case.case_id] - before[keeper.case.case_id]
        groups.setdefault(str(keeper.texture), []).append(change)
    asked = {name: changes for name, changes in groups.items() if len(changes) >= FEWEST_OF_TEXTURE}
    asked["all"] = [change for changes in groups.values() for change in changes]
    lost = {}
    for name, changes in asked.items():
        loss = -float(np.mean(changes))
        doubt = float(np.std(changes, ddof=1)) / np.sqrt(len(changes)) if len(changes) > 1 else 0.0
        if loss > max(TOLERATED_LOSS, doubt):
            lost[name] = round(loss, 4)
    return lost


def keeper_nodules(study_folder: Path, should_stop: Callable[[], bool] = lambda: False) -> list[Keeper]:
    """The old nodules that decide; empty where none can be had, which the log tells: all of the training is kept then.

    Args:
        study_folder: its patients and those of its regression set are left out.
        should_stop: asked before a phantom is made.

    Raises:
        CancelledByUserError: ``should_stop`` said so.
    """
    judging, split = judging_patients(study_folder), FrozenSplit(study_folder)

    def leave_out(patient_key: str) -> bool:
        return patient_key in judging or bool(split.known([patient_key]))

    real = [Keeper(case=case, texture=kind) for case, kind, _ in unlearned_nodules(EACH, leave_out=leave_out)]
    if len(real) >= FEWEST_REAL:
        return real
    if should_stop():
        raise CancelledByUserError("The training was stopped (train); the model in use stays.")
    try:
        # It takes some seconds, which a training does not feel.
        return [Keeper(case=case, texture=kind) for case, kind, _ in phantom_nodules(PHANTOM_SEED)]
    except MedaiError as error:
        logger.warning("No old nodules say how much of the training to keep: %s", error)
        return []


def _blended(champion: Checkpoint, trained: Checkpoint, share: float) -> Checkpoint:
    if share == 1.0:
        return replace(trained, config={**trained.config, KEPT_SHARE: share})
    mean = mean_weights([champion, trained], [1.0 - share, share])
    return replace(mean, config={**mean.config, KEPT_SHARE: share})
