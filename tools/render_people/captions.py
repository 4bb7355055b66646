"""Captions like those beside pictures on the web: fitting ones for rendered scenes, and unrelated ones."""

from __future__ import annotations

import random
from collections.abc import Sequence

PLACE_WORDS = {
    "brick_wall": ("in front of a brick wall", "by a brick wall", "on the street", "against an old brick wall"),
    "park": ("in the park", "outdoors on the grass", "in a green park", "outside among trees"),
    "living_room": ("in the living room", "at home", "in a bright apartment", "indoors"),
    "gym": ("in the gym", "at the sports hall", "in a gymnasium", "in the fitness studio"),
    "beach": ("on the beach", "by the sea", "at the seaside", "on the sand"),
    "plaza": ("in the city", "on the town square", "downtown", "in front of city buildings"),
    "studio": ("in the studio", "on a plain background", "isolated on a plain backdrop", "studio shot"),
}
EMPTY_WORDS = {
    "brick_wall": ("Old brick wall texture with pavement", "Empty street with brick wall background"),
    "park": ("Green park with trees on a sunny day", "Summer landscape, meadow with trees and path"),
    "living_room": (
        "Modern living room interior with sofa and bookshelf",
        "Cozy apartment with wooden floor and window",
    ),
    "gym": ("Empty sports hall with wooden floor and wall bars", "School gymnasium interior"),
    "beach": ("Empty sandy beach and sea under a clear sky", "Beach background with stones and calm water"),
    "plaza": ("City square with office buildings", "Downtown street view, houses and paved plaza"),
    "studio": ("Plain studio backdrop", "Empty photo studio background"),
}
POSE_WORDS = {
    "stand": ("standing", "standing upright with arms at the sides", "standing relaxed"),
    "tpose": ("standing in a T-pose", "with arms stretched out to both sides", "spreading both arms wide"),
    "arms_up": ("with both arms raised", "raising arms in the air", "cheering with arms up"),
    "wave": ("waving hello", "waving with one hand", "raising one hand to greet"),
    "hands_on_hips": ("with hands on hips", "standing with hands on the hips", "posing hands on hips"),
    "point": (
        "pointing to the side",
        "pointing with one arm",
        "showing something to the side with an outstretched arm",
    ),
    "sit": ("sitting on a stool", "sitting", "seated on a wooden box"),
    "squat": ("doing squats", "squatting with arms forward", "in a deep squat"),
    "lunge": ("doing a side lunge", "in warrior yoga pose", "stretching in a wide lunge with arms out"),
    "run": ("running", "jogging", "sprinting"),
    "kick": ("kicking", "doing a high kick", "practising a front kick"),
    "tree": ("in yoga tree pose", "balancing on one leg", "doing yoga on one leg with hands overhead"),
}
EXPRESSION_WORDS = {
    "neutral": ("with a calm face", "with a neutral expression", "looking serious"),
    "smile": ("smiling", "with a happy smile", "smiling broadly"),
    "open_mouth": ("with open mouth", "looking surprised", "shocked with mouth open"),
    "frown": ("frowning", "looking angry", "with an angry frown"),
    "eyes_closed": ("with closed eyes", "eyes closed", "with eyes shut"),
    "pucker": ("with pursed lips", "blowing a kiss", "puckering lips"),
}
DIRECTION_WORDS = {
    "front": ("looking at the camera", "facing the camera"),
    "left": ("looking to the left", "head turned left"),
    "right": ("looking to the right", "head turned right"),
    "up": ("looking up", "with head raised"),
    "down": ("looking down", "with head lowered"),
    "back": ("seen from behind", "from the back, rear view"),
}
NUMBERS = {2: "Two", 3: "Three", 4: "Four", 5: "Five", 6: "Six", 7: "Seven", 8: "Eight", 9: "Nine"}
ENDINGS = ("", "", "", " - stock photo", " | free image", ", 3d render", " illustration", ".", " photo", " stock image")
SUBJECTS = {"female": ("woman", "lady", "person", "someone"), "male": ("man", "guy", "person", "someone")}

