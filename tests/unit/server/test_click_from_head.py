"""A click answered from a scan's first slices is the answer from the whole scan."""

import json

import numpy as np
import pytest

from medai.domain import Volume
from medai.errors import InputError
from medai.geometry import IndexBox, VolumeGeometry
from medai.inference.click import ClickSegmenter
from medai.server.click_task import NoduleClickTask
from medai.server.infer_request import InferRequest
from medai.volume_io.decoding import ScanHead

SHAPE_IJK = (60, 61, 190)
SPACING_MM = (0.8, 0.9, 1.0)
CONFIG = {
    "task": "nodule_click",
    "patch_shape": [24, 24, 24],
    "spacing_mm": 1.0,
    "fill": 0.55,
    "finest_mm": 0.5,
    "coarsest_mm": 2.4,
}
SMALL = [(30, 31, k) for k in (4, 20, 95, 140, 160, 186)]
LARGE = (30, 30, 60)


class Brightness:
    """An engine that believes in a voxel the more the brighter it is."""

    config = CONFIG

    def run(self, batch):
        return (6.0 * batch[:, :1] + 2.0).astype(np.float32)


class Scans:
    """A scan of which no more than what is asked for is ever there at first."""

    def __init__(self, volume):
        self.volume = volume
        self.heads = []
        self.wholes = 0

    def get(self, path, case_id=""):
        self.wholes += 1
        return self.volume

    def get_head(self, path, case_id="", *, slices):
        i, j, k = self.volume.geometry.shape_ijk
        self.heads.append(min(k, slices(self.volume.geometry)))
        part = self.volume.crop(IndexBox(start_ijk=(0, 0, 0), stop_ijk=(i, j, self.heads[-1])))
        return ScanHead(volume=part, geometry=self.volume.geometry)


class WholeScans(Scans):
    def get_head(self, path, case_id="", *, slices):
        return ScanHead.of_whole(self.volume)


class Watched:
    """The click segmenter, and the results it has given."""

    def __init__(self):
        self.segmenter = ClickSegmenter(Brightness())
        self.reach_mm = self.segmenter.reach_mm
        self.results = []

    def segment(self, volume, **clicks):
        self.results.append(self.segmenter.segment(volume, **clicks))
        return self.results[-1]


def affine(flips=(1, 1, 1)):
    turn = np.deg2rad(15)
    rotation = np.array([[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]])
    full = np.eye(4)
    full[:3, :3] = rotation @ np.diag(np.multiply(SPACING_MM, flips))
    full[:3, 3] = (-10.3, 20.7, -300.1)
    return full


@pytest.fixture(scope="module")
def image_hu():
    rng = np.random.default_rng(8)
    places = np.moveaxis(np.indices(SHAPE_IJK), 0, -1)
    image = rng.normal(-850, 60, SHAPE_IJK)
    for centre, radius_mm in [*[(centre, 4.0) for centre in SMALL], (LARGE, 22.0)]:
        image[np.linalg.norm((places - centre) * SPACING_MM, axis=-1) < radius_mm] = 30
    return np.asfortranarray(image.astype(np.int16))


def ask(scans, **params):
    model = Watched()
    task = NoduleClickTask(scans, lambda: ("v1", model))
    reply = task.answer(
        InferRequest(scan_path="scan", case_id="case", params={"background": [], "result_extension": ".nrrd", **params})
    )
    return reply, model


def both(image_hu, flips=(1, 1, 1), **params):
    geometry = VolumeGeometry(shape_ijk=SHAPE_IJK, affine_ijk_to_ras_mm=affine(flips))
    volume = Volume(geometry=geometry, image_hu=image_hu)
    scans = Scans(volume)
    given, model = ask(scans, **params)
    expected, of_whole = ask(WholeScans(volume), **params)
    a, b = model.results[-1], of_whole.results[-1]
    assert a.box == b.box
    np.testing.assert_array_equal(a.mask, b.mask)
    np.testing.assert_array_equal(a.probability, b.probability)
    assert a.uncertainty == b.uncertainty
    assert given.payload == expected.payload
    del given.params["latencies"], expected.params["latencies"]
    assert json.dumps(given.params) == json.dumps(expected.params)
    assert a.mask.any()
    return scans


@pytest.mark.parametrize("flips", [(1, 1, 1), (1, 1, -1), (-1, -1, 1)], ids=["right-handed", "mirrored", "turned"])
@pytest.mark.parametrize("click", SMALL)
def test_anywhere_in_the_scan_the_answer_is_the_same(image_hu, click, flips):
    scans = both(image_hu, flips, foreground=[list(click)], index_frame="file")
    assert scans.wholes == 0
    assert scans.heads[0] == min(190, click[2] + 1 + 24 + 2)


def test_indices_of_a_mirrored_copy_are_turned_before_slices_are_counted(image_hu):
    scans = both(image_hu, (-1, 1, 1), foreground=[[29, 31, 20]])
    assert scans.wholes == 0
    assert len(scans.heads) == 1


def test_a_large_nodule_that_goes_on_is_answered_from_the_whole_scan(image_hu):
    scans = both(image_hu, foreground=[[30, 30, 42]])
    assert scans.heads[0] < 100
    assert scans.wholes == 1


def test_several_clicks_a_background_click_and_a_region(image_hu):
    both(image_hu, foreground=[[30, 31, 4], [30, 31, 95]], background=[[33, 31, 95]])
    scans = both(image_hu, foreground=[[30, 31, 20]], background=[[5, 5, 120]])
    assert scans.heads == [120 + 1 + 24 + 2]
    both(image_hu, foreground=[[30, 30, 42]], roi=[10, 50, 10, 50, 30, 55])


def test_a_wrong_click_is_told_what_is_valid_in_the_whole_scan(image_hu):
    geometry = VolumeGeometry(shape_ijk=SHAPE_IJK, affine_ijk_to_ras_mm=affine())
    scans = Scans(Volume(geometry=geometry, image_hu=image_hu))
    with pytest.raises(InputError, match="k 0–189"):
        ask(scans, foreground=[[30, 31, 190]])
    with pytest.raises(InputError, match="it holds i 0–20, j 0–60, k 10–189"):
        ask(scans, foreground=[[30, 31, 20]], roi=[0, 20, 0, 60, 10, 250])
