import pytest

from medai.evaluation.contrasts import contrasts, describe_contrasts


def rows(sizes, textures):
    return [{"diameter": size, "texture": texture} for size, texture in zip(sizes, textures, strict=True)]


WORST = rows([4.0, 4.5, 5.0, 5.5, 6.0], ["non-solid"] * 4 + ["solid"])
OTHERS = rows([8.0 + 0.1 * n for n in range(40)], ["non-solid"] * 2 + ["solid"] * 38)


def test_what_sets_the_worst_apart_is_said_with_both_sides():
    told = describe_contrasts(WORST, OTHERS, units={"diameter": "mm"})
    assert "Diameter: median 5 mm, 9.95 mm of the others (p < 0.001)." in told
    assert "Texture: 4 of 5 are non-solid, 2 of 40 (5 %) of the others (p < 0.001)." in told
    assert told[-1].startswith("Compared: diameter, texture") or told[-1].startswith("Compared: texture, diameter")


def test_the_clearest_difference_comes_first():
    p_values = [contrast.p_value for contrast in contrasts(WORST, OTHERS, units={})]
    assert p_values == sorted(p_values)
    assert 0 < p_values[0] < 0.001


def test_where_nothing_differs_that_is_said():
    alike = rows([8.0, 9.0, 10.0, 11.0], ["solid"] * 4)
    told = describe_contrasts(alike, OTHERS)
    assert told[0] == "No feature that is known of them sets them apart."
    assert "not corrected" in told[1]


@pytest.mark.parametrize("worst", [[], WORST[:2], [{"diameter": None, "texture": None}] * 10])
def test_too_few_cases_are_not_compared(worst):
    assert describe_contrasts(worst, OTHERS) == ("There are too few cases to compare.",)


def test_unknown_values_and_mixed_features_are_left_out():
    worst = [*WORST, {"diameter": None, "odd": "x"}, {"odd": 1.0}, {"odd": 2.0}]
    others = [*OTHERS, {"odd": "y"}, {"odd": 1.0}, {"odd": 2.0}]
    assert {contrast.feature for contrast in contrasts(worst, others, units={})} == {"diameter", "texture"}
