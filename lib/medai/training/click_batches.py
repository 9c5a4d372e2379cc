"""From click cases to what MONAI's trainer consumes: patches drawn at random, and steps that correct mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedTrainer
from monai.transforms import Randomizable, Transform
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import WeightedRandomSampler

from medai.domain.click_case import ClickCase
from medai.evaluation.simulated_clicks import correcting_click
from medai.preprocessing.click_maps import click_map, network_input
from medai.training.click_sampling import SamplingConfig, TrainingPatch, sample_patch
from medai.training.processes import ProcessShare, ShareOfBatches

ALONE = ProcessShare()

UNKNOWN_LOGIT = -12.0
"""Where the scan says nothing the prediction is replaced by a sure no: neither loss nor gradient comes from there."""


class DrawClickPatch(Randomizable, Transform):  # type: ignore[misc]  # monai's classes are untyped
    """Turn a ``ClickCase`` into ``image`` (the network's channels) and ``label`` (nodule, known, readers' mean).

    Args:
        config: how patches are drawn.
        share: which of several processes this is: each draws what one process would draw at its places of a batch.
        batch_size: of all processes.
    """

    def __init__(self, config: SamplingConfig, *, share: ProcessShare = ALONE, batch_size: int = 1) -> None:
        self.config = config
        self._places = share.of_batch(batch_size) if share.count > 1 else range(batch_size)
        self._batch_size = batch_size
        self._drawn = 0

    def begin_epoch(self, seed: int) -> None:
        """Seed the draws of an epoch; the processes of a training are in step from here on."""
        self.set_random_state(seed)
        self._drawn = 0

    def __call__(self, case: ClickCase) -> dict[str, torch.Tensor]:
        """Draw one patch with its first click."""
        while self._drawn % self._batch_size not in self._places:
            self.R.randint(2**31)
            self._drawn += 1
        self._drawn += 1
        rng = np.random.default_rng(self.R.randint(2**31))
        return patch_tensors(sample_patch(case, self.config, rng))


def patch_tensors(patch: TrainingPatch) -> dict[str, torch.Tensor]:
    """A patch with its first click as float32 tensors."""
    image = network_input(patch.image_hu, foreground=[patch.click], inside=patch.known, spacing_mm=patch.spacing_mm)
    label = np.stack([patch.target, patch.known.astype(np.float32), patch.readers]).astype(np.float32)
    return {"image": torch.from_numpy(image), "label": torch.from_numpy(label)}


def training_loader(
    cases: Sequence[ClickCase],
    weights: Sequence[float],
    transform: DrawClickPatch,
    *,
    draws: int,
    batch_size: int,
    share: ProcessShare = ALONE,
) -> tuple[DataLoader, torch.Generator]:
    """A loader of random patches, cases drawn by weight; its generator is returned so that each epoch can be seeded."""
    generator = torch.Generator()
    sampler = ShareOfBatches(
        WeightedRandomSampler(list(weights), num_samples=draws, replacement=True, generator=generator),
        share,
        batch_size,
    )
    loader = DataLoader(
        Dataset(list(cases), transform), batch_size=batch_size // share.count, sampler=sampler, num_workers=0
    )
    return loader, generator


def validation_loader(cases: Sequence[ClickCase], config: SamplingConfig, *, seed: int, batch_size: int) -> DataLoader:
    """A loader of one unvaried patch a case, the same at every epoch: drawn once and kept."""
    patches = []
    for number, case in enumerate(cases):
        patch = sample_patch(case, config.unvaried(), np.random.default_rng([seed, number]))
        patches.append(patch_tensors(patch))
    return DataLoader(Dataset(patches), batch_size=batch_size, shuffle=False, num_workers=0)


class ClickLoss(nn.Module):
    """Dice and cross-entropy of the outline, and cross-entropy of the readers' mean, where the scan knows anything.

    Args:
        outline: of the first map of logits with the nodule's share of each voxel.
        readers_weight: of the cross-entropy of the second map with the mean of the readers' masks. It teaches the
            network where readers disagree, which the outline alone does not show.
    """

    def __init__(self, outline: nn.Module, *, readers_weight: float = 0.5) -> None:
        super().__init__()
        self.outline = outline
        self.readers_weight = readers_weight

    def forward(self, logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Logits [N, 2, …] and labels [N, 3, …] (nodule, known, readers' mean) to a scalar."""
        known = label[:, 1:2] > 0.5
        logits = torch.where(known, logits, UNKNOWN_LOGIT)
        readers = nn.functional.binary_cross_entropy_with_logits(logits[:, 1:2], label[:, 2:3])
        loss = self.outline(logits[:, :1], label[:, :1]) + self.readers_weight * readers
        return cast("torch.Tensor", loss)


class CorrectingIteration:
    """One draw of patches trained on repeatedly, with clicks at what went wrong in between.

    The prediction of one optimiser step tells where an annotator would click next; the next step sees that click. So
    corrections cost no forward pass of their own.

    Args:
        shares: how often a first, second, … further step follows.
        seed: of the clicks.
        share: which of several processes this is: all take as many steps, each clicks in its own patches.
    """

    def __init__(self, shares: Sequence[float], seed: int, *, share: ProcessShare = ALONE) -> None:
        self._shares = tuple(shares)
        self._seed = seed
        self._share = share

    def __call__(self, engine: SupervisedTrainer, batch: dict[str, Any]) -> dict[str, Any]:
        """Train on a batch (ignite's process function)."""
        rng = np.random.default_rng([self._seed, engine.state.iteration])
        # A process that clicked by the common generator would soon count its steps otherwise than the others.
        clicks = rng
        if self._share.count > 1:
            clicks = np.random.default_rng([self._seed, engine.state.iteration, self._share.rank])
        output = cast("dict[str, Any]", engine._iteration(engine, batch))
        for share in self._shares:
            if rng.random() >= share:
                break
            batch = {**batch, "image": with_corrections(batch["image"], batch["label"], output["pred"], clicks)}
            output = cast("dict[str, Any]", engine._iteration(engine, batch))
        return output


def with_corrections(
    image: torch.Tensor, label: torch.Tensor, logits: torch.Tensor, rng: np.random.Generator
) -> torch.Tensor:
    """Add to each patch of a batch the click an annotator would make next.

    Args:
        image: the network's channels [N, 5, …] on the CPU.
        label: [N, 3, …] on the CPU.
        logits: [N, 2, …] on any device.
        rng: places the clicks.

    Returns:
        A new image tensor.
    """
    clicked = image.clone()
    predicted = (logits.detach()[:, 0] > 0).cpu().numpy()
    truth = label[:, :2].numpy() > 0.5
    for number, (mask, (target, known)) in enumerate(zip(predicted, truth, strict=True)):
        correction = correcting_click(mask, target, known, rng)
        if correction is not None:
            index, is_foreground = correction
            drawn: NDArray[np.float32] = click_map(mask.shape, [index])
            channel = clicked[number, 1 if is_foreground else 2]
            torch.maximum(channel, torch.from_numpy(drawn), out=channel)
    return clicked
