"""The scale of a scan's values: could they be Hounsfield units of a chest?

The limits are measured on 838 crops around nodules, on slabs and whole scans, and on spoiled copies of them: decision
0021 has the figures. A crop may be all lung, all tissue but a hundredth, or hold a pacemaker, so only what no crop
shows is refused; a picture of the whole body must show tissue where tissue lies.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medai.volume_io.voxel_sample import VoxelSample

AIR_HU = -600.0
"""Lung and air lie below. The first percentile of every crop around a LIDC nodule (40 mm wide) is -789 HU at most."""

LOWEST_AIR_HU = -1300.0
"""The fifth percentile of noisy air and lung is above this (-1180 HU at least); HU doubled, or with the intercept
applied twice, has lung below."""

TISSUE_HU = (-200.0, 200.0)
IN_BODY_HU = (-300.0, 400.0)
"""Fat, muscle, blood with contrast: what a body holds besides lung and bone."""
DENSE_HU = 600.0

WHOLE_BODY_MM = 150.0
"""A picture as wide as this in the slice shows a body, not a crop around a nodule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueFigures:
    """Where a scan's values lie.

    Attributes:
        lowest: first percentile.
        low: fifth percentile.
        high: 99.9th percentile.
        air: share below ``AIR_HU``.
        dense: share above ``DENSE_HU``.
        body: share above -500, which is neither lung nor air.
        tissue: share within ``TISSUE_HU``.
        of_body: share within ``IN_BODY_HU`` of what is above -500.
        body_median: median of what is above -500.
    """

    lowest: float
    low: float
    high: float
    air: float
    dense: float
    body: float
    tissue: float
    of_body: float
    body_median: float


def figures_of(values: NDArray[np.float32]) -> ValueFigures:
    """Measure where values lie."""
    lowest, low, high = (float(v) for v in np.percentile(values, (1, 5, 99.9)))
    body = values[values > -500.0]
    count = max(1, values.size)
    return ValueFigures(
        lowest=lowest,
        low=low,
        high=high,
        air=np.count_nonzero(values < AIR_HU) / count,
        dense=np.count_nonzero(values > DENSE_HU) / count,
        body=body.size / count,
        tissue=_share(values, TISSUE_HU),
        of_body=_share(body, IN_BODY_HU),
        body_median=float(np.median(body)) if body.size else -500.0,
    )


def value_fault(found: ValueFigures, *, is_whole_body: bool) -> str:
    """What is wrong with the scale of the values, in words; "" where nothing is.

    Args:
        found: where the values lie.
        is_whole_body: the scan is as wide as a body; see ``is_whole_body``.
    """
    if found.lowest > AIR_HU:
        return (
            f"99 % of its voxels are above {found.lowest:g}, but a chest CT holds lung (about -850 HU) and air "
            f"(-1000 HU) below {AIR_HU:g}"
        )
    if found.high < AIR_HU:
        return f"it holds nothing but air: 99.9 % of its voxels are below {found.high:g} HU"
    if found.low < LOWEST_AIR_HU:
        return f"5 % of its voxels are below {found.low:.0f}, but nothing is darker than air at -1000 HU"
    if found.dense > max(found.air, 0.2):
        return (
            f"{found.dense:.0%} of its voxels are above {DENSE_HU:g}, as bone and metal are, and {found.air:.0%} are "
            f"lung or air below {AIR_HU:g}"
        )
    if found.body > (0.15 if is_whole_body else 0.1) and found.of_body < _least_of_body(found, is_whole_body):
        return (
            f"of the voxels above -500 only {found.of_body:.0%} lie from {IN_BODY_HU[0]:g} to {IN_BODY_HU[1]:g} HU, "
            f"where fat, muscle and blood are; half of them are above {found.body_median:.0f}"
        )
    return _whole_body_fault(found) if is_whole_body else ""


def _least_of_body(found: ValueFigures, is_whole_body: bool) -> float:
    """The share of what is above -500 that must be tissue: in a crop of lung the rims of vessels are most of it."""
    if is_whole_body:
        return 0.6
    return 0.38 if found.body > 0.3 else 0.3


def _whole_body_fault(found: ValueFigures) -> str:
    if found.tissue < 0.02:
        return (
            f"only {found.tissue:.1%} of its voxels lie from {TISSUE_HU[0]:g} to {TISSUE_HU[1]:g} HU, where fat and "
            "muscle are"
        )
    if found.body > 0.15 and not TISSUE_HU[0] <= found.body_median <= TISSUE_HU[1]:
        return (
            f"the middle value of the body is {found.body_median:.0f}, but fat, muscle and blood lie from "
            f"{TISSUE_HU[0]:g} to {TISSUE_HU[1]:g} HU"
        )
    return ""


def is_whole_body(sample: VoxelSample) -> bool:
    """True where a scan is as wide as a body in the slice."""
    return min(sample.size_mm[:2]) >= WHOLE_BODY_MM


def _share(values: NDArray[np.float32], within: tuple[float, float]) -> float:
    return np.count_nonzero((values >= within[0]) & (values <= within[1])) / max(1, values.size)
