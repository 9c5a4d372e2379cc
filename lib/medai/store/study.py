"""The study folder: scans, labels and what is known about them, in MONAI Label's own local layout.

An existing MONAI Label study works as it is, and stock MONAI Label opens it afterwards with everything intact. What
differs is how it is written: stock keeps the index in memory and writes all of it, so that two processes undo each
other's labels. Here every write takes the study's lock, reads the index again, changes one entry and replaces the file.

Reading takes no lock between processes (files are replaced whole) and costs a few ``stat`` calls while nothing changes.
Threads: every method may be called from any thread. Lock order: ``.lock`` (write) before the lock of the snapshot.

Layout (``images_dir`` and ``labels_dir`` as the index says)::

    <study>/datastore_v2.json         index
    <study>/<case id>.nii.gz          scans
    <study>/labels/<tag>/<case id>.*  labels, one folder a tag
    <study>/.medai/                   our own state, unknown to stock MONAI Label
"""

from __future__ import annotations

import difflib
import filecmp
import logging
import operator
import shutil
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medai.errors import ConflictError, MedaiError, NotFoundError, StorageError
from medai.store.annotation_files import FINAL
from medai.store.answers import ORIGINAL, check_replaceable
from medai.store.atomic import copy_into, delete, plain_json, publish, staged_file, sweep
from medai.store.case_facts import facts_changed_s, forget_facts
from medai.store.index_edits import (
    check_info,
    entry_view,
    with_image_info,
    with_label,
    with_label_info,
    without_label,
)
from medai.store.layout import state_folder
from medai.store.listing import FolderListing
from medai.store.locks import ExclusiveLock
from medai.store.names import (
    IMAGE_EXTENSIONS,
    LABEL_EXTENSIONS,
    check_case_id,
    check_new_case_id,
    check_tag,
    is_text,
    split_extension,
)
from medai.store.pending import PendingLabel
from medai.store.scan_identity import ScanIdentities
from medai.store.snapshot import SnapshotBuilder, StudyCase, StudyLabel, unusable_scan, with_found_files
from medai.store.study_index import DamagedIndexError, RawIndex, StudyIndex
from medai.store.tombstones import Tombstone, Tombstones

__all__ = ["FINAL", "ORIGINAL", "StudyStore"]

_IMPORT_S = 60.0
"""Facts that are older than the scan by more than this are of another one."""

_logger = logging.getLogger(__name__)


