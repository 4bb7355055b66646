"""The card: what the hub and people read in it, whatever the record holds."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from laion_people.publication import statements
from laion_people.publication.card import TRUTH, bibtex, card, front_matter, size_category
from laion_people.publication.columns import COLUMNS, CONFIGS, FIELDS, ColumnType, meaning, parse_type
from laion_people.publication.release import Publication
from laion_people.publication.tables import configs, schema
from laion_people.storage.store import ROOT
from tests.publication.small import make_publication


@pytest.fixture
def publication(tmp_path: Path) -> Publication:
    return make_publication(tmp_path)


def split(text: str) -> tuple[dict[str, Any], str]:
    _, head, body = text.split("---\n", 2)
    return yaml.safe_load(head), body


def section(body: str, title: str) -> str:
    return re.split(r"\n##+ ", body.split(f"# {title}\n", 1)[1])[0]


def test_the_hub_reads_licence_configs_and_size(publication: Publication) -> None:
    head, _ = split(card(publication))
    assert head["license"] == "cc-by-4.0"
    assert head["size_categories"] == ["n<1K"]
    assert [c["config_name"] for c in head["configs"]] == [c for c in publication.configs() if c != "subset_d"]
    assert head["configs"][0]["default"]
    assert all(
        c["data_files"] == [{"split": "train", "path": f"{c['config_name']}/train-*.parquet"}] for c in head["configs"]
    )
    assert "en" in head["language"]


def test_a_config_without_rows_is_told_and_not_loaded(publication: Publication) -> None:
    assert publication.rows("subset_d") == 0
    head, body = split(card(publication))
    assert "subset_d" not in {c["config_name"] for c in head["configs"]}
    assert 'load_dataset("OWNER/NAME", "subset_d"' not in body
    assert "| `subset_d` | 0 |" in body
    assert "What has no row" in body


@pytest.mark.parametrize(
    ("rows", "category"),
    [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (5_000_000, "1M<n<10M"), (10**9, "1B<n<10B"), (10**13, "n>1T")],
)
def test_sizes_are_called_as_the_hub_calls_them(rows: int, category: str) -> None:
    assert size_category(rows) == category


@pytest.mark.parametrize(
    ("licence", "read"),
    [
        ("", {"license": "unknown"}),
        ("CC-BY-4.0", {"license": "cc-by-4.0"}),
        ("Our-Own 1", {"license": "other", "license_name": "our-own-1"}),
        (
            "https://example.org/terms",
            {
                "license": "other",
                "license_name": "https-example.org-terms",
                "license_link": "https://example.org/terms",
            },
        ),
    ],
)
def test_a_licence_that_the_hub_does_not_know_is_other(
    publication: Publication, licence: str, read: dict[str, str]
) -> None:
    head = front_matter(replace(publication, licence=licence))
    assert {name: value for name, value in head.items() if name.startswith("license")} == read


def test_other_languages_are_told(publication: Publication) -> None:
    assert front_matter(replace(publication, partitions=("laion2B-multi/00000",)))["language"] == ["en", "multilingual"]


def test_every_number_has_its_source_beside_it(publication: Publication) -> None:
    _, body = split(card(publication))
    for name, number in publication.numbers.items():
        (line,) = [x for x in body.splitlines() if x.startswith(f"| {name.removeprefix('funnel: ')}")]
        assert f"`{number['source']}`" in line
        assert f"| {number['value']:,} |" in line
    assert "700 `http_404`, 200 `timeout`" in section(body, "What was lost on the way")
    left_out = section(body, "Left out when it was published")
    assert "| `people` | `minor` | 3 |" in left_out
    assert "release.json" in left_out
    assert "`docs/truth.md`" in section(body, "How true it is")


def test_the_measured_truth_is_that_of_the_docs() -> None:
    documented = (ROOT / TRUTH["source"]).read_text()
    for row in TRUTH["measured"]:
        for kind in ("pose", "face", "head"):
            assert "{} / {}".format(*row[kind]) in documented, row["what"]
    for row in TRUTH["pictures"]:
        true, of = row["true"]
        assert f"Of {of} " in documented or f"{true} of {of}" in documented, row["what"]


def test_it_says_whether_truth_was_measured_with_its_models(publication: Publication) -> None:
    assert "by other weights: of these nothing was measured" in card(publication).replace("\n", " ")
    same = replace(publication, models=TRUTH["models"] | {"a-captioner": "2" * 64})
    assert "by the same weights" in card(same)


def test_models_and_options_are_told(publication: Publication) -> None:
    _, body = split(card(publication))
    made = section(body, "How it was made")
    assert f"| `movenet-multipose` | `{'0' * 64}` |" in made
    assert "| `with_minors` | `false` |" in made


def test_who_is_asked_for_a_removal_is_named_or_missed(publication: Publication) -> None:
    assert "](mailto:removals@example.org)" in card(publication)
    assert "Write to <https://example.org/out>" in card(replace(publication, contact="https://example.org/out"))
    without = card(replace(publication, contact=""))
    assert "Write to" not in without
    assert statements.NO_CONTACT in without


def test_removals_and_changes_are_told(publication: Publication) -> None:
    assert "Nothing has been removed" in card(publication)
    changes = ({"version": "1.0.0", "at": "2026-11-30T12:00:00+00:00", "text": "first"},)
    changed = card(replace(publication, tombstones=1234, changes=changes))
    assert "lists the 1,234 ids" in changed
    assert "- **1.0.0** (2026-11-30): first" in changed


@pytest.mark.parametrize(("option", "value"), [("with_minors", True), ("nsfw", "keep"), ("opt_outs", "keep")])
def test_what_was_not_left_out_is_said(publication: Publication, option: str, value: object) -> None:
    usual = section(card(publication), "Biases and limits")
    other = section(card(replace(publication, options=publication.options | {option: value})), "Biases and limits")
    assert usual.count("were left out") == other.count("were left out") + 1
    assert "not left out" in other


@pytest.mark.parametrize("faces", ["keep", "blur", "drop"])
def test_what_became_of_faces_is_said(publication: Publication, faces: str) -> None:
    said = statements.faces(replace(publication, options=publication.options | {"faces": faces}))
    assert said in card(replace(publication, options=publication.options | {"faces": faces}))


def test_an_edition_without_addresses_says_so(publication: Publication) -> None:
    kept = tuple(f for f in publication.files if f.config in configs("geometry"))
    options = publication.options | {"edition": "geometry", "pictures": False}
    head, body = split(card(replace(publication, edition="geometry", files=kept, options=options)))
    assert "neither addresses nor pictures" in body
    assert "webdataset" not in body
    assert "this publication's own id" in body
    assert "text-to-image" not in head["task_categories"]
    assert "7 people in images" in body
    for of_links in ("addresses lead to", "An address may", "phash finds", "or its `person_id`", "person_id` without"):
        assert of_links in card(replace(publication, tombstones=1))
        assert of_links not in card(replace(publication, edition="geometry", files=kept, options=options, tombstones=1))


HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[click](javascript:alert(1))",
    "![](https://example.org/track.png)",
    "a | b | c",
    "`code` **bold** _it_ ~~gone~~",
    "\n## A heading\n\n- a list",
    "\n---\nlicense: mit\n---\n",
    "https://evil.example/x www.evil.example",
    "$x$ @somebody &amp; &#60;",
    "\u202egnp.exe\x1b[31m\x00",
    '\'; drop: [yaml] "x": &a *a !!python/object:os.system',
    "{{ 7 * 7 }}{% include '/etc/passwd' %}",
]


def hostile(publication: Publication, text: str) -> Publication:
    """The record with a text wherever one can be, though `publish` would refuse most of them."""
    number = {"value": text, "unit": text, "lost": {text: 1}, "source": text}
    return replace(
        publication,
        name=text,
        version=text,
        clusters=text,
        partitions=(f"{text}/00000",),
        options=publication.options | {text: text},
        models={text: text},
        files=tuple(replace(f, config=f.config and f"{f.config}{text}") for f in publication.files),
        columns={f"{config}{text}": columns for config, columns in publication.columns.items()},
        left_out={"people": {text: 3}},
        numbers={f"funnel: {text}": number, text: number},
        changes=({"version": text, "at": text, "text": text},),
        licence=text,
        contact=text,
    )


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_records_stay_text(publication: Publication, text: str) -> None:
    """As a browser would show it: no tag, link, heading or table row comes from the record."""
    from markdown_it import MarkdownIt

    plain, body = split(card(publication))
    head, attacked = split(card(hostile(publication, text)))
    assert head.keys() - plain.keys() <= {"license_name", "license_link"}
    assert len(head["configs"]) == len(plain["configs"])
    assert head["license"] == "other"

    def outline(markdown: str) -> list[str]:
        shown = MarkdownIt("gfm-like", {"linkify": False, "html": True}).render(markdown)
        tags = re.findall(r"<(/?[a-z]+[1-6]?|!--)[^>]*?>", shown)
        return [tag for tag in tags if tag not in ("code", "/code", "a", "/a")]

    def links(markdown: str) -> set[str]:
        shown = MarkdownIt("gfm-like", {"linkify": False, "html": True}).render(markdown)
        return set(re.findall(r'(?:href|src)="([^"]*)"', shown))

    usual = replace(
        hostile(publication, "text"), changes=({"version": "1", "at": "2026", "text": "x"},)
    )  # the same lines, of harmless words
    assert outline(attacked) == outline(split(card(usual))[1])
    assert links(attacked) <= links(body)
    assert "\u202e" not in attacked
    assert "\x1b" not in attacked
    assert "49" not in bibtex(hostile(publication, "{{ 7 * 7 }}")), html.escape(text)


def test_bibtex_holds_nothing_that_ends_it(publication: Publication) -> None:
    made = bibtex(hostile(publication, "a}, b = {```\n\\x"))
    assert made.count("{") == made.count("}") == 4
    assert "`" not in made
    assert "\\" not in made


@pytest.mark.parametrize("edition", ["links", "geometry"])
def test_every_published_column_has_a_meaning(edition: str) -> None:
    for config in configs(edition):
        assert CONFIGS[config]
        for field in schema(config, edition):
            assert meaning(field.name, edition)
            assert set(dict(parse_type(str(field.type)).fields)) <= FIELDS.keys()


def test_no_meaning_is_of_a_column_that_is_not_published() -> None:
    published = {field.name for config in configs("links") for field in schema(config, "links")}
    assert COLUMNS.keys() - published == set()


def test_types_are_read_as_arrow_writes_them() -> None:
    assert parse_type("fixed_size_list<item: float>[4]") == ColumnType("float", (4,))
    assert parse_type("list<element: list<element: string not null> not null>") == ColumnType("string", (-1, -1))
    person = (
        "list<item: struct<id: string, bbox: fixed_size_list<item: float>[4] not null, claims: list<item: string>>>"
    )
    assert parse_type(person) == ColumnType(
        "struct",
        (-1,),
        (
            ("id", ColumnType("string")),
            ("bbox", ColumnType("float", (4,))),
            ("claims", ColumnType("string", (-1,))),
        ),
    )


def test_a_publication_of_nothing_but_one_empty_table_has_a_card(tmp_path: Path) -> None:
    publication = make_publication(tmp_path)
    empty = tuple(replace(f, rows=0) for f in publication.files if f.config == "people")
    bare = replace(publication, files=empty, models={}, left_out={}, numbers={}, options=publication.options)
    head, body = split(card(bare))
    assert head["size_categories"] == ["n<1K"]
    assert "Nothing was left out" in body
    assert json.loads(json.dumps(head)) == head
