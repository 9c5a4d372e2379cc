"""One model version on disk, whole or not at all: written into a folder beside, made durable, renamed into place.

``<version>/weights.safetensors`` the network, ``<version>/card.json`` what it is (with the weights' sha256),
``<version>/verdict.json`` why it was published. The packaged starters have the same layout without a verdict.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medai.errors import InputError, ModelError, StorageError
from medai.volume_io.atomic import disk_words

STARTER = "starter"
"""Version id of the weights that travel in the package."""

WEIGHTS_FILE = "weights.safetensors"
CARD_FILE = "card.json"
VERDICT_FILE = "verdict.json"
INCOMING_PREFIX = ".incoming-"
"""Folders being written start with this; one that is left over belongs to a process that died."""

_TASK = re.compile(r"[a-z][a-z0-9_]{0,63}")
_VERSION_ID = re.compile(r"v(\d{4,9})-[0-9a-f]{8}")
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """A model that can be served.

    Attributes:
        task: what it does, such as "nodule_click".
        version_id: "starter", or "v0007-1a2b3c4d": a rising number and the start of the weights' sha256. Two versions
            of one task never share an id, so it is what a cache of loaded networks is keyed by.
        weights_path: the safetensors file.
        card: what the network is and what it was trained on; always holds "weights_sha256" for published versions.
        verdict: the gate's decision with its numbers; empty for the starter.
    """

    task: str
    version_id: str
    weights_path: Path
    card: Mapping[str, Any]
    verdict: Mapping[str, Any] = field(default_factory=dict)


def check_task(task: str) -> str:
    """The task's name, if it can be a folder's name: lower case letters, digits and underscores."""
    if not _TASK.fullmatch(task):
        raise InputError(f"'{task}' cannot be a task's name: use lower case letters, digits and underscores.")
    return task


def version_number(version_id: str) -> int:
    """The rising number in a version id; 0 for the starter."""
    if version_id == STARTER:
        return 0
    match = _VERSION_ID.fullmatch(version_id)
    if not match:
        raise InputError(f"'{version_id}' is not a model version; one looks like v0007-1a2b3c4d, or '{STARTER}'.")
    return int(match.group(1))


def is_version_id(name: str) -> bool:
    """True for the name of a published version's folder."""
    return _VERSION_ID.fullmatch(name) is not None


def write_version(
    versions_folder: Path,
    *,
    task: str,
    number: int,
    weights_path: Path,
    card: Mapping[str, Any],
    verdict: Mapping[str, Any],
) -> ModelVersion:
    """Copy weights, card and verdict into a version folder that appears complete or not at all.

    Args:
        versions_folder: ``<registry>/<task>/versions``; made where it does not exist.
        task: the task.
        number: the version's rising number.
        weights_path: the trained network; it stays where it is.
        card: facts of the model; the version id and the weights' sha256 are added.
        verdict: the gate's decision.

    Returns:
        The version, on disk and durable.

    Raises:
        ModelError: no weights at ``weights_path``.
        StorageError: the disk refused; nothing of the version is left.
    """
    if not weights_path.is_file():
        raise ModelError(f"There are no weights at {weights_path} to publish for task '{task}'.")
    incoming = versions_folder / f"{INCOMING_PREFIX}{os.getpid()}-{uuid.uuid4().hex[:8]}"
    try:
        incoming.mkdir(parents=True)
        digest = _copy_durably(weights_path, incoming / WEIGHTS_FILE)
        version_id = f"v{number:04}-{digest[:8]}"
        full_card = {**card, "task": task, "version_id": version_id, "weights_sha256": digest}
        _write_json_durably(incoming / CARD_FILE, full_card)
        _write_json_durably(incoming / VERDICT_FILE, verdict)
        sync_folder(incoming)
        incoming.rename(versions_folder / version_id)
        sync_folder(versions_folder)
    except OSError as error:
        shutil.rmtree(incoming, ignore_errors=True)
        raise StorageError(
            f"The new version of '{task}' could not be written to {versions_folder}: {disk_words(error)}; the model in "
            "use stays."
        ) from error
    return ModelVersion(
        task=task,
        version_id=version_id,
        weights_path=versions_folder / version_id / WEIGHTS_FILE,
        card=full_card,
        verdict=dict(verdict),
    )


def read_version(folder: Path, *, task: str, version_id: str) -> ModelVersion:
    """Read a version's card and verdict; its weights are not looked into.

    Raises:
        ModelError: a file is missing or is not what it should be.
    """
    weights_path = folder / WEIGHTS_FILE
    if not weights_path.is_file():
        raise ModelError(f"Version {version_id} of '{task}' has no weights at {weights_path}.")
    card = _read_json(folder / CARD_FILE)
    verdict = _read_json(folder / VERDICT_FILE) if version_id != STARTER else {}
    return ModelVersion(task=task, version_id=version_id, weights_path=weights_path, card=card, verdict=verdict)


def check_weights(version: ModelVersion) -> None:
    """Read the weights once and compare them with the sha256 of the card.

    A packaged starter's card may leave the sha256 out: the installer has compared the file with the package's record.

    Raises:
        ModelError: they differ, cannot be read, or a published version's card has no sha256.
    """
    expected = version.card.get("weights_sha256")
    if expected is None and version.version_id == STARTER:
        return
    try:
        actual = sha256_of(version.weights_path)
    except OSError as error:
        raise ModelError(f"The weights at {version.weights_path} cannot be read ({error}).") from error
    if actual != expected:
        raise ModelError(
            f"The weights at {version.weights_path} are damaged: their sha256 is {actual}, the card beside them says "
            f"{expected}."
        )


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def replace_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace a JSON file atomically and durably: a reader, or a crash, sees the old file or the new one.

    Raises:
        StorageError: the disk refused; the old file stands.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_json_durably(temporary, content)
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(
            f"{path} could not be written: {disk_words(error)}; what was there before stands."
        ) from error


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable (renames survive a power cut only after this)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _copy_durably(source: Path, target: Path) -> str:
    """Copy a file, make the copy durable, return the sha256 of what was copied."""
    digest = hashlib.sha256()
    with source.open("rb") as reader, target.open("wb") as writer:
        while block := reader.read(_BLOCK_BYTES):
            digest.update(block)
            writer.write(block)
        writer.flush()
        os.fsync(writer.fileno())
    return digest.hexdigest()


def _write_json_durably(path: Path, content: Mapping[str, Any]) -> None:
    with path.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=2, allow_nan=False)
        file.flush()
        os.fsync(file.fileno())


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object from disk; anything else is a damaged version."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is missing or damaged ({error}).") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} is damaged: it holds a {type(content).__name__}, not a JSON object.")
    return content
