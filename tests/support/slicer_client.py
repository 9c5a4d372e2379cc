"""The tests' side of a 3D Slicer scene: starts ``slicer_scene.py`` in Slicer's own Python and talks to it in lines.

One process serves a whole test session: importing slicer takes seconds, a new scene takes none.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from medai.geometry import IndexBox, VolumeGeometry

PROJECT_ROOT = Path(__file__).resolve().parents[2]


def slicer_python() -> Path:
    """The interpreter with slicer-core: MEDAI_SLICER_PYTHON, else .venv-slicer under the project's root."""
    default = PROJECT_ROOT / ".venv-slicer" / "bin" / "python"
    return Path(os.environ.get("MEDAI_SLICER_PYTHON", default))


class SlicerError(Exception):
    """3D Slicer refused a command, or wrote an error into its log while it carried it out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlicerSegment:
    """A line of the segment list."""

    id: str
    name: str
    colour_rgb: tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class SlicerRoi:
    """A box in the scene; ``axes_ras`` has its own axes as columns and ``size_mm`` runs along them."""

    name: str
    centre_ras_mm: NDArray[np.float64]
    size_mm: NDArray[np.float64]
    axes_ras: NDArray[np.float64]
    labels: list[str]
    descriptions: list[str]

    def corners_ras_mm(self) -> NDArray[np.float64]:
        """The eight corners, shape (8, 3)."""
        signs = np.array(np.meshgrid(*[(-0.5, 0.5)] * 3)).reshape(3, -1).T
        return self.centre_ras_mm + (signs * self.size_mm) @ self.axes_ras.T


class SlicerScene:
    """A scene in another process. Closed with the context."""

    def __init__(self, python: Path | None = None) -> None:
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  lives as long as the process
        self._process = subprocess.Popen(
            [str(python or slicer_python()), "-u", str(Path(__file__).with_name("slicer_scene.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={key: value for key, value in os.environ.items() if not key.startswith("PYTHON")},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(BrokenPipeError):
            self._pipe(self._process.stdin).close()
        self._process.wait(timeout=30)
        self._pipe(self._process.stdout).close()
        self._log.close()

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        if pipe is None:
            raise SlicerError("The scene's process was started without pipes.")
        return pipe

    def _ask(self, command: str, **arguments: Any) -> Any:
        try:
            self._pipe(self._process.stdin).write(json.dumps({"command": command, **arguments}) + "\n")
            self._pipe(self._process.stdin).flush()
        except BrokenPipeError:
            line = ""
        else:
            line = self._pipe(self._process.stdout).readline()
        if not line:
            code = self._process.wait(timeout=30)
            self._log.seek(0)
            raise SlicerError(f"The scene's process ended with exit code {code}: {self._log.read()[-2000:]}")
        answer = json.loads(line)
        if "error" in answer:
            raise SlicerError(f"{command}: {answer['error']}")
        return answer["result"]

    def versions(self) -> dict[str, str]:
        """Versions of what runs there."""
        return dict(self._ask("versions"))

    def clear(self) -> None:
        """An empty scene."""
        self._ask("clear")

    def load_volume(self, path: Path, name: str = "case") -> VolumeGeometry:
        """Open a scan in a new scene, with an empty segmentation; Slicer's own idea of its grid."""
        found = self._ask("load_volume", path=str(path), name=name)
        i, j, k = found["shape_ijk"]
        return VolumeGeometry(shape_ijk=(i, j, k), affine_ijk_to_ras_mm=np.array(found["affine_ijk_to_ras_mm"]))

    def volume_array(self) -> NDArray[np.generic]:
        """The open scan's voxels, indexed [i, j, k]."""
        return np.asarray(np.load(self._ask("volume_array")))

    def save_volume(self, path: Path) -> None:
        """Write the open scan."""
        self._ask("save_volume", path=str(path))

    def points_to_ijk(self, points_ras_mm: Sequence[Sequence[float]] | NDArray[np.float64]) -> list[list[int]]:
        """Voxel indices of points placed in the scene, as the module sends them."""
        return list(self._ask("points_to_ijk", points_ras_mm=np.asarray(points_ras_mm, dtype=float).tolist()))

    def roi_to_ijk(self, centre_ras_mm: Sequence[float], size_mm: Sequence[float]) -> list[int]:
        """What the module sends for an upright box: imin, imax, jmin, jmax, kmin, kmax, unsorted where axes flip."""
        centre, size = np.asarray(centre_ras_mm, dtype=float).tolist(), np.asarray(size_mm, dtype=float).tolist()
        return list(self._ask("roi_to_ijk", centre_ras_mm=centre, size_mm=size))

    def add_empty_segments(self, names: Sequence[str]) -> None:
        """A segment for each name that has none."""
        self._ask("add_empty_segments", names=list(names))

    def add_scribbles(self) -> None:
        """The two segments that the scribbles tools add."""
        self._ask("add_scribbles")

    def import_mask(self, path: Path, names: Sequence[str]) -> None:
        """Import a reply: label value k becomes the segment of the k-th name."""
        self._ask("import_mask", path=str(path), names=list(names))

    def load_segmentation(self, path: Path) -> None:
        """Replace the segmentation by a .seg.nrrd with its own names and colours."""
        self._ask("load_segmentation", path=str(path))

    def segments(self) -> list[SlicerSegment]:
        """The segment list."""
        return [
            SlicerSegment(id=found["id"], name=found["name"], colour_rgb=tuple(found["colour_rgb"]))
            for found in self._ask("segments")
        ]

    def segment_names(self) -> list[str]:
        """Names in the order of the segment list."""
        return [segment.name for segment in self.segments()]

    def segment_points_ras_mm(self, name: str) -> NDArray[np.float64]:
        """Centres of the voxels of a segment in RAS millimetres, shape (n, 3)."""
        return np.asarray(np.load(self._ask("segment_points", name=name)), dtype=np.float64).reshape(-1, 3)

    def segment_mask(self, name: str, geometry: VolumeGeometry) -> NDArray[np.bool_]:
        """A segment on a grid, through RAS alone; every voxel of it must lie on a voxel of the grid."""
        points_ijk = geometry.ras_to_ijk(self.segment_points_ras_mm(name))
        index = np.rint(points_ijk).astype(np.int64)
        off = np.abs(points_ijk - index).max(initial=0.0)
        if off > 0.01 or not np.all((index >= 0) & (index < geometry.shape_ijk)):
            raise SlicerError(f"Segment '{name}' lies up to {off:.3f} voxels beside the grid, or outside it.")
        mask = np.zeros(geometry.shape_ijk, dtype=bool)
        mask[tuple(index.T)] = True
        return mask

    def paint(self, name: str, box: IndexBox) -> None:
        """Add a box of voxels to a segment."""
        self._edit(name, box, "paint")

    def erase(self, name: str, box: IndexBox) -> None:
        """Take a box of voxels from a segment."""
        self._edit(name, box, "erase")

    def _edit(self, name: str, box: IndexBox, how: str) -> None:
        sides = [side for start, stop in zip(box.start_ijk, box.stop_ijk, strict=True) for side in (start, stop - 1)]
        self._ask("edit_segment", name=name, box_ijk=sides, how=how)

    def export_label(self, path: Path) -> list[dict[str, Any]]:
        """Write what Submit sends (.nii.gz, or all segments as .seg.nrrd); returns label_info."""
        return list(self._ask("export_label", path=str(path)))

    def export_scribbles(self, path: Path) -> list[dict[str, Any]]:
        """Write what a scribbles request sends; returns its label_info."""
        return list(self._ask("export_scribbles", path=str(path)))

    def load_markups(self, path: Path) -> list[SlicerRoi]:
        """Open a detection reply; every box of the scene."""
        return [
            SlicerRoi(
                name=found["name"],
                centre_ras_mm=np.array(found["centre_ras_mm"]),
                size_mm=np.array(found["size_mm"]),
                axes_ras=np.array(found["axes_ras"]),
                labels=found["labels"],
                descriptions=found["descriptions"],
            )
            for found in self._ask("load_markups", path=str(path))
        ]

    def add_empty_roi(self, name: str) -> None:
        """A box without extent, as the module leaves one in every scene."""
        self._ask("add_empty_roi", name=name)

    def save_rois(self, path: Path) -> None:
        """Write what Submit sends for a detection model."""
        self._ask("save_rois", path=str(path))
