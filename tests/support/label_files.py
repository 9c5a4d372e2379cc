"""Label files as other programs write them, with nibabel and pynrrd: none of the product's own writers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np


def nifti_label(path: Path, values: np.ndarray, affine: np.ndarray) -> Path:
    """A NIfTI file that says its place in both forms."""
    image = nib.Nifti1Image(values, affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    nib.save(image, path)
    return path


def segmentation_file(
    path: Path, layers: Sequence[np.ndarray], affine: np.ndarray, segments: Sequence[tuple[str, int, int]]
) -> Path:
    """As 3D Slicer saves a segmentation: layers first, LPS, a group of fields a segment (name, value, layer)."""
    lps = np.diag([-1, -1, 1, 1]) @ affine
    flat = len(layers) == 1
    header: dict[str, object] = {
        "space": "left-posterior-superior",
        "space directions": lps[:3, :3].T if flat else np.vstack([np.full(3, np.nan), lps[:3, :3].T]),
        "space origin": lps[:3, 3],
        "kinds": ["domain"] * 3 if flat else ["list", "domain", "domain", "domain"],
        "encoding": "gzip",
    }
    for n, (name, value, layer) in enumerate(segments):
        header |= {f"Segment{n}_ID": f"Segment_{n}", f"Segment{n}_Name": name}
        header |= {f"Segment{n}_LabelValue": str(value), f"Segment{n}_Layer": str(layer)}
    nrrd.write(str(path), layers[0] if flat else np.stack(list(layers)), header)
    return path


def turned(
    values: np.ndarray, affine: np.ndarray, order: Sequence[int], reversed_axes: Sequence[int] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """The same voxels in another storage order, with the affine that says so."""
    values, affine = values.transpose(order), affine[:, [*order, 3]].copy()
    for axis in reversed_axes:
        affine[:3, 3] += affine[:3, axis] * (values.shape[axis] - 1)
        affine[:3, axis] *= -1
        values = np.flip(values, axis)
    return np.ascontiguousarray(values), affine
