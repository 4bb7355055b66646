"""Writes the built-in sample's LAION-style metadata part and its broken files, from include/sample/truth.json.

    python tools/make_sample_metadata.py [--sample include/sample]

Rows: every picture with a fitting caption, some again with an unrelated one, and one for each thing that can go wrong.
The columns are those of LAION-2B-en. `captions` of truth.json then says for each URL's path whether its caption fits.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parent / "render_people"))
from captions import unrelated_caption

BASE_URL = "http://127.0.0.1:18484/"
PART = "part-00000-sample.parquet"
UNRELATED, EMPTY = 12, 3
LONG_CAPTION_WORDS = 300
SCHEMA = pa.schema(
    [
        ("SAMPLE_ID", pa.int64()),
        ("URL", pa.string()),
        ("TEXT", pa.string()),
        ("HEIGHT", pa.int32()),
        ("WIDTH", pa.int32()),
        ("LICENSE", pa.string()),
        ("NSFW", pa.string()),
        ("similarity", pa.float64()),
    ]
)


def _row(path: str | None, text: str | None, image: dict | None = None, nsfw: str = "UNLIKELY") -> dict:
    """One row. `path`: below the base URL, or a whole URL, or None."""
    url = BASE_URL + path if path and path.startswith("images/") else path
    width, height = (image["width"], image["height"]) if image else (640, 480)
    return {"URL": url, "TEXT": text, "WIDTH": width, "HEIGHT": height, "LICENSE": "?", "NSFW": nsfw}


def make_rows(images: list[dict], rng: random.Random) -> tuple[list[dict], dict[str, bool]]:
    """All rows in a shuffled order, and which captions fit (by the URL's path and query)."""
    rows = [_row(image["file"], image["caption"], image) for image in images]
    fits = {image["file"]: True for image in images}
    peopled = [image for image in images if image["people"]]
    chosen = rng.sample(peopled, UNRELATED + EMPTY + 2)
    for image in chosen[:UNRELATED]:
        rows.append(_row(f"{image['file']}?copy=1", unrelated_caption(rng), image))
        fits[f"{image['file']}?copy=1"] = False
    for image in chosen[UNRELATED : UNRELATED + EMPTY]:
        rows.append(_row(f"{image['file']}?copy=empty", "", image))
        fits[f"{image['file']}?copy=empty"] = False
    long, flagged = chosen[-2:]
    words = long["caption"].split()
    text = " ".join((words * LONG_CAPTION_WORDS)[:LONG_CAPTION_WORDS])
    rows.append(_row(f"{long['file']}?copy=long", text, long))
    fits[f"{long['file']}?copy=long"] = True
    rows.append(_row(f"{flagged['file']}?copy=nsfw", flagged["caption"], flagged, nsfw="NSFW"))
    fits[f"{flagged['file']}?copy=nsfw"] = True
    rows += [
        _row("images/missing.jpg", "A picture that is gone"),
        _row(None, "A row without an address"),
        _row("not a url", "A row with a broken address"),
        _row("images/broken/not_an_image.jpg", "An error page instead of a picture"),
        _row("images/broken/truncated.jpg", "A picture that ends too early"),
    ]
    rng.shuffle(rows)
    for number, row in enumerate(rows):
        row["SAMPLE_ID"] = 1_000_000 + 7919 * number
        row["similarity"] = round(rng.uniform(0.28, 0.38), 6)
    return rows, fits


def make_broken(folder: Path, whole: Path) -> None:
    """A text file with the name of a JPEG, and the first third of a real JPEG."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "not_an_image.jpg").write_text("<html><body><h1>404 Not Found</h1></body></html>\n")
    data = whole.read_bytes()
    (folder / "truncated.jpg").write_bytes(data[: len(data) // 3])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=Path, default=Path("include/sample"))
    parser.add_argument("--seed", type=int, default=5)
    args = parser.parse_args()

    truth_file = args.sample / "truth.json"
    truth = json.loads(truth_file.read_text())
    rows, truth["captions"] = make_rows(truth["images"], random.Random(args.seed))
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), args.sample / PART)
    make_broken(args.sample / "images" / "broken", args.sample / truth["images"][0]["file"])
    truth_file.write_text(json.dumps(truth, indent=1) + "\n")
    print(f"{len(rows)} rows in {args.sample / PART}")


if __name__ == "__main__":
    main()
