"""Makes the starter weights of ``nodule_detection`` from scratch, from scans to one weights file.

    1. Scans are made (real nodules in phantom and real lungs, phantom nodules) and brought to the detector's spacing.
    2. The finder learns to mark nodules; two thirds through, what it marks wrongly is noted and shown to it more often.
    3. The judge learns to tell nodules from what the finder marks wrongly, and from the blobs of the real cubes.
    4. On scans neither has seen, the probabilities are calibrated and the threshold for whole scans is chosen.

Everything is written below one folder and nothing is made twice: an interrupted run goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medai.domain import Candidate, Volume
from medai.domain.detection_case import DetectionCase, TrueNodule
from medai.errors import CancelledByUserError, InputError
from medai.inference.detect import (
    FINDER_PART,
    JUDGE_PART,
    TASK,
    Calibration,
    DetectorConfig,
    NoduleDetector,
    blob_places,
    load_detector,
)
from medai.networks.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, save_parts
from medai.preprocessing.lung_mask import LungMask
from medai.training.candidate_samples import CandidateSamples, relation_to, samples_of_scan
from medai.training.candidate_trainer import (
    CandidateTrainingConfig,
    fit_calibration,
    judge_checkpoint,
    train_candidate_network,
)
from medai.training.dataset import is_validation_patient
from medai.training.detection_scans import PreparedScan, find_prepared, prepare_scan
from medai.training.detection_trainer import DetectionTrainingConfig, train_detection_network
from medai.training.lidc import lidc_cases
from medai.volume_io.atomic import atomic_path
from medai.workflows.detection_cases import training_case

WEIGHTS_FILE = "weights.safetensors"
CONFIG_FILE = "training_config.json"
_FINDER_FILE, _JUDGE_FILE, _HARD_FILE = "finder.safetensors", "judge.safetensors", "hard_places.npz"
CANDIDATES = "anchors"
"""Where the starter's candidates come from; the card holds the curves of the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StarterDetectionConfig:
    """What goes into the starter weights.

    Attributes:
        cases: scans made; the last ``calibration_cases`` of them calibrate, the others are learned from.
        calibration_cases: scans that no network learns from.
        finder: training of the network that marks places.
        mined_after: share of the finder's steps after which its mistakes are noted.
        mined_scans: scans they are noted on.
        judge: training of the network that judges them.
        variants: shifted copies of each nodule that the judge sees.
        most_negatives: places of a scan that the judge sees, at most.
        scan_specificity: of the scans without nodules, this share is to stay without a mark.
        seed: of the first scan.
    """

    cases: int = 120
    calibration_cases: int = 20
    finder: DetectionTrainingConfig = field(default_factory=DetectionTrainingConfig)
    mined_after: float = 0.65
    mined_scans: int = 60
    judge: CandidateTrainingConfig = field(default_factory=lambda: CandidateTrainingConfig(steps=4000))
    variants: int = 8
    most_negatives: int = 80
    scan_specificity: float = 0.8
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """For the card and for comparing with an earlier run."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class JudgedPlaces:
    """Places of calibration scans with what both networks say; rows belong together.

    Attributes:
        logits: [N, 2], the finder's and the judge's.
        labels: True for nodules.
        scans: number of each place's scan.
        empty: numbers of the scans that hold no nodule.
    """

    logits: NDArray[np.float64]
    labels: NDArray[np.bool_]
    scans: NDArray[np.int64]
    empty: tuple[int, ...]


def train_starter_detection(
    real_data: Path | None,
    output_folder: Path,
    config: StarterDetectionConfig | None = None,
    *,
    make_case: Callable[[int, Path | None], DetectionCase] = training_case,
    device: str = "cpu",
    resume: bool = True,
    on_message: Callable[[str], None] = lambda text: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Path:
    """Train, calibrate and write the starter weights.

    Args:
        real_data: folder with ``lidc_nodules``, ``lidc_cubes`` and ``dicom``; None for phantoms alone.
        output_folder: holds everything that is made.
        config: what goes in.
        make_case: makes a scan from its number.
        device: "cpu" or "cuda".
        resume: False trains anew; the scans made before are kept.
        on_message: told what is being done.
        should_stop: asked now and then; what is made stays.

    Returns:
        The weights file.

    Raises:
        InputError: the folder is of a run with another configuration.
        CancelledByUserError: ``should_stop`` said so.
    """
    config = config or StarterDetectionConfig()
    _remember(output_folder / CONFIG_FILE, config)
    if not resume:
        for name in ("detection_training.pt", _FINDER_FILE, _JUDGE_FILE, _HARD_FILE):
            (output_folder / name).unlink(missing_ok=True)
    numbers = range(config.seed, config.seed + config.cases)
    scans: list[PreparedScan] = []
    for done, number in enumerate(numbers, start=1):
        if should_stop():
            raise CancelledByUserError(f"Making scans was stopped at {done - 1} of {config.cases}; they are kept.")
        on_message(f"scan {done} of {config.cases}")
        name = f"{number:05d}"
        folder = output_folder / "scans"
        known = find_prepared(folder, name)
        scans.append(
            known or prepare_scan(make_case(number, real_data), folder, config.finder.spacing_ras_mm, name=name)
        )
    learned, calibrating = scans[: -config.calibration_cases], scans[-config.calibration_cases :]
    cubes = [] if real_data is None else cube_cases(real_data / "lidc_cubes")
    finder = _trained_finder(learned, config, output_folder, device, on_message, should_stop)
    judge = _trained_judge(finder, learned, cubes, config, output_folder, device, on_message, should_stop)
    on_message("calibration")
    weights_path = output_folder / WEIGHTS_FILE
    write_detector(weights_path, finder, judge, calibrations={s: Calibration() for s in ("anchors", "blobs")})
    calibrate(weights_path, calibrating, scan_specificity=config.scan_specificity, device=device)
    return weights_path


def _remember(path: Path, config: StarterDetectionConfig) -> None:
    """Keep the configuration beside what is made by it."""
    if path.is_file():
        if json.loads(path.read_text(encoding="utf-8")) != config.to_json():
            raise InputError(f"{path.parent} holds a training with another configuration: name another folder.")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(config.to_json(), indent=1) + "\n", encoding="utf-8")


def _trained_finder(
    scans: Sequence[PreparedScan],
    config: StarterDetectionConfig,
    folder: Path,
    device: str,
    on_message: Callable[[str], None],
    should_stop: Callable[[], bool],
) -> Checkpoint:
    """The network that marks places, its mistakes shown again in the last part of its training."""
    path = folder / _FINDER_FILE
    if path.is_file():
        return load_checkpoint(path)

    def told(step: int, class_loss: float, box_loss: float) -> None:
        if step % 50 == 0:
            on_message(f"finder: step {step} of {config.finder.steps}, losses {class_loss:.3f} and {box_loss:.3f}")

    def train(until_step: int | None, hard: Mapping[str, NDArray[np.float32]] | None) -> Checkpoint:
        return train_detection_network(
            scans,
            config.finder,
            output_folder=folder,
            hard_places=hard,
            until_step=until_step,
            device=device,
            on_step=told,
            should_stop=should_stop,
        )

    hard_path = folder / _HARD_FILE
    if not hard_path.is_file():
        early = train(round(config.mined_after * config.finder.steps), None)
        on_message("noting the finder's mistakes")
        hard = mistakes_of(early, scans[: config.mined_scans], folder, device)
        with atomic_path(hard_path) as temporary, temporary.open("wb") as stream:
            np.savez(stream, **hard)
    with np.load(hard_path) as stored:
        finder = train(None, {name: stored[name] for name in stored.files})
    save_checkpoint(path, finder.tensors, finder.config)
    return finder


def mistakes_of(
    finder: Checkpoint, scans: Sequence[PreparedScan], folder: Path, device: str
) -> dict[str, NDArray[np.float32]]:
    """Index of the surest wrong marks of each scan, by case."""
    detector = finder_alone(finder, folder / "mining.safetensors", device)
    hard: dict[str, NDArray[np.float32]] = {}
    for scan in scans:
        places = [_candidate(place) for place in detector.box_places(scan.copy())]
        known = [*scan.true_nodules(), *scan.irrelevant()]
        wrong = [place.centre_ras_mm for place in places if relation_to(place, known) == "other"][:40]
        if wrong:
            hard[scan.case_id] = scan.geometry.ras_to_ijk(np.array(wrong)).astype(np.float32)
    return hard


def _trained_judge(
    finder: Checkpoint,
    scans: Sequence[PreparedScan],
    cubes: Sequence[DetectionCase],
    config: StarterDetectionConfig,
    folder: Path,
    device: str,
    on_message: Callable[[str], None],
    should_stop: Callable[[], bool],
) -> Checkpoint:
    """The network that judges places."""
    path = folder / _JUDGE_FILE
    if path.is_file():
        return load_checkpoint(path)
    detector = finder_alone(finder, folder / "mining.safetensors", device)
    rng = np.random.default_rng((config.seed, 1))
    parts: list[CandidateSamples] = []
    for number, scan in enumerate(scans, start=1):
        if should_stop():
            raise CancelledByUserError("Collecting the judge's examples was stopped.")
        on_message(f"examples of scan {number} of {len(scans)}")
        parts.append(samples_of(scan, detector, rng, variants=config.variants, most_negatives=config.most_negatives))
    parts += [_samples_of_cube(case, rng) for case in cubes]
    network = train_candidate_network(
        CandidateSamples.join(parts),
        config.judge,
        on_step=lambda step, loss: on_message(f"judge: step {step}, loss {loss:.3f}") if step % 50 == 0 else None,
        should_stop=should_stop,
    )
    judge = judge_checkpoint(network)
    save_checkpoint(path, judge.tensors, judge.config)
    return judge


def samples_of(
    scan: PreparedScan,
    detector: NoduleDetector,
    rng: np.random.Generator,
    *,
    variants: int,
    most_negatives: int,
) -> CandidateSamples:
    """What the judge learns from a scan: the finder's marks, and blobs that look as round.

    Args:
        scan: its nodules are all known.
        detector: with a finder.
        rng: shifts and choices.
        variants: shifted copies of each nodule.
        most_negatives: wrong places, half of either sort at most.
    """
    copy = scan.copy()
    seen = Volume(geometry=copy.geometry, image_hu=copy.image_hu)
    lungs = LungMask(geometry=copy.geometry, labels=copy.inside.astype(np.uint8), is_plausible=True)
    marked = [_candidate(place) for place in detector.box_places(copy)]
    blobs = [_candidate(place) for place in blob_places(seen, lungs)]
    parts = [
        samples_of_scan(
            seen,
            places,
            scan.true_nodules(),
            rng,
            irrelevant=scan.irrelevant(),
            family="made",
            variants=copies,
            most_negatives=most_negatives // 2,
        )
        for places, copies in ((marked, variants), (blobs, 0))
    ]
    return CandidateSamples.join(parts)


CUBE_MARGIN_MM = 13.0
"""Blobs nearer to a cube's side are not used: their views would be mostly repeated border."""
LARGEST_BLOB_IN_CUBE_MM = 20.0
"""Of a cube of 51 mm nothing larger can be seen from far enough away."""


