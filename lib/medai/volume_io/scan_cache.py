"""A scan is decoded once; afterwards regions of it are served from memory or from a memory map.

The first answer is the decoded image itself. In the background it is written to disk as a raw ``.npy`` (Fortran order:
i fastest) with a JSON sidecar for geometry and header; from then on, also in other processes and after a restart, the
scan is a read-only memory map and costs only the pages that are touched. An entry belongs to a path, size and
modification time, so a changed file is decoded again. Both bounds are kept by forgetting what was used longest ago:
``memory_bytes`` counts the images held open here (decoded or mapped; a map is also an open file, so their number is
bounded too), ``disk_bytes`` the ``.npy`` files. A scan larger
than a bound is served but not kept. Peak memory is the decoded scan and the reader's slabs: the disk form is written
from the same array.

What is no scan to work on is refused by ``check`` when it is decoded: a disk form is of a scan that passed, and a
refusal is remembered. The first slices are given away only where they pass by themselves; else all are waited for.

A click needs only the slices around it: ``get_head`` hands out the first slices of a scan as soon as they are there. A
thread of the cache decodes the others after a short rest (``decoding``), and the disk form is written only after a
pause, because on a small machine both would take the answer's core and memory bandwidth.

Threads: any number of callers; one thread writes disk forms; one thread works off ``prefetch``; a few decode for
``get_head``.

Who waits for whom: threads that want the same scan share one ``Decoding`` (``_decodings``). The one that made it
decodes, the others wait for it while they hold no lock. Locks, always taken in this order and released in any:

1. the file lock of the key's slot, so that processes decode once too; the thread that decodes takes it and the writer
   thread releases it when the disk form is there, so that a waiting process maps it instead of decoding; whoever waits
   for a file lock in this process ends the writer's pause first;
2. ``_lock`` around the dictionaries; held for a few lookups, never during decoding, reading or writing;
3. a ``Decoding``'s own condition, around its fields.

The writer thread takes only ``_lock`` while it owns a file lock, so it never waits for a caller.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from medai.domain import Volume
from medai.errors import InputError, MedaiError, StorageError, UnsupportedScanError
from medai.geometry import VolumeGeometry
from medai.volume_io.atomic import atomic_path, disk_words
from medai.volume_io.decoding import Decoding, ScanHead
from medai.volume_io.readers import ReadBudget, ReadOptions, read_volume

_log = logging.getLogger(__name__)

_LAYOUT_VERSION = 2
_LOCK_SLOTS = 256
_LONGEST_PREFETCH_QUEUE = 8
_ABANDONED_AFTER_S = 3600.0
_LONGEST_WAIT_S = 300.0
_DECODERS = 4
_REFUSALS = 1000
_MOST_OPEN = 128
"""Images held open: as maps each is an open file, and small scans would be thousands."""

WRITE_PAUSE_S = 1.0
"""The disk form is written this long after decoding: longer than a first click takes to be answered, short enough
that few scans wait in memory to be written."""


class ScanCache:
    """Decoded scans, bounded in memory and on disk; safe for threads and processes."""

    def __init__(
        self,
        folder: Path,
        *,
        memory_bytes: int,
        disk_bytes: int,
        write_pause_s: float = WRITE_PAUSE_S,
        check: Callable[[Volume], None] = lambda volume: None,
        budget: ReadBudget = ReadBudget(),  # noqa: B008 - frozen
        on_unreadable: Callable[[str, Path, InputError], None] = lambda case_id, path, error: None,
    ) -> None:
        """Open the cache.

        Args:
            folder: where disk forms live; made if absent, may be shared by processes.
            memory_bytes: bound on the images held open by this object; 0 keeps none.
            disk_bytes: bound on the disk forms in ``folder``; 0 writes none.
            write_pause_s: how long after decoding a disk form is written; ``close`` does not wait for it.
            check: raises UnsupportedScanError for what is not to be answered on (``plausibility.check_chest_ct``).
            budget: the largest scan that is decoded.
            on_unreadable: told of a case whose scan could not be decoded: its id, the file, and why.
        """
        if memory_bytes < 0 or disk_bytes < 0:
            raise InputError(f"The bounds of the scan cache are {memory_bytes} and {disk_bytes} bytes; use 0 or more.")
        self._folder = folder
        self._memory_bytes = memory_bytes
        self._disk_bytes = disk_bytes
        self._lock = threading.Lock()
        self._open: OrderedDict[str, Volume] = OrderedDict()
        self._paths: dict[str, Path] = {}
        self._private: tuple[Path, ...] = ()
        self._budget = budget
        self._decodings: dict[str, Decoding] = {}
        self._check = check
        self._refused: OrderedDict[str, str] = OrderedDict()
        self._prefetching: set[Path] = set()
        self._closed = False
        self._forgotten: set[str] = set()
        self._write_pause_s = write_pause_s
        self._on_unreadable = on_unreadable
        self._write_now_please = threading.Event()
        self._decoders = ThreadPoolExecutor(_DECODERS, thread_name_prefix="scan-cache-decoder")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="scan-cache-writer")
        self._prefetcher = ThreadPoolExecutor(1, thread_name_prefix="scan-cache-prefetch")
        try:
            (folder / "locks").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"The scan cache folder {folder} cannot be made: {error.strerror}.") from error

    def keep_off_disk(self, folder: Path) -> None:
        """Keep scans below a folder in memory alone: uploads that are here for a moment."""
        with self._lock:
            self._private += (folder.resolve(),)

    def get(self, path: Path, case_id: str = "") -> Volume:
        """The scan at a path, decoded at most once.

        Args:
            path: a scan that ``read_volume`` reads.
            case_id: given to the returned volume.

        Returns:
            The scan with a read-only image, int16 or float32: an array in memory or an ``np.memmap``. Copy what is
            to be changed, and only the region that is needed.

        Raises:
            InputError: the scan cannot be read, see ``read_volume``; or ``check`` refuses it.
        """
        key = _key_of(path)
        found, is_mine = self._find_or_join(key)
        if isinstance(found, Decoding):
            if is_mine:
                found.want_whole()
                self._decode(found, path, key, case_id)
            found = found.whole()
        return dataclasses.replace(found, case_id=case_id)

    def find_open(self, path: Path, case_id: str = "") -> Volume | None:
        """The scan where it is decoded and in memory; None where it would have to be read."""
        key = _key_of(path)
        with self._lock:
            volume = self._open.get(key)
        return None if volume is None else dataclasses.replace(volume, case_id=case_id)

    def get_head(self, path: Path, case_id: str = "", *, slices: Callable[[VolumeGeometry], int]) -> ScanHead:
        """At least the first slices of a scan, as soon as they are there; the others go on being decoded.

        Args:
            path: a scan that ``read_volume`` reads.
            case_id: given to the returned volume.
            slices: how many slices along k are enough, from the grid of the whole scan.

        Returns:
            The first slices with a read-only image, or the whole scan where it is there, where all of it is needed, or
            where its format is not decoded slice by slice. A file that is damaged further on is noticed by ``get``.

        Raises:
            InputError: the scan cannot be read, see ``read_volume``; or ``check`` refuses it.
        """
        key = _key_of(path)
        found, is_mine = self._find_or_join(key)
        if isinstance(found, Volume):
            head = ScanHead.of_whole(found)
        else:
            if is_mine:
                self._decode_in_background(found, path, key, case_id)
            head = found.head(slices)
            if not head.is_whole and not found.head_passes(head, self._check):
                head = ScanHead.of_whole(found.whole())
        return dataclasses.replace(head, volume=dataclasses.replace(head.volume, case_id=case_id))

    def prefetch(self, path: Path, case_id: str = "") -> None:
        """Decode a scan in the background, so that ``get`` finds it ready. Never raises for a bad scan: ``get`` will.

        Beyond a few waiting scans further ones are ignored: what is opened far from now would push out what is
        needed next.
        """
        with self._lock:
            if self._closed or path in self._prefetching or len(self._prefetching) >= _LONGEST_PREFETCH_QUEUE:
                return
            self._prefetching.add(path)
            self._prefetcher.submit(self._prefetch_now, path, case_id)

    def forget(self, path: Path) -> None:
        """Drop what is kept of a scan, or of all below a folder, which may be gone already; open volumes last."""
        real = path.resolve()
        part = f"{_path_part(real)}-"
        with self._lock:
            # What is just being decoded or waits to be written is not kept either.
            self._forgotten.add(part)
            for key, scan_path in list(self._paths.items()):
                if scan_path == real or real in scan_path.parents:
                    self._drop(key)
        for image_path in self._folder.glob(f"{part}*.npy"):
            self._remove(image_path.stem)

    def keep_only(self, paths: Iterable[Path]) -> None:
        """Drop the disk forms of all scans but these: of files that went away while nobody looked."""
        kept = {_path_part(path.resolve()) for path in paths}
        for image_path in self._folder.glob("*.npy"):
            if image_path.stem.partition("-")[0] not in kept:
                self._remove(image_path.stem)

    def close(self) -> None:
        """Finish decoding and writing, stop the threads and forget the open images. Volumes handed out stay valid."""
        with self._lock:
            self._closed = True
        self._write_now_please.set()
        self._decoders.shutdown(wait=True)
        self._prefetcher.shutdown(wait=True, cancel_futures=True)
        self._writer.shutdown(wait=True)
        with self._lock:
            self._open.clear()
            self._paths.clear()

    def _prefetch_now(self, path: Path, case_id: str) -> None:
        try:
            self.get(path, case_id)
        except (MedaiError, OSError) as error:
            _log.warning("prefetch of case '%s' failed: %s", case_id, error)
        finally:
            with self._lock:
                self._prefetching.discard(path)

    def _find_or_join(self, key: str) -> tuple[Volume | Decoding, bool]:
        """The open scan, or its decode, and whether the caller must do it because nobody else does."""
        with self._lock:
            if key in self._refused:
                raise UnsupportedScanError(self._refused[key])
            volume = self._open.get(key)
            if volume is not None:
                self._open.move_to_end(key)
                return volume, False
            decoding = self._decodings.get(key)
            if decoding is not None:
                return decoding, False
            decoding = self._decodings[key] = Decoding()
            # Whoever asks has a file there again.
            self._forgotten.discard(f"{key.partition('-')[0]}-")
            return decoding, True

    def _decode(self, decoding: Decoding, path: Path, key: str, case_id: str) -> None:
        """Bring a decode that ``_find_or_join`` made to its end; raises nothing, ``decoding`` does."""
        outcome: Volume | BaseException
        try:
            outcome = self._open_or_decode(path, key, ReadOptions(on_slices=decoding.tell, budget=self._budget))
        except BaseException as error:  # noqa: BLE001 - it is raised in every thread that waits
            _log.info("a scan could not be decoded: %s", error)
            outcome = error
            if isinstance(error, InputError) and case_id:
                self._on_unreadable(case_id, path, error)
        with self._lock:
            del self._decodings[key]
        decoding.end(outcome)

    def _decode_in_background(self, decoding: Decoding, path: Path, key: str, case_id: str) -> None:
        with self._lock:
            if not self._closed:
                self._decoders.submit(self._decode, decoding, path, key, case_id)
                return
        self._decode(decoding, path, key, case_id)

    def _keep_open(self, key: str, path: Path, volume: Volume) -> None:
        # An upload may be gone before all of it is decoded, and nobody will ask for it again.
        is_there = path.exists()
        with self._lock:
            if self._closed or not is_there or self._is_forgotten(key):
                return
            self._open[key] = volume
            self._paths[key] = path.resolve()
            self._open.move_to_end(key)
            total = sum(held.image_hu.nbytes for held in self._open.values())
            while self._open and (total > self._memory_bytes or len(self._open) > _MOST_OPEN):
                oldest = next(iter(self._open))
                total -= self._open[oldest].image_hu.nbytes
                self._drop(oldest)

    def _drop(self, key: str) -> None:
        """Let go of an open image; the lock is held."""
        self._open.pop(key, None)
        self._paths.pop(key, None)

    def _is_private(self, path: Path) -> bool:
        parents = path.resolve().parents
        return any(folder in parents for folder in self._private)

    def _open_or_decode(self, path: Path, key: str, options: ReadOptions) -> Volume:
        slot = int(key[:8], 16) % _LOCK_SLOTS
        file_lock = FileLock(self._folder / "locks" / f"{slot:02x}.lock", thread_local=False)
        try:
            file_lock.acquire(timeout=0)
        except Timeout:
            self._write_now_please.set()
            # Bounded: a decode that never ends elsewhere must not stop this one; then both decode. (filelock also takes
            # an endless wait for a deadlock, because another thread releases what this one has taken.)
            with contextlib.suppress(Timeout):
                file_lock.acquire(timeout=_LONGEST_WAIT_S, poll_interval=0.01)
        handed_over = False
        try:
            volume = self._map(key)
            if volume is None:
                started = time.perf_counter()
                volume = read_volume(path, options=options)
                self._refuse_unsupported(key, volume)
                volume.image_hu.setflags(write=False)
                _log.info("decoded %s in %.2f s", path.name, time.perf_counter() - started)
                handed_over = not self._is_private(path) and self._write_later(key, volume, file_lock)
            self._keep_open(key, path, volume)
            return volume
        finally:
            if not handed_over:
                file_lock.release()

    def _refuse_unsupported(self, key: str, volume: Volume) -> None:
        try:
            self._check(volume)
        except UnsupportedScanError as error:
            with self._lock:
                self._refused[key] = str(error)
                while len(self._refused) > _REFUSALS:
                    self._refused.popitem(last=False)
            raise

    def _write_later(self, key: str, volume: Volume, file_lock: FileLock) -> bool:
        """Queue the disk form; True where the writer thread now owns the file lock."""
        if volume.image_hu.nbytes > self._disk_bytes:
            return False
        with self._lock:
            if self._closed:
                return False
            due = time.monotonic() + self._write_pause_s
            self._writer.submit(self._write_when_due, due, key, volume, file_lock)
        return True

    def _write_when_due(self, due: float, key: str, volume: Volume, file_lock: FileLock) -> None:
        if self._write_now_please.wait(max(0.0, due - time.monotonic())):
            with self._lock:
                if not self._closed:
                    self._write_now_please.clear()
        self._write_now(key, volume, file_lock)

    def _write_now(self, key: str, volume: Volume, file_lock: FileLock) -> None:
        try:
            if self._is_forgotten(key):
                return
            self._make_room(key, volume.image_hu.nbytes)
            self._write(key, volume)
            if self._is_forgotten(key):
                self._remove(key)
            mapped = self._map(key)
            with self._lock:
                if mapped is not None and key in self._open:
                    self._open[key] = mapped
        except (OSError, StorageError) as error:
            _log.warning("the disk form of a scan could not be written: %s", error)
        finally:
            file_lock.release()

    def _is_forgotten(self, key: str) -> bool:
        return f"{key.partition('-')[0]}-" in self._forgotten

    def _write(self, key: str, volume: Volume) -> None:
        with atomic_path(self._folder / f"{key}.npy") as temporary, temporary.open("wb") as stream:
            np.save(stream, np.asfortranarray(volume.image_hu))
            stream.flush()
            os.fsync(stream.fileno())
        sidecar = {
            "layout_version": _LAYOUT_VERSION,
            "shape_ijk": volume.geometry.shape_ijk,
            "affine_ijk_to_ras_mm": volume.geometry.affine_ijk_to_ras_mm.tolist(),
            "header": volume.header,
        }
        with atomic_path(self._folder / f"{key}.json") as temporary:
            temporary.write_text(json.dumps(sidecar), encoding="utf-8")

    def _map(self, key: str) -> Volume | None:
        """The scan from its disk form, or None where there is none or it is damaged."""
        sidecar_path = self._folder / f"{key}.json"
        try:
            sidecar: dict[str, Any] = json.loads(sidecar_path.read_text(encoding="utf-8"))
            if sidecar["layout_version"] != _LAYOUT_VERSION:
                return None
            image_hu = np.load(self._folder / f"{key}.npy", mmap_mode="r")
            if image_hu.dtype not in (np.int16, np.float32):
                return None
            geometry = VolumeGeometry(
                shape_ijk=tuple(sidecar["shape_ijk"]),
                affine_ijk_to_ras_mm=np.asarray(sidecar["affine_ijk_to_ras_mm"], dtype=np.float64),
            )
            volume = Volume(geometry=geometry, image_hu=image_hu, header=dict(sidecar["header"]))
            # The sidecar's own time is the time of last use: it decides what is forgotten first.
            os.utime(sidecar_path)
            return volume
        except (OSError, ValueError, KeyError, TypeError, EOFError, MedaiError):
            return None

    def _make_room(self, key: str, needed_bytes: int) -> None:
        """Remove what is stale, then what was used longest ago, until the new disk form fits."""
        stale_before = time.time() - _ABANDONED_AFTER_S
        path_part = key.partition("-")[0]
        entries: list[tuple[float, int, str]] = []
        for abandoned in self._folder.glob(".*.part"):
            with contextlib.suppress(OSError):
                if abandoned.stat().st_mtime < stale_before:
                    abandoned.unlink()
        for image_path in self._folder.glob("*.npy"):
            name = image_path.stem
            with contextlib.suppress(OSError):
                stat = image_path.stat()
                if name.partition("-")[0] == path_part:
                    self._remove(name)
                    continue
                sidecar_path = self._folder / f"{name}.json"
                used = sidecar_path.stat().st_mtime if sidecar_path.exists() else stat.st_mtime
                entries.append((used, stat.st_size, name))
        total = sum(size for _, size, _ in entries)
        for _, size, name in sorted(entries):
            if total + needed_bytes <= self._disk_bytes:
                return
            self._remove(name)
            total -= size

    def _remove(self, name: str) -> None:
        # The sidecar first: without it the entry does not exist. Open maps of the image stay valid.
        for suffix in (".json", ".npy"):
            with contextlib.suppress(OSError):
                (self._folder / f"{name}{suffix}").unlink()


def _path_part(real: Path) -> str:
    return hashlib.sha256(os.fsencode(real)).hexdigest()[:24]


def _key_of(path: Path) -> str:
    """``<hash of the path>-<hash of what is there>``; a folder is known by all its files."""
    try:
        real = path.resolve(strict=True)
        files = sorted(p for p in real.rglob("*") if p.is_file()) if real.is_dir() else [real]
        state = [(str(f.relative_to(real)), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"There is no file or folder '{path}'. Check the path.") from error
    except OSError as error:
        raise StorageError(f"{path.name} cannot be read: {disk_words(error)}.") from error
    return f"{_path_part(real)}-{hashlib.sha256(repr(state).encode()).hexdigest()[:24]}"
