"""English for facts: sentences that say of a pose, a face or a head exactly what the facts say, in many wordings.

The tables hold the words for each value of ``facts.VALUES``; three small grammars (`_pose`, `_face`, `_head`) put them
together. Captions speak of the body only: not of clothes, age, gender, looks or mood, and of the head instead of the
gaze, which is not measured. Arms are the person's own left and right; heads turn and tilt to the left and right of the
picture, and a sentence says this once.

Words are verbs (`Verb`: finite form and participle), noun phrases (after "with" and "has"), or clauses. ``{arm}``,
``{hand}`` and ``{elbow}`` stand for "the left arm", "both hands", ...; ``{s}`` is the plural "s" of words that go with
both. A grammar makes all choices by ``pick``: thus it can be sampled at random, or written out in full.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from laion_people.language.facts import KIND, VALUES

Pick = Callable[[Sequence[Any]], Any]


class Verb(NamedTuple):
    """What the person does: "stands" and "standing", "is on their feet" and "on their feet"."""

    finite: str
    participle: str


class Move(NamedTuple):
    """What a head does, and how it is then held: "tips", "tipping" and "tipped", with "back"."""

    finite: str
    participle: str
    past: str
    where: str = ""

    def verb(self, head: str) -> Verb:
        """The verb with its object, "the head" or "it"."""
        return Verb(*(f"{form} {head} {self.where}".rstrip() for form in (self.finite, self.participle)))

    @property
    def state(self) -> str:
        return f"{self.past} {self.where}".rstrip()


def _verbs(*phrases: str) -> tuple[Verb, ...]:
    """Verbs from "raises|raising {arm}": the two forms, and the words that follow both."""
    split = [(phrase.partition(" ")[0].split("|"), phrase.partition(" ")[1:]) for phrase in phrases]
    return tuple(Verb(finite + "".join(rest), participle + "".join(rest)) for (finite, participle), rest in split)


def _states(*phrases: str) -> tuple[Verb, ...]:
    """Verbs from "on their feet": with and without "is"."""
    return tuple(Verb(f"is {phrase}", phrase) for phrase in phrases)


BASES: dict[str, tuple[Verb, ...]] = {
    "standing": (*_verbs("stands|standing"), Verb("is standing", "standing")),
    "on_feet": _states("on their feet"),
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
    "knees_bent": (*_verbs("keeps|keeping the knees bent"), Verb("has bent knees", "with bent knees")),
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
    ("standing", "forward"): (
        *_verbs("stands|standing bent forward"),
        Verb("stands leaning forward", "leaning forward while standing"),
    ),
    ("sitting", "forward"): (Verb("sits leaning forward", "leaning forward while seated"),),
    ("sitting", "backward"): (Verb("sits leaning back", "leaning back while seated"),),
}
LEANS: dict[str, tuple[Verb, ...]] = {
    "upright": (
        *_verbs("holds|holding the upper body upright", "keeps|keeping the torso upright"),
        Verb("has an upright posture", "with an upright posture"),
    ),
    "forward": _verbs("leans|leaning forward", "bends|bending forward"),
    "backward": _verbs("leans|leaning back", "leans|leaning backward"),
    "sideways": _verbs("leans|leaning to one side", "leans|leaning sideways"),
    "horizontal": _verbs("holds|holding the upper body horizontal", "has|having the torso parallel to the ground"),
    "upside_down": _states("upside down"),
}
LEANING_VERBS = (
    "forward",
    "backward",
    "sideways",
    "upside_down",
)  # a person leans this way, rather than holds the body
LEANING: dict[str, tuple[str, ...]] = {
    "upright": ("the upper body upright", "the torso upright"),
    "forward": ("the upper body leaning forward", "the torso leaning forward", "the upper body bent forward"),
    "backward": ("the upper body leaning back", "the torso leaning back"),
    "sideways": ("the upper body leaning to one side", "the torso leaning to one side"),
    "horizontal": ("the upper body horizontal", "the torso horizontal", "the torso parallel to the ground"),
    "upside_down": ("the body upside down", "the whole body upside down"),
}
LEGS_APART: dict[str, tuple[str, ...]] = {
    "yes": ("the legs apart", "the feet apart", "the legs spread"),
    "no": ("the legs fairly close together", "the feet fairly close together", "the legs not far apart"),
}
SEEN_FROM: dict[str, tuple[str, ...]] = {
    "front": ("from the front", "in frontal view"),
    "three_quarter": ("at a three-quarter angle", "in three-quarter view"),
    "side": ("from the side", "in side view"),
    "back": ("from behind", "from the rear"),
}
TO_CAMERA: dict[str, tuple[str, ...]] = {
    "front": ("the chest toward the camera", "the chest facing the camera", "the body facing the camera"),
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
    "away": ("{arm} held away from the body", "{arm} held away from the hip{s}", "{arm} angled away from the torso"),
    "bent": ("{arm} bent", "{arm} bent at the elbow{s}", "{elbow} bent"),
    "on_hip": ("{hand} on the hip{s}", "{hand} resting on the hip{s}", "{hand} placed on the hip{s}"),
    "in_lap": ("{hand} in the lap", "{hand} resting in the lap", "{hand} on the thigh{s}"),
    "on_thigh": ("{hand} on the thigh{s}", "{hand} resting on the thigh{s}", "{hand} placed on the thigh{s}"),
    "in_front": ("{hand} in front of the body", "{hand} held in front of the torso", "{hand} held in front"),
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
    "away": _verbs("holds|holding {arm} away from the body", "keeps|keeping {arm} away from the hip{s}"),
    "bent": _verbs("bends|bending {arm}", "bends|bending {elbow}", "keeps|keeping {arm} bent"),
    "on_hip": _verbs("rests|resting {hand} on the hip{s}", "keeps|keeping {hand} on the hip{s}"),
    "in_lap": _verbs("rests|resting {hand} in the lap", "rests|resting {hand} on the thigh{s}"),
    "on_thigh": _verbs("rests|resting {hand} on the thigh{s}", "keeps|keeping {hand} on the thigh{s}"),
    "in_front": _verbs("holds|holding {hand} in front of the body", "keeps|keeping {hand} in front of the torso"),
    "crossed": _verbs("folds|folding {arm} across the chest", "crosses|crossing {arm} over the chest"),
    "behind_back": _verbs("holds|holding {hand} behind the back", "keeps|keeping {hand} behind the back"),
    "on_ground": _verbs("rests|resting {hand} on the ground", "puts|putting {hand} on the ground"),
    "holding": _verbs("holds|holding something in {hand}", "holds|holding an object in {hand}"),
}
WITH_A_LAP = ("sitting", "riding", "kneeling", "")  # bases; with others, in_lap is written as on_thigh

MOUTHS: dict[str, tuple[str, ...]] = {
    "relaxed": ("a relaxed mouth", "the mouth relaxed", "the mouth at rest", "the lips at rest"),
    "closed": ("a closed mouth", "the mouth closed", "the lips closed", "the mouth shut"),
    "smiling": ("a smile", "a smile on the face", "the lips curved into a smile"),
    "smiling_open": ("an open-mouthed smile", "the mouth open in a smile"),
    "open": ("an open mouth", "the mouth open", "the lips apart"),
    "puckered": ("puckered lips", "pursed lips", "the lips puckered", "the lips pushed forward"),
    "turned_down": ("the corners of the mouth turned down", "a downturned mouth", "the mouth turned down"),
}
BROWS: dict[str, tuple[str, ...]] = {
    "level": ("relaxed eyebrows", "the eyebrows relaxed", "the eyebrows at rest"),
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
    ("mouth", "smiling_open"): _verbs("smiles|smiling with an open mouth"),
    ("mouth", "open"): _verbs("holds|holding the mouth open", "keeps|keeping the mouth open"),
    ("mouth", "puckered"): _verbs("puckers|puckering the lips", "pushes|pushing the lips forward"),
    ("mouth", "turned_down"): _verbs("turns|turning the corners of the mouth down"),
    ("brows", "raised"): _verbs("raises|raising the eyebrows", "lifts|lifting the eyebrows"),
    ("brows", "lowered"): _verbs("lowers|lowering the eyebrows", "draws|drawing the eyebrows down"),
    ("eyes", "closed"): _verbs("keeps|keeping the eyes closed", "keeps|keeping the eyes shut"),
    ("eyes", "one_closed"): _verbs("closes|closing one eye", "keeps|keeping one eye shut"),
    ("eyes", "wide"): _verbs("opens|opening the eyes wide"),
    ("eyes", "narrowed"): _verbs("narrows|narrowing the eyes", "squints|squinting"),
}
FACE_CLAUSES: dict[tuple[str, str], tuple[str, ...]] = {
    ("mouth", "relaxed"): ("the mouth is relaxed", "the mouth is at rest", "the lips are at rest"),
    ("mouth", "closed"): ("the mouth is closed", "the mouth is shut", "the lips are closed"),
    ("mouth", "smiling"): ("the mouth is curved into a smile", "the lips are curved into a smile"),
    ("mouth", "smiling_open"): ("the mouth is open in a smile", "the mouth is open and smiling"),
    ("mouth", "open"): ("the mouth is open", "the lips are apart"),
    ("mouth", "puckered"): ("the lips are puckered", "the lips are pursed"),
    ("mouth", "turned_down"): ("the corners of the mouth are turned down", "the mouth is turned down"),
    ("brows", "level"): ("the eyebrows are at rest", "the eyebrows are relaxed"),
    ("brows", "raised"): ("the eyebrows are raised", "the eyebrows are up"),
    ("brows", "lowered"): ("the eyebrows are lowered", "the eyebrows are drawn down"),
    ("eyes", "open"): ("the eyes are open", "both eyes are open"),
    ("eyes", "closed"): ("the eyes are closed", "the eyes are shut", "both eyes are closed"),
    ("eyes", "one_closed"): ("one eye is closed", "one eye is shut"),
    ("eyes", "wide"): ("the eyes are wide open", "the eyes are opened wide"),
    ("eyes", "narrowed"): ("the eyes are narrowed", "both eyes are narrowed"),
}
NEUTRAL = (  # relaxed mouth, level brows, open eyes if any
    "a neutral expression", "a neutral facial expression", "a neutral look on the face", "a neutral face",
    "a relaxed, neutral expression", "a relaxed, neutral face",
)  # fmt: skip
NEUTRAL_CLAUSES = (
    "the expression is neutral", "the facial expression is neutral", "the face is at rest",
    "the facial expression is relaxed",
)  # fmt: skip

FACING = (*_verbs("faces|facing the camera", "faces|facing toward the camera"), *_states("facing the camera"))
DEGREES = {"far": ("far ",), "slight": ("slightly ", "a little "), "": ("",)}  # of far_left, slight_left, left
SIDES = (
    "to the {side} of the picture", "to the {side} side of the picture", "toward the {side} of the picture",
    "to the {side} of the image", "toward the {side} side of the image", "to the {side} of the frame",
    "toward the {side} edge of the frame",
)  # fmt: skip
NODS: dict[str, tuple[Move, ...]] = {
    "up": (Move("tips", "tipping", "tipped", "back"), Move("raises", "raising", "raised")),
    "down": (Move("bows", "bowing", "bowed"), Move("lowers", "lowering", "lowered")),
}
TO_THE_CAMERA, AWAY = ("to the camera", "toward the camera"), "away from the camera"
NOT_TILTED = "not tilted to either side"  # "upright" would also claim that the head is not bowed
UNTILTED = _verbs(*(f"{verb} the head without a tilt to either side" for verb in ("holds|holding", "keeps|keeping")))
UPRIGHT = (("level", "upright"), ("upright", "level"), ("held level and upright",))  # level and not tilted
STRAIGHT = (("straight", "level"), ("held straight and level",))  # and not turned
CHIN: dict[str, tuple[str, ...]] = {
    "up": ("the chin raised", "the chin lifted", "the chin up"),
    "level": (
        "the chin neither raised nor lowered",
        "the chin neither up nor down",
        "the chin neither lifted nor lowered",
    ),
    "down": ("the chin lowered", "the chin down"),
}

SUBJECTS = (
    "A person", "Someone", "The person in the picture", "The person in the image", "The person shown here",
    "The person pictured here", "A person in the picture", "Someone in the picture", "In this picture, a person",
    "In this image, a person", "In the picture, someone", "In the image, someone", "Here, a person", "Here, someone",
)  # fmt: skip
NOUNS = (
    "A person", "The picture shows a person", "The image shows a person", "This picture shows a person",
    "This image shows a person", "This picture shows someone", "The image shows someone", "A picture of a person",
    "An image of a person", "A picture of someone", "A person is shown", "A person is pictured", "Here is a person",
    "This is a picture of a person", "This is an image of a person", "Pictured is a person", "Shown here is a person",
)  # fmt: skip
SHOWN = (  # before "from the side"
    "A person is shown", "A person is pictured", "The picture shows a person", "The image shows a person",
    "This picture shows a person", "This image shows a person", "This is a picture of a person",
    "A picture of a person", "An image of a person", "Someone is shown", "A person seen", "A person is seen",
    "Someone seen", "Someone is seen", "In this picture, a person is seen", "Here, a person is seen",
)  # fmt: skip
OPENINGS = ("seen", "viewed", "pictured", "shown")
FACES = ("A face", "The picture shows a face", "The image shows a face", "A picture of a face", "An image of a face")

# If there is a person, "their" may replace "the" before these: "their left arm", but not "from the side".
_SOMEBODY = re.compile("person|someone", re.IGNORECASE)
_BODY = re.compile(
    r"(?<!bent at )\bthe (?=(?:left |right |upper |whole )?(?:arms?|hands?|elbows?|body|torso|head|chest|hips?|lap|"
    r"thighs?|legs|feet|knees|mouth|lips|eyes|eyebrows|face|chin|back)\b)|(?<=\bat )the (?=sides?\b)"
)
_OBJECT = re.compile(r"\b(?:the|both) (?!camera)")  # of a verb; without an object, "sits, both hands raised" reads well
# Correct but clumsy sentences: they are skipped, as other wordings say the same.
_CLUMSY = re.compile(
    r" and .* and | with .* with |(?:\btheir\b.*){4}"
    r"|\b(feet|body|torso|camera|chest|face|ground|seen|shown|shut|forward|keep|rest|lean)(?:s|ing)?\b.*\b\1"
    r"|\bopen(?:s|ing)\b.*\bopen\b|\b(?:held|hold).*\b(?:held|hold)|\b(?:picture|image)\b.*\b(?:picture|image)\b"
    r"|\b(?:shown|pictured) seen|iewed in|\b(?:lies|lying|upside)\b.*\bhang"
    r"|, an upright|keeps? an upright posture(?:,| and)"
)


def captions(facts: Mapping[str, str], count: int, seed: str) -> list[str]:
    """Up to ``count`` different sentences that state exactly these facts, of one kind; the same ones for a seed.

    Raises KeyError for a fact that has no words, ValueError where there are no facts or facts of two kinds.
    """
    rng = random.Random(seed)  # noqa: S311 - the same draws each time; random() stays as it is in every Python

    def pick(options: Sequence[Any]) -> Any:
        return options[int(rng.random() * len(options))]

    drawn: dict[str, None] = {}
    for _ in range(500 + 50 * count):
        if len(drawn) == count:
            break
        if not _CLUMSY.search(sentence := _sentence(facts, pick)):
            drawn[sentence] = None
    return list(drawn)


def sentences(facts: Mapping[str, str]) -> Iterator[str]:
    """Every sentence that `captions` may draw, each once. Raises the same errors."""
    given: set[str] = set()
    path: list[list[int]] = []  # for each choice on the way to a sentence: the option taken, and the number of options
    while True:
        depth = 0

        def pick(options: Sequence[Any]) -> Any:
            nonlocal depth
            if depth == len(path):
                path.append([0, len(options)])
            depth += 1
            return options[path[depth - 1][0]]

        sentence = _sentence(facts, pick)
        if sentence not in given and not _CLUMSY.search(sentence):
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
    kind = kinds.pop()
    for name, value in facts.items():
        if value not in VALUES[kind][name]:
            raise KeyError(f"{name}={value}")
    in_order = {name: facts[name] for name in VALUES[kind] if name in facts}
    text = {"pose": _pose, "face": _face, "head": _head}[kind](in_order, pick)
    if _SOMEBODY.search(text):
        theirs = _BODY.sub("their ", text)
        text = theirs if theirs.count("their ") < 4 else text
    return f"{text[0].upper()}{text[1:]}."


def _pose(facts: Mapping[str, str], pick: Pick) -> str:
    arms = _arms(facts, pick)
    if arms and set(facts) <= {"left_arm", "right_arm"} and pick((True, False, False, False)):
        return _clauses([_fill_arm(pick(ARMS[value]), whose, be=True) for value, whose in arms], pick)
    arms_as = pick(("nouns", "nouns", "verbs")) if arms else ""
    seen = pick(("opening", "subject", "shown", "shown", "closing", "noun", "noun")) if "view" in facts else ""
    if len(facts) == 1 and seen:
        seen = pick(("shown", "noun", "noun"))

    main, also, nouns = _bearing(facts, arms_as, pick)
    if "legs_apart" in facts:
        nouns.append(pick(LEGS_APART[facts["legs_apart"]]))
    if arms_as == "verbs":
        verbs = [Verb(*(_fill_arm(form, whose) for form in pick(ARM_VERBS[value]))) for value, whose in arms]
        main, also = (main, also + verbs) if main else (verbs, [])
    else:
        nouns += [_fill_arm(pick(ARMS[value]), whose) for value, whose in arms]
    has = "has" if arms_as == "nouns" else "keeps"
    if not seen:
        return _framed(main, also, nouns, pick, has=has)
    if seen == "noun":
        return _framed(main, also, [pick(TO_CAMERA[facts["view"]]), *nouns], pick)
    view = pick(SEEN_FROM[facts["view"]])
    if not (main or nouns):
        return f"{pick(SHOWN)} {view}"
    if seen == "shown":
        return f"{pick(SHOWN)} {view}{',' if main else ''} {_participle(main, also, nouns, pick)}"
    does = _finite(main, also, nouns, pick, has)
    if seen == "subject":
        return f"{pick(('a person', 'someone'))} seen {view} {does}"
    if seen == "closing" and len(also) + len(nouns) < 3:
        return f"{pick(SUBJECTS)} {does}, seen {view}"
    return f"{pick(OPENINGS)} {view}, {pick(('a person', 'someone'))} {does}"


def _bearing(facts: Mapping[str, str], arms_as: str, pick: Pick) -> tuple[list[Verb], list[Verb], list[str]]:
    """Base and lean: what the person does, does besides, and has. arms_as: how arms will be expressed."""
    base, lean = facts.get("base", ""), facts.get("lean", "")
    if (base, lean) in BASES_WITH_LEAN and pick((True, False)):
        return [pick(BASES_WITH_LEAN[base, lean])], [], []
    main = [pick(BASES[base])] if base else []
    if not lean:
        return main, [], []
    if not base:
        return [pick(LEANS[lean])], [], []
    if pick((True, False)) or (arms_as == "nouns" and lean not in LEANING_VERBS):
        return main, [], [pick(LEANING[lean])]
    leans = pick(LEANS[lean])
    if arms_as == "nouns":  # "walks, leaning forward, with both arms down"
        return [Verb(*(f"{form}, {leans.participle}," for form in main[0]))], [], []
    return main, [leans], []


def _arms(facts: Mapping[str, str], pick: Pick) -> list[tuple[str, str]]:
    """What the arms do, and which: "the left", "the right", or both if they do the same."""
    hands_on = "in_lap" if facts.get("base", "") in WITH_A_LAP else "on_thigh"
    arms = [
        (hands_on if facts[f"{side}_arm"] == "in_lap" else facts[f"{side}_arm"], f"the {side}")
        for side in ("left", "right")
        if f"{side}_arm" in facts
    ]
    if len(arms) < 2:
        return arms
    if arms[0][0] == arms[1][0]:
        return [(arms[0][0], pick(("both", "the")))]
    return pick((arms, arms[::-1]))


def _fill_arm(phrase: str, whose: str, be: bool = False) -> str:
    """A phrase about arms with its placeholders filled; be: as a clause ("the left arm is raised")."""
    s = "" if whose in ("the left", "the right") else "s"
    verb = (" is" if not s else " are") if be else ""
    return phrase.format(s=s, **{part: f"{whose} {part}{s}{verb}" for part in ("arm", "hand", "elbow")})


def _face(facts: Mapping[str, str], pick: Pick) -> str:
    rest = dict(facts)
    neutral = "eyes" in facts and (facts.get("mouth"), facts.get("brows")) == ("relaxed", "level")
    if neutral:
        rest = {} if facts["eyes"] == "open" and pick((True, False)) else {"eyes": facts["eyes"]}
    verb = "verbs" if any(fact in FACE_VERBS for fact in rest.items()) else "nouns"
    form = pick(("nouns", verb, "nouns", verb, "clauses"))
    if form == "clauses":
        neutral_face = [pick(NEUTRAL_CLAUSES)] if neutral else []
        return _clauses(neutral_face + [pick(FACE_CLAUSES[fact]) for fact in rest.items()], pick)
    nouns = [pick(NEUTRAL)] if neutral else []
    verbs: list[Verb] = []  # one at most
    definite = pick((True, False))  # "the mouth open and the eyes closed", or "an open mouth and closed eyes"
    for name, value in rest.items():
        if form == "verbs" and not verbs and (name, value) in FACE_VERBS:
            verbs.append(pick(FACE_VERBS[name, value]))
        else:
            words = {"mouth": MOUTHS, "brows": BROWS, "eyes": EYES}[name][value]
            nouns.append(pick([noun for noun in words if noun.startswith(("the ", "both ")) == definite] or words))
    return _framed(verbs, [], nouns, pick, things=FACES)


def _head(facts: Mapping[str, str], pick: Pick) -> str:
    turn, nod, tilt = (facts.get(name, "") for name in ("turn", "nod", "tilt"))
    facing = turn == "camera" and pick((True, True, False))
    degree, _, side = turn.rpartition("_") if turn not in ("camera", "away") else ("", "", "")
    moves: list[Move] = []
    if side:
        moves.append(Move("turns", "turning", "turned", pick(DEGREES[degree]) + pick(SIDES).format(side=side)))
    elif turn and not facing:
        moves.append(Move("turns", "turning", "turned", AWAY if turn == "away" else pick(TO_THE_CAMERA)))
    tilted = tilt in ("left", "right")
    if tilted:
        where = ("the same way" if tilt == side else f"to the {tilt}") if side else pick(SIDES).format(side=tilt)
        moves.append(Move("tilts", "tilting", "tilted", where))
    level = nod == "level" and tilt == "none"  # readers assume that a level head is not tilted
    chin = nod == "level" and not level
    if nod in NODS:
        chin = not (tilt == "none" and moves) and pick((False, True))
        if not chin:
            moves.append(pick(NODS[nod]))
    main = [pick(FACING)] if facing else []
    nouns = [pick(CHIN[nod])] if chin else []
    form = pick(["states", *(["verbs"] if moves else []), *([] if facing or chin else ["clauses"])])
    if form == "verbs":
        verbs, keeping = _head_moves(moves, level, tilt, "to either side" if nod else "", pick)
        if keeping or main or (not nouns and pick((True, False))):
            return _framed((main + verbs)[:1], (main + verbs)[1:] + keeping, nouns, pick)
        return _framed(verbs, [], nouns, pick)
    states = [move.state for move in moves]
    if level:  # "straight" also says that the head is not turned
        states += pick(UPRIGHT + STRAIGHT if turn == "camera" else UPRIGHT)
    elif tilt == "none":
        states.append(NOT_TILTED)
    if states == [NOT_TILTED] and form == "states" and not (main or nouns):
        return _framed([pick(UNTILTED)], [], [], pick)
    if form == "clauses":
        return _clauses([f"the head is {_joined(states)}"], pick)
    if states:
        nouns.insert(0, f"the head {_joined(states)}")
    return _framed(
        main, [], nouns, pick, has="has" if chin else pick(("has", "holds") if moves else ("holds", "keeps"))
    )


def _head_moves(
    moves: list[Move], level: bool, tilt: str, either_side: str, pick: Pick
) -> tuple[list[Verb], list[Verb]]:
    """What the head does, and what it doesn't do then; and the position in which it is kept."""
    verbs = [move.verb("it" if i else "the head") for i, move in enumerate(moves)]
    if level:
        return verbs, [Verb("", f"{pick(('keeping', 'holding'))} it level and upright")]
    if tilt == "none":
        without = f"without tilting it {either_side}".rstrip()
        verbs[-1] = Verb(*(f"{form} {without}" for form in verbs[-1]))
    return verbs, []