def cube_cases(folder: Path, *, held_back: bool = False) -> list[DetectionCase]:
    """The real cubes of ``lidc_cubes``: a nodule each, with the vessels beside it."""
    cases: list[DetectionCase] = []
    for case in lidc_cases(folder) if folder.is_dir() else []:
        if is_validation_patient(case.patient_id) == held_back:
            geometry = case.volume.geometry
            x, y, z = (float(c) for c in geometry.ijk_to_ras(np.argwhere(case.mask).mean(axis=0)))
            diameter_mm = float((6 / np.pi * case.mask.sum() * geometry.voxel_volume_mm3) ** (1 / 3))
            nodule = TrueNodule(centre_ras_mm=(x, y, z), diameter_mm=max(diameter_mm, 3.0), source=case.case_id)
            cases.append(
                DetectionCase(
                    case_id=case.case_id, patient_ids=(case.patient_id,), volume=case.volume, nodules=(nodule,)
                )
            )
    return cases


def _samples_of_cube(case: DetectionCase, rng: np.random.Generator) -> CandidateSamples:
    """A real nodule, and the real vessels beside it."""
    from medai.preprocessing.lung_mask import segment_lungs

    middle = (np.asarray(case.volume.geometry.shape_ijk) - 1) / 2
    places = [
        _candidate(place)
        for place in blob_places(case.volume, segment_lungs(case.volume))
        if np.all(np.abs(case.volume.geometry.ras_to_ijk(place.centre_ras_mm) - middle) < CUBE_MARGIN_MM)
        and place.diameter_mm <= LARGEST_BLOB_IN_CUBE_MM
    ]
    # Spicules and satellites reach beyond the readers' outline: they are no fair negatives.
    (nodule,) = case.nodules
    wide = TrueNodule(centre_ras_mm=nodule.centre_ras_mm, diameter_mm=1.6 * nodule.diameter_mm)
    return samples_of_scan(case.volume, places, case.nodules, rng, irrelevant=(wide,), family="real", variants=12)


