"""croissant.json: a publication for machines, in Croissant 1.1 with its RAI vocabulary and PROV-O.

https://github.com/mlcommons/croissant/blob/main/docs/croissant-spec-1.1.md
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from laion_people.publication import statements
from laion_people.publication.card import bibtex, licence_url
from laion_people.publication.columns import CONFIGS, FIELDS, ColumnType, meaning, parse_type
from laion_people.publication.release import EDITIONS, Publication, PublishedFile

CONFORMS_TO = ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"]
TERMS = (  # of Croissant, as its specification advises to abbreviate them
    *("annotation", "arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "excludes", "extract"),
    *("field", "fileObject", "fileProperty", "fileSet", "format", "includes", "isArray", "isLiveDataset", "jsonPath"),
    *("key", "md5", "parentField", "path", "readLines", "recordSet", "references", "regex", "repeated", "replace"),
    *("samplingRate", "sdVersion", "separator", "source", "subField", "transform", "unArchive", "value"),
)
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "prov": "http://www.w3.org/ns/prov#",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{term: f"cr:{term}" for term in TERMS},
}
PARQUET, TAR = "application/x-parquet", "application/x-tar"
FORMATS = {".parquet": PARQUET, ".tar": TAR, ".json": "application/json", ".md": "text/markdown"}
NUMBERS = ("float", "double", "halffloat")
KINDS = {"string": "sc:Text", "bool": "sc:Boolean"} | dict.fromkeys(NUMBERS, "sc:Float")
KINDS |= {f"{sign}int{bits}": "sc:Integer" for sign in ("", "u") for bits in (8, 16, 32, 64)}
KEYS = {"subset_c": ("person_id", "kind"), "subset_d": ("person_id", "captioner")}  # of others the first column


def croissant(publication: Publication) -> dict[str, Any]:
    """The content of croissant.json."""
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": publication.name,
        "description": " ".join(
            (_purpose(publication), statements.edition(publication), statements.personal(publication))
        ),
        "version": publication.version,
        "datePublished": publication.at,
        "license": licence_url(publication.licence) or statements.NO_LICENCE,
        "url": "./",
        "creator": {"@type": "sc:Organization", "name": f"The publisher of {publication.name}"}
        | ({"email" if "@" in publication.contact else "url": publication.contact} if publication.contact else {}),
        "keywords": ["people", "human pose", "face mesh", "facial expression", "head position", "captions", "LAION"],
        "inLanguage": ["en"],
        "isLiveDataset": False,
        "citeAs": bibtex(publication),
        **_responsibility(publication),
        **_provenance(publication),
        "distribution": list(_distribution(publication)),
        "recordSet": list(_record_sets(publication)),
    }


def croissant_json(publication: Publication) -> bytes:
    """croissant.json of a publication."""
    return (json.dumps(croissant(publication), indent=1, ensure_ascii=False) + "\n").encode()


def _purpose(publication: Publication) -> str:
    collections = dict.fromkeys(partition.partition("/")[0] for partition in publication.partitions)
    return f"People in images of {', '.join(collections)}: {EDITIONS[publication.edition]}."


def _responsibility(publication: Publication) -> dict[str, Any]:
    """The RAI vocabulary, version 1.0: https://github.com/mlcommons/croissant/blob/main/docs/croissant-rai-spec.md"""
    plan = "A removal takes out the whole image, with everybody in it, and is followed by a new patch version."
    who = f"Removals: {publication.contact}." if publication.contact else statements.NO_CONTACT
    return {
        "rai:dataCollection": statements.STEPS["download"],
        "rai:dataCollectionType": ["Web Scraping", "Secondary Data analysis", "Software Collection"],
        "rai:dataCollectionRawData": "Addresses of images and alt texts, which LAION found on web pages of Common "
        "Crawl.",
        "rai:dataPreprocessingProtocol": [statements.STEPS["detect"], *statements.choices(publication)],
        "rai:dataManipulationProtocol": f"{statements.STEPS['compose']} {statements.faces(publication)}",
        "rai:dataAnnotationProtocol": list(statements.steps(publication).values())[2:],
        "rai:annotationsPerItem": "0 by people",
        "rai:machineAnnotationTools": [f"{name} (sha256 {digest})" for name, digest in publication.models.items()],
        "rai:dataBiases": list(statements.BIASES),
        "rai:dataLimitations": [
            *statements.limits(publication),
            *(f"Not for {use}." for use in statements.OUT_OF_SCOPE),
        ],
        "rai:dataUseCases": list(statements.USES),
        "rai:dataSocialImpact": statements.IMPACT,
        "rai:personalSensitiveInformation": [statements.personal(publication)],
        "rai:dataReleaseMaintenancePlan": f"{plan} {who}",
    }


