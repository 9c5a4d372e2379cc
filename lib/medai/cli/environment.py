"""Environment variables that libraries read once, when they are first imported: set before numpy and torch are.

One that the user has set stays. Processes that this one starts inherit them.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

THREAD_DEFAULTS = {
    # Torch's threads otherwise spin while they wait for each other: on a busy machine a training slows sevenfold.
    "OMP_WAIT_POLICY": "PASSIVE",
    # NumPy's OpenBLAS wakes a second thread even for a 4×4 system and spins until it ran: 10 µs, or 1.2 ms where the
    # processors are busy, with Python's lock held. Affines are all that is solved here; the networks have MKL.
    "OPENBLAS_NUM_THREADS": "1",
}
NO_REPORTS = {"DO_NOT_TRACK": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
"""No library reports its use over the network."""


def set_library_defaults(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set what is not set yet.

    Args:
        environment: the variables, changed in place.
    """
    for name, value in {**THREAD_DEFAULTS, **NO_REPORTS}.items():
        environment.setdefault(name, value)
