"""A click network that trains in a second, and balls for it to learn."""

from __future__ import annotations

import numpy as np

from medai.domain import Volume
from medai.domain.click_case import ClickCase
from medai.geometry import VolumeGeometry
from medai.training.dataset import ClickDataset

TINY_NETWORK = {
    "network": "residual_unet",
    "network_options": {"channels_in": 5, "channels_out": 2, "channels": [4, 6], "blocks": [1, 1]},
}


def ball_case(patient_id: str) -> ClickCase:
    """A ball of 10 mm around voxel (15, 14, 11)."""
    shape, spacing = (30, 31, 22), np.array([0.8, 0.8, 1.25])
    mask = np.linalg.norm((np.moveaxis(np.indices(shape), 0, -1) - (15, 14, 11)) * spacing, axis=-1) < 5.0
    geometry = VolumeGeometry(shape_ijk=shape, affine_ijk_to_ras_mm=np.diag([*spacing, 1.0]))
    image_hu = np.where(mask, 30, -850).astype(np.int16)
    return ClickCase(
        case_id=patient_id, patient_id=patient_id, volume=Volume(geometry=geometry, image_hu=image_hu), mask=mask
    )


def ball_dataset() -> ClickDataset:
    """Two patients train, one validates."""
    return ClickDataset(training=(ball_case("a"), ball_case("b")), validation=(ball_case("c"),))
