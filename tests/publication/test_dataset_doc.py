"""docs/dataset.md: its programs run, and it names every config and column in the words of the card."""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from laion_people.publication.columns import COLUMNS, CONFIGS
from laion_people.publication.release import Publication
from laion_people.storage.store import ROOT

pytestmark = pytest.mark.usefixtures("offline")
PAGE = (ROOT / "docs" / "dataset.md").read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def run(program: str, folder: Path | str) -> dict[str, Any]:
    names: dict[str, Any] = {"DIR": str(folder)}
    exec(compile(program, "docs/dataset.md", "exec"), names)
    return names


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda text: text.split()[1])
def test_programs_of_the_page_run(
    made: dict[str, tuple[Path, Publication]],
    program: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(program, made["links"][0])
    assert capsys.readouterr().out or "def " in program


def test_a_person_is_cut_out_of_the_original_whatever_its_size_and_turn() -> None:
    (program,) = [text for text in PROGRAMS if "def crop" in text]
    crop = run(program, "")["crop"]
    image = Image.new("RGB", (400, 200), "white")  # lies on its side; upright it is 200 by 400
    image.paste("red", (100, 50, 200, 150))
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned right by a quarter
    image.save(file, "PNG", exif=exif)
    body = file.getvalue()
    row = {"sha256": hashlib.sha256(body).hexdigest(), "bbox_normalized": [0.25, 0.25, 0.75, 0.5]}
    person = crop(body, row)
    assert person.size == (100, 100)
    assert person.convert("RGB").getcolors() == [(100 * 100, (255, 0, 0))]
    assert crop(body + b"x", row) is None


def test_who_has_left_is_taken_out_of_copies(tmp_path: Path) -> None:
    (program,) = [text for text in PROGRAMS if "def without_removed" in text]
    ids = ["a/0/0/1/0", "a/0/0/1/1", "a/0/0/2/0", "a/0/0/2/1"]
    gone = [hashlib.sha256(text.encode()).hexdigest() for text in ("a/0/0/1/0", "a/0/0/2")]
    pd.DataFrame({"digest": gone}).to_parquet(tmp_path / "tombstones.parquet")
    rows = pd.DataFrame({"person_id": ids})
    left = run(program, "")["without_removed"](rows, tmp_path / "tombstones.parquet")
    assert list(left.person_id) == ["a/0/0/1/1"]


def test_every_config_and_column_is_told_in_the_words_of_the_card() -> None:
    lines = PAGE.splitlines()
    missing = [name for name, text in {**CONFIGS, **COLUMNS}.items() if f"| `{name}` | {text} |" not in lines]
    assert missing == []
