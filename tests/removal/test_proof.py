"""The proof finds whatever is left of what was removed, and finds nothing where nothing is."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from laion_people import cli
from laion_people.engine.runner import Runner
from laion_people.removal.proof import prove
from laion_people.removal.wanted import NEAR
from laion_people.settings import Settings
from laion_people.steps.registry import STEPS
from laion_people.storage.removals import Removal, digest, path_of
from laion_people.storage.store import LocalStore
from laion_people.vision import phash
from laion_people.vision.images import decode
from tests.fakes import FakeModels, tar_of

PARTITION = "made/00000"
KEY = "000000077"


def picture(seed: int, quality: int = 95) -> bytes:
    """A picture that looks like no other."""
    blocks = np.random.default_rng(seed).integers(0, 255, (8, 12, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(blocks).resize((96, 64), Image.Resampling.BICUBIC).save(file, "JPEG", quality=quality)
    return file.getvalue()


@dataclass(frozen=True)
class Gone:
    """An image that was removed."""

    url: str = "http://example.org/of-me.jpg?size=(1)"
    sha256: str = hashlib.sha256(b"the body as it was fetched").hexdigest()
    sample: str = f"{PARTITION}/00000/{KEY}"
    person: str = f"{PARTITION}/00000/{KEY}/0"
    seed: int = 77

    def removal(self, near: int = -1) -> Removal:
        stored = picture(self.seed)
        return Removal(
            id="0123456789abcdef",
            at="2026-01-01T00:00:00+00:00",
            by="eve",
            reason="asked to",
            asked={"url": 1},
            urls=(digest(self.url),),
            pictures=tuple(map(digest, (self.sha256, hashlib.sha256(stored).hexdigest()))),
            samples=(digest(self.sample),),
            persons=(digest(self.person),),
            phashes=(looks(stored),),
            near=near,
        )


GONE = Gone()


def looks(data: bytes) -> str:
    return phash.text(np.asarray(decode(data)))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a store with pictures that look like no others, and with a removal of none of them."""
    store = LocalStore(tmp_path_factory.mktemp("finished"))
    with store.writer(f"images/{PARTITION}/00000.tar") as path:
        tar_of({f"{i:09d}": picture(i) for i in range(12)}, path)
    runner = Runner(store, Settings(), FakeModels(), STEPS)
    facts = {"base": "standing", "left_arm": "down", "mouth": "smiling", "eyes": "open", "turn": "camera"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("laion_people.steps.cluster.step.read_facts", lambda table: [facts] * len(table))
        for step in ("detect", "pose", "mesh", "clip_filter"):
            runner.run(step, PARTITION)
        for step in ("cluster", "label"):
            runner.run_release(step, [PARTITION])
    for step in ("assign", "compose", "embed", "caption"):
        runner.run(step, PARTITION)
    assert len(pq.read_table(store.root / f"people/{PARTITION}/00000.parquet")) > 5
    store.write(path_of(GONE.removal().id), GONE.removal().to_json())
    return store.root


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> LocalStore:
    shutil.copytree(finished, tmp_path / "copy")
    return LocalStore(tmp_path / "copy")


def record(store: LocalStore, **fields: Any) -> None:
    store.write(path_of("0123456789abcdef"), replace(GONE.removal(4), **fields).to_json())


def change_row(store: LocalStore, path: str, values: Mapping[str, Any], row: int = 2) -> None:
    """Changes values of a row of a table."""
    table = pq.read_table(store.root / path)
    rows = table.to_pylist()
    rows[row] |= values
    with store.writer(path) as local:
        pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), local, row_group_size=2)


def add_row(store: LocalStore, path: str, values: Mapping[str, Any]) -> None:
    """Adds a row to a table that may have none, with nothing but these values."""
    schema = pq.read_schema(store.root / path)
    row = {f.name: values.get(f.name, [] if pa.types.is_list(f.type) else _nothing(f.type)) for f in schema}
    with store.writer(path) as local:
        pq.write_table(pa.Table.from_pylist([row], schema=schema), local)


def _nothing(kind: pa.DataType) -> Any:
    return "" if pa.types.is_string(kind) else [0.0] * 4 if pa.types.is_fixed_size_list(kind) else 0


