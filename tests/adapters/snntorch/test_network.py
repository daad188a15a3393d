from __future__ import annotations

from pathlib import Path

import pytest
import snntorch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import pyplot as plt
from snntorch import functional as SF
from snntorch import spikegen, spikeplot, utils
from snntorch.functional import probe
from torch import Tensor, nn
from torch.nn import functional as F

import pascal_ext
from pascal_ext.adapters.snntorch import PascalIF, PascalNetwork, convert, load, winner_spikes
from pascal_ext.errors import InvalidArgumentError, UnsupportedOperationError

LAYERS = ["act", "block.act1", "block.act2"]


@st.composite
def random_networks(draw: st.DrawFn) -> nn.Module:
    """QCFS networks in float64: convolutions with and without groups, norms, pools, shortcuts, linear layers."""
    torch.manual_seed(draw(st.integers(0, 10_000)))

    def qcfs(channels: int) -> nn.Module:
        sign = draw(st.sampled_from([1, 1, -1]))
        threshold = sign * (0.2 + torch.rand(draw(st.sampled_from([1, channels]))))
        return pascal_ext.QCFS(draw(st.integers(1, 9)), threshold)

    class Shortcut(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.conv = nn.Conv2d(channels, channels, 3, padding=1, groups=draw(st.sampled_from([1, channels])))
            self.norm = nn.BatchNorm2d(channels)
            self.act1, self.act2 = qcfs(channels), qcfs(channels)

        def forward(self, x: Tensor) -> Tensor:
            return self.act2(self.norm(self.conv(self.act1(x))) + x)

    channels = draw(st.sampled_from([2, 4]))
    layers: list[nn.Module] = [nn.Conv2d(1, channels, 3, padding=1)]
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["shortcut", "plain", "max pool", "average pool"]))
        layers.append(qcfs(channels))
        if kind == "shortcut":
            layers.append(Shortcut(channels))
        elif kind == "plain":
            layers += [nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)]
        else:
            layers.append(nn.MaxPool2d(2, 1) if kind == "max pool" else nn.AvgPool2d(2, 1))
    layers += [qcfs(channels), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, 6)]
    if draw(st.booleans()):
        layers += [qcfs(6), nn.Linear(6, 3)]
    network = nn.Sequential(*layers).double()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return network.eval()


@settings(max_examples=60)
@given(network=random_networks(), steps=st.integers(1, 5), execution=st.sampled_from(["spikes", "counts"]))
def test_temporal_mean_is_the_qcfs_network(network: nn.Module, steps: int, execution: str) -> None:
    x = torch.randn(steps, 3, 1, 6, 6, dtype=torch.float64)
    snn = convert(network, execution=execution)
    with torch.no_grad():
        torch.testing.assert_close(snn(x).mean(0), network(x.mean(0)), rtol=0, atol=1e-9)


def test_time_comes_first(snn: PascalNetwork, qcfs: nn.Module, images: Tensor) -> None:
    spk_rec = snn(images.unsqueeze(0))
    assert spk_rec.shape == (snn.timesteps["block.act2"], 12, 10)
    torch.testing.assert_close(spk_rec.mean(0), qcfs(images), rtol=0, atol=1e-9)
    torch.testing.assert_close(snn(images.expand(4, *images.shape)), spk_rec)
    snn.step_mode = "s"
    torch.testing.assert_close(snn(images), qcfs(images), rtol=0, atol=1e-9)


def test_a_relu_network_is_calibrated_and_left_as_it_is(ann: nn.Module, images: Tensor) -> None:
    state = {name: value.clone() for name, value in ann.state_dict().items()}
    snn = convert(ann, [(images, torch.zeros(12))], 16, progress=False)
    assert type(snn) is PascalNetwork
    assert {type(neuron) for neuron in snn.neurons.values()} == {PascalIF}
    assert dict(snn.plan) == dict.fromkeys(LAYERS, 16)
    assert pascal_ext.verify(ann, snn, [images], progress=False).exact
    assert snn.step_mode == "m"
    assert all(torch.equal(value, state[name]) for name, value in ann.state_dict().items())
    assert isinstance(ann.act, nn.ReLU)


