"""What members of a cluster have in common."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterable

from hypothesis import example, given
from hypothesis import strategies as st

from laion_people.language.facts import VALUES, closure, supports
from laion_people.language.factsets import LEAST, MOST, FactSet, fact_sets

SMILE, LAUGH = {"mouth": "smiling", "eyes": "open"}, {"mouth": "smiling_open", "eyes": "open"}
VALUES_OF_HEADS = {name: st.sampled_from(values) for name, values in VALUES["head"].items()}
HEADS = st.lists(st.fixed_dictionaries({}, optional=VALUES_OF_HEADS), max_size=12)


def shares(members: list[dict[str, str]]) -> dict[tuple[str, ...], float]:
    return {fact_set.claims: fact_set.share for fact_set in fact_sets(members)}


def most_claims(sets: Iterable[FactSet], facts: dict[str, str]) -> int:
    """The claims of the largest of these sets that is true of a person."""
    return max((len(one.claims) for one in sets if all(supports(facts, claim) for claim in one.claims)), default=0)


def second_share(members: list[dict[str, str]]) -> float:
    """The share of members who have the second most frequent claim, of which there may be several."""
    claims = Counter(claim for facts in members for name, value in facts.items() for claim in closed(name, value))
    return min([n for _, n in claims.most_common(2)], default=0) / max(len(members), 1)


def closed(name: str, value: str) -> list[str]:
    return [f"{name}={wider}" for wider in closure(name, value)]


def test_sets_are_what_members_have_with_the_share_of_them() -> None:
    sets = shares([SMILE] * 3 + [LAUGH] * 5 + [{"eyes": "closed"}] * 2)
    assert sets[("eyes=open", "mouth=smiling")] == 0.8  # laughing people smile, too
    assert sets[("eyes=open", "mouth=smiling_open")] == 0.5
    assert sets[("eyes=closed",)] == 0.2


def test_the_first_set_is_the_largest_that_nearly_all_have_or_else_the_most_frequent() -> None:
    assert fact_sets([SMILE] * 18 + [LAUGH] + [{}])[0] == FactSet(("eyes=open", "mouth=smiling"), 0.95)
    assert fact_sets([SMILE] * 5 + [{"eyes": "open"}] * 3 + [{}] * 2)[0] == FactSet(("eyes=open",), 0.8)


def test_what_one_in_ten_has_is_said_and_what_fewer_have_is_not() -> None:
    others = [{"brows": "level", "eyes": "open"}] * 9
    assert ("brows=raised",) in shares([{"brows": "raised"}, *others])
    assert ("brows=raised",) not in shares([{"brows": "raised"}, *others, *others[:1]])


def test_the_two_most_frequent_facts_are_said_however_few_have_them() -> None:
    assert [*shares([{"mouth": "closed"}] * 2 + [{"eyes": "open"}] + [{}] * 30)] == [("mouth=closed",), ("eyes=open",)]


def test_what_everybody_of_a_set_does_besides_belongs_to_it() -> None:
    several = [claims for claims in shares([SMILE, SMILE, LAUGH, {}]) if len(claims) > 1]
    assert several == [("eyes=open", "mouth=smiling"), ("eyes=open", "mouth=smiling_open")]


def test_nobody_and_people_without_facts_have_nothing_in_common() -> None:
    assert fact_sets([]) == fact_sets([{}, {}]) == ()


@given(HEADS)
@example([{"tilt": "left", "turn": "far_left"}, *[{}] * 10])
def test_sets_hold_and_say_everything_that_is_true_of_enough_members(members: list[dict[str, str]]) -> None:
    sets = fact_sets(members)
    for fact_set in sets:
        assert fact_set.share * len(members) == sum(
            all(supports(facts, c) for c in fact_set.claims) for facts in members
        )
        assert len(fact_set.facts) == len(fact_set.claims) and fact_set.share >= min(LEAST, second_share(members))
    for facts in members:
        most = most_claims(sets, facts)
        assert most == len(facts) or len(sets) == MOST or len(members) > 10


def test_of_many_sets_those_stay_that_say_most_of_most_members() -> None:
    rng = random.Random(1)
    members = [{name: rng.choice(values[:4]) for name, values in VALUES["pose"].items()} for _ in range(300)]
    sets = fact_sets(members)
    assert len(sets) == MOST
    most = [most_claims(sets, facts) for facts in members]
    assert sum(most) / len(most) >= 2.5
    assert sets == fact_sets(members[::-1])


def test_a_thousand_profiles_take_no_minutes() -> None:
    names = list(VALUES["pose"].items())
    members = [dict(zip([n for n, _ in names], values, strict=True))
               for values in itertools.islice(itertools.product(*(v[:4] for _, v in names)), 1000)]  # fmt: skip
    assert fact_sets(members)
