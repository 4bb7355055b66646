"""Candidate captions of a cluster version: ``clusters/<version>/captions.yaml``, edited by hand or on the page.

The file decides; ``clusters.parquet`` has its content from the last run of `label`::

    entries = captions.read(store, "v0001")           # cluster -> Entry
    entry = entries["pose-0001"]
    captions.fault(texts)                             # "", or a sentence on what is wrong
    captions.edit(store, "v0001", "pose-0001", texts, claims, reviewed=True, by="anna", tag=entry.tag)

A caption is a text, or one of several texts that claim the same facts (see `laion_people.language.facts`)::

    - claims: [base=sitting, left_arm=raised]
      texts: [Someone sits with the left hand up., ...]

``entry.tag`` tells `edit` which state of the entry the editor has seen: an entry that has changed is not overwritten.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, replace
from datetime import UTC, date, datetime
from itertools import groupby, pairwise, takewhile
from typing import Any

import yaml

from laion_people.errors import LaionPeopleError, one_line
from laion_people.language.facts import known
from laion_people.language.wordgate import blocked
from laion_people.storage.layout import ClusterVersion, cluster_path
from laion_people.storage.store import Store

FEWEST, MOST = 5, 50  # captions of a cluster that has any
MOST_CLAIMS = 20  # of a caption; a person has fewer facts of one kind
DEEPEST = 10  # nested lists and mappings; five are needed
MOST_BYTES = 1 << 26  # of the file; 768 clusters, each with 50 captions of 300 letters, have 12 million
MOST_NODES = 500_000  # texts, lists and mappings of the file, with every alias written out
LONGEST_TEXT = 10_000  # letters of any text: YAML reads long numbers in quadratic time
MERGE = "tag:yaml.org,2002:merge"
TEXTS = ("by", "at", "note", "made")  # fields of an entry that are texts
FIELDS = {"reviewed", *TEXTS, "captions"}
LONGEST = 300  # letters of a caption: about the 77 tokens that CLIP reads
Claims = tuple[str, ...]
HEADER = f"""\
# Candidate captions of the clusters of version %s. Edit them as you like: what stands here is never overwritten.
# Set "reviewed: true" on clusters that you have looked at (contact-<cluster>.jpg shows them), then run `label` again,
# which checks the captions and puts them into clusters.parquet. Each cluster needs {FEWEST} different ones, or none;
# words about clothes, colours, age, gender, looks and the like are refused. A cluster deleted here gets new ones.
# "claims" are the facts that all texts below them state: a person whose facts do not bear them out gets none of these.
# A caption that stands alone claims nothing, is not checked, and is only for those of whom no other holds.
# "by" and "at" say who edited a cluster last, and when. Later versions take over what people have edited; captions that
# are as `label` made them, by which "made" knows them, are made anew there.
"""
# The same safe types as yaml.safe_load, ten times as fast where PyYAML comes with libyaml.
SAFE_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Entry:
    """The file's entry of a cluster.

    by, at: who edited it last, and when (ISO 8601, UTC); empty if unknown. note: for the next person who looks at it.
    claims: those of each caption; none if not given. made: the `words` as `label` made them; empty if it did not.
    """

    captions: tuple[str, ...]
    reviewed: bool = False
    by: str = ""
    at: str = ""
    note: str = ""
    claims: tuple[Claims, ...] = ()
    made: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "claims", self.claims or ((),) * len(self.captions))

    @property
    def signed(self) -> bool:
        """Whether a person has reviewed or edited it."""
        return self.reviewed or bool(self.by)

    @property
    def words(self) -> str:
        """A digest that changes with the captions and their claims."""
        return _digest((self.captions, self.claims))

    def as_made(self) -> Entry:
        """The entry, marked as made by `label`."""
        return replace(self, made=self.words)

    @property
    def tag(self) -> str:
        """A digest that changes with the entry."""
        return _digest(astuple(self))


def _digest(value: Any) -> str:
    return hashlib.sha256(repr(value).encode(errors="surrogatepass")).hexdigest()[:32]


def captions_path(version: str) -> str:
    """The file of a cluster version. Raises LaionPeopleError if the name is not one of a version."""
    if not ClusterVersion.pattern.fullmatch(version):
        raise LaionPeopleError(
            "unknown-version", f"there is no cluster version {version!r}: they are called v0001, v0002, ..."
        )
    return cluster_path(version, "captions.yaml")


def read(store: Store, version: str) -> dict[str, Entry]:
    """The entries by cluster, in the file's order. Their captions may have faults: see `fault`.

    Raises LaionPeopleError, naming file and cluster, if the file is missing or cannot be understood.
    """
    return read_file(store, captions_path(version))


def read_file(store: Store, path: str) -> dict[str, Entry]:
    """As `read`, for any file of the store that is written like captions.yaml."""
    data = None
    if store.exists(path):
        with store.open(path) as file:
            data = file.read(MOST_BYTES + 1)
    return _parse(path, _text(path, data))


def fault(captions: Sequence[str], claims: Sequence[Claims] = ()) -> str:
    """What is wrong with the captions of a cluster and their claims, or "". No captions at all are fine."""
    for reason in (*map(caption_fault, captions), *map(claims_fault, claims)):
        if reason:
            return reason
    if not captions:
        return ""
    if len({" ".join(c.casefold().split()) for c in captions}) < max(FEWEST, len(captions)):
        return f"there should be {FEWEST} or more captions, all different, or none"
    return f"there should be {MOST} captions at most" if len(captions) > MOST else ""


def caption_fault(caption: str) -> str:
    """What is wrong with one caption, or ""."""
    shown = repr(caption if len(caption) <= LONGEST else f"{caption[:40]}...")
    if not caption.strip():
        return "a caption is empty"
    if len(caption) > LONGEST:
        return f"{shown} has {len(caption)} letters: a caption has {LONGEST} at most"
    if not caption.isprintable():
        return f"{shown} has line breaks, control or invisible characters: a caption is one line of plain text"
    if refused := blocked(caption):
        return f"{shown} has the word {refused[0]!r} ({refused[1]}): captions may not speak of that"
    return ""


def claims_fault(claims: Claims) -> str:
    """What is wrong with the claims of a caption, or ""."""
    if wrong := [claim for claim in claims if not known(claim)]:
        return f"{one_line(wrong[0], 40)!r} is no claim: they are like base=sitting, and docs/facts.md lists them"
    return f"a caption should claim {MOST_CLAIMS} facts at most" if len(claims) > MOST_CLAIMS else ""


def edit(
    store: Store,
    version: str,
    cluster_id: str,
    captions: Sequence[str],
    claims: Sequence[Claims] = (),
    *,
    reviewed: bool,
    by: str,
    tag: str,
) -> None:
    """Replaces a cluster's captions and their claims; the rest of the file stays, with comments and order.

    Raises LaionPeopleError for captions with a fault, an unknown cluster, or an entry that no longer has this ``tag``.
    """
    captions = tuple(caption.strip() for caption in captions)
    if reason := fault(captions, claims):
        raise LaionPeopleError("bad-caption", f"{cluster_id}: {reason}")
    path = captions_path(version)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    entry = Entry(captions, reviewed, by, now, claims=tuple(map(tuple, claims)))

    def edited(before: bytes | None) -> bytes:
        text = _text(path, before)
        entries = _parse(path, text)
        if cluster_id not in entries:
            raise LaionPeopleError("unknown-cluster", f"there is no cluster {cluster_id} in version {version}")
        if entries[cluster_id].tag != tag:
            who = entries[cluster_id].by or "somebody"
            raise LaionPeopleError(
                "edited-meanwhile", f"{who} has edited {cluster_id} meanwhile: look at it again, then repeat your edit"
            )
        return _replace_entries(path, text, {cluster_id: entry}).encode()

    store.update(path, edited)


def put(store: Store, version: str, entries: Mapping[str, Entry], seen: Mapping[str, Entry] | None = None) -> None:
    """Replaces entries of the file, or adds them at its end. Makes the file if there is none.

    An entry that differs from ``seen`` (the entries when they were read) was edited meanwhile, and stays.
    """
    path = captions_path(version)

    def with_entries(before: bytes | None) -> bytes:
        text = HEADER % version if before is None else _text(path, before)
        now = _parse(path, text)
        kept = {name for name in entries if seen is not None and now.get(name) != seen.get(name)}
        return _replace_entries(
            path, text, {name: entry for name, entry in entries.items() if name not in kept}
        ).encode()

    store.update(path, with_entries)


def _text(path: str, data: bytes | None) -> str:
    """The text of a file. Raises LaionPeopleError if it is missing, too large or not UTF-8."""
    if data is None:
        raise LaionPeopleError("outdated-labels", f"{path} is missing: run `label` first")
    if len(data) > MOST_BYTES:
        raise LaionPeopleError(
            "captions-file", f"{path} is larger than {MOST_BYTES >> 20} MB: is it a file of captions?"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LaionPeopleError("captions-file", f"{path} is not UTF-8 text: {error}") from error


def _parse(path: str, text: str) -> dict[str, Entry]:
    loader = SAFE_LOADER(text)
    try:
        _check_size(path, text)
        root = loader.get_single_node()
        fields = loader.construct_document(root) if root else {}
    except (yaml.YAMLError, ValueError) as error:
        raise LaionPeopleError("captions-file", f"{path} is not YAML: {' '.join(str(error).split())}") from error
    finally:
        loader.dispose()
    if not isinstance(fields, dict) or not all(isinstance(cluster_id, str) for cluster_id in fields):
        raise LaionPeopleError("captions-file", f"{path} should name clusters, each with reviewed and captions")
    names = Counter(key.value for key, _ in root.value) if root else Counter()
    if twice := [name for name, count in names.items() if count > 1]:
        raise LaionPeopleError("captions-file", f"{path} names {one_line(twice[0], 100)} twice: keep one of them")
    return {cluster_id: _entry(f"{path}: {one_line(cluster_id, 100)}", values) for cluster_id, values in fields.items()}


def _check_size(path: str, text: str) -> None:
    """Raises LaionPeopleError for deeply nested YAML, which crashes libyaml, and for YAML that unfolds to too much.

    An alias unfolds to what it stands for; aliases of aliases of aliases unfold to billions (CWE-776). Merge keys do
    the same and are refused. Looks at each event once.
    """
    nodes, sizes = 0, dict[str | None, int]()  # so far; sizes by anchor
    opened: list[tuple[str | None, int]] = []  # anchors of the open collections, and the nodes before each
    for event in yaml.parse(text, Loader=SAFE_LOADER):
        match event:
            case yaml.AliasEvent():
                nodes += MOST_NODES if event.anchor in dict(opened) else sizes.get(event.anchor, 1)
            case yaml.ScalarEvent():
                nodes += 1
                sizes[event.anchor] = 1
                if event.tag == MERGE or (event.value == "<<" and event.implicit[0]):
                    raise LaionPeopleError(
                        "captions-file", f"{path} has a merge key (<<): write out what it stands for"
                    )
                if len(event.value) > LONGEST_TEXT:
                    raise LaionPeopleError(
                        "captions-file", f"{path} has a text of more than {LONGEST_TEXT:,} letters: cut it"
                    )
            case yaml.CollectionStartEvent():
                opened.append((event.anchor, nodes))
                nodes += 1
            case yaml.CollectionEndEvent():
                anchor, before = opened.pop()
                sizes[anchor] = nodes - before
        if len(opened) > DEEPEST:
            raise LaionPeopleError("captions-file", f"{path} should name clusters, each with reviewed and captions")
        if nodes > MOST_NODES:
            raise LaionPeopleError(
                "captions-file", f"{path} has more than {MOST_NODES:,} texts and lists: is it a file of captions?"
            )


def _entry(where: str, values: Any) -> Entry:
    values = dict(values) if isinstance(values, dict) else {}
    if isinstance(values.get("at"), date):  # YAML reads a time without quotes as a date
        values["at"] = values["at"].isoformat()
    if not {"reviewed", "captions"} <= values.keys() or not isinstance(values["reviewed"], bool):
        raise LaionPeopleError("captions-file", f"{where} should have reviewed (true or false) and captions")
    if unknown := [name for name in values if name not in FIELDS]:
        raise LaionPeopleError(
            "captions-file", f"{where} should have reviewed, captions, by, at, note and made, and not {unknown[0]!r}"
        )
    if wrong := [name for name in TEXTS if not isinstance(values.get(name, ""), str)]:
        raise LaionPeopleError("captions-file", f"{where} should have a text as {wrong[0]}")
    captions = _candidates(where, values.pop("captions"))
    return Entry(tuple(text for text, _ in captions), **values, claims=tuple(claims for _, claims in captions))


def _candidates(where: str, items: Any) -> list[tuple[str, Claims]]:
    """Captions, each with its claims, from a list of texts and of mappings with claims and texts."""
    candidates: list[tuple[str, Claims]] = []
    for item in items if isinstance(items, list) else [None]:
        match item:
            case {"claims": claims, "texts": texts, **rest} if not rest:
                pass
            case _:
                texts, claims = [item], []
        if not _are_texts(texts):
            raise LaionPeopleError("captions-file", f"{where} should have a list of sentences as captions")
        if not _are_texts(claims):
            raise LaionPeopleError("captions-file", f"{where} should have a list of claims like base=sitting")
        candidates += [(text, tuple(claims)) for text in texts]
    return candidates


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) and text.strip() for text in value)


def _replace_entries(path: str, text: str, changed: Mapping[str, Entry]) -> str:
    """The file's text, with these entries replaced or added at its end.

    A file that is not written as blocks (but with braces, anchors, ...) is rewritten, without its comments.
    """
    entries = _parse(path, text)
    root = yaml.compose(text, Loader=SAFE_LOADER)
    keys = [key for key, _ in root.value] if root else []
    starts = [*(key.start_mark.index for key in keys), len(text)]
    spliced = text[: starts[0]]
    for key, (start, end) in zip(keys, pairwise(starts), strict=True):
        block = text[start:end]
        if key.value in changed:
            block = _dump({key.value: changed[key.value]}) + _trailing_comments(block)
        spliced += block
    if new := {cluster_id: entry for cluster_id, entry in changed.items() if cluster_id not in entries}:
        spliced = f"{spliced.rstrip()}\n{_dump(new)}"
    with suppress(LaionPeopleError):
        if _parse(path, spliced) == {**entries, **changed}:
            return spliced
    return HEADER % path.split("/")[1] + _dump({**entries, **changed})


def _trailing_comments(block: str) -> str:
    """The comments and empty lines at the end: they may belong to the next entry."""
    lines = block.splitlines(keepends=True)
    remarks = takewhile(lambda line: not line.strip() or line.lstrip().startswith("#"), reversed(lines))
    return "".join(reversed(list(remarks)))


class _Inline(list[str]):
    """A list to be written on one line."""


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True  # equal claims are written out


_Dumper.add_representer(
    _Inline, lambda dumper, data: dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=True)
)


def _dump(entries: Mapping[str, Entry]) -> str:
    plain = {
        cluster_id: {"reviewed": entry.reviewed}
        | {name: getattr(entry, name) for name in TEXTS if getattr(entry, name)}
        | {"captions": _grouped(entry)}
        for cluster_id, entry in entries.items()
    }
    return yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)


def _grouped(entry: Entry) -> list[Any]:
    """Captions in their order; neighbours with the same claims are one group."""
    groups: list[Any] = []
    for claims, captions in groupby(zip(entry.captions, entry.claims, strict=True), key=lambda pair: pair[1]):
        texts = [text for text, _ in captions]
        groups += [{"claims": _Inline(claims), "texts": texts}] if claims else texts
    return groups
