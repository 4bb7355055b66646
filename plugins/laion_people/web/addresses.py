"""What addresses of the browsers hold: partitions, versions, and filters that come from plain GET forms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import Depends, HTTPException, Path
from pydantic import BaseModel, BeforeValidator, Field, FiniteFloat

from laion_people.errors import UsageError, coded
from laion_people.storage.layout import ClusterVersion, PartitionKey

PAGE_ROWS = 24  # divided by 2, 3, 4 and 6: the columns of the grids


def partition_key(collection: str, part: str) -> str:
    try:
        return PartitionKey.parse(f"{collection}/{part}")
    except UsageError as error:
        raise HTTPException(404, str(error)) from error


def _none_if_blank(value: Any) -> Any:
    return None if value == "" else value


Partition = Annotated[str, Depends(partition_key)]
Version = Annotated[str, Path(pattern=rf"^{ClusterVersion.pattern.pattern}$")]
ClusterId = Annotated[str, Path(pattern=r"^(pose|face|head)-[0-9]{1,9}$")]
MaybeNumber = Annotated[FiniteFloat | None, BeforeValidator(_none_if_blank)]
MaybeShard = Annotated[Annotated[int, Field(ge=0, lt=10**9)] | None, BeforeValidator(_none_if_blank)]
Text = Annotated[str, Field(max_length=200)]
MaybeVersion = Annotated[str, Field(pattern=rf"^({ClusterVersion.pattern.pattern})?$")]
MaybePartition = Annotated[str, Field(pattern=rf"^({PartitionKey.pattern.pattern})?$")]
MaybeCluster = Annotated[str, Field(pattern=r"^((pose|face|head)-[0-9]{1,9})?$")]
AnyKind = Literal["", "pose", "face", "head"]


class Filters(BaseModel):
    """The filters of a browser and the page that is shown; page 0 is the last. Blank fields count as unset."""

    shard: MaybeShard = None
    page: Annotated[int, Field(ge=0, lt=10**9)] = 1

    def query(self, **changes: Any) -> str:
        """The query string of the same page with some changes; what is as by default is left out."""
        changed = self.model_copy(update=changes).model_dump(exclude_defaults=True)
        return urlencode({k: v for k, v in changed.items() if v not in (None, "")}, doseq=True)

    @property
    def filtered(self) -> bool:
        """Whether anything but the page has been chosen."""
        return bool(self.query(shard=None, page=1))


@dataclass(frozen=True, slots=True)
class Pages:
    """Where a page is among those of its shard, and its shard among those of the partition.

    ``previous`` and ``next`` are (shard, page), None at the ends; at the end of a shard the next one begins.
    """

    shard: int
    shards: list[int]
    page: int
    pages: int
    matching: int
    rows: int

    @property
    def span(self) -> slice:
        return slice((self.page - 1) * PAGE_ROWS, self.page * PAGE_ROWS)

    @property
    def previous(self) -> tuple[int, int] | None:
        if self.page > 1:
            return self.shard, self.page - 1
        at = self.shards.index(self.shard)
        return (self.shards[at - 1], 0) if at else None

    @property
    def next(self) -> tuple[int, int] | None:
        if self.page < self.pages:
            return self.shard, self.page + 1
        at = self.shards.index(self.shard) + 1
        return (self.shards[at], 1) if at < len(self.shards) else None


def paged(filters: Filters, shards: list[int], matching: int, rows: int) -> Pages:
    """The page that is asked for, or the last one if there are fewer; ``matching`` of the shard's ``rows`` match."""
    pages = max(1, -(-matching // PAGE_ROWS))
    page = min(filters.page, pages) or pages
    return Pages(chosen_shard(filters, shards), shards, page, pages, matching, rows)


def chosen_shard(filters: Filters, shards: list[int]) -> int:
    """The shard that is asked for, or the first. Raises HTTPException 404 when there is none such."""
    shard = shards[0] if filters.shard is None else filters.shard
    if shard not in shards:
        raise HTTPException(
            404,
            coded("no-such-page", f"There is no shard {shard:05d}: there are {len(shards)}, from {shards[0]:05d} on."),
        )
    return shard
