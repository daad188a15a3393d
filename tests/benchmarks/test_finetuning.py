"""Fine-tuning: the recipe, its data, and one step in all ways that it may run."""

from __future__ import annotations

import copy
import dataclasses
import shutil
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pascal_ext
from benchmarks import data
from benchmarks.lightning_cpu import L
from benchmarks.models import build
from benchmarks.train.finetuning import FineTuning, Images, Recipe, estimate_batch_norms
from pascal_ext.activations import qcfs_layers
from pascal_ext.errors import InvalidArgumentError

SOURCE = data.SOURCES["cifar10-jpeg"]


def test_the_learning_rate_rises_and_falls() -> None:
    recipe = Recipe(warmup=0.1)
    rates = [recipe.rate(step, 100) for step in range(100)]
    assert rates.index(max(rates)) == 10
    assert rates[10] == 1
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[55] == pytest.approx(0.5)
    assert 0 < rates[99] < 0.001


def test_the_loss_is_the_documented_one() -> None:
    logits, teacher, labels = torch.randn(8, 10), torch.randn(8, 10), torch.randint(10, (8,))
    cross_entropy = F.cross_entropy(logits, labels)
    torch.testing.assert_close(Recipe().loss(logits, labels, None), cross_entropy)
    ours, theirs = (logits / 2).softmax(1), (teacher / 2).softmax(1)
    divergence = 4 * (theirs * (theirs / ours).log()).sum(1).mean()
    kl = Recipe(distillation="kl", share=0.25, temperature=2.0)
    torch.testing.assert_close(kl.loss(logits, labels, teacher), 0.75 * cross_entropy + 0.25 * divergence)
    squared = Recipe(distillation="logits", share=1.0)
    torch.testing.assert_close(squared.loss(logits, labels, teacher), (logits - teacher).square().mean())


@pytest.mark.parametrize(
    "wrong", [{"distillation": "hints"}, {"share": 1.5}, {"warmup": -0.1}, {"threshold_floor": 2}, {"mixup": -1}]
)
def test_recipes_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError, match=next(iter(wrong))):
        Recipe(**wrong)


def test_a_teacher_and_distillation_go_together(tiny: str) -> None:
    model = build(tiny, 10)
    with pytest.raises(InvalidArgumentError, match="go together"):
        FineTuning(pascal_ext.replace_activations(model), SOURCE, Recipe(), model)
    with pytest.raises(InvalidArgumentError, match="go together"):
        FineTuning(pascal_ext.replace_activations(model), SOURCE, Recipe(distillation="kl"))


