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


class Network:
    """The layers at their place, and how many inputs they take at a time; safe to use from many threads."""

    def __init__(
        self, layers: torch.nn.Module, placement: Placement, shape: Sequence[int], batch_size: int, pool: Pool
    ) -> None:
        """layers: take [n, *shape] and give a tuple of tensors; batch_size: inputs a pass where torch does the work."""
        self._placement, self._pool, self._lock = placement, pool, threading.Lock()
        self._layers, self._session, self._batches = layers, None, Batches(batch_size)
        if placement.device.type == "cpu" and placement.dtype == torch.float32:
            self._session = open_session(exported(layers, shape))
            del self._layers  # the graph has the weights

    def map(self, function: Callable[[Sequence[Item]], Result], items: Sequence[Item]) -> Iterator[Result]:
        """``function``, which calls this network, of each batch of the items, in order.

        A graph runs on one thread: each thread of the pool takes another item, so that none waits for another.
        """
        if self._session:
            return iter(self._pool.map(function, [items[i : i + 1] for i in range(len(items))]))
        return self._batches.map(function, items)

    def __call__(self, inputs: torch.Tensor) -> Sequence[torch.Tensor]:
        """inputs: float32 [n, *shape], on the device. Raises MemoryError if a graph's do not fit into memory."""
        if not self._session:
            inputs = inputs.to(self._placement.dtype, memory_format=torch.channels_last)
            with self._lock:  # on a GPU held until the pass is queued, not until it is done
                return self._layers(inputs)
        try:
            return [torch.from_numpy(array) for array in self._session.run(None, {"inputs": inputs.numpy()})]
        except Fail as error:
            if "Failed to allocate memory" in str(error):
                raise MemoryError(str(error)) from error
            raise


def exported(layers: torch.nn.Module, shape: Sequence[int]) -> bytes:
    """The layers as an ONNX graph, for any number of inputs of this shape."""
    file = io.BytesIO()
    with _exporting, warnings.catch_warnings():
        # The exporter by tracing; its successor needs two more packages and several times as long.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            layers,
            (torch.zeros(2, *shape),),
            file,  # type: ignore[arg-type]  # the exporter by tracing takes a file, too
            input_names=["inputs"],
            dynamic_axes={"inputs": {0: "n"}},
            opset_version=OPSET,
            dynamo=False,
        )
    return file.getvalue()
