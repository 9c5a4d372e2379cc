"""MONAI Label's ``Datastore`` interface over our study store.

Only translation happens here. Where stock answers an unknown id with an empty string (and a 500 later), this raises
``NotFoundError`` (404), and ``InputError`` (422) for ids and tags that cannot be file names.

Threads: the store takes calls from any thread; nothing is kept here.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore

from medai.server.dataset_archive import write_archive
from medai.store.study import FINAL, StudyStore
from medai.workflows.accepted_labels import accepted_labels
from medai.workflows.readable_cases import ReadableCases


class MedaiDatastore(Datastore):  # type: ignore[misc]  # monailabel's classes are untyped
    """A study as MONAI Label's tasks and endpoints see it."""

    def __init__(self, store: StudyStore, readable: ReadableCases | None = None) -> None:
        """Open the interface.

        Args:
            store: the study.
            readable: which of its scans can be read; None takes all for readable.
        """
        self.store = store
        self._readable = readable

    def name(self) -> str:
        """The study's name."""
        return self.store.name

    def set_name(self, name: str) -> None:
        """Name the study."""
        self.store.set_name(name)

    def description(self) -> str:
        """The study's description."""
        return self.store.description

    def set_description(self, description: str) -> None:
        """Describe the study."""
        self.store.set_description(description)

    def datalist(self) -> list[dict[str, Any]]:
        """Image and accepted label of every case that has one, as paths: what a training may learn from."""
        found = accepted_labels(self.store).labels
        return [{"image": str(each.image_path), "label": str(each.label_path)} for each in found]

    def get_labels_by_image_id(self, image_id: str) -> dict[str, str]:
        """Tag to label id (which is the image's id) of every label of an image."""
        return dict.fromkeys(self.store.labels(image_id), image_id)

    def get_label_by_image_id(self, image_id: str, tag: str) -> str:
        """The label's id, which is the image's, or "" where there is none."""
        return self.get_labels_by_image_id(image_id).get(tag, "")

    def get_image(self, image_id: str, params: Any = None) -> io.BytesIO:
        """The scan's file, as bytes."""
        return io.BytesIO(self.store.image_path(image_id).read_bytes())

    def get_image_uri(self, image_id: str) -> str:
        """The scan's path."""
        return str(self.store.image_path(image_id))

    def get_label(self, label_id: str, label_tag: str, params: Any = None) -> io.BytesIO:
        """The label's file, as bytes."""
        return io.BytesIO(self.store.label_path(label_id, _tag(label_tag)).read_bytes())

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        """The label's path."""
        return str(self.store.label_path(label_id, _tag(label_tag)))

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """What is known about the scan, with its ``path``."""
        return {**self.store.image_info(image_id), "path": self.get_image_uri(image_id)}

    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]:
        """What is known about the label."""
        return self.store.label_info(label_id, _tag(label_tag))

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Cases with a label of the tag, ``final`` if none is given."""
        return self.store.labeled(_tag(label_tag))

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Cases without a label of the tag, ``final`` if none is given."""
        return self.store.unlabeled(_tag(label_tag))

    def list_images(self) -> list[str]:
        """All cases."""
        return self.store.image_ids()

    def get_dataset_archive(self, limit_cases: int | None) -> str:
        """Path of a new ZIP file with scans and accepted labels (``dataset_archive``); whoever asked deletes it.

        Raises:
            NotFoundError: no case has an accepted label yet.
        """
        return str(write_archive(self.store, accepted_labels(self.store), limit_cases))

    def refresh(self) -> None:
        """Look at the folder again."""
        self.store.refresh()

    def add_image(self, image_id: str | None, image_filename: str, image_info: dict[str, Any] | None) -> str:
        """Copy a scan into the study; without an id its file's name, less the extension, is the id."""
        return self.store.add_image(Path(image_filename), case_id=image_id or None, info=image_info)

    def remove_image(self, image_id: str) -> None:
        """Delete a scan and its labels."""
        self.store.remove_image(image_id)

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str | None, label_info: dict[str, Any] | None
    ) -> str:
        """Store a label; returns its id, which is the image's."""
        self.store.save_label(image_id, Path(label_filename), _tag(label_tag), label_info)
        return image_id

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Delete a label."""
        self.store.remove_label(label_id, _tag(label_tag))

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Add to what is known about a scan."""
        self.store.update_image_info(image_id, info)

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        """Add to what is known about a label."""
        self.store.update_label_info(label_id, _tag(label_tag), info)

    def status(self) -> dict[str, Any]:
        """Totals for the plugin's progress bar; open cases that cannot be read are no work left and count apart."""
        status = self.store.status()
        unreadable = {} if self._readable is None else self._readable.unreadable()
        if not unreadable:
            return status
        open_ones = len(unreadable.keys() & set(self.store.unlabeled(FINAL)))
        return {**status, "total": status["total"] - open_ones, "unreadable": unreadable}

    def json(self) -> dict[str, Any]:
        """The whole study, as ``GET /datastore/?output=all`` shows it."""
        return self.store.as_json()


def _tag(label_tag: str | None) -> str:
    """The tag as text: MONAI Label passes members of ``DefaultLabelTag`` (a str enum), None or ""."""
    return str(getattr(label_tag, "value", label_tag) or FINAL)
