"""A scan is decoded once, whoever asks; both bounds hold; damage and change are noticed."""

import json
import os
import threading
import time

import numpy as np
import pytest

from medai.domain import Volume
from medai.errors import InputError
from medai.geometry import VolumeGeometry
from medai.volume_io import scan_cache
from medai.volume_io.scan_cache import ScanCache
from medai.volume_io.writers import write_volume

PLENTY = 10_000_000
SCAN_BYTES = 10 * 11 * 12 * 2


@pytest.fixture
def decodes(monkeypatch):
    """The names of the files decoded so far."""
    names = []
    original = scan_cache.read_volume

    def counted(path, **given):
        names.append(path.name)
        return original(path, **given)

    monkeypatch.setattr(scan_cache, "read_volume", counted)
    return names


@pytest.fixture
def scans(tmp_path, rng):
    folder = tmp_path / "study"
    folder.mkdir()
    affine = np.array([[-0.7, 0, 0.1, 5.0], [0, -0.8, 0, 6], [0.05, 0, 2.5, 7], [0, 0, 0, 1]])
    affine[:3, 2] = np.cross(affine[:3, 0], affine[:3, 1])
    geometry = VolumeGeometry(shape_ijk=(10, 11, 12), affine_ijk_to_ras_mm=affine)
    paths = []
    for n in range(4):
        image_hu = rng.integers(-1024, 3000, size=(10, 11, 12)).astype(np.int16)
        paths.append(folder / f"case_{n}.nii.gz")
        write_volume(Volume(geometry=geometry, image_hu=image_hu), paths[-1])
    return paths


@pytest.fixture
def open_cache(tmp_path):
    caches = []

    def open_one(memory_bytes=PLENTY, disk_bytes=PLENTY, write_pause_s=0.0):
        cache = ScanCache(
            tmp_path / "cache", memory_bytes=memory_bytes, disk_bytes=disk_bytes, write_pause_s=write_pause_s
        )
        caches.append(cache)
        return caches[-1]

    yield open_one
    for cache in caches:
        cache.close()


def disk_entries(tmp_path):
    return sorted(p.name for p in (tmp_path / "cache").glob("*.npy"))


def test_first_in_memory_then_mapped_always_the_same(tmp_path, scans, open_cache, decodes):
    expected = scan_cache.read_volume(scans[0])
    decodes.clear()
    cache = open_cache()
    first = cache.get(scans[0], "case_0")
    assert not isinstance(first.image_hu, np.memmap)
    cache.close()
    mapped = open_cache().get(scans[0], "other")
    assert isinstance(mapped.image_hu, np.memmap)
    assert decodes == ["case_0.nii.gz"]
    for volume in (first, mapped):
        np.testing.assert_array_equal(volume.image_hu, expected.image_hu)
        np.testing.assert_array_equal(volume.geometry.affine_ijk_to_ras_mm, expected.geometry.affine_ijk_to_ras_mm)
        assert volume.image_hu.dtype == np.int16
        assert volume.image_hu.flags.f_contiguous
        with pytest.raises(ValueError, match="read-only"):
            volume.image_hu[0, 0, 0] = 1
    assert (first.case_id, mapped.case_id) == ("case_0", "other")
    assert len(disk_entries(tmp_path)) == 1


def test_the_same_process_gets_the_map_once_it_is_written(scans, open_cache, decodes):
    cache = open_cache()
    cache.get(scans[0])
    deadline = time.monotonic() + 10
    while not isinstance(cache.get(scans[0]).image_hu, np.memmap):
        assert time.monotonic() < deadline
    assert decodes == ["case_0.nii.gz"]


def test_many_threads_decode_once(scans, open_cache, decodes):
    cache = open_cache()
    start = threading.Barrier(8)
    results = []

    def ask():
        start.wait()
        results.append(cache.get(scans[0]).image_hu.sum())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    assert len(set(results)) == 1
    assert decodes == ["case_0.nii.gz"]