def calibrate(
    weights_path: Path, scans: Sequence[PreparedScan], *, scan_specificity: float, device: str = "cpu"
) -> None:
    """Fit the probabilities of a detector on whole scans, choose its threshold, and write both into its weights.

    Args:
        weights_path: of a detector with a finder and a judge; rewritten.
        scans: that neither network has learned from.
        scan_specificity: of the scans without nodules, this share is to stay without a mark.
        device: see ``medai.networks.engine.load_engine``.
    """
    finder, judge = (load_checkpoint(weights_path, part=part) for part in (FINDER_PART, JUDGE_PART))
    detector = load_detector(weights_path, config=DetectorConfig(candidates="both"), device=device)
    calibrations: dict[str, Calibration] = {}
    thresholds: dict[str, float] = {}
    for source in ("anchors", "blobs"):
        seen = judged_places(detector, scans, source)
        columns = [0, 1] if source == "anchors" else [1]
        factors, shift = fit_calibration(seen.logits[:, columns], seen.labels)
        found = Calibration(
            finder=float(factors[0]) if len(columns) == 2 else 0.0, judge=float(factors[-1]), shift=shift
        )
        calibrations[source] = found
        thresholds[source] = operating_probability(seen, found, scan_specificity)
    write_detector(weights_path, finder, judge, calibrations=calibrations, threshold=thresholds[CANDIDATES])


