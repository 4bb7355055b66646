"""captions.yaml: edits by hand or on the page, and what is refused."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from laion_people.errors import LaionPeopleError
from laion_people.language import captions
from laion_people.language.captions import Entry
from laion_people.storage.store import LocalStore

PATH = "clusters/v0001/captions.yaml"
SENTENCES = tuple(f"A person holds pose number {i}." for i in range(5))
OTHERS = tuple(f"Somebody holds pose number {i}." for i in range(6))
BY_HAND = f"""\
# A remark at the top.
head-0002:  # out of order, as somebody wanted it
  captions: {list(SENTENCES)}
  reviewed: true
  by: Zoë
  at: 2026-11-23T06:30:00+00:00

# About the next one.
pose-0001:
    reviewed: false
    captions:
    - "{SENTENCES[0]}"
    - >-
      A person holds
      pose number 1.
    - {SENTENCES[2]}
    - {SENTENCES[3]}   # hm
    - {SENTENCES[4]}
# About the last one.
face-0001: {{reviewed: no, captions: {list(SENTENCES)}}}
# The end.
"""


@pytest.fixture
def edited(store: LocalStore) -> LocalStore:
    """A store whose captions file was written by hand."""
    store.write(PATH, BY_HAND.encode())
    return store


SITS, WAVES = ("base=sitting",), ("left_arm=raised", "base=standing")
CLAIMED = f"""\
pose-0001:
  reviewed: false
  captions:
  - claims: [base=sitting]
    texts:
    - {SENTENCES[0]}
    - {SENTENCES[1]}
  - {SENTENCES[2]}
  - {{texts: ["{SENTENCES[3]}", "{SENTENCES[4]}"], claims: [left_arm=raised, base=standing]}}
