"""Could this be a chest CT in Hounsfield units? Asked once of every scan, before any model or study sees it.

DICOM says its modality; the other formats do not, and any header may be wrong, so the numbers are looked at. A scan
that is not understood is refused with what was seen, what is expected and what mends it: answered, it would have "no
nodules".
Decision 0021 has the figures behind the limits.
"""

from __future__ import annotations

from pathlib import Path

from medai.domain import Volume
from medai.errors import UnsupportedScanError
from medai.geometry import VolumeGeometry
from medai.volume_io.hounsfield import figures_of, is_whole_body, value_fault
from medai.volume_io.likely_cause import likely_cause
from medai.volume_io.lung_share import LEAST_LUNG_SHARE, LUNG_LIKE_HU, LUNG_SHARE_BESIDE_FILL, lung_share
from medai.volume_io.options import ReadOptions
from medai.volume_io.readers import read_volume
from medai.volume_io.voxel_sample import VoxelSample, sample_voxels, without_fill

SPACING_MM = (0.1, 20.0)
"""Voxel sizes outside this are a wrong unit of length: a 2048 matrix over one lung has 0.08 mm, metres have 0.0007."""

WIDEST_MM = 1000.0
"""The widest field of view of a CT is 820 mm; its length may be a whole body's."""
LONGEST_MM = 2500.0

SMALL_ANIMAL_MM = 80.0
"""A picture of many fine voxels that is narrower than this is a small animal, or centimetres taken for millimetres."""
_FINE_MM = 0.3
_MANY_VOXELS = 128


def read_chest_ct(path: Path, *, options: ReadOptions = ReadOptions()) -> Volume:  # noqa: B008 - frozen
    """Read a scan that a model is to work on.

    Raises:
        InputError: it cannot be read; see ``read_volume``.
        UnsupportedScanError: it is no chest CT in Hounsfield units; see ``check_chest_ct``.
    """
    volume = read_volume(path, options=options)
    check_chest_ct(volume)
    return volume


def check_chest_ct(volume: Volume) -> None:
    """Refuse what cannot be a chest CT in Hounsfield units; some hundredths of a second on a large scan.

    Raises:
        UnsupportedScanError: voxels or a field of view of an impossible size, values that are no Hounsfield units, or a
            body without lung.
    """
    _check_size(volume.geometry)
    sample = sample_voxels(volume)
    whole_body = is_whole_body(sample)
    fault = value_fault(figures_of(sample.values), is_whole_body=whole_body)
    if fault:
        if whole_body and _is_chest(without_fill(sample)):
            return
        cause = likely_cause(sample, is_whole_body=whole_body)
        raise UnsupportedScanError(
            f"This does not look like a chest CT in Hounsfield units: {fault}. It looks like {cause}."
        )
    if not whole_body:
        return
    share = lung_share(sample)
    if share < LEAST_LUNG_SHARE:
        raise UnsupportedScanError(
            f"This CT shows no lung: {share:.2%} of the body has values from {LUNG_LIKE_HU[0]:g} to "
            f"{LUNG_LIKE_HU[1]:g} HU over a centimetre; in a chest it is {LEAST_LUNG_SHARE:.1%} or more, mostly above "
            "10 %. It looks like a scan of the head, the abdomen or another region: take the series of the chest."
        )


def _is_chest(sample: VoxelSample) -> bool:
    """True where a picture of a body holds tissue and lung at their values."""
    values = sample.values
    if not values.size or value_fault(figures_of(values), is_whole_body=True):
        return False
    return lung_share(sample) >= LUNG_SHARE_BESIDE_FILL


def _check_size(geometry: VolumeGeometry) -> None:
    spacing_mm = geometry.spacing_mm
    spacing = "×".join(f"{s:.3g}" for s in spacing_mm)
    if min(spacing_mm) < SPACING_MM[0] or max(spacing_mm) > SPACING_MM[1]:
        raise UnsupportedScanError(
            f"The scan has voxels of {spacing} mm, which no chest CT has ({SPACING_MM[0]:g} to {SPACING_MM[1]:g} mm). "
            f"{_unit_advice(spacing_mm)}"
        )
    size_mm = sorted(n * s for n, s in zip(geometry.shape_ijk, spacing_mm, strict=True))
    size = "×".join(f"{n * s:.0f}" for n, s in zip(geometry.shape_ijk, spacing_mm, strict=True))
    if size_mm[1] > WIDEST_MM or size_mm[2] > LONGEST_MM:
        raise UnsupportedScanError(
            f"The scan is {size} mm large, more than a person ({WIDEST_MM:g} mm wide, {LONGEST_MM:g} mm long). Its "
            "voxel size may be in another unit than millimetres: export it in millimetres."
        )
    fine = [n for n, s in zip(geometry.shape_ijk, spacing_mm, strict=True) if s < _FINE_MM and n >= _MANY_VOXELS]
    if len(fine) >= 2 and size_mm[1] < SMALL_ANIMAL_MM:
        raise UnsupportedScanError(
            f"The scan is {size} mm large at voxels of {spacing} mm: a small animal, or a person in centimetres "
            "instead of millimetres. Export it in millimetres; medai's models know people alone."
        )


def _unit_advice(spacing_mm: tuple[float, float, float]) -> str:
    for factor, unit in ((1000.0, "metres"), (10.0, "centimetres"), (0.001, "micrometres"), (0.1, "tenths of a mm")):
        if all(0.3 <= s * factor <= 12.0 for s in spacing_mm):
            return f"They look like {unit} taken for millimetres: export the scan in millimetres."
    return "Is its unit of length millimetres? Export it again with the voxel size in its header."
