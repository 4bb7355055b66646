"""Facts and claims in plain words, for pages: ``left_arm=on_hip`` is "left arm: hand on the hip"."""

from __future__ import annotations

_NAMES = {
    "base": "body",
    "lean": "trunk",
    "view": "seen from",
    "turn": "head turned",
    "nod": "chin",
    "tilt": "head tilted",
}
_ARM = {
    "at_head": "hand at the head",
    "out": "out to the side",
    "forward": "stretched forward",
    "back": "stretched back",
    "down": "hanging down",
    "away": "away from the body",
    "on_hip": "hand on the hip",
    "in_lap": "hand in the lap",
    "in_front": "hand in front of the body",
    "behind_back": "behind the back",
    "on_ground": "hand on the ground",
    "holding": "holding something",
}
_VALUES = {
    **dict.fromkeys(("left_arm", "right_arm", "one_arm", "both_arms", "arms"), _ARM),
    "base": {
        "on_feet": "on the feet",
        "one_leg": "on one leg",
        "one_knee": "on one knee",
        "knees_bent": "with bent knees",
        "all_fours": "on all fours",
    },
    "lean": {"forward": "leaning forward", "backward": "leaning backward", "sideways": "leaning sideways"},
    "view": {"front": "the front", "side": "the side", "back": "behind", "three_quarter": "three quarters"},
    "mouth": {"smiling_open": "smiling, open", "turned_down": "corners turned down"},
    "eyes": {"wide": "wide open"},
    "turn": {
        "camera": "to the camera",
        **{f"{degree}{side}": f"{words}to the {side}" for side in ("left", "right")
           for degree, words in (("", ""), ("far_", "far "), ("slight_", "slightly "))},
    },
    "tilt": {"left": "to the left", "right": "to the right", "none": "not at all"},
}  # fmt: skip


def name_words(name: str) -> str:
    """The name of a fact or claim."""
    return _NAMES.get(name, name.replace("_", " "))


def value_words(name: str, value: str) -> str:
    """The value of a fact or claim with this name; ``arms=X+Y`` has two."""
    words = [_VALUES.get(name, {}).get(one, one.replace("_", " ")) for one in value.split("+")]
    return f"one {words[0]}, the other {words[1]}" if name == "arms" and len(words) == 2 else " + ".join(words)


def claim_words(claim: str) -> str:
    """A fact or claim ``name=value``."""
    name, _, value = claim.partition("=")
    return f"{name_words(name)}: {value_words(name, value)}"