def test_two_caches_on_one_folder_decode_once(scans, open_cache, decodes):
    first, second = open_cache(), open_cache()
    a, b = first.get(scans[0]), second.get(scans[0])
    np.testing.assert_array_equal(a.image_hu, b.image_hu)
    assert decodes == ["case_0.nii.gz"]


def test_changed_file_is_decoded_again_and_its_old_form_removed(tmp_path, scans, open_cache, decodes):
    cache = open_cache()
    before = cache.get(scans[0])
    write_volume(Volume(geometry=before.geometry, image_hu=np.array(before.image_hu) + np.int16(1)), scans[0])
    after = cache.get(scans[0])
    np.testing.assert_array_equal(after.image_hu, before.image_hu + 1)
    cache.close()
    assert len(disk_entries(tmp_path)) == 1
    assert decodes == ["case_0.nii.gz"] * 2


def test_memory_bound_forgets_the_least_recently_used(scans, open_cache, decodes):
    cache = open_cache(memory_bytes=2 * SCAN_BYTES, disk_bytes=0)
    for n in (0, 1, 0, 2, 0, 1):
        cache.get(scans[n])
    assert decodes == ["case_0.nii.gz", "case_1.nii.gz", "case_2.nii.gz", "case_1.nii.gz"]


def test_nothing_is_kept_with_bounds_of_zero(tmp_path, scans, open_cache, decodes):
    cache = open_cache(memory_bytes=0, disk_bytes=0)
    for _ in range(2):
        cache.get(scans[0])
    assert decodes == ["case_0.nii.gz"] * 2
    assert disk_entries(tmp_path) == []


def test_disk_bound_forgets_the_least_recently_used(tmp_path, scans, open_cache, decodes):
    bound = 2 * (SCAN_BYTES + 200)
    for step, n in enumerate((0, 1, 0, 2)):
        cache = open_cache(memory_bytes=0, disk_bytes=bound)
        cache.get(scans[n])
        cache.close()
        # The clock of a file system may be coarser than this test.
        for sidecar in (tmp_path / "cache").glob("*.json"):
            if time.time() - sidecar.stat().st_mtime < 500:
                os.utime(sidecar, (1e9 + step, 1e9 + step))
    assert len(disk_entries(tmp_path)) == 2
    decodes.clear()
    cache = open_cache(memory_bytes=0, disk_bytes=bound)
    cache.get(scans[0])
    cache.get(scans[2])
    assert decodes == []
    cache.get(scans[1])
    assert decodes == ["case_1.nii.gz"]


@pytest.mark.parametrize("harm", ["cut image", "no image", "cut sidecar", "empty sidecar", "other shape", "pickle"])
def test_damaged_entry_is_decoded_again(tmp_path, scans, open_cache, decodes, harm):
    cache = open_cache()
    expected = np.array(cache.get(scans[0]).image_hu)
    cache.close()
    image = next((tmp_path / "cache").glob("*.npy"))
    sidecar = image.with_suffix(".json")
    if harm == "cut image":
        image.write_bytes(image.read_bytes()[:-100])
    elif harm == "no image":
        image.unlink()
    elif harm == "cut sidecar":
        sidecar.write_text(sidecar.read_text()[:-20])
    elif harm == "empty sidecar":
        sidecar.write_text("")
    elif harm == "other shape":
        sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), "shape_ijk": [10, 11, 13]}))
    else:
        np.save(image, np.array([{}], dtype=object), allow_pickle=True)
    np.testing.assert_array_equal(open_cache().get(scans[0]).image_hu, expected)
    assert decodes == ["case_0.nii.gz"] * 2
    open_cache().get(scans[0])
    assert decodes == ["case_0.nii.gz"] * 2


