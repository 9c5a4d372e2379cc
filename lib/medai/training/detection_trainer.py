"""Trains the detection network with MONAI's detector: ATSS assigns anchors, mining picks the negatives that count.

The weights kept are a running mean of those of the last few hundred steps: smoother than the last ones and better on
scans not seen. The state is written now and then, so that a stopped training goes on where it was.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medai.errors import CancelledByUserError, InputError, ModelError
from medai.networks.checkpoint import Checkpoint
from medai.networks.factory import build_network, network_tensors, restore_network
from medai.postprocessing.detection_boxes import AnchorConfig
from medai.training.detection_patches import DetectionPatch, PatchConfig, draw_patch
from medai.training.detection_scans import PreparedScan

if TYPE_CHECKING:
    import torch
    from torch import nn

STATE_FILE = "detection_training.pt"
SAVE_EVERY = 200
"""Steps between two savings of the state."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionTrainingConfig:
    """How the detection network is trained.

    Attributes:
        profile: "cpu" or "gpu", see ``medai.networks.detection_network``.
        network_options: of the profile.
        spacing_ras_mm: voxel size along the axes nearest to right, anterior, superior.
        anchors: of the network.
        patches: how patches are cut.
        steps: updates of the weights.
        batch_size: patches an update.
        learning_rate: the highest one, reached early and brought down to zero (one cycle).
        weight_decay: of AdamW.
        mean_decay: of the running mean of the weights.
        candidates_a_level: anchors ATSS looks at for each nodule and level.
        samples: anchors a patch that enter the loss, the hardest negatives among them.
        nodule_share: of the samples, at most.
        least_negatives: a patch.
        pool: the negatives are drawn from so many times as many of the hardest.
        box_weight: of the boxes' loss against the classes'.
        freeze_statistics: keep the normalisation as it is, for fine-tuning on few scans.
        bfloat16: computes in it where the device gains by it; the weights stay float32.
        seed: of everything random.
    """

    profile: str = "cpu"
    network_options: dict[str, Any] = field(default_factory=lambda: {"channels_in": 1, "anchors": 1})
    spacing_ras_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    anchors: AnchorConfig = field(default_factory=AnchorConfig)
    patches: PatchConfig = field(default_factory=PatchConfig)
    steps: int = 2500
    batch_size: int = 6
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    mean_decay: float = 0.997
    candidates_a_level: int = 4
    samples: int = 64
    nodule_share: float = 0.3
    least_negatives: int = 24
    pool: float = 10.0
    box_weight: float = 1.0
    freeze_statistics: bool = False
    bfloat16: bool = True
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """For the card and for comparing with a saved state."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values


GPU_TRAINING = DetectionTrainingConfig(
    profile="gpu",
    network_options={"channels_in": 1, "anchors": 3},
    spacing_ras_mm=(0.703125, 0.703125, 1.25),
    anchors=AnchorConfig(
        strides=((4, 4, 2), (8, 8, 4), (16, 16, 8)),
        shapes=((6.0, 8.0, 4.0), (8.0, 6.0, 5.0), (10.0, 10.0, 6.0)),
    ),
    patches=PatchConfig(shape=(192, 192, 80), window_hu=(-1024.0, 300.0), image_range=(0.0, 1.0)),
    batch_size=4,
    steps=30000,
    least_negatives=16,
    pool=20.0,
)
"""The Model Zoo's ``lung_nodule_ct_detection``: its spacing, window, anchors, patches and sampling."""


