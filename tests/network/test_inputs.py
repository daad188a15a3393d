"""What a converted network takes, and gives: shapes, step modes, containers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pascal_ext import QCFS, calibrate, convert, replace_activations, verify
from pascal_ext.errors import InvalidArgumentError
from tests.cases import Net, Pair, assert_close, quantised, relu, tensors
from tests.zoo import network

pytestmark = pytest.mark.filterwarnings("ignore:layer .* is dead")


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 3, 6, 6, dtype=torch.float64)


def test_shapes(x: Tensor) -> None:
    _, snn = network()
    with torch.no_grad():
        single = snn(x)
        assert single.shape == (3, 2, 6, 6)
        snn.step_mode = "m"
        sequence = snn(x.unsqueeze(0))
        assert sequence.shape[1:] == single.shape
        assert sequence.shape[0] > 1, "the spikes are spelled out"
        assert_close(sequence.mean(0), single)
        snn.execution = "counts"
        assert snn(x.unsqueeze(0)).shape == (1, *single.shape)


def test_neurons_read_and_emit_sequences(x: Tensor) -> None:
    _, snn = network("sum of branches")
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    for name, neuron in snn.neurons.items():
        neuron.register_forward_hook(lambda _, args, out, name=name: seen.update({name: (args[0], out)}))
    with torch.no_grad():
        snn(x)
        for name, (currents, spikes) in seen.items():
            assert spikes.shape == (snn.timesteps[name], 3, 4, 6, 6)
            assert currents.shape[1:] == spikes.shape[1:]
            assert set(spikes.unique().tolist()) <= {0.0, 1.0}
            assert (spikes[1:] <= spikes[:-1]).all(), "ones first"
        assert seen["relu_3"][0].shape[0] == max(snn.timesteps[name] for name in ("relu", "relu_1", "relu_2"))
        snn.execution = "counts"
        snn(x)
        assert all(out.shape == (1, 3, 4, 6, 6) for _, out in seen.values())


def test_outputs_keep_their_structure(x: Tensor) -> None:
    qcfs, snn = network("many outputs")
    out = snn(x)
    assert list(out) == ["logits", "features"]
    assert isinstance(out["features"], tuple)
    assert isinstance(out["features"][1], list)
    assert_close(out, qcfs(x))


def test_outputs_that_are_no_signals(x: Tensor) -> None:
    model = Net(
        lambda m, x: (relu(m.a(x)), m.scale, x.size(1), None), a=nn.Conv2d(3, 2, 1), scale=nn.Parameter(torch.ones(4))
    )
    snn = convert(model.double(), [x], progress=False)
    for execution in ("spikes", "counts"):
        snn.execution = execution
        found, scale, channels, nothing = snn(x)
        assert found.shape == (3, 2, 6, 6)
        assert torch.equal(scale, torch.ones(4).double())
        assert (channels, nothing) == (3, None)


def test_inputs_by_name(x: Tensor) -> None:
    qcfs, snn = network("two inputs")
    assert_close(snn(x, y=2 * x), qcfs(x, y=2 * x))
    assert_close(snn(y=x, x=2 * x), qcfs(2 * x, x))


class Awkward(nn.Module):
    """Arguments with the names that the graphs use themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 2, 1)

    def forward(self, batch_size: Tensor, references: Tensor) -> Tensor:
        return relu(self.a(batch_size)) + relu(self.a(references))


def test_awkward_names_of_inputs(x: Tensor) -> None:
    snn = convert(Awkward().double(), [((x, x), None)], 8, progress=False)
    assert snn(batch_size=x, references=-x).shape == (3, 2, 6, 6)


def test_batches_of_any_size(x: Tensor) -> None:
    qcfs, snn = network()
    with torch.no_grad():
        for size in (1, 2, 5, 0):
            batch = torch.randn(size, 3, 6, 6, dtype=torch.float64)
            assert_close(snn(batch), qcfs(batch))


@pytest.mark.parametrize(
    ("mode", "args", "match"),
    [
        ("s", (torch.ones(2, 3, 6, 6), torch.ones(3, 3, 6, 6)), r"same batch size; got \[2, 3\]"),
        ("m", (torch.ones(4, 2, 3, 6, 6), torch.ones(1, 3, 3, 6, 6)), r"same batch size; got \[2, 3\]"),
        ("s", (), "no tensor"),
        ("m", (torch.ones(3), torch.ones(3)), r"takes inputs \[T, N, ...\] of at least 2 dimensions, got \(3,\)"),
        ("s", (torch.ones(()), torch.ones(3)), r"takes inputs \[N, ...\] of at least 1 dimensions, got \(\)"),
    ],
)
def test_inputs_that_do_not_fit(mode: str, args: tuple[Tensor, ...], match: str) -> None:
    _, snn = network("two inputs")
    snn.step_mode = mode
    with pytest.raises(InvalidArgumentError, match=match):
        snn(*args)


