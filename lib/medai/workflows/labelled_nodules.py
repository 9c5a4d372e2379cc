"""The nodules of a study that annotators have outlined, for the click network.

Where several people have labelled a case, what they say together counts and not who came last: otherwise the last one
to submit would decide what the model learns and by what it is judged.

- Of three labels or more the majority is the outline, and the mean of the labels says where they disagree.
- Of two, the later one is the outline (it may well be a correction of the former), and the mean says the same. Where
  the two hardly overlap nobody can say whose is right: the case neither trains nor judges until a third label or a
  reviewer's approval settles it.
- A flagged or quarantined label does not count; the others of its case do.
- A label of an annotator who stands out among the others trains seldom or not at all, and judges nothing
  (``doubted_labels``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medai.domain import LabelMap, Volume
from medai.domain.click_case import ClickCase
from medai.errors import InputError
from medai.evaluation.corrections import labels_dice
from medai.evaluation.label_sanity import LEAST_AGREEMENT
from medai.geometry import IndexBox
from medai.postprocessing.consensus import Consensus, ConsensusNodule, SoftLabel, consensus
from medai.store.split import patient_key_of_case
from medai.training.dataset import nodule_cases
from medai.volume_io.readers import read_geometry
from medai.volume_io.scan_labels import read_scan_label
from medai.workflows.doubted_labels import BIASED_WEIGHT, doubted_labels
from medai.workflows.labelled_examples import (
    KeepsOpinions,
    LabelledExamples,
    LabelledStudy,
    collect_examples,
    read_scan,
)
from medai.workflows.submitted_label import SUBMITTED_TAG, read_submitted

LARGEST_EXTENT_MM = 120.0
"""A longer segment is a lung or a body outline, whatever its name: a nodule has 30 mm at most, a mass seldom 100."""


def collect_labelled_nodules(
    study: LabelledStudy, *, should_stop: Callable[[], bool] = lambda: False
) -> LabelledExamples[ClickCase]:
    """Read every submitted label of a study, one case a nodule, and place its patients.

    Args:
        study: the study.
        should_stop: asked before each case.

    Raises:
        InputError: too few usable labels to train on some patients and judge on others.
        CancelledByUserError: ``should_stop`` said so.
    """
    doubts = doubted_labels(study.folder)
    opinions: Mapping[str, Sequence[Path]] = (
        study.counting_labels(SUBMITTED_TAG, without=doubts.elsewhere) if isinstance(study, KeepsOpinions) else {}
    )

    def nodules(case_id: str) -> list[ClickCase]:
        weight = BIASED_WEIGHT if case_id in doubts.of_case else 1.0
        found = _nodules_of_case(study, case_id, opinions.get(case_id, ()))
        return [replace(nodule, weight=weight) for nodule in found]

    return collect_examples(
        study,
        study.labeled(SUBMITTED_TAG),
        nodules,
        nothing="It holds no nodule.",
        needed=(
            "Training needs nodules of at least two patients: one to learn from, one held back. Submit another "
            "patient's label and train again."
        ),
        should_stop=should_stop,
        others_count=opinions.keys(),
        doubts=doubts.of_case,
    )


def joined_nodules(scan: Volume, label_maps: Sequence[LabelMap]) -> list[ClickCase]:
    """The nodules of a scan on which several annotators' labels agree.

    Args:
        scan: the scan.
        label_maps: one an annotator, oldest first, on the scan's grid; one at least.

    Returns:
        One case a nodule, with the mean of the labels as ``readers`` where there are several.

    Raises:
        InputError: two labels that hardly overlap.
        GeometryError: a label lies on another grid.
    """
    outline, together = joined_outline(label_maps)
    nodules = nodule_cases([(scan, outline)])
    return nodules if together is None else [_with_readers(nodule, scan, together.nodules) for nodule in nodules]


def joined_outline(label_maps: Sequence[LabelMap]) -> tuple[LabelMap, Consensus | None]:
    """What several annotators' labels of a scan say together.

    Args:
        label_maps: one an annotator, oldest first, of one grid; one at least.

    Returns:
        The outline, and how they were joined; None for a single label, which is the outline itself.

    Raises:
        InputError: two labels that hardly overlap.
        GeometryError: the grids differ.
    """
    latest = label_maps[-1]
    if len(label_maps) == 1:
        return latest, None
    if len(label_maps) == 2:
        agreement = labels_dice(*label_maps)
        if agreement < LEAST_AGREEMENT:
            raise InputError(
                f"Its two annotators' labels agree at a Dice of {agreement:.2f} only (the bound is "
                f"{LEAST_AGREEMENT:g}), and nothing says whose is right. A third label settles it, or a reviewer who "
                "approves one of them."
            )
    together = consensus(label_maps, soft=SoftLabel.MEAN)
    return (latest if len(label_maps) == 2 else together.majority), together


def _nodules_of_case(study: LabelledStudy, case_id: str, opinions: Sequence[Path]) -> list[ClickCase]:
    outlines = [path for path in opinions if path.suffix != ".json"]
    if outlines:
        geometry = read_geometry(study.image_path(case_id))
        label_maps = [read_scan_label(path, geometry, {}).label_map for path in outlines]
    else:
        label_maps = [read_submitted(study, case_id).label_map]
    if not any(label_map.labels.any() for label_map in label_maps):
        return []
    found = [
        nodule
        for nodule in joined_nodules(read_scan(study, case_id), label_maps)
        if _extent_mm(nodule) <= LARGEST_EXTENT_MM
    ]
    patient_key = patient_key_of_case(study.folder, case_id)
    return [replace(nodule, patient_id=patient_key) for nodule in found]


def _with_readers(case: ClickCase, scan: Volume, nodules: Sequence[ConsensusNodule]) -> ClickCase:
    """The case with what its annotators say of it together: the soft label of the nodule that it overlaps most."""
    corner = scan.geometry.ras_to_ijk(case.volume.geometry.ijk_to_ras((0, 0, 0)))
    offset = [-round(float(n)) for n in corner]
    inside = IndexBox.of_shape(case.mask.shape)
    best: NDArray[np.float32] | None = None
    most = 0
    for nodule in nodules:
        placed = nodule.box.shift(offset)
        shared = placed.intersect(inside)
        if shared.is_empty:
            continue
        soft = np.zeros(case.mask.shape, dtype=np.float32)
        soft[shared.slices] = nodule.soft[shared.shift([-n for n in placed.start_ijk]).slices]
        overlap = int(np.count_nonzero(case.mask & (soft > 0)))
        if overlap > most:
            best, most = soft, overlap
    return case if best is None else replace(case, readers=best)


def _extent_mm(nodule: ClickCase) -> float:
    """Longest side of the nodule's box."""
    box = IndexBox.of_mask(nodule.mask)
    sides = zip(box.shape_ijk, nodule.volume.geometry.spacing_mm, strict=True) if box else ()
    return max((count * spacing_mm for count, spacing_mm in sides), default=0.0)
