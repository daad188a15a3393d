"""Embeddings: token ids in, and rows of a table as the currents that the first neurons read."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pascal_ext
from pascal_ext import convert, replace_activations
from pascal_ext.errors import InvalidArgumentError, UnsupportedOperationError
from tests.cases import Net, alive, assert_close, quantised

VOCABULARY, LENGTH, BATCH = 30, 12, 4


class Ratings(Net):
    """A network of two ids and dense features."""

    def forward(self, user: Tensor, item: Tensor, dense: Tensor) -> Any:
        return self.function(self, user, item, dense)


def _sentence(m: Any, x: Tensor) -> Tensor:
    """As in Kim, Convolutional neural networks for sentence classification, EMNLP 2014."""
    y = m.embed(x).unsqueeze(1)
    pooled = [conv(y).relu().squeeze(3).amax(2) for conv in (m.two, m.three)]
    return m.head(torch.cat(pooled, 1))


def _positions(m: Any, x: Tensor) -> Tensor:
    y = m.embed(x) + m.position(torch.arange(x.size(1), device=x.device))
    return m.head((y + m.back(F.relu(m.mix(y)))).mean(1))


def _functional(m: Any, x: Tensor) -> Tensor:
    return m.head(F.relu(m.mix(F.embedding(x, m.embed.weight) + m.embed(x))).sum(1))


def ids(*shape: int) -> Tensor:
    return torch.randint(VOCABULARY, shape or (BATCH, LENGTH))


def table(size: int = 8) -> nn.Embedding:
    return nn.Embedding(VOCABULARY, size, padding_idx=0)


NETWORKS: dict[str, nn.Module] = {
    "convolutions along the text": Net(
        lambda m, x: m.head(m.conv(m.embed(x).transpose(1, 2)).relu().amax(2)),
        embed=table(),
        conv=nn.Conv1d(8, 6, 3),
        head=nn.Linear(6, 3),
    ),
    "windows of several sizes": Net(
        _sentence, embed=table(), two=nn.Conv2d(1, 6, (2, 8)), three=nn.Conv2d(1, 6, (3, 8)), head=nn.Linear(12, 3)
    ),
    "positions": Net(
        _positions,
        embed=table(),
        position=nn.Embedding(LENGTH, 8),
        mix=nn.Linear(8, 6),
        back=nn.Linear(6, 8),
        head=nn.Linear(8, 3),
    ),
    "as a function": Net(_functional, embed=table(), mix=nn.Linear(8, 6), head=nn.Linear(6, 3)),
    "bag of words": Net(
        lambda m, x: m.head(m.mix(m.embed(x)).relu()),
        embed=nn.EmbeddingBag(VOCABULARY, 8),
        mix=nn.Linear(8, 6),
        head=nn.Linear(6, 3),
    ),
}


@pytest.fixture(params=NETWORKS)
def model(request: pytest.FixtureRequest) -> nn.Module:
    return alive(copy.deepcopy(NETWORKS[request.param]).double())


@torch.no_grad()
def test_the_function_is_the_same(model: nn.Module) -> None:
    qcfs = quantised(model, [ids()], "per-channel")
    snn = convert(qcfs)
    assert not snn.analog_nodes
    for snn.execution in ("spikes", "counts"):
        x = ids()
        assert_close(snn(x), qcfs(x))
        snn.step_mode = "m"
        assert_close(snn(x.unsqueeze(0)).mean(0), qcfs(x))
        snn.step_mode = "s"


def test_ids_have_no_temporal_mean(model: nn.Module) -> None:
    snn = convert(model, [ids()], progress=False)
    snn.step_mode = "m"
    for snn.execution in ("spikes", "counts"):
        with pytest.raises(InvalidArgumentError, match=r"torch.int64 has no temporal mean over 3 timesteps"):
            snn(ids(3, BATCH, LENGTH))


def test_files_and_copies_hold_the_table(model: nn.Module, tmp_path: Path) -> None:
    snn, x = convert(model, [ids()], progress=False), ids()
    pascal_ext.save(snn, tmp_path / "snn.safetensors")
    for twin in (pascal_ext.load(tmp_path / "snn.safetensors"), copy.deepcopy(snn)):
        assert torch.equal(twin(x), snn(x))


def test_everything_that_reads_data_takes_ids(model: nn.Module) -> None:
    loader = [(ids(), torch.zeros(BATCH)) for _ in range(2)]
    plan = pascal_ext.allocate(model, loader, mean_levels=4, progress=False)
    qcfs = pascal_ext.reconstruct(model, loader, plan, steps=2, batch_size=4, progress=False)
    snn = convert(qcfs)
    assert pascal_ext.verify(qcfs, snn, loader, progress=False).exact


def test_looking_up_costs_no_operations() -> None:
    model = NETWORKS["bag of words"]
    snn = convert(model, [ids()], progress=False)
    report = pascal_ext.energy.measure(snn, [ids()], progress=False)
    assert report.macs == 8 * 6  # of the layer that reads the rows


@torch.no_grad()
def test_several_ids_and_dense_features() -> None:
    model = alive(
        Ratings(
            lambda m, user, item, dense: m.head(F.relu(m.mix(torch.cat([m.user(user), m.item(item), dense], 1)))),
            user=table(4),
            item=table(4),
            mix=nn.Linear(10, 6),
            head=nn.Linear(6, 1),
        ).double()
    )
    data = [ids(BATCH), ids(BATCH), torch.randn(BATCH, 2, dtype=torch.float64)]
    qcfs = quantised(model, data)
    assert_close(convert(qcfs)(*data), qcfs(*data))


def test_spikes_are_not_looked_up() -> None:
    model = Net(lambda m, x: m.embed(m.fc(x).relu().long()), fc=nn.Linear(3, 4), embed=table())
    with pytest.raises(UnsupportedOperationError, match="long"):
        convert(model, [torch.randn(2, 3)], progress=False)
    with pytest.raises(UnsupportedOperationError, match="'embed'"):
        convert(replace_activations(Net(lambda m, x: m.embed(m.fc(x).relu()), fc=nn.Linear(3, 4), embed=table())))
    qcfs = replace_activations(model)
    snn, x = convert(qcfs, on_unsupported="analog"), torch.randn(2, 3)
    assert torch.equal(snn(x), qcfs(x))


def test_clamped_ids_are_no_activation() -> None:
    model = alive(Net(lambda m, x: m.head(m.embed(x.clamp(0, 9)).mean(1).relu()), embed=table(), head=nn.Linear(8, 3)))
    with pytest.raises(UnsupportedOperationError, match=r"operation 'clamp'.*on_unsupported=\"analog\""):
        convert(model, [ids()], progress=False)
    snn = convert(model, [ids()], on_unsupported="analog", progress=False)
    assert list(snn.plan) == ["relu"]
    assert pascal_ext.verify(model, snn, [ids()], progress=False).exact
