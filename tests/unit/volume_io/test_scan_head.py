"""The first slices of a scan are handed out while the others are still being decoded."""

import threading
import time

import numpy as np
import pytest

from medai.domain import Volume
from medai.errors import InputError, UnsupportedScanError
from medai.geometry import VolumeGeometry
from medai.volume_io import decoding, scan_cache, voxel_stream
from medai.volume_io.readers import ReadOptions, read_volume
from medai.volume_io.scan_cache import ScanCache
from medai.volume_io.writers import write_volume

SHAPE_IJK = (10, 11, 12)
SLICE_BYTES = 10 * 11 * 2


@pytest.fixture
def scan(rng):
    affine = np.diag([-0.7, -0.8, 2.5, 1])
    affine[:3, 3] = (5, 6, 7)
    image_hu = rng.integers(-1024, 3000, size=SHAPE_IJK).astype(np.int16)
    return Volume(geometry=VolumeGeometry(shape_ijk=SHAPE_IJK, affine_ijk_to_ras_mm=affine), image_hu=image_hu)


@pytest.fixture
def small_steps(monkeypatch):
    """Files of a few kilobytes are decoded, and told of, slice by slice."""
    monkeypatch.setattr(voxel_stream, "_INFLATE_BYTES", 100)
    monkeypatch.setattr(voxel_stream, "_REPORT_BYTES", SLICE_BYTES)


@pytest.fixture
def cache(tmp_path):
    opened = ScanCache(tmp_path / "cache", memory_bytes=10**7, disk_bytes=10**7, write_pause_s=0.0)
    yield opened
    opened.close()


class Gate:
    """Stops decoding once a number of slices is there, until a test lets it go on."""

    def __init__(self, monkeypatch, stop_at, error=None):
        self.stop_at, self.error = stop_at, error
        self.reached, self.go_on = threading.Event(), threading.Event()
        self.decodes = 0
        monkeypatch.setattr(scan_cache, "read_volume", self.read_volume)

    def read_volume(self, path, *, options):
        self.decodes += 1

        def told(volume, complete):
            options.on_slices(volume, complete)
            if complete >= self.stop_at and not self.reached.is_set():
                self.reached.set()
                assert self.go_on.wait(10)
                if self.error is not None:
                    raise self.error

        return read_volume(path, options=ReadOptions(on_slices=told))


@pytest.mark.parametrize("name", ["scan.nii.gz", "scan.nii", "scan.nrrd"])
def test_what_has_been_told_of_is_final(tmp_path, scan, small_steps, name):
    write_volume(scan, tmp_path / name)
    told = []

    def look(so_far, complete):
        np.testing.assert_array_equal(so_far.image_hu[:, :, :complete], scan.image_hu[:, :, :complete])
        assert so_far.geometry.shape_ijk == SHAPE_IJK
        told.append(complete)

    volume = read_volume(tmp_path / name, options=ReadOptions(on_slices=look))
    np.testing.assert_array_equal(volume.image_hu, scan.image_hu)
    assert told == sorted(told)
    assert len(told) > 5


