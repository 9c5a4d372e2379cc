"""The patients that a simulation of annotation labels, and those it is judged on, from a folder of outlined nodules.

A patient is what an annotator gets at a time. Which patients are judged on is decided by the hash that every family's
starter goes by, so that no figure of a simulation is taken on a patient that anything of this package has learned from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medai.domain.click_case import ClickCase
from medai.errors import InputError, MedaiError
from medai.postprocessing.ratings import TEXTURE
from medai.training.classification_fit import kind_of_texture
from medai.training.dataset import is_validation_patient
from medai.workflows.nodule_folder import FolderNodule, load_nodule, read_nodule_folder
from medai.workflows.simulated_learning import PoolCase

NODULES_FOLDER = "lidc_nodules"
_MM3_OF_ML = 1000.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LearningNodule:
    """An outlined nodule with what the folder's table says of it.

    Attributes:
        case: the scan around it and its outline.
        listed: its row.
    """

    case: ClickCase
    listed: FolderNodule

    @property
    def millilitres(self) -> float:
        """Volume of its outline."""
        voxels = int(np.count_nonzero(self.case.mask))
        return voxels * self.case.volume.geometry.voxel_volume_mm3 / _MM3_OF_ML

    @property
    def diameter_mm(self) -> float:
        """As listed, else of the ball of its volume."""
        return self.listed.diameter_mm or float((6 * self.millilitres * _MM3_OF_ML / np.pi) ** (1 / 3))

    @property
    def kind(self) -> str:
        """Attenuation type as rated; "" where it is not."""
        return str(kind_of_texture(self.listed.ratings.get(TEXTURE, float("nan"))) or "")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LearningPool:
    """What a simulation has.

    Attributes:
        nodules: nodule id to nodule, of pool and judged patients.
        pool: patient to what there is to label.
        judged: ids of the nodules the figures are taken on, in a fixed order.
        skipped: nodule to why it is left out.
    """

    nodules: Mapping[str, LearningNodule]
    pool: Mapping[str, PoolCase]
    judged: tuple[str, ...]
    skipped: Mapping[str, str]

    def nodules_of(self, patients: Iterable[str]) -> list[LearningNodule]:
        """The nodules of some patients, patient by patient."""
        return [self.nodules[nodule_id] for name in patients for nodule_id in self.pool[name].nodule_ids]


def read_learning_pool(
    folder: Path,
    *,
    keep: Callable[[FolderNodule], bool] = lambda nodule: True,
    most_judged: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> LearningPool:
    """Read a folder of nodules and part its patients.

    Args:
        folder: holds ``images/``, ``masks/``, ``nodules.csv``, or a folder ``lidc_nodules`` that does.
        keep: which nodules are used.
        most_judged: nodules that are judged on, chosen by a hash of their names; 0: all of the held-back patients.
        on_progress: told of each nodule read.

    Raises:
        InputError: no such folder, or it has no patients on one of the two sides.
    """
    inside = folder / NODULES_FOLDER
    found = read_nodule_folder(inside if inside.is_dir() else folder)
    listed = [nodule for nodule in found.nodules if keep(nodule)]
    held_back = sorted((n for n in listed if is_validation_patient(n.patient_id)), key=lambda n: _hash(n.case_id))
    judged = held_back[:most_judged] if most_judged else held_back
    wanted = [nodule for nodule in listed if not is_validation_patient(nodule.patient_id)] + judged
    nodules: dict[str, LearningNodule] = {}
    skipped = dict(found.skipped)
    for number, nodule in enumerate(wanted):
        on_progress(number, len(wanted))
        try:
            nodules[nodule.case_id] = LearningNodule(case=load_nodule(nodule), listed=nodule)
        except MedaiError as error:
            skipped[nodule.case_id] = str(error)
    judged_ids = tuple(nodule.case_id for nodule in judged if nodule.case_id in nodules)
    of_pool = [nodule for name, nodule in nodules.items() if name not in set(judged_ids)]
    if not judged_ids or not of_pool:
        side = "to label" if judged_ids else "held back to judge on"
        raise InputError(
            f"{folder} has no usable nodule of a patient {side} (one patient in five is held back, by a hash of its "
            "name): a simulation needs more patients."
        )
    return LearningPool(nodules=nodules, pool=_pool_cases(of_pool), judged=judged_ids, skipped=skipped)


def _pool_cases(nodules: list[LearningNodule]) -> dict[str, PoolCase]:
    """Patient to its nodules."""
    by_patient: dict[str, list[LearningNodule]] = {}
    for nodule in nodules:
        by_patient.setdefault(nodule.case.patient_id, []).append(nodule)
    return {
        patient: PoolCase(
            case_id=patient,
            nodule_ids=tuple(nodule.case.case_id for nodule in own),
            millilitres=sum(nodule.millilitres for nodule in own),
            diameters_mm=tuple(nodule.diameter_mm for nodule in own),
            kinds=tuple(nodule.kind for nodule in own),
        )
        for patient, own in sorted(by_patient.items())
    }


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()