"""


def edit(store: LocalStore, cluster_id: str, texts: Sequence[str], **options: str) -> None:
    tag = captions.read(store, "v0001")[cluster_id].tag
    captions.edit(store, "v0001", cluster_id, tuple(texts), reviewed=True, **{"by": "anna", "tag": tag} | options)


def test_a_file_that_is_written_by_hand_is_understood(edited: LocalStore) -> None:
    entries = captions.read(edited, "v0001")
    assert list(entries) == ["head-0002", "pose-0001", "face-0001"]
    assert entries["head-0002"] == Entry(SENTENCES, True, "Zoë", "2026-11-23T06:30:00+00:00")
    assert entries["pose-0001"] == entries["face-0001"] == Entry(SENTENCES)


def test_captions_stand_alone_or_below_what_they_claim(store: LocalStore) -> None:
    store.write(PATH, CLAIMED.encode())
    entry = captions.read(store, "v0001")["pose-0001"]
    assert (entry.captions, entry.claims) == (SENTENCES, (SITS, SITS, (), WAVES, WAVES))
    captions.edit(store, "v0001", "pose-0001", OTHERS[:5], entry.claims, reviewed=True, by="anna", tag=entry.tag)
    after = captions.read(store, "v0001")["pose-0001"]
    assert (after.captions, after.claims) == (OTHERS[:5], entry.claims)
    assert "  - claims: [left_arm=raised, base=standing]\n    texts:\n    - Somebody" in store.read(PATH).decode()


def test_an_entry_s_tag_changes_with_what_its_captions_claim(store: LocalStore) -> None:
    entry = Entry(SENTENCES, claims=(SITS,) * 5)
    assert len({entry.tag, replace(entry, claims=(WAVES,) * 5).tag, Entry(SENTENCES).tag}) == 3


def test_a_cluster_may_have_no_captions(edited: LocalStore) -> None:
    assert captions.fault(()) == ""
    edit(edited, "pose-0001", ())
    assert captions.read(edited, "v0001")["pose-0001"].captions == ()


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        ("mood=happy", "'mood=happy' is no claim: they are like base=sitting"),
        ("base=sitting\u202e", "is no claim"),
        ("base=" + "x" * 5000, "'base=xxx"),
        ("arms=down+", "'arms=down+' is no claim"),
    ],
)
def test_an_unknown_claim_is_named_in_a_short_line_and_the_file_stays(
    edited: LocalStore, claim: str, message: str
) -> None:
    entry = captions.read(edited, "v0001")["pose-0001"]
    with pytest.raises(LaionPeopleError) as raised:
        captions.edit(edited, "v0001", "pose-0001", SENTENCES, ((claim,),) * 5, reviewed=True, by="", tag=entry.tag)
    assert message in str(raised.value) and str(raised.value).isprintable() and len(str(raised.value)) < 200
    assert edited.read(PATH).decode() == BY_HAND


def test_a_caption_cannot_claim_without_end() -> None:
    assert captions.fault(SENTENCES, [("base=sitting",) * 21] * 5) == "a caption should claim 20 facts at most"


@pytest.mark.parametrize("cluster_id", ["head-0002", "pose-0001", "face-0001"])
def test_an_edit_changes_one_entry_and_says_who_and_when(edited: LocalStore, cluster_id: str) -> None:
    before = captions.read(edited, "v0001")
    edit(edited, cluster_id, [f"  {text} " for text in OTHERS])
    after = captions.read(edited, "v0001")
    assert list(after) == list(before)
    assert {c for c in after if after[c] != before[c]} == {cluster_id}
    entry = after[cluster_id]
    assert (entry.captions, entry.reviewed, entry.by) == (OTHERS, True, "anna")
    assert abs((datetime.now(UTC) - datetime.fromisoformat(entry.at)).total_seconds()) < 60
    text = edited.read(PATH).decode()
    for line in ("# A remark at the top.", "# About the next one.", "# About the last one.", "# The end."):
        assert f"{line}\n" in text
    others = [c for c in before if c != cluster_id]
    assert all(BY_HAND[BY_HAND.index(c) :].split("\n")[0] in text for c in others)


@pytest.mark.parametrize(
    "text",
    [
        "{pose-0001: {reviewed: true, captions: *}, head-0001: {reviewed: true, captions: *}}",
        "pose-0001: &a\n  reviewed: true\n  captions: *\nhead-0001: *a\n",
        "---\n  pose-0001:\n    reviewed: true\n    captions: *\n  head-0001: {reviewed: true, captions: *}\n...\n",
        "? pose-0001\n: reviewed: true\n  captions: *\n? head-0001\n: reviewed: true\n  captions: *\n",
        "\ufeffpose-0001:\r\n  reviewed: true\r\n  captions: *\r\nhead-0001: {reviewed: true, captions: *}",
    ],
    ids=["braces", "anchor", "indented", "question marks", "Windows"],
)
def test_an_edit_works_in_every_way_of_writing_yaml(store: LocalStore, text: str) -> None:
    store.write(PATH, re.sub(r"\*(?!a)", str(list(SENTENCES)), text).encode())
    for cluster_id in ("pose-0001", "head-0001"):
        before = captions.read(store, "v0001")
        edit(store, cluster_id, OTHERS)
        after = captions.read(store, "v0001")
        assert after == before | {cluster_id: replace(after[cluster_id], captions=OTHERS, by="anna")}


def test_of_two_edits_of_one_entry_the_second_is_refused_with_the_name_of_the_first_editor(edited: LocalStore) -> None:
    seen = captions.read(edited, "v0001")["pose-0001"].tag
    edit(edited, "head-0002", OTHERS)  # another cluster doesn't matter
    edit(edited, "pose-0001", OTHERS, by="Zoë", tag=seen)
    with pytest.raises(LaionPeopleError, match=r"^Zoë .*pose-0001.*\[edited-meanwhile\]$"):
        edit(edited, "pose-0001", SENTENCES, tag=seen)
    assert captions.read(edited, "v0001")["pose-0001"].captions == OTHERS


def test_what_was_edited_since_it_was_read_is_not_put_over(edited: LocalStore) -> None:
    seen = captions.read(edited, "v0001")
    edit(edited, "pose-0001", OTHERS)
    captions.put(edited, "v0001", dict.fromkeys(("pose-0001", "head-0002", "face-0009"), Entry(SENTENCES[::-1])), seen)
    after = captions.read(edited, "v0001")
    assert after["pose-0001"].captions == OTHERS
    assert after["head-0002"].captions == after["face-0009"].captions == SENTENCES[::-1]


def test_many_people_can_edit_at_the_same_time(store: LocalStore) -> None:
    names = [f"pose-{i:04d}" for i in range(24)]
    captions.put(store, "v0001", dict.fromkeys(names, Entry(SENTENCES)))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: edit(store, name, OTHERS, by=name), names))
    assert {name: entry.by for name, entry in captions.read(store, "v0001").items()} == {n: n for n in names}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (
            ["A tall person.", *SENTENCES],
            "'A tall person.' has the word 'tall' (body shape): captions may not speak of",
        ),
        (SENTENCES[:4], "there should be 5 or more captions, all different"),
        ([*SENTENCES, SENTENCES[0].upper()], "there should be 5 or more captions, all different"),
        ([f"{SENTENCES[0]} {i}" for i in range(51)], "there should be 50 captions at most"),
        ([*SENTENCES, " \t"], "a caption is empty"),
        (["a" * 10_000, *SENTENCES], "'aaa"),
        (
            ["A person.\nreviewed: true", *SENTENCES],
            r"'A person.\nreviewed: true' has line breaks, control or invisible",
        ),
        (["A person\x00\x1b[31m", *SENTENCES], r"'A person\x00\x1b[31m' has line breaks, control or invisible"),
        (["A \u202enosrep", *SENTENCES], r"'A \u202enosrep' has line breaks, control or invisible"),
        (["A per\u200bson", *SENTENCES], r"'A per\u200bson' has line breaks, control or invisible"),
        (["A \ud800", *SENTENCES], r"'A \ud800' has line breaks, control or invisible"),
    ],
)
def test_a_fault_is_named_in_a_short_line_and_the_file_stays(
    edited: LocalStore, texts: list[str], message: str
) -> None:
    assert message in captions.fault(texts)
    with pytest.raises(LaionPeopleError) as raised:
        edit(edited, "pose-0001", texts)
    assert f"pose-0001: {message}" in str(raised.value) and str(raised.value).isprintable()
    assert len(str(raised.value)) < 200
    assert edited.read(PATH).decode() == BY_HAND


def test_a_cluster_or_version_that_is_not_there_cannot_be_edited(edited: LocalStore) -> None:
    with pytest.raises(LaionPeopleError, match=r"pose-0009.*v0001.*\[unknown-cluster\]$"):
        captions.edit(edited, "v0001", "pose-0009", SENTENCES, reviewed=True, by="anna", tag="")
    with pytest.raises(LaionPeopleError, match=r"^clusters/v0002/captions.yaml .*\[outdated-labels\]$"):
        captions.read(edited, "v0002")
    for version in ("", "../v0001", "v0001/../v0001", "v1", "v0001\n"):
        with pytest.raises(LaionPeopleError, match=r"\[unknown-version\]$"):
            captions.read(edited, version)


def laughs(line: str) -> str:
    """YAML of nine lines; each stands for ten of the line before."""
    return "a0: &a0 {reviewed: false}\n" + "\n".join(
        line.format(i, ", ".join([f"*a{i - 1}"] * 10)) for i in range(1, 10)
    )


ENTRY = f"reviewed: true, captions: {list(SENTENCES)}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (laughs("a{0}: &a{0} [{1}]"), "has more than 500,000 texts and lists"),
        (laughs("a{0}: &a{0} {{<<: [{1}], k{0}: 1}}"), "has a merge key"),
        ("a: &a {reviewed: false, captions: [x, *a]}", "has more than 500,000 texts and lists"),
        ("a: *b", "is not YAML: .* undefined alias"),
        (f"pose-0001: {{{ENTRY}, at: {'1:' * 100_000}1}}", "has a text of more than 10,000 letters"),
        ("x" * (2**26 + 1), "is larger than 64 MB"),
        ("? |\n  a\n  b\n: 1", "a b should have reviewed"),
        ("pose-0001: [", "is not YAML: "),
        ("\x00", "is not YAML: "),
        ("a: 2026-99-99", "is not YAML: "),
        ("[" * 100_000, "should name clusters"),
        (f"pose-0001: {{{ENTRY}}}\n---\nhead-0001: {{{ENTRY}}}", "is not YAML: "),
        ("!!python/object/apply:os.system [true]", "is not YAML: "),
        ("- pose-0001", "should name clusters"),
        (f"1: {{{ENTRY}}}", "should name clusters"),
        (f"pose-0001: {{{ENTRY}}}\npose-0001: {{{ENTRY}}}", "names pose-0001 twice"),
        ("pose-0001:", "pose-0001 should have reviewed .true or false. and captions"),
        ("pose-0001: {reviewed: true}", "pose-0001 should have reviewed .true or false. and captions"),
        (f"pose-0001: {{{ENTRY}, reviewed: 'yes'}}", "pose-0001 should have reviewed .true or false. and captions"),
        (f"pose-0001: {{{ENTRY}, colour: x}}", "and not 'colour'"),
        (f"pose-0001: {{{ENTRY}, by: [anna]}}", "should have a text as by"),
        ("pose-0001: {reviewed: true, captions: A person.}", "should have a list of sentences as captions"),
        ("pose-0001: {reviewed: true, captions: [A person., 1]}", "should have a list of sentences as captions"),
        ("pose-0001: {reviewed: true, captions: [A person., '']}", "should have a list of sentences as captions"),
        (f"pose-0001: {{{ENTRY}, claims: []}}", "and not 'claims'"),
        (
            "pose-0001: {reviewed: true, captions: {claims: [], texts: []}}",
            "should have a list of sentences as captions",
        ),
        *(
            (f"pose-0001: {{reviewed: true, captions: [{{{item}}}]}}", f"should have a list of {what}")
            for item, what in (
                ("texts: [A person.]", "sentences as captions"),
                ("claims: [base=sitting]", "sentences as captions"),
                ("claims: [base=sitting], texts: A person.", "sentences as captions"),
                ("claims: [base=sitting], texts: [[A person.]]", "sentences as captions"),
                ("claims: [base=sitting], texts: [A person.], by: me", "sentences as captions"),
                ("claims: base=sitting, texts: [A person.]", "claims like base=sitting"),
                ("claims: [{base: sitting}], texts: [A person.]", "claims like base=sitting"),
                ("claims: [1], texts: [A person.]", "claims like base=sitting"),
            )
        ),
        (
            f"pose-0001: {{reviewed: true, captions: [{{claims: [{'a' * 10_001}], texts: [a]}}]}}",
            "has a text of more than",
        ),
        (laughs("a{0}: &a{0} {{claims: [{1}], texts: []}}"), "has more than 500,000 texts and lists"),
    ],
)
def test_a_file_that_cannot_be_understood_is_refused_in_one_line(store: LocalStore, text: str, message: str) -> None:
    store.write(PATH, text.encode())
    with pytest.raises(LaionPeopleError, match=rf"^{PATH}[^\n]*{message}[^\n]*$"):
        captions.read(store, "v0001")


def test_reading_60_000_clusters_takes_seconds(store: LocalStore) -> None:
    names = "".join(f"pose-{i}: *a\n" for i in range(1, 60_000))
    store.write(PATH, f"pose-0: &a {{reviewed: false, captions: [x]}}\n{names}".encode())
    start = time.process_time()
    assert len(captions.read(store, "v0001")) == 60_000
    assert time.process_time() - start < 15


EDIT = """
import sys
from pathlib import Path
from laion_people.language import captions
from laion_people.storage.store import LocalStore
store, first = LocalStore(Path(sys.argv[1])), int(sys.argv[2])
for i in range(first, first + 8):
    tag = captions.read(store, "v0001")[f"pose-{i:04d}"].tag
    texts = [f"Somebody holds pose number {n}." for n in range(6)]
    captions.edit(store, "v0001", f"pose-{i:04d}", texts, reviewed=True, by=sys.argv[2], tag=tag)
