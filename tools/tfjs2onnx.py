"""Turns a TensorFlow.js graph model (model.json and its .bin) into ONNX, by way of a TensorFlow graph.

There is no maintained converter for this direction. TFJS fuses convolutions with the nodes after them, which plain
TensorFlow graphs can't express: the fused nodes are split again, and tf2onnx does the rest.
"""

from __future__ import annotations

import base64
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf2onnx
from google.protobuf import json_format
from tensorflow.core.framework import graph_pb2

Node = dict[str, Any]
UNFUSED = {"_FusedConv2D": "Conv2D", "FusedDepthwiseConv2dNative": "DepthwiseConv2dNative"}
CONVOLUTION_ATTRIBUTES = ("T", "strides", "padding", "data_format", "dilations", "explicit_paddings")


def convert(model_json: Path, output: Path, input_shape: list[int | None]) -> None:
    """Writes the model as ONNX (opset 17). ``input_shape`` replaces the shape of its one input; None: any size."""
    model = json.loads(model_json.read_text())
    graph = _graph(model["modelTopology"], _read_weights(model["weightsManifest"], model_json.parent), input_shape)
    signature = model["signature"]
    tf2onnx.convert.from_graph_def(
        graph,
        input_names=[_tensor(entry["name"]) for entry in signature["inputs"].values()],
        output_names=[_tensor(entry["name"]) for entry in signature["outputs"].values()],
        opset=17,
        output_path=str(output),
    )


def _tensor(name: str) -> str:
    return name if ":" in name else f"{name}:0"


def _read_weights(manifest: list[Node], folder: Path) -> dict[str, np.ndarray]:
    weights = {}
    for group in manifest:
        data = b"".join((folder / path).read_bytes() for path in group["paths"])
        offset = 0
        for entry in group["weights"]:
            dtype = np.dtype(entry["dtype"]).newbyteorder("<")
            stored = np.dtype(entry.get("quantization", entry)["dtype"]).newbyteorder("<")
            if stored.kind == "u":
                raise NotImplementedError(f"{entry['name']} is stored as {stored}: only float16 is known here")
            count = math.prod(entry["shape"])
            array = np.frombuffer(data, stored, count, offset).astype(dtype).reshape(entry["shape"])
            offset += count * stored.itemsize
            weights[entry["name"]] = array
    return weights


def _graph(topology: Node, weights: dict[str, np.ndarray], input_shape: list[int | None]) -> graph_pb2.GraphDef:
    nodes: list[Node] = []
    for node in topology["node"]:
        if node["op"] == "Const":
            if node["attr"]["dtype"]["type"] == "DT_INT64":  # TFJS has no int64 and stores such constants as int32
                weights[node["name"]] = weights[node["name"]].astype(np.int64)
        else:
            nodes += _unfuse(node) if node["op"] in UNFUSED else [node]
    graph = graph_pb2.GraphDef()
    json_format.ParseDict({"node": nodes, "versions": topology.get("versions", {})}, graph, ignore_unknown_fields=True)
    for name, array in weights.items():
        constant = graph.node.add(name=name, op="Const")
        constant.attr["dtype"].type = tf.as_dtype(array.dtype).as_datatype_enum
        constant.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(array))
    for node_def in graph.node:
        if node_def.op == "Placeholder":
            node_def.attr["shape"].shape.CopyFrom(tf.TensorShape(input_shape).as_proto())
    return graph


def _unfuse(node: Node) -> list[Node]:
    """The convolution, bias and activation of one fused node; the last one keeps the node's name."""
    attributes = node["attr"]
    fused = [base64.b64decode(name).decode() for name in attributes["fused_ops"]["list"].get("s", [])]
    image, kernel, *biases = node["input"]
    names = [f"{node['name']}/part{i}" for i in range(len(fused))] + [node["name"]]
    kept = {key: attributes[key] for key in CONVOLUTION_ATTRIBUTES if key in attributes}
    parts: list[Node] = [{"name": names[0], "op": UNFUSED[node["op"]], "input": [image, kernel], "attr": kept}]
    for previous, name, op in zip(names, names[1:], fused, strict=False):
        if op not in ("BiasAdd", "Relu", "Relu6"):
            raise NotImplementedError(f"{node['name']}: fused {op} is not known here")
        inputs = [previous, biases.pop(0)] if op == "BiasAdd" else [previous]
        parts.append({"name": name, "op": op, "input": inputs, "attr": {"T": attributes["T"]}})
    return parts
