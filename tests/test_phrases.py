"""The grammar of captions: every sentence is English, states all given facts, and nothing else."""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache

import pytest

from laion_people.language import phrases
from laion_people.language.facts import KIND, VALUES
from laion_people.language.phrases import captions, sentences
from laion_people.language.wordgate import blocked

Facts = Mapping[str, str]

# Words that state a value: small letters, and "the" for "their". Not copied from the grammar's tables.
SAID: dict[str, dict[str, str]] = {
    "base": {
        "standing": r"\bstand(s|ing)\b(?! (upright )?on one)",
        "on_feet": r"on the feet",
        "walking": r"\bwalk|\btak(es|ing) a step",
        "running": r"\brun",
        "moving": r"\bmov|in motion",
        "jumping": r"jump|leap",
        "one_leg": r"on one (leg|foot)",
        "kicking": r"kick",
        "lunging": r"lung",
        "sitting": r"\bsit|seated",
        "squatting": r"squat|crouch",
        "kneeling": r"\bkneel(s|ing)\b(?! (upright )?on one)",
        "one_knee": r"one knee",
        "knees_bent": r"the knees|bent knees",
        "lying": r"\bl(ies|ying)\b",
        "all_fours": r"all fours",
        "riding": r"\brid",
        "climbing": r"climb",
    },
    "legs_apart": {"yes": r"(legs|feet) (wide )?(apart|spread)", "no": r"fairly close together|not far apart"},
    "lean": {
        "upright": r"upright|up straight",
        "forward": r"(lean\w*|bend\w*|bent) forward",
        "backward": r"lean\w* back",
        "sideways": r"lean\w* (sideways|to one side)",
        "horizontal": r"horizontal|parallel",
        "upside_down": r"upside down",
    },
    "view": {
        "front": r"from the front|frontal|(chest|body) (toward|facing) the camera",
        "three_quarter": r"three-quarter|partly away from the camera|at an angle to the camera",
        "side": r"from the side|side view|sideways to|side-on",
        "back": r"from (behind|the rear)|back (turned )?to the camera",
    },
    "mouth": {
        "relaxed": r"relaxed mouth|(mouth|lips)( is| are)? (relaxed|at rest)|neutral|face is at rest|expression is",
        "closed": r"closed mouth|(mouth|lips)( is| are)? (closed|shut)",
        "smiling": r"^(?!.*open.*smil)(?!.*smil\w* (open|with an open)).*smil",
        "smiling_open": r"open.*smil|smil\w* (open|with an open)",
        "open": r"open mouth(?!ed)|mouth( is)? open(?! in)|open(s|ing) the mouth|lips( are)? apart",
        "puckered": r"pucker|pursed|lips (pushed )?forward",
        "turned_down": r"turned down|downturned|turn\w* the corners",
    },
    "brows": {
        "level": r"(level|relaxed) eyebrows|brows( are)? (level|at rest|relaxed)|neutral|face is at rest|expression is",
        "raised": r"(raised|lifted) eyebrows|eyebrows( are)? (raised|up)|(rais|lift)\w* the eyebrows",
        "lowered": r"lower\w* (the )?eyebrows|eyebrows( are)? (lowered|drawn down)|draw\w* the eyebrows down",
    },
    "eyes": {
        "open": r"(?<!-)open eyes|eyes( are)? open(?!ed)|neutral|face is at rest|expression is",
        "closed": r"closed eyes|eyes( are)? (closed|shut)|clos(es|ing) the eyes",
        "one_closed": r"one eye",
        "wide": r"wide-open eyes|eyes( are)? (wide open|opened wide)|eyes wide",
        "narrowed": r"narrow|squint",
    },
    "turn": {
        "far_left": r"turn\w* (the head )?far to(ward)? the left",
        "left": r"turn\w* (the head )?to(ward)? the left",
        "slight_left": r"turn\w* (the head )?(slightly|a little) to(ward)? the left",
        "camera": r"fac(es|ing) (toward )?the camera|turn\w* .*to(ward)? the camera",
        "slight_right": r"turn\w* (the head )?(slightly|a little) to(ward)? the right",
        "right": r"turn\w* (the head )?to(ward)? the right",
        "far_right": r"turn\w* (the head )?far to(ward)? the right",
        "away": r"away from the camera",
    },
    "nod": {
        "up": r"(tip(s|ping)|rais(es|ing)) (it|the head)|tipped back|raised(?! nor)|chin (raised|lifted|up)",
        "level": r"level|neither|without (raising|lifting)",
        "down": r"(?<!nor )(bow|lower)(s|ing|ed)\b|chin (lowered|down)",
    },
    "tilt": {
        "left": r"tilt\w* (it |the head )?(to(ward)? the left|the (same|other) way)",
        "none": r"upright|straight|not tilted|without (a tilt|tilting)",
        "right": r"tilt\w* (it |the head )?(to(ward)? the right|the (same|other) way)",
    },
}
ARM = {  # in the part of a sentence about an arm
    "overhead": r"overhead|(above|over) the head",
    "raised": r"(raised|lifted|up)$|(rais|lift)\w* \w+( \w+)? hands?$",
    "at_head": r"(at|to|near) the head",
    "out": r"to the sides?|sideways",
    "forward": r"forward|out in front$",
    "back": r"(drawn|swung|pulled|arms?) back$",
    "down": r"down|lowered|at the sides?",
    "away": r"away from the",
    "bent": r"bent|bend",
    "on_hip": r"on the hips?$",
    "in_lap": r"lap$|thighs?$",
    "in_front": r"in front of the|held in front",
    "crossed": r"chest",
    "behind_back": r"behind the back",
    "on_ground": r"ground",
    "holding": r"something|an object",
}
ABOUT = {  # words about a fact, for any value
    "base": "|".join(SAID["base"].values()),
    "legs_apart": r"\blegs\b|feet (wide|apart|fairly|not)",
    "lean": "|".join(SAID["lean"].values()) + "|upper body|posture",
    "view": r"camera|seen|view|pictured (from|at)|from (the (front|side|rear)|behind)",
    "mouth": r"mouth|lips|smil|neutral|face is|expression is",
    "brows": r"brow|neutral|face is|expression is",
    "eyes": r"\beyes?\b|squint",
    "turn": r"turn|camera",
    "nod": r"level|neither|rais|lift|lower|bow|chin|tip",
    "tilt": r"tilt|upright|straight",
}
ILL_FORMED = {
    "does not start with a capital, or has more than one": r"^[^A-Z]|.[A-Z]",
    "does not end with its one full stop": r"[^.]$|\..",
    "has marks or spaces where none belong": r"\s\s|\s[,.]|,[.,]|[{}|_/;:]|,(?! )",
    "has a word twice": r"\b(\w+) \1\b",
    "has a wrong article": r"\b[Aa] (?=[aeiou])|\b[Aa]n (?![aeiou])",
    "has a wrong verb of a person": r"([Pp]erson|[Ss]omeone) (are|have|hold|keep|stand|sit|raise)\b|\bis \w+s\b",
    "has a wrong verb of one": r"\b(arm|hand|elbow|face|head|expression|eye|(?<!of the )(?<!of their )mouth) are\b",
    "has a wrong verb of more": r"\b(arms|hands|elbows|eyes|eyebrows|lips|corners of the mouth) is\b",
    "has a chain": r" and .* and |\bwith\b.*\bwith\b",
    "says the place twice": r"\b(picture|image)\b.*\b(picture|image)\b|frame.*frame|camera.*camera",
    "says whose without a person": r"^(?!.*([Pp]erson|[Ss]omeone)).*\btheir\b",
    "speaks of what is not measured": r"\b(look(s|ing)?|gaz\w+|happy|sad|angry|free pose|that hand)\b(?! on)",
}
PLACES = re.compile(r"\b(?:left|right)\b.* of the (?:picture|image|frame)\b")


