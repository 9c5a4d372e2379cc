"""Nodules that are outlined already, by a person or a model, are measured and rated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from medai.domain import LabelMap, Nodule, NoduleAssessment, Volume
from medai.errors import GeometryError
from medai.geometry import IndexBox
from medai.postprocessing.components import label_components
from medai.postprocessing.nodules import assessed, nodule_from_mask
from medai.preprocessing.lung_mask import segment_lungs
from medai.workflows.labelled_nodules import LARGEST_EXTENT_MM


class NoduleAssessor(Protocol):
    """Rates an outlined nodule; ``medai.inference.classify.NoduleClassifier`` is one."""

    def assess(self, volume: Volume, box: IndexBox, mask: NDArray[np.bool_]) -> NoduleAssessment:
        """Malignancy, attributes and kind of the nodule whose mask lies at ``box``."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OutlinedNodule:
    """A nodule of a label map.

    Attributes:
        nodule: measured; its probability is 1, because someone has said that it is one.
        segment: the name of the segment it is in.
    """

    nodule: Nodule
    segment: str


def outlined_nodules(volume: Volume, label_map: LabelMap) -> list[OutlinedNodule]:
    """Measure the nodules of a label map: one for each connected part of each segment.

    Args:
        volume: the scan.
        label_map: on the scan's grid; parts larger than a mass (a lung) are passed over.

    Raises:
        GeometryError: the label map lies on another grid.
    """
    geometry = volume.geometry
    if not geometry.is_same_grid(label_map.geometry):
        raise GeometryError(
            f"The label lies on another grid than the scan: {label_map.geometry.describe()} instead of "
            f"{geometry.describe()}. Export it with the scan as reference volume."
        )
    names = {segment.value: segment.name for segment in label_map.segments}
    spacing_mm = geometry.spacing_mm
    found_parts = label_components(label_map.labels, spacing_mm)
    parts = [p for p in found_parts if p.extent_mm(spacing_mm) <= LARGEST_EXTENT_MM]
    if not parts:
        return []
    lungs = segment_lungs(volume)
    found = []
    for part in parts:
        nodule = nodule_from_mask(volume, part.box, part.mask, probability=1.0)
        nodule = replace(nodule, side=lungs.side_at(nodule.centre_ras_mm))
        found.append(OutlinedNodule(nodule=nodule, segment=names.get(part.value, f"label_{part.value}")))
    return found


def rate_nodules(volume: Volume, nodules: Sequence[Nodule], assessor: NoduleAssessor) -> list[Nodule]:
    """The nodules with their assessments; those that have one keep it."""
    return [
        nodule if nodule.assessment is not None else assessed(nodule, assessor.assess(volume, nodule.box, nodule.mask))
        for nodule in nodules
    ]
