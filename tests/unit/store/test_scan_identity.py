"""Which scan it is, by its content."""

import gzip

import pytest

from medai.store.scan_identity import ScanIdentities, scan_identity


def written(path, content):
    path.write_bytes(content)
    return path


def test_the_compression_does_not_matter(tmp_path, rng):
    content = rng.integers(0, 60, 90_000).astype("uint8").tobytes()
    quick = written(tmp_path / "a.nii.gz", gzip.compress(content, 1))
    small = written(tmp_path / "b.nii.gz", gzip.compress(content, 9))
    other = written(tmp_path / "c.nii.gz", gzip.compress(content[:-1] + b"\xff", 1))
    assert quick.read_bytes() != small.read_bytes()
    assert scan_identity(quick) == scan_identity(small)
    assert scan_identity(other) != scan_identity(quick)


@pytest.mark.parametrize("where", [0, 400_000, 999_999])
def test_what_differs_anywhere_much_is_another(tmp_path, rng, where):
    content = bytearray(rng.bytes(1_000_000))
    first = scan_identity(written(tmp_path / "a.nrrd", bytes(content)))
    content[max(0, where - 80_000) : where + 80_000] = bytes(len(content[max(0, where - 80_000) : where + 80_000]))
    assert scan_identity(written(tmp_path / "b.nrrd", bytes(content))) != first


def test_blocks_of_gzip_are_told_apart(tmp_path, rng):
    blocks = [written(tmp_path / f"{n}.nii.gz", gzip.compress(rng.bytes(5000)) + gzip.compress(b"")) for n in range(2)]
    assert scan_identity(blocks[0]) != scan_identity(blocks[1])


def test_touched_is_not_replaced(tmp_path):
    scan = written(tmp_path / "a.nrrd", b"first")
    known = ScanIdentities(tmp_path)
    assert not known.is_replaced("a", scan)
    known.note({"a": scan})
    assert known.is_as_it_was("a", scan)
    scan.touch()
    assert not ScanIdentities(tmp_path).is_replaced("a", scan)
    written(scan, b"other")
    assert ScanIdentities(tmp_path).is_replaced("a", scan)
    known.forget("a")
    assert not known.is_replaced("a", scan)
