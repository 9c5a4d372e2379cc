import numpy as np
import pytest

from medai.domain import Volume
from medai.errors import CancelledByUserError, InputError
from medai.geometry import VolumeGeometry
from medai.preprocessing.blobs import Blob
from medai.training.candidate_samples import (
    CandidateSamples,
    KnownNodule,
    cut_like_crop,
    relation_to,
    samples_of_scan,
)
from medai.training.candidate_trainer import (
    CandidateTrainingConfig,
    augmented,
    fit_calibration,
    train_candidate_network,
)

NODULE = KnownNodule(centre_ras_mm=(-20.0, -16.0, 20.0), diameter_mm=8.0)


def _blob(centre, diameter=6.0):
    return Blob(centre_ras_mm=centre, diameter_mm=diameter, strength=200.0)


def _volume():
    geometry = VolumeGeometry(shape_ijk=(90, 80, 50), affine_ijk_to_ras_mm=np.diag([-0.7, -0.7, 1.1, 1.0]))
    return Volume(geometry=geometry, image_hu=np.full((90, 80, 50), -850, dtype=np.int16))


def _toy(rng, count=40):
    bright, dark = rng.normal(0.4, 0.2, (count, 2, 24, 24, 24)), rng.normal(-0.4, 0.2, (count, 2, 24, 24, 24))
    return CandidateSamples.join(
        [
            CandidateSamples.of(list(bright), label=True, family="phantom"),
            CandidateSamples.of(list(dark), label=False, family="phantom"),
        ]
    )


def test_what_a_blob_is_follows_from_its_distance():
    assert relation_to(_blob((-20.0, -16.0, 23.5)), [NODULE]) == "nodule"
    assert relation_to(_blob((-20.0, -16.0, 26.0)), [NODULE]) == "near"
    assert relation_to(_blob((-20.0, -16.0, 30.0)), [NODULE]) == "other"
    assert relation_to(_blob((0.0, 0.0, 0.0)), []) == "other"


def test_samples_of_a_scan(rng):
    blobs = [
        _blob((-20.0, -16.0, 21.0)),
        _blob((-20.0, -16.0, 26.0)),
        *(_blob((-50.0, -40.0, 5.0 * n)) for n in range(5)),
    ]
    samples = samples_of_scan(
        _volume(), blobs, [NODULE], rng, family="real", variants=3, most_negatives=4, crop_share=1.0
    )
    assert samples.labels.tolist() == [True] * 4 + [False] * 8
    assert set(samples.families) == {"real"}
    assert samples.views.dtype == np.float16


def test_a_cut_place_is_like_a_crop(rng):
    volume = _volume()
    cut = cut_like_crop(volume, _blob((-30.0, -28.0, 25.0), diameter=10.0), rng)
    extent_mm = np.asarray(cut.geometry.shape_ijk) * cut.geometry.spacing_mm
    assert extent_mm[:2] == pytest.approx([40, 40], abs=1.5)
    assert 8 <= extent_mm[2] <= 21
    np.testing.assert_allclose(
        cut.geometry.ijk_to_ras((np.asarray(cut.geometry.shape_ijk) - 1) / 2), (-30, -28, 25), atol=1.2
    )


def test_a_few_steps_learn_an_easy_difference(rng):
    import torch

    losses = []
    config = CandidateTrainingConfig(steps=12, batch_size=8)
    network = train_candidate_network(_toy(rng), config, on_step=lambda step, loss: losses.append(loss))
    assert len(losses) == 12
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    assert not network.training
    with torch.inference_mode():
        answer = network(torch.from_numpy(_toy(rng, 3).views.astype(np.float32)))[:, 0].numpy()
    assert answer[:3].min() > answer[3:].max()


def test_training_stops_on_request_and_refuses_one_sided_samples(rng):
    with pytest.raises(CancelledByUserError, match="stopped at step 0"):
        train_candidate_network(_toy(rng), CandidateTrainingConfig(steps=5), should_stop=lambda: True)
    only = CandidateSamples.of([np.zeros((2, 24, 24, 24), np.float32)], label=True, family="real")
    with pytest.raises(InputError, match="family 'real' hold no other places"):
        train_candidate_network(only, CandidateTrainingConfig(steps=5))


def test_augmentation_keeps_shape_and_range(rng):
    views = rng.uniform(-1, 1, (2, 24, 24, 24)).astype(np.float32)
    for _ in range(5):
        changed = augmented(views, rng)
        assert changed.shape == views.shape
        assert changed.dtype == np.float32
        assert np.abs(changed).max() <= 1


def test_calibration_recovers_the_natural_share(rng):
    logits = rng.normal(0, 3, 20000)
    labels = rng.random(20000) < 1 / (1 + np.exp(-(0.7 * logits - 4.0)))
    scale, shift = fit_calibration(logits, labels)
    assert scale == pytest.approx(0.7, abs=0.08)
    assert shift == pytest.approx(-4.0, abs=0.3)