def test_rate_coded_input_is_its_mean(snn: PascalNetwork, qcfs: nn.Module, images: Tensor) -> None:
    spikes = spikegen.rate(images, num_steps=20).double()
    torch.testing.assert_close(snn(spikes).mean(0), qcfs(spikes.mean(0)), rtol=0, atol=1e-9)


def test_rates_and_counts_are_the_accuracy_of_the_ann(snn: PascalNetwork, qcfs: nn.Module, images: Tensor) -> None:
    logits = qcfs(images)
    targets = torch.where(torch.arange(12) % 3 == 0, 0, logits.argmax(1))
    spk_rec = snn(images.unsqueeze(0))
    accuracy = (logits.argmax(1) == targets).double().mean().item()
    assert SF.accuracy_rate(spk_rec, targets) == pytest.approx(accuracy)
    for read in (SF.accuracy_rate, SF.accuracy_temporal):
        assert read(winner_spikes(spk_rec), targets) == pytest.approx(accuracy)
    snn.execution = "counts"
    assert SF.accuracy_rate(snn(images.unsqueeze(0)), targets) == pytest.approx(accuracy)


def test_losses(snn: PascalNetwork, qcfs: nn.Module, images: Tensor) -> None:
    targets = torch.randint(10, (12,))
    logits = qcfs(images)
    spk_rec = snn(images.unsqueeze(0))
    steps = len(spk_rec)
    close = {"rtol": 1e-5, "atol": 1e-6}  # the host accumulates in float32
    counted = SF.ce_count_loss()(spk_rec, targets)
    torch.testing.assert_close(counted.double(), F.cross_entropy(steps * logits, targets), **close)
    squared = SF.mse_count_loss()(spk_rec, targets)
    wanted = steps * F.one_hot(targets, 10)
    torch.testing.assert_close(squared.double(), F.mse_loss(steps * logits, wanted.double()) / steps, **close)
    assert SF.ce_rate_loss()(spk_rec, targets) >= F.cross_entropy(logits, targets) - 1e-6  # Jensen
    snn.execution = "counts"
    rate = SF.ce_rate_loss()(snn(images.unsqueeze(0)), targets)
    torch.testing.assert_close(rate.double(), F.cross_entropy(logits, targets)[None], **close)


def test_losses_train_it_with_the_gradients_of_qcfs(snn: PascalNetwork, qcfs: nn.Module, images: Tensor) -> None:
    targets = torch.randint(10, (12,))
    steps = len(snn(images.unsqueeze(0)))
    SF.ce_count_loss()(snn(images.unsqueeze(0)), targets).backward()
    F.cross_entropy(steps * qcfs(images), targets).backward()
    expected = dict(qcfs.named_parameters())
    for name, parameter in snn.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad)


