"""Rate coding of QCFS networks, against simulations that go one neuron, or one timestep, at a time."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import pascal_ext
from pascal_ext.activations import qcfs_layers, set_levels
from pascal_ext.comparison import neurons
from pascal_ext.comparison.rate_network import RateNetwork, depth
from pascal_ext.errors import InvalidArgumentError

# no sum of these lies on a threshold but for rounding, and all are exact in float64
CURRENTS = st.lists(st.integers(-24, 40).map(lambda n: n / 16 + 1 / 64), min_size=4, max_size=12)


def fire(currents: list[float], v: float) -> tuple[list[int], list[float], float]:
    """Spikes, potentials before each reset, and the last potential of one IF neuron."""
    spikes, reached = [], []
    for current in currents:
        v += current
        reached.append(v)
        spikes.append(int(v >= 1))
        v -= spikes[-1]
    return spikes, reached, v


def srp(currents: list[float], tau: int) -> list[int]:
    first, _, residual = fire(currents[:tau], 0.5)
    then, _, _ = fire(currents[tau:], 0.5)
    return first + (then if residual > 1e-3 else [0] * len(then))


def cos_start(currents: list[float]) -> float:
    """The potential from which COS starts a neuron anew that has read these currents."""
    spikes, reached, residual = fire(currents, 0.5)
    fired = [v for v, spike in zip(reached, spikes, strict=True) if spike]
    silent = [v for v, spike in zip(reached, spikes, strict=True) if not spike]
    if residual < 0 and fired:
        return 0.5 - max(1.0, min(fired) - 0.999)
    if residual >= 1 and silent:
        return 0.5 + max(1.0, 1.001 - max(silent))
    return 0.5


@given(CURRENTS)
def test_the_three_neurons_are_those_of_one_step_at_a_time(currents: list[float]) -> None:
    column = torch.tensor(currents, dtype=torch.float64).unsqueeze(1)
    assert neurons.plain(column).flatten().tolist() == fire(currents, 0.5)[0]
    assert neurons.silence(column, 3).flatten().tolist() == srp(currents, 3)
    assert neurons.shift(column, 4).flatten().tolist() == fire(currents, cos_start(currents[:4]))[0]


@given(CURRENTS)
def test_what_the_extra_steps_are_for(currents: list[float]) -> None:
    steps = len(currents)
    column = torch.tensor(currents, dtype=torch.float64).unsqueeze(1)
    wanted = min(max(int(column.sum() + 0.5), 0), steps)  # QCFS's count, with as many levels as steps
    plain, shifted = int(neurons.plain(column).sum()), int(neurons.shift(column, steps).sum())
    assert abs(shifted - wanted) <= abs(plain - wanted)  # an offset spike fewer, or as good as it was
    twice = neurons.silence(column.repeat(2, 1), steps)[steps:]
    if column.sum() + 0.5 < 1 and plain > 0:  # QCFS answers 0, and the neuron does not: the case SRP is made for
        assert int(twice.sum()) == 0


def qcfs_network(per_channel: bool = False) -> tuple[nn.Module, Tensor]:
    """Three activations, one of them behind a shortcut; float64."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(2, 5, 3, padding=1), nn.Conv2d(5, 5, 3, padding=1)
            self.bn = nn.BatchNorm2d(5)
            self.fc1, self.fc2 = nn.Linear(5, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.bn(self.conv1(x)).relu()
            x = (self.conv2(x) + x).relu()
            return self.fc2(self.fc1(x.mean((2, 3))).relu())

    images = torch.randn(64, 2, 5, 5, dtype=torch.float64)
    model = pascal_ext.replace_activations(Net().eval().double(), levels=4)
    pascal_ext.calibrate(model, [images], per_channel=per_channel, progress=False)
    layers = list(qcfs_layers(model).values())
    layers[2].threshold.data.neg_()  # a negative threshold is another function; the neurons have to follow
    model.fc1.weight.data.neg_()
    model.fc1.bias.data.neg_()
    model.fc2.weight.data.neg_()
    return model, images


class Stepwise(nn.Module):
    """A layer of IF neurons with a state, one timestep a call."""

    def __init__(self, threshold: Tensor) -> None:
        super().__init__()
        self.threshold = threshold.detach()
        self.start: Tensor | None = None
        self.restart()

    def restart(self) -> None:
        self.potential: Tensor | None = None
        self.currents: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        theta = self.threshold.reshape(-1, *[1] * (x.ndim - 2)) if self.threshold.ndim else self.threshold
        x = x / theta
        self.currents.append(x)
        if self.potential is None:
            self.potential = torch.full_like(x, 0.5) if self.start is None else self.start
        self.potential = self.potential + x
        spikes = (self.potential >= 1).to(x)
        self.potential = self.potential - spikes
        return spikes * theta


def stepwise(qcfs: nn.Module) -> tuple[nn.Module, list[Stepwise]]:
    network, layers = copy.deepcopy(qcfs), []
    for name, layer in qcfs_layers(qcfs).items():
        layers.append(Stepwise(layer.threshold))
        network.set_submodule(name, layers[-1])
    return network, layers


@pytest.mark.parametrize("per_channel", [False, True])
def test_a_whole_window_at_a_time_is_step_by_step(per_channel: bool) -> None:
    qcfs, images = qcfs_network(per_channel)
    network, _ = stepwise(qcfs)
    with torch.no_grad():
        expected = torch.stack([network(images) for _ in range(7)])
        torch.testing.assert_close(RateNetwork(qcfs, "if", 7)(images), expected)


def test_srp_is_tau_steps_then_t_steps_of_the_whole_network() -> None:
    qcfs, images = qcfs_network()
    network, layers = stepwise(qcfs)
    snn = RateNetwork(qcfs, "srp", 5, 4)
    with torch.no_grad():
        for _ in range(4):
            network(images)
        for layer in layers:
            silent = (layer.potential <= 1e-3).nonzero(as_tuple=True)
            layer.restart()
            layer.register_forward_hook(lambda _, __, out, silent=silent: out.index_put(silent, out.new_zeros(())))
        expected = torch.stack([network(images) for _ in range(5)])
        torch.testing.assert_close(snn(images), expected)
    assert snn.latency == snn.per_layer == [5, 6, 7, 8, 9]


def test_cos_waits_for_the_layers_before_and_all_steps_are_counted() -> None:
    qcfs, images = qcfs_network()
    network, layers = stepwise(qcfs)
    snn = RateNetwork(qcfs, "cos", 6, 4)
    run = 0
    with torch.no_grad():
        for layer in layers:  # each needs spikes that those before it emit with their offset gone
            for _ in range(4):
                network(images)
                run += 1
            columns = torch.stack(layer.currents).flatten(1).T.tolist()
            start = torch.tensor([cos_start(currents) for currents in columns], dtype=torch.float64)
            layer.start = start.view_as(layer.currents[0])
            for each in layers:
                each.restart()
        expected = torch.stack([network(images) for _ in range(6)])
        torch.testing.assert_close(snn(images), expected)
    assert depth(qcfs) == len(layers) == 3
    assert snn.latency == [run + step for step in range(1, 7)]
    assert snn.per_layer == [4 + step for step in range(1, 7)]


@pytest.mark.parametrize(("kind", "extra"), [("if", 0), ("srp", 4), ("cos", 4)])
def test_rates_approach_the_clipped_network_with_time(kind: str, extra: int) -> None:
    qcfs, images = qcfs_network()
    set_levels(qcfs, 1024)  # rate coding has as many levels as timesteps
    with torch.no_grad():
        expected = qcfs(images)
        logits = RateNetwork(qcfs, kind, 1024, extra)(images)
    early, late = ((logits[:steps].mean(0) - expected).abs().mean().item() for steps in (8, 1024))
    if kind != "srp":  # which may silence a neuron that has a rate
        assert late < 0.01 * expected.abs().mean().item()
    assert late < early


@pytest.mark.parametrize(("kind", "timesteps", "extra"), [("lif", 4, 0), ("if", 4, 2), ("srp", 4, 0), ("cos", 3, 4)])
def test_settings_that_do_not_fit(kind: str, timesteps: int, extra: int) -> None:
    with pytest.raises(InvalidArgumentError, match=kind):
        RateNetwork(qcfs_network()[0], kind, timesteps, extra)
