"""Train or fine-tune the click network with MONAI's engines.

Under ``torchrun`` several processes train one network (``medai.training.processes``); the first one saves and reports,
and all validate, which takes no longer than waiting for it.

Every epoch ends with a validation; the weights of the best one are on disk as soon as they exist, so that a run that is
stopped or killed leaves a usable model. The state to resume from lies beside them.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from medai.errors import CancelledByUserError, InputError, ModelError, StorageError
from medai.training.click_sampling import SamplingConfig
from medai.training.dataset import ClickDataset

if TYPE_CHECKING:
    import torch
    from monai.engines import SupervisedEvaluator, SupervisedTrainer
    from torch import nn

_logger = logging.getLogger(__name__)

BEST_NAME = "best.safetensors"
STATE_NAME = "training_state.pt"
SETTLING_BATCHES = 200
"""That measure the batch norms of averaged weights."""

NETWORK = {
    "network": "residual_unet",
    "network_options": {"channels_in": 5, "channels_out": 2, "channels": [16, 32, 64, 128], "blocks": [1, 2, 2, 2]},
}
"""What is trained where there are no weights to start from."""


FINE_TUNING_RATE = "fine_tuning_rate"
"""In a network's file: the learning rate it is retrained with, where that is not ``ClickTrainingConfig``'s own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FurtherDescents:
    """Trainings from the end of the ones before in which the learning rate falls once more (``train_click_cycles``).

    A further descent finds better weights than a first one of the same length goes on to.

    Attributes:
        epochs: rounds of each.
        count: how many, with a seed each; their weights are averaged.
        rate: where the learning rate starts from, over the first training's.
        correction_shares: None for the same as before.
        sampling: None for the same as before. A first training on coarser patches costs a fraction of the time.
    """

    epochs: int
    count: int = 1
    rate: float = 0.5
    correction_shares: tuple[float, ...] | None = None
    sampling: SamplingConfig | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "count"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} of further descents must be 1 or more, it is {getattr(self, name)}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClickTrainingConfig:
    """How a click network is trained. The defaults fine-tune on a small study in minutes on a CPU.

    Attributes:
        epochs: rounds of training and validation.
        further: trainings that follow one after the other, where ``train_click_cycles`` trains.
        iterations_per_epoch: batches a round; each is one to four optimiser steps.
        batch_size: patches.
        learning_rate: at its highest, after the warm-up; a cosine brings it down to a hundredth.
        weight_decay: of AdamW.
        warmup_iterations: the rate rises linearly over these.
        correction_shares: how often a first, second, third correcting click follows.
        replay_fraction: share of patches drawn from the data set's replay cases.
        average_decay: of the running average of the weights, which is what is validated and saved.
        device: "auto", "cpu" or "cuda" (mixed precision).
        keep: "best" keeps the weights of the epoch that validates best, "last" those of the last one: nothing is chosen
            by the validation cases then, and their figures stay honest.
        members: networks of the ensemble, trained one after the other with a seed each (``train_click_ensemble``).
        seed: of everything random.
        sampling: how patches are drawn.
    """

    epochs: int = 6
    further: tuple[FurtherDescents, ...] = ()
    iterations_per_epoch: int = 25
    batch_size: int = 4
    learning_rate: float = 5e-4
    weight_decay: float = 1e-3
    warmup_iterations: int = 20
    correction_shares: tuple[float, ...] = (0.4, 0.5, 0.5)
    replay_fraction: float = 0.3
    average_decay: float = 0.99
    device: str = "auto"
    keep: Literal["best", "last"] = "best"
    members: int = 1
    seed: int = 20240229
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    def __post_init__(self) -> None:
        for name in ("epochs", "iterations_per_epoch", "batch_size", "members"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be 1 or more, it is {getattr(self, name)}.")
        if not self.learning_rate > 0:
            raise InputError(f"learning_rate must be above 0, it is {self.learning_rate}.")
        if not 0 <= self.replay_fraction < 1:
            raise InputError(f"replay_fraction must be 0 or more and below 1, it is {self.replay_fraction}.")

    @property
    def total_epochs(self) -> int:
        """Rounds of all descents."""
        return self.epochs + sum(descents.count * descents.epochs for descents in self.further)


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochReport:
    """What one epoch brought.

    Attributes:
        epoch: 1 for the first; 0 for the weights the training starts from.
        total_epochs: as configured.
        train_loss: mean over the epoch; NaN for epoch 0.
        validation_dice: mean over the validation cases, first click, on patches.
        best_dice: the highest so far.
        seconds: wall time since the start.
    """

    epoch: int
    total_epochs: int
    train_loss: float
    validation_dice: float
    best_dice: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingResult:
    """How a training ended.

    Attributes:
        checkpoint_path: the weights with the best validation Dice; those it started from where no epoch was better.
        best_dice: their validation Dice.
        best_epoch: 0 for the weights it started from.
        epochs: one report an epoch, in order.
        stopped: True where it was asked to stop before its last epoch.
        seconds: wall time.
    """

    checkpoint_path: Path
    best_dice: float
    best_epoch: int
    epochs: tuple[EpochReport, ...]
    stopped: bool
    seconds: float


def train_click_network(
    dataset: ClickDataset,
    config: ClickTrainingConfig,
    *,
    start_from: Path | None,
    output_folder: Path,
    on_epoch: Callable[[EpochReport], None] = lambda report: None,
    on_iteration: Callable[[float], None] = lambda fraction: None,
    should_stop: Callable[[], bool] = lambda: False,
    resume: bool = False,
) -> TrainingResult:
    """Train on a data set and keep the weights that outline its validation cases best.

    Args:
        dataset: training and validation cases.
        config: how; its further descents are ``train_click_cycles``' business.
        start_from: weights to fine-tune; None starts from random ones.
        output_folder: takes ``best.safetensors`` and the state to resume from.
        on_epoch: called after each validation.
        on_iteration: called after each batch with the fraction that is done, 0–1.
        should_stop: asked after each batch; True ends the training with what is best so far.
        resume: go on from the state in ``output_folder`` where there is one.

    Raises:
        InputError: the device is not there, or the state to resume from is of another configuration.
        ModelError: the start weights do not fit, or the loss is no longer finite.
        CancelledByUserError: stopped before the first validation.
    """
    run = _ClickTraining(dataset, config, start_from, output_folder, on_epoch, on_iteration, should_stop)
    return run.run(resume=resume)


class _ClickTraining:
    """One training: its network, its engines and what has been reached."""

    def __init__(
        self,
        dataset: ClickDataset,
        config: ClickTrainingConfig,
        start_from: Path | None,
        output_folder: Path,
        on_epoch: Callable[[EpochReport], None],
        on_iteration: Callable[[float], None],
        should_stop: Callable[[], bool],
    ) -> None:
        import torch
        from torch.optim.swa_utils import AveragedModel

        from medai.training import processes

        self._config = config
        self._folder = output_folder
        self._on_epoch, self._on_iteration, self._should_stop = on_epoch, on_iteration, should_stop
        self._device = processes.local_device(_device(config.device))
        self._share = processes.join_processes(self._device)
        self._network, network_config = _start_network(start_from, config.seed)
        self._network.to(self._device)
        self._checkpoint_config = {
            **network_config,
            "task": "nodule_click",
            **config.sampling.described(),
        }
        self._average = AveragedModel(self._network, avg_fn=_averaging(config.average_decay), use_buffers=True)
        self._trained = processes.shared_network(self._network, self._share, self._device)
        self._optimiser = torch.optim.AdamW(
            self._network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, betas=(0.9, 0.99)
        )
        self._optimiser.register_step_pre_hook(_drop_broken_gradients)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimiser, rate_factor(config))
        self._evaluator = _make_evaluator(self._average.module, dataset, config, self._device)
        self._trainer = self._make_trainer(dataset)
        self._fine_tuned = start_from is not None
        self._reports: list[EpochReport] = []
        self._best_epoch = -1
        self._losses: list[float] = []
        self._stopped = False
        self._started = time.monotonic()

    def run(self, *, resume: bool) -> TrainingResult:
        """Train to the end, or until asked to stop."""
        from medai.training.processes import wait_for_all

        state_path = self._folder / STATE_NAME
        if resume and state_path.is_file():
            self._restore(state_path)
        elif self._fine_tuned:
            self._validated(epoch=0, train_loss=math.nan)
        if not self._reports or self._reports[-1].epoch < self._config.epochs:
            self._trainer.run()
        if self._best_epoch < 0:
            raise CancelledByUserError("The training was stopped before its first validation: no weights were saved.")
        # The weights are on the disk before any process goes on to use them.
        wait_for_all(self._share)
        return TrainingResult(
            checkpoint_path=self._folder / BEST_NAME,
            best_dice=self._reports[-1].best_dice,
            best_epoch=self._best_epoch,
            epochs=tuple(self._reports),
            stopped=self._stopped,
            seconds=time.monotonic() - self._started,
        )

    def _make_trainer(self, dataset: ClickDataset) -> SupervisedTrainer:
        """MONAI's trainer with this run's handlers."""
        from ignite.engine import Events
        from monai.engines import SupervisedTrainer
        from monai.handlers import LrScheduleHandler
        from monai.losses import DiceCELoss

        from medai.training import click_batches

        config = self._config
        transform = click_batches.DrawClickPatch(config.sampling, share=self._share, batch_size=config.batch_size)
        cases, weights = _weighted(dataset, config.replay_fraction)
        draws = config.iterations_per_epoch * config.batch_size
        loader, generator = click_batches.training_loader(
            cases, weights, transform, draws=draws, batch_size=config.batch_size, share=self._share
        )
        trainer = SupervisedTrainer(
            device=self._device,
            max_epochs=config.epochs,
            train_data_loader=loader,
            network=self._trained,
            optimizer=self._optimiser,
            loss_function=click_batches.ClickLoss(
                DiceCELoss(sigmoid=True, smooth_nr=0.0, smooth_dr=1e-5, lambda_ce=2.0)
            ),
            iteration_update=click_batches.CorrectingIteration(
                config.correction_shares, config.seed, share=self._share
            ),
            inferer=_inferer(self._device),
            train_handlers=[LrScheduleHandler(self._schedule, print_lr=False, epoch_level=False)],
            amp=self._device.type == "cuda",
            decollate=False,
        )

        def seed_epoch() -> None:
            generator.manual_seed(config.seed + trainer.state.epoch)
            transform.begin_epoch(config.seed + trainer.state.epoch)

        trainer.add_event_handler(Events.EPOCH_STARTED, seed_epoch)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._after_iteration)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._after_epoch)
        return trainer

    def _after_iteration(self) -> None:
        """Average the weights, report, and stop where asked or where the loss is lost."""
        from medai.training.processes import summed

        # All processes stop together: one that went on alone would wait for the others for ever.
        own = [float(self._trainer.state.output["loss"].detach()), float(self._should_stop())]
        loss_sum, stops = summed(own, self._share, self._device)
        loss = loss_sum / self._share.count
        if not math.isfinite(loss):
            raise ModelError(f"The training diverged (loss {loss}): lower learning_rate, {self._config.learning_rate}.")
        self._losses.append(loss)
        self._average.update_parameters(self._network)
        if self._share.leads:
            iterations = self._config.epochs * self._config.iterations_per_epoch
            self._on_iteration(self._trainer.state.iteration / iterations)
        if stops:
            self._stopped = True
            self._trainer.terminate()

    def _after_epoch(self) -> None:
        """Validate, keep the best weights, and save the state to resume from."""
        if self._stopped:
            return
        self._validated(epoch=self._trainer.state.epoch, train_loss=sum(self._losses) / max(1, len(self._losses)))
        self._losses.clear()
        if self._share.leads:
            self._save_state()

    def _validated(self, *, epoch: int, train_loss: float) -> None:
        """Measure the averaged weights; save them where they are the best so far."""
        from medai.networks.checkpoint import save_checkpoint
        from medai.networks.factory import network_tensors

        self._evaluator.run()
        dice = float(self._evaluator.state.metrics["dice"])
        best = self._reports[-1].best_dice if self._reports else -1.0
        if dice > best or (self._config.keep == "last" and epoch > 0):
            best, self._best_epoch = max(best, dice), epoch
            if self._share.leads:
                tensors = network_tensors(self._average.module)
                save_checkpoint(self._folder / BEST_NAME, tensors, self._checkpoint_config)
        report = EpochReport(
            epoch=epoch,
            total_epochs=self._config.epochs,
            train_loss=train_loss,
            validation_dice=dice,
            best_dice=best,
            seconds=time.monotonic() - self._started,
        )
        self._reports.append(report)
        if self._share.leads:
            self._on_epoch(report)

    def _save_state(self) -> None:
        """Write everything a later run needs to go on; where the disk refuses, this run goes on without."""
        from medai.training.training_state import save_state

        state = {
            "config": _fingerprint(self._config),
            "network": self._network.state_dict(),
            "average": self._average.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "schedule": self._schedule.state_dict(),
            "reports": [asdict(report) for report in self._reports],
            "best_epoch": self._best_epoch,
        }
        try:
            save_state(self._folder / STATE_NAME, state)
        except StorageError as error:
            _logger.warning("The training goes on, but could not be resumed from this epoch: %s", error)

    def _restore(self, state_path: Path) -> None:
        """Go on where another run left off."""
        import torch

        state = torch.load(state_path, map_location=self._device, weights_only=True)
        if state["config"] != _fingerprint(self._config):
            raise InputError(
                f"The state in {state_path.parent} is of a training with other settings: resume with the same ones, "
                "or train into another folder."
            )
        self._network.load_state_dict(state["network"])
        self._average.load_state_dict(state["average"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._schedule.load_state_dict(state["schedule"])
        self._reports = [EpochReport(**report) for report in state["reports"]]
        self._best_epoch = state["best_epoch"]
        self._trainer.state.epoch = self._reports[-1].epoch
        self._trainer.state.iteration = self._reports[-1].epoch * self._config.iterations_per_epoch


def patch_dice(checkpoint_path: Path, dataset: ClickDataset, config: ClickTrainingConfig) -> float:
    """Mean Dice over the validation cases, first click, on patches: what a training tells after each epoch.

    Args:
        checkpoint_path: the network.
        dataset: has the validation cases.
        config: how patches are drawn, and the device.
    """
    from medai.networks.checkpoint import load_checkpoint
    from medai.networks.factory import restore_network

    device = _device(config.device)
    evaluator = _make_evaluator(restore_network(load_checkpoint(checkpoint_path)).to(device), dataset, config, device)
    evaluator.run()
    return float(evaluator.state.metrics["dice"])


def settle_batch_norms(network: nn.Module, dataset: ClickDataset, config: ClickTrainingConfig) -> None:
    """Measure the batch norms' statistics anew on training patches, as averaged weights need it.

    Args:
        network: its statistics are replaced; on the CPU, before and after.
        dataset: patches are drawn from it as in an epoch of a training.
        config: how they are drawn.
    """
    from torch.optim.swa_utils import update_bn

    from medai.training import click_batches

    transform = click_batches.DrawClickPatch(config.sampling, batch_size=config.batch_size)
    cases, weights = _weighted(dataset, config.replay_fraction)
    draws = SETTLING_BATCHES * config.batch_size
    loader, generator = click_batches.training_loader(
        cases, weights, transform, draws=draws, batch_size=config.batch_size
    )
    generator.manual_seed(config.seed)
    transform.begin_epoch(config.seed)
    update_bn((batch["image"] for batch in loader), network)


def _make_evaluator(
    network: nn.Module, dataset: ClickDataset, config: ClickTrainingConfig, device: torch.device
) -> SupervisedEvaluator:
    """MONAI's evaluator over the validation cases' patches."""
    from monai.engines import SupervisedEvaluator
    from monai.handlers import MeanDice
    from monai.transforms import AsDiscreted, Compose

    from medai.training import click_batches

    loader = click_batches.validation_loader(
        dataset.validation, config.sampling, seed=config.seed, batch_size=config.batch_size
    )
    return SupervisedEvaluator(
        device=device,
        val_data_loader=loader,
        network=network,
        inferer=_inferer(device),
        # Logits, so that 0 is a probability of one half.
        postprocessing=Compose([AsDiscreted(keys="pred", threshold=0.0)]),
        key_val_metric={
            "dice": MeanDice(
                output_transform=lambda output: (
                    [item["pred"][:1] for item in output],
                    [(item["label"][:1] >= 0.5).float() for item in output],
                ),
                save_details=False,
            )
        },
        amp=device.type == "cuda",
    )


def has_cuda(name: str) -> bool:
    """Whether a device's name stands for a GPU on this machine.

    Raises:
        InputError: there is no such device.
    """
    return _device(name).type == "cuda"


def _device(name: str) -> torch.device:
    """The device a name stands for."""
    import torch

    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"Device '{name}' is unknown: choose auto, cpu or cuda.")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("Device 'cuda' was asked for, but torch finds no usable GPU: choose 'cpu' or 'auto'.")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _start_network(start_from: Path | None, seed: int) -> tuple[nn.Module, dict[str, Any]]:
    """The network to train and the part of its config that describes it."""
    import torch

    from medai.networks.checkpoint import load_checkpoint
    from medai.networks.factory import build_network, restore_network

    if start_from is None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network, config = build_network(NETWORK), dict(NETWORK)
    else:
        checkpoint = load_checkpoint(start_from)
        network = restore_network(checkpoint)
        kept = ("network", "network_options", FINE_TUNING_RATE)
        config = {key: checkpoint.config[key] for key in kept if key in checkpoint.config}
    return network.to(memory_format=torch.channels_last_3d), config  # type: ignore[call-overload]  # torch's stubs lack it


def _averaging(decay: float) -> Callable[[Any, Any, Any], Any]:
    """A running average that follows closely at first, so that short trainings are not held back by their start."""

    def averaged(average: Any, current: Any, count: Any) -> Any:
        if not current.is_floating_point():
            return current
        weight = min(decay, (1.0 + float(count)) / (10.0 + float(count)))
        return average + (current - average) * (1.0 - weight)

    return averaged


def rate_factor(config: ClickTrainingConfig) -> Callable[[int], float]:
    """From an iteration to the learning rate over its highest one: up in a line, down by a cosine."""
    iterations = config.epochs * config.iterations_per_epoch

    def factor(iteration: int) -> float:
        return min(1.0, (iteration + 1) / max(1, config.warmup_iterations)) * _cosine(iteration / iterations)

    return factor


def _cosine(done: float) -> float:
    """From 1 to a hundredth as ``done`` goes from 0 to 1."""
    return max(0.01, 0.5 * (1.0 + math.cos(math.pi * min(1.0, done))))


def _weighted(dataset: ClickDataset, replay_fraction: float) -> tuple[list[Any], list[float]]:
    """Cases and how often each is drawn: the replay's share is fixed, within each part the cases' weights decide."""
    share = replay_fraction if dataset.replay else 0.0
    weights: list[float] = []
    for part, part_share in ((dataset.training, 1.0 - share), (dataset.replay, share)):
        total = sum(case.weight for case in part)
        weights += [part_share * case.weight / total for case in part]
    return [*dataset.training, *dataset.replay], weights


def _inferer(device: torch.device) -> Any:
    """How the network is called: in bfloat16 on CPUs that compute it in hardware, which halves the time."""
    import torch
    from monai.inferers import SimpleInferer

    class BrainFloatInferer(SimpleInferer):  # type: ignore[misc]  # monai's classes are untyped
        """Run the network in bfloat16 and give its logits in float32."""

        def __call__(self, inputs: torch.Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> torch.Tensor:
            inputs = inputs.contiguous(memory_format=torch.channels_last_3d)
            with torch.autocast("cpu", torch.bfloat16):
                logits: torch.Tensor = network(inputs, *args, **kwargs)
            return logits.float()

    return BrainFloatInferer() if device.type == "cpu" and _has_bfloat16() else SimpleInferer()


def _has_bfloat16() -> bool:
    """True where the CPU multiplies bfloat16 itself; elsewhere it would be slower than float32."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def _fingerprint(config: ClickTrainingConfig) -> dict[str, Any]:
    """The settings as plain values, to be compared by a later run."""
    plain = asdict(replace(config, device="auto"))
    plain["correction_shares"] = list(plain["correction_shares"])
    plain["sampling"] = {
        key: list(value) if isinstance(value, tuple) else value for key, value in plain["sampling"].items()
    }
    return plain


def _drop_broken_gradients(optimiser: Any, args: Any, kwargs: Any) -> None:
    """Leave a step out whose gradients are not all finite: a bfloat16 backward pass has once spoilt a single tensor.

    Without this one bad gradient makes the weights useless for the rest of the training, while the loss may still be
    finite. On CUDA the gradient scaler does the same.
    """
    import torch

    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    if all(parameter.grad is None or bool(torch.isfinite(parameter.grad).all()) for parameter in parameters):
        return
    _logger.warning("A training step had gradients that are not finite; it is left out.")
    for parameter in parameters:
        parameter.grad = None
