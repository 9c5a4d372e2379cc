"""Which cases of a study can be worked on: what cannot be read is nobody's next case, is named, and comes back mended.

A scan is found out where it is decoded anyway (ahead of an annotator, by the scoring, by a model), and by its head
before it is handed out (``volume_io.head_check``). One that looks cut off is decoded then, before anybody gets it.

Threads: any. A head that was looked at once is not looked at again while its file stays as it is.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from medai.errors import InputError
from medai.store.study import StudyStore
from medai.store.unreadable import FileState, UnreadableScans, file_state
from medai.volume_io.head_check import check_first_bytes, check_head, may_be_cut_off

_log = logging.getLogger(__name__)

LONGEST_REASON = 400

_PASSING_ERRNOS = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EINTR, errno.EAGAIN}
)


class ReadableCases:
    """What is known of a study's scans.

    Args:
        study: the cases.
        record: where it is kept.
        decode: decodes a scan and raises what is wrong with it; None: what looks cut off is left to whoever decodes it.
    """

    def __init__(
        self, study: StudyStore, record: UnreadableScans, *, decode: Callable[[Path], object] | None = None
    ) -> None:
        self._study = study
        self._record = record
        self._decode = decode
        self._good: dict[str, FileState] = {}

    def unreadable(self) -> dict[str, str]:
        """Case to the reason why its scan cannot be read, of those that are as they were found; some stats."""
        entries = self._record.entries()
        if not entries:
            return {}
        files = self._study.scan_files()
        present = {case_id: file_state(files[case_id]) if case_id in files else None for case_id in entries}
        gone = {case_id for case_id, (state, _) in entries.items() if present[case_id] != state}
        if gone:
            for case_id in sorted(gone):
                _log.info("%s is another file now and is looked at again", case_id)
            self._record.forget(gone)
        return {case_id: reason for case_id, (_, reason) in sorted(entries.items()) if case_id not in gone}

    def can_be_read(self, case_id: str) -> bool:
        """Whether a case can be handed out: its head is good, and it does not look cut off or decodes well."""
        path = self._study.scan_file(case_id)
        state = file_state(path) if path else None
        if path is None or state is None or case_id in self.unreadable():
            return False
        if self._good.get(case_id) == state:
            return True
        try:
            if may_be_cut_off(path, check_head(path)) and self._decode is not None:
                self._decode(path)
        except InputError as error:
            self.failed(case_id, error)
            return False
        except OSError as error:
            _log.warning("%s could not be looked at: %s", case_id, error)
            return False
        self._good[case_id] = state
        return True

    def look_through(self, case_ids: Iterable[str], *, thoroughly: bool = False) -> None:
        """Find what cannot be read among many: by the first bytes, or by the whole head (a millisecond each)."""
        check: Callable[[Path], object] = check_head if thoroughly else check_first_bytes
        files = self._study.scan_files()
        found: dict[str, tuple[FileState, str]] = {}
        known = self.unreadable()
        for case_id in case_ids:
            state = file_state(files[case_id]) if case_id in files else None
            if state is None or case_id in known or self._good.get(case_id) == state:
                continue
            try:
                check(files[case_id])
            except InputError as error:
                if _is_the_files(error):
                    found[case_id] = (state, str(error)[:LONGEST_REASON])
            except OSError:
                continue
        self._note(found)

    def failed(self, case_id: str, error: InputError | str) -> None:
        """Note that a case's scan could not be used, as whoever tried says."""
        path = self._study.scan_file(case_id)
        state = file_state(path) if path else None
        if state is not None and _is_the_files(error):
            self._good.pop(case_id, None)
            self._note({case_id: (state, str(error)[:LONGEST_REASON])})

    def failed_file(self, case_id: str, path: Path, error: InputError) -> None:
        """The same of a file that was decoded as a case's, where it is that case's."""
        own = self._study.scan_file(case_id)
        if own is not None and own.resolve() == path.resolve():
            self.failed(case_id, error)

    def _note(self, found: Mapping[str, tuple[FileState, str]]) -> None:
        known = self._record.entries()
        new = {case_id: entry for case_id, entry in found.items() if known.get(case_id) != entry}
        for case_id, (_, reason) in new.items():
            _log.warning("%s cannot be read and is passed over: %s", case_id, reason)
        self._record.note(new)


def _is_the_files(error: InputError | str) -> bool:
    """Whether an error says something of the file, and not of a disk or a machine that failed for the moment."""
    cause = error.__cause__ if isinstance(error, InputError) else None
    return not isinstance(cause, OSError) or cause.errno not in _PASSING_ERRNOS