def add_members(store: LocalStore, path: str, members: Mapping[str, bytes]) -> None:
    with tarfile.open(store.root / path, "a") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def table(name: str) -> str:
    return f"{name}/{PARTITION}/00000.parquet"


TAR = f"images/{PARTITION}/00000.tar"
COMPOSED = f"subset_b/v0001/{PARTITION}/00000"
PERSON = {"person_id": GONE.person, "bbox": [0, 0, 1, 1], "cluster_id": "pose-0001", "claims": []}
LEFT: dict[str, Callable[[LocalStore], Any]] = {
    "a url in a table": lambda s: change_row(s, table("people"), {"url": GONE.url}),
    "a url with blanks around it": lambda s: change_row(s, table("people"), {"url": f" {GONE.url}\n"}),
    "a sha256 in a table": lambda s: change_row(s, table("people"), {"sha256": GONE.sha256}),
    "a sha256 in capitals": lambda s: change_row(s, table("people"), {"sha256": GONE.sha256.upper()}),
    "a key in a table": lambda s: change_row(s, table("people"), {"key": KEY}),
    "a hash of the looks in a table, where near ones were asked for": lambda s: (
        change_row(s, table("people"), {"phash": looks(picture(77))}),
        s.write(path_of("0123456789abcdef"), GONE.removal(0).to_json()),
    ),
    "a person in pose": lambda s: change_row(s, table("pose"), {"person_id": GONE.person}),
    "another person of the image": lambda s: change_row(s, table("facts"), {"person_id": f"{GONE.sample}/7"}),
    "a person in vectors": lambda s: change_row(s, table("vectors"), {"person_id": GONE.person}),
    "a person in assignments": lambda s: change_row(s, table("assignments/v0001"), {"person_id": GONE.person}),
    "an address in a caption": lambda s: change_row(s, table("people"), {"caption": f"see ({GONE.url}), or not"}),
    "an address in a link": lambda s: change_row(s, table("people"), {"caption": f'<a href="{GONE.url}">'}),
    "a person of a composition": lambda s: add_row(s, f"{COMPOSED}.parquet", {"people": [PERSON]}),
    "a background": lambda s: add_row(
        s, f"{COMPOSED}.parquet", {"composite_id": f"{PARTITION}/00000/00000", "background_key": KEY}
    ),
    "a composed picture's json": lambda s: add_members(
        s, f"{COMPOSED}.tar", {"00000.json": json.dumps({"people": [PERSON]}).encode()}
    ),
    "a sample of a tar": lambda s: add_members(s, TAR, {f"{KEY}.jpg": picture(5)}),
    "a json in a tar": lambda s: add_members(s, TAR, {"a.json": json.dumps({"a": [{"url": GONE.url}]}).encode()}),
    "a hash of the looks in a json": lambda s: add_members(
        s, TAR, {"a.json": json.dumps({"phash": looks(picture(77))}).encode()}
    ),
    "a broken json in a tar": lambda s: add_members(s, TAR, {"a.json": f'{{"sha256": "{GONE.sha256}",'.encode()}),
    "the words of a text in a tar": lambda s: add_members(s, TAR, {"a.txt": f"from <{GONE.sample}>.".encode()}),
    "a file of another kind in a tar": lambda s: add_members(s, TAR, {"a.xyz": b"the body as it was fetched"}),
    "a sample whose key cannot be printed": lambda s: (
        add_members(s, TAR, {"a\x07b.jpg": picture(5)}),
        record(s, samples=(digest(f"{PARTITION}/00000/a\\x07b"),)),
    ),
    "the bytes of a picture": lambda s: add_members(s, TAR, {"a.jpg": picture(77)}),
    "a picture that was compressed again": lambda s: add_members(s, TAR, {"a.jpeg": picture(77, 60)}),
    "a medoid in the fit": lambda s: s.write("clusters/v0001/fit.json", json.dumps({"m": GONE.person}).encode()),
    "a medoid in the table": lambda s: change_row(
        s, "clusters/v0001/clusters.parquet", {"medoid_person_id": GONE.person}
    ),
    "an entry of the sheets": lambda s: s.write(
        "clusters/v0001/sheets.json", json.dumps({"a.jpg": [{"person_id": GONE.person}]}).encode()
    ),
    "a note in captions.yaml": lambda s: s.write("clusters/v0001/captions.yaml", f"# as {GONE.person}\n".encode()),
    "a text of a manifest": lambda s: s.write(f"manifests/pose/{PARTITION}.json", json.dumps({"a": GONE.url}).encode()),
    "the name of a field": lambda s: s.write(f"totals/pose/{PARTITION}.json", json.dumps({GONE.sha256: 1}).encode()),
    "a published row": lambda s: publish(s, {"person_id": [GONE.person]}),
    "a published address": lambda s: publish(s, {"url": pa.array([GONE.url]).dictionary_encode()}),
    "a published list": lambda s: publish(s, {"a": pa.array([[{"b": [GONE.person]}]])}),
    "bytes in a table": lambda s: publish(s, {"url": pa.array([GONE.url.encode()], pa.binary())}),
    "a table's own metadata": lambda s: publish(s, {"a": [1]}, {"note": GONE.sha256}),
    "a published page": lambda s: s.write("releases/a/1.0.0/README.md", f"[x]({GONE.sample})".encode()),
    "a left-over": lambda s: s.write(".writing/tmp1-00000.json", json.dumps(GONE.sample).encode()),
}  # fmt: skip


