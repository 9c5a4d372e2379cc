"""What a phantom is asked to be: its grid, its noise, its nodules. Checked once, here."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from medai.domain import NoduleKind
from medai.errors import InputError
from medai.geometry import VolumeGeometry

MIN_NODULE_MM = 3.0
MAX_NODULE_MM = 40.0
STANDARD_DIRECTIONS = ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0))
"""Rows R, A, S; column n is where axis n points: i left, j to the back, k to the head, as DICOM axial scans lie."""


class Attachment(StrEnum):
    """What a nodule touches."""

    ISOLATED = "isolated"
    JUXTAPLEURAL = "juxtapleural"
    JUXTAVASCULAR = "juxtavascular"


class Margin(StrEnum):
    """What a nodule's edge looks like."""

    SMOOTH = "smooth"
    LOBULATED = "lobulated"
    SPICULATED = "spiculated"


class Kernel(StrEnum):
    """Reconstruction kernel: how sharp the image is and how coarse its noise."""

    SOFT = "soft"
    STANDARD = "standard"
    SHARP = "sharp"


@dataclass(frozen=True, slots=True, kw_only=True)
class NoduleSpec:
    """One nodule to place.

    Attributes:
        diameter_mm: of the sphere with the same volume, 3–40 mm.
        kind: attenuation type.
        attachment: what it touches.
        margin: its edge.
        centre_ras_mm: where to put it; None lets the generator choose a place that fits the attachment.
        attenuation_hu: of its (ground-glass) body; None draws a plausible one.
    """

    diameter_mm: float
    kind: NoduleKind = NoduleKind.SOLID
    attachment: Attachment = Attachment.ISOLATED
    margin: Margin = Margin.SMOOTH
    centre_ras_mm: tuple[float, float, float] | None = None
    attenuation_hu: float | None = None

    def __post_init__(self) -> None:
        if not MIN_NODULE_MM <= self.diameter_mm <= MAX_NODULE_MM:
            raise InputError(
                f"A phantom nodule is {MIN_NODULE_MM:g}–{MAX_NODULE_MM:g} mm across, not {self.diameter_mm:g} mm."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class PhantomConfig:
    """A chest CT to make.

    Attributes:
        shape_ijk: voxels along i, j, k.
        spacing_mm: voxel size along i, j, k.
        nodules: what to place; None draws ``nodule_count`` of mixed kinds.
        nodule_count: how many to draw where ``nodules`` is None.
        kernel: sharpness and noise texture.
        noise_hu: standard deviation of the noise in the middle of the body; None takes the kernel's usual one.
        slice_thickness_mm: width of the slice profile at half height; None takes the spacing along k.
        contrast: whether contrast medium was given; None draws it (two in five).
        directions_ras: 3×3, column n is the unit vector of axis n in RAS; may be oblique or left-handed.
        centre_ras_mm: RAS position of the middle of the field of view in the file's own frame; the chest moves along.
        detail: vessels per lung and tree, as a fraction of the full number; less is faster.
        benign_findings: whether to add what is mistaken for nodules: scars, plaques, bony spurs, atelectasis.
    """

    shape_ijk: tuple[int, int, int] = (512, 512, 300)
    spacing_mm: tuple[float, float, float] = (0.7, 0.7, 1.0)
    nodules: tuple[NoduleSpec, ...] | None = None
    nodule_count: int = 3
    kernel: Kernel = Kernel.STANDARD
    noise_hu: float | None = None
    slice_thickness_mm: float | None = None
    contrast: bool | None = None
    directions_ras: tuple[tuple[float, float, float], ...] = STANDARD_DIRECTIONS
    centre_ras_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    detail: float = 1.0
    benign_findings: bool = False

    def __post_init__(self) -> None:
        if self.nodule_count < 0:
            raise InputError(f"nodule_count is {self.nodule_count}; it cannot be negative.")
        if self.noise_hu is not None and self.noise_hu < 0:
            raise InputError(f"noise_hu is {self.noise_hu:g}; it cannot be negative.")
        if self.slice_thickness_mm is not None and self.slice_thickness_mm <= 0:
            raise InputError(f"slice_thickness_mm is {self.slice_thickness_mm:g}; it must be positive.")
        if not 0.0 < self.detail <= 1.0:
            raise InputError(f"detail is {self.detail:g}; it is a fraction above 0 and at most 1.")
        if min(self.spacing_mm) <= 0:
            raise InputError(f"spacing_mm is {self.spacing_mm}; every spacing must be positive.")
        self.geometry()

    def geometry(self) -> VolumeGeometry:
        """The grid this asks for."""
        affine = np.eye(4)
        affine[:3, :3] = np.asarray(self.directions_ras, dtype=np.float64) * np.asarray(self.spacing_mm)
        middle_ijk = (np.asarray(self.shape_ijk) - 1) / 2
        affine[:3, 3] = np.asarray(self.centre_ras_mm) - affine[:3, :3] @ middle_ijk
        return VolumeGeometry(shape_ijk=self.shape_ijk, affine_ijk_to_ras_mm=affine)
