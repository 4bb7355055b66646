"""A publication is loaded as people load it: `datasets`, webdataset, pandas, Croissant, and sha256sum."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from laion_people.publication.release import Publication
from laion_people.publication.tables import GEOMETRY
from tests.publication.conftest import EDITIONS
from tests.publication.small import publish_small

pytestmark = pytest.mark.usefixtures("offline")
CONFIGS = ["people", "poses", "meshes", "facts", "subset_a", "subset_b", "subset_c", "clusters"]
WHERE = [("links", config) for config in CONFIGS] + [("geometry", config) for config in GEOMETRY if config in CONFIGS]


def rows(folder: Path, config: str) -> list[dict[str, Any]]:
    """The rows of a config as pandas reads them from its files, in order."""
    import pandas as pd

    table = pd.concat([pd.read_parquet(path) for path in sorted((folder / config).glob("*.parquet"))])
    return list(table.to_dict("records"))


def ids(found: list[Mapping[str, Any]], prefix: str = "") -> list[str]:
    names = ("person_id", "composite_id", "cluster_id")
    (name,) = [name for name in names if f"{prefix}{name}" in found[0]][:1]
    values = [each[f"{prefix}{name}"] for each in found]
    return [value.decode() if isinstance(value, bytes) else value for value in values]


@pytest.mark.parametrize(("edition", "config"), WHERE)
@pytest.mark.parametrize("streaming", [False, True], ids=["loaded", "streamed"])
def test_datasets_loads_each_config(
    made: dict[str, tuple[Path, Publication]], edition: str, config: str, streaming: bool
) -> None:
    from datasets import load_dataset

    folder, publication = made[edition]
    loaded = list(load_dataset(str(folder), config, split="train", streaming=streaming))
    assert len(loaded) == publication.rows(config) > 0
    assert ids(loaded) == ids(rows(folder, config))
    assert list(loaded[0]) == list(publication.columns[config])


def test_datasets_loads_the_others_where_a_config_is_empty(tmp_path: Path) -> None:
    from datasets import get_dataset_config_names, load_dataset

    publication = publish_small(tmp_path)
    folder = tmp_path / "releases" / publication.name / publication.version
    assert publication.rows("subset_d") == 0
    found = get_dataset_config_names(str(folder))
    assert found == [config for config in publication.configs() if config != "subset_d"]
    assert load_dataset(str(folder), "subset_c", split="train").num_rows == publication.rows("subset_c")


def test_datasets_finds_the_configs_and_has_people_for_the_default(made: dict[str, tuple[Path, Publication]]) -> None:
    from datasets import get_dataset_config_names, load_dataset

    folder, publication = made["links"]
    assert get_dataset_config_names(str(folder)) == publication.configs()
    assert load_dataset(str(folder), split="train").num_rows == publication.rows("people")


def test_tables_lie_in_several_files_which_are_read_together(made: dict[str, tuple[Path, Publication]]) -> None:
    _, publication = made["links"]
    assert len([f for f in publication.files if f.config == "poses"]) > 1


def test_webdataset_reads_the_pictures_with_captions_and_rows(made: dict[str, tuple[Path, Publication]]) -> None:
    import webdataset

    folder, _ = made["links"]
    tars = sorted(map(str, (folder / "subset_b").glob("*.tar")))
    assert len(tars) > 1
    samples = list(webdataset.WebDataset(tars, shardshuffle=False).decode("pil"))
    of_table = {row["composite_id"]: row for row in rows(folder, "subset_b")}
    assert [sample["json"]["composite_id"] for sample in samples] == list(of_table)
    for sample in samples:
        row = of_table[sample["json"]["composite_id"]]
        assert sample["txt"] == row["caption"]
        assert sample["jpg"].size == (row["width"], row["height"])


@pytest.mark.parametrize("edition", ["geometry", "without-pictures"])
def test_an_edition_without_pictures_has_none(made: dict[str, tuple[Path, Publication]], edition: str) -> None:
    folder, _ = made[edition]
    assert not [path for path in folder.rglob("*") if path.suffix in (".tar", ".jpg")]


def test_pandas_joins_the_tables_by_person(made: dict[str, tuple[Path, Publication]]) -> None:
    import pandas as pd

    folder, publication = made["links"]
    tables = {name: pd.DataFrame(rows(folder, name)) for name in ("people", "poses", "meshes", "facts")}
    joined = tables["people"]
    for name in ("poses", "meshes", "facts"):
        joined = joined.merge(
            tables[name].drop(columns=["image_width", "image_height"], errors="ignore"), on="person_id"
        )
    assert len(joined) == publication.rows("people")


def test_boxes_are_placed_on_the_image_by_their_shares(made: dict[str, tuple[Path, Publication]]) -> None:
    for row in rows(made["links"][0], "people"):
        width, height = row["image_width"], row["image_height"]
        placed = row["bbox_normalized"] * [width, height, width, height]
        assert abs(placed - row["bbox"]).max() < 0.01


@pytest.mark.parametrize("edition", EDITIONS)
def test_mlcroissant_finds_nothing_wrong_and_reads_all_rows(
    made: dict[str, tuple[Path, Publication]], edition: str
) -> None:
    import mlcroissant

    folder, publication = made[edition]
    dataset = mlcroissant.Dataset(jsonld=str(folder / "croissant.json"))
    assert dataset.metadata.ctx.issues.report() == ""
    assert str(dataset.metadata.ctx.conforms_to.value).endswith("/1.1")
    assert [each.uuid for each in dataset.metadata.record_sets] == publication.configs()
    for config in publication.configs():
        if publication.rows(config):
            records = list(dataset.records(config))
            assert ids(records, f"{config}/") == ids(rows(folder, config))


def test_mlcroissant_reads_structs_and_arrays_as_they_are(made: dict[str, tuple[Path, Publication]]) -> None:
    import mlcroissant

    folder, _ = made["links"]
    dataset = mlcroissant.Dataset(jsonld=str(folder / "croissant.json"))
    for record, row in zip(dataset.records("facts"), rows(folder, "facts"), strict=True):
        told = [
            (fact["facts/facts/name"].decode(), fact["facts/facts/value"].decode()) for fact in record["facts/facts"]
        ]
        assert told == [(fact["name"], fact["value"]) for fact in row["facts"]]
    for record, row in zip(dataset.records("poses"), rows(folder, "poses"), strict=True):
        assert record["poses/keypoints"] == pytest.approx(list(row["keypoints"]))


def test_croissant_names_every_file_with_its_checksum(made: dict[str, tuple[Path, Publication]]) -> None:
    folder, publication = made["links"]
    described = json.loads((folder / "croissant.json").read_bytes())
    objects = {each["contentUrl"]: each for each in described["distribution"] if each["@type"] == "cr:FileObject"}
    assert objects.keys() == {file.path for file in publication.files}
    for path, each in objects.items():
        data = (folder / path).read_bytes()
        assert each["sha256"] == hashlib.sha256(data).hexdigest()
        assert each["contentSize"] == f"{len(data)} B"


def test_croissant_tells_of_responsibility_and_provenance(made: dict[str, tuple[Path, Publication]]) -> None:
    described = json.loads((made["links"][0] / "croissant.json").read_bytes())
    assert described["conformsTo"] == ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"]
    assert described["license"] == "https://creativecommons.org/licenses/by/4.0/"
    assert [each["prov:label"] for each in described["prov:wasDerivedFrom"]] == ["demo/00000"]
    agents = described["prov:wasGeneratedBy"]["prov:wasAssociatedWith"]
    assert agents[0]["prov:label"] == "LAION-People"
    assert all(len(each["sha256"]) == 64 for each in agents[1:])
    for name in ("dataBiases", "dataLimitations", "dataUseCases", "personalSensitiveInformation", "dataCollection"):
        assert described[f"rai:{name}"]
    assert "removals@example.org" in described["rai:dataReleaseMaintenancePlan"]


@pytest.mark.parametrize("edition", EDITIONS)
def test_sha256sum_checks_every_file_but_the_record(made: dict[str, tuple[Path, Publication]], edition: str) -> None:
    folder, _ = made[edition]
    check = ["sha256sum", "--check", "--strict", "checksums.sha256"]
    done = subprocess.run(check, cwd=folder, capture_output=True, text=True, check=True)
    checked = {line.removesuffix(": OK") for line in done.stdout.splitlines()}
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files - checked == {"release.json", "checksums.sha256"}


def test_sha256sum_finds_a_byte_that_is_another(made: dict[str, tuple[Path, Publication]], tmp_path: Path) -> None:
    folder, publication = made["links"]
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", folder, copy], check=True)
    damaged = copy / publication.files[0].path
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    done = subprocess.run(
        ["sha256sum", "--check", "--quiet", "checksums.sha256"], cwd=copy, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stdout == f"{publication.files[0].path}: FAILED\n"
