from dataclasses import replace

import numpy as np
import pytest

from medai.domain import NoduleKind, Volume
from medai.domain.detection_case import DetectionCase, TrueNodule
from medai.errors import CancelledByUserError, InputError, ModelError
from medai.geometry import VolumeGeometry
from medai.training.detection_patches import PatchConfig, draw_patch
from medai.training.detection_scans import PreparedScan, draw_weight, find_prepared, prepare_scan, prepared_scans
from medai.training.detection_trainer import (
    GPU_TRAINING,
    DetectionTrainingConfig,
    config_of_finder,
    train_detection_network,
)

SHAPE = (40, 44, 36)
TINY = DetectionTrainingConfig(
    network_options={"channels_in": 1, "anchors": 1, "widths": [4, 4, 4], "channels_out": 8},
    patches=PatchConfig(shape=(16, 16, 16), filter_share=0.0, zoom_share=0.0),
    steps=3,
    batch_size=2,
    bfloat16=False,
)


@pytest.fixture
def scan(tmp_path, rng):
    """Dark lung with a bright ball, and one that is neither right nor wrong to mark."""
    geometry = VolumeGeometry(shape_ijk=SHAPE, affine_ijk_to_ras_mm=np.diag([1.0, 1.0, 1.0, 1.0]))
    index = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"), axis=-1)
    image = np.full(SHAPE, -850, dtype=np.int16)
    image[np.linalg.norm(index - [20, 24, 16], axis=-1) <= 4] = 40
    image[np.linalg.norm(index - [32, 10, 26], axis=-1) <= 3] = 90
    np.save(tmp_path / "ball.npy", image)
    return PreparedScan(
        case_id="ball",
        patient_ids=(),
        geometry=geometry,
        image_path=tmp_path / "ball.npy",
        nodules=np.array([[16, 20, 12, 24, 28, 20]], np.float32),
        ignored=np.array([[28.5, 6.5, 22.5, 35.5, 13.5, 29.5]], np.float32),
        weights=np.ones(1, np.float32),
        lung_places=rng.integers(8, 28, (50, 3)).astype(np.uint16),
    )


def _brightest(image, level):
    return (np.argwhere(image > level).min(axis=0), np.argwhere(image > level).max(axis=0))


@pytest.mark.parametrize("zoomed", [0.0, 1.0], ids=["as it is", "zoomed"])
def test_a_box_follows_its_nodule_through_every_change(scan, rng, zoomed):
    config = PatchConfig(shape=(24, 24, 24), nodule_share=1.0, zoom_share=zoomed, filter_share=0.0)
    seen = 0
    for _ in range(40):
        patch = draw_patch(scan, rng, config)
        assert patch.image.shape == (24, 24, 24)
        assert patch.image.dtype == np.float32
        assert np.abs(patch.image).max() <= 1
        for start, stop in zip(patch.boxes[:, :3], patch.boxes[:, 3:], strict=True):
            if np.all(start > 1) and np.all(stop < 22) and not len(patch.ignored):
                low, high = _brightest(patch.image, 0.35)
                np.testing.assert_allclose(low, start, atol=2)
                np.testing.assert_allclose(high, stop, atol=2)
                seen += 1
    assert seen > 5


def test_what_is_cut_off_is_neither_right_nor_wrong(scan, rng):
    config = PatchConfig(shape=(16, 16, 16), nodule_share=0.0, zoom_share=0.0, filter_share=0.0)
    cut = 0
    for _ in range(60):
        patch = draw_patch(scan, rng, config, {"ball": np.array([[28.0, 32.0, 24.0]], np.float32)})
        middle = (patch.boxes[:, :3] + patch.boxes[:, 3:]) / 2
        assert np.all((middle >= 3) & (middle <= 12))
        cut += len(patch.ignored)
    assert cut > 0


