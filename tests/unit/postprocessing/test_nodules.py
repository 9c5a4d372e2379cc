import json

import numpy as np
import pytest

from medai.domain import Nodule, NoduleKind, Prediction, Volume
from medai.errors import InputError
from medai.geometry import IndexBox, VolumeGeometry
from medai.postprocessing.markups import prediction_to_markups
from medai.postprocessing.nodules import (
    join_fragments,
    merge_duplicates,
    nodule_from_mask,
    prediction_to_label_map,
    same_nodule,
    segment_name,
)

SHAPE = (40, 41, 30)


def _geometry(turn_deg=0.0, flips=(-1, -1, 1)):
    angle = np.deg2rad(turn_deg)
    turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag(np.array([0.7, 0.7, 1.5]) * flips)
    affine[:3, 3] = (50, 60, -70)
    return VolumeGeometry(shape_ijk=SHAPE, affine_ijk_to_ras_mm=affine)


def _nodule(start, stop, *, probability=0.9, kind=NoduleKind.SOLID, side="right", geometry=None):
    box = IndexBox(start_ijk=start, stop_ijk=stop)
    mask = np.ones(box.shape_ijk, dtype=bool)
    geometry = geometry or _geometry()
    centre = geometry.ijk_to_ras((np.array(start) + np.array(stop) - 1) / 2)
    return Nodule(
        box=box,
        mask=mask,
        centre_ras_mm=tuple(centre),
        diameter_mm=8.24,
        volume_mm3=float(mask.sum()) * geometry.voxel_volume_mm3,
        kind=kind,
        probability=probability,
        side=side,
    )


def _prediction(*nodules, geometry=None):
    return Prediction(case_id="case", geometry=geometry or _geometry(), nodules=nodules)


def test_an_outline_becomes_a_measured_nodule():
    geometry = _geometry()
    image = np.full(SHAPE, -850, dtype=np.int16)
    image[10:20, 12:22, 8:12] = 30
    box = IndexBox(start_ijk=(5, 6, 4), stop_ijk=(30, 31, 20))
    nodule = nodule_from_mask(
        Volume(geometry=geometry, image_hu=image), box, image[box.slices] > 0, probability=0.7, side="left"
    )
    assert nodule.box == IndexBox(start_ijk=(10, 12, 8), stop_ijk=(20, 22, 12))
    assert nodule.mask.all()
    assert nodule.volume_mm3 == pytest.approx(400 * 0.7 * 0.7 * 1.5)
    np.testing.assert_allclose(nodule.centre_ras_mm, geometry.ijk_to_ras((14.5, 16.5, 9.5)))
    assert nodule.kind == NoduleKind.SOLID
    assert 7.0 <= nodule.diameter_mm <= 10.0
    assert segment_name(nodule, 3) == f"Nodule 3 - {nodule.diameter_mm} mm solid - left"


def test_an_empty_outline_is_refused():
    volume = Volume(geometry=_geometry(), image_hu=np.zeros(SHAPE, dtype=np.int16))
    box = IndexBox(start_ijk=(1, 2, 3), stop_ijk=(4, 5, 6))
    with pytest.raises(InputError, match="nothing to measure"):
        nodule_from_mask(volume, box, np.zeros((3, 3, 3), dtype=bool), probability=0.5)


def test_values_are_contiguous_and_names_unique_and_plain():
    nodules = [_nodule((2 + 6 * n, 3, 4), (6 + 6 * n, 8, 9), kind=kind) for n, kind in enumerate(NoduleKind)]
    nodules.append(_nodule((30, 30, 4), (34, 34, 9), side=""))
    label_map = prediction_to_label_map(_prediction(*nodules))
    assert list(label_map.label_names.values()) == [1, 2, 3, 4]
    assert list(label_map.label_names) == [
        "Nodule 1 - 8.2 mm solid - right",
        "Nodule 2 - 8.2 mm part-solid - right",
        "Nodule 3 - 8.2 mm non-solid - right",
        "Nodule 4 - 8.2 mm solid",
    ]
    assert all(name.isascii() for name in label_map.label_names)
    assert label_map.labels.dtype == np.uint8
    assert [int((label_map.labels == v).sum()) for v in range(1, 5)] == [100, 100, 100, 80]
    assert len({segment.colour_rgb for segment in label_map.segments}) == 4


