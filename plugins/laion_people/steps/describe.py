"""describe: Subset D (experimental), captions that a captioner draws for each person. CLIP chooses from them, or the
captioner itself, which is asked of each whether the image shows it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np

from include.models import Clip
from laion_people.engine.catalog import OF_SUBSETS, STEPS
from laion_people.engine.step import Row, Step
from laion_people.engine.work import Shard
from laion_people.settings import Settings
from laion_people.vision.images import crop
from laion_people.vision.people import boxes, by_people

SCORES = {"clip": ("similarity", "scores"), "vqa": ("vqa_score", "vqa_scores")}  # of the best, of all candidates


class Describe(Step):
    """One row for each person with a description that fits: the candidate that the scorer gives the highest score, if
    that is greater than the scorer's threshold. Others are rejected as ``below_threshold``, or as ``no_caption`` where
    the captioner gave no words.
    """

    entry = STEPS["describe"]
    reasons: ClassVar[Mapping[str, str]] = {
        "no_caption": "the captioner had nothing to say",
        "below_threshold": "the best description does not fit the crop: its score is not above the threshold",
    }

    def params(self, settings: Settings) -> dict[str, Any]:
        return {
            "crop_padding": settings.crop_padding,
            "candidates": settings.description_candidates,
            "threshold": _threshold(settings),
            "seed": settings.seed,
        } | ({} if settings.description_scorer == "clip" else {"scorer": settings.description_scorer})

    def apply(self, shard: Shard) -> Iterator[Row]:
        people, settings = shard.table("people"), shard.settings
        columns = {name: people[name].to_pylist() for name in ("person_id", *OF_SUBSETS)}
        all_boxes, padding = boxes(people), settings.crop_padding
        threshold = np.float32(_threshold(settings))  # as stored beside the float32 scores
        captioner, clip = shard.model("captioner"), shard.model("clip")
        highest, of_all_candidates = SCORES[settings.description_scorer]
        shard.rows_in = len(all_boxes)

        def describe(images: list[np.ndarray], rows: list[slice]) -> list[list[Row]]:
            crops = [crop(image, box, padding) for image, r in zip(images, rows, strict=True) for box in all_boxes[r]]
            drawn = captioner.describe(crops, settings.description_candidates, _seed(shard, rows[0].start))
            scored = _scored(clip, crops, drawn)
            if settings.description_scorer == "vqa":
                asked = captioner.vqa_scores(crops, [of_one["candidates"] for of_one in scored])
                scored = [of_one | {"vqa_scores": scores} for of_one, scores in zip(scored, asked, strict=True)]
            each = iter(scored)
            return [[next(each) for _ in range(r.start, r.stop)] for r in rows]

        of_all = {"captioner": captioner.name, "clip_model": clip.name, "threshold": threshold}
        for rows, described in by_people(shard, people["key"].to_pylist(), describe):
            for row, scored in zip(range(rows.start, rows.stop), described, strict=True):
                scores = scored[of_all_candidates]
                if not len(scores):
                    shard.reject("no_caption")
                elif scores.max() <= threshold:
                    shard.reject("below_threshold")
                else:
                    chosen = int(scores.argmax())
                    best = {"caption": scored["candidates"][chosen], "similarity": scored["scores"][chosen]}
                    best |= {highest: scores[chosen]}
                    yield {name: column[row] for name, column in columns.items()} | scored | best | of_all


def _threshold(settings: Settings) -> float:
    """What the score that picks must exceed: a cosine similarity, or a probability."""
    return (
        settings.description_threshold if settings.description_scorer == "clip" else settings.description_vqa_threshold
    )


def _seed(shard: Shard, row: int) -> int:
    """A seed for the batch that begins with this row of the shard; the same on every machine and in every run."""
    digest = hashlib.sha256(f"{shard.settings.seed}/{shard.id}/{row}".encode()).digest()
    return int.from_bytes(digest[:6])


def _scored(clip: Clip, crops: list[np.ndarray], drawn: list[list[str]]) -> list[Row]:
    """For each crop the different captions, ``candidates``, and their similarities with the crop, ``scores``."""
    candidates = [list(dict.fromkeys(filter(None, captions))) for captions in drawn]
    texts = list(dict.fromkeys(text for of_one in candidates for text in of_one))
    of_text = dict(zip(texts, clip.encode_texts(texts), strict=True))
    return [
        {"candidates": of_one, "scores": np.array([of_text[text] @ image for text in of_one], np.float32)}
        for of_one, image in zip(candidates, clip.encode_images(crops), strict=True)
    ]
