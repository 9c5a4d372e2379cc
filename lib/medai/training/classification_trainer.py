"""Trains the members of the classification network on soft ratings: the share of readers above each step of a scale.

Three or four readers seldom agree on a nodule. Their shares say how far they do, a vote does not; and they let the
undecided nodules teach as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medai.domain.assessment import ATTRIBUTES, MALIGNANCY
from medai.errors import CancelledByUserError, InputError
from medai.preprocessing.nodule_views import CHANNELS, VIEW_SIZE
from medai.training.classification_samples import STEPS, RatedSample

if TYPE_CHECKING:
    import torch
    from torch import nn

OUTPUTS = STEPS * len(ATTRIBUTES)
MALIGNANCY_WEIGHT = 2.5
"""Weight of malignancy in the loss over that of another attribute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassificationTrainingConfig:
    """How the raters are trained.

    Attributes:
        epochs: passes over the nodules, of each member.
        batch_size: nodules a step.
        learning_rate: highest one; reached early and brought down to zero (one cycle).
        weight_decay: of AdamW.
        members: how many raters; each leaves out another share of the patients, whose answers fit the final stage.
        widths: features at half, half, quarter … size.
        dropout: share of pooled features left out.
        bfloat16: half the time on processors that compute in it; the weights stay float32.
        device: "auto", "cpu" or "cuda".
        seed: of everything random.
    """

    epochs: int = 10
    batch_size: int = 32
    learning_rate: float = 3e-3
    weight_decay: float = 5e-2
    members: int = 5
    widths: tuple[int, ...] = (12, 24, 40, 56)
    dropout: float = 0.4
    bfloat16: bool = True
    device: str = "auto"
    seed: int = 20240311

    @property
    def network_options(self) -> dict[str, object]:
        """Arguments of ``ClassificationNetwork``."""
        return {
            "channels_in": CHANNELS,
            "views": 2,
            "widths": list(self.widths),
            "outputs": OUTPUTS,
            "members": self.members,
            "dropout": self.dropout,
        }