def judged_places(detector: NoduleDetector, scans: Sequence[PreparedScan], source: str) -> JudgedPlaces:
    """What both networks say of the places of some scans; those at a nodule's rim are left out."""
    logits: list[NDArray[np.float64]] = []
    labels: list[bool] = []
    numbers: list[int] = []
    for number, scan in enumerate(scans):
        copy = scan.copy()
        seen = Volume(geometry=copy.geometry, image_hu=copy.image_hu)
        lungs = LungMask(geometry=copy.geometry, labels=copy.inside.astype(np.uint8), is_plausible=True)
        places = detector.box_places(copy) if source == "anchors" else blob_places(seen, lungs)
        for place, logit in zip(places, detector.logits(copy, places), strict=True):
            candidate = _candidate(place)
            relation = relation_to(candidate, scan.true_nodules())
            if relation != "near" and relation_to(candidate, scan.irrelevant()) == "other":
                logits.append(logit)
                labels.append(relation == "nodule")
                numbers.append(number)
    return JudgedPlaces(
        logits=np.array(logits).reshape(-1, 2),
        labels=np.array(labels, dtype=bool),
        scans=np.array(numbers, dtype=np.int64),
        empty=tuple(number for number, scan in enumerate(scans) if not len(scan.nodules)),
    )


def operating_probability(seen: JudgedPlaces, calibration: Calibration, scan_specificity: float) -> float:
    """The probability from which a candidate is shown: enough scans without nodules must stay without a mark.

    False marks come one scan at a time, about as often in scans with nodules as in those without: each scan's most
    probable false mark counts.

    Returns:
        Between 0.2 and 0.9: what lies outside rests on too few scans.
    """
    probabilities = calibration.probability(seen.logits[:, 0], seen.logits[:, 1])
    numbers = np.union1d(np.unique(seen.scans), np.array(seen.empty, dtype=np.int64))
    highest = [float(np.max(probabilities[(seen.scans == n) & ~seen.labels], initial=0.0)) for n in numbers]
    return float(np.clip(np.quantile(highest, scan_specificity), 0.2, 0.9)) if highest else 0.5


def write_detector(
    path: Path,
    finder: Checkpoint | None,
    judge: Checkpoint | None,
    *,
    calibrations: Mapping[str, Calibration],
    candidates: str = CANDIDATES,
    threshold: float = 0.5,
) -> None:
    """Write the parts of a detector into one weights file."""
    parts = {name: part for name, part in ((FINDER_PART, finder), (JUDGE_PART, judge)) if part is not None}
    save_parts(
        path,
        parts,
        {
            "network": "nodule_detector",
            "task": TASK,
            "candidates": candidates,
            "calibrations": {source: asdict(calibration) for source, calibration in calibrations.items()},
            "operating_probability": threshold,
        },
    )


def finder_alone(finder: Checkpoint, path: Path, device: str) -> NoduleDetector:
    """A detector that marks places and judges nothing."""
    write_detector(path, finder, None, calibrations={"anchors": Calibration(finder=1.0)})
    try:
        return load_detector(path, device=device)
    finally:
        path.unlink()


def _candidate(place: Any) -> Candidate:
    logit = 0.0 if place.finder_logit is None else place.finder_logit
    return Candidate(
        centre_ras_mm=place.centre_ras_mm,
        diameter_mm=place.diameter_mm,
        probability=float(1 / (1 + np.exp(-np.clip(logit, -60, 60)))),
    )


def prepared(cases: Iterable[DetectionCase], folder: Path, spacing_ras_mm: Sequence[float]) -> list[PreparedScan]:
    """Cases at a detector's spacing, one in memory at a time; those without lungs are left out."""
    scans: list[PreparedScan] = []
    for case in cases:
        try:
            scans.append(prepare_scan(case, folder, spacing_ras_mm))
        except InputError:
            continue
    return scans
