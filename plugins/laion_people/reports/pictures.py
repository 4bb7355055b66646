"""Pictures of the report, which are part of its page, and the images of tars that they are made from."""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Iterator

import numpy as np
from PIL import Image

from laion_people.errors import LaionPeopleError
from laion_people.reports.figures import Figure
from laion_people.storage.store import Store
from laion_people.vision.images import ImageError, decode, samples


def picture(image: Image.Image, label: str, size: int) -> Figure:
    """A picture without marks, of at most ``size`` pixels a side."""
    small = shrunk(image, size)
    return Figure(data_uri(small), *small.size, label)


def shrunk(image: Image.Image, size: int) -> Image.Image:
    """An image of at most ``size`` pixels a side."""
    image = image.copy()
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
    return image


def data_uri(image: Image.Image) -> str:
    """An image as WebP."""
    file = io.BytesIO()
    image.save(file, "WEBP", quality=80, method=4)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def tar_images(store: Store, tar: str, keys: Collection[str]) -> Iterator[tuple[str, np.ndarray]]:
    """The images of these keys, in the order of the tar. Raises LaionPeopleError when one is missing or damaged."""
    left = set(keys)
    with store.local(tar) as path:
        for sample in samples(path) if left else ():
            if sample.key in left:
                left.remove(sample.key)
                try:
                    yield sample.key, np.asarray(decode(sample.image, limited=False))
                except ImageError as error:
                    raise LaionPeopleError("lost-image", f"{tar}: {sample.key} cannot be decoded ({error})") from error
                if not left:
                    return
    if left:
        raise LaionPeopleError("lost-image", f"{tar}: {min(left)} is missing: run again the step that writes it")
