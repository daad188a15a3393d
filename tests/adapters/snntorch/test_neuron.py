from __future__ import annotations

import copy
import pickle

import pytest
import snntorch
import torch
from hypothesis import given
from hypothesis import strategies as st
from snntorch import surrogate, utils
from torch import Tensor, nn

import pascal_ext
from pascal_ext.adapters.snntorch import PascalIF
from pascal_ext.errors import InvalidArgumentError, PlanError


def currents(steps: int = 3, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return 2 * torch.randn(steps, *(shape or (5, 4)), dtype=dtype)


@given(
    levels=st.integers(1, 9), steps=st.integers(1, 6), threshold=st.sampled_from([0.3, 1.0, 2.5, -0.7]),
    seed=st.integers(0, 1000),
)  # fmt: skip
def test_spikes_are_those_of_qcfs_and_the_membrane_explains_them(
    levels: int, steps: int, threshold: float, seed: int
) -> None:
    torch.manual_seed(seed)
    x = currents(steps)
    neuron = PascalIF(levels, threshold, output=True).double()
    spk, mem = neuron(x)
    assert spk.shape == mem.shape == (levels, 5, 4)
    assert spk.dtype == mem.dtype == torch.float64
    expected = pascal_ext.QCFS(levels, threshold).double()(x.mean(0))
    torch.testing.assert_close(neuron.threshold * spk.mean(0), expected, rtol=0, atol=1e-12)
    above = mem >= neuron.threshold if threshold > 0 else mem <= neuron.threshold
    assert torch.equal(above, spk.bool())
    torch.testing.assert_close(mem[0], levels * x.mean(0) + neuron.threshold / 2)
    torch.testing.assert_close(mem[1:], mem[:-1] - spk[:-1] * neuron.threshold)


def test_is_a_neuron_of_both_packages() -> None:
    neuron = PascalIF(4)
    assert isinstance(neuron, snntorch.SpikingNeuron)
    assert isinstance(neuron, pascal_ext.PascIF)
    assert neuron.reset_mechanism == "subtract"
    assert repr(PascalIF(4, 0.5, learn_threshold=True)) == (
        "PascalIF(levels=4, threshold=0.5, backend=auto, learn_threshold=True)"
    )


def test_thresholds_per_channel() -> None:
    x, threshold = currents(3, 5, 4, 2), torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64)
    spk, mem = PascalIF(4, threshold, output=True)(x)
    for channel, value in enumerate(threshold):
        alone, alone_mem = PascalIF(4, value, output=True)(x[:, :, channel])
        assert torch.equal(spk[:, :, channel], alone)
        torch.testing.assert_close(mem[:, :, channel], alone_mem)


def test_output_and_init_hidden() -> None:
    x = currents()
    neuron = PascalIF(4).double()
    assert isinstance(neuron(x), Tensor)
    assert neuron.mem.numel() == 0
    hidden = PascalIF(4, init_hidden=True).double()
    assert isinstance(hidden(x), Tensor)
    spk, mem = PascalIF(4, output=True).double()(x)
    assert torch.equal(hidden.mem, mem)
    assert torch.equal(spk, neuron(x))
    assert torch.equal(hidden.reset_mem(), torch.zeros_like(mem))
    assert torch.equal(hidden(x), spk)


def test_graded_spikes() -> None:
    x = currents()
    plain = PascalIF(4)(x)
    assert torch.equal(PascalIF(4, graded_spikes_factor=2.5)(x), 2.5 * plain)
    learnt = PascalIF(4, graded_spikes_factor=2.0, learn_graded_spikes_factor=True)
    learnt(x).sum().backward()
    torch.testing.assert_close(learnt.graded_spikes_factor.grad, plain.sum().float())


