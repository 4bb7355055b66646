"""What members of a cluster have in common: sets of facts, from one to all that a person shows, for captions.

A set is a frequent closed itemset (Pasquier et al. 1999, doi:10.1007/3-540-49257-7_25) of the members' facts and their
wider values: each set that a share ``LEAST`` of the members has. Left out are sets that could have one more claim, or a
narrower one, and still hold for the same members.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from laion_people.language.facts import closure

LEAST = 0.1  # share of the members who have all of a set
COMMON = 0.9  # a cluster's first caption should be true of this share of the members
MOST = 16  # sets of a cluster
MOST_TELLING = 10  # of these, sets chosen by how much they say; the rest are single facts
Claims = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FactSet:
    """Claims ``name=value`` of one kind, sorted, with different names, and the share of members who have them all."""

    claims: Claims
    share: float

    @property
    def facts(self) -> dict[str, str]:
        return dict(claim.split("=", 1) for claim in self.claims)


def fact_sets(members: Sequence[Mapping[str, str]]) -> tuple[FactSet, ...]:
    """At most ``MOST`` sets, the one for the first caption first, then the most frequent first.

    ``members``: each member's facts of one kind. The first set is the largest that is ``COMMON``, or else the most
    frequent one. Others are added one by one: always the set that adds the most claims about all members (greedy cover;
    Nemhauser et al. 1978, doi:10.1007/BF01588971). The last places are for the most frequent single facts: people
    outside the sample have less in common.
    """
    profiles = Counter(tuple(sorted(facts.items())) for facts in members)
    counts = _counts(profiles, LEAST * len(members))
    said_better = {wider for claims, n in counts.items() for wider in _wider(claims) if counts[wider] == n}
    order = sorted(counts.keys() - {()}, key=lambda claims: (-counts[claims], -len(claims), claims))
    closed = [claims for claims in order if claims not in said_better]
    if not closed:
        return ()
    common = [claims for claims in closed if counts[claims] >= COMMON * len(members)]
    first = max(common, key=_detail, default=closed[0])
    chosen = _choose_sets(closed, closed.index(first), profiles)
    singles = [claims for claims in order if len(claims) == 1 and claims not in chosen]
    rest = sorted({*chosen, *singles[: MOST - len(chosen)]} - {first}, key=order.index)
    return tuple(FactSet(claims, counts[claims] / len(members)) for claims in (first, *rest))


def _counts(profiles: Mapping[tuple[tuple[str, str], ...], int], least: float) -> dict[Claims, int]:
    """How many members have each set of claims, for sets of at least ``least`` members; all have the set ().

    The two most frequent claims count even if few members have them: captions should differ in what they say.
    """
    singles = Counter[str]()
    for facts, n in profiles.items():
        singles.update({f"{name}={value}": n for fact in facts for name, value in _closed(*fact)})
    least = min([least, *(n for _, n in singles.most_common(2))])
    counts = Counter[Claims]()
    for facts, n in profiles.items():
        claims = [[f"{name}={value}" for name, value in _closed(*fact)] for fact in facts]
        choices = [[(), *((claim,) for claim in values if singles[claim] >= least)] for values in claims]
        for chosen in itertools.product(*choices):
            counts[tuple(itertools.chain(*chosen))] += n
    return {claims: n for claims, n in counts.items() if n >= least}


def _closed(name: str, value: str) -> list[tuple[str, str]]:
    return [(name, wider) for wider in closure(name, value)]


def _wider(claims: Claims) -> Iterator[Claims]:
    """The sets that say a little less: one claim is missing or wider."""
    for i, claim in enumerate(claims):
        yield claims[:i] + claims[i + 1 :]
        name, _, value = claim.partition("=")
        for wider in closure(name, value)[1:]:
            yield (*claims[:i], f"{name}={wider}", *claims[i + 1 :])


def _detail(claims: Claims) -> float:
    """How much a set says: its number of claims; if equal, narrower claims say more."""
    return len(claims) + sum(len(closure(*claim.split("=", 1))) - 1 for claim in claims) / 100


def _choose_sets(
    sets: Sequence[Claims], first: int, profiles: Mapping[tuple[tuple[str, str], ...], int]
) -> list[Claims]:
    """The first set, and the sets that together say most about members with these facts."""
    index = {claim: i for i, claim in enumerate(sorted({claim for claims in sets for claim in claims}))}
    wanted, had = np.zeros((len(sets), len(index))), np.zeros((len(profiles), len(index)))
    for row, claims in enumerate(sets):
        wanted[row, [index[claim] for claim in claims]] = 1
    for row, facts in enumerate(profiles):
        true = [f"{name}={value}" for fact in facts for name, value in _closed(*fact)]
        had[row, [index[claim] for claim in true if claim in index]] = 1
    claims_said = np.where(had @ wanted.T == wanted.sum(axis=1), np.array([_detail(claims) for claims in sets]), 0.0)
    weights = np.array([*profiles.values()], float)
    chosen = [first]
    best = claims_said[:, first]
    while len(chosen) < MOST_TELLING:
        gains = weights @ np.maximum(claims_said - best[:, None], 0)
        if gains.max() <= 1e-9 * len(profiles):
            break
        chosen.append(int(gains.argmax()))
        best = np.maximum(best, claims_said[:, chosen[-1]])
    return [sets[i] for i in chosen]
