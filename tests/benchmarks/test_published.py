"""The published T_eff figures come out, and the corrected ones are those of the networks themselves."""

from __future__ import annotations

import math
from types import ModuleType

import pytest

from benchmarks.published import PLANS, PublishedPlan
from pascal_ext import LevelPlan, convert, replace_activations, set_levels
from pascal_ext.activations import qcfs_layers
from pascal_ext.energy import effective_timesteps, fan_ins

RESNET18 = PLANS[0]


def test_resnet18_on_cifar10() -> None:
    assert round(RESNET18.published, 2) == RESNET18.printed == 3.14
    assert round(RESNET18.corrected, 2) == 2.59


def test_the_published_figure_leaves_seven_layers_out() -> None:
    used = len(RESNET18.published_fan_in)
    assert len(RESNET18.levels) - used == 7
    assert RESNET18.published == effective_timesteps(RESNET18.levels[:used], RESNET18.published_fan_in)


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: f"{plan.network}-{plan.found_in}")
def test_every_layer_has_levels_and_a_fan_in(plan: PublishedPlan) -> None:
    assert len(plan.levels) == len(plan.fan_in)
    assert plan.corrected > sum(plan.levels) / len(plan.levels)


@pytest.mark.parametrize("name", ["resnet18", "resnet34"])
def test_fan_ins_are_those_of_the_network(name: str, torchvision: ModuleType) -> None:
    """torchvision's ResNets have the paper's layers; shortcuts, which the lists leave out, add one synapse, or the
    channels that a 1×1 convolution reads.
    """
    plan = next(
        plan for plan in PLANS[::-1] if plan.network == {"resnet18": "ResNet-18", "resnet34": "ResNet-34"}[name]
    )
    qcfs = replace_activations(torchvision.models.get_model(name, weights=None))
    levels = LevelPlan(dict(zip(qcfs_layers(qcfs), plan.levels, strict=True)))
    set_levels(qcfs, levels)
    found = fan_ins(convert(qcfs))
    listed = (147, *plan.fan_in[1:])
    shortcuts = [ours - theirs for ours, theirs in zip(found.values(), listed, strict=True)]
    assert all(extra == 0 for extra in shortcuts[::2][:1] + shortcuts[1::2])
    assert set(shortcuts[2::2]) == {1, 64, 128, 256}
    assert math.isclose(effective_timesteps(levels, found), effective_timesteps(plan.levels, listed), rel_tol=1e-3)
