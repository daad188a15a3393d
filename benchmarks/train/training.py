"""One training run, from its networks to the row of its result."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from benchmarks import data, rows
from benchmarks.lightning_cpu import L
from benchmarks.models import build
from benchmarks.models.checkpoints import load_relu, save_qcfs
from benchmarks.train.finetuning import FineTuning, Images, estimate_batch_norms
from benchmarks.train.reallocation import Reallocate
from benchmarks.train.run import RELU, Run
from benchmarks.train.views import Views
from pascal_ext.activations import qcfs_layers
from pascal_ext.data import batches
from pascal_ext.errors import InvalidArgumentError
from pascal_ext.plan import LevelPlan


def train(
    run: Run, root: Path, output: Path, *, resume: bool = True, compiled: bool = False, workers: int = 0, **trainer: Any
) -> dict[str, Any] | None:
    """Train, write ``model.pt``, ``plan.json`` and checkpoints under ``output``, and return the result's row.

    Of a ReLU network, ``model.pt`` is the state dict, which ``weights`` of another run takes.

    The network of the last epoch is the result: nothing is chosen by its accuracy on the test images.

    Args:
        run: what to train.
        root: folder of the images, see :func:`benchmarks.data.read`.
        output: folder for what is written.
        resume: go on from ``output/last.ckpt`` where it is there.
        compiled: compile the training step; on one GPU, capture it and replay it as CUDA graphs.
        workers: processes that read images from disk.
        trainer: for :class:`lightning.Trainer`: devices, precision ...

    Returns:
        The row; None in the processes of rank 1 and above.

    Raises:
        InvalidArgumentError: an option does not fit, or the checkpoint to resume is of another run.
    """
    source, environment = run.source(), rows.environment()  # now: the checkout may change while this runs
    last = output / "last.ckpt"
    ckpt = last if resume and last.is_file() else None
    if ckpt is not None:
        _check_same(run, ckpt)
    L.seed_everything(run.seed, workers=True)
    images, test_images = data.read(source, root, "train"), data.read(source, root, "test")
    calibration = data.loader(source, images, 250, limit=run.calibration_images, workers=workers)
    relu = build(run.model, source.classes)
    if run.weights is not None:
        relu = load_relu(run.model, source.classes, Path(run.weights))
    if run.levels == RELU and (run.start is not None or run.reallocate_at is not None):
        raise InvalidArgumentError("a ReLU network has no levels: --start and --reallocate-at do not go with it")
    teacher = run.find_teacher(relu)
    remember = L.pytorch.callbacks.ModelCheckpoint(
        output, "last", save_top_k=1, save_on_train_epoch_end=True, enable_version_counter=False
    )
    callbacks: list[L.Callback] = [remember, _Remember(run)]
    if run.reallocate_at is not None:
        plan = output / "reallocated.json"
        callbacks.append(Reallocate(run.reallocate_at, run.strategy, run.mean_levels, calibration, plan))
    lightning = L.Trainer(
        max_epochs=run.epochs,
        callbacks=callbacks,
        logger=L.pytorch.loggers.CSVLogger(output, name="log"),
        default_root_dir=output,
        use_distributed_sampler=False,  # Images has its own
        num_sanity_val_steps=0,
        gradient_clip_val=run.recipe.clip,
        **trainer,
    )
    device = lightning.strategy.root_device
    student = run.student(relu.to(device), calibration).train()
    one_gpu = device.type == "cuda" and lightning.world_size == 1  # DDP's own work on gradients is no part of a graph
    shown = images
    if run.views:
        if teacher is None:
            raise InvalidArgumentError("--views keeps what a teacher says: it needs --distillation")
        if run.recipe.mixup:
            raise InvalidArgumentError(
                "--views keeps what a teacher says of each image, --mixup mixes them: choose one"
            )
        file, progress = output / "views.safetensors", trainer.get("enable_progress_bar", True)
        with lightning.precision_plugin.forward_context():
            shown = Views(source, images, teacher.to(device), run.views, run.seed, file, progress=progress)
    captured = compiled and one_gpu
    fast = {"captured" if captured else "compiled": compiled}
    module = FineTuning(student, source, run.recipe, teacher, seed=run.seed, **fast)
    both = Images(shown, test_images, run.batch_size, run.seed, workers, captured=captured)
    lightning.fit(module, both, ckpt_path=ckpt)
    if not lightning.is_global_zero:
        return None
    if run.recipe.batch_norm_images:
        estimate_batch_norms(student.to(device), source, images, run.recipe.batch_norm_images, run.seed)
    layers = qcfs_layers(student)
    if run.levels == RELU:
        torch.save(
            {name: value.cpu().contiguous() for name, value in student.state_dict().items()}, output / "model.pt"
        )
    else:
        save_qcfs(student, output / "model.pt", name=run.model, classes=source.classes)
        LevelPlan({name: layer.levels for name, layer in layers.items()}).to_json(output / "plan.json")
    test = data.loader(source, test_images, 250, workers=workers)
    return {
        "benchmark": "train",
        **dataclasses.asdict(run),
        "dataset": source.title,
        "plan": {name: layer.levels for name, layer in layers.items()},
        "test_images": data.length(test_images),
        "accuracy": accuracy(student.to(device), test),
        "relu_accuracy": accuracy(relu.to(device), test) if run.weights is not None else None,
        "processes": lightning.world_size,
        **environment,
    }


@torch.inference_mode()
def accuracy(model: nn.Module, loader: DataLoader[Any]) -> float:
    """Percent of the images that ``model`` classifies right, in float32: a GPU's TF32 moves activations that round."""
    model.eval()
    hits = total = 0
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        for args, _, labels in batches(loader, model, "test"):
            hits += int((model(*args).argmax(1) == labels).sum())
            total += len(labels)
    return 100 * hits / total


class _Remember(L.Callback):
    """Writes into every checkpoint which run it is of."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["run"] = dataclasses.asdict(self.run)


def _check_same(run: Run, path: Path) -> None:
    before = torch.load(path, map_location="cpu", weights_only=False).get("run")
    now = dataclasses.asdict(run)
    if before != now:
        changed = [name for name in now if before is None or before.get(name) != now[name]]
        raise InvalidArgumentError(
            f"{str(path)!r} is of a run with another {', '.join(changed)}; choose another --output, or --restart"
        )
