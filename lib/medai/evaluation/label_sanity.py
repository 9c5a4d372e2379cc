"""What makes a submitted label doubtful enough to keep it from training until somebody has looked.

Nothing is ever dropped here: each check returns its reason in words, or "" where it sees nothing wrong. The bounds are
wide on purpose. A label that is merely poor is the promotion gate's business; these catch what no careful reader draws.

How often honest labels would be quarantined was measured on LIDC-IDRI: 2783 outlines of single readers of 758 nodules
(416 patients; ``tests/integration/training/test_honest_readers.py`` measures it again). By air, by contrast, by parts
and by volume: none (at most 0.13 %, 95 % confidence). By agreement: 2, or 0.07 % (0.01 to 0.26 %), both of them beside
those of the other readers, so that somebody should look. What that says nothing of: a case with several nodules, where
an honest reader may leave out the largest; the place in the body, for which the crops are too small (8 outlines in two
wider slabs lay inside it to the last voxel); and a nodule in a consolidated lung, which stands out from nothing, so
that its label waits for somebody to confirm it.

Of labels made to do harm (``simulated_readers.hostile_label``, 255 nodules) shape, air and contrast hold back 99 % of
those drawn around a nodule, all whose voxels were shuffled, 85 % of those in another place, 19 % of single voxels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medai.domain import LabelMap, Volume
from medai.geometry import IndexBox

MOST_PARTS = 1000
"""Honest outlines have 1 to 46. Miliary disease is not outlined nodule by nodule; a thresholded scan has tens of
thousands of parts."""

LARGEST_ML = 1000.0
"""A sphere of 12 cm; both lungs are 4–6 litres. The largest honest outline has 18 ml, but masses are not in LIDC."""

LOOSE_FROM_VOXELS, LEAST_TOGETHER = 50, 0.35
"""A label of so many voxels hangs together: of its voxels' six neighbours this share is in it too, on average. Honest
outlines have 0.53 and more, voxels strewn over a nodule's box 0.3 at most."""

LEAST_CONTRAST_HU, AROUND_MM = 15.0, 3.0
"""A nodule is denser than what lies around it within this distance, by its median."""
PARTS_LOOKED_AT = 30
"""By volume; smaller ones hardly decide what most of a label is."""

AIR_HU = -900.0
"""Healthy lung is about -850; the faintest ground-glass nodule is above -800."""

MOST_OUTSIDE = 0.5
"""Share of a label that is air, outside the body, or no denser than its surroundings. Of honest outlines 21 % at most
are below ``AIR_HU``, and one in a hundred has more than 6 %."""

LEAST_AGREEMENT = 0.2
"""Dice to the other label that it agrees with best. Honest readers: median 0.82, one in a hundred below 0.54, one in a
thousand below 0.33. At a bound of 0.4 it were 7 of 2783; a label of another place has 0."""

LEAST_PEERS = 2
"""With one other label nobody can say which of the two is odd."""

BODY_HU = -300.0
WHOLE_BODY_MM = 250.0
"""A field of view narrower than this is a crop: where its body ends cannot be told."""
COARSE_MM = 4.0
"""The body is found on a grid as coarse as this; its border is not needed to the voxel."""


def shape_problem(label_map: LabelMap) -> str:
    """Whether a label is shattered or absurdly large; needs no scan.

    Returns:
        The reason in words, "" where there is none.
    """
    box, mask = _labelled(label_map)
    if box is None:
        return ""
    volume_ml = np.count_nonzero(mask) * label_map.geometry.voxel_volume_mm3 / 1000.0
    if volume_ml > LARGEST_ML:
        return f"it holds {volume_ml:.0f} ml, more than nodules can (the bound is {LARGEST_ML:.0f} ml)"
    _, parts = ndimage.label(mask)
    if parts > MOST_PARTS:
        return f"it has {parts} separate parts (the bound is {MOST_PARTS}); it looks like a threshold, not an outline"
    together = _share_together(mask)
    if np.count_nonzero(mask) >= LOOSE_FROM_VOXELS and together < LEAST_TOGETHER:
        return (
            f"its voxels lie strewn: {together:.0%} of their neighbours belong to it (the bound is "
            f"{LEAST_TOGETHER:.0%}); no outline looks like that"
        )
    return ""


def air_problem(label_map: LabelMap, volume: Volume) -> str:
    """Whether most of a label is air; costs no more than the label's own voxels.

    Args:
        label_map: on the scan's grid.
        volume: the scan.

    Returns:
        The reason in words, "" where there is none.
    """
    box, mask = _labelled(label_map)
    if box is None:
        return ""
    in_air = float(np.mean(np.less(volume.image_hu[box.slices][mask], AIR_HU)))
    if in_air > MOST_OUTSIDE:
        return f"{in_air:.0%} of it is air (below {AIR_HU:.0f} HU), where no nodule can be"
    return ""


