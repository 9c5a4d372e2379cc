"""TensorBoard's event files of a training, as MONAI Label's users expect them.

Stock MONAI Label's trainers write event files below the app's ``model/`` with MONAI's ``TensorBoardStatsHandler``: the
tags ``train_loss`` and ``val_mean_dice``. Here they are in ``<study>/.medai/training/<run>/tensorboard`` under the
same tags; ``tensorboard --logdir <study>/.medai/training`` shows all runs of a study beside each other, as
``--logdir model`` does there. No setting and no server of ours is needed.

What differs: a step is an epoch, also of the loss; ``val_mean_dice`` is of the nodules that choose the epoch; and what
the held-back patients say is added as ``verdict/…`` at the last epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from medai.workflows.run_tracking import RunEnd, TrackedRun

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

EVENTS_FOLDER = "tensorboard"
_STOCK_TAGS = {"validation": "val_mean_dice"}
"""Our curves by MONAI's names; the others are called as they are."""


class TensorBoardTracker:
    """Writes event files into the run's folder."""

    def __init__(self) -> None:
        self._writer: SummaryWriter | None = None
        self._epoch = 0

    def begin(self, run: TrackedRun) -> None:
        """Open the run's event file; its parameters are a text."""
        from torch.utils.tensorboard import SummaryWriter

        self._epoch = 0
        self._writer = SummaryWriter(log_dir=str(run.folder / EVENTS_FOLDER))
        rows = "\n".join(f"    {name}: {value}" for name, value in run.parameters.items())
        self._writer.add_text("parameters", rows)

    def curves(self, values: Mapping[str, float], *, epoch: int) -> None:
        """A point of each curve, on disk at once: who watches sees it."""
        self._epoch = epoch
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(_STOCK_TAGS.get(name, name), value, epoch)
            self._writer.flush()

    def verdict(self, figures: Mapping[str, float], verdict: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """The gate's figures and its reason."""
        if self._writer is not None:
            for name, value in figures.items():
                self._writer.add_scalar(f"verdict/{name}", value, self._epoch)
            self._writer.add_text("verdict", str(verdict.get("reason", "")))

    def end(self, how: RunEnd) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