@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_a_compiled_step_is_the_same_step() -> None:
    relu = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)).eval()
    student = pascal_ext.replace_activations(relu, 4)
    inputs, labels = torch.randn(8, 3, 8, 8), torch.arange(8)
    pascal_ext.calibrate(student, [inputs], progress=False)
    found = []
    for compiled in (False, True):
        trainee = copy.deepcopy(student).train()
        module = FineTuning(trainee, SOURCE, Recipe(distillation="kl"), relu, compiled=compiled)
        loss, logits = module._objective(inputs, labels)
        loss.backward()
        found.append((loss, logits, [parameter.grad for parameter in trainee.parameters()]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_captured_step_is_the_same_step(tiny: str, precision: torch.dtype) -> None:
    """Step by step, on images that are others each time, and again where levels have changed."""
    relu = build(tiny, 10).cuda().eval()
    batches = [(torch.randn(8, 3, 32, 32, device="cuda"), torch.randint(10, (8,), device="cuda")) for _ in range(3)]
    student = pascal_ext.calibrate(pascal_ext.replace_activations(relu, 4), batches, progress=False)
    found = []
    for captured in (False, True):
        trainee = copy.deepcopy(student).train()
        module = FineTuning(trainee, SOURCE, Recipe(distillation="kl"), relu, captured=captured)
        steps = []
        for levels in (4, 2):
            pascal_ext.set_levels(trainee, levels)
            for inputs, labels in batches:
                trainee.zero_grad()
                with torch.autocast("cuda", precision, enabled=precision != torch.float32):
                    loss, logits = module._objective(inputs, labels)
                loss.backward()
                gradients = [parameter.grad for parameter in trainee.parameters()]
                buffers = dict(trainee.named_buffers())
                steps.append(copy.deepcopy((loss.detach(), logits.detach(), gradients, buffers)))
        found.append(steps)
    close = {"rtol": 1e-3, "atol": 1e-4} if precision == torch.float32 else {"rtol": 3e-2, "atol": 3e-2}
    torch.testing.assert_close(found[1], found[0], **close)


def test_mixed_batches(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images and labels are mixed alike; the teacher sees what the student sees."""
    seen: list[torch.Tensor] = []

    def record(inputs: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.extend((inputs, labels))
        return torch.zeros(()), torch.zeros(6, 10)

    relu = build(tiny, 10)
    recipe = Recipe(distillation="kl", mixup=1.0)
    module = FineTuning(pascal_ext.replace_activations(relu), SOURCE, recipe, relu)
    monkeypatch.setattr(module, "_objective", record)
    monkeypatch.setattr(data.Source, "augment", lambda _, batch: batch)
    images, labels = torch.randint(255, (6, 3, 32, 32), dtype=torch.uint8), torch.arange(6)
    module.on_train_epoch_start()
    module.training_step((images, labels), 0)
    inputs, wanted = seen
    share = wanted[0, 0]
    assert 0 < share < 1
    hot, plain = F.one_hot(labels, 10).float(), SOURCE.normalise(images)
    torch.testing.assert_close(wanted, share * hot + (1 - share) * hot.roll(1, 0))
    torch.testing.assert_close(inputs, share * plain + (1 - share) * plain.roll(1, 0))


def test_epochs_are_shuffled_differently() -> None:
    images = Images(
        data.InMemory(torch.zeros(64, 3, 2, 2), torch.arange(64)), data.InMemory(*[torch.zeros(1)] * 2), 8, 5
    )
    loader = images.train_dataloader()
    orders = []
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        orders.append(torch.cat([labels for _, labels in loader]).tolist())
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(64))
    assert orders[0] != orders[1]


def test_batch_norms_know_the_training_images() -> None:
    plain = dataclasses.replace(SOURCE, pad=None)  # nothing is cropped or mirrored
    images = data.InMemory(torch.randint(256, (500, 3, 4, 4), dtype=torch.uint8), torch.zeros(500, dtype=torch.int64))
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2, momentum=0.2), nn.Dropout(0.5)).train()
    weights = {name: value.clone() for name, value in model.named_parameters()}
    before = torch.get_rng_state()
    estimate_batch_norms(model, plain, images, 500, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    currents = model[0](plain.normalise(images.images))
    torch.testing.assert_close(model[1].running_mean, currents.mean((0, 2, 3)))
    torch.testing.assert_close(model[1].running_var, currents.var((0, 2, 3)), rtol=1e-2, atol=0)
    assert model[1].momentum == 0.2
    assert not any(module.training for module in model.modules())
    assert all(torch.equal(value, weights[name]) for name, value in model.named_parameters())
    estimate_batch_norms(model, plain, images, 100, seed=1)
    assert not torch.allclose(model[1].running_mean, currents.mean((0, 2, 3)), rtol=1e-6), "as many as were asked for"


def test_a_step_leaves_each_threshold_its_sign_and_a_part_of_its_size(
    tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = pascal_ext.replace_activations(build(tiny, 10))
    first, *others = qcfs_layers(student).values()
    first.threshold = nn.Parameter(torch.zeros(6))
    stepped = torch.tensor([-3.0, -0.05, 1.0, 3.0, 0.05, -1.0])
    for share, expected in ((0.05, [-3.0, -0.1, -0.1, 3.0, 0.1, 0.1]), (0.0, [-3.0, -0.05, 0.0, 3.0, 0.05, 0.0])):
        first.threshold.data = torch.tensor([-2.0, -2.0, -2.0, 2.0, 2.0, 2.0])
        module = FineTuning(student, SOURCE, Recipe(threshold_floor=share))
        module.on_fit_start()
        with monkeypatch.context() as patch:
            patch.setattr(L.LightningModule, "optimizer_step", lambda _: first.threshold.data.copy_(stepped))
            module.optimizer_step()
        torch.testing.assert_close(first.threshold.data, torch.tensor(expected), rtol=0, atol=1e-7)
        assert all((layer.threshold > 0).all() for layer in others)