def contrast_problem(label_map: LabelMap, volume: Volume) -> str:
    """Whether most of a label is no denser than what lies around it; costs no more than the regions of its parts.

    A part that was drawn where nothing is, or around a nodule instead of on it, does not stand out. Compared are the
    medians of the part and of what is not labelled within ``AROUND_MM`` of it.

    Args:
        label_map: on the scan's grid.
        volume: the scan.

    Returns:
        The reason in words, "" where there is none.
    """
    box, _ = _labelled(label_map)
    if box is None:
        return ""
    spacing_mm = label_map.geometry.spacing_mm
    margin = [int(np.ceil(AROUND_MM / side)) for side in spacing_mm]
    region = box.expand(margin).clip(label_map.geometry.shape_ijk)
    image_hu = volume.image_hu[region.slices]
    numbered, _ = ndimage.label(label_map.labels[region.slices] != 0, structure=np.ones((3, 3, 3)))
    sizes, places = np.bincount(numbered.ravel())[1:], ndimage.find_objects(numbered)
    compared, flat, contrasts_hu = 0, 0, list[float]()
    for place in np.argsort(-sizes)[:PARTS_LOOKED_AT]:
        i, j, k = places[place]
        part = IndexBox(start_ijk=(i.start, j.start, k.start), stop_ijk=(i.stop, j.stop, k.stop))
        here = part.expand(margin).clip(numbered.shape).slices
        own = numbered[here] == place + 1
        near = ndimage.distance_transform_edt(~own, sampling=list(spacing_mm)) <= AROUND_MM
        around_hu = image_hu[here][near & (numbered[here] == 0)]
        if not around_hu.size:
            continue
        contrast_hu = float(np.median(image_hu[here][own]) - np.median(around_hu))
        compared += int(sizes[place])
        if contrast_hu < LEAST_CONTRAST_HU:
            flat += int(sizes[place])
            contrasts_hu.append(contrast_hu)
    if not compared or flat / compared <= MOST_OUTSIDE:
        return ""
    return (
        f"{flat / compared:.0%} of it is no denser than what lies within {AROUND_MM:.0f} mm around it (medians differ "
        f"by {contrasts_hu[0]:+.0f} HU; the bound is {LEAST_CONTRAST_HU:.0f} HU)"
    )


def place_problem(label_map: LabelMap, volume: Volume) -> str:
    """Whether most of a label lies outside the body; looks at the whole scan.

    Args:
        label_map: on the scan's grid.
        volume: the scan.

    Returns:
        The reason in words, "" where there is none, and where the scan is too narrow to show where the body ends.
    """
    box, mask = _labelled(label_map)
    body = None if box is None else _coarse_body(volume)
    if box is None or body is None:
        return ""
    inside, step = body
    index = [(axis + start) // side for axis, start, side in zip(np.nonzero(mask), box.start_ijk, step, strict=True)]
    outside = float(np.mean(~inside[tuple(index)]))
    if outside > MOST_OUTSIDE:
        return f"{outside:.0%} of it lies outside the body"
    return ""


def agreement_problem(dice_to_peers: Sequence[float], dice_to_proposal: float | None) -> str:
    """Whether a label is alone against its peers and the model.

    Args:
        dice_to_peers: to each other annotator's label of the same case, 0–1.
        dice_to_proposal: to what the model drew, 0–1; None where that is not known.

    Returns:
        The reason in words, "" where there is none or too few peers to tell.
    """
    if len(dice_to_peers) < LEAST_PEERS:
        return ""
    # With none of them: a mean would put a good label into quarantine for two bad ones beside it.
    best = max(dice_to_peers)
    if best >= LEAST_AGREEMENT or (dice_to_proposal is not None and dice_to_proposal >= LEAST_AGREEMENT):
        return ""
    model = "" if dice_to_proposal is None else f" and {dice_to_proposal:.2f} with the model"
    return (
        f"it agrees with none of the {len(dice_to_peers)} other labels of this case (Dice {best:.2f} at best){model} "
        f"(the bound is {LEAST_AGREEMENT})"
    )


def _labelled(label_map: LabelMap) -> tuple[IndexBox | None, NDArray[np.bool_]]:
    """The smallest box around everything labelled, None for an empty label, and what is labelled in it."""
    box = IndexBox.of_mask(label_map.labels)
    return box, (label_map.labels if box is None else label_map.labels[box.slices]) != 0


def _share_together(mask: NDArray[np.bool_]) -> float:
    """Of the six neighbours of the mask's voxels, the share that is in the mask too, on average."""
    pairs = (
        np.count_nonzero(mask[1:] & mask[:-1])
        + np.count_nonzero(mask[:, 1:] & mask[:, :-1])
        + np.count_nonzero(mask[:, :, 1:] & mask[:, :, :-1])
    )
    return 2 * pairs / (6 * max(1, np.count_nonzero(mask)))


def _coarse_body(volume: Volume) -> tuple[NDArray[np.bool_], tuple[int, ...]] | None:
    """The body with its lungs on a coarse grid, and voxels a step; None for a crop, or where no body is found."""
    sizes_mm = [n * side for n, side in zip(volume.geometry.shape_ijk, volume.geometry.spacing_mm, strict=True)]
    across = int(np.argmax(np.abs(volume.geometry.directions_ras[2])))
    if min(size for axis, size in enumerate(sizes_mm) if axis != across) < WHOLE_BODY_MM:
        return None
    step = tuple(max(1, round(COARSE_MM / side)) for side in volume.geometry.spacing_mm)
    tissue = np.greater(volume.image_hu[:: step[0], :: step[1], :: step[2]], BODY_HU)
    numbered, found = ndimage.label(tissue)
    if found == 0:
        return None
    body = numbered == 1 + int(np.argmax(np.bincount(numbered.ravel())[1:]))
    # Slice by slice: the lungs are open at the scan's upper and lower end.
    slices = np.moveaxis(body, across, 0)
    filled = np.stack([ndimage.binary_fill_holes(ndimage.binary_closing(one, iterations=2)) | one for one in slices])
    grown: NDArray[np.bool_] = ndimage.binary_dilation(np.moveaxis(filled, 0, across))
    return grown, step