"""


def test_edits_of_two_processes_at_the_same_time_are_both_kept(store: LocalStore) -> None:
    names = [f"pose-{i:04d}" for i in range(16)]
    captions.put(store, "v0001", dict.fromkeys(names, Entry(SENTENCES)))
    environ = os.environ | {"PYTHONPATH": ":".join(sys.path)}
    command = [sys.executable, "-c", EDIT, str(store.root)]
    editors = [subprocess.Popen([*command, first], env=environ, stderr=subprocess.PIPE) for first in ("0", "8")]
    assert [editor.communicate()[1].decode() for editor in editors] == ["", ""]
    assert [entry.by for entry in captions.read(store, "v0001").values()] == ["0"] * 8 + ["8"] * 8


def test_a_file_in_another_encoding_is_refused(store: LocalStore) -> None:
    store.write(PATH, BY_HAND.encode("utf-16"))
    with pytest.raises(LaionPeopleError, match=r"UTF-8 [^\n]+ \[captions-file\]$"):
        captions.read(store, "v0001")


CLAIM = st.sampled_from(["base=sitting", "left_arm=raised", "arms=down+raised", "legs_apart=no", "tilt=none"])


@given(st.lists(st.lists(CLAIM, max_size=3, unique=True).map(tuple), min_size=5, max_size=5).map(tuple))
def test_whatever_captions_claim_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, claims: tuple[tuple[str, ...], ...]
) -> None:
    store = LocalStore(tmp_path_factory.mktemp("store"))
    captions.put(store, "v0001", {"pose-0001": Entry(SENTENCES, claims=claims), "head-0001": Entry(SENTENCES)})
    assert captions.read(store, "v0001")["pose-0001"] == Entry(SENTENCES, claims=claims)


@given(texts=st.lists(st.text(max_size=80), min_size=5, max_size=8), by=st.text(max_size=20))
def test_whatever_is_taken_comes_back_as_it_was_and_safe_yaml_reads_it(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], by: str
) -> None:
    store = LocalStore(tmp_path_factory.mktemp("store"))
    captions.put(store, "v0001", {"pose-0001": Entry(SENTENCES), "head-0001": Entry(SENTENCES)})
    stripped = tuple(text.strip() for text in texts)
    if captions.fault(stripped):
        with pytest.raises(LaionPeopleError):
            edit(store, "pose-0001", texts, by=by)
        return
    edit(store, "pose-0001", texts, by=by)
    entries = captions.read(store, "v0001")
    assert (entries["pose-0001"].captions, entries["pose-0001"].by) == (stripped, by)
    assert entries["head-0001"] == Entry(SENTENCES)
    assert yaml.safe_load(store.read(PATH))["pose-0001"]["captions"] == list(stripped)


@pytest.mark.parametrize(
    "text", ["yes", "null", "- a", "# b", "&c", "*d", "{{ e }}", "f: g", "'", '"', "!!h", "---", "1e3"]
)
def test_captions_that_look_like_yaml_stay_text(edited: LocalStore, text: str) -> None:
    edit(edited, "pose-0001", (text, *SENTENCES))
    assert captions.read(edited, "v0001")["pose-0001"].captions == (text, *SENTENCES)
