"""Finds the images that a removal names, and all others that are the same: by address and body, and where asked by
what is seen on them."""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from laion_people.errors import UsageError
from laion_people.removal.images import Image, ShardFiles, columns, images_in, shard_files
from laion_people.removal.index import Entries, Index
from laion_people.removal.looks import looks_in, near
from laion_people.removal.names import PERSON, SAMPLE, Names
from laion_people.storage.layout import PartitionKey, parse_shard, shard_name
from laion_people.storage.origin import made_elsewhere
from laion_people.storage.removals import Removed
from laion_people.storage.store import Store

log = logging.getLogger(__name__)

PARTITIONS_AT_ONCE = 8
SHARDS_IN_MIND = 64
Place = tuple[str, int]  # partition and shard


@dataclass(slots=True)
class Found:
    """Images by their shards, and the looks of those that were named, or are the same as these."""

    images: dict[Place, set[Image]] = field(default_factory=lambda: defaultdict(set))
    looks: set[int] = field(default_factory=set)

    def every(self) -> list[Image]:
        return [image for images in self.images.values() for image in images]


class Finder:
    """Finds images in some partitions of a store."""

    def __init__(self, store: Store, partitions: Sequence[str]):
        self.store, self.partitions = store, list(partitions)
        self._shards: dict[str, dict[int, ShardFiles]] = {}
        self._indexes: dict[tuple[str, str], Index] = {}
        self._images = lru_cache(SHARDS_IN_MIND)(self._images_in)

    def find(self, names: Names, removed: Removed, again: bool = False) -> Found:
        """The images that are named, and those of the same address or body as one of them; where it is asked for, also
        those that look like them. Raises UsageError for an id or a picture that is like nothing in the store, unless
        it was ``removed`` before; ``again``: just these names were."""
        found = Found()
        for sample in names.samples:
            place, images = self._sample(sample)
            if not images and not removed.has_sample(sample):
                raise UsageError("nothing-to-remove", f"{sample}: there is no such image in the store")
            found.images[place] |= images
        for person in names.persons:
            place, images = self._sample(PERSON.sub(r"\1", person))
            if not removed.has_person(person) and not (images and self._has_person(place, person)):
                raise UsageError("nothing-to-remove", f"{person}: there is no such person in the store")
            found.images[place] |= images
        self._add_same(found, names)
        missing = names.sample_ids - {image.sample_id for image in found.every()}
        if missing and not again:
            raise UsageError(
                "nothing-to-remove", f"sample {min(missing)}: there is no such image in the store, or no longer"
            )
        found.looks = {looks for place, images in found.images.items() for looks in self._looks(place, images)}
        wanted = names.phashes | (found.looks if names.keep_out_near else set())
        if wanted:
            self._add_near(found, wanted, names.bits)
            self._add_same(found, names)
        if names.phashes and not found.images and not names.keep_out_near and not again:
            raise UsageError(
                "nothing-to-remove", f"no picture of the store is within {names.bits} bits of the given one"
            )
        found.looks |= names.phashes
        found.images = {place: images for place, images in found.images.items() if images}
        return found

    def _add_same(self, found: Found, names: Names) -> None:
        """Adds all images of an address, body or number that is named, or that one of the images found has."""
        urls, pictures, ids = set(names.urls), set(names.pictures), set(names.sample_ids)
        new, looked_up = found.every(), set[str]()
        while True:
            urls |= {image.url for image in new if image.url}
            pictures |= {image.sha256 for image in new if image.sha256}
            wanted = _keys(urls, pictures, ids) - looked_up
            if not wanted:
                return
            looked_up |= wanted
            new = []
            for place in self._places(wanted):
                same = {
                    image
                    for image in self._images(*place)
                    if image.url in urls or image.sha256 in pictures or image.sample_id in ids
                }
                new += same - found.images[place]
                found.images[place] |= same

    def _add_near(self, found: Found, looks: Collection[int], bits: int) -> None:
        """Adds all images that look like one of these."""
        for partition in self.partitions:
            shards = self.files(partition)
            for records in self._index(partition, "phashes", self._hashes).all():
                alike = set(records["shard"][near(records["name"], looks, bits)].tolist())
                for index in sorted(alike & shards.keys()):
                    of_shard = looks_in(self.store, shards[index])
                    hashes = np.fromiter(of_shard.values(), np.uint64, len(of_shard))
                    keys = set(itertools.compress(of_shard, near(hashes, looks, bits)))
                    named = {image for image in self._images(partition, index) if image.key in keys}
                    found.images[partition, index] |= named | {Image(key) for key in keys - {i.key for i in named}}

    def _looks(self, place: Place, images: Collection[Image]) -> set[int]:
        partition, index = place
        return set(looks_in(self.store, self.files(partition)[index], {image.key for image in images}).values())

    def files(self, partition: str) -> dict[int, ShardFiles]:
        """The shards of a partition."""
        if partition not in self._shards:
            self._shards[partition] = shard_files(self.store, partition, made_elsewhere(self.store, partition))
        return self._shards[partition]

    def _sample(self, sample: str) -> tuple[Place, set[Image]]:
        match = SAMPLE.fullmatch(sample)
        assert match
        partition, index, key = match[1], parse_shard(match[2]), match[3]
        assert index is not None
        images: set[Image] = set()
        if partition in self.partitions and index in self.files(partition):
            images = {image for image in self._images(partition, index) if image.key == key}
        return (partition, index), images

    def _has_person(self, place: Place, person: str) -> bool:
        people = self.files(place[0])[place[1]].people
        return bool(people) and person in columns(self.store, people, ["person_id"])["person_id"].to_pylist()

    def _places(self, wanted: Collection[str]) -> Iterator[Place]:
        """The shards in which something of this may be."""
        names = np.array([_hashed(key) for key in wanted], np.uint64)

        def shards(partition: str) -> list[Place]:
            named = self._index(partition, "names", self._entries).shards(names)
            return [(partition, index) for index in sorted(named & self.files(partition).keys())]

        with ThreadPoolExecutor(PARTITIONS_AT_ONCE) as pool:
            yield from itertools.chain.from_iterable(pool.map(shards, self.partitions))

    def _index(self, partition: str, kind: str, entries: Entries) -> Index:
        if (partition, kind) not in self._indexes:
            shards = self.files(partition).values()
            self._indexes[partition, kind] = Index(self.store, partition, kind, shards, entries)
        return self._indexes[partition, kind]

    def _hashes(self, shard: ShardFiles) -> np.ndarray:
        return np.array(list(looks_in(self.store, shard).values()), np.uint64)

    def _entries(self, shard: ShardFiles) -> np.ndarray:
        images = images_in(self.store, shard)
        keys = _keys(
            (image.url for image in images if image.url),
            (image.sha256 for image in images if image.sha256),
            (image.sample_id for image in images if image.sample_id is not None),
        )
        return np.fromiter(map(_hashed, keys), np.uint64, len(keys))

    def _images_in(self, partition: str, index: int) -> list[Image]:
        return images_in(self.store, self.files(partition)[index])


def partitions_of(store: Store) -> list[str]:
    """All partitions that the store has images or people of."""
    found = set()
    for table in ("images", "people"):
        for collection in store.folders(table):
            found |= {f"{collection}/{part}" for part in store.folders(f"{table}/{collection}")}
    return sorted(key for key in found if PartitionKey.pattern.fullmatch(key))


def sample_of(place: Place, key: str) -> str:
    """``<partition>/<shard>/<key>``."""
    return f"{place[0]}/{shard_name(place[1])}/{key}"


def _keys(urls: Iterable[str], pictures: Iterable[str], sample_ids: Iterable[int]) -> set[str]:
    """What the index knows addresses, bodies and ids by."""
    named = (("url", urls), ("sha256", pictures), ("sample", sample_ids))
    return {f"{kind} {value}" for kind, values in named for value in values}


def _hashed(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode(errors="replace")).digest()[:8])
