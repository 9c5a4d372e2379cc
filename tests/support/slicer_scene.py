"""One 3D Slicer scene behind a line of JSON: what the annotator's side of the annotation loop really does.

Runs inside the interpreter that has PyPI's ``slicer-core`` (VTK and numpy 2, so never in the server's environment) and
imports neither medai nor pytest. Each line of standard input is ``{"command": name, ...arguments}``; each is answered
by one line of standard output, ``{"result": ...}`` or ``{"error": ...}``. Arrays travel as ``.npy`` files.

Every command follows a method of MONAI Label's Slicer module (named in its docstring) with the same MRML calls, less
the windows. Where the module goes through SimpleITK, a label map volume is read by Slicer's own ITK reader instead.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

NOT_SAVED = ("background", "foreground_scribbles", "background_scribbles")
SCRIBBLES_ROI = "Scribbles ROI"
MARKUPS_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    "markups-schema-v1.0.3.json#"
)
EDIT_MODES = {
    "paint": slicer.vtkSlicerSegmentEditorLogic.ModificationModeAdd,
    "erase": slicer.vtkSlicerSegmentEditorLogic.ModificationModeRemove,
}
Json = dict[str, Any]


def _string_array(values: list[str]) -> vtk.vtkStringArray:
    array = vtk.vtkStringArray()
    for value in values:
        array.InsertNextValue(value)
    return array


def _matrix_rows(matrix: vtk.vtkMatrix4x4) -> list[list[float]]:
    return [[matrix.GetElement(row, column) for column in range(4)] for row in range(4)]


def _voxels_ijk(image: vtk.vtkImageData) -> np.ndarray:
    """Voxel values indexed [i, j, k] of the image's own extent; VTK keeps i fastest."""
    scalars = image.GetPointData().GetScalars()
    return vtk_to_numpy(scalars).reshape(image.GetDimensions()[::-1]).transpose(2, 1, 0)


