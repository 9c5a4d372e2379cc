"""The scans that share one series UID, told apart.

A SeriesInstanceUID should name one scan. Anonymisers give one to two patients, scanners file the phases of the heart or
two kernels under it, archives merge two passes. Stacked by position their slices alternate, and nothing in the volume
shows it. So slices are divided:

- always, where patient, study, frame of reference, kernel or the image plane differ;
- where slices contend for the same positions, or whole stacks lie between one another: by the header value, or by the
  order of InstanceNumber or time, that explains it.

What merely varies along a scan divides nothing: an AcquisitionNumber for each position of the table, a time for each
slice.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medai.volume_io.dicom_headers import FILE_OF_FRAMES, SHOWN_TRAITS, TRAIT_KEYWORDS, Frame

SAME_POSITION_MM = 0.01
_SAME_DIRECTION = 1e-3
_SAME_PIXEL_SIZE = 1e-3
_UNEVEN = 0.25
_OVERLAPPING = 0.5
_FAR_APART = 5
_FEWEST_SLICES = 3
_LONGEST_LABEL = 40

_PERSON_KEYWORDS = ("PatientBirthDate", "PatientSex", "PatientName")
_KEYWORDS = (*(keyword for keyword in TRAIT_KEYWORDS if keyword not in _PERSON_KEYWORDS), FILE_OF_FRAMES)
# Values that change from slice to slice of one scan, or are free text, explain contended positions but no pattern.
_TOO_RESTLESS = {"ContentTime", "ImageComments", "DerivationDescription", "ReconstructionTargetCenterPatient"}
_PATTERN_KEYWORDS = tuple(keyword for keyword in _KEYWORDS if keyword not in _TOO_RESTLESS)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanPart:
    """The slices of one scan.

    Attributes:
        frames: its slices, in the order given.
        label: what sets it apart from the others, for people, "" where it is the only one.
        key: the same for programs: equal for the same slices given again, whatever is beside them.
        problem: why these slices cannot be told apart, or "".
    """

    frames: tuple[Frame, ...]
    label: str = ""
    key: str = ""
    problem: str = ""

    def below(self, label: str, key: str) -> ScanPart:
        """This part as a part of a larger one."""
        return ScanPart(
            frames=self.frames,
            label=", ".join(filter(None, (label, self.label))),
            key="|".join(filter(None, (key, self.key))),
            problem=self.problem,
        )


def divide_scans(frames: Sequence[Frame]) -> list[ScanPart]:
    """Tell the scans apart.

    Args:
        frames: slices of one series UID, without localisers and the like.

    Returns:
        One part a scan, in the order of their first slice; a single one in the ordinary case.
    """
    for divide in (_by_person, _by_frame_of_reference, _by_kernel, _by_plane, _by_position):
        parts = divide(frames)
        if parts is not None:
            if len(parts) == 1:
                return parts
            return [inner.below(part.label, part.key) for part in parts for inner in divide_scans(part.frames)]
    return [ScanPart(frames=tuple(frames))]


def _by_person(frames: Sequence[Frame]) -> list[ScanPart] | None:
    """By patient and study; by name, sex and birth where the ids are all the same, as anonymisers leave them."""
    parts = _by_identity(frames, "patient", lambda frame: frame.patient_key)
    for keyword in _PERSON_KEYWORDS:
        # A value that some slices lack has been removed from the others: it tells nobody apart.
        if parts is None and all(keyword in frame.traits for frame in frames):
            parts = _by_identity(frames, "patient", _plain_trait(keyword))
            parts = parts and [part.below("", _digits(_plain(part.frames[0].traits[keyword]))) for part in parts]
    return parts or _by_identity(frames, "study", lambda frame: frame.study_uid)


def _plain_trait(keyword: str) -> Callable[[Frame], str]:
    return lambda frame: _plain(frame.traits.get(keyword, ""))


def _plain(value: str) -> str:
    """A name without the case and signs in which two writings of it differ."""
    return "".join(letter for letter in value.casefold() if letter.isalnum())


def _by_identity(frames: Sequence[Frame], what: str, value: Callable[[Frame], str]) -> list[ScanPart] | None:
    groups = _grouped(frames, value)
    # What some slices lack has been removed from them: it tells nobody apart.
    if len(groups) - ("" in groups) < 2:
        return None
    if len(groups) > len(frames) / 2:
        keyword, plural = ("PatientID", "patients") if what == "patient" else ("StudyInstanceUID", "studies")
        problem = (
            f"{len(frames)} slices of {len(groups)} {plural} ({keyword}): an anonymiser has given each file an id of "
            "its own. Anonymise the originals again in one run, with one new id for each old one"
        )
        return [ScanPart(frames=tuple(frames), problem=problem)]
    # The key stays empty: patient and study are part of a series' origin anyway.
    return [
        ScanPart(frames=group, label=f"{what} {n} of {len(groups)}")
        for n, (_, group) in enumerate(sorted(groups.items()), start=1)
    ]


def _by_frame_of_reference(frames: Sequence[Frame]) -> list[ScanPart] | None:
    groups = _grouped(frames, _trait("FrameOfReferenceUID"))
    # One for each slice says nothing: an anonymiser has replaced it file by file.
    if "" in groups or not 2 <= len(groups) <= len(frames) / 2:
        return None
    return [
        ScanPart(frames=group, label=f"frame of reference {n} of {len(groups)}", key=_digits(uid))
        for n, (uid, group) in enumerate(sorted(groups.items()), start=1)
    ]


def _by_kernel(frames: Sequence[Frame]) -> list[ScanPart] | None:
    groups = _grouped(frames, _trait("ConvolutionKernel"))
    if "" in groups or not 2 <= len(groups) <= len(frames) / 2:
        return None
    return _trait_parts(groups, "ConvolutionKernel")


def _by_plane(frames: Sequence[Frame]) -> list[ScanPart] | None:
    """By size, pixel size and orientation, where each has at least two slices; a stray image is refused by name."""
    if not all(frame.has_place for frame in frames):
        return None
    groups: list[list[Frame]] = []
    for frame in frames:
        home = next((group for group in groups if is_same_plane(group[0], frame)), None)
        if home is None:
            groups.append([frame])
        else:
            home.append(frame)
    if len(groups) < 2 or min(len(group) for group in groups) < 2:
        return None
    return [ScanPart(frames=tuple(group), label=_plane_label(group[0]), key=_plane_label(group[0])) for group in groups]


def is_same_plane(one: Frame, other: Frame) -> bool:
    """True for images of one size, pixel size and orientation."""
    return (
        one.shape_ij == other.shape_ij
        and np.allclose(one.orientation or (), other.orientation or (), atol=_SAME_DIRECTION)
        and np.allclose(one.spacing_ij_mm or (), other.spacing_ij_mm or (), rtol=_SAME_PIXEL_SIZE)
    )


def _plane_label(frame: Frame) -> str:
    spacing = "×".join(f"{mm:.4g}" for mm in frame.spacing_ij_mm or ())
    orientation = "\\".join(f"{cosine:.2g}" for cosine in frame.orientation or ())
    return f"{frame.shape_ij[0]}×{frame.shape_ij[1]} pixels of {spacing} mm along {orientation}"


def _by_position(frames: Sequence[Frame]) -> list[ScanPart] | None:
    """By whatever explains that slices contend for positions, or that whole stacks lie between one another."""
    if len(frames) < 2 * _FEWEST_SLICES - 2 or not all(frame.has_place for frame in frames):
        return None
    stack = _Stack.of(frames)
    if stack.contended:
        return _by_contention(stack)
    is_uneven = not _is_even(np.sort(stack.positions_mm))
    is_one_count = not is_uneven and _is_counted_through(stack)
    for keyword in _PATTERN_KEYWORDS:
        values = {frame.traits.get(keyword, "") for frame in frames}
        if "" in values and is_one_count:
            # What some slices merely lack does not divide what is even and numbered from end to end.
            continue
        if 2 <= len(values) <= len(frames) / _FEWEST_SLICES:
            groups = _grouped(frames, _trait(keyword))
            if _are_interleaved(list(groups.values())) or (is_uneven and _are_stacks_apart(list(groups.values()))):
                return _trait_parts(groups, keyword)
    passes = _passes(stack) or _repeated_numbers(stack)
    return passes if passes and _are_interleaved([part.frames for part in passes]) else None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Stack:
    """Slices along their normal.

    Attributes:
        frames: one for each image; copies (same SOPInstanceUID, same position) are with the first of them.
        positions_mm: of each frame.
        copies: for each frame all that are the same image.
        contended: number of positions that several different images hold.
    """

    frames: tuple[Frame, ...]
    positions_mm: NDArray[np.float64]
    copies: tuple[tuple[Frame, ...], ...]
    contended: int

    @classmethod
    def of(cls, frames: Sequence[Frame]) -> _Stack:
        along = positions_along_normal(frames)
        places: dict[tuple[object, ...], list[int]] = {}
        for n, (frame, position) in enumerate(zip(frames, along, strict=True)):
            name = (frame.instance_uid, frame.index) if frame.instance_uid else (n,)
            places.setdefault((round(position / SAME_POSITION_MM), *name), []).append(n)
        firsts = [group[0] for group in places.values()]
        positions_mm = along[firsts]
        ordered = np.sort(positions_mm)
        starts = np.concatenate([[True], np.diff(ordered) >= SAME_POSITION_MM])
        sizes = np.diff(np.append(np.flatnonzero(starts), len(ordered)))
        return cls(
            frames=tuple(frames[n] for n in firsts),
            positions_mm=positions_mm,
            copies=tuple(tuple(frames[n] for n in group) for group in places.values()),
            contended=int((sizes > 1).sum()),
        )

    def part(self, members: Sequence[int], number: int, count: int) -> ScanPart:
        """Some of the frames with their copies, as pass ``number`` of ``count``."""
        frames = tuple(copy for n in members for copy in self.copies[n])
        return ScanPart(frames=frames, label=f"pass {number} of {count}", key=f"pass {number}/{count}")


def positions_along_normal(frames: Sequence[Frame]) -> NDArray[np.float64]:
    """Positions in mm along the normal of the first frame's plane."""
    row, column = np.asarray(frames[0].orientation, dtype=np.float64).reshape(2, 3)
    normal = np.cross(row, column)
    length = float(np.linalg.norm(normal))
    origins = np.array([frame.position_lps_mm for frame in frames], dtype=np.float64)
    return np.asarray(origins @ (normal / length if length else normal))


