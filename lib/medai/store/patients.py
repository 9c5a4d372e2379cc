"""Which cases are of one patient, looked up in memory: the file that says it is read once a case.

``store.split.patient_key_of_case`` says whose a case is; with twenty thousand cases, asking it for each at every Next
Sample would open twenty thousand files.

Threads: one lock, held while files are read.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from pathlib import Path

from medai.errors import MedaiError
from medai.store.layout import state_folder
from medai.store.listing import FolderListing
from medai.store.split import CASES_FOLDER, patient_key_of_case

_logger = logging.getLogger(__name__)


class PatientIndex:
    """The patients of one study's cases."""

    def __init__(self, studies: Path) -> None:
        self._studies = studies
        self._facts = FolderListing(state_folder(studies) / CASES_FOLDER)
        self._lock = threading.Lock()
        self._key_of_case: dict[str, str] = {}
        self._had_facts: set[str] = set()
        self._last_facts: frozenset[str] | None = None
        self._cases_of_key: dict[str, set[str]] = {}

    def learn(self, case_ids: Iterable[str]) -> None:
        """Take up cases; those known already cost a look-up, save where facts of them have come in since."""
        with self._lock:
            facts = self._facts.files()
            if facts is self._last_facts:
                case_ids = set(case_ids) - self._key_of_case.keys()
            self._last_facts = facts
            for case_id in case_ids:
                has_facts = f"{case_id}.json" in facts
                if case_id in self._key_of_case and (not has_facts or case_id in self._had_facts):
                    continue
                self._place(case_id)
                if has_facts:
                    self._had_facts.add(case_id)

    def siblings(self, case_id: str) -> frozenset[str]:
        """The other cases of a case's patient, of those that were taken up."""
        self.learn([case_id])
        with self._lock:
            return frozenset(self._cases_of_key[self._key_of_case[case_id]] - {case_id})

    def _place(self, case_id: str) -> None:
        try:
            key = patient_key_of_case(self._studies, case_id)
        except MedaiError as error:
            _logger.warning("%s counts as a patient of its own: %s", case_id, error)
            key = case_id
        former = self._key_of_case.get(case_id)
        if former is not None:
            self._cases_of_key[former].discard(case_id)
        self._key_of_case[case_id] = key
        self._cases_of_key.setdefault(key, set()).add(case_id)
