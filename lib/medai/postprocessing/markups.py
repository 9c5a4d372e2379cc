"""Detection boxes as 3D Slicer's markups: one ROI a nodule, with what is known of it in the label and description.

The MONAI Label plugin loads the file with ``slicer.util.loadMarkups``. The boxes follow the axes of the scan, so that
on an oblique scan they fit the nodule as seen in the acquired slices.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from medai.domain import Nodule, Prediction
from medai.domain.assessment import MALIGNANCY
from medai.geometry import VolumeGeometry
from medai.geometry.frames import affine_to_itk, points_ras_to_lps
from medai.postprocessing.nodules import kind_colour, segment_name

MARKUPS_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    "markups-schema-v1.0.3.json#"
)

_NOTHING_FOUND: dict[str, Any] = {
    "type": "Fiducial",
    "name": "No nodule found",
    "coordinateSystem": "LPS",
    "coordinateUnits": "mm",
    "labelFormat": "%N-%d",
    "controlPoints": [],
}
"""Loads and shows nothing; it is no ROI, so the Slicer module does not submit it as a box."""


def prediction_to_markups(prediction: Prediction) -> dict[str, Any]:
    """Describe the nodules as a Slicer markups document.

    Args:
        prediction: nodules with boxes inside the scan.

    Returns:
        A JSON-ready dict: ``@schema`` and ``markups``, one box ROI a nodule in the prediction's order. Centre and
        size are in millimetres, coordinates in LPS; ``orientation`` holds the box's axes as columns, row by row.
        Without a nodule there is one empty point list: 3D Slicer refuses a document without any markup.
    """
    boxes = [
        _box_markup(nodule, index, prediction.geometry) for index, nodule in enumerate(prediction.nodules, start=1)
    ]
    return {"@schema": MARKUPS_SCHEMA, "markups": boxes or [_NOTHING_FOUND]}


def _assessment_words(nodule: Nodule) -> str:
    """What the nodule is rated as, for the description; empty where it was not classified. ASCII, as names are."""
    if nodule.assessment is None:
        return ""
    malignancy = nodule.assessment.malignancy
    words = [f"malignancy {malignancy.value:.2f} ({malignancy.low:.2f} to {malignancy.high:.2f})"]
    words += [f"{name} {rating:.1f}" for name, rating in nodule.assessment.ratings.items() if name != MALIGNANCY]
    return "".join(f", {word}" for word in words)


def _box_markup(nodule: Nodule, index: int, geometry: VolumeGeometry) -> dict[str, Any]:
    """One nodule's ROI: from the outer faces of its first voxels to those of its last."""
    start, stop = np.asarray(nodule.box.start_ijk), np.asarray(nodule.box.stop_ijk)
    centre_lps_mm = points_ras_to_lps(geometry.ijk_to_ras((start + stop - 1) / 2))
    directions_lps = affine_to_itk(geometry.affine_ijk_to_ras_mm)[2]
    if np.linalg.det(directions_lps) < 0:
        # A box looks the same with an axis reversed, and Slicer wants a rotation, not a mirror.
        directions_lps[:, 2] = -directions_lps[:, 2]
    centre = [round(float(c), 4) for c in centre_lps_mm]
    orientation = [round(float(d), 9) for d in directions_lps.ravel()]
    size_mm = [round(float(s), 4) for s in (stop - start) * np.asarray(geometry.spacing_mm)]
    name = segment_name(nodule, index)
    description = f"probability {nodule.probability:.2f}, {nodule.volume_mm3:.0f} mm3{_assessment_words(nodule)}"
    return {
        "type": "ROI",
        "name": name,
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "locked": False,
        "fixedNumberOfControlPoints": False,
        "labelFormat": "%N-%d",
        "lastUsedControlPointNumber": 1,
        "roiType": "Box",
        "center": centre,
        "orientation": orientation,
        "size": size_mm,
        "insideOut": False,
        "label": {"value": index},
        "controlPoints": [
            {
                "id": "1",
                "label": name,
                "description": description,
                "associatedNodeID": "",
                "position": centre,
                "orientation": orientation,
                "selected": True,
                "locked": False,
                "visibility": True,
                "positionStatus": "defined",
            }
        ],
        "display": {
            "visibility": True,
            "opacity": 1.0,
            "color": list(kind_colour(nodule.kind, index - 1)),
            "selectedColor": list(kind_colour(nodule.kind, index - 1)),
            "propertiesLabelVisibility": True,
        },
    }
