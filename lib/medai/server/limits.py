"""Bounds on what the server takes at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from http import HTTPStatus

from starlette.exceptions import HTTPException

LARGEST_PLAIN_BYTES = 1 << 20
"""A request's body where no file is uploaded: parameters, a form, a JSON document."""

RETRY_AFTER_S = 10
LARGEST_UPLOADS = 4
"""Uploads of the largest size that may be under way together; more small ones may."""


class UploadSlots:
    """The uploads under way, bounded in number and in bytes; used on the event loop alone.

    Args:
        count: how many.
        largest_bytes: of one.
    """

    def __init__(self, *, count: int, largest_bytes: int) -> None:
        self._count = count
        self.largest_bytes = largest_bytes
        self._inside = 0
        self._bytes = 0

    @contextlib.contextmanager
    def hold(self) -> Iterator[UploadSlot]:
        """Take part.

        Raises:
            HTTPException: 503 where as many are under way as are taken.
        """
        if self._inside >= self._count:
            raise busy(f"{self._inside} uploads are under way already, as many as --conf max_uploads takes:")
        self._inside += 1
        slot = UploadSlot(self)
        try:
            yield slot
        finally:
            self._inside -= 1
            self._bytes -= slot.taken

    def _take(self, count: int) -> None:
        most = LARGEST_UPLOADS * self.largest_bytes
        if self._bytes + count > most:
            raise busy(
                f"The uploads under way have {self._bytes >> 20} MB, and no more than {most >> 20} MB are taken at a "
                f"time ({LARGEST_UPLOADS} × --conf max_upload_mb):"
            )
        self._bytes += count


class UploadSlot:
    """One upload's part of the bound."""

    def __init__(self, slots: UploadSlots) -> None:
        self._slots = slots
        self.taken = 0

    def take(self, count: int) -> None:
        """Count bytes that will be held; HTTPException (503) where there is no room for them."""
        self._slots._take(count)
        self.taken += count


def busy(reason: str) -> HTTPException:
    """The answer to what would be taken later: 503, and when to come back."""
    return HTTPException(
        HTTPStatus.SERVICE_UNAVAILABLE, f"{reason} try again in a moment.", {"Retry-After": str(RETRY_AFTER_S)}
    )