def test_prefetch_decodes_ahead_and_swallows_bad_scans(tmp_path, scans, open_cache, decodes, caplog):
    cache = open_cache()
    (tmp_path / "bad.nii.gz").write_bytes(b"no")
    cache.prefetch(tmp_path / "bad.nii.gz", "bad")
    for path in (*scans[:2], scans[0]):
        cache.prefetch(path)
    deadline = time.monotonic() + 10
    while len(decodes) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    cache.get(scans[0])
    cache.get(scans[1])
    assert sorted(decodes) == ["bad.nii.gz", "case_0.nii.gz", "case_1.nii.gz"]
    assert "prefetch of case 'bad' failed" in caplog.text
    cache.close()
    cache.prefetch(scans[3])
    assert "case_3.nii.gz" not in decodes


def test_bad_scan_leaves_no_lock_behind(tmp_path, scans, open_cache):
    cache = open_cache()
    bad = tmp_path / "bad.nii.gz"
    bad.write_bytes(b"no")
    for _ in range(2):
        with pytest.raises(InputError, match=r"bad\.nii\.gz"):
            cache.get(bad)
    with pytest.raises(InputError, match="no file or folder"):
        cache.get(tmp_path / "absent.nii.gz")
    assert cache.get(scans[0]).geometry.shape_ijk == (10, 11, 12)


def test_full_disk_still_serves(scans, open_cache, monkeypatch, caplog):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("medai.volume_io.scan_cache.np.save", full)
    cache = open_cache()
    assert cache.get(scans[0]).geometry.shape_ijk == (10, 11, 12)
    cache.close()
    assert "No space left on device" in caplog.text


def test_leftovers_of_a_killed_writer_are_swept(tmp_path, scans, open_cache):
    cache = open_cache()
    old, young = tmp_path / "cache" / ".old.part", tmp_path / "cache" / ".young.part"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (1e9, 1e9))
    cache.get(scans[0])
    cache.close()
    assert not old.exists()
    assert young.exists()


def test_negative_bounds_are_refused(tmp_path):
    with pytest.raises(InputError, match="use 0 or more"):
        ScanCache(tmp_path, memory_bytes=-1, disk_bytes=0)


def test_a_forgotten_scan_is_nowhere(tmp_path, scans, open_cache, decodes):
    cache = open_cache()
    held = cache.get(scans[0])
    cache.get(scans[1])
    cache.close()
    cache = open_cache()
    cache.get(scans[0])
    cache.forget(scans[0].resolve())
    assert cache.find_open(scans[0]) is None
    assert len(disk_entries(tmp_path)) == 1
    # What was handed out stays valid; whoever asks again has a file there again.
    assert held.image_hu.shape == (10, 11, 12)
    decodes.clear()
    cache.get(scans[0])
    assert decodes == ["case_0.nii.gz"]
    cache.close()
    assert len(disk_entries(tmp_path)) == 2


def test_what_is_forgotten_before_it_was_written_is_never_written(tmp_path, scans, open_cache):
    cache = open_cache(write_pause_s=30.0)
    cache.get(scans[0])
    cache.forget(scans[0].resolve())
    cache.close()
    assert disk_entries(tmp_path) == []


def test_only_what_is_still_there_is_kept_on_disk(tmp_path, scans, open_cache):
    cache = open_cache()
    for path in scans:
        cache.get(path)
    cache.close()
    assert len(disk_entries(tmp_path)) == 4
    open_cache().keep_only(scans[2:])
    assert len(disk_entries(tmp_path)) == 2


def test_what_cannot_be_decoded_is_told_with_its_case(tmp_path, scans):
    told = []
    scans[0].write_bytes(scans[0].read_bytes()[:200])
    cache = ScanCache(
        tmp_path / "cache",
        memory_bytes=PLENTY,
        disk_bytes=PLENTY,
        on_unreadable=lambda case_id, path, error: told.append((case_id, path.name, str(error))),
    )
    with pytest.raises(InputError, match="damaged or truncated"):
        cache.get(scans[0], "case_0")
    with pytest.raises(InputError):
        cache.get(scans[0])
    cache.close()
    assert [each[:2] for each in told] == [("case_0", "case_0.nii.gz")]
