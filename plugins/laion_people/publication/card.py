"""The data set card: README.md as the Hugging Face hub reads it, YAML first and then Markdown.

All that comes from the record is hostile here: names, reasons and addresses may hold anything that Markdown, HTML or
YAML would obey.
"""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from laion_people.errors import one_line
from laion_people.publication import statements
from laion_people.publication.choice import REASONS
from laion_people.publication.columns import CONFIGS, meaning
from laion_people.publication.release import EDITIONS, Publication, PublishedFile
from laion_people.reports.templating import count, plain, size

FOLDER = Path(__file__).parent
TRUTH: dict[str, Any] = json.loads((FOLDER / "truth.json").read_text(encoding="utf-8"))
SPECIAL = re.compile(r"([\\`*_{}\[\]<>|~#!&$@]|(?<=www)\.|:(?=//))")  # of Markdown, and of what the hub makes links of
SHOWN = ("rows of ", "pictures of ")  # of numbers that stand in the table of configs
FUNNEL = "funnel: "  # how the names of those numbers begin that are stages of the funnel
TASKS = {
    "links": ["text-to-image", "image-to-text", "object-detection", "keypoint-detection"],
    "geometry": ["keypoint-detection", "text-generation"],
}
SIZES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")
LICENCES = {  # of https://huggingface.co/docs/hub/repositories-licenses; any other is "other", with a name
    "cc0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "pddl": "https://opendatacommons.org/licenses/pddl/1-0/",
    "odc-by": "https://opendatacommons.org/licenses/by/1-0/",
    "odbl": "https://opendatacommons.org/licenses/odbl/1-0/",
    "cdla-permissive-2.0": "https://cdla.dev/permissive-2-0/",
    "cdla-sharing-1.0": "https://cdla.dev/sharing-1-0/",
    "apache-2.0": "https://www.apache.org/licenses/LICENSE-2.0",
    "mit": "https://opensource.org/license/mit",
    **{
        f"cc-{terms}-4.0": f"https://creativecommons.org/licenses/{terms}/4.0/"
        for terms in ("by", "by-sa", "by-nc", "by-nd", "by-nc-sa", "by-nc-nd")
    },
}
ADDRESS = re.compile(r"https?://[!-'*-;=?-Z_a-z~]{1,200}", re.ASCII)
MAIL = re.compile(r"[\w.+-]{1,100}@[\w.-]{1,100}", re.ASCII)


class Stage(NamedTuple):
    """A line of the funnel."""

    name: str
    unit: str
    value: int
    lost: Sequence[tuple[str, int]]
    source: str


def card(publication: Publication) -> str:
    """README.md of a publication."""
    head = yaml.safe_dump(front_matter(publication), sort_keys=False, allow_unicode=False, width=120)
    return f"---\n{head}---\n\n{_body(publication)}"


def front_matter(publication: Publication) -> dict[str, Any]:
    """What the hub reads. The Parquet files say the columns' types themselves, so that there are no features here.

    Each text is one line: readers look for the line ``---`` that ends it before they read it as YAML.
    """
    languages = ["en"] + ["multilingual"] * any("multi" in c or "nolang" in c for c in _collections(publication))
    return {
        **_licence(publication.licence),
        "pretty_name": one_line(plain(f"{publication.name} {publication.version}")),
        "language": languages,
        "task_categories": TASKS[publication.edition],
        "size_categories": [size_category(max(map(publication.rows, publication.configs()), default=0))],
        "annotations_creators": ["machine-generated"],
        "language_creators": ["found", "machine-generated"],
        "source_datasets": ["extended|other"],
        "tags": ["laion", "people", "human-pose", "face-mesh", "facial-expression", "captions", "croissant"],
        "configs": [
            {"config_name": config, "data_files": [{"split": "train", "path": f"{config}/train-*.parquet"}]}
            | ({"default": True} if i == 0 else {})
            for i, config in enumerate(map(one_line, loadable(publication)))
        ],
    }


def loadable(publication: Publication) -> list[str]:
    """The configs that have rows: `datasets` fails for one that has none
    (https://github.com/huggingface/datasets/pull/8401)."""
    return [config for config in publication.configs() if publication.rows(config)]


def size_category(rows: int) -> str:
    """The hub's word for a number of rows."""
    limits = [10 ** (3 + i) for i in range(len(SIZES))]
    at = sum(rows >= limit for limit in limits)
    if at in (0, len(SIZES)):
        return "n<1K" if at == 0 else f"n>{SIZES[-1]}"
    return f"{SIZES[at - 1]}<n<{SIZES[at]}"


