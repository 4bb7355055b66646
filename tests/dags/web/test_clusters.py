from __future__ import annotations

import re
from html import unescape

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient

from laion_people.language import captions
from laion_people.storage.store import LocalStore
from laion_people.storage.totals import write_totals
from laion_people.web import cluster, people
from tests.dags.web.big_store import manifest
from tests.dags.web.browsing import PARTITION, field, make_browsed, people_of, replace, table
from tests.dags.web.conftest import SignedIn
from tests.synthetic_store import VERSION

LIST = f"/laion-people/clusters/{VERSION}"
PAGE = f"{LIST}/pose-0001"
ORIGIN = {"Origin": "http://testserver"}
CLAIMED = ("claims", "seen", "said")  # fields beside each caption
TEXTS = [f"A person stands in way {way} of standing." for way in range(6)]


@pytest.fixture
def editor(signed_in: SignedIn, store: LocalStore) -> TestClient:
    """A client of somebody who may start runs, on a store with clusters."""
    make_browsed(store)
    return signed_in("ulla")


def form(client: TestClient, **changes: object) -> dict[str, object]:
    """The form of a cluster's page as a browser would send it, with some changes.

    Of captions that are changed without their claims it is as if they claimed nothing, and their editor had seen it.
    """
    sent = read_form(client.get(PAGE).text)
    if texts := changes.get("caption"):
        sent |= {"seen": texts, **dict.fromkeys(("claims", "said"), [""] * len(list(texts)))}
    return {**sent, "then": "stay", **changes}


def read_form(page: str) -> dict[str, object]:
    """The form of a page as it stands there."""
    page = page.partition("<template>")[0]
    texts = [unescape(text) for text in re.findall(r'<textarea name="caption"[^>]*>([^<]*)</textarea>', page)]
    rest = {name: [*map(unescape, re.findall(f'name="{name}" value="([^"]*)"', page))] for name in CLAIMED}
    return {"csrf": field(page, "csrf"), "tag": field(page, "tag"), "caption": texts, **rest}


def edit(store: LocalStore, cluster_id: str, texts: list[str], by: str = "eve") -> None:
    """Somebody else approves other captions."""
    tag = captions.read(store, VERSION)[cluster_id].tag
    captions.edit(store, VERSION, cluster_id, texts, reviewed=True, by=by, tag=tag)


def listed(client: TestClient, query: str = "") -> list[str]:
    return re.findall(r'alt="Contact sheet of ([\w-]+)"', client.get(f"{LIST}?{query}").text)


def test_clusters_lead_to_the_newest_version(client: TestClient, store: LocalStore) -> None:
    assert "No clusters yet" in client.get("/laion-people/clusters").text
    make_browsed(store)
    assert client.get("/laion-people/clusters").headers["Location"] == LIST
    store.write("manifests/cluster/v0002.json", b"{}")  # its label has not run
    assert client.get("/laion-people/clusters").headers["Location"] == LIST


def test_clusters_are_listed_by_kind_the_largest_first(client: TestClient, store: LocalStore) -> None:
    make_browsed(store)
    assert listed(client) == [f"{kind}-{i:04d}" for kind in ("pose", "face", "head") for i in range(4)]
    assert listed(client, "kind=head") == [f"head-{i:04d}" for i in range(4)]
    assert listed(client, "text=FACE+number+2") == ["face-0002"]
    assert listed(client, "text=pose-0003") == ["pose-0003"]
    assert listed(client, "text=nothing") == []


def test_the_list_says_who_has_reviewed_what(editor: TestClient, store: LocalStore) -> None:
    assert listed(editor, "reviewed=yes") == []
    captions.edit(
        store,
        VERSION,
        "face-0001",
        TEXTS,
        reviewed=True,
        by="<b>eve",
        tag=captions.read(store, VERSION)["face-0001"].tag,
    )
    assert listed(editor, "reviewed=yes") == ["face-0001"]
    assert len(listed(editor, "reviewed=no")) == 11
    page = editor.get(LIST).text
    assert "1 of 12 are reviewed" in page
    assert "reviewed by &lt;b&gt;eve" in page


def test_a_cluster_shows_members_of_a_shard(client: TestClient, store: LocalStore) -> None:
    make_browsed(store)
    assert all(person_id.startswith("demo/00000/00000/") for person_id in people_of(client.get(PAGE).text))
    assert "11 in shard 00000 of demo/00000" in client.get(PAGE).text


