"""Which names may become files: case ids, label tags, and the extension that ends a file's name.

Ids and tags arrive in URLs and end as parts of paths. MONAI Label 0.8.5 joins them as they come (``tag=../../evil``
writes outside the study) and cuts ids at the first dot (any DICOM UID becomes "1").
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable, Sequence

from medai.errors import ConflictError, InputError

IMAGE_EXTENSIONS = (".nii.gz", ".nii", ".nrrd", ".mha")
"""Scans in one file each: what a client can download whole. ``medai import`` turns everything else into one of them."""

LABEL_EXTENSIONS = (".seg.nrrd", ".nii.gz", ".nii", ".nrrd", ".mha", ".json")
"""What a label may be stored as; the longest ending that fits counts."""

_UNSEEN = ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp")
_DEVICES = frozenset({"con", "prn", "aux", "nul", *(f"{kind}{n}" for kind in ("com", "lpt") for n in range(1, 10))})
_TAG = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_LONGEST_ID_BYTES = 200  # a file name may have 255 bytes; extension and temporary prefix need some


def check_case_id(case_id: str) -> str:
    """Return the id where it can be a file's name in the study.

    Raises:
        InputError: empty, too long, hidden, with a path separator or a control character, or not valid Unicode.
    """
    shown = ascii(case_id)[:120]
    advice = "Use letters, digits, spaces, dots, - and _."
    if not case_id or case_id.isspace():
        raise InputError(f"A case needs a name, this one is {shown}. {advice}")
    if case_id.startswith("."):
        raise InputError(f"A case id cannot start with a dot, this one is {shown}. {advice}")
    if any(c in "/\\" or unicodedata.category(c) in ("Cc", "Cs") for c in case_id):
        raise InputError(
            f"A case id cannot hold a path separator or a control character, this one is {shown}. {advice}"
        )
    if len(case_id.encode()) > _LONGEST_ID_BYTES:
        raise InputError(
            f"A case id has at most {_LONGEST_ID_BYTES} bytes, this one has {len(case_id.encode())}: {shown}."
        )
    return case_id


def check_new_case_id(case_id: str, known: Iterable[str]) -> str:
    """Return the id where a new case may have it; stricter than what an existing study may hold.

    A study moves: to a Windows machine, a share that does not tell cases apart, a Mac that writes letters with their
    accents apart. Two ids that are one there would be one file.

    Args:
        case_id: the id.
        known: the ids of the study.

    Raises:
        InputError: as ``check_case_id``, or a name that Windows cannot have, or a character that cannot be seen.
        ConflictError: an id of the study differs from it only in case, or in how a letter is written.
    """
    shown = f"{case_id[:120]!a}"
    check_case_id(case_id)
    if any(unicodedata.category(c) in _UNSEEN for c in case_id) or any(c in '<>:"|?*' for c in case_id):
        raise InputError(
            f'A new case id cannot hold a character that cannot be seen, or one of <>:"|?*, this one is {shown}. '
            "Use letters, digits, spaces, dots, - and _."
        )
    if case_id.partition(".")[0].rstrip().lower() in _DEVICES or case_id[-1] in ". " or case_id[0] == " ":
        raise InputError(f"Windows cannot have a file named {shown}: choose another case id.")
    folded = _folded(case_id)
    same = next((other for other in known if other != case_id and _folded(other) == folded), None)
    if same is not None:
        raise ConflictError(
            f"The study has a case {same[:120]!a} already, which is the same name as {shown} on a disk that does not "
            "tell upper from lower case. Give this one another id."
        )
    return case_id


def is_text(name: str) -> bool:
    """Whether a name is valid Unicode; one on the disk that is no UTF-8 is not."""
    if name.isascii():
        return True
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_tag(tag: str) -> str:
    """Return the tag where it can be a folder below ``labels/``.

    Raises:
        InputError: it is anything but 1–64 letters, digits, ``_`` and ``-``.
    """
    if not _TAG.match(tag):
        raise InputError(
            f"A label tag is 1 to 64 letters, digits, _ or -, for example 'final'; this one is {ascii(tag)[:120]}."
        )
    return tag


@functools.lru_cache(maxsize=1 << 16)
def _folded(case_id: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFKC", case_id).casefold())


def split_extension(file_name: str, extensions: Sequence[str]) -> tuple[str, str]:
    """Split a file's name into case id and extension.

    Only a known extension is cut off, so that ids with dots, such as DICOM UIDs, stay whole.

    Args:
        file_name: a name without folders.
        extensions: each with its leading dot; the longest that fits counts.

    Returns:
        Id and extension (as written in the name).

    Raises:
        InputError: no extension fits; the message lists them.
    """
    split = find_extension(file_name, extensions)
    if split is None:
        raise InputError(f"{ascii(file_name)[:120]} must end in one of {', '.join(extensions)}.")
    return split


def find_extension(file_name: str, extensions: Sequence[str]) -> tuple[str, str] | None:
    """``split_extension`` for names that may be anything: None where no extension fits."""
    for extension in sorted(extensions, key=len, reverse=True):
        if file_name.lower().endswith(extension.lower()) and len(file_name) > len(extension):
            return file_name[: -len(extension)], file_name[-len(extension) :]
    return None
