"""Labels of people, and which claims they allow.

A label is what a careful person sees in the picture, in the fields of docs/truth.md. Equally right readings are joined
by "|"; "?" means that the picture doesn't show it. A claim `name=value` is true if any reading allows it, false if none
does, and undecided if the label has "?" in a field that it needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from laion_people.language import facts

Label = Mapping[str, object]
UNSEEN = frozenset({"?", "covered"})

KIND_OF = facts.KIND | dict.fromkeys(("one_arm", "both_arms", "arms"), "pose")  # name of a claim -> kind of caption


@dataclass(frozen=True, slots=True)
class Allowed:
    """What a label of an arm must say for a claim: in at least one of the `ways`, each field has one of the readings.
    `needs`: fields without which the claim cannot be refuted."""

    ways: tuple[Mapping[str, frozenset[str]], ...]
    needs: tuple[str, ...]


def _way(**fields: str) -> dict[str, frozenset[str]]:
    return {field: frozenset(readings.split()) for field, readings in fields.items()}


def _hand(places: str) -> Allowed:
    return Allowed((_way(hand=places),), ("hand",))


OPEN = "straight slight"  # an elbow that is not bent
ARMS = {
    "overhead": Allowed(
        (_way(hand="above_head object/above_head"), _way(upper="raised", elbow=OPEN)), ("upper", "elbow", "hand")
    ),
    "raised": Allowed(
        (
            _way(upper="raised"),
            _way(hand="shoulder_height above_head head_face object/shoulder_height object/above_head object/head_face"),
        ),
        ("hand",),
    ),
    "out": Allowed((_way(upper="level raised", dir="side", elbow=OPEN),), ("upper", "dir", "elbow")),
    "forward": Allowed((_way(upper="low level raised", dir="front", elbow=OPEN),), ("upper", "dir", "elbow")),
    "back": Allowed((_way(upper="low level", dir="back"),), ("upper", "dir")),
    "down": Allowed(
        (
            _way(
                upper="down low",
                elbow=OPEN,
                hand="at_side low_air pocket thigh_lap object/low_air object/thigh_lap object/at_side ?",
            ),
        ),
        ("upper", "elbow"),
    ),
    "away": Allowed((_way(upper="low", elbow=OPEN),), ("upper", "elbow")),
    "bent": Allowed((_way(elbow="bent folded"),), ("elbow",)),
    "at_head": _hand("head_face object/head_face"),
    "on_hip": _hand("hip"),
    "in_lap": _hand("thigh_lap object/thigh_lap"),
    "in_front": _hand("belly_chest crossed object/belly_chest"),
    "crossed": _hand("crossed"),
    "behind_back": _hand("behind_back"),
    "on_ground": _hand("ground"),
    "holding": _hand(
        "object object/above_head object/belly_chest object/head_face object/low_air object/shoulder_height "
        "object/thigh_lap object/at_side"
    ),
}


def _itself(*values: str, **wider: str) -> dict[str, frozenset[str]]:
    """Values that only the same word allows, and values (`wider`) with the words that allow them."""
    return {value: frozenset({value}) for value in values} | _way(**wider)


OTHERS = {  # name, which is also the label's field -> value -> readings that allow it
    "base": _itself(
        *("walking", "running", "lunging", "squatting", "one_knee", "lying", "all_fours", "climbing", "riding"),
        standing="standing one_leg",
        on_feet="standing walking running one_leg lunging kicking climbing",
        moving="walking running jumping lunging kicking climbing riding",
        jumping="jumping falling",
        one_leg="one_leg kicking",
        kicking="kicking one_leg",
        sitting="sitting riding",
        kneeling="kneeling one_knee",
        knees_bent="squatting kneeling one_knee sitting lunging all_fours riding climbing jumping",
    ),
    "legs_apart": _itself("yes", "no"),
    "lean": _itself("upright", "forward", "backward", "sideways", "horizontal", "upside_down"),
    "view": _itself(
        "back", front="front three_quarter", three_quarter="three_quarter front side", side="side three_quarter"
    ),
    "mouth": _itself(
        smiling="smile smile_open",
        smiling_open="smile_open",
        open="open smile_open",
        puckered="pucker",
        turned_down="down",
        relaxed="neutral",
        closed="neutral smile pucker down",
    ),
    "brows": _itself("raised", "lowered", level="neutral"),
    "eyes": _itself("closed", "one_closed", "wide", "narrowed", open="open wide narrowed"),
    "turn": _itself(
        "away",
        far_left="far_left left",
        left="left slight_left far_left",
        slight_left="slight_left left",
        camera="camera slight_left slight_right",
        slight_right="slight_right right",
        right="right slight_right far_right",
        far_right="far_right right",
    ),
    "nod": _itself("up", "level", "down"),
    "tilt": _itself("left", "none", "right"),
}


def holds(label: Label, claim: str) -> bool | None:
    """Whether a label allows a claim; None if undecided. Raises KeyError for a word without a rule."""
    name, _, value = claim.partition("=")
    match name:
        case "left_arm" | "right_arm":
            return _arm(label, name[0], value)
        case "one_arm":
            return _any(_arm(label, "l", value), _arm(label, "r", value))
        case "both_arms":
            return _all(_arm(label, "l", value), _arm(label, "r", value))
        case "arms":
            one, other = value.split("+")
            return _any(
                _all(_arm(label, "l", one), _arm(label, "r", other)),
                _all(_arm(label, "l", other), _arm(label, "r", one)),
            )
    read = readings(label, name)
    if read & OTHERS[name][value]:
        return True
    return None if read & UNSEEN else False


def readings(label: Label, field: str) -> set[str]:
    return set(str(label.get(field, "?")).split("|"))


def _arm(label: Label, side: str, value: str) -> bool | None:
    rule = ARMS[value]
    if any(all(readings(label, f"{side}_{field}") & allowed for field, allowed in way.items()) for way in rule.ways):
        return True
    return None if any("?" in readings(label, f"{side}_{field}") for field in rule.needs) else False


def _any(*answers: bool | None) -> bool | None:
    return True if True in answers else None if None in answers else False


def _all(*answers: bool | None) -> bool | None:
    return False if False in answers else None if None in answers else True
