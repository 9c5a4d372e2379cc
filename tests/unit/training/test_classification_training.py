from dataclasses import replace

import numpy as np
import pytest
from tests.support.rated_balls import rated_balls

from medai.domain import NoduleKind
from medai.domain.assessment import ATTRIBUTES
from medai.errors import CancelledByUserError, InputError, ModelError
from medai.networks.engine import load_engine
from medai.training.classification_checkpoint import load_member, load_members, save_classifier, save_member
from medai.training.classification_fit import StageConfig, fit_stage, kind_of_texture
from medai.training.classification_samples import (
    STEPS,
    RatedSample,
    changed_outline,
    of_lidc,
    rated_sample,
    shares_and_means,
)
from medai.training.classification_trainer import (
    ClassificationTrainingConfig,
    augmented_views,
    fold_of_patient,
    rate_views,
    train_rater,
)

TINY = ClassificationTrainingConfig(
    epochs=1, batch_size=4, members=2, widths=(4, 4, 6, 6), bfloat16=False, device="cpu", seed=3
)
MALIGNANCY = ATTRIBUTES.index("malignancy")


def _samples(count, size=36):
    """Nodules whose first measurement is their rating, with blank views."""
    rng = np.random.default_rng(0)
    samples = []
    for number in range(count):
        rating = float(1 + number % 5)
        readers = [{"malignancy": rating, "texture": 5.0 if number % 2 else 1.0}]
        shares, ratings = shares_and_means(readers)
        samples.append(
            RatedSample(
                case_id=f"case_{number}",
                patient_id=f"patient_{number}",
                views=rng.integers(-127, 127, (2, 6, size, size, size)).astype(np.int8),
                features=np.array([[rating + rng.normal(0, 0.2), rng.normal()] for _ in range(2)]),
                shares=shares,
                ratings=ratings,
                voted=ratings,
                outlines=("reference", "own"),
                feature_names=("one", "two"),
            )
        )
    return samples


def _answers(samples):
    return {sample.case_id: np.zeros((len(sample.features), len(ATTRIBUTES), STEPS)) for sample in samples}


def test_readers_who_disagree_give_shares():
    shares, means = shares_and_means([{"malignancy": 2.0}, {"malignancy": 4.0}, {"malignancy": 5.0}])
    np.testing.assert_allclose(shares[MALIGNANCY], [1, 2 / 3, 2 / 3, 1 / 3], rtol=1e-6)
    assert means[MALIGNANCY] == pytest.approx(11 / 3)
    assert np.isnan(means[ATTRIBUTES.index("margin")])


def test_lidcs_scales_become_ours():
    rated = of_lidc({"malignancy": 4.0, "calcification": 6.0, "internal_structure": 1.0, "texture": 0.0})
    assert rated == {"malignancy": 4.0, "calcification": 1.0}
    assert of_lidc({"calcification": 3.0}) == {"calcification": 5.0}


def test_a_changed_outline_stays_near():
    nodule = rated_balls(5)[4]
    rng = np.random.default_rng(1)
    changed = changed_outline(nodule.case.mask, nodule.case.volume.geometry.spacing_mm, rng)
    assert changed.any()
    assert not np.array_equal(changed, nodule.case.mask)
    both = np.count_nonzero(changed & nodule.case.mask)
    assert 2 * both / (changed.sum() + nodule.case.mask.sum()) > 0.7


def test_a_sample_holds_a_variant_an_outline():
    nodule = rated_balls(5)[4]
    own = nodule.case.mask.copy()
    own[20] = False
    sample = rated_sample(nodule, own, np.random.default_rng(0))
    assert sample.outlines == ("reference", "own", "changed")
    assert sample.views.shape == (3, 6, 40, 40, 40)
    assert sample.features.shape == (3, len(sample.feature_names))
    assert sample.features[1, 0] < sample.features[0, 0]
    assert (sample.variant("own"), sample.variant("nothing")) == (1, 0)
    without = rated_sample(nodule, np.zeros_like(own), np.random.default_rng(0))
    assert "own" not in without.outlines


def test_a_nodule_without_a_rating_is_refused():
    nodule = replace(rated_balls(1)[0], readers=({},))
    with pytest.raises(InputError, match="ball_0 has no rating"):
        rated_sample(nodule, None, np.random.default_rng(0))


def test_augmented_views_are_views_and_the_same_for_a_seed():
    samples = _samples(3)
    views = augmented_views(samples, np.random.default_rng(5))
    assert tuple(views.shape) == (3, 6, 32, 32, 32)
    assert float(views.abs().max()) <= 1.0
    np.testing.assert_array_equal(views, augmented_views(samples, np.random.default_rng(5)))


