"""Finds candidates for nodules: a first network marks places, a second one judges them.

Where the places come from is the weights' own choice: boxes of a RetinaNet ("anchors"), bright round blobs
("blobs"), or both. A small network then looks at each place at two magnifications and says which are nodules: what is
rare among all voxels of the lungs is common among these places, so that it learns the difference better than the first
one can.

Threads: a detector keeps no state between calls and may be used by any number of them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medai.domain import Candidate, Volume
from medai.errors import CancelledByUserError, ModelError
from medai.inference.find_boxes import BoxFinder, Progress, Stop
from medai.inference.mirrored import FLIPS
from medai.networks.checkpoint import read_config
from medai.networks.engine import Engine, load_engine
from medai.preprocessing.blobs import find_blobs
from medai.preprocessing.candidate_patches import candidate_views
from medai.preprocessing.lung_copy import LungCopy, lung_copy
from medai.preprocessing.lung_mask import LungMask

TASK = "nodule_detection"
FINDER_PART, JUDGE_PART = "finder", "judge"
JUDGE_SPACING_MM = (1.0, 1.0, 1.0)
"""What the judge looks at where no finder says at which spacing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """From logits to the share of nodules among places of such logits: a logistic curve.

    Attributes:
        finder: factor of the finder's logit; 0 for blobs, which have none.
        judge: factor of the judge's logit; 0 where there is no judge.
        shift: added.
    """

    finder: float = 0.0
    judge: float = 0.0
    shift: float = 0.0

    def probability(self, finder_logits: NDArray[np.float64], judge_logits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Calibrated probabilities."""
        z = self.finder * finder_logits + self.judge * judge_logits + self.shift
        return np.asarray(1 / (1 + np.exp(-np.clip(z, -60, 60))))


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorConfig:
    """How candidates are judged.

    Attributes:
        candidates: "anchors", "blobs" or "both"; None takes what the weights say.
        batch_size: places a run of the judge; small enough for its activations to stay in a CPU's cache.
        seen_again: of a scan's places those the judge is surest of are seen in all mirrored views, and its logits
            averaged: so few that it costs little, so many that every place worth a mark is among them.
        least_probability: less probable candidates are not returned.
        same_within: two candidates are one where their centres are nearer than this share of the larger diameter.
    """

    candidates: str | None = None
    batch_size: int = 16
    seen_again: int = 40
    least_probability: float = 0.02
    same_within: float = 0.6


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A place to judge.

    Attributes:
        centre_ras_mm: RAS millimetres.
        diameter_mm: estimated.
        finder_logit: how sure the finder is; None for a blob.
    """

    centre_ras_mm: tuple[float, float, float]
    diameter_mm: float
    finder_logit: float | None


class NoduleDetector:
    """Volume and lungs to candidates; ``load_detector`` makes one from weights.

    Args:
        finder: marks boxes; None where places are blobs.
        judge: a loaded candidate network; None where the finder's word is all.
        calibrations: for "anchors" and for "blobs", as far as they are used.
        config: how candidates are judged.
        operating_probability: from here on a candidate is worth showing.

    Raises:
        ModelError: a part is missing for the kind of candidates asked for.
    """

    def __init__(
        self,
        finder: BoxFinder | None,
        judge: Engine | None,
        calibrations: dict[str, Calibration],
        config: DetectorConfig | None = None,
        *,
        operating_probability: float = 0.5,
    ) -> None:
        self.operating_probability = operating_probability
        self._config = config or DetectorConfig()
        candidates = self._config.candidates or "anchors"
        self._sources = ("anchors", "blobs") if candidates == "both" else (candidates,)
        for source in self._sources:
            if source not in ("anchors", "blobs"):
                raise ModelError(f"Candidates are 'anchors', 'blobs' or 'both', not '{source}'.")
            if source not in calibrations or (finder is None and source == "anchors"):
                raise ModelError(
                    f"These weights cannot be used with candidates '{source}': they were not trained for it."
                )
        self._finder, self._judge, self._calibrations = finder, judge, dict(calibrations)

    def detect(
        self,
        volume: Volume,
        lungs: LungMask,
        *,
        on_progress: Progress = lambda fraction: None,
        should_stop: Stop = lambda: False,
    ) -> list[Candidate]:
        """Find candidates.

        Args:
            volume: the scan.
            lungs: on the scan's grid; candidates lie in or at them.
            on_progress: told the share of the work done so far, 0–1.
            should_stop: asked between runs of the networks.

        Returns:
            Candidates with calibrated probabilities, most probable first.

        Raises:
            CancelledByUserError: ``should_stop`` said so.
        """
        found = self.detect_all(volume, lungs, on_progress=on_progress, should_stop=should_stop)
        return [candidate for candidate in found if candidate.probability >= self._config.least_probability]

    def detect_all(
        self,
        volume: Volume,
        lungs: LungMask,
        *,
        on_progress: Progress = lambda fraction: None,
        should_stop: Stop = lambda: False,
    ) -> list[Candidate]:
        """Find candidates however improbable: the marks of a FROC curve."""
        spacing_mm = self._finder.spacing_ras_mm if self._finder else JUDGE_SPACING_MM
        copy = lung_copy(volume, lungs, spacing_mm)
        if copy is None:
            return []
        found: list[Candidate] = []
        for number, source in enumerate(self._sources):
            begin, share = number / len(self._sources), 1 / len(self._sources)
            if source == "blobs":
                places = blob_places(volume, lungs)
            else:
                places = self.box_places(
                    copy, on_progress=_part(on_progress, begin, 0.8 * share), should_stop=should_stop
                )
            found += self.judged(copy, places, source, should_stop=should_stop)
            on_progress(begin + share)
        return most_probable_apart(found, self._config.same_within)

    def box_places(
        self,
        copy: LungCopy,
        *,
        on_progress: Progress = lambda fraction: None,
        should_stop: Stop = lambda: False,
    ) -> list[Place]:
        """What the finder marks.

        Raises:
            ModelError: there is no finder.
        """
        if self._finder is None:
            raise ModelError("This detector has no finder: it judges blobs.")
        return [
            Place(centre_ras_mm=box.centre_ras_mm, diameter_mm=box.diameter_mm, finder_logit=box.logit)
            for box in self._finder.find(copy, on_progress=on_progress, should_stop=should_stop)
        ]

    def judged(
        self, copy: LungCopy, places: Sequence[Place], source: str, *, should_stop: Stop = lambda: False
    ) -> list[Candidate]:
        """Places with the probability that they are nodules, in their order."""
        logits = self.logits(copy, places, should_stop=should_stop)
        probabilities = self._calibrations[source].probability(logits[:, 0], logits[:, 1])
        return [
            Candidate(centre_ras_mm=p.centre_ras_mm, diameter_mm=p.diameter_mm, probability=float(probability))
            for p, probability in zip(places, probabilities, strict=True)
        ]

    def logits(
        self, copy: LungCopy, places: Sequence[Place], *, should_stop: Stop = lambda: False
    ) -> NDArray[np.float64]:
        """What both networks say of each place.

        Returns:
            Shape [N, 2]: the finder's logit, 0 for blobs, and the judge's, 0 without a judge.
        """
        logits = np.zeros((len(places), 2))
        logits[:, 0] = [place.finder_logit or 0.0 for place in places]
        if self._judge is None:
            return logits
        logits[:, 1] = self._judge_logits(self._judge, copy, places, should_stop)
        return logits

    def _judge_logits(
        self, judge: Engine, copy: LungCopy, places: Sequence[Place], should_stop: Stop
    ) -> NDArray[np.float64]:
        """What the judge says of each place, the likely ones seen from all sides."""
        if not places:
            return np.zeros(0)
        scan = Volume(geometry=copy.geometry, image_hu=copy.image_hu)
        views = np.stack([candidate_views(scan, place.centre_ras_mm, place.diameter_mm) for place in places])

        def judged(some: NDArray[np.float32], flips: Sequence[tuple[int, ...]]) -> NDArray[np.float64]:
            found = np.zeros(len(some))
            for axes in flips:
                seen = np.flip(some, [2 + axis for axis in axes])
                for begin in range(0, len(seen), self._config.batch_size):
                    if should_stop():
                        raise CancelledByUserError("Looking for nodules was stopped; nothing was kept.")
                    batch = slice(begin, begin + self._config.batch_size)
                    found[batch] += judge.run(np.ascontiguousarray(seen[batch])).reshape(-1)
            return found

        logits = judged(views, FLIPS[:1])
        likely = np.argsort(-logits, kind="stable")[: self._config.seen_again]
        logits[likely] = (logits[likely] + judged(views[likely], FLIPS[1:])) / len(FLIPS)
        return logits


def load_detector(
    weights_path: Path,
    *,
    config: DetectorConfig | None = None,
    device: str = "auto",
    cache_folder: Path | None = None,
    wrap: Callable[[Engine], Engine] = lambda engine: engine,
) -> NoduleDetector:
    """Make a detector from weights.

    Args:
        weights_path: published weights, or ``model.pt`` of MONAI Model Zoo's ``lung_nodule_ct_detection``.
        config: how candidates are judged.
        device: see ``medai.networks.engine.load_engine``.
        cache_folder: where converted networks are kept; None converts at every load.
        wrap: put around each engine, to time it.

    Raises:
        ModelError: the weights are missing, damaged or of another task.
    """
    if weights_path.suffix == ".pt":
        from medai.networks.zoo_weights import convert_zoo_weights

        with tempfile.TemporaryDirectory(prefix="medai-zoo-") as folder:
            converted = convert_zoo_weights(weights_path, Path(folder) / "weights.safetensors")
            return load_detector(converted, config=config, device=device, cache_folder=cache_folder, wrap=wrap)
    whole = read_config(weights_path)
    if whole.get("task") != TASK:
        raise ModelError(f"These weights are for '{whole.get('task')}', not for '{TASK}'.")
    parts: dict[str, Any] = whole.get("parts", {})
    if not parts:
        # Before there was a finder: the judge of blobs alone.
        calibration = Calibration(judge=float(whole["logit_scale"]), shift=float(whole["logit_shift"]))
        judge = wrap(load_engine(weights_path, device=device, cache_folder=cache_folder))
        return NoduleDetector(
            None, judge, {"blobs": calibration}, replace(config or DetectorConfig(), candidates="blobs")
        )

    def engine(part: str) -> Engine:
        return wrap(load_engine(weights_path, part=part, device=device, cache_folder=cache_folder))

    config = config or DetectorConfig()
    candidates = config.candidates or whole["candidates"]
    needs_finder = candidates != "blobs" and FINDER_PART in parts
    return NoduleDetector(
        BoxFinder(engine(FINDER_PART)) if needs_finder else None,
        engine(JUDGE_PART) if JUDGE_PART in parts else None,
        {source: Calibration(**values) for source, values in whole["calibrations"].items()},
        replace(config, candidates=candidates),
        operating_probability=float(whole.get("operating_probability", 0.5)),
    )


def _part(on_progress: Progress, begin: float, share: float) -> Progress:
    """Tell the progress of a part of the work as that of the whole."""
    return lambda fraction: on_progress(begin + share * fraction)


def blob_places(volume: Volume, lungs: LungMask) -> list[Place]:
    """Blobs in the lungs as places to judge."""
    return [
        Place(centre_ras_mm=blob.centre_ras_mm, diameter_mm=blob.diameter_mm, finder_logit=None)
        for blob in find_blobs(volume, lungs)
    ]


def most_probable_apart(candidates: list[Candidate], same_within: float) -> list[Candidate]:
    """Keep the most probable of candidates that lie within each other.

    Args:
        candidates: any order.
        same_within: share of the larger diameter within which two centres are one place.

    Returns:
        The remaining ones, most probable first.
    """
    ordered = sorted(candidates, key=lambda c: (-c.probability, c.centre_ras_mm))
    centres_mm = np.array([c.centre_ras_mm for c in ordered]).reshape(-1, 3)
    diameters_mm = np.array([c.diameter_mm for c in ordered])
    kept: list[int] = []
    for n in range(len(ordered)):
        apart_mm = np.linalg.norm(centres_mm[kept] - centres_mm[n], axis=1)
        if np.all(apart_mm > same_within * np.maximum(diameters_mm[kept], diameters_mm[n])):
            kept.append(n)
    return [ordered[n] for n in kept]
