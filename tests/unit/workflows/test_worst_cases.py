import numpy as np
import pytest
from PIL import Image

from medai.domain import Volume
from medai.errors import GeometryError, InputError
from medai.geometry import VolumeGeometry
from medai.registry.cards import LARGEST_PICTURE_BYTES
from medai.workflows.worst_cases import ANSWER_RGB, TRUTH_RGB, WorstCase, draw_worst_cases

OBLIQUE = np.array(
    [[-0.7, 0, 0, 5.0], [0, 0.8 * 0.96, -2.0 * 0.28, -7.0], [0, 0.8 * 0.28, 2.0 * 0.96, 9], [0, 0, 0, 1]]
)
FLIPPED = np.diag([0.7, -0.8, -2.0, 1.0])
SHAPE = (40, 41, 12)


def case(number=1, affine=OBLIQUE, **values):
    rng = np.random.default_rng(number)
    image_hu = rng.normal(-700, 250, SHAPE).astype(np.int16)
    truth = np.zeros(SHAPE, bool)
    truth[15:25, 16:25, 4:8] = True
    answer = np.roll(truth, 3, axis=0)
    volume = Volume(geometry=VolumeGeometry(shape_ijk=SHAPE, affine_ijk_to_ras_mm=affine), image_hu=image_hu)
    return WorstCase(
        **{
            "case_id": f"case{number}",
            "words": "Dice 0.10",
            "volume": volume,
            "truth": truth,
            "answer": answer,
            **values,
        }
    )


def colours(path):
    return {tuple(colour) for colour in np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3).tolist()}


@pytest.mark.parametrize("affine", [OBLIQUE, FLIPPED])
def test_each_case_is_drawn_small_with_both_outlines(tmp_path, affine):
    drawn = draw_worst_cases([case(1, affine), case(2, affine), case(3, affine)], tmp_path)
    assert [shown["case_id"] for shown in drawn["cases"]] == ["case1", "case2", "case3"]
    for shown in drawn["cases"]:
        path = tmp_path / shown["picture"]
        assert path.stat().st_size <= LARGEST_PICTURE_BYTES
        assert {TRUTH_RGB, ANSWER_RGB} <= colours(path)
    montage = np.asarray(Image.open(tmp_path / drawn["montage"]).convert("RGB"))
    single = np.asarray(Image.open(tmp_path / drawn["cases"][0]["picture"]).convert("RGB"))
    np.testing.assert_array_equal(montage[: single.shape[0], : single.shape[1]], single)


def test_a_place_without_an_answer_is_drawn_too(tmp_path):
    nothing = np.zeros(SHAPE, bool)
    drawn = draw_worst_cases([case(answer=None), case(truth=nothing, answer=None, centre_ijk=(0, 40, 11))], tmp_path)
    assert ANSWER_RGB not in colours(tmp_path / drawn["cases"][0]["picture"])
    assert TRUTH_RGB not in colours(tmp_path / drawn["cases"][1]["picture"])


def test_former_pictures_are_removed(tmp_path):
    draw_worst_cases([case(1), case(2)], tmp_path)
    draw_worst_cases([case(1)], tmp_path)
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["worst.png", "worst_01.png"]


def test_what_cannot_be_drawn_is_refused(tmp_path):
    with pytest.raises(InputError, match="1 to 10 of the worst cases, not 0"):
        draw_worst_cases([], tmp_path)
    with pytest.raises(GeometryError, match=r"a mask of shape \(3, 3, 3\)"):
        case(truth=np.ones((3, 3, 3), bool))
    with pytest.raises(InputError, match="no place to draw"):
        case(truth=np.zeros(SHAPE, bool))
