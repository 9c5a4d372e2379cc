"""The four roles of MONAI Label, each with all rights of those below it: admin ⊃ reviewer ⊃ annotator ⊃ viewer.

MONAI Label compares names one by one, so that an admin may not ask for the next case unless the realm lists every role
for that person. Here the highest one counts. The names are MONAI Label's settings ``MONAI_LABEL_AUTH_ROLE_ADMIN``,
``_REVIEWER``, ``_ANNOTATOR`` and ``_USER`` (viewer).
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

from monailabel.config import settings as platform


class Role(IntEnum):
    """What somebody may do; a higher role may do all that a lower one may."""

    VIEWER = 1
    ANNOTATOR = 2
    REVIEWER = 3
    ADMIN = 4

    @property
    def realm_name(self) -> str:
        """What the realm calls it."""
        names = {
            Role.VIEWER: platform.MONAI_LABEL_AUTH_ROLE_USER,
            Role.ANNOTATOR: platform.MONAI_LABEL_AUTH_ROLE_ANNOTATOR,
            Role.REVIEWER: platform.MONAI_LABEL_AUTH_ROLE_REVIEWER,
            Role.ADMIN: platform.MONAI_LABEL_AUTH_ROLE_ADMIN,
        }
        return str(names[self])


def highest_role(names: Iterable[str]) -> Role | None:
    """The highest role among a user's names of roles; None where none is of ours."""
    held = set(names)
    return max((role for role in Role if role.realm_name in held), default=None)


def may(names: Iterable[str], wanted: Role) -> bool:
    """Whether a user with these names of roles has the rights of a role."""
    held = highest_role(names)
    return held is not None and held >= wanted