def _by_contention(stack: _Stack) -> list[ScanPart] | None:
    best: tuple[int, int, str] | None = None
    for keyword in _KEYWORDS:
        groups = _grouped(stack.frames, _trait(keyword))
        if 2 <= len(groups) <= len(stack.frames) / 2:
            left = sum(_Stack.of(group).contended for group in groups.values())
            if left < stack.contended and (best is None or (left, len(groups)) < best[:2]):
                best = (left, len(groups), keyword)
    if best is not None and best[0] == 0:
        frames = [copy for copies in stack.copies for copy in copies]
        return _trait_parts(_grouped(frames, _trait(best[2])), best[2])
    passes = _passes(stack) or _layers(stack)
    if passes:
        return passes
    if best is not None:
        frames = [copy for copies in stack.copies for copy in copies]
        return _trait_parts(_grouped(frames, _trait(best[2])), best[2])
    return None


def _passes(stack: _Stack) -> list[ScanPart] | None:
    """Stacks that follow one another in InstanceNumber, or in time, each running one way along the patient."""
    for order in (lambda frame: frame.instance_number, _time_of):
        keys = [order(frame) for frame in stack.frames]
        if any(key is None for key in keys) or len(set(keys)) < len(keys):
            continue
        # None is ruled out above, which mypy does not see.
        ordered = sorted(range(len(keys)), key=lambda n: keys[n])  # type: ignore[arg-type,return-value]
        runs = _runs(ordered, stack.positions_mm)
        if len(runs) > 1 and min(len(run) for run in runs) >= _FEWEST_SLICES:
            parts = [stack.part(run, number, len(runs)) for number, run in enumerate(runs, start=1)]
            if _overlap_most([stack.positions_mm[run] for run in runs]):
                return parts
    return None


