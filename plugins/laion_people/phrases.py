"""English for facts: sentences that say of a pose, a face or a head exactly what the facts say, in many wordings.

The tables below hold the words of each value of ``facts.VALUES``; three small grammars (`_pose`, `_face`, `_head`) put
them together. Captions speak of the body alone: no clothes, age, gender, looks or mood, and of the head instead of the
gaze, which is not measured. Arms are the person's own left and right; heads turn and tilt in the picture, which a
sentence says once.

Words are written as verbs (``Verb``: finite form and participle) or as noun phrases that stand after "with" or "has".
``{arm}``, ``{hand}`` and ``{elbow}`` stand for "the left arm", "both arms", ...; ``{s}`` is the plural of what comes
with both.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from laion_people.facts import KIND, VALUES


class Verb(NamedTuple):
    """What the person does: "stands" and "standing", "is on their feet" and "on their feet"."""

    finite: str
    participle: str


def _verbs(*phrases: str) -> tuple[Verb, ...]:
    """Verbs from "raises|raising {arm}": the two forms, and what follows either."""
    split = [(phrase.partition(" ")[0].split("|"), phrase.partition(" ")[1:]) for phrase in phrases]
    return tuple(Verb(finite + "".join(rest), participle + "".join(rest)) for (finite, participle), rest in split)


def _states(*phrases: str) -> tuple[Verb, ...]:
    """Verbs from "on their feet": with "is", and alone."""
    return tuple(Verb(f"is {phrase}", phrase) for phrase in phrases)


BASES: dict[str, tuple[Verb, ...]] = {
    "standing": (*_verbs("stands|standing"), Verb("is standing", "standing")),
    "on_feet": _states("on their feet", "up on their feet"),
    "walking": (*_verbs("walks|walking", "takes|taking a step"), Verb("is walking", "walking")),
    "running": (*_verbs("runs|running"), *_states("in a running stride"), Verb("is running", "running")),
    "moving": (*_verbs("moves|moving"), *_states("in motion", "on the move")),
    "jumping": (*_verbs("jumps|jumping", "leaps|leaping"), *_states("in mid-jump")),
    "one_leg": _verbs("stands|standing on one leg", "balances|balancing on one leg", "stands|standing on one foot"),
    "kicking": _verbs("kicks|kicking", "kicks|kicking out with one leg", "kicks|kicking one leg out"),
    "lunging": (*_verbs("lunges|lunging"), *_states("in a lunge"), Verb("is lunging", "lunging")),
    "sitting": (*_verbs("sits|sitting"), *_states("seated"), Verb("is sitting", "sitting")),
    "squatting": (*_verbs("squats|squatting", "crouches|crouching"), *_states("in a squat")),
    "kneeling": (*_verbs("kneels|kneeling", "kneels|kneeling down"), Verb("is kneeling", "kneeling")),
    "one_knee": (*_verbs("kneels|kneeling on one knee", "rests|resting on one knee"), *_states("down on one knee")),
    "knees_bent": _verbs("bends|bending the knees", "keeps|keeping the knees bent"),
    "lying": (*_verbs("lies|lying", "lies|lying down"), Verb("is lying down", "lying down")),
    "all_fours": (*_states("on all fours", "down on all fours"), *_verbs("rests|resting on all fours")),
    "riding": (*_verbs("rides|riding"), Verb("is riding", "riding")),
    "climbing": (*_verbs("climbs|climbing"), Verb("is climbing", "climbing")),
}
BASES_WITH_LEAN: dict[tuple[str, str], tuple[Verb, ...]] = {  # one verb for two facts
    ("standing", "upright"): _verbs("stands|standing upright", "stands|standing up straight"),
    ("on_feet", "upright"): _states("upright on their feet"),
    ("walking", "upright"): _verbs("walks|walking upright"),
    ("one_leg", "upright"): _verbs("stands|standing upright on one leg"),
    ("sitting", "upright"): (*_verbs("sits|sitting upright", "sits|sitting up straight"), *_states("seated upright")),
    ("kneeling", "upright"): _verbs("kneels|kneeling upright"),
    ("one_knee", "upright"): _verbs("kneels|kneeling upright on one knee"),
    ("standing", "forward"): _verbs("stands|standing bent forward", "stands|standing leaning forward"),
    ("sitting", "forward"): _verbs("sits|sitting leaning forward"),
    ("sitting", "backward"): _verbs("sits|sitting leaning back"),
}
LEANS: dict[str, tuple[Verb, ...]] = {
    "upright": _verbs("holds|holding the upper body upright", "keeps|keeping the torso upright"),
    "forward": _verbs("leans|leaning forward", "bends|bending forward"),
    "backward": _verbs("leans|leaning back", "leans|leaning backward"),
    "sideways": _verbs("leans|leaning to one side", "leans|leaning sideways"),
    "horizontal": _verbs("holds|holding the upper body horizontal", "has|having the torso parallel to the ground"),
    "upside_down": _states("upside down"),
}
LEANING: dict[str, tuple[str, ...]] = {
    "upright": ("the upper body upright", "the torso upright"),
    "forward": ("the upper body leaning forward", "the torso leaning forward", "the upper body bent forward"),
    "backward": ("the upper body leaning back", "the torso leaning back"),
    "sideways": ("the upper body leaning to one side", "the torso leaning to one side"),
    "horizontal": ("the upper body horizontal", "the torso horizontal", "the torso parallel to the ground"),
    "upside_down": ("the body upside down", "the whole body upside down"),
}
LEGS_APART: dict[str, tuple[str, ...]] = {
    "yes": ("the legs apart", "the feet apart", "the feet wide apart", "the legs spread"),
    "no": ("the legs fairly close together", "the feet fairly close together", "the legs not spread"),
}
SEEN_FROM: dict[str, tuple[str, ...]] = {
    "front": ("from the front",),
    "three_quarter": ("at a three-quarter angle", "in three-quarter view"),
    "side": ("from the side",),
    "back": ("from behind", "from the back"),
}
TO_CAMERA: dict[str, tuple[str, ...]] = {
    "front": ("the chest toward the camera", "the chest facing the camera"),
    "three_quarter": ("the chest turned partly away from the camera", "the body at an angle to the camera"),
    "side": ("the body sideways to the camera", "the body turned side-on to the camera"),
    "back": ("the back to the camera", "the back turned to the camera"),
}
ARMS: dict[str, tuple[str, ...]] = {
    "overhead": (
        "{arm} raised overhead",
        "{arm} raised above the head",
        "{arm} stretched up overhead",
        "{arm} up over the head",
    ),
    "raised": ("{hand} raised", "{hand} lifted", "{hand} held up", "{hand} up"),
    "at_head": ("{hand} at the head", "{hand} held to the head", "{hand} raised to the head", "{hand} near the head"),
    "out": (
        "{arm} stretched out to the side{s}",
        "{arm} held out to the side{s}",
        "{arm} extended to the side{s}",
        "{arm} stretched out sideways",
    ),
    "forward": ("{arm} stretched forward", "{arm} extended forward", "{arm} held out in front"),
    "back": ("{arm} drawn back", "{arm} swung back", "{arm} pulled back"),
    "down": ("{arm} down", "{arm} hanging down", "{arm} at the side{s}", "{arm} lowered", "{arm} down at the side{s}"),
    "away": ("{arm} held away from the body", "{arm} angled away from the body", "{arm} slanting away from the torso"),
    "bent": ("{arm} bent", "{arm} bent at the elbow{s}", "{elbow} bent"),
    "on_hip": ("{hand} on the hip{s}", "{hand} resting on the hip{s}", "{hand} placed on the hip{s}"),
    "in_lap": ("{hand} in the lap", "{hand} resting in the lap", "{hand} on the thigh{s}"),
    "in_front": ("{hand} in front of the body", "{hand} held in front of the body", "{hand} in front of the torso"),
    "crossed": (
        "{arm} crossed over the chest",
        "{arm} folded across the chest",
        "{arm} crossed in front of the chest",
    ),
    "behind_back": ("{hand} behind the back", "{hand} held behind the back", "{arm} behind the back"),
    "on_ground": ("{hand} on the ground", "{hand} resting on the ground", "{hand} touching the ground"),
    "holding": ("{hand} holding something", "{hand} holding an object"),
}
ARM_VERBS: dict[str, tuple[Verb, ...]] = {
    "overhead": _verbs(
        "raises|raising {arm} overhead", "stretches|stretching {arm} up overhead", "lifts|lifting {arm} above the head"
    ),
    "raised": _verbs("raises|raising {hand}", "lifts|lifting {hand}", "holds|holding {hand} up"),
    "at_head": _verbs("holds|holding {hand} to the head", "raises|raising {hand} to the head"),
    "out": _verbs(
        "stretches|stretching {arm} out to the side{s}",
        "holds|holding {arm} out to the side{s}",
        "extends|extending {arm} to the side{s}",
    ),
    "forward": _verbs(
        "stretches|stretching {arm} forward", "holds|holding {arm} out in front", "extends|extending {arm} forward"
    ),
    "back": _verbs("draws|drawing {arm} back", "swings|swinging {arm} back"),
    "down": _verbs("lets|letting {arm} hang down", "keeps|keeping {arm} down", "holds|holding {arm} at the side{s}"),
    "away": _verbs("holds|holding {arm} away from the body", "keeps|keeping {arm} away from the torso"),
    "bent": _verbs("bends|bending {arm}", "bends|bending {elbow}", "keeps|keeping {arm} bent"),
    "on_hip": _verbs("rests|resting {hand} on the hip{s}", "keeps|keeping {hand} on the hip{s}"),
    "in_lap": _verbs("rests|resting {hand} in the lap", "rests|resting {hand} on the thigh{s}"),
    "in_front": _verbs("holds|holding {hand} in front of the body", "keeps|keeping {hand} in front of the torso"),
    "crossed": _verbs("folds|folding {arm} across the chest", "crosses|crossing {arm} over the chest"),
    "behind_back": _verbs("holds|holding {hand} behind the back", "keeps|keeping {hand} behind the back"),
    "on_ground": _verbs("rests|resting {hand} on the ground", "puts|putting {hand} on the ground"),
    "holding": _verbs("holds|holding something in {hand}", "holds|holding an object in {hand}"),
}
WITH_A_LAP = ("sitting", "riding", "kneeling", "")  # bases; elsewhere the hand lies on the thigh

MOUTHS: dict[str, tuple[str, ...]] = {
    "relaxed": ("a relaxed mouth", "the mouth relaxed", "the mouth at rest", "the lips at rest"),
    "closed": ("a closed mouth", "the mouth closed", "the lips closed", "the mouth shut"),
    "smiling": ("a smile", "a smile on the face", "a smiling mouth"),
    "smiling_open": ("an open smile", "an open-mouthed smile", "the mouth open in a smile"),
    "open": ("an open mouth", "the mouth open", "the lips apart"),
    "puckered": ("puckered lips", "pursed lips", "the lips puckered", "the lips pushed forward"),
    "turned_down": ("the corners of the mouth turned down", "a downturned mouth", "the mouth turned down"),
}
BROWS: dict[str, tuple[str, ...]] = {
    "level": ("level eyebrows", "the eyebrows level", "the eyebrows at rest", "relaxed eyebrows"),
    "raised": ("raised eyebrows", "the eyebrows raised", "lifted eyebrows", "the eyebrows up"),
    "lowered": ("lowered eyebrows", "the eyebrows lowered", "the eyebrows drawn down"),
}
EYES: dict[str, tuple[str, ...]] = {
    "open": ("open eyes", "the eyes open", "both eyes open"),
    "closed": ("closed eyes", "the eyes closed", "both eyes shut", "the eyes shut"),
    "one_closed": ("one eye closed", "one eye shut"),
    "wide": ("wide-open eyes", "the eyes wide open", "the eyes opened wide"),
    "narrowed": ("narrowed eyes", "the eyes narrowed", "both eyes narrowed"),
}
FACE_VERBS: dict[tuple[str, str], tuple[Verb, ...]] = {
    ("mouth", "smiling"): (*_verbs("smiles|smiling"), Verb("is smiling", "smiling")),
    ("mouth", "smiling_open"): _verbs("smiles|smiling open-mouthed", "smiles|smiling with an open mouth"),
    ("mouth", "open"): _verbs("opens|opening the mouth"),
    ("mouth", "puckered"): _verbs("puckers|puckering the lips", "purses|pursing the lips"),
    ("mouth", "turned_down"): _verbs("turns|turning the corners of the mouth down"),
    ("brows", "raised"): _verbs("raises|raising the eyebrows", "lifts|lifting the eyebrows"),
    ("brows", "lowered"): _verbs("lowers|lowering the eyebrows", "draws|drawing the eyebrows down"),
    ("eyes", "closed"): _verbs("closes|closing the eyes", "keeps|keeping the eyes shut"),
    ("eyes", "one_closed"): _verbs("closes|closing one eye", "keeps|keeping one eye shut"),
    ("eyes", "wide"): _verbs("opens|opening the eyes wide"),
    ("eyes", "narrowed"): _verbs("narrows|narrowing the eyes", "squints|squinting"),
}
FACE_CLAUSES: dict[tuple[str, str], tuple[str, ...]] = {
    ("mouth", "relaxed"): ("the mouth is relaxed", "the mouth is at rest", "the lips are at rest"),
    ("mouth", "closed"): ("the mouth is closed", "the mouth is shut", "the lips are closed"),
    ("mouth", "smiling"): ("the mouth is drawn into a smile", "the mouth is smiling"),
    ("mouth", "smiling_open"): ("the mouth is open in a smile", "the mouth is drawn into an open smile"),
    ("mouth", "open"): ("the mouth is open", "the lips are apart"),
    ("mouth", "puckered"): ("the lips are puckered", "the lips are pursed"),
    ("mouth", "turned_down"): ("the corners of the mouth are turned down", "the mouth is turned down"),
    ("brows", "level"): ("the eyebrows are level", "the eyebrows are at rest", "the eyebrows are relaxed"),
    ("brows", "raised"): ("the eyebrows are raised", "the eyebrows are up"),
    ("brows", "lowered"): ("the eyebrows are lowered", "the eyebrows are drawn down"),
    ("eyes", "open"): ("the eyes are open", "both eyes are open"),
    ("eyes", "closed"): ("the eyes are closed", "the eyes are shut", "both eyes are closed"),
    ("eyes", "one_closed"): ("one eye is closed", "one eye is shut"),
    ("eyes", "wide"): ("the eyes are wide open", "the eyes are opened wide"),
    ("eyes", "narrowed"): ("the eyes are narrowed", "both eyes are narrowed"),
}
NEUTRAL = (
    "a neutral expression", "a neutral facial expression", "a neutral look on the face", "a neutral face",
    "an expression that is neutral", "a relaxed, neutral expression", "a relaxed, neutral face",
)  # fmt: skip
NEUTRAL_CLAUSES = (
    "the face is neutral", "the expression is neutral", "the facial expression is neutral", "the face is at rest",
    "the expression on the face is neutral", "the face is relaxed, with a neutral expression",
)  # fmt: skip

SUBJECTS = (
    "A person", "Someone", "The person in the picture", "The person in the image", "The person shown here",
    "In this picture, a person", "In this image, a person", "In the picture, someone", "Here, a person",
)  # fmt: skip
NOUNS = (
    "A person", "Someone", "The picture shows a person", "The image shows a person", "This picture shows someone",
    "A picture of a person", "An image of a person", "A person is shown", "A person is pictured", "Here is a person",
    "This is a picture of a person", "This image shows a person",
)  # fmt: skip
SHOWN = (
    "A person is shown", "A person is pictured", "The picture shows a person", "The image shows a person",
    "This picture shows a person", "A picture of a person", "Someone is shown",
)  # fmt: skip
FACES = ("A face", "The picture shows a face", "The image shows a face", "A picture of a face", "An image of a face")

Pick = Callable[[Sequence[Any]], Any]


def captions(facts: Mapping[str, str], count: int, seed: str) -> list[str]:
    """Up to ``count`` different sentences that state exactly these facts, of one kind; the same ones for a seed.

    Raises KeyError for a fact that has no words, ValueError where there are no facts or facts of two kinds.
    """
    rng = random.Random(seed)  # of it, only random() is promised to give the same in every Python

    def pick(options: Sequence[Any]) -> Any:
        return options[int(rng.random() * len(options))]

    drawn: dict[str, None] = {}
    for _ in range(50 * count):
        if len(drawn) == count:
            break
        if _reads_well(sentence := _sentence(facts, pick)):
            drawn[sentence] = None
    return list(drawn)


def sentences(facts: Mapping[str, str]) -> Iterator[str]:
    """Every sentence that `captions` may draw, each once; raises as it does."""
    given: set[str] = set()
    path: list[list[int]] = []  # of each choice on the way to a sentence: the option taken, and how many there are
    while True:
        depth = 0

        def pick(options: Sequence[Any]) -> Any:
            nonlocal depth
            if depth == len(path):
                path.append([0, len(options)])
            depth += 1
            return options[path[depth - 1][0]]

        sentence = _sentence(facts, pick)
        if sentence not in given and _reads_well(sentence):
            given.add(sentence)
            yield sentence
        while path and path[-1][0] == path[-1][1] - 1:
            path.pop()
        if not path:
            return
        path[-1][0] += 1


def _sentence(facts: Mapping[str, str], pick: Pick) -> str:
    if not facts:
        raise ValueError("no facts to speak of")
    kinds = {KIND[name] for name in facts}
    if len(kinds) > 1:
        raise ValueError(f"facts of different kinds: {', '.join(sorted(facts))}")
    for name, value in facts.items():
        if value not in VALUES[KIND[name]][name]:
            raise KeyError(f"{name}={value}")
    text = {"pose": _pose, "face": _face, "head": _head}[kinds.pop()](facts, pick)
    return f"{text[0].upper()}{text[1:]}."


# What makes a sentence clumsy that is right otherwise: it is not said, others say the same.
_CLUMSY = re.compile(
    r" and .* and | with .* with "
    r"|\b(feet|body|torso|camera|chest|seen|viewed|ground|held|holding|resting|picture|image|keeping|shown)\b.*\b\1\b"
    r"|\b(?:shown|pictured) (?:seen|viewed)|\b(?:lies|lying|upside)\b.*\bhang"
)


def _reads_well(sentence: str) -> bool:
    return not _CLUMSY.search(sentence)


def _pose(facts: Mapping[str, str], pick: Pick) -> str:
    base, lean, view = facts.get("base", ""), facts.get("lean", ""), facts.get("view", "")
    main: list[Verb] = []  # what the person does first of all
    also: list[Verb] = []  # and besides
    nouns: list[str] = []  # and has
    arms = _arms(facts, pick)
    if (base, lean) in BASES_WITH_LEAN and pick((True, False)):
        main.append(pick(BASES_WITH_LEAN[base, lean]))
        lean = ""
    elif base:
        main.append(pick(BASES[base]))
    if "legs_apart" in facts:
        nouns.append(pick(LEGS_APART[facts["legs_apart"]]))
    if lean:
        if pick(("noun", "verb")) == "noun":
            nouns.append(pick(LEANING[lean]))
        else:
            (also if main else main).append(pick(LEANS[lean]))
    if arms and not isinstance(arms[0], str):
        (also if main else main).extend(arms)
    else:
        nouns.extend(arms)
    if not view:
        return _framed(main, also, nouns, pick)
    place = pick(("opening", "after the noun", "shown", "closing", "camera"))
    if place == "camera":
        return _framed(main, also, [pick(TO_CAMERA[view]), *nouns], pick)
    seen_from = pick(SEEN_FROM[view])
    if not (main or also or nouns):
        return f"{pick((*SHOWN, 'A person is seen', 'A person seen', 'Someone seen'))} {seen_from}"
    participle, comma = _participle(main, also, nouns, pick), "," if main else ""
    match place:
        case "opening":
            return f"Seen {seen_from}, {pick(('a person', 'someone'))} {_finite(main, also, nouns, pick)}"
        case "after the noun" if main:
            return f"{pick(('A person', 'Someone'))} seen {seen_from} {_finite(main, also, nouns, pick)}"
        case "closing":
            return f"{pick(SUBJECTS)} {_finite(main, also, nouns, pick)}, seen {seen_from}"
    return f"{pick((*SHOWN, 'A person seen', 'A person is seen'))} {seen_from}{comma} {participle}"


def _arms(facts: Mapping[str, str], pick: Pick) -> list[Any]:
    """Of the arms of which there are facts: verbs, or noun phrases."""
    sides = [side for side in ("left", "right") if f"{side}_arm" in facts]
    values = [facts[f"{side}_arm"] for side in sides]
    if len(sides) == 2 and values[0] == values[1]:
        whose = [pick(("both {}s", "the {}s"))]
        values = values[:1]
    else:
        whose = [f"the {side} {{}}" for side in sides]
        if len(sides) == 2 and pick((False, True)):
            whose, values = whose[::-1], values[::-1]
    verbs = bool(values) and pick((False, True))
    found = []
    for which, value in zip(whose, values, strict=True):
        plural = "s" if which.endswith("s") else ""
        words = {part: which.format(part) for part in ("arm", "hand", "elbow")} | {"s": plural}
        options = [v for v in (ARM_VERBS if verbs else ARMS)[value] if _has_place(v, facts.get("base", ""))]
        phrase = pick(options)
        found.append(Verb(*(p.format(**words) for p in phrase)) if verbs else phrase.format(**words))
    return found


def _has_place(phrase: str | Verb, base: str) -> bool:
    return "the lap" not in str(phrase) or base in WITH_A_LAP


def _face(facts: Mapping[str, str], pick: Pick) -> str:
    rest = dict(facts)
    if neutral := facts.get("mouth") == "relaxed" and facts.get("brows") == "level" and "eyes" in facts:
        rest = {"eyes": facts["eyes"]} if facts["eyes"] != "open" or pick((False, True)) else {}
    form = pick(("nouns", "clauses", "verbs" if any(fact in FACE_VERBS for fact in rest.items()) else "nouns"))
    if form == "clauses":
        clauses = [pick(NEUTRAL_CLAUSES)] if neutral else []
        clauses += [pick(FACE_CLAUSES[fact]) for fact in rest.items()]
        return _joined(clauses)
    banks = {"mouth": MOUTHS, "brows": BROWS, "eyes": EYES}
    nouns = [pick(NEUTRAL)] if neutral else []
    verbs: list[Verb] = []
    for name, value in rest.items():
        if form == "verbs" and (name, value) in FACE_VERBS:
            verbs.append(pick(FACE_VERBS[name, value]))
        else:
            nouns.append(pick(banks[name][value]))
    return _framed(verbs[:1], verbs[1:], nouns, pick, FACES)


def _head(facts: Mapping[str, str], pick: Pick) -> str:
    turn, nod, tilt = (facts.get(name, "") for name in ("turn", "nod", "tilt"))
    picture = pick((" of the picture", " side of the picture", " of the image", " side of the image"))
    main = []
    if turn == "camera" and pick((True, True, False)):
        main = [
            pick((Verb("faces the camera", "facing the camera"), Verb("is facing the camera", "facing the camera")))
        ]
        turn = ""
    states = []
    side = turn.rpartition("_")[2]
    if turn in ("camera", "away"):
        states.append({"camera": "turned to the camera", "away": "turned away from the camera"}[turn])
        side = ""
    elif turn:
        degree = {"far": " far", "slight": pick((" slightly", " a little")), "": ""}[turn.rpartition("_")[0]]
        states.append(f"turned{degree} to the {side}{picture}")
    if nod == "level":
        states.append("level" if tilt == "none" else pick(("neither raised nor bowed", "neither lifted nor lowered")))
    elif nod:
        states.append(pick({"up": ("tipped back", "raised"), "down": ("bowed", "lowered")}[nod]))
    if tilt == "none":
        states.append("upright" if nod not in ("up", "down") else "not tilted")
    elif tilt:
        again = {True: ("the same way",), False: ("the other way", f"to the {tilt}")}[tilt == side]
        states.append(f"tilted {pick(again) if side else f'to the {tilt}{picture}'}")
    nouns = [f"the head {_joined(states)}"] if states else []
    return _framed(main, [], nouns, pick)


def _framed(main: list[Verb], also: list[Verb], nouns: list[str], pick: Pick, things: tuple[str, ...] = ()) -> str:
    """A sentence without its full stop. things: other nouns than a person, of which all this may be said with "with"."""
    form = pick(("finite", "participle"))
    if form == "finite":
        return f"{pick(SUBJECTS)} {_finite(main, also, nouns, pick)}"
    return f"{pick(NOUNS if main or also else NOUNS + things)} {_participle(main, also, nouns, pick)}"


def _finite(main: list[Verb], also: list[Verb], nouns: list[str], pick: Pick) -> str:
    if not main and not also:
        return f"has {_joined(nouns)}"
    return _predicate([v.finite for v in main], [v.participle for v in also], nouns, pick)


def _participle(main: list[Verb], also: list[Verb], nouns: list[str], pick: Pick) -> str:
    if not main and not also:
        return f"with {_joined(nouns)}"
    if not nouns:
        return _joined([v.participle for v in main + also])
    return _predicate([v.participle for v in main], [v.participle for v in also], nouns, pick)


def _predicate(main: list[str], also: list[str], nouns: list[str], pick: Pick) -> str:
    text = _joined(main)
    if nouns:
        absolute = not also and all(noun.startswith(("the ", "both ")) for noun in nouns)  # "sits, both hands up"
        text += f"{pick((' with ', ', ')) if absolute else ' with '}{_joined(nouns)}"
    return f"{text}, {_joined(also)}" if also else text


def _joined(phrases: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    *first, last = phrases
    return f"{', '.join(first)} and {last}" if first else last