def test_the_head_is_there_before_the_rest_and_one_decode_serves_all(tmp_path, scan, small_steps, cache, monkeypatch):
    gate = Gate(monkeypatch, stop_at=6)
    write_volume(scan, tmp_path / "scan.nii.gz")
    head = cache.get_head(tmp_path / "scan.nii.gz", "case", slices=lambda geometry: geometry.shape_ijk[2] // 3)
    assert not head.is_whole
    assert 4 <= head.volume.geometry.shape_ijk[2] <= 7
    assert head.geometry.shape_ijk == SHAPE_IJK
    assert head.volume.case_id == "case"
    np.testing.assert_array_equal(head.volume.geometry.affine_ijk_to_ras_mm, head.geometry.affine_ijk_to_ras_mm)
    np.testing.assert_array_equal(head.volume.image_hu, scan.image_hu[:, :, : head.volume.geometry.shape_ijk[2]])
    with pytest.raises(ValueError, match="read-only"):
        head.volume.image_hu[0, 0, 0] = 1
    results = []
    waiters = [threading.Thread(target=lambda: results.append(cache.get(tmp_path / "scan.nii.gz"))) for _ in range(3)]
    for waiter in waiters:
        waiter.start()
    assert gate.reached.wait(10)
    assert results == []
    gate.go_on.set()
    for waiter in waiters:
        waiter.join()
    assert len(results) == 3
    for volume in results:
        np.testing.assert_array_equal(volume.image_hu, scan.image_hu)
    assert gate.decodes == 1
    assert cache.get_head(tmp_path / "scan.nii.gz", slices=lambda _: 1).is_whole


def test_an_error_reaches_everybody_who_waits(tmp_path, scan, small_steps, cache, monkeypatch):
    gate = Gate(monkeypatch, stop_at=6, error=InputError("The scan is damaged."))
    path = tmp_path / "scan.nii.gz"
    write_volume(scan, path)
    assert not cache.get_head(path, slices=lambda _: 2).is_whole
    errors = []

    def wait_for(ask):
        try:
            ask()
        except InputError as error:
            errors.append(str(error))

    asks = [lambda: cache.get(path), lambda: cache.get_head(path, slices=lambda _: 10)]
    waiters = [threading.Thread(target=wait_for, args=(ask,)) for ask in asks]
    for waiter in waiters:
        waiter.start()
    assert gate.reached.wait(10)
    time.sleep(0.05)
    gate.go_on.set()
    for waiter in waiters:
        waiter.join()
    assert errors == ["The scan is damaged."] * 2


@pytest.mark.parametrize("name", ["scan.mha", "scan.nii.gz"])
def test_a_small_file_or_another_format_is_given_whole(tmp_path, scan, cache, name):
    write_volume(scan, tmp_path / name)
    head = cache.get_head(tmp_path / name, slices=lambda _: 1)
    assert head.is_whole
    np.testing.assert_array_equal(head.volume.image_hu, scan.image_hu)


def test_a_damaged_file_is_refused_and_a_closed_cache_still_reads(tmp_path, scan, cache):
    (tmp_path / "bad.nii.gz").write_bytes(b"no")
    with pytest.raises(InputError, match=r"bad\.nii\.gz"):
        cache.get_head(tmp_path / "bad.nii.gz", slices=lambda _: 1)
    write_volume(scan, tmp_path / "scan.nii.gz")
    cache.close()
    assert cache.get_head(tmp_path / "scan.nii.gz", slices=lambda _: 1).is_whole


def test_the_disk_form_waits_for_a_pause_but_not_when_closing(tmp_path, scan):
    write_volume(scan, tmp_path / "scan.nii.gz")
    cache = ScanCache(tmp_path / "cache", memory_bytes=10**7, disk_bytes=10**7, write_pause_s=60.0)
    cache.get(tmp_path / "scan.nii.gz")
    time.sleep(0.05)
    assert list((tmp_path / "cache").glob("*.npy")) == []
    started = time.monotonic()
    cache.close()
    assert time.monotonic() - started < 10
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 1


def test_whoever_needs_the_disk_form_ends_the_pause(tmp_path, scan):
    write_volume(scan, tmp_path / "scan.nii.gz")
    cache = ScanCache(tmp_path / "cache", memory_bytes=0, disk_bytes=10**7, write_pause_s=60.0)
    cache.get(tmp_path / "scan.nii.gz")
    started = time.monotonic()
    assert isinstance(cache.get(tmp_path / "scan.nii.gz").image_hu, np.memmap)
    assert time.monotonic() - started < 10
    cache.close()


def test_decoding_rests_once_the_head_is_given_until_somebody_wants_more(scan, monkeypatch):
    monkeypatch.setattr(decoding, "REST_S", 60.0)
    work = decoding.Decoding()
    told = []

    def decode():
        for complete in range(1, SHAPE_IJK[2] + 1):
            work.tell(scan, complete)
            told.append(complete)
            time.sleep(0.001)
        work.end(scan)

    thread = threading.Thread(target=decode)
    thread.start()
    assert not work.head(lambda _: 3).is_whole
    time.sleep(0.05)
    assert len(told) < SHAPE_IJK[2]
    assert work.head(lambda _: 2).volume.geometry.shape_ijk[2] < SHAPE_IJK[2]
    assert work.whole() is scan
    thread.join()
    assert len(told) == SHAPE_IJK[2]


def dark_or_refused(volume):
    """A check of scans that lets pass what is below 5000 and has more than four slices."""
    if volume.geometry.shape_ijk[2] <= 4 or volume.image_hu.max() > 5000:
        raise UnsupportedScanError(f"{volume.geometry.shape_ijk[2]} slices are not understood.")


@pytest.fixture
def checking_cache(tmp_path):
    opened = ScanCache(
        tmp_path / "cache", memory_bytes=10**7, disk_bytes=10**7, write_pause_s=0.0, check=dark_or_refused
    )
    yield opened
    opened.close()


def test_first_slices_that_pass_by_themselves_are_given_away(tmp_path, scan, small_steps, checking_cache, monkeypatch):
    gate = Gate(monkeypatch, stop_at=6)
    path = tmp_path / "scan.nii.gz"
    write_volume(scan, path)
    head = checking_cache.get_head(path, slices=lambda _: 5)
    assert not head.is_whole
    gate.go_on.set()
    assert checking_cache.get(path).geometry.shape_ijk == SHAPE_IJK


def test_first_slices_that_do_not_pass_wait_for_the_whole(tmp_path, scan, small_steps, checking_cache, monkeypatch):
    gate = Gate(monkeypatch, stop_at=2)
    gate.go_on.set()
    path = tmp_path / "scan.nii.gz"
    write_volume(scan, path)
    assert checking_cache.get_head(path, slices=lambda _: 1).is_whole
    assert gate.decodes == 1


def test_a_refused_scan_is_not_decoded_again_and_comes_back_when_it_is_mended(
    tmp_path, scan, small_steps, checking_cache, monkeypatch
):
    gate = Gate(monkeypatch, stop_at=100)
    path = tmp_path / "scan.nii.gz"
    bright = np.array(scan.image_hu)
    bright[:, :, -1] = 9000
    write_volume(Volume(geometry=scan.geometry, image_hu=bright), path)
    for ask in (checking_cache.get, checking_cache.get, lambda p: checking_cache.get_head(p, slices=lambda _: 12)):
        with pytest.raises(UnsupportedScanError, match="12 slices are not understood"):
            ask(path)
    assert gate.decodes == 1
    assert not list((tmp_path / "cache").glob("*.npy"))
    write_volume(scan, path)
    assert checking_cache.get(path).geometry.shape_ijk == SHAPE_IJK
