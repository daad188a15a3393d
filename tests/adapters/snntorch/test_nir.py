"""NIR has no node that PASC-IF imports back from, so the export says so instead of leaving a hole."""

from __future__ import annotations

import pytest
import snntorch
import torch
from torch import Tensor, nn

from pascal_ext.adapters.snntorch import PascalIF, PascalNetwork
from pascal_ext.errors import UnsupportedOperationError

pytest.importorskip("nirtorch", reason="snnTorch exports with nir and nirtorch")

from snntorch.export_nir import export_to_nir


@pytest.mark.parametrize("execution", ["spikes", "counts"])
@pytest.mark.filterwarnings("ignore:nirtorch.extract_nir_graph:DeprecationWarning")
def test_export_of_a_converted_network_is_refused(snn: PascalNetwork, images: Tensor, execution: str) -> None:
    snn.execution = execution
    with pytest.raises(UnsupportedOperationError, match=r"NIR has no node for a PASC-IF layer.*use pascal_ext\.save"):
        export_to_nir(snn, images.unsqueeze(0))
    snn(images.unsqueeze(0))  # the host has put the call back


@pytest.mark.filterwarnings("ignore:nirtorch.extract_nir_graph:DeprecationWarning")
def test_export_of_a_network_by_hand_is_refused() -> None:
    network = nn.Sequential(nn.Linear(3, 4), PascalIF(2), nn.Linear(4, 2))
    with pytest.raises(UnsupportedOperationError, match="fire while their input arrives"):
        export_to_nir(network, torch.randn(5, 2, 3))


@pytest.mark.filterwarnings("ignore:nirtorch.extract_nir_graph:DeprecationWarning")
def test_export_of_stock_networks_works_as_ever() -> None:
    beta, threshold = torch.full((4,), 0.9), torch.ones(4)
    network = nn.Sequential(nn.Linear(3, 4), snntorch.Leaky(beta=beta, threshold=threshold, init_hidden=True))
    graph = export_to_nir(network, torch.randn(1, 3), ignore_dims=[0])
    assert {type(node).__name__ for node in graph.nodes.values()} >= {"Affine", "LIF"}
