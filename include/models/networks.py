"""A model's layers, from prepared pixels to raw scores: in float32 on a CPU by ONNX Runtime, else by torch.

For the same sums ONNX Runtime needs less time, and on one thread, so that no thread waits for another. torch writes the
graph from the verified weights whenever a model is loaded, in memory: nothing is kept that could be stale or forged.
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from onnxruntime.capi.onnxruntime_pybind11_state import Fail

from include.models.placement import Batches, Placement
from include.models.runtime import Pool, open_session

Item = TypeVar("Item")
Result = TypeVar("Result")
OPSET = 17  # of ONNX; the newest has nothing that these models need
_exporting = threading.Lock()  # torch's exporter keeps its state in globals


class Graph:
    """Layers as a graph that runs on the caller's thread; safe to use from many threads."""

    def __init__(self, layers: torch.nn.Module, shape: Sequence[int], *, any_size: bool = False) -> None:
        """layers: take [n, *shape] and give a tuple of tensors; any_size: whether height and width may change, too."""
        file = io.BytesIO()
        with _exporting, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch has a second exporter, which needs more packages and time
            torch.onnx.export(
                layers,
                (torch.zeros(2, *shape),),
                file,  # type: ignore[arg-type]  # this exporter takes a file, too
                input_names=["inputs"],
                dynamic_axes={"inputs": {0: "n", 2: "height", 3: "width"} if any_size else {0: "n"}},
                opset_version=OPSET,
                dynamo=False,
            )
        self._session = open_session(file.getvalue())

    def __call__(self, inputs: torch.Tensor) -> list[torch.Tensor]:
        """inputs: float32 [n, *shape]. Raises MemoryError if there is too little memory."""
        try:
            return [torch.from_numpy(array) for array in self._session.run(None, {"inputs": inputs.numpy()})]
        except Fail as error:
            if "Failed to allocate memory" in str(error):
                raise MemoryError(str(error)) from error
            raise


class Network:
    """Layers at their place, and how many inputs they take at a time; safe to use from many threads."""

    def __init__(
        self, layers: torch.nn.Module, placement: Placement, shape: Sequence[int], batch_size: int, pool: Pool
    ) -> None:
        """layers: take [n, *shape] and give a tuple of tensors; batch_size: inputs a pass where torch does the work."""
        self._placement, self._pool, self._lock = placement, pool, threading.Lock()
        self._batches = Batches(batch_size)
        self._layers = Graph(layers, shape) if placement.as_graph else layers

    def map(self, function: Callable[[Sequence[Item]], Result], items: Sequence[Item]) -> Iterator[Result]:
        """``function``, which calls this network, of each batch of the items, in order.

        Where it is a graph, each thread of the pool takes another item, and none waits for another.
        """
        if self._placement.as_graph:
            return iter(self._pool.map(function, [items[i : i + 1] for i in range(len(items))]))
        return self._batches.map(function, items)

    def __call__(self, inputs: torch.Tensor) -> Sequence[torch.Tensor]:
        """inputs: float32 [n, *shape], on the device."""
        if self._placement.as_graph:
            return self._layers(inputs)
        inputs = inputs.to(self._placement.dtype, memory_format=torch.channels_last)
        with self._lock:  # on a GPU held until the pass is queued, not until it is done
            return self._layers(inputs)
