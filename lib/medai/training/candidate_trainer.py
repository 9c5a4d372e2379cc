"""Trains the candidate network and turns its logits into honest probabilities.

Nodules are one in a hundred places of a scan but every second training sample, so the raw logits are far too sure.
Factors and a shift fitted on whole held-back scans (Platt's method) bring them back; both travel in the checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medai.errors import CancelledByUserError, InputError
from medai.networks.checkpoint import Checkpoint
from medai.networks.factory import build_network, network_tensors, restore_network
from medai.preprocessing.candidate_patches import PATCH_SHAPE
from medai.training.candidate_samples import CandidateSamples

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateTrainingConfig:
    """How the candidate network is trained.

    Attributes:
        steps: updates of the weights.
        batch_size: half nodules, half others; spread evenly over the families.
        learning_rate: highest one, reached early and brought down to zero (one cycle).
        weight_decay: of AdamW.
        freeze_statistics: keep the normalisation as it is, for fine-tuning on few scans.
        bfloat16: half the time on CPUs that compute in it, much slower on those that do not; the weights stay float32.
        seed: of everything random.
    """

    steps: int = 600
    batch_size: int = 48
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    freeze_statistics: bool = False
    bfloat16: bool = True
    seed: int = 0


def train_candidate_network(
    samples: CandidateSamples,
    config: CandidateTrainingConfig,
    *,
    start_from: Checkpoint | None = None,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> nn.Module:
    """Train a network.

    Args:
        samples: what to learn from.
        config: how.
        start_from: weights to go on from; None starts afresh.
        on_step: told the step and its loss.
        should_stop: asked before each step.

    Returns:
        The network in evaluation mode.

    Raises:
        InputError: a family lacks nodules or others.
        CancelledByUserError: ``should_stop`` said so.
    """
    import torch

    torch.manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    fresh = build_network({"network": "candidate_network"})
    network = (fresh if start_from is None else restore_network(start_from)).train()
    network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # torch's stubs lack it
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=config.steps, pct_start=0.15
    )
    if config.freeze_statistics:
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm3d):
                module.eval()
    loss_of = torch.nn.BCEWithLogitsLoss()
    for step, (views, labels) in enumerate(_batches(samples, config, rng)):
        if should_stop():
            raise CancelledByUserError(f"Training of the candidate network was stopped at step {step}.")
        optimizer.zero_grad()
        # Readers disagree on what a nodule is: a sure answer to every sample is not wanted.
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=config.bfloat16):
            logits = network(views.contiguous(memory_format=torch.channels_last_3d))[:, 0]
        loss = loss_of(logits.float(), labels * 0.96 + 0.02)
        loss.backward()
        optimizer.step()
        schedule.step()
        on_step(step, float(loss.detach()))
    return network.eval()


def _batches(
    samples: CandidateSamples, config: CandidateTrainingConfig, rng: np.random.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Balanced, augmented batches."""
    import torch

    pools = []
    for family in np.unique(samples.families):
        for label in (True, False):
            pool = np.flatnonzero((samples.families == family) & (samples.labels == label))
            if pool.size == 0:
                kind = "nodules" if label else "other places"
                raise InputError(f"The training samples of family '{family}' hold no {kind}: add scans that do.")
            pools.append(pool)
    for _ in range(config.steps):
        index = np.concatenate([rng.choice(pool, -(-config.batch_size // len(pools))) for pool in pools])
        views = np.stack([augmented(samples.views[n].astype(np.float32), rng) for n in index])
        yield torch.from_numpy(views), torch.from_numpy(samples.labels[index].astype(np.float32))


def augmented(views: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Mirror, shift by a voxel, and change brightness, contrast and noise; both views alike."""
    for axis in (1, 2, 3):
        if rng.random() < 0.5:
            views = np.flip(views, axis)
    if rng.random() < 0.5:
        views = views.transpose(0, 2, 1, 3)
    views = np.roll(views, tuple(int(n) for n in rng.integers(-1, 2, 3)), axis=(1, 2, 3))
    views = views * np.float32(rng.uniform(0.92, 1.08)) + np.float32(rng.normal(0, 0.03))
    noise = rng.standard_normal(views.shape, dtype=np.float32) * np.float32(rng.uniform(0, 0.08))
    return np.ascontiguousarray(np.clip(views + noise, -1, 1))


def fit_calibration(logits: NDArray[np.float64], labels: NDArray[np.bool_]) -> tuple[NDArray[np.float64], float]:
    """Platt's factors and shift: sigmoid(logits · factors + shift) is the share of nodules among places of such logits.

    Args:
        logits: [N, networks] of all places of some scans, in their natural proportion.
        labels: True for nodules.

    Returns:
        A factor for each network, never negative, and the shift.
    """
    from scipy.optimize import minimize

    positives, negatives = labels.sum(), (~labels).sum()
    target = np.where(labels, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    count = logits.shape[1]

    def loss(parameters: NDArray[np.float64]) -> float:
        z = logits @ parameters[:count] + parameters[count]
        return float(np.mean(np.logaddexp(0, z) - target * z))

    start = np.array([1.0 / count] * count + [-2.0])
    bounds = [(0.0, None)] * count + [(None, None)]
    best = minimize(loss, start, method="L-BFGS-B", bounds=bounds).x
    return np.asarray(best[:count]), float(best[count])


def judge_checkpoint(network: nn.Module) -> Checkpoint:
    """The judge's weights with all that inference needs to know."""
    return Checkpoint(
        config={
            "network": "candidate_network",
            "network_options": {"channels_in": 2},
            "patch_shape": list(PATCH_SHAPE),
        },
        tensors=network_tensors(network),
    )
