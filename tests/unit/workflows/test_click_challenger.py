from dataclasses import replace

import numpy as np
import pytest

from medai.domain import Volume
from medai.domain.click_case import ClickCase
from medai.geometry import VolumeGeometry
from medai.training.click_trainer import ClickTrainingConfig
from medai.workflows.click_challenger import CHOOSERS, choosing_dataset, kept_epoch, training_config
from medai.workflows.retrain import RetrainConfig

GEOMETRY = VolumeGeometry(shape_ijk=(10, 11, 12), affine_ijk_to_ras_mm=np.diag([-0.7, 0.8, 2.0, 1.0]))


def nodules(patient_count, each=2):
    mask = np.zeros(GEOMETRY.shape_ijk, bool)
    mask[4:7, 4:7, 5:8] = True
    volume = Volume(geometry=GEOMETRY, image_hu=np.zeros(GEOMETRY.shape_ijk, np.int16))
    return [
        ClickCase(case_id=f"p{patient}#{n}", patient_id=f"p{patient}", volume=volume, mask=mask)
        for patient in range(patient_count)
        for n in range(each)
    ]


@pytest.mark.parametrize("patient_count", [1, 4])
def test_with_few_patients_all_of_them_train(patient_count):
    dataset = choosing_dataset(nodules(patient_count))
    assert len(dataset.training) == len(dataset.validation) == 2 * patient_count


@pytest.mark.parametrize(("patient_count", "apart"), [(5, 1), (9, 1), (20, 4)])
def test_with_more_patients_a_fifth_chooses_the_epoch(patient_count, apart):
    dataset = choosing_dataset(nodules(patient_count))
    choosing = {nodule.patient_id for nodule in dataset.validation}
    assert len(choosing) == apart
    assert not choosing & {nodule.patient_id for nodule in dataset.training}
    assert len(dataset.training) + len(dataset.validation) == 2 * patient_count


def test_doubtful_labels_do_not_choose_the_epoch():
    first = {nodule.patient_id for nodule in choosing_dataset(nodules(20)).validation}
    doubted = [replace(n, weight=0.4) if n.patient_id in first and n.case_id.endswith("#1") else n for n in nodules(20)]
    dataset = choosing_dataset(doubted)
    choosing = {nodule.patient_id for nodule in dataset.validation}
    assert len(choosing) == 4
    assert not choosing & first
    assert len(dataset.training) == 32
    # Where all are doubtful somebody has to.
    all_doubted = choosing_dataset([replace(n, weight=0.4) for n in nodules(20)])
    assert {nodule.patient_id for nodule in all_doubted.validation} == first


def test_who_chooses_does_not_depend_on_the_order_of_the_labels():
    forward, backward = nodules(12), nodules(12)[::-1]
    assert {n.case_id for n in choosing_dataset(forward).validation} == {
        n.case_id for n in choosing_dataset(backward).validation
    }


def test_an_epoch_is_a_pass_over_the_nodules():
    small = training_config(3, RetrainConfig(epochs=4, seed=7, device="cpu"), {})
    large = training_config(101, RetrainConfig(epochs=4), {})
    assert (small.iterations_per_epoch, small.epochs, small.seed, small.device) == (3, 4, 7, "cpu")
    assert large.iterations_per_epoch * large.batch_size >= 101
    assert small.warmup_iterations == 1
    assert large.warmup_iterations <= 4 * large.iterations_per_epoch // 8


def test_a_challenger_sees_patches_as_its_champion_does():
    champion = {"patch_shape": [24, 32, 40], "spacing_mm": 1.2, "finest_mm": 0.6, "coarsest_mm": 2.4, "fill": 0.5}
    sampling = training_config(9, RetrainConfig(epochs=4), champion).sampling
    assert sampling.patch_shape == (24, 32, 40)
    assert (sampling.spacing_mm, sampling.finest_mm, sampling.coarsest_mm, sampling.fill) == (1.2, 0.6, 2.4, 0.5)


def test_a_network_may_say_how_fast_it_is_retrained():
    plain = training_config(9, RetrainConfig(epochs=4), {})
    assert training_config(9, RetrainConfig(epochs=4), {"fine_tuning_rate": 2e-3}).learning_rate == 2e-3
    assert plain.learning_rate == ClickTrainingConfig().learning_rate


def test_an_epoch_is_chosen_where_there_are_patients_to_choose_by():
    assert kept_epoch(choosing_dataset(nodules(3))) == "last"
    assert kept_epoch(choosing_dataset(nodules(5 * CHOOSERS - 1))) == "last"
    assert kept_epoch(choosing_dataset(nodules(5 * CHOOSERS))) == "best"
