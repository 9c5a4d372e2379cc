"""Which patients train, which judge and which only report: decided once, by hash, and kept for good.

MONAI Label validates on the last fifth of today's list of labels, which moves as labels arrive: a patient that judged
the last model may train the next one, and the figures of two rounds do not compare. Here a patient is placed the first
time it is seen with a label, and stays. All studies of a patient go together.

The rule, in the order in which patients are first seen:

1. A patient whose hash falls into the lowest quarter is held back to judge ("validation"), the others train ("train").
2. The second patient goes where the first did not. So from two patients on there is at least one of each: something to
   learn from and something to judge by.
3. From ``TEST_FROM_PATIENTS`` patients on, those whose hash falls just above the lowest quarter are kept for figures
   alone ("test"): they never train and no model is promoted by them. Smaller studies have none to spare, and a patient
   that was placed before the study was large enough stays where it is.

Patients seen for the first time in one call are taken in the order of their hashes and counted together, so that the
order in which a caller lists them does not matter.

What is on disk, ``<study>/.medai/split.json``, holds hashes of patient keys and no key itself.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, cast, get_args

from medai.errors import StorageError
from medai.store.atomic import write_json
from medai.store.layout import state_folder
from medai.store.locks import ExclusiveLock
from medai.store.names import check_case_id
from medai.volume_io.dicom_headers import patient_key_of

Subset = Literal["train", "validation", "test"]

VALIDATION_FRACTION = 0.25
TEST_FRACTION = 0.15
TEST_FROM_PATIENTS = 8
"""With fewer patients each is needed to learn from or to judge by."""

SPLIT_FILE = "split.json"
CASES_FOLDER = "cases"
"""``<study>/.medai/cases/<case id>.json``, written by ``medai import``: facts of a case, among them "patient_key"."""

_HASH_SALT = "medai split 1:"
_LIDC_CASE = re.compile(r"LIDC-IDRI-\d{4}")


def patient_key_of_case(study_folder: Path, case_id: str) -> str:
    """The patient a case belongs to.

    1. "patient_key" in ``<study>/.medai/cases/<case id>.json``, which ``medai import`` writes.
    2. An id that starts like LIDC-IDRI-0001_R_1 belongs to patient LIDC-IDRI-0001, hashed as ``medai import`` does:
       files dropped into the study by hand stay with imported ones.
    3. Any other case is a patient of its own: its id is the key.

    Raises:
        InputError: the id cannot be a case's.
        StorageError: the file of the case is damaged.
    """
    path = state_folder(study_folder) / CASES_FOLDER / f"{check_case_id(case_id)}.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        key = facts.get("patient_key")
    except FileNotFoundError:
        key = None
    except (OSError, ValueError, AttributeError) as error:
        raise StorageError(f"{path} is damaged ({error}): import the case again, or remove the file.") from error
    if key:
        return str(key)
    match = _LIDC_CASE.match(case_id)
    return patient_key_of(match.group()) if match else case_id


class FrozenSplit:
    """The placing of a study's patients; threads and processes may share it."""

    def __init__(self, study_folder: Path) -> None:
        self._study_folder = Path(study_folder)
        self._path = state_folder(self._study_folder) / SPLIT_FILE
        self._lock = ExclusiveLock(self._path.with_name(".split.lock"))

    def place(self, patient_key: str) -> Subset:
        """Say where a patient belongs; one that is seen for the first time is placed for good."""
        return self.place_all([patient_key])[patient_key]

    def place_cases(self, case_ids: Iterable[str]) -> dict[str, Subset]:
        """Case id to the subset its patient belongs to; new patients are placed for good."""
        key_of_case = {case_id: patient_key_of_case(self._study_folder, case_id) for case_id in case_ids}
        placed = self.place_all(key_of_case.values())
        return {case_id: placed[key] for case_id, key in key_of_case.items()}

    def place_all(self, patient_keys: Iterable[str]) -> dict[str, Subset]:
        """Patient key to subset, several at once.

        Raises:
            StorageError: the file on disk is damaged or cannot be written. Patients are never placed anew then: those
                that trained a model could come to judge it.
        """
        digest_of_key = {key: _digest(key) for key in patient_keys}
        placed = self._read()
        if any(digest not in placed for digest in digest_of_key.values()):
            self._make_folder()
            with self._lock.hold():
                placed = self._read()
                new = set(digest_of_key.values()) - placed.keys()
                patient_count = len(placed) + len(new)
                for digest in sorted(new):
                    placed[digest] = _first_place(digest, placed, patient_count)
                write_json(self._path, {"version": 1, "patients": placed})
        return {key: placed[digest] for key, digest in digest_of_key.items()}

    def known(self, patient_keys: Iterable[str]) -> dict[str, Subset]:
        """Patient key to subset of those that have been placed; nobody is placed by asking.

        Raises:
            StorageError: the file on disk is damaged.
        """
        placed = self._read()
        return {key: placed[_digest(key)] for key in patient_keys if _digest(key) in placed}

    def _read(self) -> dict[str, Subset]:
        """Digest to subset, in the order of placing."""
        try:
            content: Any = json.loads(self._path.read_text(encoding="utf-8"))
            patients = content["patients"]
            if not set(patients.values()) <= set(get_args(Subset)):
                raise ValueError(f"a patient is in none of {', '.join(get_args(Subset))}")
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise StorageError(
                f"{self._path} is damaged ({error}). Restore it from a backup: without it a patient that trained a "
                "model could come to judge it. Remove it only together with the study's models."
            ) from error
        return cast("dict[str, Subset]", patients)

    def _make_folder(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{self._path.parent} cannot be made ({error}): check its permissions.") from error


def _digest(patient_key: str) -> str:
    return hashlib.sha256((_HASH_SALT + patient_key).encode()).hexdigest()


def _first_place(digest: str, placed: dict[str, Subset], patient_count: int) -> Subset:
    """Where a patient goes that was never seen before (the rules of the module).

    Args:
        digest: the patient's.
        placed: those placed before it.
        patient_count: patients of the study, all those that are new in this call included.
    """
    if len(placed) == 1:
        return "train" if "validation" in placed.values() else "validation"
    share = int(digest[:16], 16) / 2**64
    if share < VALIDATION_FRACTION:
        return "validation"
    may_test = patient_count >= TEST_FROM_PATIENTS and len(placed) >= 2
    return "test" if may_test and share < VALIDATION_FRACTION + TEST_FRACTION else "train"
