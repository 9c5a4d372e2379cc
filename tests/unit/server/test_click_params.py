"""Clients' clicks and regions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medai.errors import InputError
from medai.server.click_params import clicks_ijk, label_name, number, points_ijk, roi_box

INDEX = st.integers(-5, 600)


@given(st.lists(st.tuples(INDEX, INDEX, INDEX), max_size=5))
def test_points_come_through_as_they_are(points):
    assert points_ijk({"foreground": [list(p) for p in points]}, "foreground") == points
    assert points_ijk({"foreground": [[float(x) for x in p] for p in points]}, "foreground") == points


@given(st.lists(INDEX, min_size=6, max_size=6))
def test_region_holds_both_ends_in_whatever_order(values):
    box = roi_box({"roi": values})
    assert box is not None
    assert box.contains(values[0::2])
    assert box.contains(values[1::2])
    assert sum(box.shape_ijk) == sum(abs(a - b) + 1 for a, b in zip(values[0::2], values[1::2], strict=True))


@pytest.mark.parametrize("missing", [{}, {"roi": None}, {"roi": []}])
def test_no_region(missing):
    assert roi_box(missing) is None


@pytest.mark.parametrize("missing", [{}, {"background": None}, {"background": []}, {"background": ""}])
def test_no_points(missing):
    assert points_ijk(missing, "background") == []


@pytest.mark.parametrize("bad", [5, "[[1,2,3]]", [1, 2, 3], [[1, 2, 3, 4]], [["1", 2, 3]], [[1, 2, float("nan")]]])
def test_bad_points_are_refused(bad):
    with pytest.raises(InputError, match="foreground"):
        points_ijk({"foreground": bad}, "foreground")


def test_label_and_number():
    assert label_name({}) == "nodule"
    assert label_name({"label": "Nodule 2"}) == "Nodule 2"
    with pytest.raises(InputError, match="at most 200"):
        label_name({"label": "x" * 201})
    assert number({"sigma": "0.5"}, "sigma", 1.0, low=0, high=2) == 0.5
    assert number({"sigma": ""}, "sigma", 1.0, low=0, high=2) == 1.0
    for bad in ("x", "nan", 3, [1]):
        with pytest.raises(InputError, match="from 0 to 2"):
            number({"sigma": bad}, "sigma", 1.0, low=0, high=2)


A, B, C = [1, 2, 3], [4, 5, 6], [7, 8, 9]


@pytest.mark.parametrize(
    ("params", "foreground", "background"),
    [
        ({"foreground": [A, B], "background": [C]}, [A, B], [C]),
        # DeepEdit: each label's clicks under its name, and the segment's name beside them.
        ({"nodule": [A], "background": [C], "label": "nodule"}, [A], [C]),
        ({"Nodule 2": [A, B], "label": "Nodule 2", "background": []}, [A, B], []),
        ({"nodule": [A], "foreground": [A, B], "label": "nodule"}, [A, B], []),
        ({"nodule": [], "foreground": [B]}, [B], []),
        # A segment that is called as another parameter is.
        ({"foreground": [A], "label": "background", "background": [C]}, [A], [C]),
        ({"foreground": [A], "label": "roi", "roi": [0, 1, 0, 1, 0, 1]}, [A], []),
        ({"foreground": [A], "label": "device", "device": "cpu"}, [A], []),
        ({"foreground": [A, A], "background": [C, C]}, [A], [C]),
        ({"label": "nodule"}, [], []),
    ],
)
def test_clicks_are_understood_however_they_are_named(params, foreground, background):
    assert clicks_ijk(params, ["nodule"]) == ([tuple(p) for p in foreground], [tuple(p) for p in background])


@pytest.mark.parametrize("key", ["nodule", "my segment"])
def test_bad_clicks_are_refused_by_the_name_they_came_under(key):
    with pytest.raises(InputError, match=f"'{key}'"):
        clicks_ijk({key: [[1, 2]], "label": key}, ["nodule"])
