"""A retraining simulation small enough for a test: balls in crops, a tiny network, phantoms without their seconds.

Run as a program it plays the simulation and dies, without any clean-up, when a training of round N begins.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tests.support.rated_balls import rated_balls, write_folder

from medai.domain import Volume
from medai.domain.click_case import ClickCase
from medai.geometry import VolumeGeometry
from medai.networks import engine
from medai.workflows import click_replay, simulate_retraining, simulated_session
from medai.workflows.simulate_retraining import SimulationConfig
from medai.workflows.simulated_patients import PatientCounts

CONFIG = SimulationConfig(
    rounds=2, seeds=1, cases_per_round=4, epochs=1, counts=PatientCounts(figure=1, start=2, regression=2)
)
NETWORK = {
    "network": "residual_unet",
    "network_options": {"channels_in": 5, "channels_out": 2, "channels": [2, 4], "blocks": [1, 1]},
}


def write_data(folder: Path) -> Path:
    """Balls of 36 patients as ``lidc_nodules``; gives the folder that holds it."""
    balls = rated_balls(36)
    measured = [replace(ball, voted={**ball.voted, "diameter_mm": 8.0 + n % 3}) for n, ball in enumerate(balls)]
    write_folder(folder / "lidc_nodules", measured)
    return folder


def make_small(set_attribute: Callable[[Any, str, Any], None]) -> None:
    """Replace what takes long by ``set_attribute`` (a monkeypatch's, or ``setattr``)."""
    set_attribute(simulate_retraining, "WEAK_NETWORK", NETWORK)
    set_attribute(simulate_retraining, "START_EPOCHS", 1)
    set_attribute(simulate_retraining, "START_ITERATIONS", 2)
    set_attribute(click_replay, "_make_phantom_nodules", _phantom_nodules)
    # A conversion takes seconds, and each training brings five; torch then runs the network.
    set_attribute(engine, "_convert", _no_conversion)


def _no_conversion(*_: Any) -> Any:
    raise RuntimeError("not in this test")


def _phantom_nodules(seed: int) -> list[ClickCase]:
    mask = np.zeros((30, 31, 18), dtype=bool)
    mask[12:18, 12:18, 7:11] = True
    geometry = VolumeGeometry(shape_ijk=mask.shape, affine_ijk_to_ras_mm=np.diag([-0.8, 0.8, 1.25, 1.0]))
    volume = Volume(geometry=geometry, image_hu=np.where(mask, 30, -850).astype(np.int16), case_id=f"phantom{seed}")
    return [ClickCase(case_id=f"phantom{seed}#1", patient_id=f"phantom{seed}", volume=volume, mask=mask)]


def _die_in_round(number: int) -> None:
    trainings = 0
    retrain = simulated_session.retrain

    def dying(*args: Any, **kwargs: Any) -> Any:
        nonlocal trainings
        trainings += 1
        if trainings == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return retrain(*args, **kwargs)

    simulated_session.retrain = dying


if __name__ == "__main__":
    make_small(setattr)
    _die_in_round(int(sys.argv[3]))
    simulate_retraining.simulate_retraining(Path(sys.argv[1]), Path(sys.argv[2]), CONFIG)
