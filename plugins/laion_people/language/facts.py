"""What a person's own pose or mesh says: the vocabulary of facts, and which claims they support or contradict.

A fact is a name and a value (``left_arm=overhead``) with a confidence; a claim is a fact that a caption states, written
``name=value``. A person has at most one value of a name. Claims about arms may leave open which arm it is:
``one_arm=X``, ``both_arms=X``, ``arms=X+Y`` (one X, the other Y). Arms and legs are the person's own left and right;
for heads, left and right are the picture's. docs/facts.md says what each value means and how true it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # DAG files import this module, and no storage library
    import pyarrow as pa

_ARM = (
    "overhead", "raised", "at_head", "out", "forward", "back", "down", "away", "bent", "on_hip", "in_lap", "in_front",
    "crossed", "behind_back", "on_ground", "holding",
)  # fmt: skip
VALUES: dict[str, dict[str, tuple[str, ...]]] = {  # kind of cluster and caption -> name -> values
    "pose": {
        "base": (
            "standing", "on_feet", "walking", "running", "moving", "jumping", "one_leg", "kicking", "lunging",
            "sitting", "squatting", "kneeling", "one_knee", "knees_bent", "lying", "all_fours", "riding", "climbing",
        ),
        "left_arm": _ARM,
        "right_arm": _ARM,
        "legs_apart": ("yes", "no"),
        "lean": ("upright", "forward", "backward", "sideways", "horizontal", "upside_down"),
        "view": ("front", "three_quarter", "side", "back"),
    },
    "face": {
        "mouth": ("relaxed", "closed", "smiling", "smiling_open", "open", "puckered", "turned_down"),
        "brows": ("level", "raised", "lowered"),
        "eyes": ("open", "closed", "one_closed", "wide", "narrowed"),
    },
    "head": {
        "turn": ("far_left", "left", "slight_left", "camera", "slight_right", "right", "far_right", "away"),
        "nod": ("up", "level", "down"),
        "tilt": ("left", "none", "right"),
    },
}  # fmt: skip
KIND = {name: kind for kind, names in VALUES.items() for name in names}

_WIDER_ARM: dict[str, tuple[str, ...]] = {"overhead": ("raised",), "at_head": ("raised",)}
WIDER: dict[str, dict[str, tuple[str, ...]]] = {  # name -> value -> wider values that are then true, too
    "left_arm": _WIDER_ARM,
    "right_arm": _WIDER_ARM,
    "base": {
        "standing": ("on_feet",),
        "walking": ("on_feet", "moving"),
        "running": ("on_feet", "moving"),
        "jumping": ("moving", "knees_bent"),
        "one_leg": ("on_feet",),
        "kicking": ("on_feet", "moving"),
        "lunging": ("on_feet", "moving", "knees_bent"),
        "sitting": ("knees_bent",),
        "squatting": ("knees_bent",),
        "kneeling": ("knees_bent",),
        "one_knee": ("kneeling", "knees_bent"),
        "all_fours": ("knees_bent",),
        "riding": ("moving", "knees_bent"),
        "climbing": ("on_feet", "moving", "knees_bent"),
    },
    "mouth": {"smiling_open": ("smiling",)},
    "turn": {"far_left": ("left",), "far_right": ("right",)},
}

_TOGETHER_ARM = {  # value -> other values that an arm can have at the same time
    "holding": _ARM,
    "bent": ("overhead", "raised", "at_head", "back", "on_hip", "in_lap", "in_front", "crossed", "behind_back",
             "on_ground"),
    "raised": ("out", "forward", "in_front"),  # hands at shoulder height
    "overhead": ("out", "forward"),  # arms between level and up
    "down": ("back", "away", "in_lap", "behind_back", "on_ground"),
    "away": ("back", "out", "on_ground"),
    "forward": ("in_front", "on_ground"),
    "in_front": ("in_lap", "on_ground", "crossed"),
    "back": ("behind_back", "on_ground"),
}  # fmt: skip
TOGETHER: dict[str, dict[str, tuple[str, ...]]] = {  # values that may both be true, though neither is wider
    "left_arm": _TOGETHER_ARM,
    "right_arm": _TOGETHER_ARM,
    "base": {"standing": ("one_leg",), "kicking": ("one_leg",), "sitting": ("riding", "moving")},
    "lean": {"forward": ("horizontal",)},
    "view": {"three_quarter": ("front", "side")},
    "mouth": {"closed": ("relaxed", "smiling", "puckered", "turned_down"), "open": ("smiling", "smiling_open")},
    "eyes": {"open": ("wide", "narrowed")},
    "turn": {  # a matter of some degrees
        "camera": ("slight_left", "slight_right"),
        "left": ("slight_left",),
        "right": ("slight_right",),
    },
}
ARMS = ("left_arm", "right_arm")


@dataclass(frozen=True, slots=True)
class Fact:
    """``confidence`` is from 0.5, at the edge of the rule, to 1."""

    name: str
    value: str
    confidence: float

    @property
    def claim(self) -> str:
        return f"{self.name}={self.value}"


def read_facts(table: pa.Table) -> list[dict[str, str]]:
    """The facts of each person of a shard, by name, from the column ``facts`` of its table."""
    return [{fact["name"]: fact["value"] for fact in facts} for facts in table["facts"].to_pylist()]


def closure(name: str, value: str) -> tuple[str, ...]:
    """The value and all wider values, which are then true, too."""
    return (value, *WIDER.get(name, {}).get(value, ()))


def supports(facts: Mapping[str, str], claim: str) -> bool:
    """Whether a person's facts say the same as the claim, or something narrower."""
    return bool(_support(facts, claim))