def test_members_are_of_a_partition_that_has_been_assigned(client: TestClient, store: LocalStore) -> None:
    make_browsed(store)
    write_totals(store, manifest("assign", "aaa/00000", [0], 10), 1)  # to another version
    assert "11 in shard 00000 of demo/00000." in client.get(PAGE).text
    rows = table(store, f"clusters/{VERSION}/clusters.parquet")
    elsewhere = pa.array(["gone/00000/00000/000000001/0"] * len(rows))
    with store.writer(f"clusters/{VERSION}/clusters.parquet") as local:
        pq.write_table(
            rows.set_column(rows.schema.get_field_index("medoid_person_id"), "medoid_person_id", elsewhere), local
        )
    assert "11 in shard 00000 of demo/00000." in client.get(PAGE).text


def test_a_cluster_whose_sheet_and_medoid_were_removed_still_has_a_page(client: TestClient, store: LocalStore) -> None:
    make_browsed(store)
    assert "The person in the middle" in client.get(PAGE).text
    rows = table(store, f"clusters/{VERSION}/clusters.parquet")
    at = rows.schema.get_field_index("medoid_person_id")
    with store.writer(f"clusters/{VERSION}/clusters.parquet") as local:
        pq.write_table(rows.set_column(at, "medoid_person_id", pa.array([""] * len(rows))), local)
    for path in store.list(f"clusters/{VERSION}"):
        if path.endswith(".jpg"):
            store.delete(path)
    page = client.get(PAGE).text
    assert "11 in shard 00000 of demo/00000." in page and "The person in the middle" not in page
    assert len(listed(client, "")) == 12


