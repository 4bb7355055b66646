"""Makes a publication: chooses rows, streams them into files, and shows the whole when its record is written."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO

import pyarrow as pa
import pyarrow.parquet as pq

from laion_people.errors import UsageError
from laion_people.publication import release
from laion_people.publication.card import card
from laion_people.publication.checksums import CHECKSUMS, checksums
from laion_people.publication.choice import Choice, Options
from laion_people.publication.content import Content, FromStore
from laion_people.publication.croissant import croissant_json
from laion_people.publication.numbers import Tally, recorded
from laion_people.publication.release import Publication
from laion_people.publication.sources import Sources, chosen_partitions, chosen_version
from laion_people.publication.tables import Pseudonyms
from laion_people.publication.writing import LIMITS, Limits, Staging
from laion_people.settings import Settings
from laion_people.storage.removals import read_removed
from laion_people.storage.store import Store

log = logging.getLogger(__name__)

KEY = "keys/publications"  # what ids of the edition geometry are made with; not to be handed out
README, CROISSANT, TOMBSTONES = "README.md", "croissant.json", "tombstones.parquet"


def publish(
    store: Store,
    target: Store,
    name: str,
    version: str,
    partitions: Sequence[str],
    options: Options,
    settings: Settings,
    limits: Limits = LIMITS,
    run_id: str = "",
) -> Publication:
    """Publishes partitions of a store (none given: all with captions of the cluster version) in ``target``.

    What the run ``run_id`` (of an Airflow DAG) has published is left as it is when its task is tried again.

    Raises UsageError for a name, version, partition or cluster version that cannot be, for a version that exists and
    when nothing would be published, LaionPeopleError when a table is not finished, not audited, outdated or damaged.
    """
    check_names(name, version)
    if run_id and (before := release.read(target, name, version)) and before.extra.get("run_id") == run_id:
        log.info("%s %s: published before by this run", name, version)
        return before
    if not settings.contact:
        log.warning("nobody is named who takes people out of %s: set LAION_PEOPLE_CONTACT", name)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    clusters = chosen_version(store, settings.cluster_version)
    keys = chosen_partitions(store, clusters, partitions)
    with Staging(target, name, version, limits) as staging:
        release.check_edition(target, name, options.edition)
        sources = Sources(store, clusters, keys)
        choice = Choice(sources, options, read_removed(store))
        if not choice.count():
            raise UsageError(
                "nothing-to-publish", f"nobody in {', '.join(keys[:3])} is left: other partitions, or other options"
            )
        pseudonyms = Pseudonyms(_key(store)) if options.edition == "geometry" else None
        content = FromStore(sources, options, choice, pseudonyms, settings.jpeg_quality)
        last = _last(target, name, version)
        content.tombstones = _tombstones(target, last) if last else None
        draft = Publication(
            name=name,
            version=version,
            edition=options.edition,
            at=now,
            clusters=clusters,
            partitions=tuple(keys),
            options=options.to_json(),
            models=sources.models(),
            files=(),
            columns={},
            left_out={},
            numbers=recorded(sources),
            changes=(
                *(last.changes if last else ()),
                {"version": version, "at": now, "text": f"cluster version {clusters}, partitions: {len(keys)}"},
            ),
            licence=settings.licence,
            contact=settings.contact,
            extra={"run_id": run_id} if run_id else {},
        )
        return hand_out(staging, draft, content)


def hand_out(staging: Staging, draft: Publication, content: Content) -> Publication:
    """Writes a publication of this content and shows it; returns its record.

    ``draft`` says of it what does not follow from the content. Its numbers are kept, but for those that are counted
    from what is written.
    """
    files, tally, schemas = list[release.PublishedFile](), Tally(), content.schemas()
    for config, schema in schemas.items():
        made = staging.write_tables(config, schema, tally.seen(config, content.tables(config)))
        log.info("%s: %d rows in %d files", config, sum(f.rows for f in made), len(made))
        files += made
    files += staging.write_pictures("subset_b", content.pictures())
    if content.tombstones is not None:
        files.append(staging.write_table(TOMBSTONES, content.tombstones))
    publication = replace(
        draft,
        files=tuple(files),
        columns=draft.columns
        or {config: {field.name: str(field.type) for field in schema} for config, schema in schemas.items()},
        left_out={config: dict(sorted(reasons.items())) for config, reasons in content.left_out.items() if reasons},
        tombstones=0 if content.tombstones is None else len(content.tombstones),
    )
    publication = replace(publication, numbers=draft.numbers | tally.numbers(publication))
    described = [
        staging.write(README, card(publication).encode()),
        staging.write(CROISSANT, croissant_json(publication)),
    ]
    staging.write(CHECKSUMS, checksums([*files, *described]))
    staging.write(release.RECORD, publication.to_json())
    content.check()
    staging.show()
    return publication


def check_names(name: str, version: str) -> None:
    """Raises UsageError for a name or version that no publication can have."""
    if not release.NAME.fullmatch(name):
        raise UsageError("bad-argument", f"--release {name!r}: letters, digits and ._- make a name, up to 100")
    if not release.VERSION.fullmatch(version):
        raise UsageError("bad-argument", f"--version {version!r} should look like 1.2.0")


def _last(target: Store, name: str, version: str) -> Publication | None:
    """The publication of this name before this version, if any."""
    earlier = [v for v in release.published(target).get(name, []) if release.ordered(v) < release.ordered(version)]
    return release.read(target, name, earlier[-1]) if earlier else None


def _tombstones(target: Store, publication: Publication) -> pa.Table | None:
    """What has left a publication and those before it."""
    path = f"{release.folder(publication.name, publication.version)}/{TOMBSTONES}"
    return pq.read_table(BytesIO(target.read(path))) if publication.tombstones else None


def _key(store: Store) -> bytes:
    """The store's key, made when it is first needed."""
    return store.update(KEY, lambda before: before or secrets.token_bytes(32))
