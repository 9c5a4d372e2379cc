"""``medai bench click`` and ``medai bench server``: what a person waits for, measured through HTTP on real processes.

Every figure comes with its yardstick from the same run on the same machine: a click beside a stock-style MONAI Label
task with the same network, the first click beside the time to decode the scan. Nothing here decides pass or fail.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from medai.errors import InputError
from medai.server.child_process import ServerProcess, start_medai, start_stock

FULL_SHAPE_IJK = (512, 512, 300)
_SMALL_STUDY_CASES = 4
_WARM_UP_CASE = "warm_up"
_WARM_UP_MARGIN_IJK = (40, 40, 20)
_IDLE_PROBES = 100
_PROBE_PAUSE_S = 0.02


def bench_click(image: Path | None = None, *, repeats: int = 5) -> dict[str, Any]:
    """Time clicks end to end: request, answer on the whole grid, and the answer read back from the reply.

    Args:
        image: a .nii.gz, .nii or .nrrd scan; None makes a phantom of 512×512×300 voxels.
        repeats: warm clicks, each at another place; the median counts.

    Returns:
        ``warm_click_s``, ``first_click_s`` (scan not decoded yet), ``decode_s`` (the reader alone), ``stock_s`` (the
        same click through a stock-style task), ``ratio_to_stock`` (how many times faster a warm click is),
        ``peak_rss_mb`` and ``idle_rss_mb`` of the server, ``scan_mb`` decoded.
    """
    with tempfile.TemporaryDirectory(prefix="medai-bench-") as temporary:
        study = Path(temporary) / "study"
        study.mkdir()
        scan, centres_ijk = _prepare_scan(study, image)
        decode_s, scan_mb = _time_decoding(scan)
        warm_up_ijk = _add_warm_up_case(study, scan, centres_ijk[0])
        case_id = scan.name.split(".")[0]
        with start_medai(study) as server:
            # Models are loaded once a server, not once a scan: a click on another scan gets that out of the figures.
            _time_click(server, _WARM_UP_CASE, warm_up_ijk)
            idle_mb = server.peak_rss_mb()
            first_click_s = _time_click(server, case_id, centres_ijk[0])
            warm = [_time_click(server, case_id, centres_ijk[n % len(centres_ijk)]) for n in range(repeats)]
            peak_mb = server.peak_rss_mb()
        with start_stock(study) as server:
            _time_click(server, case_id, centres_ijk[0])
            stock = [_time_click(server, case_id, centres_ijk[0]) for _ in range(min(3, repeats))]
    warm_click_s, stock_s = statistics.median(warm), statistics.median(stock)
    return {
        "warm_click_s": warm_click_s,
        "first_click_s": first_click_s,
        "decode_s": decode_s,
        "stock_s": stock_s,
        "ratio_to_stock": stock_s / warm_click_s,
        "peak_rss_mb": peak_mb,
        "idle_rss_mb": idle_mb,
        "scan_mb": scan_mb,
    }


def bench_server(*, study_count: int = 2000) -> dict[str, Any]:
    """Time what must never wait: ``/info/`` beside an inference, a training and both, and the next of many studies.

    Args:
        study_count: scans in the study that the next sample is asked of.

    Returns:
        ``start_s`` (process start to first answer), ``info_p95_ms_idle``, ``info_p95_ms_during_infer``,
        ``info_p95_ms_during_train``, ``info_p95_ms_during_both``, ``next_sample_ms_2000`` (median over ten, of a study
        of ``study_count``) and ``study_count``.
    """
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="medai-bench-") as temporary:
        study = Path(temporary) / "study"
        large = _prepare_training_study(study)
        with start_medai(study) as server:
            figures["start_s"] = server.start_s
            figures["info_p95_ms_idle"] = _info_p95_ms(server, lambda probes: probes < _IDLE_PROBES)
            figures["info_p95_ms_during_infer"] = _info_p95_during(server, lambda: _infer_scan(server, large))
            server.post_json("/train/nodule_click", {"max_epochs": 50})
            time.sleep(1.0)
            figures["info_p95_ms_during_train"] = _info_p95_ms(server, lambda probes: probes < _IDLE_PROBES)
            figures["info_p95_ms_during_both"] = _info_p95_during(server, lambda: _infer_scan(server, large))
            figures["training_ran_throughout"] = server.is_training()
            server.delete("/train/")
        many = Path(temporary) / "many"
        _prepare_many(many, study_count)
        with start_medai(many) as server:
            figures["next_sample_ms_2000"] = 1e3 * statistics.median(_time_next_sample(server, n) for n in range(10))
            figures["study_count"] = study_count
    return figures


def _prepare_scan(study: Path, image: Path | None) -> tuple[Path, list[tuple[int, int, int]]]:
    """Put the scan into the study; returns it and places to click."""
    if image is not None:
        if not image.is_file():
            raise InputError(f"There is no scan file {image}. Give a .nii.gz, .nii or .nrrd file.")
        from medai.volume_io.readers import read_geometry

        i, j, k = (n // 2 for n in read_geometry(image).shape_ijk)
        target = study / f"bench.{image.name.partition('.')[2]}"
        shutil.copy2(image, target)
        return target, [(i, j, k), (i + i // 3, j, k), (i - i // 3, j, k)]
    from medai.phantom import PhantomConfig, make_phantom
    from medai.volume_io.writers import write_volume

    phantom = make_phantom(PhantomConfig(shape_ijk=FULL_SHAPE_IJK), np.random.default_rng(1))
    target = study / "bench.nii.gz"
    write_volume(phantom.volume, target)
    centres = [phantom.volume.geometry.ras_to_ijk(nodule.centre_ras_mm) for nodule in phantom.nodules]
    return target, [(round(float(c[0])), round(float(c[1])), round(float(c[2]))) for c in centres]


def _add_warm_up_case(study: Path, scan: Path, centre_ijk: tuple[int, int, int]) -> tuple[int, int, int]:
    """A small piece of the scan around a nodule as a case of its own; returns where the nodule is in it.

    A corner of a scan is air alone, on which no model answers.
    """
    from medai.geometry import IndexBox
    from medai.volume_io.readers import read_volume
    from medai.volume_io.writers import write_volume

    volume = read_volume(scan)
    around = IndexBox(start_ijk=centre_ijk, stop_ijk=(centre_ijk[0] + 1, centre_ijk[1] + 1, centre_ijk[2] + 1))
    box = around.expand(_WARM_UP_MARGIN_IJK).clip(volume.geometry.shape_ijk)
    write_volume(volume.crop(box), study / f"{_WARM_UP_CASE}.nii.gz")
    i, j, k = (c - start for c, start in zip(centre_ijk, box.start_ijk, strict=True))
    return i, j, k


def _prepare_training_study(study: Path) -> str:
    """A few small labelled phantoms and one full-size scan, whose case id is returned."""
    from medai.phantom.study import make_demo_study
    from medai.store.study import FINAL, StudyStore

    cases = make_demo_study(study, case_count=_SMALL_STUDY_CASES, seed=3)
    store = StudyStore(study)
    for case in cases:
        store.save_label(case.case_id, case.truth_path, FINAL, {"client_id": "bench"})
    scan, _ = _prepare_scan(study, None)
    return scan.name.split(".")[0]


def _prepare_many(study: Path, count: int) -> None:
    """A study of many tiny scans, all the same file."""
    from medai.domain import Volume
    from medai.geometry import VolumeGeometry
    from medai.volume_io.writers import write_volume

    study.mkdir()
    geometry = VolumeGeometry(shape_ijk=(10, 11, 12), affine_ijk_to_ras_mm=np.diag([1.0, 1.0, 2.0, 1.0]))
    first = study / "case_00000.nii.gz"
    write_volume(Volume(geometry=geometry, image_hu=np.full((10, 11, 12), -800, dtype=np.int16)), first)
    for number in range(1, count):
        os.link(first, study / f"case_{number:05d}.nii.gz")


def _time_decoding(scan: Path) -> tuple[float, float]:
    """Seconds to decode the scan (the better of two: the disk's first read does not count) and its megabytes."""
    from medai.volume_io.readers import read_volume

    seconds: list[float] = []
    for _ in range(2):
        begin = time.perf_counter()
        image_hu = read_volume(scan).image_hu
        seconds.append(time.perf_counter() - begin)
        size_mb = image_hu.nbytes / 1e6
        del image_hu
    return min(seconds), size_mb


def _time_click(server: ServerProcess, case_id: str, centre_ijk: tuple[int, int, int]) -> float:
    params = {"label": "nodule", "foreground": [list(centre_ijk)], "background": []}
    begin = time.perf_counter()
    server.infer("nodule_click", case_id, params)
    return time.perf_counter() - begin


def _time_next_sample(server: ServerProcess, annotator: int) -> float:
    begin = time.perf_counter()
    server.post_json("/activelearning/first", {"client_id": f"bench-{annotator}"})
    return time.perf_counter() - begin


def _infer_scan(server: ServerProcess, case_id: str) -> None:
    server.infer("nodule_segmentation", case_id, {})


def _info_p95_ms(server: ServerProcess, go_on: Callable[[int], bool]) -> float:
    """95th percentile of /info/, asked over and over while ``go_on`` (told the number so far) says so."""
    seconds: list[float] = []
    while go_on(len(seconds)) or not seconds:
        begin = time.perf_counter()
        server.get_json("/info/")
        seconds.append(time.perf_counter() - begin)
        time.sleep(_PROBE_PAUSE_S)
    return float(np.percentile(seconds, 95) * 1e3)


def _info_p95_during(server: ServerProcess, work: Callable[[], None]) -> float:
    """95th percentile of /info/ while ``work`` runs in another thread; an error of the work is raised here."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - handed to the caller's thread below
            failures.append(error)

    thread = threading.Thread(target=run, name="bench-work")
    thread.start()
    p95_ms = _info_p95_ms(server, lambda _: thread.is_alive())
    thread.join()
    if failures:
        raise failures[0]
    return p95_ms
