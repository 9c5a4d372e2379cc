"""One decode of a scan that several threads wait for: some for all of it, some for its first slices.

The slices of a compressed file appear in order. Whoever needs only the first of them, a click far from the end, need
not wait for the others. Once the first have been handed out and nobody waits for more, decoding rests a moment: on two
cores it would double the time of the network that works on them (measured: 0.19 instead of 0.08 s).
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from medai.domain import Volume
from medai.errors import InputError
from medai.geometry import IndexBox, VolumeGeometry

REST_S = 0.5
"""How long decoding rests for an answer from the first slices; a click takes 0.1 s on two cores at leisure."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScanHead:
    """The first slices of a scan, or all of it.

    Attributes:
        volume: the slices that are there; its voxel indices are the scan's own.
        geometry: the grid of the whole scan.
    """

    volume: Volume
    geometry: VolumeGeometry

    @classmethod
    def of_whole(cls, volume: Volume) -> ScanHead:
        """A scan that is there completely."""
        return cls(volume=volume, geometry=volume.geometry)

    @property
    def is_whole(self) -> bool:
        """True where no slice is missing."""
        return self.volume.geometry.shape_ijk == self.geometry.shape_ijk


class Decoding:
    """Progress and outcome of one decode; ``tell`` and ``end`` are for the thread that decodes, the rest for any."""

    def __init__(self) -> None:
        self._outcome: Future[Volume] = Future()
        self._changed = threading.Condition()
        self._so_far: Volume | None = None
        self._complete = 0
        self._waiting = 0
        self._rest_until = 0.0
        self._head_passed = False

    def tell(self, so_far: Volume, complete: int) -> None:
        """Take note that the first ``complete`` slices along k are there (``ReadOptions.on_slices``); may rest."""
        with self._changed:
            self._so_far, self._complete = so_far, complete
            self._changed.notify_all()
            rest_s = self._rest_until - time.monotonic()
            if rest_s > 0:
                self._changed.wait_for(lambda: self._waiting > 0, timeout=rest_s)

    def end(self, outcome: Volume | BaseException) -> None:
        """Give everybody the scan, or the error."""
        if isinstance(outcome, BaseException):
            self._outcome.set_exception(outcome)
        else:
            self._outcome.set_result(outcome)
        with self._changed:
            self._changed.notify_all()

    def head_passes(self, head: ScanHead, check: Callable[[Volume], None]) -> bool:
        """True where the first slices, or fewer of them before, pass a check by themselves."""
        if not self._head_passed:
            try:
                check(head.volume)
            except InputError:
                # The slices to come may show what these do not: whoever asks waits for them.
                return False
            self._head_passed = True
        return True

    def want_whole(self) -> None:
        """Let decoding rest no more."""
        with self._changed:
            self._waiting += 1
            self._changed.notify_all()

    def whole(self) -> Volume:
        """Wait for the scan; raises what decoding raised."""
        self.want_whole()
        return self._outcome.result()

    def head(self, slices: Callable[[VolumeGeometry], int]) -> ScanHead:
        """Wait until enough slices along k are there; raises what decoding raised.

        Args:
            slices: how many are enough, asked once, as soon as the grid is known.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._so_far is not None or self._outcome.done())
            so_far = self._so_far
        if so_far is None or self._outcome.done():
            return ScanHead.of_whole(self.whole())
        needed = max(1, slices(so_far.geometry))
        i, j, k = so_far.geometry.shape_ijk
        if needed < k:
            with self._changed:
                self._waiting += 1
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._complete >= needed or self._outcome.done())
                self._waiting -= 1
                complete = self._complete
                self._rest_until = time.monotonic() + REST_S
            if not self._outcome.done():
                part = so_far.crop(IndexBox(start_ijk=(0, 0, 0), stop_ijk=(i, j, min(complete, k))))
                part.image_hu.setflags(write=False)
                return ScanHead(volume=part, geometry=so_far.geometry)
        return ScanHead.of_whole(self.whole())
