import numpy as np
import pytest

from medai.domain import Candidate, Volume
from medai.domain.detection_case import TrueNodule
from medai.errors import CancelledByUserError, InputError
from medai.geometry import VolumeGeometry
from medai.training.candidate_samples import CandidateSamples, relation_to, samples_of_scan
from medai.training.candidate_trainer import (
    CandidateTrainingConfig,
    augmented,
    fit_calibration,
    judge_checkpoint,
    train_candidate_network,
)

NODULE = TrueNodule(centre_ras_mm=(-20.0, -16.0, 20.0), diameter_mm=8.0)
SMALL = CandidateTrainingConfig(steps=12, batch_size=6, bfloat16=False)


def _place(centre, probability=0.5):
    return Candidate(centre_ras_mm=centre, diameter_mm=6.0, probability=probability)


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


def test_what_a_place_is_follows_from_its_distance():
    assert relation_to(_place((-20.0, -16.0, 23.5)), [NODULE]) == "nodule"
    assert relation_to(_place((-20.0, -16.0, 26.0)), [NODULE]) == "near"
    assert relation_to(_place((-20.0, -16.0, 30.0)), [NODULE]) == "other"
    assert relation_to(_place((0.0, 0.0, 0.0)), []) == "other"


def test_samples_of_a_scan(rng):
    places = [
        _place((-20.0, -16.0, 21.0)),
        _place((-20.0, -16.0, 26.0)),
        *(_place((-50.0, -40.0, 5.0 * n)) for n in range(5)),
        _place((-10.0, -10.0, 40.0)),
    ]
    scar = TrueNodule(centre_ras_mm=(-10.0, -10.0, 42.0), diameter_mm=6.0)
    samples = samples_of_scan(
        _volume(), places, [NODULE], rng, irrelevant=[scar], family="real", variants=3, most_negatives=4
    )
    assert samples.labels.tolist() == [True] * 4 + [False] * 4
    assert set(samples.families) == {"real"}
    assert samples.views.dtype == np.float16


def test_a_few_steps_learn_an_easy_difference(rng):
    import torch

    losses = []
    network = train_candidate_network(_toy(rng), SMALL, on_step=lambda step, loss: losses.append(loss))
    assert len(losses) == 12
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    assert not network.training
    with torch.inference_mode():
        answer = network(torch.from_numpy(_toy(rng, 3).views.astype(np.float32)))[:, 0].numpy()
    assert answer[:3].min() > answer[3:].max()


def test_fine_tuning_starts_from_weights_and_keeps_their_statistics(rng):
    start = judge_checkpoint(train_candidate_network(_toy(rng, 8), CandidateTrainingConfig(steps=1, batch_size=4)))
    config = CandidateTrainingConfig(steps=1, batch_size=4, freeze_statistics=True)
    tuned = judge_checkpoint(train_candidate_network(_toy(rng, 8), config, start_from=start))
    for name, tensor in start.tensors.items():
        if "running" in name:
            np.testing.assert_array_equal(tensor, tuned.tensors[name])
    assert any(not np.array_equal(start.tensors[name], tuned.tensors[name]) for name in start.tensors)


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
    logits = rng.normal(0, 3, (20000, 2))
    z = logits @ np.array([0.7, 0.2]) - 4.0
    factors, shift = fit_calibration(logits, rng.random(20000) < 1 / (1 + np.exp(-z)))
    assert factors == pytest.approx([0.7, 0.2], abs=0.08)
    assert shift == pytest.approx(-4.0, abs=0.3)


def test_a_network_that_knows_nothing_counts_for_nothing(rng):
    logits = rng.normal(0, 2, (20000, 2))
    labels = rng.random(20000) < 1 / (1 + np.exp(-(logits[:, 0] - 0.5 * logits[:, 1] - 2)))
    factors, _ = fit_calibration(logits, labels)
    assert factors[1] == 0
