"""Pictures show the nodule where it is, turned as on a workstation whatever the file's axes."""

from pathlib import Path

import numpy as np
import pytest

from medai.domain import LabelMap, Nodule, NoduleKind, Prediction, Segment, Volume
from medai.errors import InputError
from medai.geometry import IndexBox, VolumeGeometry
from medai.workflows.pictures import draw_prediction, turned_slice

SHAPE_IJK = (30, 31, 32)


def geometry(signs: tuple[int, int, int] = (-1, -1, 1)) -> VolumeGeometry:
    affine = np.diag([signs[0] * 0.7, signs[1] * 0.7, signs[2] * 1.5, 1.0])
    return VolumeGeometry(shape_ijk=SHAPE_IJK, affine_ijk_to_ras_mm=affine)


def prediction(grid: VolumeGeometry, *, found: bool) -> tuple[Prediction, LabelMap]:
    box = IndexBox(start_ijk=(10, 11, 12), stop_ijk=(15, 16, 17))
    nodule = Nodule(
        box=box,
        mask=np.ones(box.shape_ijk, dtype=bool),
        centre_ras_mm=tuple(grid.ijk_to_ras((12, 13, 14))),
        diameter_mm=4.0,
        volume_mm3=90.0,
        kind=NoduleKind.SOLID,
        probability=0.9,
    )
    labels = np.zeros(SHAPE_IJK, dtype=np.uint8)
    segments = (Segment(value=1, name="Nodule 1", colour_rgb=(1.0, 0.0, 0.0)),) if found else ()
    return (
        Prediction(case_id="", geometry=grid, nodules=(nodule,) if found else ()),
        LabelMap(geometry=grid, labels=labels, segments=segments),
    )


@pytest.mark.parametrize("signs", [(-1, -1, 1), (1, 1, -1), (1, -1, 1), (-1, 1, -1)])
def test_axial_slices_have_the_front_up_and_the_right_side_left(signs: tuple[int, int, int]) -> None:
    grid = geometry(signs)
    image = np.zeros(SHAPE_IJK)
    ras = grid.ijk_to_ras(np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE_IJK), indexing="ij"), axis=-1))
    image[:] = ras[..., 0]
    rows, _ = turned_slice(image[:, :, 5:6], grid, 2)
    assert rows[0, 0] > rows[0, -1], "the patient's right (larger R) belongs to the left of the picture"
    rows, spacing = turned_slice(ras[:, :, 5:6, 1], grid, 2)
    assert rows[0, 0] > rows[-1, 0], "the front belongs to the top"
    assert spacing == pytest.approx((0.7, 0.7))
    rows, spacing = turned_slice(ras[:, 4:5, :, 2], grid, 1)
    assert rows[0, 0] > rows[-1, 0], "the head belongs to the top"
    assert spacing == pytest.approx((1.5, 0.7))


@pytest.mark.parametrize("found", [True, False])
def test_a_picture_is_written_whole(tmp_path: Path, found: bool) -> None:
    grid = geometry()
    volume = Volume(geometry=grid, image_hu=np.full(SHAPE_IJK, -800, dtype=np.int16))
    answer, label_map = prediction(grid, found=found)
    draw_prediction(volume, answer, label_map, tmp_path / "answer.png")
    assert (tmp_path / "answer.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["answer.png"]


def test_the_outline_is_drawn_in_the_segment_colour(tmp_path: Path) -> None:
    import matplotlib.image

    grid = geometry()
    volume = Volume(geometry=grid, image_hu=np.full(SHAPE_IJK, -800, dtype=np.int16))
    draw_prediction(volume, *prediction(grid, found=True), tmp_path / "answer.png")
    picture = matplotlib.image.imread(tmp_path / "answer.png")
    red = (picture[..., 0] > 0.8) & (picture[..., 1] < 0.2) & (picture[..., 2] < 0.2)
    # Below the line with the title: the outlines in the four planes.
    assert red[picture.shape[0] // 4 :].sum() > 100


def test_an_unknown_ending_is_refused(tmp_path: Path) -> None:
    grid = geometry()
    volume = Volume(geometry=grid, image_hu=np.zeros(SHAPE_IJK, dtype=np.int16))
    with pytest.raises(InputError, match=r"\.png"):
        draw_prediction(volume, *prediction(grid, found=True), tmp_path / "answer.bmp")