def test_a_small_nodule_inside_a_large_one_stays_visible():
    small, large = _nodule((10, 10, 10), (13, 13, 13), probability=0.9), _nodule((5, 5, 5), (20, 20, 20))
    for nodules in ((small, large), (large, small)):
        labels = prediction_to_label_map(_prediction(*nodules)).labels
        value = nodules.index(small) + 1
        assert np.count_nonzero(labels == value) == 27


def test_no_nodule_gives_an_empty_label_map():
    label_map = prediction_to_label_map(_prediction())
    assert not label_map.labels.any()
    assert label_map.segments == ()
    (nothing,) = prediction_to_markups(_prediction())["markups"]
    assert nothing["type"] != "ROI"
    assert nothing["controlPoints"] == []


def test_duplicates_keep_the_more_probable_outline():
    first = _nodule((10, 10, 10), (20, 20, 20), probability=0.6)
    second = _nodule((12, 12, 12), (20, 20, 20), probability=0.8)
    apart = _nodule((25, 25, 10), (30, 30, 14), probability=0.7)
    touching = _nodule((20, 10, 10), (24, 14, 14), probability=0.5)
    assert same_nodule(first, second)
    assert not same_nodule(first, apart)
    assert merge_duplicates([first, second, apart, touching]) == [second, apart, touching]


def test_parts_of_a_mass_become_one_and_small_neighbours_stay_two():
    volume = Volume(geometry=_geometry(), image_hu=np.full(SHAPE, 30, dtype=np.int16))
    parts = [
        _nodule((2, 2, 2), (16, 16, 12), probability=0.6, side="left"),
        _nodule((30, 30, 20), (38, 38, 26), probability=0.7),
        _nodule((16, 4, 4), (30, 18, 14), probability=0.8),
    ]
    whole, apart = join_fragments(volume, parts)
    assert (whole.probability, whole.side, apart) == (0.8, "right", parts[1])
    assert whole.mask.sum() == parts[0].mask.sum() + parts[2].mask.sum()
    assert whole.diameter_mm > 12
    small = [
        nodule_from_mask(volume, box, np.ones(box.shape_ijk, dtype=bool), probability=0.9)
        for box in (
            IndexBox(start_ijk=(2, 2, 2), stop_ijk=(8, 8, 6)),
            IndexBox(start_ijk=(8, 2, 2), stop_ijk=(14, 8, 6)),
        )
    ]
    assert join_fragments(volume, small) == small


@pytest.mark.parametrize("turn_deg", [0.0, 20.0])
@pytest.mark.parametrize("flips", [(-1, -1, 1), (1, 1, 1), (-1, 1, 1)])
def test_a_markup_box_covers_the_nodules_voxels_in_the_patient(turn_deg, flips):
    geometry = _geometry(turn_deg, flips)
    nodule = _nodule((10, 12, 5), (15, 20, 9), geometry=geometry)
    document = json.loads(json.dumps(prediction_to_markups(_prediction(nodule, geometry=geometry))))
    (markup,) = document["markups"]
    assert (markup["type"], markup["roiType"], markup["coordinateSystem"]) == ("ROI", "Box", "LPS")
    axes = np.array(markup["orientation"]).reshape(3, 3)
    assert np.linalg.det(axes) == pytest.approx(1)
    corners_lps = geometry.ijk_to_ras([[10, 12, 5], [14, 19, 8]]) * [-1, -1, 1]
    offset = (corners_lps - markup["center"]) @ axes
    half_voxel = np.array([0.35, 0.35, 0.75])
    np.testing.assert_allclose(np.abs(offset), [np.array(markup["size"]) / 2 - half_voxel] * 2, atol=1e-3)
    (point,) = markup["controlPoints"]
    assert point["label"] == segment_name(nodule, 1)
    assert point["description"].startswith("probability 0.90, ")
