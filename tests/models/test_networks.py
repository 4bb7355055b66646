"""A model's layers give the same by ONNX Runtime as by torch."""

from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from onnxruntime.capi.onnxruntime_pybind11_state import Fail

from include.models.networks import Graph, Network
from include.models.placement import place
from include.models.runtime import Pool

SHAPE = (3, 32, 24)


@pytest.fixture(scope="module")
def layers() -> torch.nn.Module:
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1)
    return torch.nn.Sequential(conv, torch.nn.SiLU(), torch.nn.Conv2d(8, 4, 3), torch.nn.Sigmoid()).eval()


class InTuple(torch.nn.Module):
    def __init__(self, layers: torch.nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.layers(inputs),)


def network(layers: torch.nn.Module, precision: str = "fp32", threads: int = 2) -> Network:
    placement = place("cpu", precision)
    module = InTuple(copy.deepcopy(layers)).to(placement.dtype).eval()
    return Network(module, placement, SHAPE, batch_size=2, pool=Pool(threads))


def inputs(count: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_any_number_of_inputs(layers, count: int):
    given = inputs(count)
    (outputs,) = network(layers)(given)
    with torch.inference_mode():
        torch.testing.assert_close(outputs, layers(given), atol=1e-6, rtol=0)


def test_layers_are_the_same_after_a_graph_was_made_of_them():
    """Graphs are made one after the other of parts that share layers; the exporter fuses convolutions and norms."""
    torch.manual_seed(0)
    norm = torch.nn.BatchNorm2d(8)
    layers = InTuple(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), norm, torch.nn.ReLU(inplace=True))).eval()
    for tensor in (norm.running_mean, norm.weight, norm.bias):
        torch.nn.init.normal_(tensor)
    before, given = copy.deepcopy(layers.state_dict()), inputs(2)
    with torch.inference_mode():
        (expected,) = layers(given)
        (by_graph,) = Graph(layers, SHAPE)(given)
        (after,) = layers(given)
    torch.testing.assert_close(by_graph, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(after, expected, atol=0, rtol=0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in layers.state_dict().items())
    assert not any(module.training for module in layers.modules())


@pytest.mark.parametrize("value", [0.0, -2e4, 3e4, float("nan")])
def test_inputs_of_one_value_however_large(layers, value: float):
    given = torch.full((1, *SHAPE), value)
    (outputs,) = network(layers)(given)
    with torch.inference_mode():
        torch.testing.assert_close(outputs, layers(given), atol=1e-5, rtol=0, equal_nan=True)


def test_many_callers_at_once_get_what_one_gets(layers):
    shared, given = network(layers), [inputs(1, seed) for seed in range(20)]
    alone = [shared(item)[0] for item in given]
    with ThreadPoolExecutor(8) as pool:
        for outputs, wanted in zip(pool.map(lambda item: shared(item)[0], given), alone, strict=True):
            torch.testing.assert_close(outputs, wanted, atol=0, rtol=0)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_graph_takes_as_many_items_at_a_time_as_there_are_threads(layers, threads: int):
    together = threading.Barrier(threads, timeout=30)

    def seen(batch: range) -> list[int]:
        together.wait()  # for all others
        return list(batch)

    assert list(network(layers, threads=threads).map(seen, range(3 * threads))) == [[i] for i in range(3 * threads)]


def test_torch_takes_batches_one_after_the_other(layers):
    half = network(layers, "bf16")
    assert list(half.map(list, range(5))) == [[0, 1], [2, 3], [4]]
    with torch.inference_mode():
        (outputs,), wanted = half(inputs(2)), layers(inputs(2))
    assert outputs.dtype == torch.bfloat16
    torch.testing.assert_close(outputs.float(), wanted, atol=0.02, rtol=0)


class Failing:
    def __init__(self, message: str) -> None:
        self._message = message

    def run(self, *_: object) -> None:
        raise Fail(self._message)


def test_too_little_memory_is_told_from_other_failures(layers, monkeypatch: pytest.MonkeyPatch):
    graph = network(layers)
    monkeypatch.setattr(graph._layers, "_session", Failing("1 : FAIL : Failed to allocate memory"))
    with pytest.raises(MemoryError):
        graph(inputs(1))
    monkeypatch.setattr(graph._layers, "_session", Failing("[ONNXRuntimeError] : Non-zero status code"))
    with pytest.raises(Fail):
        graph(inputs(1))