class Scene:
    """The current scene: one volume and its segmentation, like the module's ``_volumeNode`` and ``_segmentNode``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files = 0
        self.clear()

    def clear(self) -> None:
        """Start from nothing, as Next Sample does."""
        self._scene = slicer.vtkMRMLScene()
        selection = slicer.vtkMRMLSelectionNode()
        selection.SetSingletonTag("Singleton")
        self._scene.AddNode(selection)
        self._segmentations = slicer.vtkSlicerSegmentationsModuleLogic()
        self._segmentations.SetMRMLScene(self._scene)
        self._markups = slicer.vtkSlicerMarkupsLogic()
        self._markups.SetMRMLScene(self._scene)
        self._editor_node = self._scene.AddNewNodeByClass("vtkMRMLSegmentEditorNode")
        self._editor = slicer.vtkSlicerSegmentEditorLogic()
        self._editor.SetMRMLScene(self._scene)
        self._editor.SetSegmentEditorNode(self._editor_node)
        self._volume: Any = None
        self._segmentation_node: Any = None

    def versions(self) -> Json:
        """What runs here."""
        return {"vtk": vtk.vtkVersion.GetVTKVersion(), "python": sys.version.split()[0], "numpy": np.__version__}

    # Files

    def _read(self, path: str, node_class: str, *, right_handed: bool = True) -> Any:
        storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
        storage.SetForceRightHandedIJKCoordinateSystem(right_handed)
        storage.SetFileName(path)
        node = self._scene.AddNewNodeByClass(node_class)
        self._scene.AddNode(storage)
        node.SetAndObserveStorageNodeID(storage.GetID())
        if not storage.ReadData(node):
            raise RuntimeError(f"3D Slicer cannot read {path} as {node_class}.")
        return node

    def _array_file(self, array: np.ndarray) -> str:
        self._files += 1
        path = self._folder / f"array_{self._files}.npy"
        np.save(path, array)
        return str(path)

    # The volume

    def load_volume(self, path: str, name: str) -> Json:
        """``onNextSampleButton`` and ``createSegmentNode``: a volume and an empty segmentation on its grid."""
        self.clear()
        self._volume = self._read(path, "vtkMRMLScalarVolumeNode")
        self._volume.SetName(name)
        self._segmentation_node = self._scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
        self._segmentation_node.SetReferenceImageGeometryParameterFromVolumeNode(self._volume)
        self._segmentation_node.SetName("segmentation_" + name)
        self._editor_node.SetAndObserveSegmentationNode(self._segmentation_node)
        self._editor_node.SetAndObserveSourceVolumeNode(self._volume)
        ijk_to_ras = vtk.vtkMatrix4x4()
        self._volume.GetIJKToRASMatrix(ijk_to_ras)
        return {
            "shape_ijk": list(self._volume.GetImageData().GetDimensions()),
            "affine_ijk_to_ras_mm": _matrix_rows(ijk_to_ras),
            "scalar_type": self._volume.GetImageData().GetScalarTypeAsString(),
        }

    def volume_array(self) -> str:
        """The volume's voxels."""
        return self._array_file(_voxels_ijk(self._volume.GetImageData()))

    def points_to_ijk(self, points_ras_mm: list[list[float]]) -> list[list[int]]:
        """``getControlPointsXYZ``: control points of a markups list, as the voxel indices that are sent."""
        points = self._scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode")
        for point in points_ras_mm:
            points.AddControlPoint(vtk.vtkVector3d(point))
        ras_to_ijk = vtk.vtkMatrix4x4()
        self._volume.GetRASToIJKMatrix(ras_to_ijk)
        found = []
        for index in range(points.GetNumberOfControlPoints()):
            position = points.GetNthControlPointPosition(index)
            found.append([round(value) for value in ras_to_ijk.MultiplyDoublePoint([*position, 1.0])][:3])
        self._scene.RemoveNode(points)
        return found

    def roi_to_ijk(self, centre_ras_mm: list[float], size_mm: list[float]) -> list[int]:
        """``getROIPointsXYZ``: [imin, imax, jmin, jmax, kmin, kmax] of an upright box, unsorted where axes flip."""
        roi = self._scene.AddNewNodeByClass("vtkMRMLMarkupsROINode")
        roi.SetCenter(centre_ras_mm)
        roi.SetSize(size_mm)
        ras_to_ijk = vtk.vtkMatrix4x4()
        self._volume.GetRASToIJKMatrix(ras_to_ijk)
        sides = [
            (middle - size / 2, middle + size / 2) for middle, size in zip(roi.GetCenter(), roi.GetSize(), strict=True)
        ]
        low = ras_to_ijk.MultiplyDoublePoint([side[0] for side in sides] + [1.0])
        high = ras_to_ijk.MultiplyDoublePoint([side[1] for side in sides] + [1.0])
        self._scene.RemoveNode(roi)
        return [round(value) for pair in zip(low[:3], high[:3], strict=True) for value in pair]

    # The segmentation

    @property
    def _segmentation(self) -> Any:
        return self._segmentation_node.GetSegmentation()

    def _segment_ids(self) -> list[str]:
        return [self._segmentation.GetNthSegmentID(n) for n in range(self._segmentation.GetNumberOfSegments())]

    def _segment_id(self, name: str) -> str:
        segment_id = self._segmentation.GetSegmentIdBySegmentName(name)
        if not segment_id:
            raise ValueError(f"There is no segment '{name}', only {[s['name'] for s in self.segments()]}.")
        return str(segment_id)

    def add_empty_segments(self, names: list[str]) -> None:
        """``updateSegmentationMask`` without a file: a segment for each label that has none yet."""
        for name in names:
            if not self._segmentation.GetSegmentIdBySegmentName(name):
                self._segmentation.AddEmptySegment(name, name)

    def add_scribbles(self) -> None:
        """``ensureScribblesLayersPresent``."""
        self._segmentation.AddEmptySegment("background_scribbles", "background_scribbles", [1.0, 0.0, 0.0])
        self._segmentation.AddEmptySegment("foreground_scribbles", "foreground_scribbles", [0.0, 1.0, 0.0])

    def import_mask(self, path: str, names: list[str]) -> None:
        """``updateSegmentationMask`` with a file: label value k becomes the segment of the k-th name."""
        # SimpleITK and PushVolumeToSlicer, which the module uses, keep left-handed axes.
        label_map = self._read(path, "vtkMRMLLabelMapVolumeNode", right_handed=False)
        names = [name for name in names if name != "background"]
        if not self._segmentations.ImportLabelmapToSegmentationNode(
            label_map, self._segmentation_node, _string_array(names)
        ):
            raise RuntimeError(f"3D Slicer cannot import {path} into the segmentation.")
        self._scene.RemoveNode(label_map)

    def load_segmentation(self, path: str) -> None:
        """``updateSegmentationMask`` where .seg.nrrd is the chosen format: names and colours come from the file."""
        storage = slicer.vtkMRMLSegmentationStorageNode()
        storage.SetFileName(path)
        source = self._scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
        if not storage.ReadData(source):
            raise RuntimeError(f"3D Slicer cannot read {path} as a segmentation.")
        self._segmentation.DeepCopy(source.GetSegmentation())
        self._segmentation_node.SetReferenceImageGeometryParameterFromVolumeNode(self._volume)
        self._scene.RemoveNode(source)

    def segments(self) -> list[Json]:
        """Names, ids and colours in the order of the segment list."""
        found = []
        for segment_id in self._segment_ids():
            segment = self._segmentation.GetSegment(segment_id)
            found.append({"id": segment_id, "name": segment.GetName(), "colour_rgb": list(segment.GetColor())})
        return found

    def segment_points(self, name: str) -> str:
        """Where the voxels of a segment lie: their centres in RAS, through the segment's own matrix."""
        image = slicer.vtkOrientedImageData()
        self._segmentation_node.GetBinaryLabelmapRepresentation(self._segment_id(name), image)
        points_ijk = np.zeros((0, 3), dtype=np.int64)
        if not image.IsEmpty():
            points_ijk = np.argwhere(_voxels_ijk(image) > 0) + np.array(image.GetExtent()[::2])
        image_to_ras = vtk.vtkMatrix4x4()
        image.GetImageToWorldMatrix(image_to_ras)
        affine = np.array(_matrix_rows(image_to_ras))
        return self._array_file(points_ijk @ affine[:3, :3].T + affine[:3, 3])

    def edit_segment(self, name: str, box_ijk: list[int], how: str) -> None:
        """The Segment Editor's brush on a box of voxels, [imin, imax, jmin, jmax, kmin, kmax] inclusive.

        Its default overwrite mode holds: what is painted is taken from the other segments.
        """
        segment_id = self._segment_id(name)
        self._editor_node.SetSelectedSegmentID(segment_id)
        self._editor.UpdateReferenceGeometryImage()
        self._editor.ResetModifierLabelmapToDefault()
        brush = self._editor.GetModifierLabelmap()
        i0, i1, j0, j1, k0, k1 = box_ijk
        _voxels_ijk(brush)[i0 : i1 + 1, j0 : j1 + 1, k0 : k1 + 1] = 1
        brush.Modified()
        self._editor.UpdateMaskLabelmap()
        self._editor.ModifySegmentByLabelmap(self._segmentation_node, segment_id, brush, EDIT_MODES[how], False, False)

    def _clear_scribbles(self) -> None:
        """``onClearScribblesSegmentNodes``: the segments stay, without voxels."""
        for segment_id in self._segment_ids():
            if "scribbles" in segment_id:
                image = slicer.vtkOrientedImageData()
                self._segmentation_node.GetBinaryLabelmapRepresentation(segment_id, image)
                slicer.vtkOrientedImageDataResample.FillImage(image, 0, image.GetExtent())
                slicer.vtkSlicerSegmentationsModuleLogic.SetBinaryLabelmapToSegment(
                    image,
                    self._segmentation_node,
                    segment_id,
                    slicer.vtkSlicerSegmentationsModuleLogic.MODE_REPLACE,
                )

    def export_label(self, path: str) -> list[Json]:
        """``onSaveLabel``: writes the file that is submitted and returns the label_info sent with it.

        label_info's idx counts every segment, the exported voxel values run over the saved ones: the module does that.
        """
        self._clear_scribbles()
        label_info, saved_ids = [], []
        for index, segment in enumerate(self.segments()):
            if segment["name"] not in NOT_SAVED:
                saved_ids.append(segment["id"])
                label_info.append({"name": segment["name"], "idx": index + 1})
        if path.endswith(".seg.nrrd"):
            self._write(slicer.vtkMRMLSegmentationStorageNode(), self._segmentation_node, path)
        else:
            self._write_label_map(saved_ids, path)
        return label_info

    def export_scribbles(self, path: str) -> list[Json]:
        """``onUpdateScribbles``: every segment, scribbles too, and the label_info of that request."""
        self._write_label_map(self._segment_ids(), path)
        return [{"name": segment["name"], "id": index + 1} for index, segment in enumerate(self.segments())]

    def _write_label_map(self, segment_ids: list[str], path: str) -> None:
        label_map = self._scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
        self._segmentations.ExportSegmentsToLabelmapNode(
            self._segmentation_node, _string_array(segment_ids), label_map, self._volume
        )
        self._write(slicer.vtkMRMLVolumeArchetypeStorageNode(), label_map, path)
        self._scene.RemoveNode(label_map)

    def _write(self, storage: Any, node: Any, path: str) -> None:
        storage.SetFileName(path)
        storage.SetUseCompression(1)
        if not storage.WriteData(node):
            raise RuntimeError(f"3D Slicer cannot write {path}.")

    def save_volume(self, path: str) -> None:
        """``onUploadImage``: the volume as a file."""
        self._write(slicer.vtkMRMLVolumeArchetypeStorageNode(), self._volume, path)

    # Detections

    def _rois(self) -> list[Any]:
        nodes = self._scene.GetNodesByClass("vtkMRMLMarkupsROINode")
        return [nodes.GetItemAsObject(n) for n in range(nodes.GetNumberOfItems())]

    def load_markups(self, path: str) -> list[Json]:
        """``updateSegmentationMask`` with a .json: every ROI of the scene, where it lies in RAS and what it is called.

        ``axes_ras`` has the box's own axes as columns; ``size_mm`` runs along them.
        """
        if not self._markups.LoadMarkups(path, "detections"):
            raise RuntimeError(f"3D Slicer cannot read {path} as markups.")
        found = []
        for index, roi in enumerate(self._rois()):
            if roi.GetName() != SCRIBBLES_ROI:
                roi.SetName(f"Detection ROI - {index}")
                roi.GetDisplayNode().SetInteractionHandleScale(0.7)
            rows = _matrix_rows(roi.GetObjectToWorldMatrix())
            points = range(roi.GetNumberOfControlPoints())
            found.append(
                {
                    "name": roi.GetName(),
                    "centre_ras_mm": list(roi.GetCenter()),
                    "size_mm": list(roi.GetSize()),
                    "axes_ras": [row[:3] for row in rows[:3]],
                    "labels": [roi.GetNthControlPointLabel(n) for n in points],
                    "descriptions": [roi.GetNthControlPointDescription(n) for n in points],
                }
            )
        return found

    def add_empty_roi(self, name: str) -> None:
        """``createSam2ROINode``: the box without extent that every scene of the module holds."""
        roi = self._scene.AddNewNodeByClass("vtkMRMLMarkupsROINode")
        roi.SetName(name)
        roi.CreateDefaultDisplayNodes()

    def save_rois(self, path: str) -> None:
        """``onGenerateJSONFromMulipltROIs``: every ROI but the scribbles' one, in one file."""
        markups = []
        for index, roi in enumerate(self._rois()):
            if roi.GetName() == SCRIBBLES_ROI:
                continue
            one_path = self._folder / f"roi_{index}.mrk.json"
            storage = slicer.vtkMRMLMarkupsROIJsonStorageNode()
            storage.SetFileName(str(one_path))
            storage.WriteData(roi)
            markups.append(json.loads(one_path.read_text())["markups"][0])
        Path(path).write_text(json.dumps({"@schema": MARKUPS_SCHEMA, "markups": markups}))