def test_gradients_are_those_of_qcfs() -> None:
    x = currents(3, 50, 4).requires_grad_()
    z = x.detach().mean(0).requires_grad_()
    neuron = PascalIF(5, 0.8, learn_threshold=True).double()
    qcfs = pascal_ext.QCFS(5, 0.8).double()
    weight = torch.randn(50, 4, dtype=torch.float64)
    (neuron.threshold * neuron(x).mean(0) * weight).sum().backward()
    (qcfs(z) * weight).sum().backward()
    torch.testing.assert_close(x.grad.sum(0), z.grad)
    torch.testing.assert_close(neuron.threshold.grad, qcfs.threshold.grad)


def test_gradients_in_counts() -> None:
    x = currents(1, 50, 4).requires_grad_()
    z = x.detach()[0].requires_grad_()
    neuron = PascalIF(5, 0.8, learn_threshold=True, execution="counts").double()
    qcfs = pascal_ext.QCFS(5, 0.8).double()
    out = neuron(x)
    assert torch.equal(out[0], qcfs(z))
    out.square().sum().backward()
    qcfs(z).square().sum().backward()
    torch.testing.assert_close(x.grad[0], z.grad)
    torch.testing.assert_close(neuron.threshold.grad, qcfs.threshold.grad)


@pytest.mark.parametrize("spike_grad", [surrogate.atan(), surrogate.fast_sigmoid(slope=10), surrogate.sigmoid()])
def test_surrogate_gradients_change_no_spike(spike_grad: object) -> None:
    x = currents().requires_grad_()
    neuron = PascalIF(4, 0.8, spike_grad, learn_threshold=True)
    spk = neuron(x)
    assert torch.equal(spk, PascalIF(4, 0.8)(x.detach()))
    spk.sum().backward()
    assert (x.grad != 0).any()
    assert neuron.threshold.grad != 0


def test_no_gradient_costs_nothing() -> None:
    assert not PascalIF(4)(currents()).requires_grad
    with torch.no_grad():
        assert not PascalIF(4, learn_threshold=True)(currents()).requires_grad


def test_threshold_is_one_tensor_and_can_be_set() -> None:
    neuron = PascalIF(4, 0.5)
    assert list(neuron.state_dict()) == ["v_threshold"]
    assert list(neuron.parameters()) == []
    neuron.threshold = 2.0
    assert neuron.threshold is neuron.v_threshold
    assert torch.equal(neuron.threshold, torch.tensor(2.0))
    learnt = PascalIF(4, 0.5, learn_threshold=True)
    learnt.threshold = 3.0
    assert [parameter.item() for parameter in learnt.parameters()] == [3.0]
    learnt.load_state_dict(PascalIF(4, 0.25).state_dict())
    assert learnt.threshold.item() == 0.25
    with pytest.raises(InvalidArgumentError, match="not zero"):
        neuron.threshold = 0.0


def test_stepwise_use_is_refused() -> None:
    neuron = PascalIF(4)
    with pytest.raises(InvalidArgumentError, match=r"answers when its window is complete.*a membrane was handed in"):
        neuron(currents(), torch.zeros(5, 4))
    with pytest.raises(InvalidArgumentError, match=r"cannot be called step by step.*\[5, 4\]"):
        neuron(currents()[0])


@pytest.mark.parametrize("levels", [0, 2.5])
def test_bad_levels_are_refused(levels: object) -> None:
    with pytest.raises(PlanError, match="levels"):
        PascalIF(levels)


def test_host_does_not_keep_it_alive() -> None:
    leaky = snntorch.Leaky(beta=0.9)
    neuron = PascalIF(4)
    assert all(one is not neuron for one in snntorch.SpikingNeuron.instances)
    assert any(one is leaky for one in snntorch.SpikingNeuron.instances)


def test_copies_and_pickles() -> None:
    x = currents()
    neuron = PascalIF(4, 0.7, init_hidden=True)
    neuron(x)
    for twin in (copy.deepcopy(neuron), pickle.loads(pickle.dumps(neuron))):
        assert torch.equal(twin(x), neuron(x))
        assert twin.init_hidden