def facts_alone() -> Iterator[dict[str, str]]:
    return ({name: value} for kind in VALUES for name in VALUES[kind] for value in VALUES[kind][name])


def facts_of_pairs(kind: str) -> Iterator[dict[str, str]]:
    for first, second in itertools.combinations(VALUES[kind], 2):
        for values in itertools.product(VALUES[kind][first], VALUES[kind][second]):
            yield dict(zip((first, second), values, strict=True))


def some_facts(kind: str, count: int, seed: int) -> Iterator[dict[str, str]]:
    """Random sets of three facts or more, if there are enough names."""
    rng = random.Random(seed)
    for _ in range(count):
        names = rng.sample(list(VALUES[kind]), rng.randint(3, len(VALUES[kind])))
        yield {name: rng.choice(VALUES[kind][name]) for name in names}


@pytest.fixture
def few_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same sentences in few frames ("Someone ...", "The picture shows a person ...") and without "their".

    Frames and "their" work the same for all facts; other tests try them.
    """
    for name in ("SUBJECTS", "NOUNS", "SHOWN", "FACES", "SIDES"):
        monkeypatch.setattr(phrases, name, getattr(phrases, name)[:1])
    monkeypatch.setattr(phrases, "_SOMEBODY", re.compile("(?!)"))


def faults(sentence: str, facts: Facts) -> Iterator[str]:
    """What is wrong with a sentence as the caption of a person with these facts."""
    yield from (fault for fault, pattern in ILL_FORMED.items() if _compiled(pattern).search(sentence))
    text = sentence.removesuffix(".").lower().replace("their", "the")
    kind = KIND[next(iter(facts))]
    parts = re.split(r", | and | with ", text) if kind == "pose" else [text]
    yield from faults_of_arms(parts, facts) if kind == "pose" else faults_of_sides(text, facts)
    for name in SAID.keys() & VALUES[kind].keys():
        if name in facts and not any(_found(SAID[name][facts[name]], part) for part in parts):
            yield f"does not say {name}={facts[name]}"
        if name not in facts and any(_found(ABOUT[name], part) for part in parts):
            yield f"speaks of {name}"


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


@cache  # sentences have few different parts
def _found(pattern: str, part: str) -> bool:
    return _compiled(pattern).search(part) is not None


@cache
def _arms_in(part: str) -> list[str]:
    return re.findall(r"\b(left|right|both|(?<!at )(?:the|s)(?= (?:arms|hands|elbows)))\b", part)


def faults_of_arms(parts: list[str], facts: Facts) -> Iterator[str]:
    said: dict[str, str] = {}
    for part, which in [(p, which) for p in parts for which in _arms_in(p)]:
        for side in (which,) if which in ("left", "right") else ("left", "right"):
            if side in said:
                yield f"says twice what the {side} arm does"
            said[side] = part
    for side in ("left", "right"):
        value = facts.get(f"{side}_arm")
        if (value is None) != (side not in said):
            yield f"speaks of the {side} arm" if value is None else f"is silent about the {side} arm"
        elif value and not _found(ARM[value], said[side]):
            yield f"does not say {side}_arm={value}"


def faults_of_sides(text: str, facts: Facts) -> Iterator[str]:
    turn, tilt = facts.get("turn", "").rpartition("_")[2], facts.get("tilt", "")
    sides = {side for side in (turn, tilt) if side in ("left", "right")}
    if sides and not PLACES.search(text):
        yield "does not say whose left or right it is"
    if not sides and re.search(r"\b(left|right)\b", text):
        yield "names a side"
    if way := re.search(r"tilt\w* (?:it |the head )?(?:to(?:ward)? the (left|right)|the (same|other) way)", text):
        tilted = way[1] or (turn if way[2] == "same" else {"left": "right", "right": "left"}[turn])
        if tilted != tilt:
            yield f"tilts the head to the {tilted}"


def all_faults(sets: Iterator[dict[str, str]]) -> dict[str, list[str]]:
    wrong_sentences = {}
    for facts in sets:
        for sentence in sentences(facts):
            if wrong := list(faults(sentence, facts)):
                wrong_sentences[sentence] = wrong
    return wrong_sentences


def test_every_sentence_of_one_fact_is_right() -> None:
    assert all_faults(facts_alone()) == {}


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.usefixtures("few_frames")
def test_every_sentence_of_two_facts_is_right(kind: str) -> None:
    assert all_faults(facts_of_pairs(kind)) == {}


@pytest.mark.parametrize("kind", VALUES)
def test_sentences_of_more_facts_are_right(kind: str) -> None:
    for number, facts in enumerate(some_facts(kind, 600, seed=5)):
        drawn = captions(facts, 5, f"sentence {number}")
        assert {sentence: list(faults(sentence, facts)) for sentence in drawn} == {s: [] for s in drawn}
        assert len(drawn) == 5  # as many as a cluster needs


def test_no_word_is_one_that_the_gate_refuses() -> None:
    everything = {sentence for facts in facts_alone() for sentence in sentences(facts)}
    everything |= {s for kind in VALUES for facts in some_facts(kind, 300, seed=6) for s in captions(facts, 4, "words")}
    words = {word for sentence in everything for word in sentence.split()}
    assert {word: reason for word in words if (reason := blocked(word))} == {}


def test_clip_reads_captions_whole() -> None:
    import include.models.torchvision_cpu  # noqa: F401  (must come before open_clip, which imports torchvision)

    from open_clip.tokenizer import SimpleTokenizer  # isort: skip

    drawn = [s for facts in some_facts("pose", 1_000, seed=7) for s in captions(facts, 4, "length")]
    tokens = SimpleTokenizer().encode(max(drawn, key=len))
    assert max(map(len, drawn)) <= 300
    assert len(tokens) + 2 < 77  # with the start and the end of the text


def test_a_seed_draws_the_same_captions_everywhere() -> None:
    facts = {"mouth": "smiling", "eyes": "closed"}
    assert captions(facts, 3, "face-0007") == [
        "The person's lips are curved into a smile and their eyes are shut.",
        "The image shows someone with a smile and closed eyes.",
        "In the image, the person's mouth is curved into a smile and both eyes are closed.",
    ]
    assert captions(dict(reversed(facts.items())), 4, "face-0007") == captions(facts, 4, "face-0007")
    assert captions(facts, 4, "face-0008") != captions(facts, 4, "face-0007")


@pytest.mark.parametrize(
    "facts",
    [
        {"base": "on_feet", "left_arm": "down", "right_arm": "down"},
        {"base": "on_feet", "lean": "upright", "view": "front"},
        {"mouth": "relaxed", "brows": "level", "eyes": "open"},
        {"mouth": "smiling", "brows": "level", "eyes": "open"},
        {"turn": "camera", "nod": "level", "tilt": "none"},
        {"turn": "slight_left", "nod": "level", "tilt": "none"},
    ],
)
def test_what_is_true_of_many_people_is_said_in_many_ways(facts: dict[str, str]) -> None:
    drawn = Counter(captions(facts, 1, f"cluster {number}")[0] for number in range(1_000))
    assert len(drawn) >= 100
    assert sum(count for _, count in drawn.most_common(10)) <= 200


def test_as_many_captions_as_asked_for_are_drawn_all_different() -> None:
    for facts in facts_alone():
        drawn = captions(facts, 12, "cluster")
        assert len(set(drawn)) == len(drawn) == 12


def test_few_facts_give_fewer_captions_than_asked_for_and_no_doubles() -> None:
    drawn = captions({"lean": "upside_down"}, 60, "cluster")
    assert sorted(drawn) == sorted(sentences({"lean": "upside_down"}))


def test_facts_without_words_are_refused() -> None:
    with pytest.raises(ValueError, match="no facts"):
        captions({}, 5, "")
    with pytest.raises(ValueError, match="different kinds"):
        captions({"mouth": "open", "turn": "left"}, 5, "")
    with pytest.raises(KeyError, match="mouth=yawning"):
        captions({"mouth": "yawning"}, 5, "")
    with pytest.raises(KeyError, match="tail"):
        next(sentences({"tail": "wagging"}))


def test_both_arms_are_one_phrase_and_sides_are_the_persons_own() -> None:
    both = set(sentences({"left_arm": "on_hip", "right_arm": "on_hip"}))
    assert "A person with both hands on their hips." in both
    assert not any("left" in sentence or "right" in sentence for sentence in both)
    assert "A person has their left arm down and their right hand at their head." in set(
        sentences({"left_arm": "down", "right_arm": "at_head"})
    )


def test_a_face_at_rest_is_called_neutral_only_where_all_of_it_is_seen() -> None:
    assert "A person with a neutral expression." in set(
        sentences({"mouth": "relaxed", "brows": "level", "eyes": "open"})
    )
    for part in ({"mouth": "relaxed"}, {"mouth": "relaxed", "eyes": "open"}, {"brows": "level", "eyes": "open"}):
        assert not any("neutral" in sentence for sentence in sentences(part))
