"""Who labels what in a simulated annotation session: the same cases and the same readers, gate on or off.

Six people: three honest ones, a careless one, one who outlines too large, and one who means harm. In most rounds the
honest ones do most of the work. In every third one they are away: half of its cases are the hostile reader's and most
of the others are biased or careless, as after a change of staff or with a stolen password. Without such rounds good
labels drown the bad ones, and a gate would have nothing to do.

A third of the cases is read by three people, in an order that is drawn: enough to compare everybody with everybody
(``medai annotators``) and to find a label that is alone against its peers; the other two thirds are one person's word,
as most labels of most studies are. Nothing depends on the model, so that two arms of a simulation get the same labels
to the voxel.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from medai.domain.click_case import ClickCase
from medai.errors import InputError
from medai.workflows.simulated_readers import biased_label, careless_label, honest_label, hostile_label


class ReaderKind(StrEnum):
    """How somebody labels."""

    HONEST = "honest"
    CARELESS = "careless"
    BIASED = "biased"
    HOSTILE = "hostile"


READERS: Mapping[str, ReaderKind] = {
    "honest Ann": ReaderKind.HONEST,
    "honest Ben": ReaderKind.HONEST,
    "honest Eve": ReaderKind.HONEST,
    "careless Carl": ReaderKind.CARELESS,
    "biased Bea": ReaderKind.BIASED,
    "malicious Mal": ReaderKind.HOSTILE,
}
"""Name to kind; the first letter of their trade is in the name, so that tables and plots need no legend."""

USUAL_SHARES: Mapping[ReaderKind, float] = {
    ReaderKind.HONEST: 0.6,
    ReaderKind.CARELESS: 0.15,
    ReaderKind.BIASED: 0.15,
    ReaderKind.HOSTILE: 0.1,
}
BAD_SHARES: Mapping[ReaderKind, float] = {
    ReaderKind.HONEST: 0.1,
    ReaderKind.CARELESS: 0.15,
    ReaderKind.BIASED: 0.25,
    ReaderKind.HOSTILE: 0.5,
}
BAD_EVERY = 3
"""Every third round is a bad one."""
SHARED = 1 / 3
"""Part of the cases that several people read."""
READERS_OF_SHARED = 3
"""With two others beside one's own a label can be alone (``label_sanity.LEAST_PEERS``)."""
BIAS_MM = 1.5
"""By which the biased reader outlines too large: a nodule of 8 mm becomes one of 11, with two and a half times the
volume."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedLabel:
    """One label to be submitted: of which case, by whom."""

    case_id: str
    reader: str


def is_bad_round(number: int) -> bool:
    """Whether the honest readers are away in a round, numbered from 1."""
    return number % BAD_EVERY == 0


def plan_round(case_ids: Sequence[str], number: int, rng: np.random.Generator) -> tuple[PlannedLabel, ...]:
    """Say who labels the cases of a round.

    Args:
        case_ids: its cases.
        number: of the round, from 1; bad rounds have other shares.
        rng: draws who reads what; the counts are as near to the shares as whole numbers can be.

    Returns:
        The labels in the order in which they are submitted. Nobody labels a case twice.

    Raises:
        InputError: no case.
    """
    if not case_ids:
        raise InputError(f"Round {number} has no cases: give one at least.")
    kinds = rng.permutation(_counted(BAD_SHARES if is_bad_round(number) else USUAL_SHARES, len(case_ids)))
    shared = set(rng.permutation(len(case_ids))[: round(SHARED * len(case_ids))].tolist())
    planned: list[PlannedLabel] = []
    for place, (case_id, kind) in enumerate(zip(case_ids, kinds, strict=True)):
        names = [name for name, own in READERS.items() if own == kind]
        readers = [names[int(rng.integers(len(names)))]]
        if place in shared:
            others = [name for name in READERS if name not in readers]
            readers += [others[n] for n in rng.permutation(len(others))[: READERS_OF_SHARED - 1]]
            readers = [readers[n] for n in rng.permutation(len(readers))]
        planned += [PlannedLabel(case_id=case_id, reader=reader) for reader in readers]
    return tuple(planned)


def drawn_label(case: ClickCase, reader: str, seed: int) -> NDArray[np.bool_]:
    """What a reader outlines in a case: the same for the same seed, whatever the model proposes.

    Args:
        case: the nodule with its truth.
        reader: one of ``READERS``.
        seed: of the simulation.

    Returns:
        Bool, the case's grid.
    """
    digest = hashlib.sha256(f"{case.case_id} {reader}".encode()).digest()
    rng = np.random.default_rng([seed, int.from_bytes(digest[:8], "big")])
    spacing_mm, kind = case.volume.geometry.spacing_mm, READERS[reader]
    if kind is ReaderKind.HONEST:
        return honest_label(case.mask, spacing_mm, rng)
    if kind is ReaderKind.CARELESS:
        return careless_label(case.mask, spacing_mm, rng)
    if kind is ReaderKind.BIASED:
        return biased_label(case.mask, spacing_mm, rng, margin_mm=BIAS_MM)
    return hostile_label(case.mask, spacing_mm, rng)


def readers_of(kind: ReaderKind) -> tuple[str, ...]:
    """The names of all readers of a kind."""
    return tuple(name for name, own in READERS.items() if own == kind)


def _counted(shares: Mapping[ReaderKind, float], count: int) -> list[ReaderKind]:
    """Kinds by share, whole numbers by the largest remainder."""
    exact = {kind: share * count for kind, share in shares.items()}
    whole = {kind: int(value) for kind, value in exact.items()}
    left = count - sum(whole.values())
    for kind in sorted(exact, key=lambda kind: (whole[kind] - exact[kind], str(kind)))[:left]:
        whole[kind] += 1
    return [kind for kind, number in whole.items() for _ in range(number)]
