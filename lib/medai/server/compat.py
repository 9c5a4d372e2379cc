"""What must be in place before MONAI Label 0.8.5 is imported, and the defaults of its own that we replace.

Import this module and call ``prepare`` before the first ``import monailabel…``. Nothing inside the library is patched:
one missing module is supplied, and its settings object is given other values.
"""

from __future__ import annotations

import importlib.machinery
import json
import os
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medai.store.names import IMAGE_EXTENSIONS

_STORAGE_UIDS = "pydicom._storage_sopclass_uids"

PLATFORM_DEFAULTS: Mapping[str, Any] = {
    # Starts a process of about 20 s for every scoring method at each Next Sample; ours scores in process.
    "MONAI_LABEL_AUTO_UPDATE_SCORING": False,
    # MLflow 3 refuses the file store that MONAI Label hands it ("no longer supports the filesystem").
    "MONAI_LABEL_TRACKING_ENABLED": False,
    # Our executors bound concurrency; a second pool inside the app would only hide the queue.
    "MONAI_LABEL_INFER_CONCURRENCY": -1,
    # Only scans: the platform's default also lists .jpg, .png and whole-slide formats.
    "MONAI_LABEL_DATASTORE_FILE_EXT": [f"*{extension}" for extension in IMAGE_EXTENSIONS],
}
"""Settings of MONAI Label that get another default; a variable of that name in the environment wins."""


def prepare() -> None:
    """Do what must be done before the first import of MONAI Label."""
    stay_silent()
    supply_storage_uids()


def stay_silent() -> None:
    """Keep the libraries that MONAI Label imports from reporting their use over the network.

    A variable that is set already is left alone. OpenVINO is silenced where it is used, in ``medai.networks.engine``.
    """
    # mlflow, which monai.handlers imports, asks its maker for instructions when it is imported.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")


def supply_storage_uids() -> None:
    """Supply ``pydicom._storage_sopclass_uids`` where pydicom no longer has it.

    pydicom_seg 0.4.1, which MONAI Label imports at the top, takes ``SegmentationStorage`` from that private module;
    pydicom 3 removed it (https://github.com/razorx89/pydicom-seg/issues/53). Holding pydicom at 2.4 instead would hold
    every other DICOM package back.
    """
    if _STORAGE_UIDS in sys.modules or importlib.machinery.PathFinder.find_spec(_STORAGE_UIDS, _pydicom_path()):
        return
    import pydicom.uid

    module = types.ModuleType(
        _STORAGE_UIDS, "Stands in for the module that pydicom 3 removed; see medai.server.compat."
    )
    module.SegmentationStorage = pydicom.uid.SegmentationStorage  # type: ignore[attr-defined]  # made here
    sys.modules[_STORAGE_UIDS] = module


def configure_platform(
    *,
    app_dir: Path | None = None,
    studies: Path | None = None,
    conf: Mapping[str, str] | None = None,
    port: int | None = None,
    session_path: Path | None = None,
) -> None:
    """Set MONAI Label's settings object; what is None keeps the value MONAI Label read from the environment.

    Args:
        app_dir: folder with ``main.py``; MONAI Label writes ``model``, ``lib``, ``logs`` and ``bin`` into it.
        studies: the study folder.
        conf: settings of the app as strings.
        port: where the server listens.
        session_path: where scans uploaded for one session are kept.
    """
    prepare()
    from monailabel.config import settings

    chosen: dict[str, Any] = {name: value for name, value in PLATFORM_DEFAULTS.items() if name not in os.environ}
    if app_dir is not None:
        chosen["MONAI_LABEL_APP_DIR"] = str(app_dir)
    if studies is not None:
        chosen["MONAI_LABEL_STUDIES"] = str(studies)
    if conf is not None:
        chosen["MONAI_LABEL_APP_CONF"] = dict(conf)
    if port is not None:
        chosen["MONAI_LABEL_SERVER_PORT"] = port
    if session_path is not None and "MONAI_LABEL_SESSION_PATH" not in os.environ:
        chosen["MONAI_LABEL_SESSION_PATH"] = str(session_path)
    for name, value in chosen.items():
        setattr(settings, name, value)


def export_platform(*, app_dir: Path, studies: Path, conf: Mapping[str, str], port: int) -> None:
    """Put the same settings into the environment, for server processes that uvicorn starts."""
    os.environ["MONAI_LABEL_APP_DIR"] = str(app_dir)
    os.environ["MONAI_LABEL_STUDIES"] = str(studies)
    os.environ["MONAI_LABEL_APP_CONF"] = json.dumps(dict(conf))
    os.environ["MONAI_LABEL_SERVER_PORT"] = str(port)
    # MONAI Label reads it unguarded before it starts a process of its own.
    os.environ.setdefault("PYTHONPATH", "")


def _pydicom_path() -> list[str]:
    import pydicom

    return list(pydicom.__path__)
