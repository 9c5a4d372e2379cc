"""Who is told of a training while it runs: MLflow, TensorBoard, or nobody.

A training tells one ``RunTracker``. ``trackers_for`` puts it together from the setting ``tracking`` ("local", "off", or
an MLflow server's address). A tracker that fails is named in the log once and not asked again: no tracking failure,
be it a full disk or a server that is away, fails a training.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from medai.errors import CancelledByUserError, InputError

logger = logging.getLogger(__name__)

LOCAL, OFF = "local", "off"
ADDRESS_VARIABLE = "MLFLOW_TRACKING_URI"
SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "file", "databricks")
"""What MLflow takes as an address; a database may name its driver: postgresql+psycopg."""

RunEnd = Literal["finished", "stopped", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedRun:
    """A training that begins.

    Attributes:
        run_id: its name, of the folder below ``<study>/.medai/training``.
        task: the model family.
        folder: the run's folder.
        parameters: what was asked for, plain values.
    """

    run_id: str
    task: str
    folder: Path
    parameters: Mapping[str, str | int | float | bool]


class RunTracker(Protocol):
    """Is told of one training at a time."""

    def begin(self, run: TrackedRun) -> None:
        """A training begins."""
        ...

    def curves(self, values: Mapping[str, float], *, epoch: int) -> None:
        """Figures of an epoch: "train_loss", "validation"."""
        ...

    def verdict(self, figures: Mapping[str, float], verdict: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """The gate has decided: its figures, the whole verdict, and words such as the reason."""
        ...

    def end(self, how: RunEnd) -> None:
        """The training has ended."""
        ...


class NoTracker:
    """Tells nobody."""

    def begin(self, run: TrackedRun) -> None:
        """Nothing."""

    def curves(self, values: Mapping[str, float], *, epoch: int) -> None:
        """Nothing."""

    def verdict(self, figures: Mapping[str, float], verdict: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Nothing."""

    def end(self, how: RunEnd) -> None:
        """Nothing."""


class CarefulTrackers:
    """Tells several trackers; one that fails is left out from then on.

    Args:
        trackers: name for the log to the function that makes the tracker; called when a training begins.
    """

    def __init__(self, trackers: Mapping[str, Callable[[], RunTracker]]) -> None:
        self._make = dict(trackers)
        self._asked: dict[str, RunTracker] = {}

    def begin(self, run: TrackedRun) -> None:
        """Make the trackers and tell them."""
        self._asked = {}
        for name, make in self._make.items():
            with self._left_out_on_failure(name):
                tracker = make()
                tracker.begin(run)
                self._asked[name] = tracker

    def curves(self, values: Mapping[str, float], *, epoch: int) -> None:
        """Tell every tracker."""
        self._tell(lambda tracker: tracker.curves(values, epoch=epoch))

    def verdict(self, figures: Mapping[str, float], verdict: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Tell every tracker."""
        self._tell(lambda tracker: tracker.verdict(figures, verdict, tags))

    def end(self, how: RunEnd) -> None:
        """Tell every tracker."""
        self._tell(lambda tracker: tracker.end(how))

    def _tell(self, tell: Callable[[RunTracker], None]) -> None:
        for name, tracker in list(self._asked.items()):
            with self._left_out_on_failure(name):
                tell(tracker)

    @contextmanager
    def _left_out_on_failure(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception:
            # The libraries raise what they like, from ImportError to sqlite3's and requests' own: all mean the same.
            logger.warning("%s is not told of this training any more; the training goes on", name, exc_info=True)
            self._asked.pop(name, None)


@contextmanager
def tracked(tracker: RunTracker, run: TrackedRun) -> Iterator[None]:
    """Begin and end a training's record, whatever ends it."""
    tracker.begin(run)
    try:
        yield
    except CancelledByUserError:
        tracker.end("stopped")
        raise
    except BaseException:
        tracker.end("failed")
        raise
    tracker.end("finished")


def check_tracking(setting: str) -> str:
    """The setting ``tracking``, if it can be one.

    Raises:
        InputError: neither "local" nor "off" nor an address that MLflow takes.
    """
    if setting not in (LOCAL, OFF) and urlsplit(setting).scheme.partition("+")[0] not in SCHEMES:
        raise InputError(
            f"'tracking' is '{setting}'; it takes {LOCAL} (a database in the study), {OFF}, or the address of an "
            "MLflow server, such as http://127.0.0.1:5000."
        )
    return setting


def resolve_tracking(setting: str, environment: Mapping[str, str] | None = None) -> str:
    """The setting with MLflow's own variable honoured: MLFLOW_TRACKING_URI takes the place of "local", unchecked.

    Raises:
        InputError: it cannot be a setting.
    """
    named = (os.environ if environment is None else environment).get(ADDRESS_VARIABLE, "")
    return named if named and check_tracking(setting) == LOCAL else check_tracking(setting)


def trackers_for(study_folder: Path, tracking: str) -> RunTracker:
    """What a study's trainings tell: TensorBoard's files always, MLflow unless it is off.

    Args:
        study_folder: the study.
        tracking: "local", "off" or an MLflow server's address; resolved.
    """
    from medai.workflows.mlflow_tracker import MlflowTracker
    from medai.workflows.tensorboard_tracker import TensorBoardTracker

    made: dict[str, Callable[[], RunTracker]] = {"TensorBoard": TensorBoardTracker}
    if tracking != OFF:
        address = None if tracking == LOCAL else tracking
        made["MLflow"] = lambda: MlflowTracker(study_folder, address=address)
    return CarefulTrackers(made)


def finite(values: Mapping[str, float | None]) -> dict[str, float]:
    """Those that are numbers."""
    return {name: value for name, value in values.items() if value is not None and abs(value) < float("inf")}