def _is_counted_through(stack: _Stack) -> bool:
    """True where InstanceNumber rises, or falls, from one end of the stack to the other."""
    numbers = [stack.frames[n].instance_number for n in np.argsort(stack.positions_mm)]
    steps = np.diff([np.nan if number is None else number for number in numbers])
    return bool(np.all(steps > 0) or np.all(steps < 0))


def _runs(ordered: Sequence[int], positions_mm: NDArray[np.float64]) -> list[list[int]]:
    """Cut an order of slices where it turns back, or halts."""
    runs = [[ordered[0]]]
    direction = 0.0
    for before, n in itertools.pairwise(ordered):
        step_mm = float(positions_mm[n] - positions_mm[before])
        if abs(step_mm) >= SAME_POSITION_MM and np.sign(step_mm) * direction >= 0:
            runs[-1].append(n)
            direction = float(np.sign(step_mm))
        else:
            runs.append([n])
            direction = 0.0
    for run, following in itertools.pairwise(runs):
        # A table that goes there and back begins its way back one step beyond the end: that slice is of the way back.
        steps_mm = np.abs(np.diff(positions_mm[run]))
        back_mm = np.abs(np.diff(positions_mm[[run[-1], *following]]))
        if min(len(steps_mm), len(back_mm)) < 2:
            continue
        if _is_odd(steps_mm[-1], steps_mm[:-1]) and not _is_odd(back_mm[0], back_mm[1:]):
            following.insert(0, run.pop())
    return runs


def _is_odd(step_mm: float, others_mm: NDArray[np.float64]) -> bool:
    usual_mm = float(np.median(others_mm))
    return abs(float(step_mm) - usual_mm) > _UNEVEN * usual_mm


def _repeated_numbers(stack: _Stack) -> list[ScanPart] | None:
    """Stacks that are numbered alike: of the slices of one InstanceNumber the lowest, the next one up, and so on."""
    by_number: dict[float | None, list[int]] = {}
    for n in np.argsort(stack.positions_mm, kind="stable").tolist():
        by_number.setdefault(stack.frames[n].instance_number, []).append(n)
    counts = {len(members) for members in by_number.values()}
    if len(counts) != 1 or counts == {1} or None in by_number or len(by_number) < _FEWEST_SLICES:
        return None
    layers = list(zip(*by_number.values(), strict=True))
    return [stack.part(layer, number, len(layers)) for number, layer in enumerate(layers, start=1)]