class StudyStore:
    """One study folder."""

    def __init__(self, folder: Path, *, extensions: Sequence[str] = IMAGE_EXTENSIONS, read_only: bool = False) -> None:
        """Open a study.

        Args:
            folder: an existing folder; it may be empty.
            extensions: what makes a file a scan, such as ``.nii.gz``; MONAI Label's patterns (``*.nii.gz``) do too.
            read_only: refuse every write.

        Raises:
            NotFoundError: there is no such folder.
            StorageError: its index is damaged and no backup of it is usable.
        """
        self.folder = folder.resolve()
        if not self.folder.is_dir():
            raise NotFoundError(
                f"There is no study folder {folder}. Create it, or give the folder that holds the scans."
            )
        self.read_only = read_only
        self.extensions = tuple(extension.removeprefix("*") for extension in extensions)
        self._index = StudyIndex(self.folder)
        # Stock MONAI Label locks the same file.
        self._lock = ExclusiveLock(self.folder / ".lock")
        self._pending = PendingLabel(state_folder(self.folder))
        self._snapshot_lock = threading.RLock()
        self._listings: dict[Path, FolderListing] = {}
        self._last_raw: RawIndex | None = None
        self._sources: tuple[object, ...] = ()
        self._tags: list[str] = []
        self._cases: dict[str, StudyCase] = {}
        self._snapshots = SnapshotBuilder(self.extensions)
        self.tombstones = Tombstones(self.folder)
        self._identities = ScanIdentities(self.folder)
        # Told of each scan that is deleted or replaced, with its id and where it lay.
        self.on_gone: list[Callable[[str, Path], None]] = []
        self._open()

    # -- what there is -----------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The study's name."""
        return str(self._raw().get("name", ""))

    @property
    def description(self) -> str:
        """The study's description."""
        return str(self._raw().get("description", ""))

    def image_ids(self) -> list[str]:
        """All cases, sorted."""
        return list(self._snapshot())

    def labeled(self, tag: str = FINAL) -> list[str]:
        """The cases with a label of this tag, sorted."""
        return [case_id for case_id, case in self._snapshot().items() if tag in case.labels]

    def unlabeled(self, tag: str = FINAL) -> list[str]:
        """The cases without a label of this tag, sorted."""
        return [case_id for case_id, case in self._snapshot().items() if tag not in case.labels]

    def image_path(self, case_id: str) -> Path:
        """The scan's file.

        Raises:
            NotFoundError: no such case, or its file has gone.
        """
        return (self._images_folder() / self._case(case_id).file_name).resolve()

    def scan_file(self, case_id: str) -> Path | None:
        """The scan's file of a case, a link as it is; None where there is no such case."""
        case = self._snapshot().get(case_id)
        return None if case is None else self._images_folder() / case.file_name

    def scan_files(self) -> dict[str, Path]:
        """The scan's file of every case, links as they are; for whoever asks for many."""
        folder = self._images_folder()
        return {case_id: folder / case.file_name for case_id, case in self._snapshot().items()}

    def image_info(self, case_id: str) -> dict[str, Any]:
        """What is known about the scan; ``name`` is its file name, ``ts`` when it was added (seconds)."""
        info: dict[str, Any] = plain_json(dict(self._case(case_id).info))
        return info

    def labels(self, case_id: str) -> dict[str, Path]:
        """The files of the case's labels by tag."""
        return {tag: self.label_path(case_id, tag) for tag in self._case(case_id).labels}

    def label_path(self, case_id: str, tag: str) -> Path:
        """The file of a label.

        Raises:
            NotFoundError: no such case or label.
        """
        label = self._label(case_id, tag)
        return (self._label_folder(tag) / (case_id + label.extension)).resolve()

    def rival_labels(self, case_id: str, tag: str) -> tuple[str, ...]:
        """Names of other files that lie there as the same label, so that nobody knows which one is meant."""
        return self._label(case_id, tag).rivals

    def label_info(self, case_id: str, tag: str) -> dict[str, Any]:
        """What is known about a label, as it was saved, with ``name`` (its file) and ``ts`` (when, seconds)."""
        info: dict[str, Any] = plain_json(dict(self._label(case_id, tag).info))
        return info

    def withheld_labels(self, tag: str = FINAL) -> dict[str, str]:
        """Case to the reason why its label is kept from training: quarantined, or flagged by a reviewer."""
        # Late: the database's library is loaded only where a study has a history.
        from medai.store.withheld import withheld_labels

        return withheld_labels(self.folder, tag, self._snapshot(), lambda case_id: self.labels(case_id).get(tag))

    def counting_labels(self, tag: str = FINAL, *, without: Collection[str] = ()) -> dict[str, tuple[Path, ...]]:
        """Case to the files of the labels that count, where several people have labelled it (``store.withheld``)."""
        from medai.store.withheld import counting_labels

        return counting_labels(self.folder, tag, lambda case_id: self.labels(case_id).get(tag), without=without)

    def passed_over(self) -> list[str]:
        """Files of the study whose names cannot be used, each with the reason; nothing is lost, nothing shows them."""
        raw = self._raw()
        with self._snapshot_lock:
            names = self._listing(self._images_folder(raw)).files()
            found = [problem for name in names if (problem := unusable_scan(name, self.extensions))]
            labels_folder = self._labels_folder(raw)
            for tag in self._listing(labels_folder).folders():
                unusable = [tag] if not is_text(tag) else self._listing(labels_folder / tag).files()
                found += (f"labels: {name!a} is no UTF-8 name: rename it." for name in unusable if not is_text(name))
        return sorted(found)

    def status(self) -> dict[str, Any]:
        """Number of cases, of completed ones, and of labels by tag, in MONAI Label's words."""
        tags: dict[str, int] = {}
        cases = self._snapshot()
        for case in cases.values():
            for tag in case.labels:
                tags[tag] = tags.get(tag, 0) + 1
        return {"total": len(cases), "completed": tags.get(FINAL, 0), "label_tags": tags}

    def as_json(self) -> dict[str, Any]:
        """The whole study in the index's own form: what is really there."""
        raw = self._raw()
        cases = self._snapshot()
        objects = with_found_files(raw, cases)["objects"]
        head = {key: value for key, value in raw.items() if key != "objects"}
        view = {case_id: entry_view(objects[case_id], case) for case_id, case in cases.items()}
        json: dict[str, Any] = plain_json({**head, "objects": view})
        return json

    # -- changes -----------------------------------------------------------------------------------------------------

    def set_name(self, name: str) -> None:
        """Name the study."""
        self._change(lambda raw: {**raw, "name": name})

    def set_description(self, description: str) -> None:
        """Describe the study."""
        self._change(lambda raw: {**raw, "description": description})

    def add_image(self, path: Path, *, case_id: str | None = None, info: Mapping[str, Any] | None = None) -> str:
        """Copy a scan into the study.

        Args:
            path: a file with one of the study's extensions.
            case_id: its id; None takes the file's name without extension, dots and all.
            info: kept with the image.

        Returns:
            The case id. Adding the same bytes under the same id again changes nothing but the info.

        Raises:
            InputError: the id or the extension cannot be used.
            ConflictError: the study has another scan of that id.
        """
        stem, extension = split_extension(path.name, self.extensions)
        case_id = check_case_id(case_id or stem)
        check_info(plain_json(dict(info or {})))
        self._check_writable()
        with staged_file(self._images_folder() / (case_id + extension)) as staged:
            copy_into(path, staged)
            with self._lock.hold():
                cases = self._snapshot()
                known = cases.get(case_id)
                if known is None:
                    check_new_case_id(case_id, cases)
                    self._clear_for_new_scan(case_id)
                    publish(staged, self._images_folder() / (case_id + extension))
                elif not filecmp.cmp(staged, self._images_folder() / known.file_name, shallow=False):
                    raise ConflictError(
                        f"The study has another scan named '{case_id}' already. Give this one another id."
                    )
                self._change(lambda raw: with_image_info(raw, case_id, {**(info or {}), "ts": int(time.time())}))
        return case_id

    def remove_image(self, case_id: str) -> None:
        """Delete a scan with all its labels and facts, and leave a tombstone; ``on_gone`` is told.

        A kill on the way is completed by the next opening.
        """
        self._check_writable()
        with self._lock.hold():
            file_name = self._case(case_id).file_name
            tombstone = Tombstone(
                case_id=case_id, deleted_at_s=time.time(), reason="deleted", file_name=file_name, is_pending=True
            )
            # Where a link leads stays; what was decoded of it is known by that place.
            place = (self._images_folder() / file_name).resolve()
            self.tombstones.put(tombstone)
            self._finish_removal(tombstone)
        self._tell_gone({case_id: place})

    def set_aside_replaced(self) -> list[str]:
        """Take labels off scans that are other ones than they were drawn on; the files are kept beside the tombstone.

        Returns:
            The cases. A file that was compressed anew or touched is the same scan.
        """
        if self.read_only:
            return []
        labelled = {case_id: case for case_id, case in self._snapshot().items() if case.labels}
        scans = {case_id: self._images_folder() / case.file_name for case_id, case in labelled.items()}
        unsure = {case_id: scan for case_id, scan in scans.items() if not self._identities.is_as_it_was(case_id, scan)}
        if not unsure:
            return []
        with self._lock.hold():
            replaced = [case_id for case_id, scan in unsure.items() if self._identities.is_replaced(case_id, scan)]
            for case_id in replaced:
                self._set_aside(case_id, labelled[case_id])
            self._identities.note({case_id: scan for case_id, scan in unsure.items() if case_id not in replaced})
        self._tell_gone({case_id: scans[case_id].resolve() for case_id in replaced})
        return replaced

    def save_label(self, case_id: str, path: Path, tag: str = FINAL, info: Mapping[str, Any] | None = None) -> Path:
        """Store a label; one of the same case and tag is replaced.

        The file is written and renamed first, then the index; a kill between the two is completed by the next opening.

        Args:
            case_id: the case.
            path: the label's file; copied. Its extension is kept.
            tag: ``final`` for an annotator's, ``original`` for a model's.
            info: kept with the label; ``name`` and ``ts`` are set here.

        Returns:
            Where it lies now.

        Raises:
            NotFoundError: no such case.
            InputError: tag or extension cannot be used.
            StorageError: the disk refused; the label that was there is still there.
        """
        check_tag(tag)
        self._case(case_id)
        extension = split_extension(path.name, LABEL_EXTENSIONS)[1].lower()
        target = self._label_folder(tag) / (case_id + extension)
        kept = plain_json({**(info or {}), "ts": int(time.time()), "name": target.name})
        self._check_writable()
        with staged_file(target) as staged:
            copy_into(path, staged)
            with self._lock.hold():
                self._case(case_id)
                raw = with_label(self._editable(), case_id, tag, extension, kept)
                with self._index.staged(raw) as publish_index:
                    self._pending.write(staged, target, case_id=case_id, tag=tag, extension=extension, info=kept)
                    publish(staged, target)
                    publish_index()
                    self._pending.clear()
                self._delete_label_files(case_id, tag, keep=target)
                self._identities.note({case_id: self._images_folder() / self._case(case_id).file_name})
        return target

    def check_answer(self, case_id: str, tag: str) -> None:
        """Refuse to put a model's answer where a person's label is, or several files that nobody can tell apart.

        Raises:
            ConflictError: one is there.
        """
        label = self._case(case_id).labels.get(tag)
        check_replaceable(case_id, tag, label.info if label and not label.rivals else {} if label else None)

    def save_answer(self, case_id: str, path: Path, tag: str, info: Mapping[str, Any]) -> Path:
        """Store a model's answer as ``save_label`` does; never in place of a person's label.

        Raises:
            ConflictError: a person's label is there.
        """
        self._check_writable()
        with self._lock.hold():
            self.check_answer(case_id, tag)
            return self.save_label(case_id, path, tag, info)

    def remove_label(self, case_id: str, tag: str) -> None:
        """Delete a label."""
        self._check_writable()
        with self._lock.hold():
            self._label(case_id, tag)
            self._delete_label_files(case_id, tag)
            self._change(lambda raw: without_label(raw, case_id, tag))

    def update_image_info(self, case_id: str, info: Mapping[str, Any]) -> None:
        """Add to what is known about a scan."""
        self._check_writable()
        with self._lock.hold():
            self._case(case_id)
            self._change(lambda raw: with_image_info(raw, case_id, info))

    def update_label_info(self, case_id: str, tag: str, info: Mapping[str, Any]) -> None:
        """Add to what is known about a label."""
        self._check_writable()
        with self._lock.hold():
            self._label(case_id, tag)
            self._change(lambda raw: with_label_info(raw, case_id, tag, info))

    def replace_label_info(self, case_id: str, tag: str, info: Mapping[str, Any]) -> None:
        """Forget what was known about a label: its file is another one now."""
        self._check_writable()
        with self._lock.hold():
            label = self._label(case_id, tag)
            known = plain_json({"ts": int(time.time()), **info, "name": case_id + label.extension})
            self._change(lambda raw: with_label(raw, case_id, tag, label.extension, known))

    def refresh(self) -> None:
        """Look at the folder again and record newly found files in the index."""
        if not self.read_only:
            self._change(lambda raw: raw)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        if self.read_only:
            self._snapshot()
            return
        with self._lock.hold():
            try:
                self._index.load()
            except DamagedIndexError:
                self._index.recover()
            self._finish_interrupted_save()
            for tombstone in self.tombstones.all().values():
                if tombstone.is_pending:
                    _logger.warning("completing the deletion of %s, which was interrupted", tombstone.case_id)
                    self._finish_removal(tombstone)
            self._index.back_up()
        labels_folder = self._labels_folder()
        tag_folders = [labels_folder / tag for tag in self._listing(labels_folder).folders()]
        for folder in (self.folder, self._images_folder(), self._index.backup_path.parent, *tag_folders):
            sweep(folder)
        self._snapshot()
        self.set_aside_replaced()

    def _finish_removal(self, tombstone: Tombstone) -> None:
        case_id, scan = tombstone.case_id, self._images_folder() / tombstone.file_name
        for tag in self._listing(self._labels_folder()).folders():
            self._delete_label_files(case_id, tag)
        forget_facts(self.folder, case_id)
        self._identities.forget(case_id)
        delete(scan)
        self._drop_entry(case_id)
        self.tombstones.put(replace(tombstone, is_pending=False))

    def _set_aside(self, case_id: str, case: StudyCase) -> None:
        """The scan is another one: its predecessor's labels, and what else was known of it, are not this one's."""
        now = time.time()
        self.tombstones.put(Tombstone(case_id=case_id, deleted_at_s=now, reason="replaced", file_name=case.file_name))
        folder = self.tombstones.label_folder(case_id, now)
        for tag, label in case.labels.items():
            self._move_labels(case_id, tag, folder, {*LABEL_EXTENSIONS, label.extension})
        self._drop_entry(case_id)
        scan = self._images_folder() / case.file_name
        if scan.stat().st_ctime - facts_changed_s(self.folder, case_id) > _IMPORT_S:
            forget_facts(self.folder, case_id)
        self._identities.forget(case_id)
        _logger.warning(
            "The scan of %s is another one than its labels were drawn on: they were set aside in %s and train nothing. "
            "Where it is the same scan all the same, submit them again.",
            case_id,
            folder,
        )

    def _clear_for_new_scan(self, case_id: str) -> None:
        """Set aside labels that were put where a deleted scan's would lie: the new scan of its id is another one."""
        tombstone = self.tombstones.all().get(case_id)
        if tombstone is None:
            return
        folder = self.tombstones.label_folder(case_id, tombstone.deleted_at_s)
        for tag in filter(is_text, self._listing(self._labels_folder()).folders()):
            for path in self._move_labels(case_id, tag, folder, set(LABEL_EXTENSIONS)):
                _logger.warning(
                    "A label '%s' of %s lay there although its scan was deleted: it was set aside as %s and is not the "
                    "new scan's. Where it is, put it back.",
                    tag,
                    case_id,
                    path,
                )

    def _move_labels(self, case_id: str, tag: str, folder: Path, extensions: Collection[str]) -> list[Path]:
        """Move the files of a label into a folder of what was set aside; returns where they lie now."""
        names = {case_id + extension for extension in extensions}
        there = [name for name in sorted(names) if (self._label_folder(tag) / name).exists()]
        if there:
            (folder / tag).mkdir(parents=True, exist_ok=True)
        return [Path(shutil.move(self._label_folder(tag) / name, folder / tag / name)) for name in there]

    def _drop_entry(self, case_id: str) -> None:
        raw = self._index.load()
        self._index.save({**raw, "objects": {k: v for k, v in raw["objects"].items() if k != case_id}})

    def _tell_gone(self, places: Mapping[str, Path]) -> None:
        for case_id, scan in places.items():
            for told in self.on_gone:
                try:
                    told(case_id, scan)
                except MedaiError:
                    _logger.exception("Something of %s, whose scan is gone, is left behind", case_id)

    def _check_writable(self) -> None:
        if self.read_only:
            raise StorageError(f"The study {self.folder} is opened for reading only; nothing was written.")

    def _change(self, change: Callable[[RawIndex], RawIndex]) -> None:
        """Read the index, change it, replace it; nothing is written where nothing changes."""
        self._check_writable()
        with self._lock.hold():
            raw = self._editable()
            changed = change(raw)
            if changed != self._index.load():
                self._index.save(changed)

    def _editable(self) -> RawIndex:
        """The present index with every file that was only found on disk; the lock is held."""
        self._finish_interrupted_save()
        return with_found_files(self._index.load(), self._snapshot())

    def _finish_interrupted_save(self) -> None:
        pending = self._pending.read()
        if pending is None:
            return
        if pending.is_published and pending.case_id in self._index.load()["objects"]:
            _logger.warning("completing the label '%s' of %s, whose save was interrupted", pending.tag, pending.case_id)
            raw = self._index.load()
            self._index.save(with_label(raw, pending.case_id, pending.tag, pending.extension, pending.info))
        self._pending.clear()

    def _raw(self) -> RawIndex:
        """The index; where it is unreadable just now, as it was last."""
        with self._snapshot_lock:
            try:
                return self._index.load()
            except StorageError as error:
                _logger.debug("reading the index again under its lock: %s", error)
        # Stock MONAI Label writes in place, under this lock: what looked damaged may have been half written.
        with self._lock.hold(), self._snapshot_lock:
            try:
                return self._index.load()
            except StorageError:
                if self._last_raw is None:
                    raise
                _logger.exception("serving the study as it was before; no label can be saved until this is repaired")
                return self._last_raw

    def _snapshot(self) -> dict[str, StudyCase]:
        raw = self._raw()
        with self._snapshot_lock:
            images = self._listing(self._images_folder(raw)).files()
            labels_folder = self._labels_folder(raw)
            tags = sorted(tag for tag in self._listing(labels_folder).folders() if is_text(tag))
            label_names = {tag: self._listing(labels_folder / tag).files() for tag in tags}
            sources = (raw, images, *label_names.values())
            same = len(sources) == len(self._sources) and all(map(operator.is_, sources, self._sources))
            if not same or tags != self._tags:
                self._cases = self._snapshots.build(raw, image_names=images, label_names=label_names)
                self._last_raw, self._sources, self._tags = raw, sources, tags
            return self._cases

    def _listing(self, folder: Path) -> FolderListing:
        if folder not in self._listings:
            self._listings[folder] = FolderListing(folder)
        return self._listings[folder]

    def _case(self, case_id: str) -> StudyCase:
        check_case_id(case_id)
        cases = self._snapshot()
        if case_id not in cases:
            near = difflib.get_close_matches(case_id, cases, n=3) or list(cases)[:3]
            known = f"It has {len(cases)} cases, such as {', '.join(near)}." if cases else "It is empty."
            raise NotFoundError(f"The study has no case '{case_id}'. {known}")
        return cases[case_id]

    def _label(self, case_id: str, tag: str) -> StudyLabel:
        case = self._case(case_id)
        if case.labels and not self._identities.is_as_it_was(case_id, self._images_folder() / case.file_name):
            self.set_aside_replaced()
        labels = self._case(case_id).labels
        if tag not in labels:
            known = f"It has {', '.join(labels)}." if labels else "It has none."
            raise NotFoundError(f"Case '{case_id}' has no label '{tag}'. {known}")
        return labels[tag]

    def _images_folder(self, raw: RawIndex | None = None) -> Path:
        return self.folder / str((raw or self._raw()).get("images_dir") or "")

    def _labels_folder(self, raw: RawIndex | None = None) -> Path:
        return self.folder / str((raw or self._raw()).get("labels_dir") or "labels")

    def _label_folder(self, tag: str) -> Path:
        return self._labels_folder() / tag

    def _delete_label_files(self, case_id: str, tag: str, keep: Path | None = None) -> None:
        """Delete the label in every form; one left behind in another format would come back as this label."""
        known = self._snapshot().get(case_id)
        extensions = {*LABEL_EXTENSIONS, *([known.labels[tag].extension] if known and tag in known.labels else [])}
        for extension in extensions:
            path = self._label_folder(tag) / (case_id + extension)
            if path != keep:
                delete(path)