def train_rater(
    samples: Sequence[RatedSample],
    config: ClassificationTrainingConfig,
    *,
    seed: int,
    start_from: nn.Module | None = None,
    on_epoch: Callable[[int, float], None] = lambda epoch, loss: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> nn.Module:
    """Train one member.

    Args:
        samples: what to learn from.
        config: how.
        seed: of this member.
        start_from: a member to go on from; None starts afresh.
        on_epoch: told the epoch, from 1, and its mean loss.
        should_stop: asked before each step.

    Returns:
        The member on the CPU, in evaluation mode.

    Raises:
        InputError: there are fewer nodules than one batch needs.
        CancelledByUserError: ``should_stop`` said so.
    """
    import torch

    if len(samples) < 2:
        raise InputError(f"{len(samples)} rated nodules are too few to train on: rate at least two.")
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    device = chosen_device(config.device)
    rater = _fresh_rater(config) if start_from is None else start_from
    rater = rater.train().to(device)
    rater.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # torch's stubs lack it
    optimizer = torch.optim.AdamW(rater.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    batches = max(1, len(samples) // config.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=config.epochs * batches, pct_start=0.2
    )
    weights = torch.ones(len(ATTRIBUTES), STEPS, device=device)
    weights[ATTRIBUTES.index(MALIGNANCY)] = MALIGNANCY_WEIGHT
    for epoch in range(1, config.epochs + 1):
        losses: list[float] = []
        for index in np.array_split(rng.permutation(len(samples)), batches):
            if should_stop():
                raise CancelledByUserError(f"Training of the classifier was stopped in epoch {epoch}.")
            chosen = [samples[int(n)] for n in index]
            views = augmented_views(chosen, rng).to(device)
            shares = torch.from_numpy(np.stack([sample.shares for sample in chosen])).to(device)
            optimizer.zero_grad()
            with torch.autocast(device, dtype=torch.bfloat16, enabled=config.bfloat16):
                logits = rater(views.contiguous(memory_format=torch.channels_last_3d))
            loss = _loss(logits.float().view_as(shares), shares, weights)
            loss.backward()  # type: ignore[no-untyped-call]  # torch's own
            torch.nn.utils.clip_grad_norm_(rater.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
        on_epoch(epoch, float(np.mean(losses)))
    return rater.eval().cpu()


def chosen_device(device: str) -> str:
    """The device: "cuda" where it is asked for or there is one, else "cpu"."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def _fresh_rater(config: ClassificationTrainingConfig) -> nn.Module:
    """A member with random weights that starts from the middle of every scale."""
    from medai.networks.factory import build_network

    options = {**config.network_options, "members": 1}
    network = build_network({"network": "classification_network", "network_options": options})
    return network.members[0]  # type: ignore[index, return-value]  # a ModuleList


def _loss(logits: torch.Tensor, shares: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the shares, over the attributes that are rated."""
    import torch
    from torch.nn import functional

    rated = torch.isfinite(shares)
    losses = functional.binary_cross_entropy_with_logits(logits, torch.nan_to_num(shares), reduction="none")
    weighted = weights * rated
    return (losses * weighted).sum() / weighted.sum().clamp(min=1.0)


def augmented_views(samples: Sequence[RatedSample], rng: np.random.Generator) -> torch.Tensor:
    """Draw one changed view pair a nodule: another outline, turned, mirrored, shifted, zoomed, brightened, noisy.

    Returns:
        float32 [N, 6, VIEW_SIZE, VIEW_SIZE, VIEW_SIZE], values -1…1.
    """
    import torch
    from torch.nn import functional

    size = samples[0].views.shape[-1]
    views = np.stack([sample.views[int(rng.integers(len(sample.views)))] for sample in samples])
    batch = torch.from_numpy(views).float() / 127
    matrices = np.stack([_motion(rng) for _ in samples]).astype(np.float32)
    matrices[:, :, :3] *= VIEW_SIZE / size
    grid = functional.affine_grid(
        torch.from_numpy(matrices), [len(samples), CHANNELS, VIEW_SIZE, VIEW_SIZE, VIEW_SIZE], align_corners=False
    )
    batch = functional.grid_sample(batch, grid, mode="bilinear", padding_mode="border", align_corners=False)
    for image in (0, 1, 3, 4):
        count = len(samples)
        gain = torch.from_numpy(rng.uniform(0.93, 1.07, (count, 1, 1, 1)).astype(np.float32))
        shift = torch.from_numpy(rng.normal(0, 0.03, (count, 1, 1, 1)).astype(np.float32))
        level = torch.from_numpy(rng.uniform(0, 0.06, (count, 1, 1, 1)).astype(np.float32))
        shown = batch[:, image]
        noise = torch.from_numpy(rng.standard_normal(shown.shape, dtype=np.float32))
        batch[:, image] = torch.where(shown <= -1.0, shown, (shown * gain + shift + level * noise).clamp(-1, 1))
    return batch


def _motion(rng: np.random.Generator) -> NDArray[np.float64]:
    """A 3×4 matrix in torch's order (last axis first): turn about any axis, mirror, zoom and shift."""
    turn, tilt = rng.uniform(-np.pi, np.pi), rng.normal(0, 0.2, 2)
    about_last = _rotation(0, 1, turn)
    matrix = about_last @ _rotation(0, 2, tilt[0]) @ _rotation(1, 2, tilt[1])
    matrix = matrix @ np.diag(rng.choice([-1.0, 1.0], 3)) * rng.uniform(0.88, 1.12)
    shift = rng.normal(0, 0.06, 3)
    # torch counts the axes from the last one; the slices run along the last axis of a view.
    return np.concatenate([matrix[::-1, ::-1], shift[:, None]], axis=1)


def _rotation(first: int, second: int, angle: float) -> NDArray[np.float64]:
    """Turn in the plane of two axes."""
    matrix = np.eye(3)
    matrix[first, first] = matrix[second, second] = np.cos(angle)
    matrix[first, second], matrix[second, first] = -np.sin(angle), np.sin(angle)
    return matrix


def rate_views(rater: nn.Module, views: NDArray[np.float32], *, batch_size: int = 64) -> NDArray[np.float64]:
    """Mean logits of a member over a view and its mirror images, shape (N, attributes, steps).

    Args:
        rater: in evaluation mode.
        views: [N, 6, VIEW_SIZE, VIEW_SIZE, VIEW_SIZE].
        batch_size: nodules at a time.
    """
    import torch

    answers: list[NDArray[np.float32]] = []
    with torch.inference_mode():
        for begin in range(0, len(views), batch_size):
            batch = torch.from_numpy(np.ascontiguousarray(views[begin : begin + batch_size]))
            answers.append(torch.stack([rater(batch.flip(list(axes))) for axes in MIRRORS]).mean(dim=0).numpy())
    return np.concatenate(answers).astype(np.float64).reshape(len(views), len(ATTRIBUTES), STEPS)


MIRRORS: tuple[tuple[int, ...], ...] = ((), (2,))
"""Axes of a batch that are reversed: a nodule's rating does not depend on them, so the mean over them is surer."""


def fold_of_patient(patient_id: str, folds: int) -> int:
    """Which member leaves a patient out: decided by a hash, the same wherever it is asked."""
    import hashlib

    return int.from_bytes(hashlib.sha256(f"fold {patient_id}".encode()).digest()[:8], "big") % folds
