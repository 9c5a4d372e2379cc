import numpy as np
import pytest

from medai.postprocessing.detection_boxes import AnchorConfig, ScoredBoxes, decode_heads, suppressed

CONFIG = AnchorConfig(strides=((2, 2, 2), (4, 4, 2)), shapes=((6.0, 6.0, 4.0), (8.0, 4.0, 4.0)), scales=(1.0, 2.0))
SHAPE = (8, 12, 16)


def _silent():
    places = sum(int(np.prod(shape)) for shape in CONFIG.level_shapes(SHAPE))
    answer = np.zeros((14, places), np.float32)
    answer[:2] = -9
    return answer


def test_a_box_is_its_anchor_moved_and_stretched():
    answer = _silent()
    place = np.ravel_multi_index((1, 2, 3), CONFIG.level_shapes(SHAPE)[0])
    answer[1, place] = 2.0
    answer[2 + 6 : 2 + 12, place] = (0.25, 0, -0.5, np.log(2), 0, 0)
    found = decode_heads(answer, SHAPE, CONFIG, least_logit=0.0)
    # Anchor 8×4×4 at (3, 5, 7): two voxels along i, half its size back along k, twice as long along i.
    np.testing.assert_allclose(found.boxes, [[5 - 8, 5 - 2, 5 - 2, 5 + 8, 5 + 2, 5 + 2]], atol=1e-5)
    np.testing.assert_allclose(found.logits, [2.0])


def test_coarser_levels_have_larger_anchors_further_apart():
    answer = _silent()
    first = int(np.prod(CONFIG.level_shapes(SHAPE)[0]))
    answer[0, first + int(np.ravel_multi_index((1, 0, 2), CONFIG.level_shapes(SHAPE)[1]))] = 1.0
    (box,) = decode_heads(answer, SHAPE, CONFIG, least_logit=0.0).boxes
    np.testing.assert_allclose((box[:3] + box[3:]) / 2, (6, 2, 5))
    np.testing.assert_allclose(box[3:] - box[:3], (12, 12, 8))


def test_only_the_likeliest_of_a_level_are_decoded():
    answer = _silent()
    answer[0, :10] = np.arange(10) / 10 + 1
    found = decode_heads(answer, SHAPE, CONFIG, least_logit=0.0, most_a_level=3)
    np.testing.assert_allclose(found.logits, [1.9, 1.8, 1.7], atol=1e-6)


def test_of_overlapping_boxes_the_likeliest_stays():
    boxes = np.array([[0, 0, 0, 4, 4, 4], [1, 0, 0, 5, 4, 4], [10, 0, 0, 14, 4, 4], [3, 0, 0, 7, 4, 4]], np.float32)
    found = ScoredBoxes(boxes=boxes, logits=np.array([1, 3, 2, 0], np.float32))
    kept = suppressed(found, most_overlap=0.4)
    np.testing.assert_allclose(kept.logits, [3, 2, 0])
    assert len(suppressed(found, most_overlap=0.4, most=1).logits) == 1
    assert len(suppressed(ScoredBoxes.join([]), most_overlap=0.4).logits) == 0


def test_anchors_survive_json():
    assert AnchorConfig.of_json(CONFIG.to_json()) == CONFIG
    assert CONFIG.divisor == (4, 4, 2)
    with pytest.raises(KeyError):
        AnchorConfig.of_json({"strides": []})
