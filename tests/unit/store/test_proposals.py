"""What a client was shown is put together again as its scene holds it, and is bounded."""

import json

import numpy as np
import pytest

from medai.domain import LabelMap, Segment
from medai.errors import GeometryError
from medai.geometry import VolumeGeometry
from medai.store import proposals
from medai.store.proposals import ProposalPart, ProposalStore, read_proposal
from medai.volume_io.writers import encode_label_map_nrrd

SHAPE = (10, 11, 12)


def part(boxes, *, model="scan", version="v1", segment=None, spacing=2.0):
    """An answer of named boxes along i."""
    labels = np.zeros(SHAPE, dtype=np.uint8)
    for value, (start, stop) in enumerate(boxes.values(), start=1):
        labels[start:stop, 2:4, 3:6] = value
    names = {name: value for value, name in enumerate(boxes, start=1)}
    geometry = VolumeGeometry(shape_ijk=SHAPE, affine_ijk_to_ras_mm=np.diag([0.5, 0.7, spacing, 1.0]))
    segments = tuple(Segment(value=value, name=name) for name, value in names.items())
    payload = encode_label_map_nrrd(LabelMap(geometry=geometry, labels=labels, segments=segments))
    return ProposalPart(
        model=model, version=version, payload=payload, extension=".nrrd", label_names=names, segment=segment
    )


@pytest.fixture
def store(tmp_path):
    return ProposalStore(tmp_path)


def along_i(store, client="ann"):
    label_map = read_proposal(store.find("case", client).folder)
    by_value = {value: name for name, value in label_map.label_names.items()}
    return [by_value.get(int(value), "") for value in label_map.labels[:, 2, 3]]


def test_nothing_is_known_of_a_client_that_was_shown_nothing(store):
    store.remember("case", "ann", part({"a": (0, 2)}))
    assert store.find("case", "bob") is None
    assert store.find("other", "ann") is None


def test_a_click_replaces_the_segment_of_its_name_and_joins_the_others(store):
    store.remember("case", "ann", part({"a": (0, 2), "b": (4, 6)}))
    store.remember("case", "ann", part({"b": (5, 8)}, model="click", version="v2", segment="b"))
    store.remember("case", "ann", part({"c": (9, 10)}, model="click", version="v2", segment="c"))
    assert along_i(store) == ["a", "a", "", "", "", "b", "b", "b", "", "c"]
    found = store.find("case", "ann")
    assert (found.model, found.version) == ("scan+click", "v1+v2")


def test_a_second_click_on_a_segment_counts_alone(store):
    store.remember("case", "ann", part({"a": (0, 5)}, segment="a"))
    store.remember("case", "ann", part({"a": (1, 2)}, segment="a"))
    assert along_i(store) == ["", "a", *[""] * 8]
    assert len(list(store.find("case", "ann").folder.iterdir())) == 2


def test_a_new_whole_scan_answer_begins_anew(store):
    store.remember("case", "ann", part({"a": (0, 5)}, segment="a"))
    store.remember("case", "ann", part({"b": (1, 2)}))
    assert along_i(store) == ["", "b", *[""] * 8]


def test_parts_on_different_grids_are_not_put_together(store):
    store.remember("case", "ann", part({"a": (0, 2)}))
    store.remember("case", "ann", part({"b": (5, 8)}, segment="b", spacing=3.0))
    with pytest.raises(GeometryError, match="different grids"):
        read_proposal(store.find("case", "ann").folder)


@pytest.mark.parametrize("content", ["no json", "[]", json.dumps({"parts": [{}], "since_s": 1.0})])
def test_a_damaged_record_is_no_proposal(store, content):
    store.remember("case", "ann", part({"a": (0, 2)}))
    (store.find("case", "ann").folder / "proposal.json").write_text(content)
    assert store.find("case", "ann") is None


def test_the_number_remembered_is_bounded(store, monkeypatch):
    monkeypatch.setattr(proposals, "MOST_CASES", 3)
    monkeypatch.setattr(proposals, "MOST_CLIENTS", 2)
    for number in range(5):
        store.remember(f"case{number}", "ann", part({"a": (0, 2)}))
        store.remember("case4", f"client{number}", part({"a": (0, 2)}))
    assert len(list(store.folder.iterdir())) == 3
    assert len(list((store.folder / "case4").iterdir())) == 2
    assert store.find("case4", "client4") is not None


def test_a_case_that_is_gone_is_forgotten(store):
    store.remember("case", "ann", part({"a": (0, 2)}))
    store.forget("case")
    assert store.find("case", "ann") is None