COMMANDS = frozenset(
    {
        "versions", "clear", "load_volume", "volume_array", "points_to_ijk", "roi_to_ijk", "add_empty_segments",
        "add_scribbles", "import_mask", "load_segmentation", "segments", "segment_points", "edit_segment",
        "export_label", "export_scribbles", "save_volume", "load_markups", "add_empty_roi", "save_rois",
    }
)  # fmt: skip


def _answer(scene: Scene, log: vtk.vtkStringOutputWindow, line: str) -> Json:
    request = json.loads(line)
    command = request.pop("command")
    if command not in COMMANDS:
        return {"error": f"unknown command {command}"}
    before = len(log.GetOutput())
    try:
        result = getattr(scene, command)(**request)
    except Exception:  # noqa: BLE001  the other process raises it
        return {"error": traceback.format_exc() + log.GetOutput()[before:]}
    # VTK reports trouble in its log and carries on: for a test that is a failure.
    said = log.GetOutput()[before:]
    if "ERROR" in said:
        return {"error": said}
    return {"result": result}


def main() -> None:
    """Answer requests until standard input ends."""
    # VTK and ITK write to file descriptor 1: keep the real one for the answers alone.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    log = vtk.vtkStringOutputWindow()
    vtk.vtkOutputWindow.SetInstance(log)
    with tempfile.TemporaryDirectory(prefix="slicer_scene_") as folder:
        scene = Scene(Path(folder))
        for line in sys.stdin:
            answers.write(json.dumps(_answer(scene, log, line)) + "\n")


if __name__ == "__main__":
    main()
