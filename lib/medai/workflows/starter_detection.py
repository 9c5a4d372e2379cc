"""Makes the starter weights of ``nodule_detection``: from the real nodules and phantoms to a calibrated checkpoint.

Run once by a maintainer with ``../shared/data`` at hand (about half an hour on one core); the result travels in the
package. Patients of the real nodules are held back by hash, and the first phantoms by number: they calibrate and are
what the card's figures are measured on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medai.domain import Volume
from medai.domain.click_case import ClickCase
from medai.networks.engine import load_engine
from medai.phantom import Kernel, PhantomConfig, make_phantom
from medai.preprocessing.blobs import Blob, find_blobs
from medai.preprocessing.candidate_patches import candidate_views
from medai.preprocessing.lung_mask import segment_lungs
from medai.training.candidate_samples import (
    CandidateSamples,
    KnownNodule,
    jittered_views,
    relation_to,
    samples_of_scan,
)
from medai.training.candidate_trainer import (
    CandidateTrainingConfig,
    fit_calibration,
    save_candidate_network,
    train_candidate_network,
)
from medai.training.lidc import lidc_cases
from medai.volume_io.readers import read_volume

HELD_BACK_PHANTOMS = 12
LARGEST_BLOB_IN_CUBE_MM = 20.0
"""Of a cube of 51 mm nothing larger can be seen from far enough away."""
CUBE_MARGIN_MM = 13.0
"""Blobs nearer to a cube's side are not used: their views would be mostly repeated border."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RealScan:
    """A real scan, or a slab of one, for its vessels and walls.

    Attributes:
        path: a scan file or a DICOM folder.
        nodules: all it holds, generously sized; blobs in and around them are not used.
    """

    path: Path
    nodules: tuple[KnownNodule, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StarterDetectionConfig:
    """How much goes into the starter weights.

    Attributes:
        phantoms: how many are made; the first ``HELD_BACK_PHANTOMS`` are held back.
        training: of the network.
    """

    phantoms: int = 60
    training: CandidateTrainingConfig = CandidateTrainingConfig(steps=1200)  # noqa: RUF009 - frozen


def train_starter_detection(
    real_data: Path,
    weights_path: Path,
    config: StarterDetectionConfig | None = None,
    *,
    real_scans: Sequence[RealScan] = (),
    on_message: Callable[[str], None] = lambda text: None,
) -> None:
    """Train, calibrate and write the starter weights.

    Args:
        real_data: the folder with ``lidc_cubes`` and ``lidc_nodules``.
        weights_path: the safetensors file to write.
        config: how much goes in.
        real_scans: further sources of what is no nodule.
        on_message: told what is being done.
    """
    config = config or StarterDetectionConfig()
    rng = np.random.default_rng(5)
    parts = [*_cube_samples(real_data / "lidc_cubes", rng), *_crop_samples(real_data / "lidc_nodules", rng)]
    parts += [_scan_negatives(scan, rng) for scan in real_scans]
    for number, (volume, nodules) in enumerate(_phantoms(HELD_BACK_PHANTOMS, config.phantoms)):
        on_message(f"phantom {number + 1} of {config.phantoms - HELD_BACK_PHANTOMS}")
        blobs = find_blobs(volume, segment_lungs(volume))
        parts.append(samples_of_scan(volume, blobs, nodules, rng, family="phantom", variants=12, most_negatives=260))
    samples = CandidateSamples.join(parts)
    network = train_candidate_network(
        samples, config.training, on_step=lambda step, loss: on_message(f"step {step + 1}: loss {loss:.3f}")
    )
    save_candidate_network(weights_path, network, logit_scale=1.0, logit_shift=0.0)
    scale, shift = _calibration(weights_path, min(HELD_BACK_PHANTOMS, config.phantoms))
    save_candidate_network(weights_path, network, logit_scale=scale, logit_shift=shift)


def is_held_back(patient_id: str) -> bool:
    """True for one patient in six, for good: their nodules are never trained on."""
    return int(hashlib.sha256(patient_id.encode()).hexdigest(), 16) % 6 == 0


def _cube_samples(folder: Path, rng: np.random.Generator) -> Iterator[CandidateSamples]:
    """Nodules with all their surroundings, and the vessels beside them."""
    for case in lidc_cases(folder):
        if is_held_back(case.patient_id):
            continue
        nodule = known_nodule(case)
        middle = (np.asarray(case.volume.geometry.shape_ijk) - 1) / 2
        blobs = [
            blob
            for blob in find_blobs(case.volume, segment_lungs(case.volume))
            if np.all(np.abs(case.volume.geometry.ras_to_ijk(blob.centre_ras_mm) - middle) < CUBE_MARGIN_MM)
            and blob.diameter_mm <= LARGEST_BLOB_IN_CUBE_MM
        ]
        # Spicules and satellites reach beyond the reader's outline: they are no fair negatives.
        wide = KnownNodule(centre_ras_mm=nodule.centre_ras_mm, diameter_mm=1.6 * nodule.diameter_mm)
        yield _positives(case.volume, nodule, rng, variants=12)
        yield samples_of_scan(case.volume, blobs, [wide], rng, family="real", variants=0, crop_share=0.5)


def _crop_samples(folder: Path, rng: np.random.Generator) -> Iterator[CandidateSamples]:
    """Many nodules, cut off above and below."""
    for case in lidc_cases(folder):
        if not is_held_back(case.patient_id):
            yield _positives(case.volume, known_nodule(case), rng, variants=4)


def _positives(volume: Volume, nodule: KnownNodule, rng: np.random.Generator, *, variants: int) -> CandidateSamples:
    views = [jittered_views(volume, nodule, rng) for _ in range(variants)]
    return CandidateSamples.of(views, label=True, family="real")


def known_nodule(case: ClickCase) -> KnownNodule:
    """Centre and diameter of the ball with the mask's volume."""
    geometry = case.volume.geometry
    x, y, z = (float(c) for c in geometry.ijk_to_ras(np.argwhere(case.mask).mean(axis=0)))
    diameter_mm = float((6 / np.pi * case.mask.sum() * geometry.voxel_volume_mm3) ** (1 / 3))
    return KnownNodule(centre_ras_mm=(x, y, z), diameter_mm=max(diameter_mm, 3.0))


def _scan_negatives(scan: RealScan, rng: np.random.Generator) -> CandidateSamples:
    """What is no nodule in a real scan, whole and cut off like a crop."""
    volume = read_volume(scan.path)
    blobs = [b for b in find_blobs(volume, segment_lungs(volume)) if relation_to(b, scan.nodules) == "other"]
    return samples_of_scan(volume, blobs, [], rng, family="real", variants=0, crop_share=1.0)


def _phantoms(first: int, stop: int) -> Iterator[tuple[Volume, list[KnownNodule]]]:
    """Phantoms of many slice distances, kernels and noise levels, each by its own number."""
    for number in range(first, stop):
        rng = np.random.default_rng(1000 + number)
        in_plane_mm, slice_mm = float(rng.uniform(0.7, 0.9)), float(rng.choice([1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 5.0]))
        phantom = make_phantom(
            PhantomConfig(
                shape_ijk=(round(330 / in_plane_mm), round(270 / in_plane_mm), round(290 / slice_mm)),
                spacing_mm=(in_plane_mm, in_plane_mm, slice_mm),
                nodule_count=int(rng.integers(7, 12)),
                kernel=list(Kernel)[int(rng.integers(3))],
                noise_hu=float(rng.uniform(12, 35)),
            ),
            rng,
        )
        nodules = [KnownNodule(centre_ras_mm=n.centre_ras_mm, diameter_mm=n.diameter_mm) for n in phantom.nodules]
        yield phantom.volume, nodules


def _calibration(weights_path: Path, phantoms: int) -> tuple[float, float]:
    """Platt's scale and shift on all blobs of the held-back phantoms."""
    engine = load_engine(weights_path, device="cpu")
    logits: list[NDArray[np.float32]] = []
    labels: list[bool] = []
    for volume, nodules in _phantoms(0, phantoms):
        blobs = find_blobs(volume, segment_lungs(volume))
        related: list[tuple[Blob, str]] = [(blob, relation_to(blob, nodules)) for blob in blobs]
        for blob, relation in related:
            if relation != "near":
                views = candidate_views(volume, blob.centre_ras_mm, blob.diameter_mm)
                logits.append(engine.run(views[None]).reshape(-1))
                labels.append(relation == "nodule")
    return fit_calibration(np.concatenate(logits).astype(np.float64), np.array(labels))