def _provenance(publication: Publication) -> dict[str, Any]:
    """What it was made from, and by what (https://www.w3.org/TR/prov-o/)."""
    models = [
        {"@type": "prov:SoftwareAgent", "prov:label": name, "sha256": digest}
        for name, digest in publication.models.items()
    ]
    software = {"@type": "prov:SoftwareAgent", "prov:label": "LAION-People"}
    sources = [
        {"@id": f"urn:laion-people:metadata:{partition}", "@type": "prov:Entity", "prov:label": partition}
        for partition in publication.partitions
    ]
    return {
        "prov:wasDerivedFrom": sources,
        "prov:wasGeneratedBy": {
            "@type": "prov:Activity",
            "prov:label": f"publish {publication.name} {publication.version}, clusters {publication.clusters}",
            "prov:endedAtTime": publication.at,
            "prov:wasAssociatedWith": [software, *models],
        },
    }


def _distribution(publication: Publication) -> Iterator[dict[str, Any]]:
    """Every file with its checksum, and for each config the set of its tables.

    The pictures in the tars are no FileSet: mlcroissant unpacks an archive into a cache by its path alone, so that of
    two versions, or publications, side by side it would give the pictures of the first.
    """
    for file in publication.files:
        yield _file_object(file)
    for config in publication.configs():
        yield {
            "@type": "cr:FileSet",
            "@id": f"{config}-tables",
            "name": f"{config}-tables",
            "description": f"The tables of {config}: {CONFIGS.get(config, '')}.",
            "encodingFormat": PARQUET,
            "includes": f"{config}/train-*.parquet",
        }


def _file_object(file: PublishedFile) -> dict[str, Any]:
    suffix = "." + file.path.rsplit(".", 1)[-1]
    return {
        "@type": "cr:FileObject",
        "@id": file.path,
        "name": file.path,
        "contentUrl": file.path,
        "contentSize": f"{file.bytes} B",
        "encodingFormat": FORMATS.get(suffix, "application/octet-stream"),
        "sha256": file.sha256,
    }


def _record_sets(publication: Publication) -> Iterator[dict[str, Any]]:
    for config in publication.configs():
        columns = publication.columns[config]
        keys = KEYS.get(config, tuple(columns)[:1])
        yield {
            "@type": "cr:RecordSet",
            "@id": config,
            "name": config,
            "description": f"A row is {CONFIGS[config]}." if config in CONFIGS else config,
            "key": [{"@id": f"{config}/{key}"} for key in keys],
            "field": [
                _field(config, name, meaning(name, publication.edition), parse_type(kind))
                for name, kind in columns.items()
            ],
        }


def _field(config: str, column: str, means: str, kind: ColumnType) -> dict[str, Any]:
    """A column; of structs, with a field for each of theirs."""
    source = {"fileSet": {"@id": f"{config}-tables"}, "extract": {"column": column}}
    field = _typed(f"{config}/{column}", means, kind)
    if not kind.fields:
        return field | {"source": source}
    return field | {
        "subField": [
            _typed(f"{config}/{column}/{name}", FIELDS.get(name, ""), of)
            | {"source": source | {"transform": {"jsonPath": name}}}
            for name, of in kind.fields
        ]
    }


def _typed(path: str, means: str, kind: ColumnType) -> dict[str, Any]:
    shape = ",".join(map(str, kind.shape))
    return {"@type": "cr:Field", "@id": path, "name": path, "description": means} | (
        ({} if kind.fields else {"dataType": KINDS[kind.kind]})
        | ({"isArray": True, "arrayShape": shape} if shape else {})
    )
