from __future__ import annotations

import pytest

from laion_people.errors import LaionPeopleError
from laion_people.storage.manifest import FileEntry, Manifest, ShardEntry
from laion_people.storage.store import LocalStore
from laion_people.storage.totals import TotalsReader, write_totals


def manifest(step: str, partition: str, rows: int) -> Manifest:
    sidecar = FileEntry("x.tar", 30, "b")
    shards = tuple(ShardEntry(i, f"{i}.parquet", rows, 100, "a", (sidecar,)) for i in range(2))
    return Manifest(
        step=step,
        partition=partition,
        run_id="run",
        params={"p": 1},
        inputs=(),
        shards=shards,
        rows_in=9,
        rows=2 * rows,
        rejected={"bad": 3},
    )


def test_totals_tell_the_sums_of_each_step_and_partition(store: LocalStore) -> None:
    write_totals(store, manifest("detect", "c/00000", 3), planned=5)
    write_totals(store, manifest("pose", "c/00000", 2), planned=2)
    totals = TotalsReader(store).read()["c/00000"]
    detect = totals["detect"]
    assert (detect.rows_in, detect.rows, detect.rejected, detect.bytes) == (9, 6, {"bad": 3}, 260)
    assert (detect.shards, detect.planned, detect.done, totals["pose"].done) == (2, 5, False, True)


def test_a_reader_sees_changes_and_reads_nothing_twice(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in range(3):
        write_totals(store, manifest("detect", f"c/0000{part}", 3), planned=2)
    reader = TotalsReader(store)
    reader.read()
    read: list[str] = []
    write_totals(store, manifest("detect", "c/00001", 7), planned=2)
    monkeypatch.setattr(store, "read", lambda path: read.append(path) or type(store).read(store, path))
    store.delete("totals/detect/c/00002.json")
    totals = reader.read()
    assert read == ["totals/detect/c/00001.json"]
    assert totals["c/00001"]["detect"].rows == 14
    assert "c/00002" not in totals


def test_damaged_totals_say_what_to_do(store: LocalStore) -> None:
    store.write("totals/detect/c/00000.json", b"{")
    with pytest.raises(LaionPeopleError, match=r"^totals/detect/c/00000\.json .*\[damaged-sums\]$"):
        TotalsReader(store).read()


@pytest.mark.parametrize("name", [".DS_Store", "00000.json.bak", "00000 (1).json", "._00000.json", "old/00000.json"])
def test_strangers_among_totals_are_passed_over(store: LocalStore, name: str) -> None:
    write_totals(store, manifest("detect", "c/00000", 3), planned=2)
    store.write(f"totals/detect/c/{name}", store.read("totals/detect/c/00000.json"))
    assert list(TotalsReader(store).read()) == ["c/00000"]
