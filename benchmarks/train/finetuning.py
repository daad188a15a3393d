"""Fine-tuning a QCFS network: the recipe, its data and its Lightning module."""

from __future__ import annotations

import dataclasses
import importlib
import math
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from torch.utils.data.distributed import DistributedSampler

from benchmarks import torchvision_cpu
from benchmarks.data import Batch, Source, evenly, length, stacked
from benchmarks.lightning_cpu import L
from benchmarks.models import in_format
from benchmarks.train.cuda_graphs import Captured
from benchmarks.train.views import OneView, Views
from pascal_ext.activations import qcfs_layers, set_levels
from pascal_ext.errors import InvalidArgumentError

DISTILLATIONS = ("none", "kl", "logits")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a network is trained: SGD with Nesterov momentum, a linear warm-up and a cosine to zero.

    Attributes:
        lr: the highest learning rate.
        threshold_lr: that of the thresholds, as a share of ``lr``. A threshold's gradient sums over all elements of a
            layer, so it is far larger than a weight's.
        momentum: of SGD.
        weight_decay: of weights; thresholds and batch norms have none.
        warmup: the share of all steps in which the learning rate rises.
        clip: the largest norm of the gradient. Straight through many quantised layers it can be far larger than the
            ReLU network's, and undoes within a few steps what the weights knew.
        distillation: ``"kl"``: (1 - share)·CE + share·τ²·KL(teacher ‖ student) at temperature τ; ``"logits"``: the
            squared distance between the logits in place of the divergence; ``"none"``: CE alone.
        share, temperature: of the distillation.
        mixup: α of the Beta(α, α) that each batch is mixed by, images and labels alike (Zhang et al., ICLR 2018,
            arXiv 1710.09412); 0: not at all. A teacher sees the mixed images.
        threshold_floor: no step leaves a threshold nearer to zero than this share of its first value, or beyond zero.
            SGD knows no bounds, and a threshold that crosses zero turns its layer's sign around and does not come back.
        batch_norm_images: training images that batch norms take their statistics from at the end; 0: they keep the
            running ones. See :func:`estimate_batch_norms`.
    """

    lr: float = 0.03
    threshold_lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warmup: float = 0.05
    clip: float = 1.0
    distillation: str = "none"
    share: float = 0.7
    temperature: float = 3.0
    mixup: float = 0.0
    threshold_floor: float = 0.05
    batch_norm_images: int = 10_000

    def __post_init__(self) -> None:
        if self.distillation not in DISTILLATIONS:
            raise InvalidArgumentError(
                f"distillation={self.distillation!r} is unknown; choose one of {list(DISTILLATIONS)}"
            )
        for name in ("share", "warmup", "threshold_floor"):
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidArgumentError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        if self.mixup < 0:
            raise InvalidArgumentError(f"mixup must not be negative, got {self.mixup}")

    def loss(self, logits: Tensor, labels: Tensor, teacher_logits: Tensor | None) -> Tensor:
        """The loss of a batch: logits [N, C], labels [N], or mixed ones [N, C], the teacher's logits [N, C] or None."""
        cross_entropy = F.cross_entropy(logits, labels)
        if teacher_logits is None:
            return cross_entropy
        return (1 - self.share) * cross_entropy + self.share * self._distance(logits, teacher_logits)

    def _distance(self, logits: Tensor, teacher_logits: Tensor) -> Tensor:
        if self.distillation == "logits":
            return F.mse_loss(logits, teacher_logits)
        ours, theirs = (F.log_softmax(values / self.temperature, 1) for values in (logits, teacher_logits))
        return F.kl_div(ours, theirs, reduction="batchmean", log_target=True) * self.temperature**2

    def rate(self, step: int, steps: int) -> float:
        """The learning rate at ``step`` of ``steps``, as a share of ``lr``."""
        rising = round(self.warmup * steps)
        if step < rising:
            return (step + 1) / (rising + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


@torch.no_grad()
def estimate_batch_norms(model: nn.Module, source: Source, images: Dataset[Any], count: int, seed: int) -> None:
    """Give batch norms the statistics of ``count`` training images, augmented as in training (Wu and Johnson,
    *Rethinking "Batch" in BatchNorm*, arXiv 2105.07576, section 3).

    The running ones are an average over the last few batches, of weights that still moved, and activations that round
    are sensitive to where they lie.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    device = next(model.parameters()).device
    chosen = torch.tensor(evenly(length(images), count))
    order = chosen[torch.randperm(len(chosen), generator=torch.Generator().manual_seed(seed))]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for batch, _ in DataLoader(Subset(images, order.tolist()), 250, collate_fn=stacked):
            model(source.normalise(source.augment(batch.to(device))))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


class Images(L.LightningDataModule):
    """Training and test images, uint8; they are augmented and normalised on the device, a batch at a time.

    Training images may be :class:`~benchmarks.train.views.Views`, which are augmented already.

    The order of an epoch depends on the seed and the epoch alone, so that a resumed run goes on as it would have.
    """

    def __init__(
        self,
        train: Dataset[Any],
        test: Dataset[Any],
        batch_size: int,
        seed: int,
        workers: int = 0,
        *,
        captured: bool = False,
    ) -> None:
        super().__init__()
        self.train, self.test = train, test
        self.batch_size, self.seed, self.workers = batch_size, seed, workers
        self.pins = not (captured and workers)  # the thread that does it would break off a capture

    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.train, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.test, shuffle=False)

    def _loader(self, data: Dataset[Any], shuffle: bool) -> DataLoader[Any]:
        world, rank = (1, 0) if self.trainer is None else (self.trainer.world_size, self.trainer.global_rank)
        sampler: DistributedSampler[Any]
        if isinstance(data, Views):
            sampler = OneView(data, world, rank, self.seed)
        else:
            sampler = DistributedSampler(data, world, rank, shuffle, self.seed)
        return DataLoader(
            data,
            self.batch_size,
            sampler=sampler,
            collate_fn=stacked,
            num_workers=self.workers,
            pin_memory=self.pins and self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
            drop_last=shuffle and len(sampler) > self.batch_size,
        )


class FineTuning(L.LightningModule):
    """Trains a QCFS network, thresholds included.

    Args:
        student: the QCFS network, its thresholds calibrated.
        source: how images are augmented and normalised.
        recipe: see :class:`Recipe`.
        teacher: the ReLU network to distil from, where batches do not bring its logits.
        seed: of the augmentation.
        channels_last: the memory format that convolutions are fastest in, on CPUs and on GPUs in half precision.
        compiled: compile the networks and the loss as one graph; needs a C++ compiler (CPU) or Triton (GPU). In eager
            mode a QCFS and its gradient pass over memory some twenty times, which costs a small network on a CPU
            nearly as much as its convolutions do.
        captured: replay a step as CUDA graphs, see :class:`~benchmarks.train.cuda_graphs.Captured`.
    """

    def __init__(
        self,
        student: nn.Module,
        source: Source,
        recipe: Recipe,
        teacher: nn.Module | None = None,
        *,
        seed: int = 0,
        channels_last: bool = True,
        compiled: bool = False,
        captured: bool = False,
    ) -> None:
        super().__init__()
        if (teacher is None) != (recipe.distillation == "none"):
            raise InvalidArgumentError("distillation and a teacher go together: give both or none")
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.student: nn.Module = in_format(student, self.memory_format)
        self.source, self.recipe, self.seed = source, recipe, seed
        self._teacher = () if teacher is None else (teacher,)  # in a tuple: it is no part of the checkpoint, nor of DDP
        self._objective: Callable[..., tuple[Tensor, Tensor]] = self.objective
        if compiled:
            self._objective = torch.compile(self.objective, dynamic=False)
        elif captured:
            self._objective = Captured(self.student, self.objective)
        self._mix: Callable[..., tuple[Tensor, Tensor]] | None = None
        if recipe.mixup:
            torchvision_cpu.load()
            transforms = importlib.import_module("torchvision.transforms.v2")
            self._mix = transforms.MixUp(alpha=recipe.mixup, num_classes=source.classes)
        self._started = time.monotonic()
        share = recipe.threshold_floor
        self.floors = {name: layer.threshold.detach() * share for name, layer in qcfs_layers(student).items()}

    def forward(self, images: Tensor) -> Tensor:
        """uint8 images [N, 3, H, W] -> logits [N, C]."""
        logits: Tensor = self.student(self._inputs(images))
        return logits

    def objective(self, inputs: Tensor, labels: Tensor, teacher_logits: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The loss of a normalised batch [N, 3, H, W] with labels [N] or [N, C], and the student's logits [N, C]."""
        if teacher_logits is None:
            for teacher in self._teacher:
                with torch.no_grad():
                    teacher_logits = teacher(inputs)
        logits = self.student(inputs)
        return self.recipe.loss(logits, labels, teacher_logits), logits.detach()

    def on_fit_start(self) -> None:
        for teacher in self._teacher:
            in_format(teacher.to(self.device), self.memory_format).eval().requires_grad_(False)
        self.floors = {name: floor.to(self.device) for name, floor in self.floors.items()}
        layers = qcfs_layers(self.student)
        self._thresholds: list[Tensor] = [layers[name].threshold for name in self.floors]
        self._signs = [torch.where(floor.signbit(), -1.0, 1.0) for floor in self.floors.values()]
        self._sizes = [floor.abs() for floor in self.floors.values()]

    def on_train_epoch_start(self) -> None:
        self._started = time.monotonic()
        self._sums = torch.zeros(2, device=self.device)

    def on_train_epoch_end(self) -> None:
        self.log("epoch_seconds", time.monotonic() - self._started)
        loss, accuracy = self._sums / self.trainer.num_training_batches
        self.log("loss", loss, prog_bar=True, sync_dist=True)
        self.log("train_accuracy", accuracy, prog_bar=True, sync_dist=True)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Each step has a seed of its own, so that a resumed run draws the same augmentation and dropout.
        torch.manual_seed((self.seed * 1_000_003 + self.global_step) * self.trainer.world_size + self.global_rank)

    def training_step(self, batch: Batch | tuple[Tensor, Tensor, Tensor], _: int) -> Tensor:
        images, labels, *teacher_logits = batch
        if not teacher_logits:
            images = self.source.augment(images)
        inputs, wanted = self.source.normalise(images), labels
        if self._mix is not None:
            inputs, wanted = self._mix(inputs, labels)
        loss, logits = self._objective(inputs.to(memory_format=self.memory_format), wanted, *teacher_logits)
        seen = labels if wanted.ndim == 1 else wanted.argmax(1)
        self._sums += torch.stack([loss.detach(), _hits(logits, seen)])  # to log every step takes longer than a step
        return loss

    def validation_step(self, batch: Batch, _: int) -> None:
        images, labels = batch
        self.log("test_accuracy", _hits(self(images), labels), prog_bar=True, sync_dist=True, batch_size=len(labels))

    def configure_optimizers(self) -> Any:
        thresholds = [layer.threshold for layer in qcfs_layers(self.student).values()]
        chosen = {id(threshold) for threshold in thresholds}
        others = [parameter for parameter in self.student.parameters() if id(parameter) not in chosen]
        groups: list[dict[str, Any]] = [
            {"params": [parameter for parameter in others if parameter.ndim > 1]},
            {"params": [parameter for parameter in others if parameter.ndim <= 1], "weight_decay": 0.0},
            {"params": thresholds, "weight_decay": 0.0, "lr": self.recipe.lr * self.recipe.threshold_lr},
        ]
        optimizer = torch.optim.SGD(
            groups, self.recipe.lr, self.recipe.momentum, weight_decay=self.recipe.weight_decay, nesterov=True
        )
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.recipe.rate(step, steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self._thresholds:
            with torch.no_grad():  # a few launches for all layers, not a few for each
                torch._foreach_mul_(self._thresholds, self._signs)
                torch._foreach_clamp_min_(self._thresholds, self._sizes)
                torch._foreach_mul_(self._thresholds, self._signs)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        layers = qcfs_layers(self.student)
        checkpoint["levels"] = {name: layer.levels for name, layer in layers.items()}
        checkpoint["floors"] = self.floors

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if checkpoint["levels"]:  # a ReLU network has none
            set_levels(self.student, checkpoint["levels"])
        self.floors = checkpoint["floors"]

    def _inputs(self, images: Tensor) -> Tensor:
        return self.source.normalise(images).to(memory_format=self.memory_format)


def _hits(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.argmax(1) == labels).float().mean()