def _layers(stack: _Stack) -> list[ScanPart] | None:
    """Images that come position by position, several at each: the first of each, the second of each, and so on."""
    numbers = [frame.instance_number for frame in stack.frames]
    if any(number is None for number in numbers):
        return None
    slots = np.rint(stack.positions_mm / SAME_POSITION_MM).astype(int)
    counts = Counter(slots.tolist())
    (count,) = set(counts.values()) if len(set(counts.values())) == 1 else (1,)
    if count < 2 or len(counts) < _FEWEST_SLICES:
        return None
    order = sorted(range(len(numbers)), key=lambda n: (slots[n], numbers[n]))
    layers = np.array(order).reshape(-1, count).T
    for layer in layers:
        strides = np.diff([float(numbers[n] or 0) for n in layer])
        if not np.all(strides == strides[0]) or abs(strides[0]) < count:
            return None
    return [stack.part([int(n) for n in layer], number, count) for number, layer in enumerate(layers, start=1)]


def _time_of(frame: Frame) -> float | None:
    """Date and time of acquisition as a number that grows."""
    text = frame.traits.get("AcquisitionDateTime") or frame.traits.get("AcquisitionDate", "") + frame.traits.get(
        "AcquisitionTime", ""
    )
    try:
        return float(text)
    except ValueError:
        return None


def _are_interleaved(groups: Sequence[Sequence[Frame]]) -> bool:
    """True where even stacks lie between one another over more than half of the shorter one."""
    along = [np.sort(positions_along_normal(group)) for group in groups]
    return all(_is_even_stack(positions_mm) for positions_mm in along) and _overlap_most(along)


def _are_stacks_apart(groups: Sequence[Sequence[Frame]]) -> bool:
    """True for even stacks of different spacing, far from one another, or overlapping at their ends.

    Stacks of one spacing that follow one another are one scan, whatever is lost between them.
    """
    along = [np.sort(positions_along_normal(group)) for group in groups]
    if not all(_is_even_stack(positions_mm) for positions_mm in along):
        return False
    along.sort(key=lambda positions_mm: float(positions_mm[0]))
    spacings_mm = [float(np.median(np.diff(positions_mm))) for positions_mm in along]
    if max(spacings_mm) > min(spacings_mm) * (1 + _UNEVEN):
        return True
    between_mm = [float(after[0] - before[-1]) for before, after in itertools.pairwise(along)]
    return max(between_mm) > _FAR_APART * max(spacings_mm) or min(between_mm) < 0


def _is_even_stack(positions_mm: NDArray[np.float64]) -> bool:
    return len(positions_mm) >= _FEWEST_SLICES and _is_even(positions_mm)


def _is_even(positions_mm: NDArray[np.float64]) -> bool:
    gaps_mm = np.diff(positions_mm)
    return bool(gaps_mm.min() > 0 and gaps_mm.max() <= gaps_mm.min() * (1 + _UNEVEN))


def _overlap_most(along: Sequence[NDArray[np.float64]]) -> bool:
    """True where each stack shares more than half of the shorter extent with another."""
    spans = [(float(positions.min()), float(positions.max())) for positions in along]

    def shares(one: tuple[float, float], other: tuple[float, float]) -> bool:
        shared = min(one[1], other[1]) - max(one[0], other[0])
        return shared > _OVERLAPPING * min(one[1] - one[0], other[1] - other[0])

    return all(any(shares(one, other) for m, other in enumerate(spans) if m != n) for n, one in enumerate(spans))


def _trait(keyword: str) -> Callable[[Frame], str]:
    return lambda frame: frame.traits.get(keyword, "")


def _grouped(frames: Sequence[Frame], value: Callable[[Frame], str]) -> dict[str, tuple[Frame, ...]]:
    groups: dict[str, list[Frame]] = {}
    for frame in frames:
        groups.setdefault(value(frame), []).append(frame)
    return {key: tuple(group) for key, group in groups.items()}


def _trait_parts(groups: dict[str, tuple[Frame, ...]], keyword: str) -> list[ScanPart]:
    parts = []
    for n, (value, group) in enumerate(sorted(groups.items()), start=1):
        shown = value[:_LONGEST_LABEL] or "none"
        label = f"{keyword} {shown}" if keyword in SHOWN_TRAITS else f"{keyword} {n} of {len(groups)}"
        parts.append(ScanPart(frames=group, label=label, key=f"{keyword}={_digits(value)}"))
    return parts


def _digits(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()[:16]
