"""The dates of partitions, which Airflow's own backfill asks for."""

from __future__ import annotations

import re
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laion_people.dates import FIRST_DAYS, first_days, partition_date
from laion_people.errors import UsageError
from laion_people.settings import from_environment

collections = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,9}", fullmatch=True)
days = st.dates(date(1950, 1, 1), date(2026, 1, 1)).map(date.isoformat)
calendars = st.lists(st.tuples(collections, days), unique_by=(lambda c: c[0], lambda c: c[1]), min_size=1).map(dict)


@pytest.mark.parametrize(
    ("key", "day"),
    [
        ("laion2B-en/00000", "2001-01-01"),
        ("laion2B-en/00042", "2001-02-12"),
        ("laion2B-en/00127", "2001-05-08"),
        ("laion2B-multi/00042", "2002-02-12"),
        ("relaion2B-en-research-safe/00059", "2005-03-01"),
        ("sample/00000", "2013-01-01"),
    ],
)
def test_the_dates_of_the_documentation(key: str, day: str) -> None:
    assert str(partition_date(key, FIRST_DAYS)) == day


def test_every_known_collection_has_room_for_its_parts_and_the_same_days_of_the_year() -> None:
    dates = [partition_date(f"{name}/{part:05d}", FIRST_DAYS) for name in FIRST_DAYS for part in range(128)]
    assert None not in dates and len(set(dates)) == len(dates)
    assert {f"{day:%m-%d}" for day in dates[59::128] if day} == {"03-01"}


@given(calendars, st.data())
def test_no_two_partitions_have_the_same_date(calendar: dict[str, str], data: st.DataObject) -> None:
    keys = st.tuples(st.sampled_from(sorted(calendar)), st.integers(0, 99_999)).map(lambda k: f"{k[0]}/{k[1]:05d}")
    one, other = data.draw(keys), data.draw(keys)
    if partition_date(one, calendar) is not None and one != other:
        assert partition_date(one, calendar) != partition_date(other, calendar)


@given(calendars, st.data(), st.integers(0, 99_999))
def test_the_date_gives_the_part_back(calendar: dict[str, str], data: st.DataObject, part: int) -> None:
    name = data.draw(st.sampled_from(sorted(calendar)))
    day = partition_date(f"{name}/{part:05d}", calendar)
    started = {collection: first for collection, first in calendar.items() if day and date.fromisoformat(first) <= day}
    if day:
        assert max(started, key=lambda collection: started[collection]) == name
        assert day - date.fromisoformat(calendar[name]) == timedelta(days=part)
    else:
        assert any(first > calendar[name] for first in calendar.values())


@given(st.text())
def test_what_is_no_numbered_part_of_a_known_collection_has_no_date(key: str) -> None:
    if not re.fullmatch(r"(" + "|".join(map(re.escape, FIRST_DAYS)) + r")/[0-9]{5}", key):
        assert partition_date(key, FIRST_DAYS) is None
    assert partition_date(f"laion2B-en/{key}", FIRST_DAYS) is None or re.fullmatch("[0-9]{5}", key)


def test_the_setting_adds_collections_and_moves_known_ones() -> None:
    setting = '{"mine": "1999-12-31", "sample": "2015-01-01"}'
    calendar = first_days(from_environment({"LAION_PEOPLE_FIRST_DAYS": setting}).first_days)
    assert str(partition_date("mine/00001", calendar)) == "2000-01-01"
    assert str(partition_date("sample/00001", calendar)) == "2015-01-02"
    assert first_days(from_environment({}).first_days) == FIRST_DAYS


@pytest.mark.parametrize(
    "setting",
    [
        '{"mine": "2001-01-01"}',  # laion2B-en's
        '{"mine": "2015-01-01", "yours": "2015-01-01"}',
        '{"mine": "2015-02-30"}',
        '{"mine": "20150101"}',
        '{"mine": "9999-01-01"}',
        '{"mine": 2015}',
        '["2015-01-01"]',
        "2015-01-01",
    ],
)
def test_days_that_are_taken_or_none_are_refused(setting: str) -> None:
    with pytest.raises(UsageError, match=r"LAION_PEOPLE_FIRST_DAYS=.*\[bad-setting\]$"):
        from_environment({"LAION_PEOPLE_FIRST_DAYS": setting})
