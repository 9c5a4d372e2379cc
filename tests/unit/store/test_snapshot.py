import numpy as np

from medai.store.snapshot import SnapshotBuilder

EXTENSIONS = (".nii.gz", ".nrrd")


def plain(cases):
    return {
        case_id: (
            case.extension,
            dict(case.info),
            {tag: (label.extension, dict(label.info), label.rivals) for tag, label in case.labels.items()},
        )
        for case_id, case in cases.items()
    }


def changed(rng, raw, images, labels):
    """One thing more or less in the index or in a folder."""
    case_id = f"case{rng.integers(12)}"
    extension = EXTENSIONS[rng.integers(2)]
    objects = dict(raw["objects"])
    kind = rng.integers(5)
    if kind == 0:
        images = images ^ {case_id + extension}
    elif kind == 1:
        labels = {**labels, "final": labels["final"] ^ {case_id + extension}}
    elif kind == 2:
        labels = {**labels, "original": labels["original"] ^ {case_id + ".json"}}
    elif kind == 3:
        objects.pop(case_id, None)
    else:
        info = {"ts": int(rng.integers(100)), "note": str(rng.integers(100))}
        tags = {"final": {"ext": extension, "info": info}, "original": {"ext": ".odd", "info": info}}
        tag = list(tags)[rng.integers(2)]
        entry = objects.get(case_id, {"image": {"ext": extension, "info": {"ts": 1}}, "labels": {}})
        objects[case_id] = {**entry, "labels": {**entry["labels"], tag: tags[tag]}}
    return {**raw, "objects": objects}, images, labels


def test_after_each_change_it_is_what_would_be_built_from_the_beginning(rng: np.random.Generator, monkeypatch):
    monkeypatch.setattr("medai.store.snapshot.time.time", lambda: 1000.0)
    raw, images = {"objects": {}}, frozenset()
    labels = {"final": frozenset(), "original": frozenset()}
    builder, kept = SnapshotBuilder(EXTENSIONS), 0
    before = {}
    for _ in range(600):
        raw, images, labels = changed(rng, raw, images, labels)
        cases = builder.build(raw, image_names=images, label_names=labels)
        anew = SnapshotBuilder(EXTENSIONS).build(raw, image_names=images, label_names=labels)
        assert list(cases) == list(anew)
        assert plain(cases) == plain(anew)
        kept += sum(before.get(case_id) is case for case_id, case in cases.items())
        before = cases
    assert kept > 1000
