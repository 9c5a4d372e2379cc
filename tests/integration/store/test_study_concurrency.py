"""Several processes and threads write into one study: nothing may be lost."""

import json
import subprocess
import sys
import threading

from medai.store.study import StudyStore

WRITER = """
import sys, pathlib
from medai.store.study import StudyStore
study, label, worker, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
store = StudyStore(pathlib.Path(study))
for n in range(count):
    case = f"case_{worker}_{n}"
    store.save_label(case, pathlib.Path(label), "final", {"worker": worker})
    store.update_image_info("shared", {f"from_{worker}_{n}": n})
    store.update_label_info(case, "final", {"checked": True})
"""


def make_study(tmp_path, workers, count):
    study = tmp_path / "study"
    study.mkdir()
    for name in ["shared", *(f"case_{w}_{n}" for w in range(workers) for n in range(count))]:
        (study / f"{name}.nii.gz").write_bytes(b"scan")
    (tmp_path / "label.nii.gz").write_bytes(b"label")
    return study


def check_complete(study, workers, count):
    store = StudyStore(study)
    shared = store.image_info("shared")
    for worker in range(workers):
        for n in range(count):
            info = store.label_info(f"case_{worker}_{n}", "final")
            assert (info["worker"], info["checked"]) == (worker, True)
            assert shared[f"from_{worker}_{n}"] == n
    assert store.status()["completed"] == workers * count
    assert json.loads((study / ".medai/datastore_v2.backup.json").read_text())["objects"].keys() == set(
        store.image_ids()
    )


def test_no_label_or_info_is_lost_between_processes(tmp_path):
    workers, count = 4, 12
    study = make_study(tmp_path, workers, count)
    processes = [
        subprocess.Popen([sys.executable, "-c", WRITER, study, tmp_path / "label.nii.gz", str(w), str(count)])
        for w in range(workers)
    ]
    reader = StudyStore(study)
    seen = []
    while any(process.poll() is None for process in processes):
        seen.append(reader.status()["completed"])
    assert [process.returncode for process in processes] == [0] * workers
    assert seen == sorted(seen)
    check_complete(study, workers, count)


def test_no_label_or_info_is_lost_between_threads(tmp_path):
    workers, count = 6, 8
    study = make_study(tmp_path, workers, count)
    store = StudyStore(study)
    failures = []

    def work(worker):
        try:
            for n in range(count):
                store.save_label(f"case_{worker}_{n}", tmp_path / "label.nii.gz", "final", {"worker": worker})
                store.update_image_info("shared", {f"from_{worker}_{n}": n})
                store.update_label_info(f"case_{worker}_{n}", "final", {"checked": True})
                store.status()
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=work, args=(w,)) for w in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    check_complete(study, workers, count)
