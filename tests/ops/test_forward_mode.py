"""Forward-mode differentiation, which has the straight-through slopes of the backward mode."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, jacfwd, jacrev

from pascal_ext import QCFS, convert

NETWORKS = ("qcfs", "counts", "spikes", "spikes, not settled")


def network(name: str, per_channel: bool = False) -> nn.Module:
    threshold = torch.tensor([0.5, -1.0, 2.0, 1.0]) if per_channel else 0.7
    layers = nn.Sequential(nn.Linear(5, 4), QCFS(4, threshold), nn.Linear(4, 3), QCFS(3, 0.6), nn.Linear(3, 2))
    if name == "qcfs":
        return layers.double().eval()
    snn = convert(layers.double().eval(), execution=name.partition(",")[0])
    snn.settle_ties = "not" not in name
    return snn


@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_jacobian_is_that_of_the_backward_mode(name: str, per_channel: bool, learns: bool) -> None:
    net, x = network(name, per_channel).requires_grad_(learns), torch.randn(6, 5, dtype=torch.float64)
    expected = jacrev(net)(x)
    assert expected.abs().max() > 0
    torch.testing.assert_close(jacfwd(net)(x), expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_also_with_respect_to_parameters(name: str) -> None:
    net, x = network(name), torch.randn(6, 5, dtype=torch.float64)
    state = {key: value.detach() for key, value in net.named_parameters()}
    names = [key for key in state if name == "qcfs" or "threshold" not in key]

    def of(*values: Tensor) -> Tensor:
        output: Tensor = functional_call(net, dict(zip(names, values, strict=True)), (x,))
        return output

    values, positions = tuple(state[key] for key in names), tuple(range(len(names)))
    torch.testing.assert_close(jacfwd(of, positions)(*values), jacrev(of, positions)(*values))


@pytest.mark.parametrize("name", NETWORKS)
def test_dual_tensors(name: str) -> None:
    net, x = network(name), torch.randn(6, 5, dtype=torch.float64)
    direction = torch.randn_like(x)
    expected = torch.einsum("nijk,jk->ni", jacrev(net)(x), direction)
    with torch.no_grad(), forward_ad.dual_level():
        found = forward_ad.unpack_dual(net(forward_ad.make_dual(x, direction))).tangent
    assert found is not None
    torch.testing.assert_close(found, expected)
