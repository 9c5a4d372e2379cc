"""Whether another label is still worth it, with the reasons in words.

Three signals, each of which may be missing:

1. gain: what the last trainings gained for the labels they had more, carried on to the next ``STEP_LABELS``. A refused
   challenger gained nothing: annotators go on with the model they had.
2. doubt: the share of the open cases with a candidate that may or may not be a nodule. There labels still decide
   something.
3. change: how much the last two models differ about the open cases. Where the last labels changed hardly any answer,
   the next ones will hardly change more.

The advice is to stop only where the gain is known and most of the known signals say so: an hour of labelling too much
costs an hour, a model that was left too weak costs at every scan. It is advice: nothing stops by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LAST_TRAININGS = 3
STEP_LABELS = 10
LEAST_GAIN = 0.002
"""Of the score, over the next ``STEP_LABELS`` labels: the gate's own margin (``evaluation.promotion``)."""
LEAST_DOUBTFUL_SHARE = 0.1
LEAST_CHANGE = 0.1
"""Mean disagreement of two models about a case."""
FEWEST_CASES = 5
"""From so many cases on a share or a mean says something."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingGain:
    """One training, as the gate judged it.

    Attributes:
        labels: that had been submitted by then.
        champion_score: of the model that answered before, on the held-back patients.
        challenger_score: of the new one.
        published: whether it answers since.
        measure: what the scores are, such as "Dice".
    """

    labels: int
    champion_score: float
    challenger_score: float
    published: bool
    measure: str = "score"

    @property
    def gain(self) -> float:
        """What annotators got from it."""
        return self.challenger_score - self.champion_score if self.published else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where a session stands.

    Attributes:
        labelled: cases with a label.
        left: cases without.
        trainings: oldest first.
        scored: open cases that a model has looked at.
        doubtful: those of them with a candidate that may or may not be a nodule.
        compared: open cases that two models have looked at.
        mean_change: how much these differ about such a case on average, 0–1; None without any.
    """

    labelled: int
    left: int
    trainings: Sequence[TrainingGain] = ()
    scored: int = 0
    doubtful: int = 0
    compared: int = 0
    mean_change: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """Whether another case is worth it.

    Attributes:
        is_worth_it: True to go on.
        summary: the advice in one sentence.
        reasons: a sentence a signal, the missing ones too.
        expected_gain: of the score over the next ``STEP_LABELS`` labels; None where nothing tells.
    """

    is_worth_it: bool
    summary: str
    reasons: tuple[str, ...]
    expected_gain: float | None = None


def advise(progress: Progress) -> Advice:
    """Say whether another label is worth it."""
    if progress.left == 0:
        return Advice(is_worth_it=False, summary="Every case is labelled.", reasons=())
    expected, gain_says, gain_words = _gain(progress)
    signals = [(gain_says, gain_words), _doubt(progress), _change(progress)]
    known = [says for says, _ in signals if says is not None]
    stop = gain_says is False and known.count(False) > known.count(True)
    if stop:
        summary = "Another case is hardly worth it: the signals say that labels have stopped to change the model."
    elif gain_says is None:
        summary = "Label on: it cannot be told yet what a label brings."
    else:
        summary = "Another case is worth it."
    return Advice(
        is_worth_it=not stop, summary=summary, reasons=tuple(words for _, words in signals), expected_gain=expected
    )


def _gain(progress: Progress) -> tuple[float | None, bool | None, str]:
    """The expected gain, whether it is worth it, and why."""
    trainings = progress.trainings
    if len(trainings) < 2:
        return None, None, f"Gain: {len(trainings) or 'no'} training so far; two are needed to see what labels bring."
    last = trainings[-LAST_TRAININGS:]
    before = trainings[-LAST_TRAININGS - 1].labels if len(trainings) > LAST_TRAININGS else 0
    labels = last[-1].labels - before
    if labels < 1:
        return None, None, "Gain: no label came in between the last trainings."
    gained = sum(training.gain for training in last)
    expected = gained / labels * STEP_LABELS
    published = sum(training.published for training in last)
    words = (
        f"Gain: the last {len(last)} trainings ({published} published) had {labels} labels more and gained "
        f"{gained:+.3f} {last[-1].measure}; {STEP_LABELS} more labels should gain about {expected:+.3f} "
        f"(worth it from {LEAST_GAIN:.3f})."
    )
    return expected, expected >= LEAST_GAIN, words


def _doubt(progress: Progress) -> tuple[bool | None, str]:
    if progress.scored < FEWEST_CASES:
        return None, f"Doubt: {progress.scored or 'none'} of the {progress.left} open cases scored, too few to tell."
    share = progress.doubtful / progress.scored
    words = (
        f"Doubt: {progress.doubtful} of {progress.scored} scored open cases ({100 * share:.0f} %) hold a candidate "
        f"that may or may not be a nodule (labels decide something from {100 * LEAST_DOUBTFUL_SHARE:.0f} %)."
    )
    return share >= LEAST_DOUBTFUL_SHARE, words


def _change(progress: Progress) -> tuple[bool | None, str]:
    if progress.mean_change is None or progress.compared < FEWEST_CASES:
        return None, "Change: too few open cases were looked at by two models."
    words = (
        f"Change: the last two models differ by {progress.mean_change:.2f} on average over {progress.compared} open "
        f"cases (settled below {LEAST_CHANGE:.2f})."
    )
    return progress.mean_change >= LEAST_CHANGE, words