def bibtex(publication: Publication) -> str:
    """How to cite a publication."""
    name, version = _safe(publication.name), _safe(publication.version)
    collections = ", ".join(map(_safe, _collections(publication)))
    return "\n".join(
        [
            f"@misc{{{name.replace(' ', '-').replace(',', '')}-{version.replace(' ', '-').replace(',', '')},",
            f"  title = {{{name}: people, poses, faces and captions, version {version}}},",
            f"  year = {{{_safe(publication.at[:4])}}},",
            f"  note = {{Made with LAION-People from {collections}}}",
            "}",
        ]
    )


def with_same_models(publication: Publication) -> bool:
    """Whether the publication was made with the models by which the measured truth (truth.json) was found."""
    return TRUTH["models"].items() <= publication.models.items()


def licence_url(licence: str) -> str:
    """Where a licence can be read; "" for one that is not known here."""
    return LICENCES.get(licence.lower(), licence if ADDRESS.fullmatch(licence) else "")


def _licence(licence: str) -> dict[str, str]:
    if not licence:
        return {"license": "unknown"}
    if licence.lower() in LICENCES:
        return {"license": licence.lower()}
    link = {"license_link": licence} if ADDRESS.fullmatch(licence) else {}
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9.]+", "-", licence.lower()).strip("-")} | link


def _safe(text: str) -> str:
    """What BibTeX, in a block of code, takes as text."""
    return re.sub(r"[^A-Za-z0-9 .,-]", "", text)


def _collections(publication: Publication) -> list[str]:
    return list(dict.fromkeys(partition.partition("/")[0] for partition in publication.partitions))


def _body(publication: Publication) -> str:
    environment = Environment(  # noqa: S701 - Markdown: the filters below escape
        loader=FileSystemLoader(FOLDER), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    filters = (md, code, word, amount, rate, count, total)
    environment.filters |= {text.__name__: text for text in filters} | {"json": json.dumps, "html": _html, "size": size}
    by_config: dict[str, list[PublishedFile]] = {config: [] for config in publication.configs()}
    for file in publication.files:
        if file.config:
            by_config[file.config].append(file)
    return environment.get_template("card.md.j2").render(
        p=publication,
        people=max(map(publication.rows, ("people", "poses")), default=0),
        said=statements,
        collections=_collections(publication),
        editions=EDITIONS,
        configs=CONFIGS,
        loadable=loadable(publication),
        meaning=meaning,
        reasons=REASONS,
        contact=_link(publication.contact),
        files=by_config,
        tars=(tars := [file for file in publication.files if file.path.endswith(".tar")]),
        pictures=sum(tar.rows for tar in tars),
        funnel=list(_funnel(publication)),
        others=[(name, n) for name, n in publication.numbers.items() if not name.startswith((FUNNEL, *SHOWN))],
        left_out=[
            (config, reason, n) for config, reasons in publication.left_out.items() for reason, n in reasons.items()
        ],
        truth=TRUTH,
        same_models=with_same_models(publication),
        bibtex=bibtex(publication),
    )


def _funnel(publication: Publication) -> Iterator[Stage]:
    for name, number in publication.numbers.items():
        if name.startswith(FUNNEL):
            lost = sorted(number.get("lost", {}).items(), key=lambda item: -item[1])
            yield Stage(name.removeprefix(FUNNEL), number.get("unit", ""), number["value"], lost, number["source"])


def md(text: object) -> str:
    """Text that Markdown, in a table too, shows as it is: one line without markup, HTML, links or hidden characters."""
    return SPECIAL.sub(r"\\\1", one_line(plain(str(text)), 500))


def code(text: object) -> str:
    """Text as code, in a table too; as plain text where it holds what would end the code."""
    line = one_line(plain(str(text)), 500)
    return md(line) if not line or re.search(r"[`|\\]", line) else f"`{line}`"


def word(text: str) -> str:
    """Text as a name in a program."""
    return re.sub(r"\W", "_", text, flags=re.ASCII)


def amount(value: object) -> str:
    """A number for people, other values as text."""
    return count(value) if isinstance(value, int) and not isinstance(value, bool) else md(value)


def total(files: Sequence[PublishedFile]) -> int:
    """Bytes of files."""
    return sum(file.bytes for file in files)


def rate(pair: Sequence[int]) -> str:
    """``[part, whole]`` as a share with its Wilson interval of 95 %."""
    part, whole = pair
    z, share = 1.96, part / whole
    middle = (share + z * z / (2 * whole)) / (1 + z * z / whole)
    half = z * math.sqrt(share * (1 - share) / whole + z * z / (4 * whole**2)) / (1 + z * z / whole)
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return f"{part} of {whole}, {100 * share:.1f}\N{NO-BREAK SPACE}% ({100 * low:.1f} to {100 * high:.1f})"


def _html(text: str) -> str:
    return html.escape(one_line(plain(text)))


def _link(contact: str) -> str:
    """A contact as a link of Markdown, if it is an address at all."""
    if ADDRESS.fullmatch(contact):
        return f"<{contact}>"
    return f"[{md(contact)}](mailto:{contact})" if MAIL.fullmatch(contact) else md(contact)
