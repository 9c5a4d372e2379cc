"""Fifty thousand spoilt requests against the real server on loopback.

Nothing but the promised answers, nothing that hangs, bounded memory, and nothing on the disk that was not acknowledged.
``MEDAI_HOSTILE_REQUESTS`` changes how many are sent; the long run is the default.
"""

from __future__ import annotations

import http.client
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import pytest
from tests.integration.server.conftest import SHAPE_IJK, affines, make_study
from tests.support.mutated_requests import Mutations, Request
from tests.support.server_process import ServerProcess

from medai.domain import LabelMap, Segment
from medai.geometry import VolumeGeometry
from medai.volume_io.writers import write_label_map

pytestmark = [pytest.mark.slow, pytest.mark.server, pytest.mark.timeout(5400)]

REQUESTS = int(os.environ.get("MEDAI_HOSTILE_REQUESTS", "50000"))
THREADS = 4
ANSWERED_WITHIN_S = 120.0
"""Longer is taken for a hang; a whole scan behind others takes its time on a busy machine."""
MEMORY_GROWTH_MB = 300
CACHE_MB = 512
"""The server's own default. Growth is mostly that of libraries which are loaded at their first use."""
PROMISED = {503, 507}
"""5xx that say: the server is full, or its disk is."""


@dataclass(slots=True)
class Seen:
    """What came back, of all threads together."""

    statuses: Counter[int] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    acknowledged: dict[str, set[str]] = field(
        default_factory=lambda: {"image": set(), "label": set(), "session": set()}
    )
    slowest_s: float = 0.0
    refused_connections: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, request: Request, status: int, body: bytes, seconds: float) -> None:
        shown = f"{request.method} {request.path[:200]} -> {status} {body[:300]!r}"
        with self.lock:
            self.statuses[status] += 1
            self.slowest_s = max(self.slowest_s, seconds)
            if status >= 500 and status not in PROMISED:
                self.faults.append(shown)
            if seconds > ANSWERED_WITHIN_S:
                self.faults.append(f"{seconds:.0f} s: {shown}")
            if status == 200 and request.upload:
                answer = json.loads(body)
                key = {"image": "image", "label": "tag", "session": "session_id"}[request.upload]
                self.acknowledged[request.upload].add(str(answer[key]))


def send_all(url: str, mutations: Mutations, count: int, seen: Seen) -> None:
    """Send ``count`` requests over connections that are kept where the server keeps them."""
    address = urlparse(url)
    connection: http.client.HTTPConnection | None = None
    for _ in range(count):
        request = mutations.next()
        started = time.monotonic()
        try:
            connection = connection or http.client.HTTPConnection(
                str(address.hostname), address.port, timeout=2 * ANSWERED_WITHIN_S
            )
            connection.request(request.method, request.path, request.body or None, request.headers)
            reply = connection.getresponse()
            body = reply.read()
        except (ConnectionError, http.client.HTTPException):
            # A body that is refused before it is read ends the connection; that the server lives is looked at below.
            connection = None
            with seen.lock:
                seen.refused_connections += 1
            continue
        except TimeoutError:
            connection = None
            with seen.lock:
                seen.faults.append(f"no answer: {request.method} {request.path[:200]}")
            continue
        seen.add(request, reply.status, body, time.monotonic() - started)
        if reply.will_close:
            connection.close()
            connection = None


def memory_mb(pid: int) -> float:
    """Resident memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def sound_files(folder: Path, study: Path) -> tuple[bytes, bytes]:
    """A scan, and a label of the case "case.axial"."""
    labels = np.zeros(SHAPE_IJK, dtype=np.uint8)
    labels[6:11, 7:12, 8:13] = 1
    geometry = VolumeGeometry(shape_ijk=SHAPE_IJK, affine_ijk_to_ras_mm=affines()["case.axial"])
    path = folder / "label.nii.gz"
    write_label_map(LabelMap(geometry=geometry, labels=labels, segments=(Segment(value=1, name="nodule"),)), path)
    return (study / "case_oblique.nii.gz").read_bytes(), path.read_bytes()


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_spoilt_requests_leave_a_server_that_answers_and_a_study_that_opens(
    tmp_path: Path, report: Callable[[str], None]
):
    outside = tmp_path / "outside"
    outside.mkdir()
    study = make_study(outside / "study")
    scan, label = sound_files(tmp_path, study)
    environment = {"XDG_STATE_HOME": str(tmp_path / "state"), "TMPDIR": str(outside)}
    conf = {"tracking": "off", "cache_memory_mb": str(CACHE_MB), "max_upload_mb": "64", "prefetch": "off"}
    seen = Seen()
    with ServerProcess(study, conf=conf, environment=environment, log_path=tmp_path / "server.out") as server:
        # Everything is loaded before memory is measured.
        send_all(server.url, Mutations(np.random.default_rng(1), scan, label), 300, Seen())
        before_mb = memory_mb(server.pid)
        began_s = time.monotonic()
        threads = [
            threading.Thread(
                target=send_all,
                args=(server.url, Mutations(np.random.default_rng(1000 + n), scan, label), REQUESTS // THREADS, seen),
            )
            for n in range(THREADS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took_s = time.monotonic() - began_s
        asked_s = time.monotonic()
        info = server.get_json("/info/", timeout_s=30)
        info_s = time.monotonic() - asked_s
        after_mb = memory_mb(server.pid)
        answers = sum(seen.statuses.values())
        report(
            f"{answers} answers and {seen.refused_connections} ended connections in {took_s:.0f} s, "
            f"slowest {seen.slowest_s:.1f} s; memory {before_mb:.0f} -> {after_mb:.0f} MB; "
            f"statuses {dict(sorted(seen.statuses.items()))}"
        )
        assert seen.faults == []
        assert answers + seen.refused_connections == REQUESTS // THREADS * THREADS
        assert answers > 0.9 * REQUESTS
        assert info_s < 10
        assert set(info["models"]) >= {"nodule_segmentation", "nodule_click"}
        assert after_mb - before_mb < MEMORY_GROWTH_MB + CACHE_MB
        started_s = time.monotonic()
        server.terminate()
        assert time.monotonic() - started_s < 15
    assert "Traceback" not in server.log
    check_disk(outside, study, seen)
    with ServerProcess(study, conf=conf, environment=environment, log_path=tmp_path / "again.out") as server:
        assert server.get_json("/datastore/")["total"] >= 0


def check_disk(outside: Path, study: Path, seen: Seen) -> None:
    """Nothing beside the study, and in it only what was there or was acknowledged."""
    assert {path.name for path in outside.iterdir()} == {"study"}
    known = set(affines()) | seen.acknowledged["image"] | {"setup"}
    entries = {path.name for path in study.iterdir() if not path.name.startswith(".")}
    scans = entries - {"labels", "datastore_v2.json"}
    assert {_id_of(name) for name in scans} <= known | _early(study)
    tags = {path.name for path in (study / "labels").iterdir()} if (study / "labels").is_dir() else set()
    assert tags <= seen.acknowledged["label"] | {"final", "original", "mine"}
    temporary = study / ".medai" / "tmp"
    assert not temporary.is_dir() or files_below(temporary) == set()


def _early(study: Path) -> set[str]:
    """Scans of the requests that were sent before the counting began: they are in the study's index."""
    index: dict[str, Any] = json.loads((study / "datastore_v2.json").read_text(encoding="utf-8"))
    return set(index["objects"])


def _id_of(file_name: str) -> str:
    return next(
        (file_name[: -len(ending)] for ending in (".nii.gz", ".nii", ".nrrd", ".mha") if file_name.endswith(ending)),
        file_name,
    )
