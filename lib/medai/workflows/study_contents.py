"""What to do about a study folder in which there is nothing to label: it is empty, or holds scans in another form.

Scans lie at the top of a study, one file each (``store.names.IMAGE_EXTENSIONS``). A folder of DICOM series, or of NIfTI
files in folders, is a study once it was imported, into itself or elsewhere.
"""

from __future__ import annotations

import itertools
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

from medai.volume_io.dicom_headers import looks_like_dicom
from medai.workflows.import_sources import VOLUME_ENDINGS

_MOST_LOOKED_AT = 3000
"""Files that are looked at for an example: a folder of hundreds of thousands must not hold up a server's start."""


def missing_scans_words(studies: Path, *, shows_path: bool = True) -> str:
    """Why a folder without cases has none, by what lies in it, and the command that mends it; no full stop at the end.

    Args:
        studies: the folder.
        shows_path: False for a reader on another machine, who is told the folder's name alone.
    """
    shown = str(studies) if shows_path else studies.name
    where = shlex.quote(shown)
    example = next(_convertible(studies), None)
    if example is None:
        return (
            f"There is no scan in {shown}. Bring some: medai import SCANS --to {where} takes DICOM folders, NIfTI, "
            "NRRD and MetaImage files"
        )
    name = example.relative_to(studies)
    if example.name.lower().endswith(VOLUME_ENDINGS):
        kind = f"holds scans in its folders or of a form that is not served ({name})"
    else:
        kind = f"holds DICOM files ({name}) and no scan that can be served"
    return f"The study folder {shown} {kind}. Make cases of them: medai import {where} --to {where}"


def _convertible(studies: Path) -> Iterator[Path]:
    for path in itertools.islice(_files(studies), _MOST_LOOKED_AT):
        if path.name.lower().endswith(VOLUME_ENDINGS) or looks_like_dicom(path):
            yield path


def _files(studies: Path) -> Iterator[Path]:
    # Links are followed as an import follows them; what leads round in a circle ends at the bound.
    for here, folders, names in os.walk(studies, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "labels")
        yield from (Path(here) / name for name in sorted(names) if not name.startswith("."))