def test_a_membrane_is_kept_of_the_whole_batch(
    snn: PascalNetwork, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not of the piece that was simulated last."""
    monkeypatch.setattr(pascal_ext.network.chunking, "size_for_cache", lambda *_: 1)
    snn = snn.float()
    with torch.no_grad():
        for neuron in snn.neurons.values():
            neuron.init_hidden = True
        snn(images.float().unsqueeze(0))
    for neuron in snn.neurons.values():
        assert neuron.mem.shape[:2] == (neuron.levels, len(images))


def test_probes_record_layers_by_name(snn: PascalNetwork, qcfs: nn.Module, images: Tensor) -> None:
    activations: dict[str, Tensor] = {}
    for name in LAYERS:
        layer = qcfs.get_submodule(name)
        layer.register_forward_hook(lambda module, args, out, name=name: activations.__setitem__(name, out))
    qcfs(images)
    for neuron in snn.neurons.values():
        neuron.init_hidden = True
    out = probe.OutputMonitor(snn, PascalIF)
    into = probe.InputMonitor(snn, snntorch.SpikingNeuron)
    membranes = probe.AttributeMonitor("mem", False, snn, PascalIF)
    with torch.no_grad():
        snn(images.unsqueeze(0))
    assert set(out.monitored_layers) == set(LAYERS)
    for name in LAYERS:
        neuron = snn.neurons[name]
        (spk,), (cur,), (mem,) = out[name], into[name], membranes[name]
        assert spk.shape == mem.shape == (neuron.levels, *activations[name].shape)
        assert cur.shape[1:] == spk.shape[1:]
        torch.testing.assert_close(neuron.threshold * spk.mean(0), activations[name], rtol=0, atol=1e-9)
        assert torch.equal(mem >= neuron.threshold, spk.bool())
    out.remove_hooks()
    snn(images.unsqueeze(0))
    assert len(out.records) == 3


def test_gradient_probes(snn: PascalNetwork, images: Tensor) -> None:
    grads = probe.GradOutputMonitor(snn, PascalIF)
    snn(images.unsqueeze(0)).sum().backward()
    assert {len(grads[name]) for name in LAYERS} == {1}


def test_plots(snn: PascalNetwork, images: Tensor) -> None:
    record = probe.OutputMonitor(snn, PascalIF)
    with torch.no_grad():
        spk_rec = snn(images.unsqueeze(0))
    figure, axes = plt.subplots()
    spikes = record["act"][0][:, 0]
    assert len(spikeplot.raster(spikes.flatten(1), axes, s=2).get_offsets()) == int(spikes.sum())
    assert len(spikeplot.raster(winner_spikes(spk_rec)[:, 0], axes).get_offsets()) == len(spk_rec)
    animation = spikeplot.animator(spikes[:, 0], figure, axes)
    assert len(animation._framedata) == len(spikes)
    animation._draw_was_started = True  # matplotlib warns of animations that nobody drew
    spikeplot.traces(spk_rec[:, 0], dim=(2, 5))
    plt.close("all")


def test_reset_reaches_what_stands_beside_it(snn: PascalNetwork, images: Tensor) -> None:
    class Readout(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = snn
            self.lif = snntorch.Leaky(beta=0.9, init_hidden=True)

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([self.lif(current.float()) for current in self.features(x)])

    network = Readout()
    with torch.no_grad():
        first = network(images.unsqueeze(0))
        utils.reset(network)
        assert torch.equal(network(images.unsqueeze(0)), first)
        utils.reset(snn)
        utils.reset(nn.ModuleList([nn.Sequential(snn)]))


def test_files_are_the_same_for_every_framework(
    snn: PascalNetwork, qcfs: nn.Module, images: Tensor, tmp_path: Path
) -> None:
    plain = pascal_ext.convert(qcfs)
    assert list(snn.state_dict()) == list(plain.state_dict())
    pascal_ext.save(plain, tmp_path / "plain")
    pascal_ext.save(snn, tmp_path / "snn")
    for path in (tmp_path / "plain", tmp_path / "snn"):
        loaded = load(path)
        assert type(loaded) is PascalNetwork
        assert {type(neuron) for neuron in loaded.neurons.values()} == {PascalIF}
        assert torch.equal(loaded(images.unsqueeze(0)), snn(images.unsqueeze(0)))
    pascal_ext.load(tmp_path / "snn")


def test_activations_without_features() -> None:
    class Scalar(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.act = nn.Linear(4, 1), pascal_ext.QCFS(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.linear(x).squeeze(1))

    network = Scalar().double()
    x = torch.randn(2, 7, 4, dtype=torch.float64)
    torch.testing.assert_close(convert(network)(x).mean(0), network(x.mean(0)))


def test_static_batches_are_told_from_sequences(snn: PascalNetwork) -> None:
    with pytest.raises(InvalidArgumentError, match=r"\[T, N, \.\.\.\]"):
        snn(torch.zeros(5, dtype=torch.float64))


def test_spiking_networks_are_refused() -> None:
    network = nn.Sequential(nn.Linear(4, 3), snntorch.Leaky(beta=0.9, init_hidden=True))
    with pytest.raises(UnsupportedOperationError, match=r"'1' is a Leaky, a spiking neuron: hand in the ANN"):
        convert(network)
    with pytest.raises(UnsupportedOperationError, match="'the model' is a PascalIF"):
        convert(PascalIF(4))


def test_options_reach_the_conversion(qcfs: nn.Module) -> None:
    assert convert(qcfs, execution="counts").execution == "counts"
    with pytest.raises(TypeError, match="no_such_option"):
        convert(qcfs, no_such_option=1)