PRODUCTS = (
    "leather handbag", "ceramic coffee mug", "wireless keyboard", "garden hose 25 m", "cotton bed linen",
    "LED desk lamp", "stainless steel pan", "wooden picture frame", "phone case", "silver necklace",
    "car tyre 205/55 R16", "toner cartridge", "dog collar", "travel suitcase", "bathroom mirror",
    "kids bicycle 16 inch", "running shoes box", "glass vase", "wall clock", "espresso machine", "cordless drill",
    "notebook A5", "fishing rod", "Christmas baubles", "USB-C cable 2m",
)  # fmt: skip
SHOP = (
    "{} - free shipping",
    "Buy {} online",
    "{} | Best price 2021",
    "New {} in box",
    "{} SKU {}",
    "Sale: {} -{}%",
    "{}, set of {}",
)
DISHES = (
    "chocolate chip cookies", "chicken curry", "tomato soup", "apple pie", "caesar salad", "banana bread",
    "pumpkin risotto", "beef stew", "blueberry muffins", "vegan lasagna", "lemon cheesecake", "potato gratin",
    "fish tacos", "pancakes",
)  # fmt: skip
RECIPES = (
    "Easy {} recipe",
    "Homemade {} with herbs",
    "How to make {} in {} minutes",
    "{} on a white plate",
    "The best {} ever",
)
THINGS = (
    "map of {}", "{} city skyline at night", "Hotel in {}", "flag of {}", "vintage postcard from {}",
    "{} airport terminal", "weather in {}", "old church in {}", "mountain lake near {}", "{} train timetable",
)  # fmt: skip
TOWNS = (
    "Lisbon", "Oslo", "Kyoto", "Nairobi", "Quito", "Cracow", "Hanoi", "Perth", "Tallinn", "Porto", "Sofia",
    "Bergen", "Lima",
)  # fmt: skip
OTHER = (
    "Schwarzer Kater schläft auf dem Sofa", "Ferienhaus an der Ostsee mieten", "Kochbuch für Anfänger",
    "Recette de tarte aux pommes", "Maison à vendre avec jardin", "Voiture d'occasion diesel 2014",
    "Receta de gazpacho andaluz", "Zapatos de piel talla 38", "Casa rural con piscina",
    "Orologio da parete in legno", "Tavolo da giardino", "купить холодильник недорого", "Рецепт борща",
    "カレーライスの作り方", "木製の椅子", "苹果手机壳", "红烧牛肉面", "خريطة المدينة", "وصفة كعك",
    "Fietsen te koop", "Stół drewniany", "Kedi maması 2 kg", "Receita de bolo de cenoura", "Hus til salgs",
    "Vintage stempel set", "Waschmaschine gebraucht",
)  # fmt: skip
MISC = (
    "Excel spreadsheet template for invoices", "Circuit diagram of a power supply",
    "Infographic: sales growth in Q3", "Close-up of a red tulip", "Cat sleeping on a blanket",
    "Two dogs in the snow", "Tropical fish in an aquarium", "Blank wedding invitation card template",
    "Seamless floral pattern vector", "Abstract watercolour background", "Steam locomotive at a station",
    "Red sports car, side view", "Passenger plane in the clouds", "Album cover 1987", "Logo design for a bakery",
    "Snowy mountain at sunrise", "Chess board with pieces", "Macro shot of a bee on a flower",
    "Screenshot of the settings menu", "Floor plan of a two-room flat", "Bar chart of monthly rainfall",
    "Golden retriever puppy",
)  # fmt: skip


def person_phrase(person: dict, rng: random.Random, face: bool) -> str:
    """What one person does, e.g. `waving hello, smiling`; `face`: also expression and head direction."""
    words = [rng.choice(POSE_WORDS[person["pose"]])]
    if person["head_direction"] == "back":
        words.append(rng.choice(DIRECTION_WORDS["back"]))
    elif face:
        words.append(rng.choice(EXPRESSION_WORDS[person["expression"]]))
        if rng.random() < 0.5:
            words.append(rng.choice(DIRECTION_WORDS[person["head_direction"]]))
    return ", ".join(words)


def image_caption(
    people: Sequence[dict], genders: Sequence[str], place: str, rng: random.Random, face: bool = False
) -> str:
    """A fitting caption. `people`: entries of truth.json; `genders`: female or male, in the same order."""
    ending = rng.choice(ENDINGS)
    where = rng.choice(PLACE_WORDS[place])
    if not people:
        return rng.choice(EMPTY_WORDS[place]) + ending
    if len(people) == 1:
        subject = rng.choice(SUBJECTS[genders[0]])
        article = "" if subject == "someone" else rng.choice(("", "A ", "Young " if subject != "person" else "A "))
        text = f"{article}{subject} {person_phrase(people[0], rng, face)} {where}"
        return text[0].upper() + text[1:] + ending
    group = rng.choice(("people", "friends", "people"))
    if len(people) > 3:
        poses = rng.sample(sorted({p["pose"] for p in people}), k=min(3, len({p["pose"] for p in people})))
        doing = ", ".join(rng.choice(POSE_WORDS[pose]) for pose in poses)
        return f"{rng.choice((NUMBERS[len(people)], 'A group of', 'Crowd of'))} {group} {where}: {doing}{ending}"
    doing = "; ".join(f"one {person_phrase(p, rng, face)}" for p in people)
    return f"{NUMBERS[len(people)]} {group} {where}, {doing}{ending}"


def unrelated_caption(rng: random.Random) -> str:
    """A caption that fits no picture of a person: about shop items, recipes, places, or in other languages."""
    number = rng.randint(2, 90)
    text = rng.choice(
        (
            rng.choice(SHOP).format(rng.choice(PRODUCTS), number),
            rng.choice(RECIPES).format(rng.choice(DISHES), number),
            rng.choice(THINGS).format(rng.choice(TOWNS)),
            rng.choice(OTHER),
            rng.choice(MISC),
        )
    )
    return text[0].upper() + text[1:] + rng.choice(("", "", " - stock photo", " | free image", " photo"))
