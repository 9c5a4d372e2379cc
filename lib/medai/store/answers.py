"""Whether a label is a person's work or a model's answer, which never replaces it.

MONAI Label keeps an answer as ``{"model": name, "params": …}`` under the tag ``original``, or under any tag that a
client names (``label_tag``). Whatever does not say that a model made it is taken for somebody's work.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medai.errors import ConflictError, InputError
from medai.store.annotation_files import FINAL

ORIGINAL = "original"
"""The tag of what a model proposed."""

SUBMITTED_TAGS = frozenset({FINAL, "detection"})
"""Tags that trainings read: for what a person has submitted."""

_PERSONAL = ("client_id", "user", "label_info", "segmentationMeta")


def is_answer(info: Mapping[str, Any]) -> bool:
    """Whether a stored label is a model's answer, by what is kept with it."""
    if info.get("model"):
        return True
    return isinstance(info.get("params"), Mapping) and not any(info.get(name) for name in _PERSONAL)


def is_sent_answer(params: Mapping[str, Any], tag: str) -> bool:
    """Whether a label that a client uploads is a model's answer: it says so, or nobody signs a proposal.

    Args:
        params: what the client says about it; an answer's own parameters name its latencies.
        tag: where the client wants it.
    """
    if params.get("model") or "latencies" in params:
        return True
    return tag == ORIGINAL and not any(params.get(name) for name in ("client_id", "label_info"))


def check_answer_tag(tag: str) -> None:
    """Refuse a tag that is for what people submit.

    Raises:
        InputError: it is one.
    """
    if tag in SUBMITTED_TAGS:
        raise InputError(
            f"A model's answer is not kept as '{tag}': that tag is for what a person has submitted. Leave 'label_tag' "
            f"out, which keeps it as '{ORIGINAL}', or name another one."
        )


def check_replaceable(case_id: str, tag: str, info: Mapping[str, Any] | None) -> None:
    """Refuse to put a model's answer in place of somebody's work.

    Args:
        case_id: the case.
        tag: of the answer.
        info: of the label that is there; None where there is none.

    Raises:
        ConflictError: a person's label is there.
    """
    if info is None or is_answer(info):
        return
    who = info.get("client_id") or info.get("user")
    by = f" of '{who}'" if isinstance(who, str) and who else ""
    raise ConflictError(
        f"Case '{case_id}' has a person's label '{tag}'{by}, which a model's answer never replaces. Nothing was "
        "stored: keep the answer under another tag ('label_tag'), or delete the label first."
    )