def publish(store: LocalStore, columns: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
    rows = pa.table(dict(columns)).replace_schema_metadata(metadata)
    with store.writer("releases/a/1.0.0/people/train-00000-of-00001.parquet") as local:
        pq.write_table(rows, local)


@pytest.mark.parametrize("near", [-1, 0, 4])
def test_nothing_is_found_in_a_clean_store(copy: LocalStore, near: int) -> None:
    copy.write(path_of("0123456789abcdef"), GONE.removal(near).to_json())
    proof = prove(copy, threads=2)
    assert proof.faults == []
    assert proof.removals == 1 and proof.files == len([p for p in copy.list("") if not p.startswith("removals/")])


@pytest.mark.parametrize("left", LEFT)
def test_what_is_left_is_found(copy: LocalStore, left: str) -> None:
    before = copy.tags("")
    copy.write(path_of("0123456789abcdef"), GONE.removal(4).to_json())
    LEFT[left](copy)
    changed = {path for path, tag in copy.tags("").items() if before.get(path) != tag and "removals" not in path}
    faults = prove(copy).faults
    assert faults and {fault.partition(": ")[0] for fault in faults} == changed
    assert all(fault.endswith("[found-removed]") for fault in faults)
    assert not any(GONE.url in fault or GONE.sha256 in fault for fault in faults)


def test_a_line_says_where_it_was_found(copy: LocalStore) -> None:
    change_row(copy, table("people"), {"url": GONE.url}, row=3)
    add_members(copy, TAR, {"x.jpg": picture(77)})
    people, tar = sorted(prove(copy).faults, reverse=True)[:2]
    assert people.startswith(f"{table('people')}: row 3, column url: the address of a removed image")
    assert tar.startswith(f"{TAR}: x.jpg: ")


def test_a_picture_without_a_name_counts_if_it_may_be_a_removed_one_compressed_again(copy: LocalStore) -> None:
    again = picture(77, 8)
    apart = (int(looks(again), 16) ^ int(looks(picture(77)), 16)).bit_count()
    assert NEAR < apart < 10
    add_members(copy, TAR, {"x.jpg": again})
    for near, found in ((-1, 0), (apart - 1, 0), (apart, 1)):
        copy.write(path_of("0123456789abcdef"), GONE.removal(near).to_json())
        assert len(prove(copy).faults) == found
    add_members(copy, TAR, {"y.jpg": picture(77, 30)})  # 2 bits apart
    for near, found in ((-1, 1), (apart, 2)):
        copy.write(path_of("0123456789abcdef"), GONE.removal(near).to_json())
        assert len(prove(copy).faults) == found


def test_the_next_frame_of_a_video_counts_only_where_near_ones_were_asked_for(copy: LocalStore) -> None:
    frame = {"url": "https://example.org/next.jpg", "sha256": "5" * 64, "phash": looks(picture(77))}
    add_members(copy, TAR, {"x.jpg": picture(77, 80), "x.json": json.dumps(frame).encode()})
    for near, found in ((-1, 0), (0, 2)):  # by the picture, and by its json
        copy.write(path_of("0123456789abcdef"), GONE.removal(near).to_json())
        assert len(prove(copy).faults) == found
    add_members(copy, TAR, {"y.jpg": picture(77, 80), "y.json": json.dumps(frame | {"url": GONE.url}).encode()})
    copy.write(path_of("0123456789abcdef"), GONE.removal(-1).to_json())
    assert len(prove(copy).faults) == 3  # the address, and then the picture and the hash are not another file's


def test_the_row_that_says_that_an_image_was_removed_may_keep_its_key(copy: LocalStore) -> None:
    row = {"key": KEY, "status": "failed_to_download", "reason": "removed", "url": None}
    for values, found in ((row, 0), (row | {"reason": None, "error_message": "removed"}, 0), (row | {"reason": ""}, 1)):
        with copy.writer(f"images/{PARTITION}/00000.parquet") as local:
            pq.write_table(pa.Table.from_pylist([values]), local)
        assert len(prove(copy).faults) == found


def test_files_of_other_partitions_are_passed_over_where_some_are_chosen(copy: LocalStore) -> None:
    copy.write("metadata/other/part-00000.parquet", copy.read(table("people")))
    change_row(copy, table("people"), {"url": GONE.url})
    assert prove(copy, ["other/00000"]).faults == []
    assert len(prove(copy, [PARTITION]).faults) == 1
    publish(copy, {"url": [GONE.url]})
    assert len(prove(copy, ["other/00000"]).faults) == 1
    copy.write("metadata/other/part-00001.parquet", b"".join([GONE.url.encode()]))
    assert len(prove(copy).faults) == 2  # the collection as it came is not looked at


BROKEN: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "a table of no Parquet": (table("people"), lambda data: b"PAR1 no table"),
    "a table that is cut off": (table("people"), lambda data: data[: len(data) // 2]),
    "a damaged page": (table("people"), lambda data: data[:40] + bytes(200) + data[240:]),
    "a tar that is cut off": (TAR, lambda data: data[: len(data) // 2]),
    "a tar of nonsense": (TAR, lambda data: b"x" * 2048),
    "no JSON": ("clusters/v0001/fit.json", lambda data: data[:-20]),
    "JSON that is too deep": ("clusters/v0001/fit.json", lambda data: b"[" * 100_000),
    "an empty table": (table("pose"), lambda data: b""),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_what_cannot_be_read_is_a_fault(copy: LocalStore, broken: str) -> None:
    path, change = BROKEN[broken]
    copy.write(path, change(copy.read(path)))
    [fault] = prove(copy).faults
    assert fault.startswith(f"{path}: cannot be read") and fault.endswith("[unread-file]") and "\n" not in fault


def test_what_is_being_written_may_be_half_there(copy: LocalStore) -> None:
    copy.write(".writing/tmp1-00000.parquet", b"PAR1 half")
    assert prove(copy).faults == []


def test_of_a_file_full_of_it_a_few_lines_are_enough(copy: LocalStore) -> None:
    publish(copy, {"url": [GONE.url] * 1000})
    faults = prove(copy).faults
    assert len(faults) == 21 and "and 980 more" in faults[-1]


def test_a_store_without_removals_is_not_read(copy: LocalStore) -> None:
    copy.delete(path_of("0123456789abcdef"))
    copy.write(table("people"), b"")
    assert prove(copy).files == 0 and prove(copy).faults == []


def test_the_command(copy: LocalStore, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["audit", "--stage", "removals", "--store", str(copy.root)]
    assert cli.main(command) == 0
    assert "nothing of 1 removals is found" in capsys.readouterr().err
    change_row(copy, table("people"), {"url": GONE.url})
    assert cli.main(command) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and said[-1].startswith("laion-people: audit removals: 1 fault, the first: people/made")
    assert cli.main(["audit", "--store", str(copy.root)]) == 2
