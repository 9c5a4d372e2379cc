"""When a study trains by itself: after so many corrections, or every so many minutes; else by hand alone.

A pure decision; who counts, keeps time and starts processes is the server's ``train_policy``.
"""

from __future__ import annotations

from dataclasses import dataclass

from medai.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPolicy:
    """When to train.

    Attributes:
        after_labels: submitted labels since the last training was asked for; 0 never trains by their number.
        every_minutes: since the last training was asked for, where a label came in meanwhile; 0 never trains by time.
    """

    after_labels: int = 0
    every_minutes: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("after_labels", self.after_labels), ("every_minutes", self.every_minutes)):
            if not value >= 0:
                raise InputError(f"The training policy's '{name}' is {value}; it must be 0 (off) or more.")

    @property
    def by_hand_only(self) -> bool:
        """True where nothing starts by itself."""
        return not self.after_labels and not self.every_minutes

    def describe(self) -> str:
        """One sentence for the Train panel."""
        rules = []
        if self.after_labels:
            rules.append(f"after {self.after_labels} submitted label{'s' if self.after_labels > 1 else ''}")
        if self.every_minutes:
            rules.append(f"every {self.every_minutes:g} minutes with a new label")
        return f"Trains {' or '.join(rules)}" if rules else "Trains when asked to"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingFacts:
    """What the decision goes by.

    Attributes:
        labels_since: labels submitted since a training was last asked for, by hand or by the policy.
        minutes_since: minutes since then; since the policy began to watch where none ever was.
        waiting: trainings that wait for a running one; each will learn from all labels that are there when it starts.
    """

    labels_since: int
    minutes_since: float
    waiting: int = 0


def training_due(policy: TrainingPolicy, facts: TrainingFacts) -> str:
    """Decide whether a training is asked for now.

    Where one runs already the new one waits for its end: that is the queue's matter, not decided here.

    Returns:
        The reason, a short sentence for the annotator; "" where none is due.
    """
    if facts.waiting or not facts.labels_since:
        return ""
    labels = f"{facts.labels_since} label{'s' if facts.labels_since > 1 else ''} submitted since the last training"
    if policy.after_labels and facts.labels_since >= policy.after_labels:
        return f"Started by itself: {labels}"
    if policy.every_minutes and facts.minutes_since >= policy.every_minutes:
        return f"Started by itself: {facts.minutes_since:.0f} minutes and {labels}"
    return ""
