"""Image-to-text models of the Hugging Face hub, such as BLIP, GIT or a ViT with GPT-2, and image-text-to-text models,
which follow a prompt, such as Qwen2-VL, SmolVLM or LLaVA; both from a local folder."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import TemplateError
from PIL import Image
from safetensors import SafetensorError

import include.models.torchvision_cpu  # noqa: F401  (must come before transformers, which imports torchvision)
from include.models.errors import ModelError, ModelUsageError
from include.models.placement import Placement
from include.models.sampling import MAX_TOKENS, Sampler, seeded, whole_sentences
from include.models.statedict import SHORTAGES

from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer  # isort: skip

# Not used for captions. Every VisionEncoderDecoderModel has it, but not all of their checkpoints
# (https://github.com/huggingface/transformers/issues/14017).
UNUSED = "encoder.pooler."
LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
# Of what goes with a prompt: processors take images of four rows and fewer for channels first, and Qwen2-VL's refuses
# sides beyond 200 to 1.
LEAST_SIDE, MOST_RATIO = 8, 100
# What transformers raises for a folder: RuntimeError where its parts have other shapes than each other.
UNUSABLE = (
    *(OSError, ValueError, TypeError, LookupError, AttributeError, ImportError, RuntimeError),
    *(TemplateError, SafetensorError),
)
YES = [space + word for space in ("", " ") for word in ("Yes", "yes", "YES")]
PROMPTED_TOKENS = 60  # of a caption: two sentences, and as much as a CLIP reads


class ImageToText(Sampler):
    """A captioner that needs no prompt; captions are drawn by nucleus sampling. May be called from several threads."""

    def __init__(
        self,
        folder: Path,
        *,
        model: str,
        precision: str,
        device: str = "auto",
        batch_size: int = 16,
        threads: int | None = None,
    ) -> None:
        """Opens the model in ``folder``, a snapshot of its repository with weights as safetensors. Nothing is fetched,
        and code of the repository is not run.

        model: the repository's name, written with every caption; precision, device: see ``placement.place``;
        batch_size: images a pass, at most; captions are drawn for a whole batch, so it decides results; threads:
        default all cores.

        Raises ModelError if the folder holds no such model, or not all of its weights; ModelUsageError for a model that
        needs a prompt.
        """
        super().__init__(device, precision, batch_size, threads)
        self.name = model
        with _opening(folder):
            self._processor = AutoImageProcessor.from_pretrained(folder, use_fast=False, **LOCAL)
            self._tokenizer = AutoTokenizer.from_pretrained(folder, **LOCAL)
        if self._tokenizer.chat_template or any(folder.glob("chat_template*")):
            raise ModelUsageError(
                "bad-profile", f"{model} follows a prompt: take the wrapper huggingface.ImageTextToText, with one"
            )
        self._model = _model(folder, self._placement)

    def _prepare(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        # Else it takes images of one or three rows for channels first.
        read = self._processor(images=list(images), input_data_format="channels_last", return_tensors="pt")
        return read["pixel_values"].to(self._placement.device, self._placement.dtype)

    def _draw(self, pixels: torch.Tensor, candidates: int) -> list[str]:
        tokens = self._generate(self._model, {"pixel_values": pixels}, candidates, MAX_TOKENS)
        return self._tokenizer.batch_decode(tokens, skip_special_tokens=True)


class ImageTextToText(Sampler):
    """A captioner that is told what to say; captions are drawn by nucleus sampling. May be called from several
    threads."""

    def __init__(
        self,
        folder: Path,
        *,
        model: str,
        prompt: str,
        precision: str,
        device: str = "auto",
        batch_size: int = 8,
        max_tokens: int = PROMPTED_TOKENS,
        question: str = "",
        threads: int | None = None,
    ) -> None:
        """Opens the model in ``folder``, as `ImageToText` does.

        prompt: the user's text beside each image, which the model's own chat template puts into its words; max_tokens:
        of a caption; what the limit cuts off is left out from the last whole sentence on; question: what is asked for
        `vqa_scores`, with ``{text}`` in it. The other parameters are those of `ImageToText`.

        Raises ModelError if the folder holds no such model, or not all of its weights; ModelUsageError for a model
        without a chat template, and for a question to a model whose tokens know no yes.
        """
        super().__init__(device, precision, batch_size, threads)
        self.name, self._prompt, self._max_tokens, self._question = model, prompt, max_tokens, question
        with _opening(folder):
            self._processor: Any = AutoProcessor.from_pretrained(folder, **LOCAL)
            if not getattr(self._processor, "chat_template", None):
                raise ModelUsageError(
                    "bad-profile", f"{model} has no chat template, and takes no prompt: choose a model that has one"
                )
            self._tokenizer = self._processor.tokenizer
            self._tokenizer.padding_side = "left"  # a caption begins where its prompt ends
            self._tokenizer.pad_token = self._tokenizer.pad_token or self._tokenizer.eos_token
            spellings = [self._tokenizer.encode(text, add_special_tokens=False) for text in YES]
            special = sorted(filter(None, self._tokenizer.get_added_vocab()), reverse=True)  # <ab> before <a
        self._yes = sorted({tokens[0] for tokens in spellings if len(tokens) == 1})
        if question and not self._yes:
            raise ModelUsageError("bad-profile", f"{model} has no token for yes: leave out its question")
        self._special = re.compile("|".join(map(re.escape, special)) or "(?!)")
        self._model = _model(folder, self._placement)
        with _opening(folder):  # a template may fail, or leave out the image: better said before the work begins
            list(self._batches.map(self._try, [np.zeros((64, 64, 3), np.uint8)]))

    @torch.inference_mode()
    def _try(self, images: Sequence[np.ndarray]) -> None:
        self._generate(self._model, self._prepare(images), 1, 1)

    def _asked(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> Mapping[str, torch.Tensor]:
        """The model's input: one image and one prompt a row, padded on the left."""
        conversations = [
            [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": prompt}]}]
            for image, prompt in zip(map(_picture, images), prompts, strict=True)
        ]
        options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "padding": True}
        read = self._processor.apply_chat_template(conversations, add_generation_prompt=True, **options)
        return read.to(self._placement.device, self._placement.dtype)

    def _prepare(self, images: Sequence[np.ndarray]) -> Mapping[str, torch.Tensor]:
        return self._asked(images, [self._prompt] * len(images))

    def _draw(self, inputs: Mapping[str, torch.Tensor], candidates: int) -> list[str]:
        tokens = self._generate(self._model, inputs, candidates, self._max_tokens)
        if not self._model.config.is_encoder_decoder:
            tokens = tokens[:, inputs["input_ids"].shape[1] :]  # it repeats the prompt
        ends = self._model.generation_config.eos_token_id  # one, several or none
        ended = torch.isin(tokens, torch.tensor([] if ends is None else ends, device=tokens.device)).any(1).tolist()
        texts = self._tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [text if whole else whole_sentences(text) for text, whole in zip(texts, ended, strict=True)]

    @torch.inference_mode()
    def vqa_scores(self, images: Sequence[np.ndarray], texts: Sequence[Sequence[str]]) -> list[np.ndarray]:
        """For each image and each of its texts the probability that the answer to the question begins with yes, in any
        spelling: float32 [texts].

        Raises ModelUsageError if the profile has no question, or the precision is too small for the model.
        """
        if not self._question:
            raise ModelUsageError("bad-profile", f"{self.name} is asked nothing: its profile has no question")
        pairs = [(image, text) for image, of_one in zip(images, texts, strict=True) for text in of_one]
        scores = np.concatenate([np.empty(0, np.float32), *self._batches.map(self._ask, pairs)])
        if not np.isfinite(scores).all():
            raise ModelUsageError(
                "bad-device", f"{self.name} leaves the range of its precision: set LAION_PEOPLE_PRECISION=bf16, or fp32"
            )
        each = iter(scores)
        return [np.fromiter(itertools.islice(each, len(of_one)), np.float32) for of_one in texts]

    def _ask(self, pairs: Sequence[tuple[np.ndarray, str]]) -> np.ndarray:
        images, texts = zip(*pairs, strict=True)
        # A text that spells a token of the model's own would be read as that, one of an image above all.
        plain = [self._special.sub(" ", text) for text in texts]
        inputs = self._asked(images, [self._question.replace("{text}", text) for text in plain])
        options = {"max_new_tokens": 1, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
        with seeded(0, self._placement.device):  # nothing is drawn; but models keep positions between their steps
            answered = self._model.generate(**inputs, **options)
        return answered.logits[0].float().softmax(-1)[:, self._yes].sum(-1).cpu().numpy()


def _picture(image: np.ndarray) -> Image.Image:
    """The image, of which a thin one is made wider by repeating its edge."""
    least = max(LEAST_SIDE, -(-max(image.shape[:2]) // MOST_RATIO))
    lacking = [max(0, least - side) for side in image.shape[:2]]
    return Image.fromarray(np.pad(image, [*((n // 2, n - n // 2) for n in lacking), (0, 0)], mode="edge"))


@contextmanager
def _opening(folder: Path) -> Iterator[None]:
    """Makes one ModelError of what transformers raises for a folder that is incomplete, wrong or hostile, has code of
    its own, or needs a package that is not there."""
    try:
        yield
    except UNUSABLE as error:
        if getattr(error, "errno", None) in SHORTAGES:
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise ModelError(
            "wrong-weights", f"{folder} holds no image-to-text model with safetensors that can be used: {reason}"
        ) from error


def _model(folder: Path, placement: Placement) -> Any:
    """The model of a folder on its device, in evaluation mode."""
    with _opening(folder):
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            folder,
            use_safetensors=True,
            dtype=placement.dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported like missing ones, instead of a long error
            **LOCAL,
        )
    opened, loading = loaded
    # Lacking weights are random now. Weights stored once and used twice are not reported as missing.
    lacking = [key for key in loading["missing_keys"] + loading["mismatched_keys"] if not key.startswith(UNUSED)]
    if lacking:
        raise ModelError(
            "wrong-weights",
            f"{folder} holds not all weights of its model: {len(lacking)} are missing or of another shape, the "
            f"first is {lacking[0]}; choose another model or revision",
        )
    return opened.to(placement.device).eval()
