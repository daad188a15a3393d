"""A batch in pieces gives what it gives as a whole."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from pascal_ext import QCFS, convert
from pascal_ext.errors import InvalidArgumentError
from pascal_ext.network import chunking
from pascal_ext.network.spiking_network import SpikingNetwork
from tests.cases import Net, assert_close, parameter, quantised, relu, tensors
from tests.refused import ANALOG
from tests.zoo import EXACT


def network(name: str) -> SpikingNetwork:
    case = EXACT[name]
    return convert(quantised(case.build(), case.data()))


@pytest.mark.parametrize("name", ["one block, twice", "many outputs"])
@pytest.mark.parametrize("chunk", [1, 2, 3, 7])
def test_any_size(name: str, chunk: int) -> None:
    snn = network(name)
    x = torch.randn(5, 3, 6, 6, dtype=torch.float64)
    with torch.no_grad():
        for execution in ("spikes", "counts"):
            snn.execution = execution
            for step_mode, inputs in (("s", x), ("m", x.repeat(2, 1, 1, 1, 1))):
                snn.step_mode, snn.chunk = step_mode, None
                whole = snn(inputs)
                snn.chunk = chunk
                assert_close(snn(inputs), whole)


def test_no_more_samples_at_a_time() -> None:
    snn = network("one block, twice")
    seen: list[int] = []
    next(iter(snn.neurons.values())).register_forward_hook(lambda _, args, out: seen.append(out.shape[1]))
    snn.chunk = 2
    snn(torch.randn(5, 3, 6, 6, dtype=torch.float64))
    assert sum(seen) % 5 == 0
    assert max(seen) == 2


def test_inputs_by_name() -> None:
    snn = network("two inputs")
    x, y = torch.randn(2, 5, 3, 6, 6, dtype=torch.float64)
    whole = snn(x, y=y)
    snn.chunk = 2
    assert_close(snn(x, y=y), whole)


def test_constants_among_the_outputs() -> None:
    model = Net(
        lambda m, x: (relu(m.a(x)), m.scale, x.size(1), None), a=nn.Conv2d(3, 2, 1), scale=nn.Parameter(torch.ones(2))
    )
    x = torch.randn(4, 3, 6, 6, dtype=torch.float64)
    snn = convert(model.double(), [x], progress=False)
    snn.chunk = 2
    for execution in ("spikes", "counts"):
        snn.execution = execution
        found, scale, channels, nothing = snn(x)
        assert found.shape == (4, 2, 6, 6)
        assert torch.equal(scale, model.scale)
        assert (channels, nothing) == (3, None)


@pytest.mark.parametrize("value", [0, -1, 2.0, True, "4"])
def test_a_chunk_is_a_number_of_samples(value: Any) -> None:
    snn = network("one block, twice")
    with pytest.raises(InvalidArgumentError, match=f"chunk must be .* got {value!r}"):
        snn.chunk = value
    assert snn.chunk == "auto"


@pytest.mark.filterwarnings("ignore:layer .* is dead")
@pytest.mark.parametrize("name", {**ANALOG, **EXACT})
def test_pieces_for_the_cache(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The smallest pieces there are, in any network, whatever its shapes depend on: no one could tell."""
    monkeypatch.setattr(chunking, "size_for_cache", lambda *_: 1)
    case = {**ANALOG, **EXACT}[name]
    kinds = {"on_unsupported": "analog"} if name in ANALOG else {}
    snn = convert(quantised(case.build(), case.data()), **kinds)
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
        snn = snn.to(dtype)
        for step_mode in ("s", "m"):
            snn.step_mode = step_mode
            data = case.data() if step_mode == "s" else case.data(2)
            inputs = pytree.tree_map(lambda x, dtype=dtype: x.to(dtype) if x.is_floating_point() else x, data)
            with torch.no_grad():
                snn.chunk = "auto"
                found = tensors(snn(*inputs))
                snn.chunk = None
                for piecewise, whole in zip(found, tensors(snn(*inputs)), strict=True):
                    torch.testing.assert_close(piecewise, whole, rtol=0, atol=tolerance)


