"""Where voxels lie in the patient: grids, frames and boxes. numpy only."""

from medai.geometry.boxes import IndexBox
from medai.geometry.volume_geometry import VolumeGeometry

__all__ = ["IndexBox", "VolumeGeometry"]