def train_detection_network(
    scans: Sequence[PreparedScan],
    config: DetectionTrainingConfig,
    *,
    output_folder: Path,
    start_from: Checkpoint | None = None,
    hard_places: Mapping[str, NDArray[np.float32]] | None = None,
    until_step: int | None = None,
    resume: bool = True,
    device: str = "cpu",
    on_step: Callable[[int, float, float], None] = lambda step, class_loss, box_loss: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Checkpoint:
    """Train the network.

    Args:
        scans: at ``config.spacing_ras_mm``; drawn from evenly.
        config: how.
        output_folder: holds the state of the training.
        start_from: weights to go on from; None starts afresh.
        hard_places: index [k, 3] of false marks by case, drawn from as well.
        until_step: stop there and keep the state, to go on later; None trains to the end.
        resume: go on from a state of the same config in ``output_folder``.
        device: "cpu" or "cuda".
        on_step: told the step, the classes' and the boxes' loss.
        should_stop: asked before each step.

    Returns:
        The running mean of the weights with all that inference needs to know.

    Raises:
        InputError: there is no scan, or none with a nodule.
        CancelledByUserError: ``should_stop`` said so; the state is kept.
    """
    if not any(len(scan.nodules) for scan in scans):
        raise InputError(f"None of the {len(scans)} scans holds a nodule: a detector cannot learn from them.")
    run = _Run(config, start_from, device)
    state_path = output_folder / STATE_FILE
    if resume and state_path.is_file():
        run.restore(state_path)
    last = min(config.steps, until_step or config.steps)
    while run.step < last:
        if should_stop():
            run.save(state_path)
            raise CancelledByUserError(f"Training of the detector was stopped at step {run.step}; its state is kept.")
        rng = np.random.default_rng((config.seed, run.step))
        patches = [
            draw_patch(scans[int(rng.integers(len(scans)))], rng, config.patches, hard_places)
            for _ in range(config.batch_size)
        ]
        class_loss, box_loss = run.update(patches)
        on_step(run.step, class_loss, box_loss)
        if run.step % SAVE_EVERY == 0 or run.step == last:
            run.save(state_path)
    return run.checkpoint()


class _Run:
    """Network, its running mean, optimizer and schedule."""

    def __init__(self, config: DetectionTrainingConfig, start_from: Checkpoint | None, device: str) -> None:
        import torch

        torch.manual_seed(config.seed)
        self.config, self.device, self.step = config, device, 0
        options = {"profile": config.profile, **config.network_options}
        self._inference = {
            "network": "detection_network",
            "network_options": options,
            "patch_shape": list(config.patches.shape),
            "spacing_ras_mm": list(config.spacing_ras_mm),
            "window_hu": list(config.patches.window_hu),
            "image_range": list(config.patches.image_range),
            "anchors": config.anchors.to_json(),
        }
        fresh = build_network(self._inference)
        network = fresh if start_from is None else restore_network(start_from)
        self.network: nn.Module = network.to(device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # torch's stubs lack it
        self.mean = copy.deepcopy(self.network).eval()
        self._detector = _detector(self.network.retinanet, config, device)
        self._optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimizer, config.learning_rate, total_steps=config.steps, pct_start=0.08
        )

    def update(self, patches: Sequence[DetectionPatch]) -> tuple[float, float]:
        """One update of the weights; a step whose loss is not finite is left out."""
        import torch

        self._detector.train()
        if self.config.freeze_statistics:
            for module in self.network.modules():
                if isinstance(module, torch.nn.BatchNorm3d):
                    module.eval()
        torch.manual_seed(self.config.seed * 1_000_003 + self.step)
        images = torch.from_numpy(np.stack([patch.image for patch in patches]))[:, None].to(self.device)
        targets = [
            {
                "boxes": torch.from_numpy(patch.boxes).to(self.device),
                "labels": torch.zeros(len(patch.boxes), dtype=torch.long, device=self.device),
                "ignored": torch.from_numpy(patch.ignored).to(self.device),
            }
            for patch in patches
        ]
        self._optimizer.zero_grad()
        losses = self._detector(images.contiguous(memory_format=torch.channels_last_3d), targets)
        class_loss, box_loss = losses["classification"], losses["box_regression"]
        loss = class_loss + self.config.box_weight * box_loss
        if bool(torch.isfinite(loss)):
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), 10.0)
            self._optimizer.step()
        self._schedule.step()
        self.step += 1
        self._follow()
        return float(class_loss.detach()), float(box_loss.detach())

    def _follow(self) -> None:
        """Move the running mean towards the weights; early on it is a mean of fewer steps."""
        import torch

        decay = min(self.config.mean_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for kept, now in zip(self.mean.state_dict().values(), self.network.state_dict().values(), strict=True):
                if kept.is_floating_point():
                    kept.lerp_(now, 1 - decay)
                else:
                    kept.copy_(now)

    def checkpoint(self) -> Checkpoint:
        """The running mean, for inference."""
        return Checkpoint(config=dict(self._inference), tensors=network_tensors(self.mean))

    def save(self, path: Path) -> None:
        """Write all that a later run needs to go on.

        Raises:
            StorageError: the disk refused; the state of before stands.
        """
        from medai.training.training_state import save_state

        state = {
            "config": json.dumps(self.config.to_json()),
            "step": self.step,
            "network": self.network.state_dict(),
            "mean": self.mean.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
        }
        save_state(path, state)

    def restore(self, path: Path) -> None:
        """Go on from a saved state.

        Raises:
            ModelError: it is of another config.
        """
        import torch

        state = torch.load(path, map_location=self.device, weights_only=True)
        if json.loads(state["config"]) != self.config.to_json():
            raise ModelError(f"{path} is of a training with another configuration: name another folder.")
        self.step = int(state["step"])
        self.network.load_state_dict(state["network"])
        self.mean.load_state_dict(state["mean"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])


def _detector(network: nn.Module, config: DetectionTrainingConfig, device: str) -> nn.Module:
    """MONAI's detector around the network, set up for training."""
    import torch
    from monai.apps.detection.networks.retinanet_detector import RetinaNetDetector
    from monai.apps.detection.utils.anchor_utils import AnchorGeneratorWithAnchorShape

    class Network(torch.nn.Module):
        """Computes in bfloat16 where that is asked for, and answers in float32: anchors and losses need its digits."""

        spatial_dims, num_classes = network.spatial_dims, network.num_classes
        size_divisible, num_anchors = network.size_divisible, network.num_anchors
        cls_key, box_reg_key = network.cls_key, network.box_reg_key

        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: torch.Tensor) -> dict[str, list[torch.Tensor]]:
            with torch.autocast(device, dtype=torch.bfloat16, enabled=config.bfloat16):
                heads = self.network(images)
            return {name: [level.float() for level in levels] for name, levels in heads.items()}

    class Detector(RetinaNetDetector):  # type: ignore[misc]  # monai is untyped here
        """Gives every nodule an anchor, and leaves out anchors on what is neither right nor wrong to mark."""

        def compute_anchor_matched_idxs(
            self, anchors: list[torch.Tensor], targets: list[dict[str, torch.Tensor]], places: list[int]
        ) -> list[torch.Tensor]:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="No anchor is matched")
                matched: list[torch.Tensor] = super().compute_anchor_matched_idxs(anchors, targets, places)
            for own, boxes, target in zip(matched, anchors, targets, strict=True):
                overlap = self.box_overlap_metric(target["boxes"], boxes)
                for number, overlaps in enumerate(overlap):
                    # ATSS asks for more than the mean plus a deviation: where two levels fit alike, nothing has it.
                    if not bool((own == number).any()):
                        own[(overlaps >= 0.9 * overlaps.max()) & (own < 0)] = number
                middle = (boxes[:, :3] + boxes[:, 3:]) / 2
                for box in target["ignored"]:
                    covered = ((middle >= box[:3]) & (middle <= box[3:])).all(dim=1)
                    own[covered & (own < 0)] = self.proposal_matcher.BETWEEN_THRESHOLDS
            return matched

    detector = Detector(
        Network(),
        AnchorGeneratorWithAnchorShape(
            feature_map_scales=config.anchors.scales, base_anchor_shapes=config.anchors.shapes
        ),
    )
    detector.set_atss_matcher(num_candidates=config.candidates_a_level, center_in_gt=False)
    detector.set_hard_negative_sampler(
        batch_size_per_image=config.samples,
        positive_fraction=config.nodule_share,
        min_neg=config.least_negatives,
        pool_size=config.pool,
    )
    detector.set_target_keys(box_key="boxes", label_key="labels")
    return detector


def config_of_finder(config: Mapping[str, Any]) -> DetectionTrainingConfig:
    """The configuration that goes with published weights: their network, anchors, spacing and window.

    Args:
        config: of a checkpoint of a detection network.
    """
    options = dict(config["network_options"])
    profile = str(options.pop("profile", "cpu"))
    default = GPU_TRAINING if profile == "gpu" else DetectionTrainingConfig()
    right, anterior, superior = (float(s) for s in config["spacing_ras_mm"])
    low_hu, high_hu = (float(hu) for hu in config["window_hu"])
    low, high = (float(value) for value in config["image_range"])
    return replace(
        default,
        profile=profile,
        network_options=options,
        spacing_ras_mm=(right, anterior, superior),
        anchors=AnchorConfig.of_json(config["anchors"]),
        patches=replace(default.patches, window_hu=(low_hu, high_hu), image_range=(low, high)),
    )