def explained(claims: Iterable[str], facts: Sequence[Fact] | None) -> list[tuple[str, list[Fact] | None]]:
    """Claims with the facts that support each, [] if none does; None if the person's facts are unknown."""
    if facts is None:
        return [(claim, None) for claim in claims]
    of_name = {fact.name: fact for fact in facts}
    values = {name: fact.value for name, fact in of_name.items()}
    return [(claim, [of_name[name] for name in _support(values, claim)]) for claim in claims]


def contradicts(facts: Mapping[str, str], claim: str) -> bool:
    """Whether the claim is false of a person: their facts have values that cannot be true together with the claim's."""
    return all(
        any(name in facts and not _together(name, facts[name], value) for name, value in reading)
        for reading in _readings(claim)
    )


def known(claim: str) -> bool:
    """Whether the vocabulary has the claim."""
    if claim.startswith("arms=") and claim.count("+") != 1:
        return False
    facts = [fact for reading in _readings(claim) for fact in reading]
    return all(name in KIND and value in VALUES[KIND[name]][name] for name, value in facts)


def _support(facts: Mapping[str, str], claim: str) -> list[str]:
    """The names of the facts that support a claim; if several of its readings are true, those of all."""
    true = [
        reading
        for reading in _readings(claim)
        if all(name in facts and value in closure(name, facts[name]) for name, value in reading)
    ]
    return list(dict.fromkeys(name for reading in true for name, _ in reading))


def _readings(claim: str) -> list[list[tuple[str, str]]]:
    """What a claim can mean: it is true if all names and values of one reading are."""
    name, _, value = claim.partition("=")
    if name == "one_arm":
        return [[(arm, value)] for arm in ARMS]
    if name == "both_arms":
        return [[(arm, value) for arm in ARMS]]
    if name == "arms":
        first, _, second = value.partition("+")
        return [[*zip(ARMS, pair, strict=True)] for pair in ((first, second), (second, first))]
    return [[(name, value)]]


@cache
def _together(name: str, first: str, second: str) -> bool:
    """Whether two values of a name can both be true: by ``TOGETHER``, or since a third value is narrower than both."""
    pairs = TOGETHER.get(name, {})
    if second in pairs.get(first, ()) or first in pairs.get(second, ()):
        return True
    return any({first, second} <= {*closure(name, narrower)} for narrower in VALUES[KIND[name]][name])