def test_a_member_learns_goes_on_and_travels(tmp_path):
    samples = _samples(8)
    told = []
    member = train_rater(samples, TINY, seed=1, on_epoch=lambda epoch, loss: told.append((epoch, loss)))
    assert [epoch for epoch, _ in told] == [1]
    assert np.isfinite(told[0][1])
    save_member(tmp_path / "member.safetensors", member, TINY.network_options)
    views = np.random.default_rng(0).uniform(-1, 1, (2, 6, 32, 32, 32)).astype(np.float32)
    again = load_member(tmp_path / "member.safetensors")
    np.testing.assert_allclose(rate_views(again, views), rate_views(member, views), atol=1e-5)


def test_a_training_can_be_stopped():
    with pytest.raises(CancelledByUserError, match="epoch 1"):
        train_rater(_samples(4), TINY, seed=1, should_stop=lambda: True)
    with pytest.raises(InputError, match="too few"):
        train_rater(_samples(1), TINY, seed=1)


def test_the_whole_classifier_travels_and_openvino_gives_the_same_logits(tmp_path):
    samples = _samples(20)
    members = [train_rater(samples[:8], TINY, seed=n) for n in (1, 2)]
    stage, _ = fit_stage(samples, _answers(samples), StageConfig(feature_penalty=1.0))
    path = tmp_path / "weights.safetensors"
    save_classifier(path, members, TINY.network_options, stage)
    engine = load_engine(path, device="cpu", threads=1)
    assert engine.description.startswith("OpenVINO")
    views = np.random.default_rng(1).uniform(-1, 1, (3, 6, 32, 32, 32)).astype(np.float32)
    import torch

    found, options, found_stage = load_members(path)
    with torch.inference_mode():
        expected = torch.stack([member(torch.from_numpy(views)) for member in found], dim=1).numpy()
    assert np.abs(engine.run(views) - expected).max() < 1e-3
    assert options["members"] == 2
    assert found_stage == stage


def test_the_stage_finds_the_measurement_that_tells():
    samples = _samples(60)
    stage, left_out = fit_stage(samples, _answers(samples), StageConfig(feature_penalty=1.0))
    truth = np.array([sample.ratings[MALIGNANCY] for sample in samples])
    assert np.corrcoef(left_out.reference[:, MALIGNANCY], truth)[0, 1] > 0.95
    assert left_out.own.shape == left_out.reference.shape
    assert stage.probability(4.5) > 0.9
    assert stage.probability(1.5) < 0.1
    assert 2.0 < stage.malignancy_middle < 4.0
    assert min(stage.spread) > 0
    assert stage.non_solid_below <= stage.solid_from


def test_going_on_from_a_stage_changes_it_little_where_little_is_known():
    samples = _samples(60)
    before, _ = fit_stage(samples, _answers(samples), StageConfig(feature_penalty=1.0))
    few = [replace(sample, ratings=np.clip(sample.ratings + 1, 1, 5)) for sample in samples[:6]]
    after, _ = fit_stage(few, _answers(few), StageConfig(), start_from=before)
    assert after.malignancy_slope == before.malignancy_slope
    features, network = np.array([[3.0, 0.0]]), np.full((1, len(ATTRIBUTES)), 3.0)
    moved = after.ratings(features, network)[0, MALIGNANCY] - before.ratings(features, network)[0, MALIGNANCY]
    assert 0.3 < moved <= 1.1
    other = replace(before, features=("one", "other"))
    with pytest.raises(ModelError, match="other measurements"):
        fit_stage(few, _answers(few), StageConfig(), start_from=other)


def test_what_a_stage_cannot_be_fitted_on_is_refused():
    samples = [replace(sample, voted=np.full(len(ATTRIBUTES), 5.0)) for sample in _samples(10)]
    with pytest.raises(InputError, match="10 are called malignant"):
        fit_stage(samples, _answers(samples), StageConfig())
    with pytest.raises(InputError, match="10 nodules have no answers"):
        fit_stage(samples, {}, StageConfig())
    alone = [replace(sample, patient_id="one") for sample in samples]
    with pytest.raises(InputError, match="of one patient"):
        fit_stage(alone, _answers(alone), StageConfig())


def test_texture_ratings_are_kinds():
    kinds = [kind_of_texture(rating) for rating in (1.0, 2.0, 3.0, 4.0, 5.0, float("nan"))]
    assert kinds == [*[NoduleKind.NON_SOLID] * 2, NoduleKind.PART_SOLID, *[NoduleKind.SOLID] * 2, None]


def test_folds_hold_every_patient_for_good():
    folds = [fold_of_patient(f"LIDC-IDRI-{n:04}", 5) for n in range(500)]
    assert set(folds) == set(range(5))
    assert folds == [fold_of_patient(f"LIDC-IDRI-{n:04}", 5) for n in range(500)]
