"""Who read, downloaded and wrote what: one line a request in the study's audit log."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

_FACTS = "medai.audit"


def note(scope: MutableMapping[str, Any], **facts: Any) -> None:
    """Add to what the audit log will say about a request: ``case``, ``tag``, ``user``, ``roles``."""
    scope.setdefault(_FACTS, {}).update(facts)
