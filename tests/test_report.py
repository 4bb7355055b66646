from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from laion_people.errors import LaionPeopleError
from laion_people.reports.examples import spread
from laion_people.reports.report import histogram, ticks, write_report
from laion_people.steps.registry import STEPS
from laion_people.storage.layout import manifest_path
from laion_people.storage.schemas import SCHEMAS
from laion_people.storage.store import LocalStore
from tests.synthetic_store import forget, make_store

HOSTILE = '"><script>alert(1)</script><img src=http://evil.example/x onerror=alert(2)>'
CAPTIONS = (HOSTILE, "", "רץ מהר " * 80, "x" * 5000, "two people {{ 7 * 7 }} & a dog", "a\x00b\u202etxt.exe")
SECTIONS = (
    "funnel",
    "people",
    "facts",
    "captions",
    "clusters",
    "subset-b",
    "subset-c",
    "rejects",
    "times",
    "models",
    "again",
)
LOADS = ("src", "srcset", "href", "action", "poster", "data", "background", "xlink:href", "formaction")


class Page(HTMLParser):
    """Elements, addresses that a browser would load, ids and text of a page."""

    def __init__(self, path: Path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def ids(self) -> list[str | None]:
        return [attrs["id"] for _, attrs in self.tags if "id" in attrs]


def change_facts(store: LocalStore, **facts: tuple[str, float]) -> None:
    """Gives everybody these facts: name, value, confidence."""
    path = store.root / "facts/demo/00000/00000.parquet"
    ids = pq.read_table(path, columns=["person_id"]).to_pylist()
    told = [{"name": name, "value": value, "confidence": sure} for name, (value, sure) in facts.items()]
    pq.write_table(pa.Table.from_pylist([row | {"facts": told} for row in ids], schema=SCHEMAS["facts"]), path)


def change_claims(store: LocalStore, claims: dict[str, list[str]] | None) -> None:
    """Gives captions of each kind other claims; None: none have any, nor a foil margin, as in release 0.1."""
    path = store.root / "subset_c/v0001/demo/00000/00000.parquet"
    table = pq.read_table(path)
    if claims is None:
        table = table.drop_columns(["claims", "foil_margin"])
    else:
        rows = [row | {"claims": claims[row["kind"]]} for row in table.to_pylist()]
        table = pa.Table.from_pylist(rows, schema=table.schema)
    pq.write_table(table, path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> LocalStore:
    store = LocalStore(tmp_path_factory.mktemp("finished"))
    make_store(store, images=16, captions=CAPTIONS)
    return store


@pytest.fixture(scope="module")
def page(finished: LocalStore, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page(write_report(finished, tmp_path_factory.mktemp("report") / "made" / "here"))


def test_the_page_loads_nothing_from_anywhere(page: Page) -> None:
    for tag, attrs in page.tags:
        for name in LOADS:
            if address := attrs.get(name):
                assert address.startswith(("#", "data:image/webp;base64,")), (tag, address)
        assert not any(name.startswith("on") or name == "style" for name in attrs), (tag, attrs)
    assert not {"script", "iframe", "object", "embed", "link", "base", "form"} & {tag for tag, _ in page.tags}
    style = page.source.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style and "@import" not in style


def test_the_policy_allows_data_images_and_this_style_alone(page: Page) -> None:
    [policy] = [m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None and policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy


def test_every_section_is_there_and_the_navigation_leads_to_each(page: Page) -> None:
    assert set(SECTIONS) <= set(page.ids)
    assert {link["href"] for link in page.all("a")} == {f"#{name}" for name in SECTIONS}
    assert len(page.ids) == len(set(page.ids))
    assert "Nothing yet" not in page.text


def test_hostile_captions_are_text(page: Page) -> None:
    assert HOSTILE in page.text
    assert "<script" not in page.source.replace("&lt;script", "")
    assert "{{ 7 * 7 }}" in page.text and "two people 49" not in page.text
    assert "\u202e" not in page.source  # which would turn what stands after it


def test_captions_of_any_direction_and_length_stay_in_their_place(page: Page) -> None:
    captions = [attrs for tag, attrs in page.tags if tag == "span" and attrs.get("class") == "caption"]
    assert captions and all(attrs.get("dir") == "auto" for attrs in captions)
    assert "x" * 1000 not in page.source
    assert "(empty caption)" in page.text


def test_every_picture_says_what_it_shows(page: Page) -> None:
    pictures = page.all("img")
    drawings = [svg for svg in page.all("svg") if svg.get("class", "") == "picture whole"]
    assert len(pictures) > 30 and len(drawings) > 10
    assert all(p["alt"] and p["width"] and p["height"] for p in pictures)
    assert all(d["role"] == "img" and d["aria-label"] for d in drawings)
    assert any("2 people, boxes, skeletons" in (d["aria-label"] or "") for d in drawings)
    assert len(page.all("image")) == len(drawings)


def test_the_limits_of_the_built_in_clip_are_said_plainly(page: Page) -> None:
    assert "knows only the built-in sample" in page.text


def test_each_chosen_caption_says_what_it_claims_and_why(store: LocalStore, tmp_path: Path) -> None:
    make_store(store, images=16)
    change_facts(store, base=("walking", 0.83), mouth=("open", 0.71))
    change_claims(store, {"pose": ["base=on_feet"], "face": ["mouth=smiling"], "head": []})
    told = " ".join(Page(write_report(store, tmp_path)).text.split())
    assert "body: on the feet ← body: walking 0.83" in told
    assert "mouth: smiling no fact says so now" in told
    assert "claims nothing that is checked" in told
    change_claims(store, {kind: [HOSTILE] for kind in ("pose", "face", "head")})
    page = Page(write_report(store, tmp_path))
    assert HOSTILE[-20:] in page.text and "<script" not in page.source
    assert "foil margin" in told.split("Subset C: a caption chosen by CLIP")[1]


def test_facts_about_people_are_shown_by_fact_and_value(store: LocalStore, tmp_path: Path) -> None:
    make_store(store, images=16)
    change_facts(store, base=("walking", 0.83), left_arm=("on_hip", 0.6))
    told = " ".join(Page(write_report(store, tmp_path)).text.split())
    table = told.split("Facts about people")[1].split("Does the caption fit")[0]
    assert "body 100 % walking: 24 walking 100 %" in table
    assert "left arm 100 % hand on the hip: 24 hand on the hip 100 %" in table
    assert "mouth nobody" in table and "head turned nobody" in table


def test_a_store_of_before_facts_and_claims_is_reported_without_them(store: LocalStore, tmp_path: Path) -> None:
    make_store(store, images=16)
    forget(store, "facts", "demo/00000")
    change_claims(store, None)
    page = Page(write_report(store, tmp_path))
    assert "run facts demo/00000" in " ".join(page.text.split())
    assert "no fact says so" not in page.text


def test_counts_reasons_models_and_quality_are_shown(page: Page) -> None:
    words = " ".join(page.text.split())
    for told in ("http 404 5", "below threshold", "clip-sample", "silhouette 0.41", "threshold 0.3", "pose-0000"):
        assert told in words, told


def test_the_page_stays_small(finished: LocalStore, tmp_path: Path) -> None:
    assert write_report(finished, tmp_path).stat().st_size < 15_000_000


def test_many_partitions_begin_with_a_table(store: LocalStore, tmp_path: Path) -> None:
    for i in range(4):
        make_store(store, f"demo/{i:05d}", images=6)
    page = Page(write_report(store, tmp_path))
    assert page.ids.index("partitions") < page.ids.index("funnel")
    assert all(f"demo/{i:05d}" in page.text for i in range(4))


def test_a_run_that_stopped_early_is_reported_as_far_as_it_went(store: LocalStore, tmp_path: Path) -> None:
    make_store(store, images=6)
    for step in ("assign", "compose", "caption", "clip_filter", "subset_a", "mesh", "pose"):
        forget(store, step, "demo/00000")
    for path in (*store.list("manifests/cluster"), *store.list("manifests/label")):
        store.delete(path)
    page = Page(write_report(store, tmp_path))
    assert set(SECTIONS) <= set(page.ids)
    assert page.text.count("Nothing yet") == 4


def test_a_partition_without_people_is_reported(store: LocalStore, tmp_path: Path) -> None:
    make_store(store, images=1)
    assert "the step detect has written no rows" in Page(write_report(store, tmp_path)).text


@pytest.mark.parametrize(
    ("column", "value", "fault"),
    [("scores", [0.5], "not a score for each candidate"), ("claims", [None], "a claim without words")],
)
def test_a_row_that_cannot_be_is_one_readable_error(
    store: LocalStore, tmp_path: Path, column: str, value: object, fault: str
) -> None:
    make_store(store, images=6)
    path = store.root / "subset_c/v0001/demo/00000/00000.parquet"
    table = pq.read_table(path)
    values = pa.array([value] * len(table), table.schema.field(column).type)
    pq.write_table(table.set_column(table.column_names.index(column), table.schema.field(column), values), path)
    with pytest.raises(LaionPeopleError, match=rf"^subset_c/.* \({fault}\): .*\[damaged-file\]$"):
        write_report(store, tmp_path)


def test_a_store_in_which_nothing_was_run_is_an_error(store: LocalStore, tmp_path: Path) -> None:
    with pytest.raises(LaionPeopleError, match=r"\[nothing-to-report\]$"):
        write_report(store, tmp_path)


def test_a_table_of_other_people_is_one_readable_error(store: LocalStore, tmp_path: Path) -> None:
    make_store(store, images=6)
    make_store(LocalStore(tmp_path), images=10)
    store.write("pose/demo/00000/00000.parquet", LocalStore(tmp_path).read("pose/demo/00000/00000.parquet"))
    with pytest.raises(LaionPeopleError, match=r"^pose/.* 13 rows .* 7 people: .*\[mismatched-tables\]$"):
        write_report(store, tmp_path)


def test_an_image_that_is_gone_is_one_readable_error(store: LocalStore, tmp_path: Path) -> None:
    make_store(store, images=6)
    store.write("images/demo/00000/00000.tar", b"\0" * 10240)  # an empty tar
    with pytest.raises(LaionPeopleError, match=r"^images/demo/00000/00000\.tar: .*\[lost-image\]$"):
        write_report(store, tmp_path)


def test_a_folder_that_cannot_be_written_is_one_readable_error(finished: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(LaionPeopleError, match=r"\[cannot-write\]$"):
        write_report(finished, tmp_path / "file")


def test_no_bar_of_the_histogram_crosses_the_threshold() -> None:
    similarity = np.random.default_rng(0).normal(0.2, 0.1, 500).astype(np.float32)
    bins = histogram(similarity, 0.3)
    assert sum(b.people for b in bins) == 500
    assert sum(b.people for b in bins if b.accepted) == (similarity > 0.3).sum()
    assert all(b.start >= 0.3 - 1e-6 if b.accepted else b.stop <= 0.3 + 1e-6 for b in bins)


@pytest.mark.parametrize("similarity", [[0.25], [0.3, 0.3], [-1.0, 1.0], []])
def test_a_histogram_of_few_or_extreme_values_counts_them_all(similarity: list[float]) -> None:
    bins = histogram(np.array(similarity, np.float32), 0.3)
    assert sum(b.people for b in bins) == len(similarity)


@pytest.mark.parametrize(("start", "stop"), [(0.05, 0.42), (-1.0, 1.0), (0.299, 0.303)])
def test_ticks_are_round_and_a_handful(start: float, stop: float) -> None:
    values = ticks(start, stop)
    assert 2 <= len(values) <= 12 and start <= values[0] and values[-1] <= stop + 1e-9


def test_examples_are_spread_from_the_first_to_the_last() -> None:
    assert spread(list(range(100)), 4) == [0, 33, 66, 99]
    assert spread([1, 2], 4) == [1, 2]
    assert spread(list(range(5)), 1) == [0]
    assert spread([1], 0) == []


@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b'{"kinds": {"pose": {"near": "x"}}}', None])
def test_a_fit_that_is_not_what_was_written_is_passed_over_and_said(
    store: LocalStore, tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes | None
) -> None:
    make_store(store, images=6)
    store.delete("clusters/v0001/fit.json")
    if content is not None:
        store.write("clusters/v0001/fit.json", content)
    assert write_report(store, tmp_path).exists()
    assert "clusters/v0001/fit.json" in caplog.text and "[damaged-version]" in caplog.text


@pytest.mark.parametrize("step", STEPS)
def test_a_store_without_the_manifest_of_a_step_is_reported(store: LocalStore, tmp_path: Path, step: str) -> None:
    """As a partition that is being worked on, or one of which a file was lost."""
    make_store(store, images=6)
    for partition in ("demo/00000", "v0001"):
        forget(store, step, partition)
    assert write_report(store, tmp_path).exists()


def test_clusters_of_an_older_version_are_not_shown(store: LocalStore, tmp_path: Path) -> None:
    make_store(store, images=6)
    store.write(manifest_path("cluster", "v0000"), store.read(manifest_path("cluster", "v0001")))
    assert "version v0001" in " ".join(Page(write_report(store, tmp_path)).text.split())