class Nested(nn.Module):
    """A hand-written network: PASC-IF deep inside, a stock neuron at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Sequential(nn.Linear(4, 6), PascalIF(4, init_hidden=True)), nn.Linear(6, 3))
        self.readout = snntorch.Leaky(beta=0.9, init_hidden=True)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.readout(current) for current in self.body(x)])


def test_reset_of_nested_networks() -> None:
    network, x = Nested(), currents(3, 5, 4, dtype=torch.float32)
    utils.reset(network)
    first = network(x)
    utils.reset(network)
    assert torch.equal(network(x), first)
    utils.reset(network.body)
    utils.reset(nn.Sequential(nn.Sequential(network)))


def test_half_precision_and_meta() -> None:
    x = currents(3, 5, 4, dtype=torch.bfloat16)
    spk, mem = PascalIF(4, 0.7, output=True)(x)
    assert spk.dtype == torch.bfloat16
    assert mem.dtype == torch.float32
    assert PascalIF(4, 0.7).to("meta")(torch.empty(3, 5, 4, device="meta")).shape == (4, 5, 4)


def test_a_parameter_can_be_set_as_the_threshold() -> None:
    neuron, x = PascalIF(4, 0.5), currents()
    parameter = nn.Parameter(torch.tensor(0.8))
    neuron.threshold = parameter
    assert neuron.threshold is neuron.v_threshold is parameter
    assert [name for name, _ in neuron.named_parameters()] == ["v_threshold"]
    assert torch.equal(neuron(x), PascalIF(4, 0.8)(x))
    with pytest.raises(InvalidArgumentError, match="not zero"):
        neuron.threshold = nn.Parameter(torch.zeros(()))
    assert neuron.threshold is parameter


@pytest.mark.parametrize("value", [3.0, torch.tensor([3.0, 3.0])])
def test_an_optimiser_keeps_a_learnt_threshold_that_is_set(value: float | Tensor) -> None:
    neuron = PascalIF(4, torch.tensor([0.5, 1.0]), learn_threshold=True)
    optimiser = torch.optim.SGD(neuron.parameters(), lr=1)
    neuron.threshold = value
    neuron.threshold.sum().backward()
    optimiser.step()
    assert neuron.threshold.tolist() == [2.0, 2.0]


def test_a_graded_factor_is_not_lost_on_the_way() -> None:
    x = currents()
    graded = PascalIF(4, graded_spikes_factor=2.0)
    twin = PascalIF(4, graded_spikes_factor=3.0)
    twin.load_state_dict(graded.state_dict())
    assert torch.equal(twin(x), graded(x))
    for one, other in ((graded, PascalIF(4)), (PascalIF(4), graded)):
        with pytest.raises(RuntimeError, match="graded_spikes_factor"):
            other.load_state_dict(one.state_dict())


@pytest.mark.parametrize("spike_grad", [None, surrogate.atan()])
def test_there_is_no_step_to_fire_or_reset_in(spike_grad: object) -> None:
    neuron = PascalIF(4, spike_grad=spike_grad)
    for call in (neuron.fire, neuron.mem_reset, lambda mem: neuron.fire_inhibition(5, mem)):
        with pytest.raises(InvalidArgumentError, match="neither fires nor resets step by step"):
            call(torch.zeros(5, 4))


def test_surrogate_gradients_of_negative_thresholds_are_mirrored() -> None:
    x = currents()
    gradients = []
    for sign in (1, -1):
        mirrored = (sign * x).requires_grad_()
        neuron = PascalIF(4, sign * 0.8, surrogate.atan()).double()
        neuron(mirrored).sum().backward()
        gradients.append(sign * mirrored.grad)
    assert (gradients[0] > 0).all()  # more current, more spikes
    torch.testing.assert_close(*gradients)


def test_the_membrane_that_is_kept_holds_no_graph() -> None:
    neuron = PascalIF(4, learn_threshold=True, init_hidden=True, output=True)
    _, mem = neuron(currents().requires_grad_())
    assert mem.requires_grad
    assert not neuron.mem.requires_grad
    utils.reset(nn.Sequential(neuron))
    assert torch.equal(neuron.mem, mem)  # the host knows its own classes alone