@pytest.mark.parametrize(
    ("model", "shape", "mode", "match"),
    [
        (nn.Conv2d(3, 2, 3), (4, 3, 6, 6), "m", r"of 5 dimensions, got \(4, 3, 6, 6\); .* x.unsqueeze\(0\)"),
        (nn.Conv2d(3, 2, 3), (1, 4, 3, 6, 6), "s", r"of 4 dimensions, got \(1, 4, 3, 6, 6\); set step_mode='m'"),
        (nn.Conv2d(3, 2, 3), (3, 6, 6), "s", r"of 4 dimensions, got \(3, 6, 6\)$"),
        (nn.Linear(6, 2), (4, 6), "m", r"of at least 3 dimensions, got \(4, 6\); .* x.unsqueeze\(0\)"),
        (nn.Sequential(nn.Flatten(), nn.Linear(6, 2)), (6,), "s", r"of at least 2 dimensions, got \(6,\)$"),
    ],
)
def test_forgotten_dimensions(model: nn.Module, shape: tuple[int, ...], mode: str, match: str) -> None:
    snn = convert(nn.Sequential(model, QCFS(4)))
    snn.step_mode = mode
    with pytest.raises(InvalidArgumentError, match=match):
        snn(torch.ones(shape))


def test_no_timesteps(x: Tensor) -> None:
    _, snn = network()
    snn.step_mode = "m"
    for execution in ("spikes", "counts"):
        snn.execution = execution
        with pytest.raises(InvalidArgumentError, match=r"no timesteps, \(0, 3, 3, 6, 6\)"):
            snn(x.new_empty(0, *x.shape))


@pytest.mark.parametrize("dimension", [torch.export.Dim("batch"), torch.export.Dim.AUTO])
@pytest.mark.parametrize("settle_ties", [False, True])
@pytest.mark.parametrize("execution", ["spikes", "counts"])
@torch.no_grad()
def test_batch_sizes_of_an_exported_network(execution: str, settle_ties: bool, dimension: Any, x: Tensor) -> None:
    _, snn = network("sum of branches")
    snn.float().execution = execution
    snn.settle_ties = settle_ties
    exported = torch.export.export(snn, (x.float(),), dynamic_shapes=(({0: dimension},),)).module()
    for size in (1, 2, 7):
        batch = torch.randn(size, 3, 6, 6)
        torch.testing.assert_close(exported(batch), snn(batch))


def test_pairs_of_inputs_of_different_rank(x: Tensor) -> None:
    model = Pair(
        lambda m, x, y: m.b(relu(m.a(x)).mean((2, 3)) + relu(m.c(y))),
        a=nn.Conv2d(3, 4, 1),
        b=nn.Linear(4, 2),
        c=nn.Linear(5, 4),
    )
    y = torch.randn(3, 5, dtype=torch.float64)
    qcfs = quantised(model.double(), [x, y])
    snn = convert(qcfs)
    assert_close(snn(x, y), qcfs(x, y))
    assert len(tensors(snn(x, y))) == 1


@pytest.mark.parametrize("execution", ["spikes", "counts"])
def test_bytes_that_a_model_scales_by_itself(execution: str) -> None:
    pixels = torch.randint(256, (6, 8, 8, 3), dtype=torch.uint8)
    model = Net(
        lambda m, x: m.head(torch.relu(m.conv(x.permute(0, 3, 1, 2).float().div(255).sub(m.mean))).flatten(1)),
        conv=nn.Conv2d(3, 4, 3),
        head=nn.Linear(144, 10),
    )
    model.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1))
    qcfs = calibrate(replace_activations(model, 8), [(pixels, torch.arange(6))], progress=False)
    snn = convert(qcfs)
    with snn.configured(execution=execution):
        assert verify(qcfs, snn, [pixels], progress=False).exact
        snn.step_mode = "m"
        assert snn(pixels.unsqueeze(0)).mean(0).argmax(1).equal(qcfs(pixels).argmax(1))