def test_the_cache_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    snn = convert(nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), QCFS(8), nn.Flatten(), nn.Linear(256, 2)))
    x = torch.randn(10, 1, 8, 8)
    batches: list[int] = []
    fire = snn.get_submodule("1").forward

    def watched(x_seq: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        batches.append(x_seq.shape[1])
        return fire(x_seq, *args, **kwargs)

    monkeypatch.setattr(snn.get_submodule("1"), "forward", watched)
    monkeypatch.setattr(chunking, "CALL", 0)
    one = 8 * 256 * 4  # bytes of a sample's spikes

    def seen(cache: int) -> list[int]:
        monkeypatch.setattr(chunking, "CACHE", cache)
        snn._sizes.clear()
        batches.clear()
        snn(x)
        return batches

    with torch.no_grad():
        assert seen(10 * one) == [10]
        assert seen(4 * one) == [4, 4, 2]
        assert seen(1) == [1] * 10
        snn.chunk = None
        assert seen(1) == [10]
        snn.chunk = "auto"
        with FlopCounterMode(display=False):
            assert seen(1) == [10], "an operation counter sees one presentation"
        snn.train()
        assert seen(1) == [10], "statistics of a batch may be taken"
        snn.eval()
        snn.get_submodule("0").register_forward_hook(lambda *_: None)
        assert seen(1) == [10], "a hook is called once"
    assert seen(1) == [10], "a gradient's graph is not cut"


@torch.no_grad()
def test_the_size_of_a_piece_does_not_depend_on_the_calls_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the first neurons take what another pass has counted, their spikes need no room; of NaN they do not."""
    qcfs = nn.Sequential(nn.Conv2d(1, 8, 1), QCFS(8), nn.Conv2d(8, 1, 1), QCFS(8), nn.Flatten(), nn.Linear(64, 2))
    sizes: list[int] = []
    simulate = SpikingNetwork._simulate

    def watched(snn: SpikingNetwork, inputs: Any, batch: int, *args: Any) -> Any:
        sizes.append(batch)
        return simulate(snn, inputs, batch, *args)

    def pieces(snn: SpikingNetwork, x: Tensor) -> list[int]:
        sizes.clear()
        snn(x)
        return list(sizes)

    monkeypatch.setattr(SpikingNetwork, "_simulate", watched)
    monkeypatch.setattr(chunking, "CALL", 0)
    monkeypatch.setattr(chunking, "CACHE", 8 * 64 * 8 * 4)  # bytes of a sample's spikes, of the first neurons
    plain = torch.randn(12, 1, 8, 8)
    damaged = plain.index_fill(0, torch.tensor(0), torch.nan)
    expected = [pieces(convert(qcfs), x) for x in (plain, damaged)]
    assert expected[0] != expected[1]
    snn = convert(qcfs)
    assert [pieces(snn, x) for x in (plain, damaged)] == expected


def test_what_a_piece_costs_decides() -> None:
    mib = 1 << 20
    assert chunking.size_for_cache([], 0, 7) == 7
    assert chunking.size_for_cache([mib] * 20, 0, 32) == 2, "what fits into the cache"
    assert chunking.size_for_cache([mib] * 20, 50 * mib, 32) == 4, "or half as much again as the weights"
    assert chunking.size_for_cache([mib] * 20, 50 * mib, 32, least=8) == 8
    assert chunking.size_for_cache([mib] * 20, 50 * mib, 9, least=8) == 8, "none of them smaller, but the last"
    assert chunking.size_for_cache([mib] * 20, 50 * mib, 5, least=8) == 5
    assert chunking.size_for_cache([mib] * 20, 10_000 * mib, 100) == 25, "nothing that needs new memory every time"
    assert chunking.size_for_cache([100 * mib] * 20, 0, 32) == 1, "one sample at least"
    assert chunking.size_for_cache([mib] * 20, 0, 1) == 1
    plain, strided, pointwise = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 1, stride=2), nn.Conv2d(3, 4, 1)
    assert chunking.least_samples([plain, strided], 9, 4) == 1
    assert chunking.least_samples([plain, pointwise], 9, 3) == 6
    assert chunking.least_samples([plain, pointwise], 16, 3) == 1


def test_outputs_without_samples_are_refused() -> None:
    def total(m: Any, x: Tensor) -> Tensor:
        return relu(m.a(x)).permute(1, 0, 2, 3)

    x = torch.randn(4, 3, 6, 6, dtype=torch.float64)
    snn = convert(Net(total, a=nn.Conv2d(3, 2, 1)).double(), [x], on_unsupported="analog", progress=False)
    snn.chunk = 3
    with pytest.raises(InvalidArgumentError, match="chunk=3, but an output has the shape"):
        snn(x)


MIXING: dict[str, Net] = {
    "mean": Net(lambda m, x: (h := relu(m.a(x))) - h.mean(0), a=nn.Conv2d(3, 2, 1)),
    "softmax": Net(lambda m, x: relu(m.a(x)).softmax(0), a=nn.Conv2d(3, 2, 1)),
    "layer": Net(lambda m, x: m.b(relu(m.a(x))), a=nn.Conv2d(3, 2, 1), b=nn.Softmax(0)),
    "norm": Net(lambda m, x: m.b(relu(m.a(x))), a=nn.Conv2d(3, 2, 1), b=nn.BatchNorm2d(2, track_running_stats=False)),
    "first": Net(lambda m, x: (h := relu(m.a(x))) - h[:1], a=nn.Conv2d(3, 2, 1)),
    "number of samples": Net(lambda m, x: relu(m.a(x)) / x.size(0), a=nn.Conv2d(3, 2, 1)),
}


@pytest.mark.parametrize("name", MIXING)
def test_samples_that_depend_on_each_other_stay_together(name: str) -> None:
    x = torch.randn(4, 3, 6, 6, dtype=torch.float64)
    snn = convert(quantised(MIXING[name].double(), [x]), on_unsupported="analog")
    whole = snn(x)
    with pytest.warns(UserWarning, match="chunk=2 has no effect: .* works across the samples"):
        snn.chunk = 2
    assert_close(snn(x), whole)


@pytest.mark.parametrize("name", ["attention", "sequence first", "squeeze and excitation", "recurrent", "moments"])
def test_decoded_samples_are_cut_all_the_same(name: str) -> None:
    case = ANALOG[name]
    snn, data = convert(quantised(case.build(), case.data()), on_unsupported="analog"), case.data()
    whole = snn(*data)
    snn.chunk = 2
    assert_close(snn(*data), whole)


@pytest.mark.parametrize("chunk", ["auto", 1, 16])
def test_pieces_in_one_place(chunk: int | str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples that are one sample repeated, and those without features, lie in the same place in every piece."""
    monkeypatch.setattr(chunking, "size_for_cache", lambda *_: 1)
    with_constant = Net(lambda m, x: (x, relu(m.a(x))[:, :0], m.scale), a=nn.Conv2d(3, 2, 1), scale=parameter(5))
    x = torch.randn(1, 3, 8, 8).expand(64, -1, -1, -1)
    for model in (with_constant, Net(lambda m, x: (x, relu(m.a(x))[:, :0]), a=nn.Conv2d(3, 2, 1))):
        snn = convert(model, [x], progress=False)
        snn.chunk = chunk
        with torch.no_grad():
            for execution in ("spikes", "counts"):
                snn.execution = execution
                assert_close(snn(x), model(x))


def test_layers_without_neurons() -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 4, 1)), torch.randn(5, 3, 2, 2)
    with torch.no_grad():
        assert_close(convert(model)(x), model(x))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_layers_find_the_memory_that_others_have_freed() -> None:
    """In a process of its own, since what its heap has seen before decides."""
    code = f"""
import sys; sys.path[:0] = {[str(Path(__file__).parents[2])]!r}
import resource, torch
from pascal_ext.network.chunking import keep_freed_memory

def new_pages():
    layers = []
    for _ in range(4):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        layers = [torch.ones(1 << 21) for _ in range(4)]
        del layers
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

without = new_pages()
keep_freed_memory()
print(without, new_pages())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    without, kept = map(int, done.stdout.split())
    if without < 1000:
        pytest.skip("this heap keeps what is freed by itself")
    assert kept < without / 10
