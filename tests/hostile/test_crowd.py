"""Forty annotators at once, with MONAI Label's own client, for two minutes.

Nobody is given a case that another one has, no acknowledged label is lost, nothing fails, and what the plugin asks all
the time (``/info/``) is answered soon. ``MEDAI_HOSTILE_CROWD_S`` changes how long.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from tests.integration.server.conftest import SHAPE_IJK, SPACING_MM, affines
from tests.support.server_process import ServerProcess

from medai.domain import Volume
from medai.geometry import VolumeGeometry
from medai.store.annotations import AnnotationLog
from medai.store.study import StudyStore
from medai.volume_io.readers import read_label_map
from medai.volume_io.writers import write_volume

pytestmark = [pytest.mark.slow, pytest.mark.server, pytest.mark.timeout(1800)]

CLIENTS, PROCESSES = 40, 4
SECONDS = float(os.environ.get("MEDAI_HOSTILE_CROWD_S", "120"))
CASES = 2000
LOOKING_S = (1.0, 4.0)
"""A person looks at a nodule between two requests; real ones take longer."""


def make_crowds_study(folder: Path) -> Path:
    """Small scans of a ball each, enough that nobody runs out of them."""
    folder.mkdir()
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE_IJK], indexing="ij"), axis=-1)
    ball = np.linalg.norm((grid - np.array([8, 9, 10])) * SPACING_MM, axis=-1) < 3.5
    noise = np.random.default_rng(5).normal(0, 20, SHAPE_IJK)
    image_hu = (np.where(ball, 40, -800) + noise).astype(np.int16)
    geometry = VolumeGeometry(shape_ijk=SHAPE_IJK, affine_ijk_to_ras_mm=affines()["case_oblique"])
    write_volume(Volume(geometry=geometry, image_hu=image_hu), folder / "case0000.nii.gz")
    content = (folder / "case0000.nii.gz").read_bytes()
    for number in range(1, CASES):
        (folder / f"case{number:04d}.nii.gz").write_bytes(content)
    return folder


def work(url: str, names: list[str], folder: str, seconds: float, told: Any) -> None:
    """One process of annotators, a thread each."""
    import threading

    threads = [threading.Thread(target=_annotate, args=(url, name, Path(folder), seconds, told)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _annotate(url: str, name: str, folder: Path, seconds: float, told: Any) -> None:
    """Ask for a case, click, look, submit, again and again."""
    from monailabel.client import MONAILabelClient

    rng = np.random.default_rng(sum(name.encode()))
    client = MONAILabelClient(url, tmpdir=str(folder), client_id=name)
    path = folder / f"{name}.nii.gz"
    end_s = time.monotonic() + seconds
    number = 0
    try:
        while time.monotonic() < end_s:
            sample = client.next_sample("first", {})
            given_s = time.monotonic()
            asked_s = time.monotonic()
            _, answer = client.infer("nodule_click", sample["id"], {"foreground": [[8, 9, 10]], "background": []})
            told.put(("click", time.monotonic() - asked_s))
            assert answer["label_names"] == {"nodule": 1}
            time.sleep(float(rng.uniform(*LOOKING_S)))
            number += 1
            labels = np.zeros(SHAPE_IJK, dtype=np.uint8)
            labels[6:11, 7:12, 8:13] = 1
            labels[6, 7, 8 : 8 + number % 5] = 0
            nib.save(nib.Nifti1Image(labels, affines()["case_oblique"]), path)
            reply = client.save_label(sample["id"], str(path), "final", {"label_info": [{"name": "nodule", "idx": 1}]})
            told.put(("label", (sample["id"], reply["params"]["annotation_id"], int(labels.sum()), name)))
            told.put(("held", (sample["id"], name, given_s, time.monotonic())))
    except Exception as error:  # noqa: BLE001 - whatever ends an annotator is what the test is about
        told.put(("error", f"{name}: {error!r}"))


def _probe(url: str, seconds: float, told: Any) -> None:
    """Ask for ``/info/`` as the plugins of a crowd do."""
    import urllib.request

    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        asked_s = time.monotonic()
        with urllib.request.urlopen(f"{url}/info/", timeout=60) as reply:
            json.load(reply)
        told.put(("info", time.monotonic() - asked_s))
        time.sleep(0.1)


def test_a_crowd_gets_each_its_own_cases_and_loses_nothing(tmp_path: Path, report: Callable[[str], None]):
    study = make_crowds_study(tmp_path / "study")
    # Forked: a spawned child would look for "tests" and find the package of the monailabel wheel.
    context = multiprocessing.get_context("fork")
    told = context.Queue()
    environment = {"XDG_STATE_HOME": str(tmp_path / "state")}
    with ServerProcess(study, conf={"tracking": "off"}, environment=environment) as server:
        names = [f"reader{n:02d}" for n in range(CLIENTS)]
        arguments = [(server.url, names[n::PROCESSES], str(tmp_path), SECONDS, told) for n in range(PROCESSES)]
        processes = [context.Process(target=work, args=each) for each in arguments]
        processes.append(context.Process(target=_probe, args=(server.url, SECONDS, told)))
        for process in processes:
            process.start()
        seen: dict[str, list[Any]] = {"label": [], "error": [], "info": [], "click": [], "held": []}
        end_s = time.monotonic() + SECONDS + 300
        while any(process.is_alive() for process in processes) or not told.empty():
            assert time.monotonic() < end_s, "somebody still waits"
            while not told.empty():
                kind, what = told.get()
                seen[kind].append(what)
            time.sleep(0.05)
        annotations = {each["annotation_id"]: each for each in server.get_json("/medai/annotations")["annotations"]}
    info_p95_ms = float(np.percentile(seen["info"], 95)) * 1e3
    click_p95_s = float(np.percentile(seen["click"], 95))
    report(
        f"{CLIENTS} clients, {SECONDS:.0f} s: {len(seen['label'])} labels, {len(seen['click'])} clicks (p95 "
        f"{click_p95_s:.2f} s), {len(seen['info'])} times /info/ (p95 {info_p95_ms:.0f} ms), errors {seen['error']}"
    )
    assert seen["error"] == []
    assert len(seen["label"]) >= CLIENTS
    collisions = {case: n for case, n in Counter(case for case, *_ in seen["held"]).items() if n > 1}
    assert collisions == {}
    assert {annotation_id for _, annotation_id, *_ in seen["label"]} == set(annotations)
    store, log = StudyStore(study, read_only=True), AnnotationLog(study)
    try:
        for case_id, _, voxels, _ in seen["label"]:
            assert int(np.count_nonzero(read_label_map(store.label_path(case_id, "final")).labels)) == voxels
        assert len(log.all()) == len(seen["label"])
    finally:
        log.close()
