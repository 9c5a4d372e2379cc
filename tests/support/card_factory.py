"""Complete model cards of made-up models, as they lie in the package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from medai.domain import Volume
from medai.geometry import VolumeGeometry
from medai.registry.version_files import sha256_of
from medai.workflows.worst_cases import WorstCase, draw_worst_cases


def card_of(weights_path: Path, task: str, failures: dict[str, Any]) -> dict[str, Any]:
    """A card with everything a starter's must hold."""
    return {
        "task": task,
        "version_id": "starter",
        "name": "A model <of tests>",
        "date": "2026-01-02",
        "weights_sha256": sha256_of(weights_path),
        "data": {
            "name": "made-up nodules",
            "licence": "CC BY 3.0",
            "attribution": "Nobody et al.",
            "truth": "one reader",
            "split": "by patient",
        },
        "training": {"how": "two epochs", "config": {"epochs": 2, "seed": 7}},
        "metrics": {
            "what": "Dice on 12 nodules",
            "figures": [{"name": "Dice, one click", "value": 0.8123, "low": 0.79, "high": 0.83, "n": 12}],
            "groups": [{"by": "size", "measure": "Dice", "rows": [{"name": "<6 mm", "value": 0.7, "n": 4}]}],
        },
        "known_failures": {
            "what": "the two worst",
            "in_common": ["Diameter: median 4 mm, 9 mm of the others (p = 0.01)."],
            **failures,
        },
        "limits": ["Nodules of 3–30 mm."],
    }


def make_starter(folder: Path, task: str = "nodule_click") -> dict[str, Any]:
    """Weights, card and pictures in ``<folder>/<task>``; returns the card."""
    starter = folder / task
    starter.mkdir(parents=True)
    (starter / "weights.safetensors").write_text("weights")
    geometry = VolumeGeometry(shape_ijk=(10, 11, 12), affine_ijk_to_ras_mm=np.diag([-0.7, 0.8, 2.0, 1.0]))
    truth = np.zeros(geometry.shape_ijk, bool)
    truth[3:6, 4:8, 5:7] = True
    volume = Volume(geometry=geometry, image_hu=np.full(geometry.shape_ijk, -800, np.int16))
    cases = [WorstCase(case_id=f"LIDC-{n}", words="Dice 0.2", volume=volume, truth=truth) for n in (1, 2)]
    card = card_of(starter / "weights.safetensors", task, draw_worst_cases(cases, starter))
    (starter / "card.json").write_text(json.dumps(card))
    return card
