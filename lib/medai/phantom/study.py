"""A study folder of phantoms, for somebody who has no scans at hand.

Every case is a patient of its own. The truth lies beside the study's other state, where MONAI Label does not look, so
that ``medai demo`` can play the annotator and a newcomer can compare.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medai.domain import LabelMap, Segment, Volume
from medai.errors import InputError, StorageError
from medai.phantom.chest_ct import Phantom, make_phantom
from medai.phantom.config import Kernel, PhantomConfig
from medai.volume_io.atomic import atomic_path
from medai.volume_io.writers import write_label_map, write_volume

logger = logging.getLogger(__name__)

TRUTH_FOLDER = Path(".medai") / "demo_truth"
_KERNELS = (Kernel.SOFT, Kernel.STANDARD, Kernel.STANDARD, Kernel.SHARP)


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoCase:
    """One case of a demo study.

    Attributes:
        case_id: its name.
        image_path: the scan.
        truth_path: label map, one value a nodule.
        facts_path: JSON with each nodule's place, size and kind.
    """

    case_id: str
    image_path: Path
    truth_path: Path
    facts_path: Path

    @property
    def is_complete(self) -> bool:
        """True where all three files are there; each appears whole or not at all."""
        return self.image_path.is_file() and self.truth_path.is_file() and self.facts_path.is_file()


def demo_cases(folder: Path, case_count: int) -> tuple[DemoCase, ...]:
    """Where the cases of a demo study lie, whether they are there or not."""
    names = [f"phantom-{number:03d}" for number in range(1, case_count + 1)]
    return tuple(
        DemoCase(
            case_id=name,
            image_path=folder / f"{name}.nii.gz",
            truth_path=folder / TRUTH_FOLDER / f"{name}.nii.gz",
            facts_path=folder / TRUTH_FOLDER / f"{name}.json",
        )
        for name in names
    )


def make_demo_study(
    folder: Path,
    *,
    case_count: int = 6,
    seed: int = 0,
    shape_ijk: tuple[int, int, int] = (256, 256, 128),
    spacing_mm: tuple[float, float, float] = (1.36, 1.36, 2.3),
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[DemoCase, ...]:
    """Make a study of phantoms, or complete one that was interrupted; cases that are there are left as they are.

    Args:
        folder: the study; made where it does not exist.
        case_count: at least 1.
        seed: same seed, same study.
        shape_ijk: voxels of each scan.
        spacing_mm: voxel size.
        on_progress: called with (cases done, cases in all), first with those already there.

    Returns:
        The cases, all complete.

    Raises:
        InputError: ``case_count`` below 1, or a grid that shows too little of the lungs.
        StorageError: the folder cannot be made or written.
    """
    if case_count < 1:
        raise InputError(f"case_count is {case_count}; a demo study has at least one case.")
    try:
        (folder / TRUTH_FOLDER).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"The study folder {folder.name} cannot be made: {error.strerror or error}.") from error
    cases = demo_cases(folder, case_count)
    done = sum(case.is_complete for case in cases)
    if on_progress is not None:
        on_progress(done, case_count)
    for number, case in enumerate(cases):
        if case.is_complete:
            continue
        rng = np.random.default_rng([seed, number])
        config = PhantomConfig(
            shape_ijk=shape_ijk,
            spacing_mm=spacing_mm,
            nodule_count=int(rng.integers(1, 5)),
            kernel=_KERNELS[int(rng.integers(len(_KERNELS)))],
        )
        _write_case(case, make_phantom(config, rng))
        done += 1
        logger.info("made demo case %s (%d of %d)", case.case_id, done, case_count)
        if on_progress is not None:
            on_progress(done, case_count)
    return cases


def _write_case(case: DemoCase, phantom: Phantom) -> None:
    """Truth first, the scan last: a scan in a study always has its truth."""
    write_label_map(truth_label_map(phantom), case.truth_path)
    facts = {"case_id": case.case_id, "nodules": nodule_facts(phantom)}
    with atomic_path(case.facts_path) as temporary:
        temporary.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    volume = phantom.volume
    write_volume(
        Volume(geometry=volume.geometry, image_hu=volume.image_hu, case_id=case.case_id, header=volume.header),
        case.image_path,
    )


def truth_label_map(phantom: Phantom) -> LabelMap:
    """The nodules of a phantom as a label map: value n is the n-th nodule, "Nodule n"."""
    labels = np.zeros(phantom.volume.geometry.shape_ijk, dtype=np.uint8, order="F")
    for value, nodule in enumerate(phantom.nodules, start=1):
        labels[nodule.box.slices][nodule.mask] = value
    segments = tuple(Segment(value=n, name=f"Nodule {n}") for n in range(1, len(phantom.nodules) + 1))
    return LabelMap(geometry=phantom.volume.geometry, labels=labels, segments=segments)


def nodule_facts(phantom: Phantom) -> list[dict[str, object]]:
    """What is known of each nodule, ready for JSON; places in RAS millimetres."""
    return [
        {
            "value": value,
            "centre_ras_mm": [round(c, 3) for c in nodule.centre_ras_mm],
            "volume_mm3": round(nodule.volume_mm3, 3),
            "diameter_mm": round(nodule.diameter_mm, 3),
            "kind": nodule.kind.value,
            "attachment": nodule.attachment.value,
            "margin": nodule.margin.value,
        }
        for value, nodule in enumerate(phantom.nodules, start=1)
    ]