def _framed(
    main: list[Verb], also: list[Verb], nouns: list[str], pick: Pick, has: str = "has", things: tuple[str, ...] = ()
) -> str:
    """The sentence: a person does this, or "has" the nouns. things: other subjects that can be "with" them."""
    if pick(("finite", "participle")) == "finite":
        return f"{pick(SUBJECTS)} {_finite(main, also, nouns, pick, has)}"
    return f"{pick(NOUNS if main else NOUNS + things)} {_participle(main, also, nouns, pick)}"


def _finite(main: list[Verb], also: list[Verb], nouns: list[str], pick: Pick, has: str) -> str:
    if not main:
        return f"{has} {_joined(nouns)}"
    return _predicate([verb.finite for verb in main], [verb.participle for verb in also], nouns, pick)


def _participle(main: list[Verb], also: list[Verb], nouns: list[str], pick: Pick) -> str:
    if not main:
        return f"with {_joined(nouns)}"
    doing = [verb.participle for verb in main]
    if not nouns and doing[0].partition(" ")[0].endswith("ing"):
        return _joined(doing + [verb.participle for verb in also])
    return _predicate(doing, [verb.participle for verb in also], nouns, pick)


def _predicate(main: list[str], also: list[str], nouns: list[str], pick: Pick) -> str:
    text = _joined(main)
    if nouns and text.endswith(","):
        text += f" with {_joined(nouns)}"
    elif nouns:
        absolute = not also and not _OBJECT.search(text) and all(n.startswith(("the ", "both ")) for n in nouns)
        text += f"{pick((' with ', ', ')) if absolute else ' with '}{_joined(nouns)}"
    return f"{text}, {_joined(also)}" if also else text


def _clauses(clauses: Sequence[str], pick: Pick) -> str:
    text = _joined(clauses)
    if text.startswith("the ") and not text.startswith("the corners"):
        text = f"the person's {text.removeprefix('the ')}"
    return f"{pick(('', 'in this picture, ', 'in the image, '))}{text}"


def _joined(phrases: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"; "not" is joined by "but"."""
    *first, last = phrases
    if first and last.startswith("not "):
        return f"{_joined(first)} but {last}"
    return f"{', '.join(first)} and {last}" if first else last
