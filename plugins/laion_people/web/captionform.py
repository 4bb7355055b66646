"""The form of a cluster's captions: what was typed, what it claims, and what is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest
from typing import Annotated

from fastapi import Form

from laion_people.language import captions
from laion_people.language.captions import Entry
from laion_people.language.suggestions import suggested_claims

SPARE = 2  # empty fields at the end of the form, for those without scripts
Texts = Annotated[list[str], Form(default_factory=list, max_length=200)]


@dataclass(frozen=True, slots=True)
class Line:
    """A caption of the form, with what it claims as typed ("base=sitting, left_arm=raised").

    ``seen`` and ``said``: the caption and the claims that its editor has last seen together.
    """

    text: str
    claims: str
    seen: str
    said: str

    @property
    def stale(self) -> bool:
        """Whether the caption is another one since, and the claims are still the old one's."""
        return self.text != self.seen and self.parsed == _parsed(self.said)

    @property
    def parsed(self) -> tuple[str, ...]:
        return _parsed(self.claims)

    @property
    def fault(self) -> str:
        """What is wrong with it; an empty line is left out."""
        return self.text and (captions.caption_fault(self.text) or captions.claims_fault(self.parsed))

    def settled(self) -> Line:
        """The line with claims that are its own: if they are stale, those that its words suggest."""
        return _line(self.text, suggested_claims(self.text)) if self.stale else self


def _line(text: str = "", claims: tuple[str, ...] = ()) -> Line:
    said = ", ".join(claims)
    return Line(text, said, text, said)


def _parsed(claims: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(claims.replace(",", " ").split()))


@dataclass(frozen=True, slots=True)
class Typed:
    """A form that was refused: what was typed, the tag of the entry that its editor has seen, and why."""

    lines: list[Line]
    reviewed: bool
    tag: str
    refused: str


def lines_of(entry: Entry) -> list[Line]:
    """A line for each caption of an entry."""
    return [*map(_line, entry.captions, entry.claims)]


def spare_lines() -> list[Line]:
    return [_line()] * SPARE


def read_lines(caption: list[str], claims: list[str], seen: list[str], said: list[str]) -> list[Line]:
    """The lines of a form that was sent, empty ones too; fields that are missing count as empty."""
    columns = ([text.strip() for text in column[: len(caption)]] for column in (caption, claims, seen, said))
    return [Line(*fields) for fields in zip_longest(*columns, fillvalue="")]


def fault(lines: list[Line]) -> str:
    """What is wrong with the captions of a form together; "" when nothing is."""
    given = [line for line in lines if line.text]
    return captions.fault([line.text for line in given], [line.parsed for line in given])
