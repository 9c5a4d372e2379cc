"""Attenuation types of lung nodules."""

from __future__ import annotations

from enum import StrEnum


class NoduleKind(StrEnum):
    """Attenuation type, in the Fleischner Society's terms."""

    SOLID = "solid"
    PART_SOLID = "part-solid"
    NON_SOLID = "non-solid"
