"""Rounds of a retraining simulation whose figures are known."""

from __future__ import annotations

from medai.workflows.simulated_stream import READERS
from medai.workflows.simulation_results import ArmResult

MARGIN = 0.02


def scores(mean):
    return {f"nodule{n}": mean + 0.01 * (n - 2) for n in range(5)}


def annotators(biased=(), outliers=()):
    return {
        "annotators": [
            {
                "name": name,
                "bias": {
                    "is_biased": name in biased,
                    "percent": 80.0 if name in biased else 1.0,
                    "percent_low": 60.0 if name in biased else -2.0,
                    "percent_high": 100.0 if name in biased else 4.0,
                },
                "overlap": {"is_outlier": name in outliers},
            }
            for name in READERS
        ]
    }


def label(reader, side="train", quarantine="", quality=0.9, case="case"):
    return {"case": case, "reader": reader, "side": side, "quarantine": quarantine, "dice_to_truth": quality}


def played(changes, *, is_published, biased_from=2, labels=()):
    """Rounds whose challengers changed the Dice so; ``is_published`` says of each whether it became the champion."""
    results = [{"round": 0, "figure": scores(0.5), "published": False}]
    mean = 0.5
    for number, change in enumerate(changes, start=1):
        published = is_published(change)
        challenger = None if change is None else scores(mean + change)
        mean = mean + change if published else mean
        biased = ("biased Bea",) if number >= biased_from else ()
        results.append(
            {
                "round": number,
                "figure": scores(mean),
                "challenger": challenger,
                "published": published,
                "reason": "Better." if published else "Refused.",
                "held_back_change": change,
                "labels": list(labels),
                "skipped": {"disputed": "nobody can say"},
                "annotators": annotators(biased),
                "seconds": 1.0,
            }
        )
    return results


CHANGES = (0.1, 0.05, -0.2, 0.03, -0.01, None)


def on(**options):
    return ArmResult.of(1, True, played(CHANGES, is_published=lambda c: c is not None and c > 0, **options))


def off(**options):
    return ArmResult.of(1, False, played(CHANGES, is_published=lambda c: c is not None, **options))