def test_training_goes_on_where_it_stopped_and_gives_the_same_weights(scan, tmp_path):
    told = []
    whole = train_detection_network(
        [scan], TINY, output_folder=tmp_path / "whole", on_step=lambda step, a, b: told.append((step, a, b))
    )
    assert [step for step, _, _ in told] == [1, 2, 3]
    assert np.isfinite(told).all()
    assert any(box_loss > 0 for _, _, box_loss in told)
    train_detection_network([scan], TINY, output_folder=tmp_path / "parts", until_step=1)
    resumed = train_detection_network([scan], TINY, output_folder=tmp_path / "parts")
    for name, tensor in whole.tensors.items():
        np.testing.assert_allclose(resumed.tensors[name], tensor, atol=1e-3)
    with pytest.raises(ModelError, match="another configuration"):
        train_detection_network([scan], replace(TINY, steps=4), output_folder=tmp_path / "whole")


def test_fine_tuning_keeps_the_statistics(scan, tmp_path):
    start = train_detection_network([scan], TINY, output_folder=tmp_path / "start", until_step=1)
    again = config_of_finder(start.config)
    assert (again.profile, again.anchors, again.spacing_ras_mm) == ("cpu", TINY.anchors, (1.0, 1.0, 1.0))
    config = replace(TINY, steps=1, freeze_statistics=True)
    tuned = train_detection_network([scan], config, output_folder=tmp_path / "tuned", start_from=start)
    for name, tensor in start.tensors.items():
        if "running_mean" in name:
            np.testing.assert_allclose(tuned.tensors[name], tensor, atol=1e-6)


def test_stopping_keeps_the_state_and_scans_without_nodules_teach_nothing(scan, tmp_path):
    with pytest.raises(CancelledByUserError, match="stopped at step 0; its state is kept"):
        train_detection_network([scan], TINY, output_folder=tmp_path, should_stop=lambda: True)
    assert (tmp_path / "detection_training.pt").is_file()
    empty = replace(scan, nodules=np.empty((0, 6), np.float32), weights=np.empty(0, np.float32))
    with pytest.raises(InputError, match="None of the 1 scans holds a nodule"):
        train_detection_network([empty], TINY, output_folder=tmp_path / "none")


def test_a_case_is_prepared_once(tmp_path):
    geometry = VolumeGeometry(shape_ijk=(60, 66, 40), affine_ijk_to_ras_mm=np.diag([-2.0, -2.0, 2.5, 1.0]))
    image = np.full(geometry.shape_ijk, -850, dtype=np.int16)
    centre = geometry.ijk_to_ras((30, 33, 20))
    nodule = TrueNodule(centre_ras_mm=tuple(float(c) for c in centre), diameter_mm=4.0, kind=NoduleKind.NON_SOLID)
    case = DetectionCase(
        case_id="c", patient_ids=("p",), volume=Volume(geometry=geometry, image_hu=image), nodules=(nodule,)
    )
    made = prepare_scan(case, tmp_path, (1.0, 1.0, 1.0), name="00007")
    assert find_prepared(tmp_path, "00007").case_id == "c"
    assert find_prepared(tmp_path, "00008") is None
    (again,) = prepared_scans(tmp_path)
    (back,) = again.true_nodules()
    np.testing.assert_allclose(back.centre_ras_mm, nodule.centre_ras_mm, atol=0.01)
    assert back.diameter_mm == pytest.approx(4.0, abs=1e-3)
    assert again.weights[0] == draw_weight(nodule) == 3.0
    copy = made.copy()
    assert copy.inside.shape == copy.image_hu.shape == made.geometry.shape_ijk
    assert copy.inside[tuple(made.lung_places[0])]
    stamp = made.image_path.stat().st_mtime_ns
    prepare_scan(case, tmp_path, (1.0, 1.0, 1.0), name="00007")
    assert made.image_path.stat().st_mtime_ns == stamp


def test_the_gpu_profile_is_the_model_zoos():
    assert GPU_TRAINING.network_options["anchors"] == 3
    assert GPU_TRAINING.patches.shape == (192, 192, 80)
    assert GPU_TRAINING.anchors.divisor == (16, 16, 8)