def test_members_with_faces_come_from_few_row_groups(
    client: TestClient, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Face landmarks of a row group are 6 MB, and a cluster has a few members in each."""
    make_browsed(store)
    monkeypatch.setattr(cluster, "ROW_GROUP", 8)
    for kind, most in (("face", people.MESH_GROUPS), ("pose", 99)):
        page = client.get(f"{LIST}/{kind}-0001").text
        assigned = table(store, f"assignments/{VERSION}/{PARTITION}/00000.parquet")
        rows = [
            row
            for row, cluster_id in enumerate(assigned[f"{kind}_cluster"].to_pylist())
            if cluster_id == f"{kind}-0001"
        ]
        first = [row for row in rows if row // 8 in sorted({row // 8 for row in rows})[:most]]
        assert people_of(page) == [assigned["person_id"][row].as_py() for row in first[: cluster.MEMBERS]]
        assert f"{len(rows)} in shard" in page


def test_clusters_of_a_release_without_claims_are_shown(client: TestClient, store: LocalStore) -> None:
    make_browsed(store)
    replace(store, f"clusters/{VERSION}/clusters.parquet", claims=None)
    assert "pose-0001" in listed(client)
    assert "said in the way 2" in client.get(PAGE).text


def test_a_cluster_without_captions_is_listed(client: TestClient, store: LocalStore) -> None:
    make_browsed(store)
    captions.put(store, VERSION, {"pose-0001": captions.Entry(())})
    page = client.get(LIST)
    assert page.status_code == 200 and "No captions." in page.text
    assert client.get(PAGE).status_code == 200


def test_a_cluster_that_only_the_captions_know_is_not_edited(editor: TestClient, store: LocalStore) -> None:
    captions.put(store, VERSION, {"pose-0099": captions.Entry(tuple(TEXTS))})
    sent = form(editor, tag=captions.read(store, VERSION)["pose-0099"].tag, caption=[*TEXTS, "A person waits."])
    assert editor.post(f"{LIST}/pose-0099", data=sent, headers=ORIGIN).status_code == 404
    assert captions.read(store, VERSION)["pose-0099"].captions == tuple(TEXTS)


def test_an_edit_is_kept_with_who_and_when(editor: TestClient, store: LocalStore) -> None:
    answer = editor.post(PAGE, data=form(editor, caption=[*TEXTS, " ", ""], reviewed="true"), headers=ORIGIN)
    assert (answer.status_code, answer.headers["Location"]) == (303, f"{PAGE}?saved=yes")
    entry = captions.read(store, VERSION)["pose-0001"]
    assert (entry.captions, entry.reviewed, entry.by) == (tuple(TEXTS), True, "ulla")
    assert entry.at
    page = editor.get(f"{PAGE}?saved=yes").text
    assert "Reviewed; last edited by ulla" in page
    assert "trigger" in page and "laion_people_cluster" in page  # how Subset C follows


def test_approving_goes_on_to_the_next_that_is_not_reviewed(editor: TestClient, store: LocalStore) -> None:
    texts = list(captions.read(store, VERSION)["pose-0002"].captions)
    captions.edit(
        store, VERSION, "pose-0002", texts, reviewed=True, by="eve", tag=captions.read(store, VERSION)["pose-0002"].tag
    )
    answer = editor.post(PAGE, data=form(editor, then="next"), headers=ORIGIN)
    assert (answer.status_code, answer.headers["Location"]) == (303, f"{LIST}/pose-0003")
    assert captions.read(store, VERSION)["pose-0001"].reviewed


def test_a_refused_edit_comes_back_with_what_was_typed(editor: TestClient, store: LocalStore) -> None:
    before = captions.read(store, VERSION)["pose-0001"]
    typed = [*TEXTS[:5], 'A "young" <woman> dances.']
    answer = editor.post(PAGE, data=form(editor, caption=typed), headers=ORIGIN)
    assert answer.status_code == 422
    assert "has the word &#39;young&#39; (age)" in answer.text
    assert "A &#34;young&#34; &lt;woman&gt; dances.</textarea>" in answer.text
    assert captions.read(store, VERSION)["pose-0001"] == before


def test_captions_that_stay_keep_what_they_claim(editor: TestClient, store: LocalStore) -> None:
    before = captions.read(store, VERSION)["pose-0001"]
    sent = form(editor)
    for name in ("caption", *CLAIMED):  # the first one is removed
        sent[name] = list(sent[name])[1:]  # type: ignore[call-overload]
    sent["caption"][3:] = ["A person nods along.", "Here is somebody."]  # type: ignore[index]
    assert editor.post(PAGE, data=sent, headers=ORIGIN).status_code == 303
    after = captions.read(store, VERSION)["pose-0001"]
    assert after.captions == (*before.captions[1:4], "A person nods along.", "Here is somebody.")
    assert after.claims == (*before.claims[1:4], (), ())
    page = editor.get(PAGE).text
    assert 'value="base=standing"' in page and "claims nothing: not checked" in page


def test_what_a_new_caption_claims_is_suggested_and_saved_when_it_has_been_seen(
    editor: TestClient, store: LocalStore
) -> None:
    before = captions.read(store, VERSION)["pose-0001"]
    sent = form(editor)
    sent["caption"][0] = "Somebody sits, both hands on the hips."  # type: ignore[index]
    answer = editor.post(PAGE, data=sent, headers=ORIGIN)
    assert answer.status_code == 422 and "[claims-suggested]" in answer.text
    assert captions.read(store, VERSION)["pose-0001"] == before
    shown = read_form(answer.text)
    assert shown["claims"][0] == "base=sitting, both_arms=on_hip"  # type: ignore[index]
    assert editor.post(PAGE, data=shown, headers=ORIGIN).status_code == 303
    after = captions.read(store, VERSION)["pose-0001"]
    assert after.captions[0] == "Somebody sits, both hands on the hips."
    assert after.claims == (("base=sitting", "both_arms=on_hip"), *before.claims[1:])


@pytest.mark.parametrize(("claims", "stated"), [("base=riding, lean=forward", 2), ("", 0)])
def test_what_somebody_says_that_a_caption_claims_is_taken(
    editor: TestClient, store: LocalStore, claims: str, stated: int
) -> None:
    sent = form(editor)
    sent["caption"][0], sent["claims"][0] = "Somebody sits in the saddle.", claims  # type: ignore[index]
    assert editor.post(PAGE, data=sent, headers=ORIGIN).status_code == 303
    assert captions.read(store, VERSION)["pose-0001"].claims[0] == tuple(claims.split(", "))[:stated]


def test_a_claim_that_nobody_knows_is_refused(editor: TestClient, store: LocalStore) -> None:
    before = captions.read(store, VERSION)["pose-0001"]
    sent = form(editor)
    sent["claims"][1] = 'mood="happy"'  # type: ignore[index]
    answer = editor.post(PAGE, data=sent, headers=ORIGIN)
    assert answer.status_code == 422 and "is no claim" in answer.text and "mood=&#34;happy&#34;" in answer.text
    assert captions.read(store, VERSION)["pose-0001"] == before


def test_an_editor_can_leave_a_cluster_without_captions(editor: TestClient, store: LocalStore) -> None:
    assert editor.post(PAGE, data=form(editor, caption=[""]), headers=ORIGIN).status_code == 303
    assert captions.read(store, VERSION)["pose-0001"].captions == ()
    assert "No captions." in editor.get(LIST).text


def test_an_edit_of_somebody_else_is_not_overwritten_unseen(editor: TestClient, store: LocalStore) -> None:
    mine = form(editor, caption=TEXTS)
    theirs = [f"A person of Eve's, in way {way}." for way in range(5)]
    edit(store, "pose-0001", theirs)
    answer = editor.post(PAGE, data=mine, headers=ORIGIN)
    assert answer.status_code == 409
    assert "eve has edited pose-0001 " in answer.text and "[edited-meanwhile]" in answer.text
    assert all(f"{text}</textarea>" in answer.text for text in TEXTS)
    assert all(text.replace("'", "&#39;") in answer.text for text in theirs)
    assert captions.read(store, VERSION)["pose-0001"].captions == tuple(theirs)
    again = mine | {"tag": field(answer.text, "tag"), "csrf": field(answer.text, "csrf")}
    assert editor.post(PAGE, data=again, headers=ORIGIN).status_code == 303
    assert captions.read(store, VERSION)["pose-0001"].captions == tuple(TEXTS)


def test_an_edit_of_another_cluster_is_no_conflict(editor: TestClient, store: LocalStore) -> None:
    mine = form(editor, caption=TEXTS)
    captions.edit(
        store, VERSION, "head-0003", TEXTS, reviewed=True, by="eve", tag=captions.read(store, VERSION)["head-0003"].tag
    )
    assert editor.post(PAGE, data=mine, headers=ORIGIN).status_code == 303


def test_edits_that_subset_c_does_not_know_yet_are_pointed_out(editor: TestClient, client: TestClient) -> None:
    assert "Subset C does not have" not in editor.get(LIST).text
    editor.post(PAGE, data=form(editor, caption=TEXTS), headers=ORIGIN)
    assert "The captions of 1 cluster have been edited since" in editor.get(LIST).text.replace("\n", " ")
    assert "Subset C does not have it yet" in editor.get(PAGE).text
    assert "<button" in editor.get(LIST).text.split("edited since")[1].split("<form")[0]
    assert "<button" not in client.get(LIST).text.split("edited since")[1].split("<form")[0]


def test_only_editors_see_the_form_and_can_send_it(
    editor: TestClient, client: TestClient, anonymous: TestClient, store: LocalStore
) -> None:
    before = captions.read(store, VERSION)
    sent = form(editor, caption=TEXTS)
    assert "<textarea" not in client.get(PAGE).text
    assert client.post(PAGE, data=sent, headers=ORIGIN).status_code == 403
    assert anonymous.post(PAGE, data=sent, headers=ORIGIN).status_code == 401
    assert anonymous.get(PAGE).status_code == 401
    assert captions.read(store, VERSION) == before


def test_a_form_of_another_site_is_refused(editor: TestClient, store: LocalStore) -> None:
    before = captions.read(store, VERSION)
    sent = form(editor, caption=TEXTS)
    assert editor.post(PAGE, data=sent | {"csrf": "guessed"}, headers=ORIGIN).status_code == 403
    assert editor.post(PAGE, data=sent, headers={"Origin": "http://evil.example"}).status_code == 403
    assert editor.post(PAGE, data=sent).status_code == 403
    assert captions.read(store, VERSION) == before


def test_captions_are_checked_while_they_are_typed(
    client: TestClient, anonymous: TestClient, store: LocalStore
) -> None:
    typed = {"caption": [*TEXTS, "A man waves.", ""]}
    answer = client.post("/laion-people/clusters/check", data=typed).json()
    assert "has the word 'man' (gender)" in answer["captions"][6]
    assert answer["captions"][:6] == [""] * 6 and answer["captions"][7] == ""
    assert answer["fault"] == answer["captions"][6]
    assert answer["claims"] == ["base=standing"] * 6 + ["", ""]
    mine = typed | {"claims": ["base=on_feet"] + [""] * 7, "seen": [""] * 8, "said": [""] * 8}
    assert client.post("/laion-people/clusters/check", data=mine).json()["claims"][:2] == [
        "base=on_feet",
        "base=standing",
    ]
    assert client.post("/laion-people/clusters/check", data={"caption": TEXTS}).json()["fault"] == ""
    assert "5 or more" in client.post("/laion-people/clusters/check", data={"caption": TEXTS[:2]}).json()["fault"]
    assert anonymous.post("/laion-people/clusters/check", data=typed).status_code == 401


@pytest.mark.parametrize(
    "address", [f"{LIST}/pose-9999", "/laion-people/clusters/v0009", f"{PAGE}?partition=demo/00000&shard=4"]
)
def test_what_is_not_there_is_not_found(editor: TestClient, address: str) -> None:
    assert editor.get(address).status_code == 404


@pytest.mark.parametrize("address", [f"{LIST}/..%2f", f"{PAGE}?partition=../..", f"{LIST}/<b>"])
def test_addresses_that_nobody_means_are_refused(editor: TestClient, address: str) -> None:
    assert editor.get(address).status_code in (307, 404, 422)
